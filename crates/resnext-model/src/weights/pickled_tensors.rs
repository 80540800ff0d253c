//! The tensors in a pickle of `torch.save`, by the path of keys that leads to each.

use super::file::{Contents, Entries, Entry};
use super::globals::{Element, Global};
use super::pickle::{Id, Pickle, Value};
use candle_core::DType;
use std::collections::{HashMap, HashSet};

/// Where storages lie in the file, by key: offset, and length in bytes unless they are compressed.
pub(super) type Storages = HashMap<String, (u64, Option<u64>)>;

/// The most containers that contain one another. Programs nest the weights no deeper than two or three.
const DEPTH_LIMIT: usize = 8;
/// The most bytes of a key; the longest names of weights have about a hundred.
const KEY_LIMIT: usize = 512;
/// The most bytes of all names of tensors together.
const NAMES_LIMIT: usize = 256 << 20;
/// The most elements of a tensor that repeats those of its storage, as those that were expanded do.
const EXPANDED_LIMIT: usize = 1 << 24;

/// The element type and key of a storage, and where in it a view begins, in elements, from its persistent id:
/// (`storage`, class, key, device, size) and, in old files, (key of the view, offset, size) or None.
fn storage(pickle: &Pickle, id: Id) -> Option<(Element, &str, usize)> {
    let Value::Persistent(id) = pickle.get(id) else { return None };
    let items = pickle.tuple(*id)?;
    let &[kind, element, key, ..] = items else { return None };
    let offset = match items.get(5).and_then(|&view| pickle.tuple(view)) {
        Some(&[_, offset, _]) => usize::try_from(pickle.integer(offset)?).ok()?,
        _ => 0,
    };
    match (pickle.text(kind)?, pickle.get(element)) {
        ("storage", Value::Global(Global::Storage(element))) => Some((*element, pickle.text(key)?, offset)),
        _ => None,
    }
}

/// The number of bytes per element of each storage, by key.
///
/// # Errors
/// A text, if a storage has two types.
pub(super) fn storage_sizes(pickle: &Pickle) -> Result<HashMap<String, u64>, String> {
    let mut sizes = HashMap::new();
    for id in 0..pickle.values.len() {
        if let Some((element, key, _)) = storage(pickle, id) {
            let bytes = element.bytes() as u64;
            if *sizes.entry(key.to_string()).or_insert(bytes) != bytes {
                return Err(format!("storage {} has two types", key.escape_debug()));
            }
        }
    }
    Ok(sizes)
}

/// All tensors in the dictionaries and lists of a pickle, each under its keys joined with dots:
/// `state_dict.conv1.weight`.
///
/// # Errors
/// A text, if there is none, or two have the same name.
pub(super) fn contents(pickle: &Pickle, storages: &Storages) -> Result<Contents, String> {
    let mut entries = Entries::new();
    let mut keys = Vec::new();
    let mut names = 0;
    // Containers may contain themselves, or each other many times: each is visited once.
    let mut visited = HashSet::from([pickle.root]);
    let mut waiting = vec![(String::new(), pickle.root, 0)];
    while let Some((prefix, container, depth)) = waiting.pop() {
        let items: Vec<(String, Id)> = match pickle.get(container) {
            Value::Dict(pairs) => {
                let wanted =
                    pairs.iter().filter(|&&(_, value)| depth == 0 || may_have_tensors(pickle, value));
                wanted.filter_map(|&(key, value)| Some((key_text(pickle, key)?, value))).collect()
            }
            Value::List(items) | Value::Tuple(items) => {
                let wanted = items.iter().enumerate().filter(|&(_, &value)| may_have_tensors(pickle, value));
                wanted.map(|(i, &value)| (i.to_string(), value)).collect()
            }
            _ => continue,
        };
        for (key, value) in items {
            let is_container = !matches!(pickle.get(value), Value::Call(..));
            if depth == 0 && keys.len() < 10 {
                keys.push(key.escape_debug().to_string());
            }
            if !may_have_tensors(pickle, value) {
                continue;
            }
            if !is_container {
                let Some((function, arguments)) = tensor(pickle, value) else { continue };
                names += prefix.len() + key.len();
                let name = format!("{prefix}{key}");
                let entry = entry(pickle, function, arguments, storages);
                if entries.insert(name.clone(), entry).is_some() {
                    return Err(format!("two tensors are named {}", name.escape_debug()));
                }
            } else if depth < DEPTH_LIMIT && visited.insert(value) {
                names += prefix.len() + key.len() + 1;
                waiting.push((format!("{prefix}{key}."), value, depth + 1));
            }
            if names > NAMES_LIMIT {
                return Err(format!("its tensors' names have more than {NAMES_LIMIT} bytes"));
            }
        }
    }
    if entries.is_empty() {
        return Err(pickle.refusal().unwrap_or_else(|| match keys.is_empty() {
            true => "the pickle holds no dictionary, expected one of names and tensors".into(),
            false => format!("the pickle's dictionary holds no tensor; its keys: {}", keys.join(", ")),
        }));
    }
    let foreign = pickle.foreign.as_ref().map(|(module, name)| format!("{module}.{name}"));
    Ok(Contents { entries, foreign, ..Contents::default() })
}

