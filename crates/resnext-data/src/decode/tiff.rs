//! TIFF files. The crate `tiff` unpacks strips and tiles; the meaning of their samples is decided here.
//!
//! The crate itself reads grey, RGB and CMYK, panics on tiles in separate planes and refuses the rest. It is
//! therefore shown each plane as a grey image, by a directory of our own in front of the file's strips or tiles.

use super::colour::{Alpha, Colour, Samples};
use super::error::PhotoError;
use super::limits::PIXEL_LIMIT;
use super::raster::{Budget, RGB, Raster};
use super::tags::Tags;
use super::tiff_view::View;
use tiff::TiffError;
use tiff::decoder::{Decoder, Limits};

/// The tags that are read here.
mod tag {
    pub const WIDTH: u16 = 256;
    pub const HEIGHT: u16 = 257;
    pub const BITS: u16 = 258;
    pub const COMPRESSION: u16 = 259;
    pub const PHOTOMETRIC: u16 = 262;
    pub const FILL_ORDER: u16 = 266;
    pub const STRIP_OFFSETS: u16 = 273;
    pub const SAMPLES: u16 = 277;
    pub const ROWS_PER_STRIP: u16 = 278;
    pub const STRIP_LENGTHS: u16 = 279;
    pub const PLANAR: u16 = 284;
    pub const PREDICTOR: u16 = 317;
    pub const COLOUR_MAP: u16 = 320;
    pub const TILE_WIDTH: u16 = 322;
    pub const TILE_HEIGHT: u16 = 323;
    pub const TILE_OFFSETS: u16 = 324;
    pub const TILE_LENGTHS: u16 = 325;
    pub const INK_SET: u16 = 332;
    pub const EXTRA_SAMPLES: u16 = 338;
    pub const SAMPLE_FORMAT: u16 = 339;
    pub const JPEG_TABLES: u16 = 347;
    pub const SUBSAMPLING: u16 = 530;
}

const JPEG: u64 = 7;
const LZW: u64 = 5;
/// The sample format of floating-point numbers.
const IEEE_FLOAT: u64 = 3;

const BLACK: &str = "none of its floating-point samples is above 1: it is black, because 255 is white";

/// What a sample's bits stand for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Unsigned,
    /// A signed integer.
    Signed,
    /// A floating-point number.
    Float,
}

/// The image as its first directory describes it.
struct Description<'a> {
    width: u64,
    height: u64,
    bits: u64,
    format: Format,
    compression: u64,
    predictor: u64,
    reversed_bits: bool,
    /// Whether each sample of a pixel lies in strips or tiles of its own.
    planar: bool,
    samples: Samples,
    /// Pixels per chroma sample, across and down, of samples that are stored in units of so many pixels.
    subsampling: (u64, u64),
    tiled: bool,
    /// Width and height of a strip or tile.
    chunk: (u64, u64),
    offsets: Vec<u64>,
    lengths: Vec<u64>,
    jpeg_tables: Option<&'a [u8]>,
    note: Option<&'static str>,
}

/// Decodes the first image of a TIFF file.
///
/// # Errors
/// [`PhotoError::Unsupported`], which names the kind, for samples other than unsigned integers of 1, 2, 4, 8 or 16
/// bits and grey `i32` and `f32`, and for colours and compressions that are not known; [`PhotoError::Damaged`].
pub fn decode(bytes: &[u8], budget: Budget) -> Result<Raster, PhotoError> {
    let tags = Tags::read(bytes).ok_or_else(|| damaged("has no directory"))?;
    let image = Description::read(&tags, budget)?;
    let samples = image.samples.per_pixel as f64;
    // A strip or tile is in memory once as it was unpacked, and once more with its planes or units put together;
    // a JPEG within it takes another two.
    let copies = if image.compression == JPEG { 4.0 } else { 2.0 };
    let chunk = (image.chunk.0 * image.chunk.1) as f64 / (image.width * image.height) as f64;
    let sample = (image.bits as f64 / 8.0).max(1.0);
    // All strips of the old LZW are unpacked before the first is decoded.
    let unpacked = if image.is_old_lzw(bytes) { samples * sample } else { 0.0 };
    let per_pixel = RGB as f64 + copies * chunk * samples * sample + unpacked;
    budget.check(image.width, image.height, per_pixel)?;
    image.pixels(bytes, &tags, budget)
}

