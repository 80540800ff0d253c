//! Files of `torch.save`: zip archives, and the older format, in which storages follow pickles.

use super::file::{Entry, FileBytes};
use super::pickle::{Element, Global, Id, Pickle, Value};
use candle_core::DType;
use std::collections::{BTreeMap, HashMap};
use std::io::Read;

/// The first bytes of old files: a pickle of the integer 0x1950a86a20f9469cfc6c.
pub(super) const LEGACY: [u8; 14] =
    [0x80, 2, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// The first bytes of every zip archive.
pub(super) const ZIP: [u8; 4] = *b"PK\x03\x04";

/// The most bytes a pickle may have; those of the largest networks have a few hundred thousand.
const PICKLE_LIMIT: u64 = 64 << 20;

/// Keys under which training programs keep the weights. Averaged ones come first, as in timm.
const WRAPPERS: [&str; 8] =
    ["state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "module", "net", "network"];

/// Where storages lie in the file: offset and length in bytes, by key.
type Storages = HashMap<String, (u64, u64)>;

/// The tensors of a zip archive, by name.
pub(super) fn from_zip(file: &mut FileBytes) -> Result<BTreeMap<String, Entry>, String> {
    let mut archive =
        zip::ZipArchive::new(&mut file.file).map_err(|e| format!("not a whole zip archive: {e}"))?;
    let mut storages = Storages::new();
    let mut pickle = None;
    for i in 0..archive.len() {
        let member = archive.by_index_raw(i).map_err(|e| format!("not a whole zip archive: {e}"))?;
        let name = member.name().map_err(|e| format!("a member without a name: {e}"))?.into_owned();
        let (Some(start), len) = (member.data_start(), member.compressed_size()) else {
            return Err(format!("the archive does not say where {name} begins"));
        };
        if start.checked_add(len).is_none_or(|end| end > file.len) {
            return Err(format!("the archive ends inside {name}"));
        }
        let stored = member.compression() == zip::CompressionMethod::Stored;
        if let Some((folder, "data.pkl")) = name.rsplit_once('/') {
            if !stored {
                return Err(format!("{name} is compressed, which torch.save never does"));
            }
            pickle = Some((folder.to_string(), start, len));
        } else if stored {
            storages.insert(name, (start, len));
        }
    }
    let (folder, start, len) = pickle.ok_or("a zip archive without data.pkl, so not of torch.save")?;
    if len > PICKLE_LIMIT {
        return Err(format!("its data.pkl has {len} bytes, expected at most {PICKLE_LIMIT}"));
    }
    let pickle = Pickle::read(&file.read(start, len as usize)?)?;
    let prefix = format!("{folder}/data/");
    let storages = storages
        .into_iter()
        .filter_map(|(name, place)| Some((name.strip_prefix(&prefix)?.to_string(), place)))
        .collect();
    entries(&pickle, &storages)
}

/// The tensors of the format that `torch.save` had before PyTorch 1.6, by name.
pub(super) fn from_legacy(file: &mut FileBytes) -> Result<BTreeMap<String, Entry>, String> {
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
    if next()?.root_integer() != Some(1001) {
        return Err("of an unknown version of PyTorch's old format, expected 1001".into());
    }
    next()?;
    let (pickle, keys) = (next()?, next()?);
    let sizes = storage_sizes(&pickle)?;
    // The machine does not keep lists; but this pickle is one list of keys, so its texts are the keys in
    // order.
    let keys =
        keys.values.into_iter().filter_map(|v| if let Value::Text(key) = v { Some(key) } else { None });
    let mut storages = Storages::new();
    let mut at = at as u64;
    for key in keys {
        let count = u64::from_le_bytes(file.read(at, 8)?.try_into().map_err(|_| "it is cut short")?);
        let size = sizes.get(&key).copied().unwrap_or(0);
        let len =
            count.checked_mul(size).filter(|len| at.checked_add(8 + len).is_some_and(|e| e <= file.len));
        let len = len.ok_or_else(|| format!("it ends inside storage {}", key.escape_debug()))?;
        storages.insert(key, (at + 8, len));
        at += 8 + len;
    }
    entries(&pickle, &storages)
}

/// The element type and key of a storage, from its persistent id.
fn storage(pickle: &Pickle, id: Id) -> Option<(Element, &str)> {
    let Value::Persistent(id) = pickle.get(id) else { return None };
    let &[kind, element, key, ..] = pickle.tuple(*id)? else { return None };
    match (pickle.text(kind)?, pickle.get(element)) {
        ("storage", Value::Global(Global::Storage(element))) => Some((*element, pickle.text(key)?)),
        _ => None,
    }
}

impl Element {
    fn bytes(self) -> usize {
        match self {
            Element::F16 | Element::Bf16 => 2,
            Element::F32 => 4,
            Element::F64 => 8,
            Element::Integer(bytes) => bytes,
        }
    }

    fn dtype(self) -> Option<DType> {
        match self {
            Element::F16 => Some(DType::F16),
            Element::Bf16 => Some(DType::BF16),
            Element::F32 => Some(DType::F32),
            Element::F64 => Some(DType::F64),
            Element::Integer(_) => None,
        }
    }
}

/// The number of bytes per element of each storage, by key.
fn storage_sizes(pickle: &Pickle) -> Result<HashMap<String, u64>, String> {
    let mut sizes = HashMap::new();
    for id in 0..pickle.values.len() {
        if let Some((element, key)) = storage(pickle, id) {
            let bytes = element.bytes() as u64;
            if *sizes.entry(key.to_string()).or_insert(bytes) != bytes {
                return Err(format!("storage {} has two types", key.escape_debug()));
            }
        }
    }
    Ok(sizes)
}

/// The tensors of the dictionary of weights, which may be inside of other dictionaries.
fn entries(pickle: &Pickle, storages: &Storages) -> Result<BTreeMap<String, Entry>, String> {
    let mut dict = pickle.root;
    // Programs nest wrappers no deeper than one in another.
    for _ in 0..3 {
        let Value::Dict(pairs) = pickle.get(dict) else { break };
        let tensors = pairs.iter().any(|&(_, value)| tensor(pickle, value).is_some());
        let inner = |wrapper: &&str| {
            let found = pairs.iter().find(|&&(key, _)| pickle.text(key) == Some(wrapper));
            found.map(|&(_, value)| value).filter(|&value| matches!(pickle.get(value), Value::Dict(_)))
        };
        match WRAPPERS.iter().find_map(inner) {
            Some(value) if !tensors => dict = value,
            _ => break,
        }
    }
    let Value::Dict(pairs) = pickle.get(dict) else {
        return Err("the pickle holds no dictionary, expected one of names and tensors".into());
    };
    let mut entries = BTreeMap::new();
    for &(key, value) in pairs {
        let (Some(name), Some(tensor)) = (pickle.text(key), tensor(pickle, value)) else { continue };
        let entry = entry(pickle, tensor, storages).map_err(|problem| format!("{problem}: {name}"))?;
        entries.insert(name.to_string(), entry);
    }
    if entries.is_empty() {
        return Err("the pickle's dictionary holds no tensor".into());
    }
    Ok(entries)
}

/// The arguments of `_rebuild_tensor`, without the calls that may wrap it.
fn tensor(pickle: &Pickle, mut id: Id) -> Option<&[Id]> {
    for _ in 0..3 {
        let &Value::Call(function, args) = pickle.get(id) else { return None };
        let args = pickle.tuple(args)?;
        match function {
            Global::RebuildTensor => return Some(args),
            Global::RebuildParameter => id = *args.first()?,
            // (function, type, arguments of the function, state)
            Global::RebuildFromType => return pickle.tuple(*args.get(2)?),
            _ => return None,
        }
    }
    None
}

/// Where a tensor lies, from the arguments of `_rebuild_tensor`: (storage, offset, size, stride, …).
fn entry(pickle: &Pickle, args: &[Id], storages: &Storages) -> Result<Entry, String> {
    let parts = || {
        let &[storage_id, offset, size, stride, ..] = args else { return None };
        let (element, key) = storage(pickle, storage_id)?;
        let offset = usize::try_from(pickle.integer(offset)?).ok()?;
        Some((element, key, offset, pickle.sizes(size)?, pickle.sizes(stride)?))
    };
    let (element, key, offset, shape, strides) = parts().ok_or("a tensor that is not described as one")?;
    let key_shown = key.escape_debug();
    let &(start, len) = storages.get(key).ok_or_else(|| format!("no storage {key_shown} in the file"))?;
    let outside =
        || format!("shape {shape:?} with strides {strides:?} reaches outside of storage {key_shown}");
    if shape.len() != strides.len() {
        return Err(outside());
    }
    let count = shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim)).ok_or_else(outside)?;
    let bytes = element.bytes();
    let last = shape
        .iter()
        .zip(&strides)
        .try_fold(offset, |at, (&dim, &stride)| at.checked_add(dim.saturating_sub(1).checked_mul(stride)?));
    let last = if count == 0 { Some(offset) } else { last.and_then(|last| last.checked_add(1)) };
    let available = len as usize / bytes;
    // An expanded tensor has more elements than its storage, and could take any amount of memory.
    if last.is_none_or(|last| last > available) || count > available {
        return Err(outside());
    }
    Ok(Entry {
        dtype: element.dtype(),
        shape,
        strides: Some(strides),
        start: start + (offset * bytes) as u64,
        bytes,
    })
}
