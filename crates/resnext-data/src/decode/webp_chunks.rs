//! The chunks of a WebP file.

/// The names and contents of a WebP file's chunks, as far as they are whole.
pub fn webp_chunks(bytes: &[u8]) -> impl Iterator<Item = (&[u8; 4], &[u8])> {
    const HEADER: usize = 12;
    let mut rest = bytes.get(HEADER..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (name, after) = rest.split_first_chunk::<4>()?;
        let (len, after) = after.split_first_chunk::<4>()?;
        let len = u32::from_le_bytes(*len) as usize;
        let contents = after.get(..len)?;
        rest = after.get(len + len % 2..).unwrap_or_default();
        Some((name, contents))
    })
}

/// The flags of the extended kind's first chunk that announce chunks, and their names.
pub const FLAGS: [(u8, &[u8; 4]); 3] = [(ICC, b"ICCP"), (EXIF, b"EXIF"), (XMP, b"XMP ")];
const ICC: u8 = 0x20;
/// The flag of EXIF.
pub const EXIF: u8 = 8;
/// The flag of XMP.
pub const XMP: u8 = 4;

/// The flags of a WebP file; `None` if it is of the simple kind, which has none.
pub fn webp_flags(bytes: &[u8]) -> Option<u8> {
    match webp_chunks(bytes).next()? {
        (b"VP8X", contents) => contents.first().copied(),
        _ => None,
    }
}
