//! Decoded pixels, turned upright in place, and the memory that decoding may take.

use super::error::PhotoError;
use super::limits::PIXEL_LIMIT;

/// Bytes per RGB pixel.
pub const RGB: usize = 3;

/// A decoded image, RGB, (H, W, 3), as it lies in the file: not yet turned upright.
pub struct Raster {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// The pixels, row by row.
    pub pixels: Vec<u8>,
    /// The damage of a file whose pixels can be used all the same.
    pub note: Option<String>,
}

/// The memory that decoding one file may take, the file's own bytes included.
#[derive(Clone, Copy)]
pub struct Budget {
    bytes: u64,
    file: u64,
}

impl Budget {
    /// A budget of `bytes` for a file of `file` bytes, which is in memory already.
    pub fn new(bytes: u64, file: usize) -> Self {
        Budget { bytes, file: file as u64 }
    }

    /// Checks the size that a file claims, before anything is allocated: from 1 to [`PIXEL_LIMIT`] pixels,
    /// of which each takes `per_pixel` bytes while the image is decoded.
    ///
    /// # Errors
    /// [`PhotoError::Size`].
    pub fn check(&self, width: u64, height: u64, per_pixel: f64) -> Result<(), PhotoError> {
        let pixels = width.saturating_mul(height);
        let needed = self.file.saturating_add((pixels as f64 * per_pixel) as u64);
        match (1..=PIXEL_LIMIT).contains(&pixels) && needed <= self.bytes {
            true => Ok(()),
            false => Err(PhotoError::Size { width, height, needed, limit: self.bytes }),
        }
    }

    /// Checks the number of pixels alone, where it is not known yet what each will take.
    ///
    /// # Errors
    /// [`PhotoError::Size`].
    pub fn check_pixels(&self, width: u64, height: u64) -> Result<(), PhotoError> {
        match (1..=PIXEL_LIMIT).contains(&width.saturating_mul(height)) {
            true => Ok(()),
            false => self.check(width, height, RGB as f64),
        }
    }

    /// Whether so many bytes are left.
    pub fn has(&self, bytes: usize) -> bool {
        bytes as u64 <= self.left()
    }

    /// The budget beside further `bytes` that are in memory already.
    pub fn beside(&self, bytes: usize) -> Self {
        Budget { file: self.file.saturating_add(bytes as u64), ..*self }
    }

    /// The bytes left beside the file's own.
    pub fn left(&self) -> u64 {
        self.bytes.saturating_sub(self.file)
    }
}

/// How an image has to be turned, as numbered by EXIF: 1 is upright.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orientation(u8);

impl Orientation {
    /// Upright.
    pub const UPRIGHT: Orientation = Orientation(1);

    /// EXIF's number, from 1 to 8; any other is taken as upright, as viewers do.
    pub fn new(number: u64) -> Self {
        if (1..=8).contains(&number) { Orientation(number as u8) } else { Orientation::UPRIGHT }
    }
}

impl Orientation {
    /// Whether turning upright exchanges width and height.
    pub fn transposes(self) -> bool {
        self.0 >= 5
    }

    /// Whether the file's right or lower edge becomes the left one, and whether one of them becomes the upper one.
    pub fn edges(self) -> (bool, bool) {
        (matches!(self.0, 2 | 3 | 6 | 7), matches!(self.0, 3 | 4 | 7 | 8))
    }
}

impl Raster {
    /// Turns the image upright, in place, so that a large photo is never in memory twice.
    pub fn turn(&mut self, orientation: Orientation) {
        let Orientation(number) = orientation;
        if orientation.transposes() {
            transpose(&mut self.pixels, self.width, self.height);
            (self.width, self.height) = (self.height, self.width);
        }
        match number {
            2 | 6 => mirror_rows(&mut self.pixels, self.width),
            3 | 7 => reverse(&mut self.pixels),
            4 | 8 => {
                mirror_rows(&mut self.pixels, self.width);
                reverse(&mut self.pixels);
            }
            _ => {}
        }
    }
}

/// Reverses the order of the pixels, which turns an image by half a turn.
fn reverse(pixels: &mut [u8]) {
    let (pixels, _) = pixels.as_chunks_mut::<RGB>();
    pixels.reverse();
}

/// Mirrors each row of `width` pixels.
fn mirror_rows(pixels: &mut [u8], width: usize) {
    pixels.chunks_exact_mut(RGB * width).for_each(reverse);
}

