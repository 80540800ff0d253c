//! Photos from the bytes of their files: the format by its first bytes, a decoder for each, and the orientation.

mod bmp;
mod colour;
pub mod error;
pub mod formats;
pub mod guard;
mod ico;
mod jpeg;
mod jpeg_header;
mod lenient;
mod libjpeg;
pub mod limits;
mod metadata;
mod other;
mod png;
pub mod raster;
mod segments;
mod tags;
mod tiff;
mod tiff_view;
mod webp_chunks;

use error::PhotoError;
use guard::caught;
use image::ImageFormat;
use raster::{Budget, Raster};
use std::borrow::Cow;

/// Decodes a file, or a copy of it that was repaired.
fn mended(file: Cow<[u8]>, format: ImageFormat, budget: Budget) -> Result<Raster, PhotoError> {
    let own = if matches!(file, Cow::Owned(_)) { file.len() } else { 0 };
    other::decode(&file, format, budget.beside(own))
}

/// A picture with fewer pixels than its file has.
pub struct Reduced {
    /// The picture, upright.
    pub raster: Raster,
    /// The pixels of the file that each of its pixels covers, in each direction.
    pub by: usize,
    /// The pixels that the first column covers beyond the left edge of the file's picture.
    pub left: usize,
    /// The pixels that the first row covers beyond the upper edge.
    pub top: usize,
}

/// Decodes a JPEG file to fewer pixels, upright. `choose` is called once with width and height of the upright picture and
/// returns by what its sides are divided, rounded up: 1, 2, 4 or 8. `None` for 1, and if the file is of another format, of
/// an unusual kind, damaged or above the limits: [`decode`] then gives all of its pixels, or says what is wrong.
pub fn decode_reduced(
    bytes: &[u8],
    memory: u64,
    choose: &mut dyn FnMut((usize, usize)) -> usize,
) -> Option<Reduced> {
    let reduced = || {
        let format = formats::recognise(bytes).ok().filter(|format| *format == ImageFormat::Jpeg)?;
        let orientation = metadata::orientation(bytes, format);
        let turned =
            |(width, height)| if orientation.transposes() { (height, width) } else { (width, height) };
        let budget = Budget::new(memory, bytes.len());
        let (mut raster, size, by) = jpeg::decode_reduced(bytes, budget, |size| choose(turned(size)))?;
        raster.turn(orientation);
        // The last column and row of the file's picture cover pixels beyond its edge.
        let (width, height) = turned(size);
        let (mirrored, upside_down) = orientation.edges();
        let beyond = |pixels: usize, side: usize, first: bool| if first { pixels * by - side } else { 0 };
        let left = beyond(raster.width, width, mirrored);
        let top = beyond(raster.height, height, upside_down);
        Some(Reduced { raster, by, left, top })
    };
    caught(reduced).ok().flatten()
}

/// Decodes an image within `memory` bytes, those of `bytes` included, and turns it upright.
///
/// # Errors
/// A [`PhotoError`]; a decoder's panic is one, too.
pub fn decode(bytes: &[u8], memory: u64) -> Result<Raster, PhotoError> {
    caught(|| {
        let format = formats::recognise(bytes)?;
        let budget = Budget::new(memory, bytes.len());
        let mut raster = match format {
            ImageFormat::Jpeg => jpeg::decode(bytes, budget),
            ImageFormat::Png => png::decode(bytes, budget),
            ImageFormat::Tiff => tiff::decode(bytes, budget),
            ImageFormat::Bmp => bmp::decode(bytes, budget),
            ImageFormat::Ico => ico::decode(bytes, budget),
            ImageFormat::Gif => mended(lenient::gif(bytes), format, budget),
            ImageFormat::WebP => mended(lenient::webp(bytes), format, budget),
            ImageFormat::Qoi => mended(lenient::qoi(bytes), format, budget),
            format => other::decode(bytes, format, budget),
        }?;
        raster.turn(metadata::orientation(bytes, format));
        Ok(raster)
    })
    .unwrap_or_else(|panic| Err(PhotoError::Panicked(panic)))
}
