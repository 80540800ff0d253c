//! PNG files, row by row, so that no more than the result and a few rows are in memory.

use super::colour::{Alpha, Colour, Samples};
use super::error::PhotoError;
use super::raster::{Budget, RGB, Raster};
use png::{ColorType, DecodeOptions, Decoder, DecodingError, InterlaceInfo, Limits, Reader, Transformations};
use std::io::Cursor;

/// Decodes a PNG file. A file whose checksums are wrong is decoded with a note, and one without an end marker is
/// whole if its pixels are.
///
/// # Errors
/// [`PhotoError::Damaged`], [`PhotoError::Size`], or [`PhotoError::Unsupported`] for Apple's own kind of PNG.
pub fn decode(bytes: &[u8], budget: Budget) -> Result<Raster, PhotoError> {
    if bytes.get(12..16) == Some(b"CgBI") {
        return Err(PhotoError::unsupported("a PNG of Apple's own kind (CgBI)"));
    }
    match pixels(bytes, budget, false) {
        Err(Failure::Checksum) => {
            let mut raster = pixels(bytes, budget, true)?;
            raster.note = Some(CHECKSUM.into());
            Ok(raster)
        }
        result => Ok(result?),
    }
}

const CHECKSUM: &str = "a checksum in the file is wrong, so pixels may be wrong, too";

enum Failure {
    Checksum,
    Other(PhotoError),
}

impl From<Failure> for PhotoError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Checksum => PhotoError::damaged("a checksum in the PNG file is wrong"),
            Failure::Other(error) => error,
        }
    }
}

impl From<DecodingError> for Failure {
    fn from(error: DecodingError) -> Self {
        let text = match &error {
            DecodingError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                "the PNG file ends within its pixels".into()
            }
            DecodingError::LimitsExceeded => "the PNG file has chunks above the limit of memory".into(),
            error => format!("the PNG file: {error}"),
        };
        match text {
            text if text.starts_with("the PNG file: CRC error") => Failure::Checksum,
            text if text.contains("Corrupt deflate stream") => Failure::Other(PhotoError::damaged(
                "the PNG file's compressed pixels are damaged, or end early",
            )),
            text => Failure::Other(PhotoError::damaged(plain(&text))),
        }
    }
}

impl From<PhotoError> for Failure {
    fn from(error: PhotoError) -> Self {
        Failure::Other(error)
    }
}

/// A message of the decoder, in which a chunk is its name instead of a debug print.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("ChunkType {") {
        let (fields, rest_of_text) = after.split_once('}').unwrap_or((after, ""));
        let name = fields.split_once("type: ").map_or("", |(_, name)| name.split(',').next().unwrap_or(""));
        out += before;
        out += name.trim();
        rest = rest_of_text;
    }
    out + rest.trim_end_matches('.')
}

fn pixels(bytes: &[u8], budget: Budget, ignore_checksums: bool) -> Result<Raster, Failure> {
    let mut options = DecodeOptions::default();
    options.set_ignore_checksums(ignore_checksums);
    options.set_ignore_text_chunk(true);
    options.set_ignore_iccp_chunk(true);
    let mut decoder = Decoder::new_with_options(Cursor::new(bytes), options);
    decoder.set_limits(Limits { bytes: usize::try_from(budget.left()).unwrap_or(usize::MAX) });
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    let info = decoder.read_header_info()?;
    let (width, height, interlaced) = (info.width as u64, info.height as u64, info.interlaced);
    // As decoded: at most four samples of two bytes. The decoder holds a few rows; interlaced rows come in no
    // order, so all of them are held.
    let (most, rows) = (8.0, 4.0 / height.max(1) as f64);
    let per_pixel = if interlaced { 4.0 + most * rows } else { RGB as f64 + most * rows };
    budget.check(width, height, per_pixel)?;
    let mut reader = decoder.read_info()?;
    let samples = layout(reader.output_color_type().0);
    let (width, height) = (width as usize, height as usize);
    let pixels = match interlaced {
        true => interlaced_pixels(&mut reader, &samples, width, height)?,
        false => {
            let mut pixels = vec![0; width * height * RGB];
            for out in pixels.chunks_exact_mut(width * RGB) {
                let row = reader.next_row()?.ok_or_else(|| PhotoError::damaged("rows are missing"))?;
                samples.to_rgb(row.data(), out);
            }
            pixels
        }
    };
    // The last checksum of the pixels' chunks comes after them. Anything else there, or nothing, is no fault.
    let last = reader.next_row().map(|_| ()).map_err(Failure::from);
    let note = matches!(last, Err(Failure::Checksum)).then(|| CHECKSUM.to_string());
    Ok(Raster { width, height, pixels, note })
}

fn layout(colour: ColorType) -> Samples {
    let grey = Colour::Grey { inverted: false };
    let (colour, alpha) = match colour {
        ColorType::Grayscale | ColorType::Indexed => (grey, Alpha::None),
        ColorType::GrayscaleAlpha => (grey, Alpha::Straight),
        ColorType::Rgb => (Colour::Rgb, Alpha::None),
        ColorType::Rgba => (Colour::Rgb, Alpha::Straight),
    };
    let per_pixel = colour.samples() + usize::from(alpha == Alpha::Straight);
    Samples { colour, alpha, per_pixel }
}

/// The pixels of a file whose rows come in seven passes.
fn interlaced_pixels(
    reader: &mut Reader<Cursor<&[u8]>>,
    samples: &Samples,
    width: usize,
    height: usize,
) -> Result<Vec<u8>, Failure> {
    let channels = samples.per_pixel;
    let mut pixels = vec![0; width * height * channels.max(RGB)];
    let start = pixels.len() - width * height * channels;
    // Asking for a row after the last would look for what follows, which a file may lack.
    for _ in 0..adam7_rows(width, height) {
        let row = reader.next_interlaced_row()?.ok_or_else(|| PhotoError::damaged("rows are missing"))?;
        if let InterlaceInfo::Adam7(pass) = row.interlace() {
            let bits = (8 * channels) as u8;
            png::expand_interlaced_row(&mut pixels[start..], width * channels, row.data(), pass, bits);
        }
    }
    samples.to_rgb_in_place(&mut pixels, width * height);
    Ok(pixels)
}

/// The rows of all seven passes together. A pass without columns has no rows.
fn adam7_rows(width: usize, height: usize) -> usize {
    const PASSES: [(usize, usize, usize, usize); 7] =
        [(0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2)];
    let rows = |&(left, _, top, down): &(usize, usize, usize, usize)| {
        if width > left { height.saturating_sub(top).div_ceil(down) } else { 0 }
    };
    PASSES.iter().map(rows).sum()
}
