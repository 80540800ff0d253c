//! Files of `torch.save`: zip archives, and the older format, in which storages follow pickles.

use super::file::{Contents, FileBytes};
use super::pickle::{Pickle, Value};
use super::pickled_tensors::{Storages, contents, storage_sizes};
use std::io::{Read, Seek};
use zip::ZipArchive;
use zip::read::{ArchiveOffset, Config};

/// How a pickle gives the integer 0x1950a86a20f9469cfc6c, which old files begin with.
const LEGACY: [u8; 12] = [0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// The first bytes of every zip archive, and of one without members.
pub(super) const ZIP: [[u8; 4]; 2] = [*b"PK\x03\x04", *b"PK\x05\x06"];

/// The most bytes a pickle may have; those of the largest networks have a few hundred thousand.
const PICKLE_LIMIT: u64 = 64 << 20;

/// Whether a file starts as those of `torch.save` before PyTorch 1.6, in any protocol of pickle.
pub(super) fn is_legacy(start: &[u8]) -> bool {
    match start {
        [0x80, 2 | 3, rest @ ..] => rest.starts_with(&LEGACY),
        // The length of a frame comes first.
        [0x80, 4 | 5, 0x95, rest @ ..] => rest.get(8..).is_some_and(|rest| rest.starts_with(&LEGACY)),
        _ => false,
    }
}

/// An error of reading a zip archive. What the crate calls its own blocks says nothing to a user.
fn not_whole(error: zip::result::ZipError) -> String {
    const BLOCKS: [&str; 5] = ["::", "EOCD", "CDFH", "Central Directory", "magic"];
    let text = error.to_string();
    let text = text.strip_prefix("invalid Zip archive: ").unwrap_or(&text);
    let of_a_block = BLOCKS.iter().any(|block| text.contains(block));
    let text = if of_a_block { "its directory, at its end, is missing or damaged" } else { text };
    format!("not a complete zip archive: {text}")
}

/// Whether the bytes of a member have the checksum that the archive gives.
fn is_whole<R: Read + Seek>(archive: &mut ZipArchive<R>, index: usize) -> bool {
    archive.by_index(index).is_ok_and(|mut member| std::io::copy(&mut member, &mut std::io::sink()).is_ok())
}

/// A note on members with wrong checksums. It is no error: PyTorch ignores them, and can be told not to compute them.
fn damage(members: &[String]) -> Option<String> {
    let first = members.first()?;
    Some(match members.len() {
        1 => format!("the checksum of {first} in the archive is wrong: the file may be damaged"),
        count => format!(
            "the checksums of {count} members of the archive are wrong, such as that of {first}: the file may be damaged"
        ),
    })
}

/// The tensors of a zip archive, by name.
pub(super) fn from_zip(file: &mut FileBytes) -> Result<Contents, String> {
    // The archive is known to be the file from its first byte on. Left to look for its beginning, the crate takes a later
    // entry of the directory for the first if that happens to lie where an archive without zip64 has it.
    let config = Config { archive_offset: ArchiveOffset::Known(0) };
    let mut archive = ZipArchive::with_config(config, &mut file.file).map_err(not_whole)?;
    let (mut members, mut damaged, mut unchecked) = (Vec::new(), Vec::new(), file.len);
    for i in 0..archive.len() {
        let member = archive.by_index_raw(i).map_err(not_whole)?;
        let name = member.name().map_err(|e| format!("a member without a name: {e}"))?.into_owned();
        let (Some(start), len) = (member.data_start(), member.compressed_size()) else {
            return Err(format!("the archive does not say where {} begins", name.escape_debug()));
        };
        if start.checked_add(len).is_none_or(|end| end > file.len) {
            return Err(format!("the archive ends inside {}", name.escape_debug()));
        }
        let stored = member.compression() == zip::CompressionMethod::Stored;
        drop(member);
        // Members that overlap could be more to read than the file has.
        if stored && len <= unchecked {
            unchecked -= len;
            if !is_whole(&mut archive, i) {
                damaged.push(name.escape_debug().to_string());
            }
        }
        members.push((name, start, len, stored));
    }
    // The pickle is in the archive's only folder. A deeper one would be that of a program's package.
    let pickles = members.iter().filter(|(name, ..)| name.ends_with("/data.pkl"));
    let pickle = pickles.min_by_key(|(name, ..)| name.matches('/').count());
    let (name, start, len, stored) = pickle.ok_or("a zip archive without data.pkl, so not of torch.save")?;
    let folder = name.trim_end_matches("data.pkl");
    let inside = |name: &str| members.iter().find(|member| member.0.strip_prefix(folder) == Some(name));
    if !stored {
        let name = name.escape_debug();
        return Err(format!(
            "{name} is compressed, which torch.save never does: zip it again without (zip -0)"
        ));
    }
    if members
        .iter()
        .any(|(name, ..)| name.strip_prefix(folder).is_some_and(|name| name.starts_with("code/")))
    {
        return Err(
            "a TorchScript archive, which holds a program of its own: expected tensors only, such as \
                    torch.save(model.state_dict(), …) writes"
                .into(),
        );
    }
    if *len > PICKLE_LIMIT {
        return Err(format!("its data.pkl has {len} bytes, expected at most {PICKLE_LIMIT}"));
    }
    if let Some((_, start, len, _)) = inside("byteorder") {
        match &file.read(*start, (*len).min(16) as usize)?[..] {
            b"little" => {}
            b"big" => {
                return Err("it was saved on a big-endian machine, expected little-endian numbers".into());
            }
            other => {
                let order = String::from_utf8_lossy(other);
                return Err(format!("its byte order is {}, expected little", order.escape_debug()));
            }
        }
    }
    let pickle = Pickle::read(&file.read(*start, *len as usize)?)?;
    let prefix = format!("{folder}data/");
    let storage = |(name, start, len, stored): &(String, u64, u64, bool)| {
        Some((name.strip_prefix(&prefix)?.to_string(), (*start, if *stored { Some(*len) } else { None })))
    };
    let notes = damage(&damaged).into_iter().collect();
    Ok(Contents { notes, ..contents(&pickle, &members.iter().filter_map(storage).collect())? })
}

/// The tensors of the format that `torch.save` had before PyTorch 1.6, by name.
pub(super) fn from_legacy(file: &mut FileBytes) -> Result<Contents, String> {
    let mut start = Vec::new();
    let whole = file.read_from(0)?;
    whole.take(PICKLE_LIMIT).read_to_end(&mut start).map_err(|e| e.to_string())?;
    let mut at = 0;
    let mut next = || -> Result<Pickle, String> {
        let pickle = Pickle::read(&start[at..])?;
        at += pickle.len;
        Ok(pickle)
    };
    next()?;
    let version = next()?;
    if version.integer(version.root) != Some(1001) {
        return Err("of an unknown version of PyTorch's old format, expected 1001".into());
    }
    let system = next()?;
    if is_big_endian(&system) {
        return Err("it was saved on a big-endian machine, expected little-endian numbers".into());
    }
    let (pickle, keys) = (next()?, next()?);
    let sizes = storage_sizes(&pickle)?;
    let keys = keys.list(keys.root).unwrap_or_default().iter().filter_map(|&key| keys.text(key));
    let mut storages = Storages::new();
    let mut at = at as u64;
    for key in keys {
        let count = u64::from_le_bytes(file.read(at, 8)?.try_into().map_err(|_| "it is cut short")?);
        let size = sizes.get(key).copied().unwrap_or(0);
        let len =
            count.checked_mul(size).filter(|len| at.checked_add(8 + len).is_some_and(|e| e <= file.len));
        let len = len.ok_or_else(|| format!("it ends inside storage {}", key.escape_debug()))?;
        storages.insert(key.to_string(), (at + 8, Some(len)));
        at += 8 + len;
    }
    contents(&pickle, &storages)
}

/// Whether the description of the machine that wrote an old file says that its numbers are big-endian.
fn is_big_endian(system: &Pickle) -> bool {
    let Value::Dict(pairs) = system.get(system.root) else { return false };
    let little = pairs.iter().find(|&&(key, _)| system.text(key) == Some("little_endian"));
    little.is_some_and(|&(_, value)| matches!(system.get(value), Value::Bool(false)))
}
