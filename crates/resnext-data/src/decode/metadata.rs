//! The orientation that a photo's metadata give, found where Pillow finds it.
//!
//! EXIF may be in JPEG's APP1 segments, in a PNG's `eXIf` chunk or a text named `Raw profile type exif`, in a
//! WebP's `EXIF` chunk, and is the directory itself in TIFF. XMP is used only if EXIF has no orientation.

use super::raster::Orientation;
use super::segments::{SCAN, segments};
use super::tags::Tags;
use super::webp_chunks::{EXIF, XMP, webp_chunks, webp_flags};
use flate2::read::ZlibDecoder;
use image::ImageFormat;
use std::borrow::Cow;
use std::io::Read;

/// The most bytes that a compressed text of a PNG file may unpack to.
const TEXT_LIMIT: u64 = 1 << 20;

/// The orientation of a file; upright if it gives none.
pub fn orientation(bytes: &[u8], format: ImageFormat) -> Orientation {
    let found = match format {
        ImageFormat::Jpeg => of_jpeg(bytes),
        ImageFormat::Png => of_png(bytes),
        ImageFormat::WebP => of_webp(bytes),
        ImageFormat::Tiff => Tags::read(bytes).and_then(|tags| {
            const XMP: u16 = 700;
            tags.orientation().or_else(|| of_xmp(tags.raw(XMP)?))
        }),
        _ => None,
    };
    found.map_or(Orientation::UPRIGHT, Orientation::new)
}

/// A file may continue its EXIF in further segments; a later XMP segment replaces an earlier one.
fn of_jpeg(bytes: &[u8]) -> Option<u64> {
    const APP1: u8 = 0xe1;
    const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
    let (mut exif, mut xmp) = (Vec::new(), None);
    for segment in segments(bytes, 2).take_while(|segment| segment.marker != SCAN) {
        match segment.contents {
            contents if segment.marker == APP1 && contents.starts_with(EXIF_HEADER) => {
                exif.extend_from_slice(&contents[EXIF_HEADER.len()..]);
            }
            contents if segment.marker == APP1 && contents.starts_with(XMP) => {
                xmp = Some(&contents[XMP.len()..])
            }
            _ => {}
        }
    }
    of_exif(&exif).or_else(|| of_xmp(xmp?))
}

/// Chunks after the pixels count, too, and a later one replaces an earlier one of the same name.
fn of_png(bytes: &[u8]) -> Option<u64> {
    let (mut exif, mut profile, mut xmp) = (None, None, None);
    let mut rest = bytes.get(8..)?;
    while let Some((head, after)) = rest.split_at_checked(8) {
        let len = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some(data) = after.get(..len) else { break };
        match &head[4..] {
            b"eXIf" => exif = Some(Cow::Borrowed(data)),
            name @ (b"tEXt" | b"zTXt" | b"iTXt") => match text(name, data) {
                Some((b"Raw profile type exif", value)) => profile = raw_profile(&value),
                Some((b"exif", value)) => exif = Some(value),
                Some((b"XML:com.adobe.xmp", value)) => xmp = Some(value),
                _ => {}
            },
            b"IEND" => break,
            _ => {}
        }
        rest = after.get(len + 4..).unwrap_or_default();
    }
    let exif = exif.map(Cow::into_owned).or(profile);
    exif.and_then(|exif| of_exif(&exif)).or_else(|| of_xmp(&xmp?))
}

/// The name and the value of a text chunk, unpacked.
fn text<'a>(chunk: &[u8], data: &'a [u8]) -> Option<(&'a [u8], Cow<'a, [u8]>)> {
    let (name, value) = split_at_zero(data)?;
    let unpacked = |packed: &[u8]| {
        let mut out = Vec::new();
        let read = ZlibDecoder::new(packed).take(TEXT_LIMIT).read_to_end(&mut out);
        read.ok().map(|_| Cow::Owned(out))
    };
    let value = match chunk {
        b"zTXt" => unpacked(value.get(1..)?)?,
        b"iTXt" => {
            let compressed = *value.first()? != 0;
            let (_language, value) = split_at_zero(value.get(2..)?)?;
            let (_translated, value) = split_at_zero(value)?;
            if compressed { unpacked(value)? } else { Cow::Borrowed(value) }
        }
        _ => Cow::Borrowed(value),
    };
    Some((name, value))
}

fn split_at_zero(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let zero = data.iter().position(|&byte| byte == 0)?;
    Some((&data[..zero], &data[zero + 1..]))
}

/// ImageMagick's way of keeping EXIF in a PNG's text: three lines of heading, then hexadecimal digits.
fn raw_profile(text: &[u8]) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.split(|&byte| byte == b'\n').skip(3).flatten().copied().collect();
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let digits: Vec<u8> = digits.into_iter().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect()
}

/// Only the extended kind has metadata, and only what its flags say that it has.
fn of_webp(bytes: &[u8]) -> Option<u64> {
    let flags = webp_flags(bytes)?;
    let of = |flag: u8, wanted: &[u8; 4]| {
        let found = webp_chunks(bytes).find(|(name, _)| flags & flag != 0 && *name == wanted);
        found.map(|(_, contents)| contents)
    };
    of(EXIF, b"EXIF").and_then(of_exif).or_else(|| of_xmp(of(XMP, b"XMP ")?))
}

const EXIF_HEADER: &[u8] = b"Exif\0\0";

/// The orientation in EXIF data, with or without the header of JPEG's segments, or even with two of it.
fn of_exif(mut exif: &[u8]) -> Option<u64> {
    while let Some(rest) = exif.strip_prefix(EXIF_HEADER) {
        exif = rest;
    }
    Tags::read(exif)?.orientation()
}

/// The orientation in XMP, as an attribute or as an element.
fn of_xmp(xmp: &[u8]) -> Option<u64> {
    const NAME: &[u8] = b"tiff:Orientation";
    let found = xmp.windows(NAME.len()).enumerate().filter(|(_, window)| *window == NAME);
    found.map(|(at, _)| &xmp[at + NAME.len()..]).find_map(|rest| {
        let digit = rest.strip_prefix(b"=\"").or_else(|| rest.strip_prefix(b">"))?.first()?;
        digit.is_ascii_digit().then(|| (digit - b'0') as u64)
    })
}
