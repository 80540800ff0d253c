//! JPEG files, by one of two decoders.
//!
//! All kinds are decoded by libjpeg, which browsers and Pillow use too. The commonest kind, one baseline scan without
//! restart markers, takes `zune-jpeg` about half the time, if nothing about the file is in doubt. What is missing of a
//! damaged file is grey, with a note.
//!
//! Libjpeg also decodes photos of which a smaller picture is enough, because it can leave out the rest while it decodes.

use super::error::PhotoError;
use super::jpeg_header::Header;
use super::libjpeg;
use super::raster::{Budget, RGB, Raster};
use super::segments::{END, SCAN, end_of_only_scan, segments};
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;

/// The most pixels of all scans together. A small file can claim any number of scans, each over all pixels.
const SCANNED_PIXELS: u64 = 1 << 34;

/// Decodes a JPEG file.
///
/// # Errors
/// [`PhotoError::Unsupported`], which names a kind that is not read; [`PhotoError::Damaged`], if nothing of the
/// picture can be decoded; [`PhotoError::Size`].
pub fn decode(bytes: &[u8], budget: Budget) -> Result<Raster, PhotoError> {
    let header = Header::read(bytes)?;
    let Rest { scans, whole, cut } = Rest::read(bytes, header.data);
    if !whole && bytes.len() < header.data + 2 {
        return Err(PhotoError::damaged("the JPEG file ends before its pixels"));
    }
    let components = header.sampling.len();
    let in_parts = header.progressive || header.in_first_scan < components;
    budget.check(
        header.width,
        header.height,
        RGB as f64 + if in_parts { header.coefficient_bytes() } else { 0.0 },
    )?;
    if scans * header.width * header.height > SCANNED_PIXELS {
        return Err(PhotoError::damaged("the JPEG file has more scans than any picture needs"));
    }
    let (width, height) = (header.width as usize, header.height as usize);
    let undoubted = header.is_usual() && header.agreed_colours && !header.restarts && !in_parts;
    let pixels = match undoubted && budget.beside(bytes.len()).has(width * height * RGB) {
        true => with_zune(bytes, &header),
        false => None,
    };
    let (pixels, damaged) = match (pixels, cut) {
        (Some(pixels), _) => (pixels, false),
        (None, None) => libjpeg::decode(bytes, width, height)?,
        // Libjpeg would read tables beyond the file's end, and refuse the file for them.
        (None, Some(cut)) => libjpeg::decode(&[&bytes[..cut], &[0xff, END]].concat(), width, height)?,
    };
    // A progressive file may lack only its last scans, which leaves no gap.
    let cut = !whole && (damaged || header.progressive);
    let note = match (cut, damaged) {
        (true, _) => Some("the JPEG file is cut short: what is missing of the picture is grey or blurred"),
        (false, true) => Some("the JPEG file is damaged: parts of the picture may be wrong"),
        (false, false) => None,
    };
    Ok(Raster { width, height, pixels, note: note.map(String::from) })
}

/// What follows the header of a file's first scan.
struct Rest {
    /// The number of scans, the first included.
    scans: u64,
    /// Whether the end marker is there.
    whole: bool,
    /// Where the segment begins that the file ends within.
    cut: Option<usize>,
}

impl Rest {
    fn read(bytes: &[u8], data: usize) -> Self {
        let start = Rest { scans: 1, whole: false, cut: None };
        segments(bytes, data).fold(start, |rest, segment| Rest {
            scans: rest.scans + u64::from(segment.marker == SCAN),
            whole: rest.whole || segment.marker == END,
            cut: if segment.cut { Some(segment.start) } else { rest.cut },
        })
    }
}

/// Decodes a file of the usual kind to fewer pixels: `choose` is given width and height, and returns the divisor of both
/// (results are rounded up). Returns the picture, the file's width and height, and the divisor; `None` if that is 1, or if
/// the file needs [`decode`].
pub fn decode_reduced(
    bytes: &[u8],
    budget: Budget,
    choose: impl FnOnce((usize, usize)) -> usize,
) -> Option<(Raster, (usize, usize), usize)> {
    let header = Header::read(bytes).ok()?;
    let mut rest = segments(bytes, header.data).map(|segment| segment.marker);
    // One scan, then the end.
    let plain = rest.find(|&marker| marker == END || marker == SCAN) == Some(END);
    if !plain || !header.is_usual() || header.progressive || header.in_first_scan != header.sampling.len() {
        return None;
    }
    budget.check(header.width, header.height, RGB as f64).ok()?;
    let size = (header.width as usize, header.height as usize);
    let by = choose(size);
    if by == 1 {
        return None;
    }
    let (width, height, pixels) = libjpeg::decode_reduced(bytes, size, by)?;
    Some((Raster { width, height, pixels, note: None }, size, by))
}

/// Data that no code of a JPEG begins with, which are all ones.
///
/// Where a file has fewer data than pixels, `zune-jpeg` takes any pixels for the rest and says nothing. With these behind
/// the data, it comes upon a code that does not exist.
const NO_CODE: [u8; 16] = [0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0];

/// The pixels by `zune-jpeg`; `None` if it finds any fault with the file, or there is more in it than one scan.
fn with_zune(bytes: &[u8], header: &Header) -> Option<Vec<u8>> {
    let end = end_of_only_scan(bytes, header.data)?;
    let file = [&bytes[..end], &NO_CODE, &[0xff, END]].concat();
    let grey = header.sampling.len() == 1;
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(u16::MAX as usize)
        .set_max_height(u16::MAX as usize)
        .jpeg_set_out_colorspace(if grey { ColorSpace::Luma } else { ColorSpace::RGB });
    let mut decoder = zune_jpeg::JpegDecoder::new_with_options(ZCursor::new(&file), options);
    decoder.decode_headers().ok()?;
    let count = header.width as usize * header.height as usize;
    let size = decoder.output_buffer_size()?;
    if size != if grey { count } else { count * RGB } {
        return None;
    }
    let mut pixels = vec![0; count * RGB];
    let start = pixels.len() - size;
    decoder.decode_into(&mut pixels[start..]).ok()?;
    if grey {
        for i in 0..count {
            let value = pixels[start + i];
            pixels[i * RGB..][..RGB].fill(value);
        }
    }
    Some(pixels)
}
