//! Files of `torch.save`: zip archives, and the older format, in which storages follow pickles.

use super::file::{Contents, FileBytes};
use super::pickle::{Pickle, Value};
use super::pickled_tensors::{Storages, contents, storage_sizes};
use std::io::Read;

/// The first bytes of old files: a pickle of the integer 0x1950a86a20f9469cfc6c.
pub(super) const LEGACY: [u8; 14] =
    [0x80, 2, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// The first bytes of every zip archive, and of one without members.
pub(super) const ZIP: [[u8; 4]; 2] = [*b"PK\x03\x04", *b"PK\x05\x06"];

/// The most bytes a pickle may have; those of the largest networks have a few hundred thousand.
const PICKLE_LIMIT: u64 = 64 << 20;

/// An error of reading a zip archive. What the crate calls its own blocks says nothing to a user.
fn not_whole(error: zip::result::ZipError) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("invalid Zip archive: ").unwrap_or(&text);
    let text = if text.contains("::") { "it ends early" } else { text };
    format!("not a complete zip archive: {text}")
}

/// The tensors of a zip archive, by name.
pub(super) fn from_zip(file: &mut FileBytes) -> Result<Contents, String> {
    let mut archive = zip::ZipArchive::new(&mut file.file).map_err(not_whole)?;
    let mut members = Vec::new();
    for i in 0..archive.len() {
        let member = archive.by_index_raw(i).map_err(not_whole)?;
        let name = member.name().map_err(|e| format!("a member without a name: {e}"))?.into_owned();
        let (Some(start), len) = (member.data_start(), member.compressed_size()) else {
            return Err(format!("the archive does not say where {} begins", name.escape_debug()));
        };
        if start.checked_add(len).is_none_or(|end| end > file.len) {
            return Err(format!("the archive ends inside {}", name.escape_debug()));
        }
        members.push((name, start, len, member.compression() == zip::CompressionMethod::Stored));
    }
    // The pickle is in the archive's only folder. A deeper one would be that of a program's package.
    let pickles = members.iter().filter(|(name, ..)| name.ends_with("/data.pkl"));
    let pickle = pickles.min_by_key(|(name, ..)| name.matches('/').count());
    let (name, start, len, stored) = pickle.ok_or("a zip archive without data.pkl, so not of torch.save")?;
    let folder = name.trim_end_matches("data.pkl");
    let inside = |name: &str| members.iter().find(|member| member.0.strip_prefix(folder) == Some(name));
    if !stored {
        return Err(format!("{} is compressed, which torch.save never does", name.escape_debug()));
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
    contents(&pickle, &members.iter().filter_map(storage).collect())
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
