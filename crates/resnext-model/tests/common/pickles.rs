//! Writes pickles and the archives of `torch.save`, right ones and wrong ones, without Python.

use candle_core::{DType, Tensor};
use std::collections::BTreeMap;
use std::io::Write;

/// A pickle that is being written, by protocol 2. Its methods push values on the stack of whoever reads it.
#[derive(Default)]
pub struct Pickle(pub Vec<u8>);

impl Pickle {
    pub fn new() -> Self {
        Pickle(vec![0x80, 2])
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn text(self, text: &str) -> Self {
        let len = (text.len() as u32).to_le_bytes();
        self.raw(b"X").raw(&len).raw(text.as_bytes())
    }

    pub fn int(self, value: i32) -> Self {
        self.raw(b"J").raw(&value.to_le_bytes())
    }

    pub fn global(self, module: &str, name: &str) -> Self {
        self.raw(format!("c{module}\n{name}\n").as_bytes())
    }

    pub fn ints(self, values: &[i64]) -> Self {
        let start = self.raw(b"(");
        values.iter().fold(start, |pickle, &value| pickle.int(value as i32)).raw(b"t")
    }

    /// A call of `module.name` with the arguments that `push` pushes.
    pub fn call(self, module: &str, name: &str, push: impl FnOnce(Self) -> Self) -> Self {
        push(self.global(module, name).raw(b"(")).raw(b"tR")
    }

    /// The persistent id of a storage of f32.
    pub fn storage(self, class: &str, key: &str) -> Self {
        let module = if class == "UntypedStorage" { "torch.storage" } else { "torch" };
        self.raw(b"(").text("storage").global(module, class).text(key).text("cpu").int(0).raw(b"tQ")
    }

    /// A tensor of f32 in the storage `key`.
    pub fn tensor(self, key: &str, offset: i32, shape: &[i64], strides: &[i64]) -> Self {
        self.call("torch._utils", "_rebuild_tensor_v2", |p| {
            let p = p.storage("FloatStorage", key).int(offset).ints(shape).ints(strides).raw(&[0x89]);
            p.call("collections", "OrderedDict", |p| p)
        })
    }

    /// A dictionary with the items that `push` pushes: a key and a value each.
    pub fn dict(self, push: impl FnOnce(Self) -> Self) -> Self {
        push(self.raw(b"}(")).raw(b"u")
    }

    pub fn end(self) -> Vec<u8> {
        self.raw(b".").0
    }
}

/// The strides of a contiguous tensor.
pub fn strides(shape: &[usize]) -> Vec<i64> {
    (0..shape.len()).map(|d| shape[d + 1..].iter().product::<usize>() as i64).collect()
}

/// A tensor's elements, as f32.
pub fn bytes_of(tensor: &Tensor) -> Vec<u8> {
    let values = tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The items of a dictionary of weights, each in a storage of its own, whose key is its name.
pub fn state_dict<'a>(
    tensors: &'a BTreeMap<String, Tensor>,
    prefix: &'a str,
) -> impl FnOnce(Pickle) -> Pickle + 'a {
    move |pickle| {
        tensors.iter().fold(pickle, |pickle, (name, tensor)| {
            let shape: Vec<i64> = tensor.dims().iter().map(|&dim| dim as i64).collect();
            pickle.text(&format!("{prefix}{name}")).tensor(name, 0, &shape, &strides(tensor.dims()))
        })
    }
}

/// A zip archive of `torch.save` with this pickle and one storage per tensor.
pub fn archive(pickle: &[u8], tensors: &BTreeMap<String, Tensor>, more: &[(&str, &[u8])]) -> Vec<u8> {
    archive_in("archive", pickle, tensors, more)
}

/// The same with another name of its folder, which PyTorch calls like the file.
pub fn archive_in(
    folder: &str,
    pickle: &[u8],
    tensors: &BTreeMap<String, Tensor>,
    more: &[(&str, &[u8])],
) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut add = |name: String, bytes: &[u8]| {
        zip.start_file(name, stored).unwrap();
        zip.write_all(bytes).unwrap();
    };
    add(format!("{folder}/data.pkl"), pickle);
    for (name, tensor) in tensors {
        add(format!("{folder}/data/{name}"), &bytes_of(tensor));
    }
    for (name, bytes) in more {
        add(format!("{folder}/{name}"), bytes);
    }
    zip.finish().unwrap().into_inner()
}
