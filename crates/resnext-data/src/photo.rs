//! Decoding of photos in the common file formats, with their orientation applied.

use crate::error::{Error, Result};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use std::io::Cursor;
use std::path::Path;

/// The most pixels that a photo may have. A small file can claim any size; no camera exceeds this one.
pub const PIXEL_LIMIT: u64 = 1 << 28;

/// The most bytes of memory that decoding a photo may take.
const MEMORY_LIMIT: u64 = 1 << 30;

/// An RGB image, `u8` per channel, (H, W, 3), with its orientation applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Photo {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Photo {
    /// Reads an image file. The format is recognised by the file's first bytes, not by its name.
    ///
    /// # Errors
    /// [`Error::Photo`] if the file cannot be read, is not an image, is damaged or exceeds [`PIXEL_LIMIT`].
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |reason: String| Error::Photo { path: path.to_path_buf(), reason };
        let bytes = std::fs::read(path).map_err(|e| failed(e.to_string()))?;
        Photo::decode(&bytes).map_err(failed)
    }

    /// Decodes an image: JPEG (grey, YCbCr and CMYK), PNG, GIF, WebP, BMP, TIFF, PNM, ICO or QOI. The EXIF
    /// orientation is applied, grey is repeated in three channels, 16 bits per channel are reduced to 8,
    /// transparent pixels are blended over white, and an animation gives its first frame.
    ///
    /// # Errors
    /// A message, without the file's name, if the bytes are not an image, are damaged or exceed
    /// [`PIXEL_LIMIT`].
    pub fn decode(bytes: &[u8]) -> std::result::Result<Self, String> {
        let mut reader =
            ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| e.to_string())?;
        if reader.format().is_none() {
            return Err("not an image: expected JPEG, PNG, GIF, WebP, BMP, TIFF, PNM, ICO or QOI".into());
        }
        if reader.format() == Some(ImageFormat::Jpeg) && !is_whole_jpeg(bytes) {
            return Err("a JPEG file that is cut short".into());
        }
        let mut limits = Limits::default();
        limits.max_alloc = Some(MEMORY_LIMIT);
        reader.limits(limits);
        let damaged = |error: image::ImageError| match error {
            image::ImageError::Limits(_) => {
                format!("an image above the limit of {PIXEL_LIMIT} pixels or {MEMORY_LIMIT} bytes of memory")
            }
            error => format!("a damaged image, or an unsupported kind: {error}"),
        };
        let mut decoder = reader.into_decoder().map_err(damaged)?;
        let (width, height) = decoder.dimensions();
        let pixels = width as u64 * height as u64;
        if pixels == 0 || pixels > PIXEL_LIMIT || decoder.total_bytes() > MEMORY_LIMIT {
            return Err(format!(
                "{width}×{height} pixels, expected from 1 to {PIXEL_LIMIT} pixels, \
                 and at most {MEMORY_LIMIT} bytes"
            ));
        }
        let orientation = decoder.orientation().map_err(damaged)?;
        let mut image = DynamicImage::from_decoder(decoder).map_err(damaged)?;
        image.apply_orientation(orientation);
        let pixels = match image.color().has_alpha() {
            true => over_white(image.into_rgba8().as_raw()),
            false => image.into_rgb8().into_raw(),
        };
        let (width, height) = if turned(orientation) { (height, width) } else { (width, height) };
        Ok(Photo { width: width as usize, height: height as usize, pixels })
    }

    /// Builds a photo from `pixels`, (H, W, 3). Returns `None` if their number is 0, or not 3·height·width.
    pub fn new(width: usize, height: usize, pixels: Vec<u8>) -> Option<Self> {
        let len = width.checked_mul(height)?.checked_mul(3)?;
        (len > 0 && len == pixels.len()).then_some(Photo { width, height, pixels })
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The pixels, (H, W, 3), in the order red, green, blue.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The pixels, to be changed.
    pub(crate) fn pixels_mut(&mut self) -> &mut [u8] {
        &mut self.pixels
    }

    /// Writes the photo to `path`, in the format of its extension, such as `.png`.
    ///
    /// # Errors
    /// [`Error::Photo`] if the extension is unknown or the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let (width, height) = (self.width as u32, self.height as u32);
        image::save_buffer(path, &self.pixels, width, height, image::ColorType::Rgb8)
            .map_err(|e| Error::Photo { path: path.to_path_buf(), reason: format!("cannot be written: {e}") })
    }
}

/// Whether a JPEG file reaches its end marker. The decoder would fill in the rest of a truncated one with
/// grey. Bytes behind the marker, such as the video of a motion photo, are allowed.
fn is_whole_jpeg(bytes: &[u8]) -> bool {
    const START: u8 = 0xd8;
    const END: u8 = 0xd9;
    const SCAN: u8 = 0xda;
    let mut at = 0;
    while let Some(found) = bytes.get(at..).and_then(|rest| rest.iter().position(|&byte| byte == 0xff)) {
        at += found + 1;
        match bytes.get(at) {
            Some(&END) => return true,
            // Within a scan, 0 escapes the byte 255, and 208 to 215 are restart markers; 255 is padding.
            Some(0 | 1 | 0xd0..=START | 0xff) => {}
            Some(&marker) => {
                let len = bytes.get(at + 1..at + 3).map_or(0, |len| u16::from_be_bytes([len[0], len[1]]));
                // Skip a segment's contents, which may be anything, such as an embedded thumbnail JPEG. A
                // scan's data follows its segment and is searched for the end marker.
                at += if marker == SCAN { 1 } else { 1 + len as usize };
            }
            None => return false,
        }
    }
    false
}

/// Whether an orientation swaps rows and columns.
fn turned(orientation: image::metadata::Orientation) -> bool {
    use image::metadata::Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
}

/// Blends RGBA pixels over white, to RGB.
fn over_white(rgba: &[u8]) -> Vec<u8> {
    let blend = |pixel: &[u8]| {
        let alpha = pixel[3] as u32;
        let over = |c: u8| ((c as u32 * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
        [over(pixel[0]), over(pixel[1]), over(pixel[2])]
    };
    rgba.chunks_exact(4).flat_map(blend).collect()
}
