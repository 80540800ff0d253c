//! The segments of a JPEG file.

/// A segment's marker, its contents without the length, and where in the file it ends.
pub struct Segment<'a> {
    /// The byte after 255.
    pub marker: u8,
    /// The contents, which a file that is cut short may lack the end of.
    pub contents: &'a [u8],
    /// The position after the segment.
    pub end: usize,
}

/// Start of scan.
pub const SCAN: u8 = 0xda;
/// End of image.
pub const END: u8 = 0xd9;

/// The segments from byte `at` on, as far as the end marker or the end of the file. Bytes between segments, such
/// as a scan's data, are passed over.
pub fn segments(bytes: &[u8], mut at: usize) -> impl Iterator<Item = Segment<'_>> {
    std::iter::from_fn(move || {
        loop {
            at += bytes.get(at..)?.iter().position(|&byte| byte == 0xff)? + 1;
            let marker = *bytes.get(at)?;
            match marker {
                // Within a scan, 0 escapes the byte 255, and 208 to 215 are restart markers; 255 is padding.
                0xff => continue,
                0 | 1 | 0xd0..=0xd8 => at += 1,
                END => {
                    let end = std::mem::replace(&mut at, bytes.len()) + 1;
                    return Some(Segment { marker, contents: &[], end });
                }
                _ => {
                    let length = bytes.get(at + 1..at + 3)?;
                    let length = u16::from_be_bytes([length[0], length[1]]).max(2) as usize;
                    let start = at + 3;
                    at = (at + 1 + length).min(bytes.len());
                    return Some(Segment { marker, contents: &bytes[start.min(at)..at], end: at });
                }
            }
        }
    })
}
