//! GIF, QOI and WebP files that break their format's rules in ways that viewers tolerate, repaired before they are decoded.

use super::webp_chunks::{FLAGS, webp_chunks, webp_flags};
use std::borrow::Cow;

/// A GIF whose canvas is as large as its first frame reaches. Browsers and Pillow enlarge one that is smaller.
pub fn gif(bytes: &[u8]) -> Cow<'_, [u8]> {
    match enlarged(bytes) {
        None => Cow::Borrowed(bytes),
        Some((width, height)) => {
            let mut copy = bytes.to_vec();
            copy[6..8].copy_from_slice(&width.to_le_bytes());
            copy[8..10].copy_from_slice(&height.to_le_bytes());
            Cow::Owned(copy)
        }
    }
}

/// Width and height of the canvas that the first frame needs, if the file's own is smaller.
fn enlarged(bytes: &[u8]) -> Option<(u16, u16)> {
    const HEADER: usize = 13;
    let number = |at: usize| Some(u16::from_le_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let palette = |flags: u8| if flags & 0x80 == 0 { 0 } else { 6usize << (flags & 7) };
    let mut at = HEADER + palette(*bytes.get(10)?);
    loop {
        match bytes.get(at)? {
            // An extension: blocks with their lengths before them, as far as an empty one.
            0x21 => {
                at += 2;
                while *bytes.get(at)? != 0 {
                    at += 1 + bytes[at] as usize;
                }
                at += 1;
            }
            0x2c => break,
            _ => return None,
        }
    }
    let reach = |from: usize, size: usize| number(from)?.checked_add(number(size)?);
    let (width, height) = (number(6)?, number(8)?);
    let (right, bottom) = (reach(at + 1, at + 5)?, reach(at + 3, at + 7)?);
    (right > width || bottom > height).then_some((width.max(right), height.max(bottom)))
}

/// A QOI with the mark that should be at its end. Files without it are as well read by others.
pub fn qoi(bytes: &[u8]) -> Cow<'_, [u8]> {
    const END: [u8; 8] = [0, 0, 0, 0, 0, 0, 0, 1];
    match bytes.ends_with(&END) {
        true => Cow::Borrowed(bytes),
        false => Cow::Owned([bytes, &END].concat()),
    }
}

/// A WebP whose flags announce no metadata that are missing, for which `image` would refuse it.
pub fn webp(bytes: &[u8]) -> Cow<'_, [u8]> {
    const AT: usize = 20;
    let has = |wanted: &[u8; 4]| webp_chunks(bytes).any(|(name, _)| name == wanted);
    let flags = webp_flags(bytes).unwrap_or(0);
    let missing = FLAGS.iter().filter(|(flag, name)| flags & flag != 0 && !has(name));
    match missing.fold(0, |all, (flag, _)| all | flag) {
        0 => Cow::Borrowed(bytes),
        missing => {
            let mut copy = bytes.to_vec();
            copy[AT] &= !missing;
            Cow::Owned(copy)
        }
    }
}
