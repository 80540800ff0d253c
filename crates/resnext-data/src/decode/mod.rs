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

use error::PhotoError;
use guard::caught;
use image::ImageFormat;
use raster::{Budget, Raster};
use std::borrow::Cow;

/// Decodes a file that may have been copied in order to be mended.
fn mended(file: Cow<[u8]>, format: ImageFormat, budget: Budget) -> Result<Raster, PhotoError> {
    let own = if matches!(file, Cow::Owned(_)) { file.len() } else { 0 };
    other::decode(&file, format, budget.beside(own))
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
            ImageFormat::Qoi => mended(lenient::qoi(bytes), format, budget),
            format => other::decode(bytes, format, budget),
        }?;
        raster.turn(metadata::orientation(bytes, format));
        Ok(raster)
    })
    .unwrap_or_else(|panic| Err(PhotoError::Panicked(panic)))
}