impl<'a> Description<'a> {
    fn read(tags: &Tags<'a>, budget: Budget) -> Result<Self, PhotoError> {
        let number = |tag: u16, default: u64| tags.first(tag).unwrap_or(default);
        let required = |tag: u16, name: &str| {
            tags.first(tag).filter(|&side| side > 0).ok_or_else(|| damaged(format!("gives no {name}")))
        };
        let (width, height) = (required(tag::WIDTH, "width")?, required(tag::HEIGHT, "height")?);
        if width > u32::MAX as u64 || height > u32::MAX as u64 {
            return Err(damaged(format!("claims {width}×{height} pixels")));
        }
        if width.saturating_mul(height) > PIXEL_LIMIT {
            budget.check(width, height, RGB as f64)?;
        }
        let compression = number(tag::COMPRESSION, 1);
        check_compression(compression)?;
        let format = sample_format(tags)?;
        let bits = bits_per_sample(tags, format)?;
        let mut samples = samples(tags, bits, compression)?;
        if format != Format::Unsigned {
            if samples.per_pixel != 1 {
                return Err(refused(format!("with {} samples that are not grey alone", format.name())));
            }
            // As Pillow, which takes 0 for black whatever the file says.
            samples.colour = Colour::Grey { inverted: false };
        }
        // As Pillow: this is most often a scanner's mask, whose uncovered parts hold the picture as well.
        let masked = matches!(samples.colour, Colour::Grey { .. }) && samples.alpha != Alpha::None;
        if masked {
            samples.alpha = Alpha::None;
        }
        let note = masked.then_some("the transparency of a grey TIFF is not applied");
        let planar = number(tag::PLANAR, 1) == 2 && samples.per_pixel > 1;
        if bits < 8 && samples.per_pixel > 1 && !planar {
            return Err(refused(format!("with {} samples of {bits} bits per pixel", samples.per_pixel)));
        }
        let predictor = number(tag::PREDICTOR, 1);
        let fits = match predictor {
            1 => true,
            2 => bits >= 8,
            3 => format == Format::Float,
            _ => false,
        };
        if !fits {
            return Err(refused(format!("with predictor {predictor}")));
        }
        let subsampling = subsampling(tags, &samples, compression)?;
        if subsampling != (1, 1) && (planar || predictor != 1 || bits != 8 || samples.per_pixel != 3) {
            return Err(refused("with subsampled chroma in planes or with a predictor"));
        }
        let tiled = tags.first(tag::TILE_WIDTH).is_some();
        let chunk = match tiled {
            true => (required(tag::TILE_WIDTH, "tile width")?, required(tag::TILE_HEIGHT, "tile height")?),
            false => (width, number(tag::ROWS_PER_STRIP, height).clamp(1, height)),
        };
        if chunk.0.saturating_mul(chunk.1) > 1 << 32 {
            return Err(damaged(format!("claims tiles of {}×{} pixels", chunk.0, chunk.1)));
        }
        // Some writers give tiles under the names of strips.
        let list = |tile: u16, strip: u16| match tiled {
            true => tags.numbers(tile).or_else(|| tags.numbers(strip)),
            false => tags.numbers(strip),
        };
        let offsets = list(tag::TILE_OFFSETS, tag::STRIP_OFFSETS).unwrap_or_default();
        let count = width.div_ceil(chunk.0) * height.div_ceil(chunk.1);
        let planes = if planar { samples.per_pixel as u64 } else { 1 };
        if (offsets.len() as u64) < count * planes {
            let found = offsets.len();
            return Err(damaged(format!("has {found} strips or tiles, expected {}", count * planes)));
        }
        // The length of a single strip without compression may be missing: it is as long as its pixels.
        let whole = (width * samples.per_pixel as u64 * bits).div_ceil(8) * chunk.1;
        let lengths = list(tag::TILE_LENGTHS, tag::STRIP_LENGTHS).unwrap_or_default();
        let lengths = (0..offsets.len()).map(|i| lengths.get(i).copied().unwrap_or(whole)).collect();
        Ok(Description {
            width,
            height,
            bits,
            format,
            compression,
            predictor,
            reversed_bits: number(tag::FILL_ORDER, 1) == 2,
            planar,
            samples,
            subsampling,
            tiled,
            chunk,
            offsets,
            lengths,
            jpeg_tables: tags.raw(tag::JPEG_TABLES),
            note,
        })
    }

