//! The tags of a TIFF directory, which also hold EXIF's data in other formats.

/// The first directory of a TIFF file or of EXIF data, in either byte order and in BigTIFF's form.
pub struct Tags<'a> {
    bytes: &'a [u8],
    little_endian: bool,
    entries: Vec<Entry>,
}

struct Entry {
    tag: u16,
    kind: u16,
    count: u64,
    /// Where the values are.
    at: u64,
}

impl<'a> Tags<'a> {
    /// Reads the first directory of `bytes`. Entries that the data end within or before are left out, as viewers do.
    /// Returns `None` if the bytes do not begin as TIFF does.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        // Some writers swap the version's two bytes.
        let (little_endian, big) = match bytes.get(..4)? {
            b"II\x2a\0" | b"II\0\x2a" => (true, false),
            b"MM\0\x2a" | b"MM\x2a\0" => (false, false),
            b"II\x2b\0" => (true, true),
            b"MM\0\x2b" => (false, true),
            _ => return None,
        };
        let mut tags = Tags { bytes, little_endian, entries: Vec::new() };
        let (start, word) = if big { (tags.number(8, 8)?, 8) } else { (tags.number(4, 4)?, 4) };
        let (count, count_bytes) =
            if big { (tags.number(start, 8)?, 8) } else { (tags.number(start, 2)?, 2) };
        if start >= bytes.len() as u64 {
            return None;
        }
        for i in 0..count.min(u16::MAX as u64) {
            let entry = start + count_bytes + i * (4 + 2 * word);
            let inline = entry + 4 + word;
            let (Some(tag), Some(kind), Some(count), Some(value)) = (
                tags.number(entry, 2),
                tags.number(entry + 2, 2),
                tags.number(entry + 4, word),
                tags.number(inline, word),
            ) else {
                break;
            };
            let at = if count.saturating_mul(size_of(kind as u16)) <= word { inline } else { value };
            tags.entries.push(Entry { tag: tag as u16, kind: kind as u16, count, at });
        }
        Some(tags)
    }

    /// Whether numbers are little-endian.
    pub fn little_endian(&self) -> bool {
        self.little_endian
    }

    /// The unsigned integers of a tag; `None` if it is absent, lies outside of the data, or holds anything else.
    pub fn numbers(&self, tag: u16) -> Option<Vec<u64>> {
        let entry = self.entry(tag)?;
        if !matches!(entry.kind, 1 | 3 | 4 | 6 | 8 | 9 | 13 | 16 | 18) {
            return None;
        }
        let size = size_of(entry.kind);
        self.range(entry)?;
        (0..entry.count).map(|i| self.number(entry.at + i * size, size)).collect()
    }

    /// The first integer of a tag.
    pub fn first(&self, tag: u16) -> Option<u64> {
        self.numbers(tag)?.first().copied()
    }

    /// A tag's bytes as they are.
    pub fn raw(&self, tag: u16) -> Option<&'a [u8]> {
        self.range(self.entry(tag)?)
    }

    /// EXIF's orientation. Viewers accept only an integer of two or four bytes.
    pub fn orientation(&self) -> Option<u64> {
        const ORIENTATION: u16 = 274;
        let entry = self.entry(ORIENTATION)?;
        if entry.count != 1 || !matches!(entry.kind, 3 | 4 | 8 | 9) {
            return None;
        }
        self.first(ORIENTATION)
    }

    /// The last entry of a tag: it replaces those before it.
    fn entry(&self, tag: u16) -> Option<&Entry> {
        self.entries.iter().rev().find(|entry| entry.tag == tag)
    }

    fn range(&self, entry: &Entry) -> Option<&'a [u8]> {
        let len = usize::try_from(entry.count.checked_mul(size_of(entry.kind))?).ok()?;
        self.bytes.get(usize::try_from(entry.at).ok()?..)?.get(..len)
    }

    /// The number of `len` bytes at `at`.
    fn number(&self, at: u64, len: u64) -> Option<u64> {
        let bytes = self.bytes.get(usize::try_from(at).ok()?..)?.get(..len as usize)?;
        let join = |value: u64, &byte: &u8| value << 8 | byte as u64;
        Some(match self.little_endian {
            true => bytes.iter().rev().fold(0, join),
            false => bytes.iter().fold(0, join),
        })
    }
}

/// The bytes of one value of a kind.
fn size_of(kind: u16) -> u64 {
    match kind {
        3 | 8 => 2,
        4 | 9 | 11 | 13 => 4,
        5 | 10 | 12 | 16..=18 => 8,
        _ => 1,
    }
}