/// Whether a value is a tensor, or a container that may have some.
fn may_have_tensors(pickle: &Pickle, value: Id) -> bool {
    matches!(pickle.get(value), Value::Dict(_) | Value::List(_) | Value::Tuple(_) | Value::Call(..))
}

/// A key as a part of a name.
fn key_text(pickle: &Pickle, key: Id) -> Option<String> {
    match pickle.get(key) {
        Value::Text(text) if text.len() <= KEY_LIMIT => Some(text.clone()),
        Value::Int(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The function that makes a tensor, and its arguments, without the calls that may wrap it.
fn tensor(pickle: &Pickle, mut id: Id) -> Option<(Global, &[Id])> {
    for _ in 0..3 {
        let &Value::Call(function, arguments) = pickle.get(id) else { return None };
        let arguments = pickle.tuple(arguments)?;
        match function {
            Global::RebuildParameter => id = *arguments.first()?,
            // (function, type, arguments of the function, state)
            Global::RebuildFromType => {
                let Value::Global(function) = pickle.get(*arguments.first()?) else { return None };
                return Some((*function, pickle.tuple(*arguments.get(2)?)?));
            }
            _ => return Some((function, arguments)),
        }
    }
    None
}

/// Where a tensor lies, from the arguments of the function that makes it: (storage, offset, size, stride, …).
///
/// # Errors
/// A text that says why it cannot be read.
fn entry(pickle: &Pickle, function: Global, arguments: &[Id], storages: &Storages) -> Result<Entry, String> {
    if let Global::RebuildUnread(what) = function {
        return Err(what.into());
    }
    let parts = || {
        let &[storage_id, offset, size, stride, ..] = arguments else { return None };
        let (element, key, view) = storage(pickle, storage_id)?;
        let offset = usize::try_from(pickle.integer(offset)?).ok()?;
        Some((element, key, offset.checked_add(view)?, pickle.sizes(size)?, pickle.sizes(stride)?))
    };
    let (stored, key, offset, shape, strides) = parts().ok_or("a tensor with an invalid description")?;
    let element = match function {
        Global::RebuildTensor => stored,
        Global::RebuildTyped => match arguments.get(6).map(|&dtype| pickle.get(dtype)) {
            Some(Value::Global(Global::Storage(element))) => *element,
            _ => return Err("a tensor of an unknown type".into()),
        },
        Global::RebuildQuantized => Element::Unusable("quantized integers", stored.bytes()),
        _ => return Err("a tensor of an unknown kind".into()),
    };
    // A view that is to be conjugated or negated when it is used.
    let pending = if function == Global::RebuildTyped { 7 } else { 6 };
    if let Some(Value::Dict(flags)) = arguments.get(pending).map(|&flags| pickle.get(flags))
        && function != Global::RebuildQuantized
        && flags.iter().any(|&(_, set)| !matches!(pickle.get(set), Value::Bool(false)))
    {
        return Err("a tensor that is negated or conjugated when it is used".into());
    }
    let key_shown = key.escape_debug();
    let &(start, len) = storages.get(key).ok_or_else(|| format!("no storage {key_shown} in the file"))?;
    let len = len.ok_or_else(|| {
        format!(
            "storage {key_shown} is compressed, which torch.save never does: zip it again without (zip -0)"
        )
    })?;
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
    let available = usize::try_from(len).map_err(|_| outside())? / bytes;
    // An expanded tensor has more elements than its storage, and could take any amount of memory.
    if last.is_none_or(|last| last > available) || count > available.max(EXPANDED_LIMIT) {
        return Err(outside());
    }
    Ok(Entry {
        dtype: match element {
            Element::F16 => Ok(DType::F16),
            Element::Bf16 => Ok(DType::BF16),
            Element::F32 => Ok(DType::F32),
            Element::F64 => Ok(DType::F64),
            Element::Unusable(what, _) => Err(what),
        },
        shape,
        strides: Some(strides),
        file: 0,
        start: start + (offset * bytes) as u64,
        bytes,
    })
}
