//! BMP files. `image` reads them strictly; faults that Pillow and browsers tolerate are repaired here first: another
//! number of planes than one, pixels that begin within the palette, a last row that is not filled up, and damaged or
//! upside-down run lengths.

use super::error::PhotoError;
use super::other;
use super::raster::{Budget, RGB, Raster};
use image::ImageFormat;
use std::borrow::Cow;

/// The bytes of a file's header, before that of the bitmap.
pub const FILE_HEADER: usize = 14;

const RLE8: u32 = 1;
const RLE4: u32 = 2;

/// Decodes a file.
///
/// # Errors
/// As those of [`other::decode`].
pub fn decode(bytes: &[u8], budget: Budget) -> Result<Raster, PhotoError> {
    let mended = mended(bytes, budget)?;
    let own = match &mended {
        Cow::Borrowed(_) => 0,
        Cow::Owned(copy) => copy.len(),
    };
    other::decode(&mended, ImageFormat::Bmp, budget.beside(own))
}

/// A little-endian number of two or four bytes.
fn number(bytes: &[u8], at: usize, len: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + len)?;
    Some(bytes.iter().rev().fold(0, |value, &byte| value << 8 | byte as u32))
}

/// The file, or a copy of it in which the faults above are repaired. A header that is cut short stays as it is.
fn mended(bytes: &[u8], budget: Budget) -> Result<Cow<'_, [u8]>, PhotoError> {
    let Some(header) = Header::read(bytes) else { return Ok(Cow::Borrowed(bytes)) };
    let Header { len, width, height, planes, bits, compression, colours, offset } = header;
    budget.check_pixels(width as u64, height.unsigned_abs() as u64)?;
    let palette = FILE_HEADER + len;
    let colours = match colours {
        0 if bits <= 8 => 1 << bits,
        _ => colours.min(256) as usize,
    };
    let behind_palette = palette + 4 * colours;
    let starts_early = bits <= 8 && offset == palette;
    let runs = (compression == RLE8 && bits == 8) || (compression == RLE4 && bits == 4);
    let offset = if starts_early { behind_palette } else { offset };
    // The last row may lack the bytes that fill it up to a multiple of four.
    let row = (width as u64 * bits as u64).div_ceil(8);
    let line = row.next_multiple_of(4);
    let whole = offset as u64 + line * height.unsigned_abs() as u64;
    let lacks = whole.saturating_sub(bytes.len() as u64);
    let unfilled = !runs && lacks > 0 && lacks <= line - row;
    if !(planes != 1 || starts_early || runs || unfilled) {
        return Ok(Cow::Borrowed(bytes));
    }
    if !runs {
        let mut copy = bytes.to_vec();
        if unfilled {
            copy.resize(bytes.len() + lacks as usize, 0);
        }
        put(&mut copy, 10, &(offset as u32).to_le_bytes());
        put(&mut copy, FILE_HEADER + 12, &1u16.to_le_bytes());
        return Ok(Cow::Owned(copy));
    }
    let (columns, rows) = (width as usize, height.unsigned_abs() as usize);
    budget.check(columns as u64, rows as u64, RGB as f64 + 3.0)?;
    let packed = bytes.get(offset..).unwrap_or_default();
    let pixels = unpacked(packed, columns, rows, compression == RLE4)
        .ok_or_else(|| PhotoError::damaged("the BMP file ends within its pixels"))?;
    let line = columns.next_multiple_of(4);
    let mut copy = bytes.get(..behind_palette).unwrap_or(bytes).to_vec();
    copy.resize(behind_palette, 0);
    for (at, value) in [(2, 0), (10, behind_palette as u32), (FILE_HEADER + 16, 0), (FILE_HEADER + 20, 0)] {
        put(&mut copy, at, &value.to_le_bytes());
    }
    put(&mut copy, FILE_HEADER + 12, &[1, 0, 8, 0]);
    put(&mut copy, FILE_HEADER + 32, &(colours as u32).to_le_bytes());
    for row in pixels.chunks_exact(columns) {
        copy.extend_from_slice(row);
        copy.resize(copy.len() + line - columns, 0);
    }
    Ok(Cow::Owned(copy))
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// The fields of a bitmap's header, from `BITMAPINFOHEADER` on.
struct Header {
    len: usize,
    width: u32,
    /// Below 0 if rows come from the top down.
    height: i32,
    planes: u32,
    bits: u32,
    compression: u32,
    colours: u32,
    /// Where the pixels begin.
    offset: usize,
}

