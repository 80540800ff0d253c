//! An interpreter for the pickles that hold weights. It builds data and calls nothing: a class or function
//! that weights do not need is refused by name.

use std::collections::HashMap;

/// A value by its index in [`Pickle::values`], so that values which a pickle shares, or which contain
/// themselves, are shared here too.
pub(super) type Id = usize;

/// A value in a pickle.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Int(i64),
    Text(String),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    /// A known function with its arguments. It is not called.
    Call(Global, Id),
    /// A storage outside of the pickle.
    Persistent(Id),
    /// A value that weights do not need: a float, None, a list, bytes.
    Other,
}

/// The classes and functions that a pickle of weights may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    /// `OrderedDict`, `defaultdict`, `dict`.
    Dict,
    /// `torch.Size`.
    Tuple,
    RebuildTensor,
    RebuildParameter,
    RebuildFromType,
    /// The class of a storage, by the type of its elements.
    Storage(Element),
    /// A harmless class that is not needed here: settings beside the weights, scalars of numpy.
    Unused,
}

/// The type of a storage's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    F16,
    Bf16,
    F32,
    F64,
    /// A type that weights cannot have, by its size in bytes.
    Integer(usize),
}

impl Global {
    fn named(module: &str, name: &str) -> Result<Global, String> {
        Global::by_name(module, name).ok_or_else(|| {
            let (module, name) = (shortened(module), shortened(name));
            format!(
                "refused: the pickle asks for {module}.{name}, which could run code; expected tensors only, \
                 such as torch.save(model.state_dict(), …) writes"
            )
        })
    }

    fn by_name(module: &str, name: &str) -> Option<Global> {
        let element = |name: &str| {
            Some(match name {
                "HalfStorage" => Element::F16,
                "BFloat16Storage" => Element::Bf16,
                "FloatStorage" => Element::F32,
                "DoubleStorage" => Element::F64,
                "BoolStorage" | "ByteStorage" | "CharStorage" => Element::Integer(1),
                "ShortStorage" => Element::Integer(2),
                "IntStorage" => Element::Integer(4),
                "LongStorage" => Element::Integer(8),
                _ => return None,
            })
        };
        Some(match (module, name) {
            ("collections", "OrderedDict" | "defaultdict") | ("builtins" | "__builtin__", "dict") => {
                Global::Dict
            }
            ("torch", "Size") => Global::Tuple,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Global::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
            ("torch._tensor", "_rebuild_from_type_v2") => Global::RebuildFromType,
            ("torch" | "torch.cuda", name) if element(name).is_some() => Global::Storage(element(name)?),
            (
                "torch",
                "float16" | "bfloat16" | "float32" | "float64" | "int64" | "int32" | "uint8" | "bool"
                | "device" | "Tensor",
            )
            | ("torch.nn.parameter", "Parameter")
            | ("argparse", "Namespace")
            | ("builtins" | "__builtin__", "set" | "list" | "tuple" | "int" | "float" | "str")
            | ("numpy", "dtype" | "ndarray")
            | ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar" | "_reconstruct")
            | ("_codecs", "encode") => Global::Unused,
            _ => return None,
        })
    }
}

/// The result of interpreting a pickle.
#[derive(Debug)]
pub(super) struct Pickle {
    pub(super) values: Vec<Value>,
    pub(super) root: Id,
    /// The length of the pickle in bytes.
    pub(super) len: usize,
}

impl Pickle {
    /// Interprets the pickle at the start of `bytes`.
    ///
    /// # Errors
    /// A text that says what is refused or what is wrong.
    pub(super) fn read(bytes: &[u8]) -> Result<Pickle, String> {
        let mut machine = Machine { bytes, at: 0, values: Vec::new(), stack: Vec::new(), marks: Vec::new() };
        let mut memo = HashMap::new();
        loop {
            if let Some(root) = machine.step(&mut memo)? {
                return Ok(Pickle { values: machine.values, root, len: machine.at });
            }
        }
    }

    pub(super) fn get(&self, id: Id) -> &Value {
        &self.values[id]
    }

    pub(super) fn root_integer(&self) -> Option<i64> {
        self.integer(self.root)
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

    /// A tuple of non-negative integers.
    pub(super) fn sizes(&self, id: Id) -> Option<Vec<usize>> {
        self.tuple(id)?.iter().map(|&item| usize::try_from(self.integer(item)?).ok()).collect()
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack at its marks.
    marks: Vec<usize>,
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

    fn push(&mut self, value: Value) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    fn pop(&mut self) -> Result<Id, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("the pickle takes from an empty stack".into());
        }
        self.stack.pop().ok_or_else(|| "the pickle takes from an empty stack".into())
    }

    fn top(&self) -> Result<Id, String> {
        self.stack.last().copied().ok_or_else(|| "the pickle looks at an empty stack".into())
    }

