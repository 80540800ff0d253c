//! The segments of a JPEG file.

/// A segment: its marker, its contents without the length, and where in the file it is.
pub struct Segment<'a> {
    /// The byte after 255.
    pub marker: u8,
    /// The contents, which a file that is cut short may lack the end of.
    pub contents: &'a [u8],
    /// The position of the marker.
    pub start: usize,
    /// The position after the segment.
    pub end: usize,
    /// Whether the file ends before the segment does.
    pub cut: bool,
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
            let start = at + bytes.get(at..)?.iter().position(|&byte| byte == 0xff)?;
            at = start + 1;
            let marker = *bytes.get(at)?;
            match marker {
                // Within a scan, 0 escapes the byte 255, and 208 to 215 are restart markers; 255 is padding.
                0xff => continue,
                0 | 1 | 0xd0..=0xd8 => at += 1,
                END => {
                    let end = std::mem::replace(&mut at, bytes.len()) + 1;
                    return Some(Segment { marker, contents: &[], start, end, cut: false });
                }
                _ => {
                    let length = bytes.get(at + 1..at + 3);
                    let length = length.map_or(2, |length| u16::from_be_bytes([length[0], length[1]]).max(2));
                    let (from, end) = (at + 3, at + 1 + length as usize);
                    at = end.min(bytes.len());
                    let contents = bytes.get(from..at).unwrap_or_default();
                    return Some(Segment { marker, contents, start, end: at, cut: end > bytes.len() });
                }
            }
        }
    })
}

/// Where the data of a scan end that begin at byte `at`, if the end marker follows: without restart markers, further
/// segments or padding.
pub fn end_of_only_scan(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += bytes.get(at..)?.iter().position(|&byte| byte == 0xff)?;
        match *bytes.get(at + 1)? {
            0 => at += 2,
            END => return Some(at),
            _ => return None,
        }
    }
}
