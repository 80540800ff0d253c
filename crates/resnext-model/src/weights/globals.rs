//! The classes and functions that a pickle of weights names.

/// A class or function that a pickle names. None is ever called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    /// `OrderedDict`, `defaultdict`, `dict`.
    Dict,
    /// `torch.Size`, `tuple`.
    Tuple,
    /// `_rebuild_tensor` and `_rebuild_tensor_v2`: the storage knows its type.
    RebuildTensor,
    /// `_rebuild_tensor_v3`: the type is an argument.
    RebuildTyped,
    /// `_rebuild_qtensor`, of quantized integers.
    RebuildQuantized,
    /// The functions of tensors that are not read: what those are.
    RebuildUnread(&'static str),
    RebuildParameter,
    RebuildFromType,
    /// The class of a storage, or a type, by its elements.
    Storage(Element),
    /// Any other class or function.
    Other,
}

/// The type of a storage's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    F16,
    Bf16,
    F32,
    F64,
    /// A type that weights cannot have: what it is, and its size in bytes.
    Unusable(&'static str, usize),
}

/// The types of storages and the names of `torch.dtype`, beside those of the four usable elements.
const UNUSABLE: [(&str, &str, Element); 19] = [
    ("BoolStorage", "bool", Element::Unusable("booleans", 1)),
    ("ByteStorage", "uint8", Element::Unusable("integers", 1)),
    ("CharStorage", "int8", Element::Unusable("integers", 1)),
    ("ShortStorage", "int16", Element::Unusable("integers", 2)),
    ("IntStorage", "int32", Element::Unusable("integers", 4)),
    ("LongStorage", "int64", Element::Unusable("integers", 8)),
    ("", "uint16", Element::Unusable("integers", 2)),
    ("", "uint32", Element::Unusable("integers", 4)),
    ("", "uint64", Element::Unusable("integers", 8)),
    ("", "float8_e4m3fn", Element::Unusable("8-bit floats", 1)),
    ("", "float8_e5m2", Element::Unusable("8-bit floats", 1)),
    ("", "complex32", Element::Unusable("complex numbers", 4)),
    ("ComplexFloatStorage", "complex64", Element::Unusable("complex numbers", 8)),
    ("ComplexDoubleStorage", "complex128", Element::Unusable("complex numbers", 16)),
    ("QInt8Storage", "qint8", Element::Unusable("quantized integers", 1)),
    ("QUInt8Storage", "quint8", Element::Unusable("quantized integers", 1)),
    ("QInt32Storage", "qint32", Element::Unusable("quantized integers", 4)),
    ("QUInt4x2Storage", "quint4x2", Element::Unusable("quantized integers", 1)),
    ("UntypedStorage", "", Element::Unusable("bytes", 1)),
];

/// Modules of Python with functions that run programs or code, or reach files and the network. A pickle that
/// names one of these was made to attack, so it is refused even though nothing is ever called here.
const ATTACKS: [&str; 20] = [
    "asyncio",
    "bdb",
    "code",
    "codeop",
    "commands",
    "ctypes",
    "http",
    "importlib",
    "multiprocessing",
    "nt",
    "os",
    "pdb",
    "posix",
    "pty",
    "runpy",
    "shutil",
    "socket",
    "subprocess",
    "sys",
    "webbrowser",
];

/// The functions of the module `builtins` that do.
const ATTACKING_BUILTINS: [&str; 8] =
    ["__import__", "breakpoint", "compile", "delattr", "eval", "exec", "execfile", "open"];

impl Element {
    /// The type of a storage's class or of a `torch.dtype`.
    fn named(name: &str) -> Option<Element> {
        Some(match name {
            "HalfStorage" | "float16" | "half" => Element::F16,
            "BFloat16Storage" | "bfloat16" => Element::Bf16,
            "FloatStorage" | "float32" | "float" => Element::F32,
            "DoubleStorage" | "float64" | "double" => Element::F64,
            "" => return None,
            _ => UNUSABLE.iter().find(|(storage, dtype, _)| name == *storage || name == *dtype)?.2,
        })
    }

    /// The number of bytes per element.
    pub(super) fn bytes(self) -> usize {
        match self {
            Element::F16 | Element::Bf16 => 2,
            Element::F32 => 4,
            Element::F64 => 8,
            Element::Unusable(_, bytes) => bytes,
        }
    }
}

impl Global {
    /// The class or function `name` of `module`. `None` if it is none that weights are made of.
    pub(super) fn known(module: &str, name: &str) -> Option<Global> {
        Some(match (module, name) {
            ("collections", "OrderedDict" | "defaultdict") | ("builtins" | "__builtin__", "dict") => {
                Global::Dict
            }
            ("torch", "Size") | ("builtins" | "__builtin__", "tuple") => Global::Tuple,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Global::RebuildTensor,
            ("torch._utils", "_rebuild_tensor_v3") => Global::RebuildTyped,
            ("torch._utils", "_rebuild_qtensor") => Global::RebuildQuantized,
            ("torch._utils", "_rebuild_sparse_tensor" | "_rebuild_sparse_csr_tensor") => {
                Global::RebuildUnread("a sparse tensor: save it after to_dense()")
            }
            ("torch._utils", "_rebuild_nested_tensor") => Global::RebuildUnread("a nested tensor"),
            ("torch._utils", "_rebuild_meta_tensor_no_storage") => {
                Global::RebuildUnread("a tensor on PyTorch's device meta, which holds no values")
            }
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state")
            | ("torch.nn.parameter", "Parameter" | "Buffer") => Global::RebuildParameter,
            ("torch._tensor", "_rebuild_from_type_v2") => Global::RebuildFromType,
            ("torch" | "torch.cuda" | "torch.storage", name) => Global::Storage(Element::named(name)?),
            _ => return None,
        })
    }

    /// Checks that a class or function is none with which pickles attack the program that loads them.
    ///
    /// # Errors
    /// A text that names it.
    pub(super) fn refuse_attack(module: &str, name: &str) -> Result<(), String> {
        let first = module.split('.').next().unwrap_or(module);
        let attack = match first {
            "builtins" | "__builtin__" => ATTACKING_BUILTINS.contains(&name),
            _ => ATTACKS.contains(&first),
        };
        if attack { Err(refusal(module, name)) } else { Ok(()) }
    }
}

/// The refusal of a pickle that asks for a class or function.
pub(super) fn refusal(module: &str, name: &str) -> String {
    let (module, name) = (shortened(module), shortened(name));
    format!(
        "refused: the pickle asks for {module}.{name}, which could run code; expected tensors only, \
         such as torch.save(model.state_dict(), …) writes"
    )
}

/// A name, shortened to fit into one line of an error.
fn shortened(name: &str) -> String {
    let plain = name.chars().filter(|c| !c.is_control());
    plain.take(60).collect()
}
