//! ICO files: pictures of several sizes, each a PNG or a bitmap with a mask.

use super::bmp;
use super::colour::over_white;
use super::error::PhotoError;
use super::png;
use super::raster::{Budget, RGB, Raster};

/// The bytes of the file's header, and those of an entry of its directory.
const HEADER: usize = 6;
const ENTRY: usize = 16;

struct Entry {
    /// Width times height.
    area: u32,
    bits: u32,
    len: usize,
    offset: usize,
}

/// Decodes the largest picture of a file; of several, the one of most bits per pixel.
///
/// # Errors
/// [`PhotoError::Damaged`] if there is no picture, or it lies outside of the file; those of its format.
pub fn decode(bytes: &[u8], budget: Budget) -> Result<Raster, PhotoError> {
    let count = u16::from_le_bytes([byte(bytes, 4), byte(bytes, 5)]) as usize;
    let entries =
        bytes.get(HEADER..).unwrap_or_default().chunks_exact(ENTRY).take(count).map(|entry| Entry {
            area: side(entry[0]) * side(entry[1]),
            bits: u16::from_le_bytes([entry[6], entry[7]]) as u32,
            len: u32::from_le_bytes([entry[8], entry[9], entry[10], entry[11]]) as usize,
            offset: u32::from_le_bytes([entry[12], entry[13], entry[14], entry[15]]) as usize,
        });
    // The first of equal ones.
    let best = entries.reduce(|best, entry| match (entry.area, entry.bits) > (best.area, best.bits) {
        true => entry,
        false => best,
    });
    let best = best.ok_or_else(|| damaged("has no picture"))?;
    let picture = bytes.get(best.offset..).filter(|picture| !picture.is_empty() && best.len > 0);
    let picture = picture.ok_or_else(|| damaged("ends before its picture"))?;
    match picture.starts_with(b"\x89PNG") {
        true => png::decode(picture, budget),
        false => bitmap(picture, budget),
    }
}

/// A side of a picture in the directory, where 0 is 256.
fn side(byte: u8) -> u32 {
    if byte == 0 { 256 } else { byte as u32 }
}

fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

fn damaged(what: &str) -> PhotoError {
    PhotoError::damaged(format!("the ICO file {what}"))
}

/// A bitmap, whose header gives twice its height because a mask of one bit per pixel follows. With 32 bits, the fourth
/// byte of a pixel is alpha, unless it is 0 everywhere.
fn bitmap(picture: &[u8], budget: Budget) -> Result<Raster, PhotoError> {
    let field = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| byte(picture, at + i)));
    let (header, width, height, bits) =
        (field(0) as usize, field(4) as usize, field(8) / 2, field(14) & 0xffff);
    if !(40..=124).contains(&header) || picture.len() < header {
        return Err(damaged("has a picture that is neither PNG nor a bitmap"));
    }
    let colours = match (bits, field(32)) {
        (1..=8, 0) => 1 << bits,
        (_, given) => given.min(256),
    };
    let start = header + 4 * colours as usize;
    let mut file = vec![0; bmp::FILE_HEADER];
    file[..2].copy_from_slice(b"BM");
    file[10..14].copy_from_slice(&((bmp::FILE_HEADER + start) as u32).to_le_bytes());
    file.extend_from_slice(picture);
    file[bmp::FILE_HEADER + 8..bmp::FILE_HEADER + 12].copy_from_slice(&height.to_le_bytes());
    let mut raster = bmp::decode(&file, budget.beside(file.len()))?;
    // Decoding has checked that these are the picture's sizes, and few enough.
    let height = height as usize;
    let line = (width * bits as usize).div_ceil(32) * 4;
    let alpha = |x: usize, row: usize| byte(picture, start + row * line + 4 * x + 3);
    let mask_line = width.div_ceil(32) * 4;
    let mask_start = start + line * height;
    let masked =
        |x: usize, row: usize| byte(picture, mask_start + row * mask_line + x / 8) >> (7 - x % 8) & 1 == 1;
    let has_alpha = bits == 32 && (0..height).any(|row| (0..width).any(|x| alpha(x, row) != 0));
    for (y, out) in raster.pixels.chunks_exact_mut((width * RGB).max(1)).enumerate() {
        let row = height - 1 - y;
        for (x, pixel) in out.as_chunks_mut::<RGB>().0.iter_mut().enumerate() {
            let alpha = match has_alpha {
                true => alpha(x, row),
                false if masked(x, row) => 0,
                false => 255,
            };
            *pixel = pixel.map(|colour| over_white(colour, alpha));
        }
    }
    Ok(raster)
}