impl Header {
    fn read(bytes: &[u8]) -> Option<Self> {
        let field = |at: usize, len: usize| number(bytes, FILE_HEADER + at, len);
        let len = field(0, 4).filter(|len| matches!(len, 40 | 52 | 56 | 108 | 124))? as usize;
        Some(Header {
            len,
            width: field(4, 4).filter(|&width| width <= i32::MAX as u32)?,
            height: field(8, 4)? as i32,
            planes: field(12, 2)?,
            bits: field(14, 2)?,
            compression: field(16, 4)?,
            colours: field(32, 4)?,
            offset: number(bytes, 10, 4)? as usize,
        })
    }
}

/// The indices of run-length coded pixels, row by row as they are stored. Pixels that are skipped, or missing after the
/// mark of the end, have index 0, as in Pillow. `None` if the bytes end before the pixels do.
fn unpacked(bytes: &[u8], columns: usize, rows: usize, four_bits: bool) -> Option<Vec<u8>> {
    let total = columns * rows;
    let mut out = Vec::with_capacity(total);
    let mut at = 0;
    let half = |byte: u8, i: usize| if i & 1 == 0 { byte >> 4 } else { byte & 15 };
    while out.len() < total {
        let (&count, &value) = (bytes.get(at)?, bytes.get(at + 1)?);
        at += 2;
        let (left, in_row) = (total - out.len(), columns - out.len() % columns);
        match (count, value) {
            // The end of a row, which may be full already.
            (0, 0) if in_row < columns => out.resize(out.len() + in_row, 0),
            (0, 0) => {}
            (0, 1) => out.resize(total, 0),
            (0, 2) => {
                let (&right, &up) = (bytes.get(at)?, bytes.get(at + 1)?);
                at += 2;
                out.resize(out.len() + left.min(right as usize + up as usize * columns), 0);
            }
            (0, literal) => {
                let count = (literal as usize).min(left);
                let len = if four_bits { (literal as usize).div_ceil(2) } else { literal as usize };
                let found = bytes.get(at..at + if four_bits { count.div_ceil(2) } else { count })?;
                at += len.next_multiple_of(2);
                match four_bits {
                    true => out.extend((0..count).map(|i| half(found[i / 2], i))),
                    false => out.extend_from_slice(found),
                }
            }
            (count, value) => {
                let count = (count as usize).min(in_row);
                match four_bits {
                    true => out.extend((0..count).map(|i| half(value, i))),
                    false => out.resize(out.len() + count, value),
                }
            }
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_literals_skips_and_ends_are_unpacked() {
        let eight = |bytes: &[u8], columns, rows| unpacked(bytes, columns, rows, false);
        // Two of 7, a literal of three and its padding, the end of the row, one pixel skipped, one of 5, the end.
        let runs = [2, 7, 0, 3, 1, 2, 3, 0, 0, 0, 0, 2, 1, 0, 1, 5, 0, 1, 9, 9];
        assert_eq!(eight(&runs, 6, 2).unwrap(), [7, 7, 1, 2, 3, 0, 0, 5, 0, 0, 0, 0]);
        // Runs end with their row.
        assert_eq!(eight(&[9, 4, 4, 6], 4, 2).unwrap(), [4, 4, 4, 4, 6, 6, 6, 6]);
        assert_eq!(
            unpacked(&[5, 0x12, 0, 3, 0x34, 0x50, 0, 1], 5, 2, true).unwrap(),
            [1, 2, 1, 2, 1, 3, 4, 5, 0, 0]
        );
        for cut in [&[][..], &[4], &[4, 4], &[0, 2, 1], &[0, 8, 1], &[4, 4, 0]] {
            assert_eq!(eight(cut, 4, 2), None, "{cut:?}");
        }
    }
}