    fn pop_marked(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or("the pickle has no mark where it needs one")?;
        Ok(self.stack.split_off(mark))
    }

    fn text(&mut self, len: usize) -> Result<(), String> {
        let text = self.take(len)?;
        let text = std::str::from_utf8(text).map_err(|_| "the pickle has a text that is not UTF-8")?;
        self.push(Value::Text(text.to_string()));
        Ok(())
    }

    fn tuple(&mut self, len: usize) -> Result<(), String> {
        let mut items = Vec::with_capacity(len);
        for _ in 0..len {
            items.push(self.pop()?);
        }
        items.reverse();
        self.push(Value::Tuple(items));
        Ok(())
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

    /// Replaces a function and its arguments, on top of the stack, by what a call would return.
    fn call(&mut self) -> Result<(), String> {
        let (args, function) = (self.pop()?, self.pop()?);
        let Value::Global(function) = self.values[function] else {
            return Err("the pickle calls something that is not a function".into());
        };
        let value = match function {
            Global::Dict => Value::Dict(Vec::new()),
            Global::Tuple => match &self.values[args] {
                Value::Tuple(items) if items.len() == 1 => {
                    self.stack.push(items[0]);
                    return Ok(());
                }
                _ => Value::Other,
            },
            Global::RebuildTensor | Global::RebuildParameter | Global::RebuildFromType => {
                Value::Call(function, args)
            }
            Global::Storage(_) | Global::Unused => Value::Other,
        };
        self.push(value);
        Ok(())
    }

    /// Interprets one instruction. Returns the pickle's value at the last one.
    fn step(&mut self, memo: &mut HashMap<usize, Id>) -> Result<Option<Id>, String> {
        let code = self.take(1)?[0];
        match code {
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'.' => return self.pop().map(Some),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_marked()?),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            b'N' | 0x88 | 0x89 | b']' | 0x8f => self.push(Value::Other),
            b'G' => {
                self.take(8)?;
                self.push(Value::Other);
            }
            b'J' => {
                let bytes = self.number(4)? as u32;
                self.push(Value::Int(bytes as i32 as i64));
            }
            b'K' | b'M' => {
                let value = self.number(if code == b'K' { 1 } else { 2 })?;
                self.push(Value::Int(value as i64));
            }
            0x8a => {
                let len = self.number(1)?;
                let bytes = self.take(len)?;
                // Integers of more than eight bytes, such as the magic number of old files, cannot be sizes.
                let sign = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { -1 } else { 0 };
                let value = bytes.iter().rev().fold(sign, |value: i64, &byte| value << 8 | byte as i64);
                self.push(if len <= 8 { Value::Int(value) } else { Value::Other });
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
            b'B' | b'C' => {
                let len = self.number(if code == b'B' { 4 } else { 1 })?;
                self.take(len)?;
                self.push(Value::Other);
            }
            b')' => self.push(Value::Tuple(Vec::new())),
            0x85..=0x87 => self.tuple(code as usize - 0x84)?,
            b't' => {
                let items = self.pop_marked()?;
                self.push(Value::Tuple(items));
            }
            b'l' => {
                self.pop_marked()?;
                self.push(Value::Other);
            }
            b'}' => self.push(Value::Dict(Vec::new())),
            b'd' => {
                let items = self.pop_marked()?;
                self.push(Value::Dict(Vec::new()));
                self.set_items(&items)?;
            }
            b'a' => drop(self.pop()?),
            b'e' | 0x90 => drop(self.pop_marked()?),
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
                self.push(Value::Global(Global::named(module, name)?));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let global = match (&self.values[module], &self.values[name]) {
                    (Value::Text(module), Value::Text(name)) => Global::named(module, name)?,
                    _ => return Err("the pickle has a name that is not a text".into()),
                };
                self.push(Value::Global(global));
            }
            b'R' | 0x81 => self.call()?,
            // An object's state: for a dictionary of weights, the versions of its modules.
            b'b' => drop(self.pop()?),
            b'Q' => {
                let id = self.pop()?;
                self.push(Value::Persistent(id));
            }
            b'q' | b'r' => {
                let key = self.number(if code == b'q' { 1 } else { 4 })?;
                memo.insert(key, self.top()?);
            }
            0x94 => drop(memo.insert(memo.len(), self.top()?)),
            b'h' | b'j' => {
                let key = self.number(if code == b'h' { 1 } else { 4 })?;
                self.stack.push(*memo.get(&key).ok_or("the pickle refers to a memo that it never stored")?);
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

/// A name, shortened to fit into one line of an error.
fn shortened(name: &str) -> String {
    let plain = name.chars().filter(|c| !c.is_control());
    plain.take(60).collect()
}