    fn pixels(&self, bytes: &[u8], tags: &Tags, budget: Budget) -> Result<Raster, PhotoError> {
        let (width, height) = (self.width as usize, self.height as usize);
        let planes = if self.planar { self.samples.per_pixel } else { 1 };
        let mut decoders = Vec::new();
        for plane in 0..planes {
            let left = usize::try_from(budget.left()).unwrap_or(usize::MAX);
            let mut limits = Limits::default();
            limits.decoding_buffer_size = left;
            limits.intermediate_buffer_size = left;
            limits.ifd_value_size = left;
            let view = self.view(bytes, tags, plane)?;
            decoders.push(Decoder::new(view).map_err(failed)?.with_limits(limits));
        }
        let mut pixels = vec![0; width * height * RGB];
        let across = self.width.div_ceil(self.chunk.0) as usize;
        for index in 0..across * self.height.div_ceil(self.chunk.1) as usize {
            let (left, top) =
                (index % across * self.chunk.0 as usize, index / across * self.chunk.1 as usize);
            let columns = (width - left).min(self.chunk.0 as usize);
            let rows = (height - top).min(self.chunk.1 as usize);
            let chunk = self.chunk(&mut decoders, index as u32, columns, rows)?;
            let line = columns * self.samples.per_pixel;
            for (row, samples) in chunk.chunks_exact(line).take(rows).enumerate() {
                let start = ((top + row) * width + left) * RGB;
                self.samples.to_rgb(samples, &mut pixels[start..start + columns * RGB]);
            }
        }
        // Some programs write values from 0 to 1, which Pillow shows as black without a word.
        let black = self.format == Format::Float && pixels.iter().all(|&sample| sample <= 1);
        let note = if black { Some(BLACK) } else { self.note };
        Ok(Raster { width, height, pixels, note: note.map(String::from) })
    }

    /// A strip's or tile's samples, 8 bits each, (rows, columns, samples).
    fn chunk(
        &self,
        decoders: &mut [Decoder<View>],
        index: u32,
        columns: usize,
        rows: usize,
    ) -> Result<Vec<u8>, PhotoError> {
        let planes = decoders.len();
        let mut joined = Vec::new();
        for (plane, decoder) in decoders.iter_mut().enumerate() {
            let len = decoder.image_chunk_buffer_layout(index).map_err(failed)?.len;
            let mut raw = vec![0; len];
            decoder.read_chunk_bytes(index, &mut raw).map_err(failed)?;
            if self.subsampling != (1, 1) {
                return Ok(self.upsampled(&raw, columns, rows));
            }
            let line = columns * self.samples.per_pixel / planes;
            let samples = self.eight_bits(raw, line);
            if planes == 1 {
                return Ok(samples);
            }
            joined.resize(samples.len() * planes, 0);
            for (to, from) in joined[plane..].iter_mut().step_by(planes).zip(samples) {
                *to = from;
            }
        }
        Ok(joined)
    }

    /// Samples of any depth, in rows of `line` samples that begin with a byte of their own, as 8 bits each. Of 16
    /// bits, the upper 8 are taken; numbers of 32 bits are clipped and rounded towards 0, as by Pillow, and NaN is 0.
    fn eight_bits(&self, raw: Vec<u8>, line: usize) -> Vec<u8> {
        let bits = self.bits as usize;
        match bits {
            8 => raw,
            16 => raw.as_chunks().0.iter().map(|&pair| (u16::from_ne_bytes(pair) >> 8) as u8).collect(),
            32 if self.format == Format::Float => {
                raw.as_chunks().0.iter().map(|&number| f32::from_ne_bytes(number) as u8).collect()
            }
            32 => {
                let clipped = |&number| i32::from_ne_bytes(number).clamp(0, 255) as u8;
                raw.as_chunks().0.iter().map(clipped).collect()
            }
            _ => {
                // An index stays as it is; a grey value is stretched to the whole range.
                let largest = (1u16 << bits) - 1;
                let factor =
                    if matches!(self.samples.colour, Colour::Palette(_)) { 1 } else { 255 / largest };
                let sample = |row: &[u8], i: usize| {
                    let shift = 8 - bits - i * bits % 8;
                    ((row[i * bits / 8] as u16 >> shift & largest) * factor) as u8
                };
                raw.chunks_exact((line * bits).div_ceil(8).max(1))
                    .flat_map(|row| (0..line).map(|i| sample(row, i)).collect::<Vec<_>>())
                    .collect()
            }
        }
    }

