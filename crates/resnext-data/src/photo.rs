//! Photos in memory, with the orientation of their file applied.

use crate::decode::error::PhotoError;
use crate::decode::raster::Raster;
use crate::decode::{Reduced, decode, decode_reduced};
use crate::error::{Error, Result};
use std::io::Read;
use std::path::Path;

/// The most bytes of memory that decoding a photo may take, the bytes of its file included: 1 GiB.
pub const MEMORY_LIMIT: u64 = 1 << 30;

/// An RGB image, `u8` per channel, (H, W, 3), with its orientation applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Photo {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
    note: Option<String>,
}

impl Photo {
    /// Reads an image file. The format is recognised by the file's first bytes, not by its name.
    ///
    /// # Errors
    /// [`Error::Photo`] if the file cannot be read, or not be decoded: see [`Photo::decode`].
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |reason: String| Error::Photo { path: path.to_path_buf(), reason };
        let bytes = read(path).map_err(failed)?;
        Photo::decode(&bytes).map_err(|error| failed(error.to_string()))
    }

    /// Decodes an image: JPEG, PNG, GIF, WebP, BMP, TIFF, PNM, ICO or QOI, as `docs/photos.md` describes. The
    /// orientation that EXIF or XMP give is applied, grey is repeated in three channels, of 16 bits per channel
    /// the upper 8 are kept, transparent pixels are blended over white, and an animation gives its first frame.
    ///
    /// # Errors
    /// A [`PhotoError`], whose message does not name the file, if the bytes are not an image, are of a format or
    /// kind that is not read, are damaged, or exceed [`PIXEL_LIMIT`](crate::PIXEL_LIMIT) or [`MEMORY_LIMIT`].
    pub fn decode(bytes: &[u8]) -> std::result::Result<Self, PhotoError> {
        Photo::decode_within(bytes, MEMORY_LIMIT)
    }

    /// Like [`Photo::decode`], within `memory` bytes, those of `bytes` included.
    ///
    /// # Errors
    /// The same as [`Photo::decode`]; [`PhotoError::Size`] says how many bytes are needed.
    pub fn decode_within(bytes: &[u8], memory: u64) -> std::result::Result<Self, PhotoError> {
        decode(bytes, memory).map(Photo::from)
    }

    /// Like [`Photo::decode`], with fewer pixels where that is enough: of a JPEG file without damage, `choose` is called
    /// with the photo's width and height and returns by what to divide its sides, 1, 2, 4 or 8.
    pub(crate) fn decode_reduced(
        bytes: &[u8],
        choose: &mut dyn FnMut((usize, usize)) -> usize,
    ) -> std::result::Result<ReducedPhoto, PhotoError> {
        match decode_reduced(bytes, MEMORY_LIMIT, choose) {
            Some(Reduced { raster, by, left, top }) => {
                Ok(ReducedPhoto { photo: Photo::from(raster), by, left, top })
            }
            None => Ok(ReducedPhoto { photo: Photo::decode(bytes)?, by: 1, left: 0, top: 0 }),
        }
    }

    /// Builds a photo from `pixels`, (H, W, 3). Returns `None` if their number is 0, or not 3·height·width.
    pub fn new(width: usize, height: usize, pixels: Vec<u8>) -> Option<Self> {
        let len = width.checked_mul(height)?.checked_mul(3)?;
        (len > 0 && len == pixels.len()).then_some(Photo { width, height, pixels, note: None })
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

    /// A warning about a damaged file whose pixels could be used all the same, in one line: for example that the lower part
    /// is missing and grey.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Writes the photo to `path`, in the format of its extension, such as `.png`.
    ///
    /// # Errors
    /// [`Error::Photo`] if the extension is unknown or the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        if image::ImageFormat::from_path(path).is_err() {
            let reason = "expected the ending of an image format, such as .png".into();
            return Err(Error::Photo { path: path.to_path_buf(), reason });
        }
        let (width, height) = (self.width as u32, self.height as u32);
        image::save_buffer(path, &self.pixels, width, height, image::ColorType::Rgb8)
            .map_err(|e| Error::Photo { path: path.to_path_buf(), reason: format!("cannot be written: {e}") })
    }
}

impl From<Raster> for Photo {
    fn from(Raster { width, height, pixels, note }: Raster) -> Self {
        Photo { width, height, pixels, note }
    }
}

/// A photo with fewer pixels than its file has, as [`Reduced`] describes it.
pub(crate) struct ReducedPhoto {
    pub photo: Photo,
    pub by: usize,
    pub left: usize,
    pub top: usize,
}

/// The bytes of a file, of which no more are read than a photo may have.
pub(crate) fn read(path: &Path) -> std::result::Result<Vec<u8>, String> {
    let cannot = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or folder".to_string(),
        _ => format!("cannot be read: {error}"),
    };
    let file = std::fs::File::open(path).map_err(cannot)?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err("a folder, expected a photo".into());
    }
    let mut bytes = Vec::new();
    file.take(MEMORY_LIMIT + 1).read_to_end(&mut bytes).map_err(cannot)?;
    match bytes.len() as u64 <= MEMORY_LIMIT {
        true => Ok(bytes),
        false => Err(format!("a file above the limit of {MEMORY_LIMIT} bytes")),
    }
}
