//! File formats, recognised by a file's first bytes.

use super::error::PhotoError;
use image::ImageFormat;

/// The formats that are read, for messages.
const READ: &str = "JPEG, PNG, GIF, WebP, BMP, TIFF, PNM, ICO or QOI";

/// The format of a file that is read.
///
/// # Errors
/// [`PhotoError::Unsupported`], with the name of a format that is known but not read; [`PhotoError::NotAnImage`].
pub fn recognise(bytes: &[u8]) -> Result<ImageFormat, PhotoError> {
    if bytes.is_empty() {
        return Err(PhotoError::NotAnImage("the file is empty".into()));
    }
    if let Some(what) = what_is_no_image(bytes) {
        return Err(PhotoError::NotAnImage(what.into()));
    }
    if let Some(name) = name_of_unread(bytes) {
        return Err(PhotoError::unsupported(name));
    }
    // BigTIFF, and TIFF whose version has its bytes swapped.
    if matches!(bytes.get(..4), Some(b"II\x2b\0" | b"MM\0\x2b" | b"II\0\x2a" | b"MM\x2a\0")) {
        return Ok(ImageFormat::Tiff);
    }
    match image::guess_format(bytes) {
        // A second camera's or a smaller picture may follow in the same file; the first is the photo.
        Ok(format) if format.reading_enabled() => Ok(format),
        _ => Err(match name_by_fields(bytes) {
            Some(name) => PhotoError::unsupported(name),
            None => PhotoError::NotAnImage(format!("expected {READ}")),
        }),
    }
}

/// What a download leaves in the place of a photo, and what would be right.
fn what_is_no_image(bytes: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(512)]).to_ascii_lowercase();
    let text = text.trim_start();
    if text.starts_with("<!doctype html") || text.starts_with("<html") {
        Some(
            "the file is a web page, whose address may ask for a login, or be that of a page about the photo",
        )
    } else if text.starts_with("version https://git-lfs") {
        Some("the file is a Git LFS pointer; fetch the photo with `git lfs pull`")
    } else if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"\x1f\x8b") {
        Some("the file is an archive; unpack it first")
    } else {
        None
    }
}

/// The name of a format that is not read, with its article.
fn name_of_unread(bytes: &[u8]) -> Option<&'static str> {
    if bytes.get(4..8) == Some(b"ftyp") {
        return Some(name_of_brand(bytes));
    }
    const STARTS: [(&[u8], &str); 36] = [
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
        (b"\xff\x0a", "a JPEG XL image"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image"),
        (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
        (b"II\xbc\x01", "a JPEG XR image"),
        (b"8BPS", "a Photoshop document"),
        (b"gimp xcf", "a GIMP document"),
        (b"%PDF", "a PDF document"),
        (b"%!PS", "a PostScript document"),
        (b"\xc5\xd0\xd3\xc6", "a PostScript document"),
        (b"<svg", "an SVG drawing"),
        (b"<?xml", "an XML document, such as an SVG drawing"),
        (b"DDS ", "a DirectDraw surface"),
        (b"v/1\x01", "an OpenEXR image"),
        (b"#?RADIANCE", "a Radiance image"),
        (b"farbfeld", "a farbfeld image"),
        (b"FLIF", "a FLIF image"),
        (b"BPG\xfb", "a BPG image"),
        (b"icns", "an Apple icon"),
        (b"Pf\n", "a PFM image"),
        (b"PF\n", "a PFM image"),
        (b"\x28\0\0\0", "a bitmap without its header (DIB)"),
        (b"#define ", "an X bitmap"),
        (b"\x8aMNG", "an MNG animation"),
        (b"\x8bJNG", "a JNG image"),
        (b"\x59\xa6\x6a\x95", "a Sun raster image"),
        (b"\x01\xda\x00", "an SGI image"),
        (b"\x01\xda\x01", "an SGI image"),
        (b"AT&TFORM", "a DjVu document"),
        (b"SIMPLE  =", "a FITS image"),
        (b"FUJIFILMCCD-RAW", "a camera's raw file"),
        (b"IIU\0", "a camera's raw file"),
        (b"IIRO", "a camera's raw file"),
        (b"IIRS", "a camera's raw file"),
        (b"MMOR", "a camera's raw file"),
        (b"FOVb", "a camera's raw file"),
    ];
    let (_, name) = STARTS.iter().find(|(start, _)| bytes.starts_with(start))?;
    Some(name)
}

/// The name of a format without a mark of its own, by several fields of its header that must all be possible.
fn name_by_fields(bytes: &[u8]) -> Option<&'static str> {
    match *bytes.first_chunk::<18>()? {
        [10, 0 | 2..=5, 1, 1 | 2 | 4 | 8, ..] => Some("a PCX image"),
        // With a colour map, or else without the fields of one.
        [_, map @ (0 | 1), 1..=3 | 9..=11, _, _, len, more, entry, .., 8 | 15 | 16 | 24 | 32, _]
            if (map == 0) == ([len, more, entry] == [0; 3]) =>
        {
            Some("a Targa image")
        }
        _ => None,
    }
}

/// The name of a file in the ISO base media format, by its brands.
fn name_of_brand(bytes: &[u8]) -> &'static str {
    let len = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]).clamp(16, 256) as usize;
    let box_bytes = &bytes[..len.min(bytes.len())];
    let brands: Vec<&[u8]> = box_bytes.get(8..).unwrap_or_default().chunks_exact(4).collect();
    let has = |wanted: &[&[u8]]| brands.iter().any(|brand| wanted.contains(brand));
    if has(&[b"avif", b"avis"]) {
        "an AVIF image"
    } else if has(&[b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"]) {
        "a HEIC image"
    } else if has(&[b"crx "]) {
        "a camera's raw file"
    } else {
        "a video"
    }
}

/// The kind of a file by its first bytes, in a few words, for a file that is left out because of its name.
pub fn description(bytes: &[u8]) -> String {
    match recognise(bytes) {
        Ok(format) => {
            let name = format.extensions_str().first().unwrap_or(&"image").to_uppercase();
            format!("holds a {name} image, but does not end as one")
        }
        Err(_) if bytes.is_empty() => "empty".into(),
        Err(_) => name_of_unread(bytes).or_else(|| name_by_fields(bytes)).unwrap_or("not an image").into(),
    }
}