/// Transposes an image in place: pixel (row, column) moves to (column, row).
///
/// Bands of rows are transposed through a small buffer. The bands then form a matrix whose elements are pieces
/// of columns, each as high as a band; its cycles of moves are followed element by element. Rows below the last
/// whole band are kept aside and put back at the end.
fn transpose(pixels: &mut [u8], width: usize, height: usize) {
    const BUFFER_PIXELS: usize = 1 << 20;
    let band_rows = (BUFFER_PIXELS / width).clamp(1, 64);
    let bands = height / band_rows;
    let banded = bands * band_rows;
    let rest = pixels[banded * width * RGB..].to_vec();
    let piece = band_rows * RGB;
    let mut buffer = vec![0; width * piece];
    for band in pixels[..banded * width * RGB].chunks_exact_mut(width * piece) {
        for (row, line) in band.chunks_exact(width * RGB).enumerate() {
            for (column, pixel) in line.chunks_exact(RGB).enumerate() {
                buffer[column * piece + row * RGB..][..RGB].copy_from_slice(pixel);
            }
        }
        band.copy_from_slice(&buffer);
    }
    transpose_pieces(&mut pixels[..banded * width * RGB], bands, width, piece);
    if rest.is_empty() {
        return;
    }
    // From the last row on, so that no pixel is overwritten before it is moved.
    for column in (0..width).rev() {
        let to = column * height * RGB;
        pixels.copy_within(column * banded * RGB..(column + 1) * banded * RGB, to);
        for (row, line) in rest.chunks_exact(width * RGB).enumerate() {
            pixels[to + (banded + row) * RGB..][..RGB].copy_from_slice(&line[column * RGB..][..RGB]);
        }
    }
}

/// Transposes a matrix of (rows, columns) elements of `piece` bytes each, in place.
fn transpose_pieces(bytes: &mut [u8], rows: usize, columns: usize, piece: usize) {
    if rows < 2 || columns < 2 {
        return;
    }
    let last = rows * columns - 1;
    let mut moved = vec![0u64; last / 64 + 1];
    let mut carried = vec![0; piece];
    for start in 1..last {
        if moved[start / 64] >> (start % 64) & 1 == 1 {
            continue;
        }
        carried.copy_from_slice(&bytes[start * piece..][..piece]);
        let mut at = start;
        loop {
            at = (at as u64 * rows as u64 % last as u64) as usize;
            carried.swap_with_slice(&mut bytes[at * piece..][..piece]);
            moved[at / 64] |= 1 << (at % 64);
            if at == start {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every orientation of images with and without rows below the last band, against the definition.
    #[test]
    fn images_are_turned_as_exif_defines() {
        for (width, height) in [(1, 1), (1, 9), (9, 1), (2, 2), (5, 3), (3, 200), (130, 64), (70, 129)] {
            let pixels: Vec<u8> = (0..width * height * RGB).map(|i| (i * 7 % 251) as u8).collect();
            let pixel = |row: usize, column: usize| &pixels[(row * width + column) * RGB..][..RGB];
            for number in 1..=8 {
                let mut turned = Raster { width, height, pixels: pixels.clone(), note: None };
                turned.turn(Orientation::new(number));
                let swapped = number >= 5;
                assert_eq!(
                    (turned.width, turned.height),
                    if swapped { (height, width) } else { (width, height) }
                );
                for (i, got) in turned.pixels.chunks_exact(RGB).enumerate() {
                    let (y, x) = (i / turned.width, i % turned.width);
                    // Where the row and the column of the file are seen: table 4.6 of EXIF 2.32.
                    let (row, column) = match number {
                        1 => (y, x),
                        2 => (y, width - 1 - x),
                        3 => (height - 1 - y, width - 1 - x),
                        4 => (height - 1 - y, x),
                        5 => (x, y),
                        6 => (height - 1 - x, y),
                        7 => (height - 1 - x, width - 1 - y),
                        _ => (x, width - 1 - y),
                    };
                    assert_eq!(got, pixel(row, column), "{width}×{height}, orientation {number}");
                }
            }
        }
    }

    #[test]
    fn other_numbers_are_upright() {
        assert!([0, 9, 300].iter().all(|&number| Orientation::new(number) == Orientation::UPRIGHT));
    }
}
