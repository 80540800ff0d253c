//! A TIFF file with another directory than its own.

use super::error::PhotoError;
use std::io::{Read, Seek, SeekFrom};

/// The bytes of a TIFF file after a new header, and before a new directory. Its offsets stay what they are.
pub struct View<'a> {
    header: [u8; HEADER],
    bytes: &'a [u8],
    /// Bytes after the file's own: values, and at the end the directory.
    tail: Vec<u8>,
    /// The directory's entries: tag, type, count, and the value or its offset.
    entries: Vec<(u16, u16, u32, [u8; 4])>,
    little_endian: bool,
    at: u64,
}

const HEADER: usize = 8;
const SHORT: u16 = 3;
const LONG: u16 = 4;
const UNDEFINED: u16 = 7;

impl<'a> View<'a> {
    /// A view of `bytes` whose directory is still empty. Numbers are in the file's byte order, since that is the
    /// order of its samples.
    pub fn new(bytes: &'a [u8], little_endian: bool) -> Self {
        View { header: [0; HEADER], bytes, tail: Vec::new(), entries: Vec::new(), little_endian, at: 0 }
    }

    /// Adds a tag with unsigned integers.
    ///
    /// # Errors
    /// [`PhotoError::Damaged`] if one of them, or the file, is above 4 GiB.
    pub fn numbers(&mut self, tag: u16, values: &[u64]) -> Result<(), PhotoError> {
        let short = values.iter().all(|&value| value <= u16::MAX as u64);
        let mut bytes = Vec::with_capacity(values.len() * 4);
        for &value in values {
            match short {
                true => bytes.extend(self.short(value as u16)),
                false => bytes.extend(self.long(below_4_gib(value)?)),
            }
        }
        self.add(tag, if short { SHORT } else { LONG }, values.len(), &bytes)
    }

    /// Adds a tag with bytes of any meaning.
    ///
    /// # Errors
    /// The same as [`View::numbers`].
    pub fn bytes(&mut self, tag: u16, bytes: &[u8]) -> Result<(), PhotoError> {
        self.add(tag, UNDEFINED, bytes.len(), bytes)
    }

    fn add(&mut self, tag: u16, kind: u16, count: usize, bytes: &[u8]) -> Result<(), PhotoError> {
        let mut value = [0; 4];
        match value.get_mut(..bytes.len()) {
            Some(inline) => inline.copy_from_slice(bytes),
            None => {
                let at = self.append(bytes.iter().copied())?;
                value = self.long(at);
            }
        }
        self.entries.push((tag, kind, below_4_gib(count as u64)?, value));
        Ok(())
    }

    /// Appends a copy of the `length` bytes at `offset`, each with its bits in the opposite order, and returns the
    /// copy's offset.
    ///
    /// # Errors
    /// [`PhotoError::Damaged`] if the bytes lie outside of the file.
    pub fn reversed_bits(&mut self, offset: u64, length: u64) -> Result<u64, PhotoError> {
        let start = usize::try_from(offset).ok().and_then(|offset| self.bytes.get(offset..));
        let found = start.and_then(|rest| rest.get(..usize::try_from(length).ok()?));
        let found = found.ok_or_else(|| PhotoError::damaged("the TIFF file ends within its pixels"))?;
        Ok(self.append(found.iter().map(|byte| byte.reverse_bits()))? as u64)
    }

    /// Appends the first `whole` bytes that the `length` bytes at `offset` unpack to as LZW of the old kind, and returns
    /// their offset.
    ///
    /// # Errors
    /// [`PhotoError::Damaged`] if the bytes lie outside of the file, or unpack to fewer.
    pub fn old_lzw(&mut self, offset: u64, length: u64, whole: u64) -> Result<u64, PhotoError> {
        let ends = || PhotoError::damaged("the TIFF file ends within its pixels");
        let start = usize::try_from(offset).ok().and_then(|offset| self.bytes.get(offset..));
        let found = start.map(|rest| &rest[..rest.len().min(usize::try_from(length).unwrap_or(usize::MAX))]);
        let mut packed = found.ok_or_else(ends)?;
        let mut decoder = weezl::decode::Decoder::new(weezl::BitOrder::Lsb, 8);
        let (mut out, mut block) = (Vec::new(), vec![0; 1 << 12]);
        while (out.len() as u64) < whole {
            let result = decoder.decode_bytes(packed, &mut block);
            packed = &packed[result.consumed_in..];
            out.extend_from_slice(&block[..result.consumed_out]);
            // It may take bytes of a code without giving any.
            let stands = result.consumed_in == 0 && result.consumed_out == 0;
            if stands || !matches!(result.status, Ok(weezl::LzwStatus::Ok)) {
                break;
            }
        }
        let whole = usize::try_from(whole).ok().filter(|&whole| whole <= out.len()).ok_or_else(ends)?;
        out.truncate(whole);
        Ok(self.append(out.into_iter())? as u64)
    }

    /// Appends bytes and returns their offset.
    fn append(&mut self, bytes: impl Iterator<Item = u8>) -> Result<u32, PhotoError> {
        let at = below_4_gib((self.bytes.len().max(HEADER) + self.tail.len()) as u64)?;
        self.tail.extend(bytes);
        Ok(at)
    }

    /// Writes the directory and the header that points to it.
    ///
    /// # Errors
    /// The same as [`View::numbers`].
    pub fn finish(mut self) -> Result<Self, PhotoError> {
        let mut entries = std::mem::take(&mut self.entries);
        entries.sort_by_key(|&(tag, ..)| tag);
        let mut directory = self.short(entries.len() as u16).to_vec();
        for (tag, kind, count, value) in entries {
            directory.extend(self.short(tag));
            directory.extend(self.short(kind));
            directory.extend(self.long(count));
            directory.extend(value);
        }
        directory.extend([0; 4]);
        let at = self.append(directory.into_iter())?;
        let order = if self.little_endian { *b"II" } else { *b"MM" };
        self.header[..2].copy_from_slice(&order);
        let (version, at) = (self.short(42), self.long(at));
        self.header[2..4].copy_from_slice(&version);
        self.header[4..].copy_from_slice(&at);
        Ok(self)
    }

    fn short(&self, value: u16) -> [u8; 2] {
        if self.little_endian { value.to_le_bytes() } else { value.to_be_bytes() }
    }

    fn long(&self, value: u32) -> [u8; 4] {
        if self.little_endian { value.to_le_bytes() } else { value.to_be_bytes() }
    }

    fn len(&self) -> u64 {
        (self.bytes.len().max(HEADER) + self.tail.len()) as u64
    }
}

fn below_4_gib(value: u64) -> Result<u32, PhotoError> {
    u32::try_from(value).map_err(|_| PhotoError::damaged("the TIFF file gives a position above 4 GiB"))
}

impl Read for View<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let at = usize::try_from(self.at).unwrap_or(usize::MAX);
        let body = self.bytes.len().max(HEADER);
        let from = match at {
            0..HEADER => &self.header[at..],
            _ if at < body => self.bytes.get(at..).unwrap_or_default(),
            _ => self.tail.get(at - body..).unwrap_or_default(),
        };
        let len = from.len().min(out.len());
        out[..len].copy_from_slice(&from[..len]);
        self.at += len as u64;
        Ok(len)
    }
}

impl Seek for View<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.len().checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(std::io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
