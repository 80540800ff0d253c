//! An interpreter for the pickles that hold weights. It builds data and calls nothing.
//!
//! Objects of classes that weights do not need, such as a program's settings, become empty dictionaries, which
//! then take the items that the pickle gives to them.

use super::globals::{Global, refusal};
use std::collections::HashMap;

/// A value by its index in [`Pickle::values`], so that values which a pickle shares, or which contain
/// themselves, are shared here too.
pub(super) type Id = usize;

/// A value in a pickle.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Int(i64),
    Bool(bool),
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    /// A known function with its arguments. It is not called.
    Call(Global, Id),
    /// A storage outside of the pickle.
    Persistent(Id),
    /// A value that weights do not need: a float, None, bytes, a set.
    Other,
}

/// The most values in a pickle. Those of the largest networks, with the state of their optimizer, have a few
/// hundred thousand; a list of the losses of a million steps has a million.
const VALUES_LIMIT: usize = 1 << 23;

/// The most dimensions of a tensor: PyTorch's own limit.
const RANK_LIMIT: usize = 64;

/// The value that stands for all that are not needed: they need not take memory one by one.
const OTHER: Id = 0;

/// The result of interpreting a pickle.
#[derive(Debug)]
pub(super) struct Pickle {
    pub(super) values: Vec<Value>,
    pub(super) root: Id,
    /// The length of the pickle in bytes.
    pub(super) len: usize,
    /// The first class or function that is none of those which weights are made of, as module and name.
    pub(super) foreign: Option<(String, String)>,
}

impl Pickle {
    /// Interprets the pickle at the start of `bytes`.
    ///
    /// # Errors
    /// A text that says what is refused or what is wrong.
    pub(super) fn read(bytes: &[u8]) -> Result<Pickle, String> {
        let mut machine = Machine {
            bytes,
            at: 0,
            values: vec![Value::Other],
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            copied: 0,
            foreign: None,
        };
        loop {
            if let Some(root) = machine.step()? {
                let Machine { values, at, foreign, .. } = machine;
                return Ok(Pickle { values, root, len: at, foreign });
            }
        }
    }

    /// The refusal of a pickle without weights because of the first foreign class that it names, if it names
    /// one.
    pub(super) fn refusal(&self) -> Option<String> {
        self.foreign.as_ref().map(|(module, name)| refusal(module, name))
    }

    pub(super) fn get(&self, id: Id) -> &Value {
        &self.values[id]
    }

    pub(super) fn integer(&self, id: Id) -> Option<i64> {
        if let Value::Int(value) = self.get(id) { Some(*value) } else { None }
    }

    pub(super) fn text(&self, id: Id) -> Option<&str> {
        if let Value::Text(text) = self.get(id) { Some(text) } else { None }
    }

    pub(super) fn tuple(&self, id: Id) -> Option<&[Id]> {
        if let Value::Tuple(items) = self.get(id) { Some(items) } else { None }
    }

    pub(super) fn list(&self, id: Id) -> Option<&[Id]> {
        if let Value::List(items) = self.get(id) { Some(items) } else { None }
    }

    /// A tuple, or list, of a few non-negative integers.
    pub(super) fn sizes(&self, id: Id) -> Option<Vec<usize>> {
        let items = self.tuple(id).or(self.list(id)).filter(|items| items.len() <= RANK_LIMIT)?;
        items.iter().map(|&item| usize::try_from(self.integer(item)?).ok()).collect()
    }
}

/// Checks that there may be more than `count` values.
fn check_count(count: usize) -> Result<(), String> {
    match count < VALUES_LIMIT {
        true => Ok(()),
        false => Err(format!("the pickle has more than {VALUES_LIMIT} values")),
    }
}

/// Whether the classes of a module are data beside the weights, as programs leave it in their checkpoints,
/// rather than networks.
fn is_plain_data(module: &str) -> bool {
    let first = module.split('.').next().unwrap_or(module);
    let data = ["argparse", "collections", "numpy", "_codecs", "builtins", "__builtin__"];
    data.contains(&first)
        || first == "torch" && (!module.starts_with("torch.nn.") || module.ends_with(".parameter"))
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack at its marks.
    marks: Vec<usize>,
    memo: HashMap<usize, Id>,
    /// Items that calls have copied from one container into another.
    copied: usize,
    foreign: Option<(String, String)>,
}

