//! Files of safetensors, and those of other formats that people take for weights.

use super::File;
use crate::common::{CPU, tensors};
use crate::tiny;
use candle_core::{DType, Tensor};
use std::collections::BTreeMap;

/// A file of this header and data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// The tiny network with other tensors.
fn network(change: impl FnOnce(&mut BTreeMap<String, Tensor>)) -> Vec<u8> {
    let mut all = tensors(&tiny());
    change(&mut all);
    safetensors::serialize(all, None).unwrap()
}

/// The tiny network with this tensor among its own.
fn with(name: &str, tensor: Tensor) -> Vec<u8> {
    network(|all| drop(all.insert(name.to_string(), tensor)))
}

fn zeros(shape: &[usize], dtype: DType) -> Tensor {
    Tensor::zeros(shape, dtype, &CPU).unwrap()
}

pub fn files() -> Vec<File> {
    let whole = network(|_| {});
    let len = u64::from_le_bytes(whole[..8].try_into().unwrap());
    let length = |length: u64| [&length.to_le_bytes()[..], &whole[8..]].concat();
    let one = |entry: &str, bytes: usize| file(&format!(r#"{{"a":{entry}}}"#), &vec![0; bytes]);
    let values = |values: &[f32]| Tensor::from_vec(values.to_vec(), values.len(), &CPU).unwrap();
    let many: String = (0..20_000)
        .map(|i| format!(r#","{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#))
        .collect();
    let described = |text: &str| {
        let metadata = Some([("resnext-description".to_string(), text.to_string())].into());
        safetensors::serialize(tensors(&tiny()), metadata).unwrap()
    };
    let short = |text: &[u8]| [text, &[0; 600]].concat();
    vec![
        ("the network", whole.clone()),
        ("an empty file", Vec::new()),
        ("seven bytes", vec![1; 7]),
        ("a header's length alone", whole[..8].to_vec()),
        ("a header of no bytes", length(0)),
        ("a header of 2⁶⁴ - 1 bytes", length(u64::MAX)),
        ("a header of 2⁶³ bytes", length(1 << 63)),
        ("a header of a terabyte", length(1 << 40)),
        ("a header of a byte more than the file", length(whole.len() as u64 - 7)),
        ("a header of a byte too few", length(len - 1)),
        ("a file cut in its header", whole[..100].to_vec()),
        ("a file cut in its data", whole[..whole.len() - 5].to_vec()),
        ("a file with bytes behind its data", [&whole[..], b"more"].concat()),
        ("a header of noise", file("{\u{1}\u{2}\u{3}", &[])),
        ("a header that is not UTF-8", [&9u64.to_le_bytes()[..], b"{\"\xff\xfe\":1}"].concat()),
        ("a header that is a list", file("[1, 2]", &[])),
        ("a header of deep nesting", file(&format!("{{\"a\":{}", "[".repeat(100_000)), &[])),
        ("a header of nothing", file("{}", &[])),
        ("a tensor that is a number", one("3", 0)),
        ("a tensor without a type", one(r#"{"shape":[1],"data_offsets":[0,4]}"#, 4)),
        ("a tensor of an unknown type", one(r#"{"dtype":"F77","shape":[1],"data_offsets":[0,4]}"#, 4)),
        ("a tensor of negative size", one(r#"{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}"#, 4)),
        (
            "a tensor of 10³⁰ elements",
            one(r#"{"dtype":"F32","shape":[1000000000000000000000000000000],"data_offsets":[0,4]}"#, 4),
        ),
        (
            "a tensor whose size overflows",
            one(r#"{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}"#, 4),
        ),
        (
            "a tensor of half a terabyte",
            one(r#"{"dtype":"F32","shape":[131072,1048576],"data_offsets":[0,549755813888]}"#, 4),
        ),
        (
            "a tensor that is longer than its shape",
            one(r#"{"dtype":"F32","shape":[1],"data_offsets":[0,8]}"#, 8),
        ),
        (
            "a tensor that ends before it starts",
            one(r#"{"dtype":"F32","shape":[1],"data_offsets":[8,4]}"#, 8),
        ),
        (
            "a tensor of control characters with a gap before it",
            file(r#"{"a\u001b[31m\n":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#, &[0; 8]),
        ),
        ("a type of control characters", one(r#"{"dtype":"F\n\u0007","shape":[1],"data_offsets":[0,4]}"#, 4)),
        ("a tensor that starts at -4", one(r#"{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}"#, 4)),
        ("a tensor behind the file", one(r#"{"dtype":"F32","shape":[1],"data_offsets":[400,404]}"#, 4)),
        ("a tensor with three offsets", one(r#"{"dtype":"F32","shape":[1],"data_offsets":[0,2,4]}"#, 4)),
        (
            "two tensors of the same bytes",
            file(
                r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
                &[0; 12],
            ),
        ),
        (
            "a gap between two tensors",
            file(
                r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}"#,
                &[0; 12],
            ),
        ),
        (
            "two tensors of one name",
            file(
                r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
                &[0; 8],
            ),
        ),
        ("metadata of numbers", file(r#"{"__metadata__":{"a":1}}"#, &[])),
        ("metadata alone", file(r#"{"__metadata__":{"format":"pt"}}"#, &[])),
        (
            "20000 tensors of no elements",
            file(&format!(r#"{{"x":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}{many}}}"#), &[]),
        ),
        ("a name of control characters", with("a\u{1b}[31m\nb", zeros(&[2], DType::F32))),
        ("a name of 100000 characters", with(&"a".repeat(100_000), zeros(&[2], DType::F32))),
        ("a name without characters", with("", zeros(&[2], DType::F32))),
        ("a name of dots", with("....", zeros(&[2], DType::F32))),
        ("not a number", with("fc.bias", values(&[0.0, f32::NAN, 1.0]))),
        ("infinity", with("conv1.weight", (zeros(&[4, 3, 3, 3], DType::F32) + f64::INFINITY).unwrap())),
        ("a negative variance", with("bn1.running_var", values(&[1.0, 1.0, -1.0, 1.0]))),
        ("integers as weights", with("fc.bias", zeros(&[3], DType::I64))),
        ("bytes as weights", with("fc.weight", zeros(&[3, 32], DType::U8))),
        ("a bias that is a matrix", with("fc.bias", zeros(&[3, 1], DType::F32))),
        ("a first convolution of no channels", with("conv1.weight", zeros(&[0, 3, 3, 3], DType::F32))),
        ("a first convolution of one channel", with("conv1.weight", zeros(&[4, 1, 3, 3], DType::F32))),
        ("a first convolution of 5×7", with("conv1.weight", zeros(&[4, 3, 5, 7], DType::F32))),
        ("a first convolution that is a number", with("conv1.weight", zeros(&[], DType::F32))),
        ("groups that do not divide", with("layer1.0.conv2.weight", zeros(&[4, 3, 3, 3], DType::F32))),
        ("groups of no channels", with("layer1.0.conv2.weight", zeros(&[4, 0, 3, 3], DType::F32))),
        ("no classes", with("fc.weight", zeros(&[0, 32], DType::F32))),
        ("a last layer of other features", with("fc.weight", zeros(&[3, 31], DType::F32))),
        ("a stage that is missing", network(|all| all.retain(|name, _| !name.starts_with("layer1.")))),
        (
            "a block that is missing",
            network(|all| {
                let renamed = std::mem::take(all)
                    .into_iter()
                    .map(|(name, t)| (name.replace("layer2.0", "layer2.1"), t));
                all.extend(renamed);
            }),
        ),
        ("a description of nothing", described("")),
        ("a description of deep nesting", described(&"[".repeat(100_000))),
        ("a description of another version", described(r#"{"version": 9}"#)),
        ("a web page", b"<!DOCTYPE html>\n<html><body>Log in</body></html>".to_vec()),
        ("a pointer of Git LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n".to_vec()),
        ("a text", b"Dear diary, today I am a network.".to_vec()),
        ("a gzip archive", short(b"\x1f\x8b\x08\0")),
        ("a bzip2 archive", short(b"BZh9")),
        ("an xz archive", short(b"\xfd7zXZ\0")),
        ("an HDF5 file", short(b"\x89HDF\r\n\x1a\n")),
        ("a GGUF file", short(b"GGUF\x03\0\0\0")),
        ("a NumPy array", short(b"\x93NUMPY\x01\0")),
        ("an ONNX file", short(b"\x08\x08\x12\x07pytorch")),
        ("a tar archive", [&[0; 257][..], b"ustar", &[0; 400]].concat()),
        ("zeros", vec![0; 1000]),
    ]
}