    /// The pixels of units that hold several luma samples and one of each chroma.
    fn upsampled(&self, units: &[u8], columns: usize, rows: usize) -> Vec<u8> {
        let (across, down) = (self.subsampling.0 as usize, self.subsampling.1 as usize);
        let unit = across * down + 2;
        let line = (self.chunk.0 as usize).div_ceil(across) * unit;
        let mut out = Vec::with_capacity(columns * rows * 3);
        for y in 0..rows {
            for x in 0..columns {
                let start = y / down * line + x / across * unit;
                let Some(unit) = units.get(start..start + unit) else { return out };
                out.extend([
                    unit[y % down * across + x % across],
                    unit[across * down],
                    unit[across * down + 1],
                ]);
            }
        }
        out
    }

    /// Whether the strips are LZW as it was before TIFF 6, with the bits of codes in the opposite order: the first code
    /// is always the same one.
    fn is_old_lzw(&self, bytes: &[u8]) -> bool {
        let first = self.offsets.first().and_then(|&at| bytes.get(usize::try_from(at).ok()?..));
        self.compression == LZW
            && !self.reversed_bits
            && matches!(first, Some([0, next, ..]) if next & 1 == 1)
    }

    /// One plane's strips or tiles, or all of them if there are no planes, as a file that `tiff` reads as a grey
    /// image of so many samples.
    fn view<'b>(&self, bytes: &'b [u8], tags: &Tags, plane: usize) -> Result<View<'b>, PhotoError> {
        let (down, across) = (self.height.div_ceil(self.chunk.1), self.width.div_ceil(self.chunk.0));
        let count = (down * across) as usize;
        let (mut width, mut height, mut chunk) = (self.width, self.height, self.chunk);
        let mut samples = if self.planar { 1 } else { self.samples.per_pixel as u64 };
        if self.subsampling != (1, 1) {
            let (h, v) = self.subsampling;
            if !self.tiled && down > 1 && chunk.1 % v != 0 {
                return Err(damaged("has strips that end within a chroma sample"));
            }
            chunk = (chunk.0.div_ceil(h) * (h * v + 2), chunk.1.div_ceil(v));
            (width, height, samples) = (across * chunk.0, height.div_ceil(v), 1);
            if self.tiled {
                height = down * chunk.1;
            }
        }
        let mut view = View::new(bytes, tags.little_endian());
        view.numbers(tag::WIDTH, &[width])?;
        view.numbers(tag::HEIGHT, &[height])?;
        view.numbers(tag::BITS, &vec![self.bits; samples as usize])?;
        view.numbers(tag::PHOTOMETRIC, &[1])?;
        if self.format == Format::Float {
            view.numbers(tag::SAMPLE_FORMAT, &[IEEE_FLOAT])?;
        }
        let chunks = plane * count..(plane + 1) * count;
        let mut offsets = self.offsets[chunks.clone()].to_vec();
        let lengths = &self.lengths[chunks];
        let compression = if self.is_old_lzw(bytes) { 1 } else { self.compression };
        view.numbers(tag::COMPRESSION, &[compression])?;
        if self.reversed_bits {
            for (offset, &length) in offsets.iter_mut().zip(lengths) {
                *offset = view.reversed_bits(*offset, length)?;
            }
        }
        let mut lengths = lengths.to_vec();
        if compression != self.compression {
            let line = (chunk.0 * samples * self.bits).div_ceil(8);
            for (i, (offset, length)) in offsets.iter_mut().zip(&mut lengths).enumerate() {
                // The last strip has only the rows that are left; tiles are whole.
                let rows = match self.tiled {
                    true => chunk.1,
                    false => chunk.1.min(height.saturating_sub(i as u64 * chunk.1)),
                };
                let whole = line.saturating_mul(rows);
                *offset = view.old_lzw(*offset, *length, whole)?;
                *length = whole;
            }
        }
        let (at, side, long) = match self.tiled {
            true => (tag::TILE_OFFSETS, tag::TILE_HEIGHT, tag::TILE_LENGTHS),
            false => (tag::STRIP_OFFSETS, tag::ROWS_PER_STRIP, tag::STRIP_LENGTHS),
        };
        view.numbers(at, &offsets)?;
        view.numbers(side, &[chunk.1])?;
        view.numbers(long, &lengths)?;
        if self.tiled {
            view.numbers(tag::TILE_WIDTH, &[chunk.0])?;
        }
        view.numbers(tag::SAMPLES, &[samples])?;
        view.numbers(tag::PREDICTOR, &[self.predictor])?;
        if let Some(tables) = self.jpeg_tables.filter(|_| self.compression == JPEG) {
            view.bytes(tag::JPEG_TABLES, tables)?;
        }
        view.finish()
    }
}