impl<'a> Machine<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or("the pickle is cut short")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    /// An unsigned little-endian integer of up to eight bytes.
    fn number(&mut self, len: usize) -> Result<usize, String> {
        let bytes = self.take(len)?;
        let value = bytes.iter().rev().fold(0u64, |value, &byte| value << 8 | byte as u64);
        usize::try_from(value).map_err(|_| "the pickle has a length out of range".into())
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().position(|&byte| byte == b'\n').ok_or("the pickle is cut short")?;
        let line = self.take(len + 1)?;
        std::str::from_utf8(&line[..len]).map_err(|_| "the pickle has a name that is not UTF-8".into())
    }

    fn push(&mut self, value: Value) -> Result<(), String> {
        let id = match value {
            Value::Other => OTHER,
            value => {
                check_count(self.values.len())?;
                self.values.push(value);
                self.values.len() - 1
            }
        };
        self.push_id(id)
    }

    fn push_id(&mut self, id: Id) -> Result<(), String> {
        check_count(self.stack.len())?;
        self.stack.push(id);
        Ok(())
    }

    fn pop(&mut self) -> Result<Id, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("the pickle pops from an empty stack".into());
        }
        self.stack.pop().ok_or_else(|| "the pickle pops from an empty stack".into())
    }

    fn top(&self) -> Result<Id, String> {
        self.stack.last().copied().ok_or_else(|| "the pickle looks at an empty stack".into())
    }

    fn pop_marked(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or("the pickle has no mark where it needs one")?;
        Ok(self.stack.split_off(mark))
    }

    /// A text. Python 2 has one type for texts and bytes, so one that is not UTF-8 is bytes.
    fn text(&mut self, len: usize) -> Result<(), String> {
        let text = self.take(len)?;
        let text = std::str::from_utf8(text).map_or(Value::Other, |text| Value::Text(text.to_string()));
        self.push(text)
    }

    fn tuple(&mut self, len: usize) -> Result<(), String> {
        let mut items = Vec::with_capacity(len);
        for _ in 0..len {
            items.push(self.pop()?);
        }
        items.reverse();
        self.push(Value::Tuple(items))
    }

    /// Adds pairs to the dictionary on top of the stack. Other objects that take items are ignored.
    fn set_items(&mut self, items: &[Id]) -> Result<(), String> {
        if !items.len().is_multiple_of(2) {
            return Err("the pickle has a key without a value".into());
        }
        let top = self.top()?;
        if let Value::Dict(pairs) = &mut self.values[top] {
            pairs.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
        }
        Ok(())
    }

    /// Adds items to the list on top of the stack. Other objects that take items are ignored.
    fn append(&mut self, items: &[Id]) -> Result<(), String> {
        let top = self.top()?;
        if let Value::List(list) = &mut self.values[top] {
            list.extend_from_slice(items);
        }
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), String> {
        Global::refuse_attack(module, name)?;
        let global = Global::known(module, name);
        if global.is_none() && self.foreign.is_none() && !is_plain_data(module) {
            self.foreign = Some((module.to_string(), name.to_string()));
        }
        self.push(Value::Global(global.unwrap_or(Global::Other)))
    }

    /// Replaces a function and its arguments, on top of the stack, by what a call would return.
    fn call(&mut self) -> Result<(), String> {
        let (args, function) = (self.pop()?, self.pop()?);
        let value = match &self.values[function] {
            Value::Global(function) => *function,
            // A function that is itself an object, such as one of `functools.partial`.
            Value::Dict(_) | Value::Other | Value::Call(..) => Global::Other,
            _ => return Err("the pickle calls something that is not a function".into()),
        };
        let only = |args: Id| match &self.values[args] {
            Value::Tuple(items) if items.len() == 1 => Some(items[0]),
            _ => None,
        };
        let value = match value {
            Global::Dict => Value::Dict(only(args).map_or(Vec::new(), |items| self.pairs(items))),
            Global::Tuple => match only(args).map(|items| &self.values[items]) {
                Some(Value::Tuple(items) | Value::List(items)) => Value::Tuple(items.clone()),
                _ => Value::Other,
            },
            function @ (Global::RebuildTensor
            | Global::RebuildTyped
            | Global::RebuildQuantized
            | Global::RebuildUnread(_)
            | Global::RebuildParameter
            | Global::RebuildFromType) => Value::Call(function, args),
            Global::Storage(_) => Value::Other,
            // Nothing is known about the object but the items that it will be given.
            Global::Other => Value::Dict(Vec::new()),
        };
        // A few bytes that copy a long list again and again must not fill the memory.
        self.copied += match &value {
            Value::Dict(pairs) => pairs.len(),
            Value::Tuple(items) => items.len(),
            _ => 0,
        };
        check_count(self.copied)?;
        self.push(value)
    }

    /// The pairs that a dictionary is made from: another dictionary, or a list of pairs, as in Python 2.
    fn pairs(&self, items: Id) -> Vec<(Id, Id)> {
        match &self.values[items] {
            Value::Dict(pairs) => pairs.clone(),
            Value::List(items) | Value::Tuple(items) => {
                let pair = |&item: &Id| match &self.values[item] {
                    Value::List(pair) | Value::Tuple(pair) if pair.len() == 2 => Some((pair[0], pair[1])),
                    _ => None,
                };
                items.iter().filter_map(pair).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Interprets one instruction. Returns the pickle's value at the last one.
    fn step(&mut self) -> Result<Option<Id>, String> {
        let code = self.take(1)?[0];
        match code {
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'.' => return self.pop().map(Some),
            b'(' => {
                check_count(self.marks.len())?;
                self.marks.push(self.stack.len());
            }
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_marked()?),
            b'2' => self.push_id(self.top()?)?,
            b'N' | 0x8f => self.push(Value::Other)?,
            0x88 | 0x89 => self.push(Value::Bool(code == 0x88))?,
            b']' => self.push(Value::List(Vec::new()))?,
            b'G' => {
                self.take(8)?;
                self.push(Value::Other)?;
            }
            b'J' => {
                let bytes = self.number(4)? as u32;
                self.push(Value::Int(bytes as i32 as i64))?;
            }
            b'K' | b'M' => {
                let value = self.number(if code == b'K' { 1 } else { 2 })?;
                self.push(Value::Int(value as i64))?;
            }
            0x8a | 0x8b => {
                let len = self.number(if code == 0x8a { 1 } else { 4 })?;
                let bytes = self.take(len)?;
                // Integers of more than eight bytes, such as the magic number of old files, cannot be sizes.
                let sign = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { -1 } else { 0 };
                let value = bytes.iter().rev().fold(sign, |value: i64, &byte| value << 8 | byte as i64);
                self.push(if len <= 8 { Value::Int(value) } else { Value::Other })?;
            }
            b'X' | b'T' => {
                let len = self.number(4)?;
                self.text(len)?;
            }
            0x8c | b'U' => {
                let len = self.number(1)?;
                self.text(len)?;
            }
            0x8d => {
                let len = self.number(8)?;
                self.text(len)?;
            }
            b'B' | b'C' | 0x8e | 0x96 => {
                let len = self.number(match code {
                    b'B' => 4,
                    b'C' => 1,
                    _ => 8,
                })?;
                self.take(len)?;
                self.push(Value::Other)?;
            }
            b'I' | b'L' => {
                let text = self.line()?.trim_end_matches('L');
                self.push(text.parse().map_or(Value::Other, Value::Int))?;
            }
            b'F' => {
                self.line()?;
                self.push(Value::Other)?;
            }
            b'S' | b'V' => {
                let text = self.line()?;
                let quoted = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
                let text = if code == b'S' { quoted('\'').or(quoted('"')) } else { Some(text) };
                self.push(text.map_or(Value::Other, |text| Value::Text(text.to_string())))?;
            }
            b')' => self.push(Value::Tuple(Vec::new()))?,
            0x85..=0x87 => self.tuple(code as usize - 0x84)?,
            b't' => {
                let items = self.pop_marked()?;
                self.push(Value::Tuple(items))?;
            }
            b'l' => {
                let items = self.pop_marked()?;
                self.push(Value::List(items))?;
            }
            b'}' => self.push(Value::Dict(Vec::new()))?,
            b'd' => {
                let items = self.pop_marked()?;
                self.push(Value::Dict(Vec::new()))?;
                self.set_items(&items)?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            b'e' => {
                let items = self.pop_marked()?;
                self.append(&items)?;
            }
            0x90 => drop(self.pop_marked()?),
            0x91 => {
                self.pop_marked()?;
                self.push(Value::Other)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_marked()?;
                self.set_items(&items)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (&self.values[module], &self.values[name]) {
                    (Value::Text(module), Value::Text(name)) if module.len().max(name.len()) < 1000 => {
                        let (module, name) = (module.clone(), name.clone());
                        self.global(&module, &name)?;
                    }
                    _ => return Err("the pickle has a name that is not a short text".into()),
                }
            }
            // The class, and the arguments above it.
            b'o' => {
                let items = self.pop_marked()?;
                let (class, args) = items.split_first().ok_or("the pickle builds an object of no class")?;
                self.push_id(*class)?;
                self.push(Value::Tuple(args.to_vec()))?;
                self.call()?;
            }
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                let args = self.pop_marked()?;
                self.global(module, name)?;
                self.push(Value::Tuple(args))?;
                self.call()?;
            }
            // With arguments by name, which nothing that weights are made of takes.
            0x92 => {
                self.pop()?;
                self.call()?;
            }
            b'R' | 0x81 => self.call()?,
            // An object's state: for a dictionary of weights, the versions of its modules.
            b'b' => drop(self.pop()?),
            b'Q' => {
                let id = self.pop()?;
                self.push(Value::Persistent(id))?;
            }
            b'q' | b'r' => {
                let key = self.number(if code == b'q' { 1 } else { 4 })?;
                self.memo.insert(key, self.top()?);
            }
            b'p' => {
                let key = self.line()?.parse().map_err(|_| "the pickle has a memo without a number")?;
                self.memo.insert(key, self.top()?);
            }
            0x94 => drop(self.memo.insert(self.memo.len(), self.top()?)),
            b'h' | b'j' | b'g' => {
                let key = match code {
                    b'h' => self.number(1)?,
                    b'j' => self.number(4)?,
                    _ => self.line()?.parse().map_err(|_| "the pickle has a memo without a number")?,
                };
                let id = *self.memo.get(&key).ok_or("the pickle refers to a memo that it never stored")?;
                self.push_id(id)?;
            }
            other => {
                return Err(format!(
                    "refused: the pickle has the instruction {other:#04x}, which weights do not need"
                ));
            }
        }
        Ok(None)
    }
}
