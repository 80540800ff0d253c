//! The formats that `image` reads: GIF, WebP, BMP, PNM and QOI.

use super::colour::{Alpha, Colour, Samples};
use super::error::PhotoError;
use super::raster::{Budget, RGB, Raster};
use image::error::UnsupportedErrorKind;
use image::{ColorType, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};
use std::io::Cursor;

/// Decodes a file; of an animation, the first frame.
///
/// # Errors
/// [`PhotoError::Damaged`], [`PhotoError::Size`], or [`PhotoError::Unsupported`].
pub fn decode(bytes: &[u8], format: ImageFormat, budget: Budget) -> Result<Raster, PhotoError> {
    let mut limits = Limits::default();
    limits.max_alloc = Some(budget.left());
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let failed = |error| failure(error, format);
    let decoder = reader.into_decoder().map_err(failed)?;
    let (width, height) = decoder.dimensions();
    let samples = layout(decoder.color_type())?;
    let channels = samples.per_pixel;
    // Memory of the decoders beside the result.
    let own = match format {
        ImageFormat::Gif => 5.0,
        ImageFormat::WebP => 8.0,
        ImageFormat::Pnm => 2.0 * channels as f64,
        _ => 1.0,
    };
    let bytes_per_channel = decoder.color_type().bytes_per_pixel() as usize / channels;
    let held = (channels * bytes_per_channel).max(RGB);
    budget.check(width as u64, height as u64, held as f64 + own)?;
    let (width, height) = (width as usize, height as usize);
    let mut pixels = vec![0; width * height * held];
    let start = pixels.len() - width * height * channels * bytes_per_channel;
    decoder.read_image(&mut pixels[start..]).map_err(failed)?;
    if bytes_per_channel == 2 {
        upper_bytes(&mut pixels, start, channels.max(RGB) * width * height, channels * width * height);
    }
    samples.to_rgb_in_place(&mut pixels, width * height);
    Ok(Raster { width, height, pixels, note: None })
}

/// Replaces the 16-bit samples from `start` on by their upper bytes, which come to lie at the end of the first
/// `len` bytes.
fn upper_bytes(pixels: &mut Vec<u8>, start: usize, len: usize, samples: usize) {
    for i in 0..samples {
        let pair = [pixels[start + 2 * i], pixels[start + 2 * i + 1]];
        pixels[i] = (u16::from_ne_bytes(pair) >> 8) as u8;
    }
    pixels.truncate(len);
    pixels.copy_within(..samples, len - samples);
}

fn layout(colour: ColorType) -> Result<Samples, PhotoError> {
    let grey = Colour::Grey { inverted: false };
    let (colour, alpha) = match colour {
        ColorType::L8 | ColorType::L16 => (grey, Alpha::None),
        ColorType::La8 | ColorType::La16 => (grey, Alpha::Straight),
        ColorType::Rgb8 | ColorType::Rgb16 => (Colour::Rgb, Alpha::None),
        ColorType::Rgba8 | ColorType::Rgba16 => (Colour::Rgb, Alpha::Straight),
        _ => return Err(PhotoError::unsupported("an image with floating-point samples")),
    };
    let per_pixel = colour.samples() + usize::from(alpha == Alpha::Straight);
    Ok(Samples { colour, alpha, per_pixel })
}

/// The decoders' errors repeat the format and sometimes the cause: only the innermost message is kept.
fn failure(error: ImageError, format: ImageFormat) -> PhotoError {
    use std::error::Error;
    let name = match format {
        ImageFormat::Gif => "GIF",
        ImageFormat::WebP => "WebP",
        ImageFormat::Bmp => "BMP",
        ImageFormat::Pnm => "PNM",
        ImageFormat::Qoi => "QOI",
        _ => "image",
    };
    match &error {
        ImageError::Unsupported(cause) => match cause.kind() {
            UnsupportedErrorKind::GenericFeature(what) => {
                PhotoError::unsupported(format!("a {name} with {what}"))
            }
            _ => PhotoError::unsupported(format!("a {name} of an unusual kind")),
        },
        ImageError::Limits(_) => {
            PhotoError::damaged(format!("the {name} file claims more memory than the limit"))
        }
        ImageError::IoError(cause) if cause.kind() == std::io::ErrorKind::UnexpectedEof => {
            PhotoError::damaged(format!("the {name} file ends early"))
        }
        error => {
            let mut cause: &dyn Error = error;
            while let Some(inner) = cause.source() {
                cause = inner;
            }
            let cause = cause.to_string();
            if ["failed to fill whole buffer", "Unexpected End of File"].iter().any(|end| cause.contains(end))
            {
                return PhotoError::damaged(format!("the {name} file ends early"));
            }
            // This one prints the chunk's name as a list of numbers.
            let cause = cause.split(": [").next().unwrap_or(&cause);
            PhotoError::damaged(format!("the {name} file cannot be decoded: {cause}"))
        }
    }
}