/// Names a compression that `tiff` does not unpack.
fn check_compression(compression: u64) -> Result<(), PhotoError> {
    Err(refused(match compression {
        1 | 4 | 5 | JPEG | 8 | 32773 | 32946 => return Ok(()),
        2 | 3 => "with CCITT group 3 compression".into(),
        6 => "with JPEG compression of the old kind (6)".into(),
        34712 => "with JPEG 2000 compression".into(),
        34887 => "with LERC compression".into(),
        34925 => "with LZMA compression".into(),
        50000 => "with Zstandard compression".into(),
        50001 => "with WebP compression".into(),
        50002 | 52546 => "with JPEG XL compression".into(),
        other => format!("with compression {other}"),
    }))
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Format::Unsigned => "unsigned",
            Format::Signed => "signed",
            Format::Float => "floating-point",
        }
    }
}

/// What the samples' bits stand for, which must be the same for all.
fn sample_format(tags: &Tags) -> Result<Format, PhotoError> {
    let mut found = None;
    for number in tags.numbers(tag::SAMPLE_FORMAT).unwrap_or_default() {
        let format = match number {
            // Of format 4 nothing is known, which is taken for unsigned.
            1 | 4 => Format::Unsigned,
            2 => Format::Signed,
            IEEE_FLOAT => Format::Float,
            5 | 6 => return Err(refused("with complex samples")),
            other => return Err(refused(format!("with samples of format {other}"))),
        };
        if *found.get_or_insert(format) != format {
            return Err(refused("with samples of several formats"));
        }
    }
    Ok(found.unwrap_or(Format::Unsigned))
}

/// The depth of the samples, which must be the same for all.
fn bits_per_sample(tags: &Tags, format: Format) -> Result<u64, PhotoError> {
    let bits = tags.numbers(tag::BITS).unwrap_or_else(|| vec![1]);
    let depths: &[u64] = if format == Format::Unsigned { &[1, 2, 4, 8, 16] } else { &[32] };
    match bits.split_first() {
        None => Err(damaged("gives no bits per sample")),
        Some((&first, others)) if others.iter().all(|&bits| bits == first) && depths.contains(&first) => {
            Ok(first)
        }
        Some((first, others)) if others.iter().all(|bits| bits == first) => Err(refused(match format {
            Format::Unsigned => format!("with {first} bits per sample"),
            _ => format!("with {} samples of {first} bits", format.name()),
        })),
        Some(_) => {
            let all: Vec<String> = bits.iter().take(16).map(u64::to_string).collect();
            Err(refused(format!("with samples of {} bits", all.join(", "))))
        }
    }
}

/// The meaning of the samples.
fn samples(tags: &Tags, bits: u64, compression: u64) -> Result<Samples, PhotoError> {
    let per_pixel = tags.first(tag::SAMPLES).unwrap_or(1) as usize;
    let extra = tags.numbers(tag::EXTRA_SAMPLES).unwrap_or_default();
    // A file without this tag is most often a fax, in which 0 is white.
    let photometric = tags.first(tag::PHOTOMETRIC).unwrap_or(0);
    let colour = match photometric {
        0 | 1 => Colour::Grey { inverted: photometric == 0 },
        2 => Colour::Rgb,
        3 => Colour::Palette(palette(tags, bits)?),
        4 => return Err(refused("that is a transparency mask")),
        5 => match tags.first(tag::INK_SET) {
            None | Some(1) => Colour::Cmyk,
            _ => return Err(refused("with inks other than CMYK")),
        },
        // One sample of YCbCr is luma.
        6 if per_pixel == 1 => Colour::Grey { inverted: false },
        6 => Colour::YCbCr,
        8 => Colour::Lab { signed: true },
        9 => Colour::Lab { signed: false },
        10 => return Err(refused("with ITU Lab colours")),
        32803 | 34892 => return Err(refused("from a camera's sensor (raw or DNG)")),
        32844 | 32845 => return Err(refused("with LogLuv colours")),
        other => return Err(refused(format!("with colours of kind {other}"))),
    };
    if matches!(colour, Colour::Lab { .. } | Colour::YCbCr) && bits != 8 {
        return Err(refused(format!("with Lab or YCbCr of {bits} bits per sample")));
    }
    let own = colour.samples();
    if per_pixel < own || per_pixel > 16 {
        return Err(damaged(format!("has {per_pixel} samples per pixel, expected from {own} to 16")));
    }
    let planar = tags.first(tag::PLANAR) == Some(2);
    if compression == JPEG && !planar && !matches!(per_pixel, 1 | 3 | 4) {
        return Err(refused(format!("with JPEG compression of {per_pixel} samples per pixel")));
    }
    if extra.len() > per_pixel - own {
        let (found, most) = (extra.len(), per_pixel - own);
        return Err(damaged(format!(
            "describes {found} samples beside the colours, expected at most {most}"
        )));
    }
    let alpha = match extra.first() {
        Some(1) => Alpha::Premultiplied,
        Some(2 | 999) => Alpha::Straight,
        Some(_) => Alpha::None,
        // A fourth sample without a description is alpha, as in Pillow.
        None if per_pixel == 4 && photometric == 2 => Alpha::Straight,
        None if per_pixel > own && compression != JPEG => {
            return Err(refused(format!("with {per_pixel} samples per pixel where its colours have {own}")));
        }
        None => Alpha::None,
    };
    Ok(Samples { colour, alpha, per_pixel })
}

/// A palette, whose colours have 16 bits per channel: all reds, then all greens, then all blues.
fn palette(tags: &Tags, bits: u64) -> Result<Vec<[u8; RGB]>, PhotoError> {
    if bits > 8 {
        return Err(refused(format!("with a palette and {bits} bits per sample")));
    }
    let map = tags.numbers(tag::COLOUR_MAP).ok_or_else(|| damaged("has no palette"))?;
    let len = map.len() / RGB;
    // Old writers fill the palette with 8 bits.
    let shift = if map.iter().all(|&value| value < 256) { 0 } else { 8 };
    Ok((0..len).map(|i| std::array::from_fn(|c| (map[c * len + i] >> shift) as u8)).collect())
}

/// Pixels per chroma sample. A JPEG's own decoder upsamples.
fn subsampling(tags: &Tags, samples: &Samples, compression: u64) -> Result<(u64, u64), PhotoError> {
    if !matches!(samples.colour, Colour::YCbCr) || compression == JPEG {
        return Ok((1, 1));
    }
    match tags.numbers(tag::SUBSAMPLING).as_deref() {
        Some(&[across @ (1 | 2 | 4), down @ (1 | 2 | 4)]) => Ok((across, down)),
        None => Ok((2, 2)),
        Some(other) => Err(damaged(format!("has chroma subsampling of {other:?}"))),
    }
}

fn refused(kind: impl std::fmt::Display) -> PhotoError {
    PhotoError::unsupported(format!("a TIFF {kind}"))
}

/// An error of the crate `tiff` while it unpacks a strip or tile.
fn failed(error: TiffError) -> PhotoError {
    match error {
        TiffError::IoError(cause) if cause.kind() == std::io::ErrorKind::UnexpectedEof => {
            damaged("ends within its pixels")
        }
        TiffError::LimitsExceeded => damaged("has strips or tiles that need more memory than the limit"),
        error => damaged(format!("cannot be unpacked: {error}")),
    }
}

fn damaged(what: impl std::fmt::Display) -> PhotoError {
    PhotoError::damaged(format!("the TIFF file {what}"))
}
