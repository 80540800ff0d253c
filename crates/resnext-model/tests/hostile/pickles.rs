//! Files of `torch.save`: archives and pickles.

use super::File;
use crate::common::pickles::{Pickle, archive, bytes_of, state_dict};
use crate::common::tensors;
use crate::tiny;
use candle_core::Tensor;
use std::collections::BTreeMap;
use std::io::Write;

/// The old format of PyTorch: three pickles, that of the weights, that of the storages' keys, and these bytes.
fn legacy(version: i32, pickle: &[u8], keys: &[&str], storages: &[u8]) -> Vec<u8> {
    legacy_of(b"\x80\x02", version, pickle, keys, storages)
}

/// The same, with another beginning of its first pickle: its protocol, and the length of a frame.
fn legacy_of(start: &[u8], version: i32, pickle: &[u8], keys: &[&str], storages: &[u8]) -> Vec<u8> {
    let magic = [start, b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."].concat();
    let system = Pickle::new().dict(|p| p.text("little_endian").raw(b"\x88")).end();
    let keys = keys.iter().fold(Pickle::new().raw(b"]("), |p, key| p.text(key)).raw(b"e").end();
    [&magic[..], &Pickle::new().int(version).end()[..], &system, pickle, &keys, storages].concat()
}

/// An archive of members, each packed or not.
fn zip(members: &[(&str, &[u8])], method: ::zip::CompressionMethod) -> Vec<u8> {
    let mut zip = ::zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = ::zip::write::SimpleFileOptions::default().compression_method(method);
    for (name, bytes) in members {
        zip.start_file(*name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

pub fn files() -> Vec<File> {
    let all = tensors(&tiny());
    let dictionary = Pickle::new().dict(state_dict(&all, "")).end();
    let whole = archive(&dictionary, &all, &[]);
    let of = |pickle: Vec<u8>| archive(&pickle, &all, &[]);
    let raw = |bytes: &[u8]| of(Pickle::new().raw(bytes).end());
    let bias = |value: &dyn Fn(Pickle) -> Pickle| {
        let others: BTreeMap<String, Tensor> =
            all.clone().into_iter().filter(|(name, _)| name != "fc.bias").collect();
        of(value(Pickle::new().dict(state_dict(&others, "")).text("fc.bias")).raw(b"s").end())
    };
    let without_storages = |names: &[&str]| {
        let kept = all.clone().into_iter().filter(|(name, _)| !names.contains(&name.as_str())).collect();
        archive(&dictionary, &kept, &[])
    };
    let end = whole.windows(4).rposition(|bytes| bytes == b"PK\x05\x06").unwrap();
    let bias_bytes = bytes_of(&all["fc.bias"]);
    let of_bias = whole.windows(bias_bytes.len()).position(|bytes| bytes == bias_bytes).unwrap();
    let changed = |at: usize, bytes: &[u8]| {
        let mut changed = whole.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        changed
    };
    let stored = ::zip::CompressionMethod::Stored;
    let one = Pickle::new().dict(|p| p.text("fc.bias").tensor("k", 0, &[3], &[1])).end();
    let three = bias_bytes.clone();
    let count = |count: u64| [&count.to_le_bytes()[..], &three].concat();
    let bare = |bytes: &[u8]| Pickle::new().raw(bytes).end();
    vec![
        ("an archive", whole.clone()),
        ("an archive cut in the middle", whole[..whole.len() / 2].to_vec()),
        ("an archive cut in its end", whole[..whole.len() - 3].to_vec()),
        ("an archive whose storage has a wrong checksum", changed(of_bias, &[0x55])),
        ("an archive of no members", zip(&[], stored)),
        ("an archive of four bytes", b"PK\x03\x04".to_vec()),
        ("an archive of 65535 members by its own account", changed(end + 8, &[0xff; 4])),
        ("an archive whose directory is behind its end", changed(end + 16, &[0xff, 0xff, 0xff, 0x7f])),
        ("an archive whose directory is its start", changed(end + 16, &[0; 4])),
        ("an archive with bytes behind its end", [&whole[..], b"more"].concat()),
        ("an archive with bytes before its start", [b"more", &whole[..]].concat()),
        ("an archive without a pickle", zip(&[("archive/version", b"3")], stored)),
        ("an archive of a pickle without a folder", zip(&[("data.pkl", &dictionary)], stored)),
        ("an archive of a pickle above", zip(&[("../data.pkl", &one), ("../data/k", &three)], stored)),
        (
            "an archive of two pickles",
            zip(&[("a/data.pkl", &one), ("a/data/k", &three), ("b/c/data.pkl", b"")], stored),
        ),
        ("an archive of an empty pickle", zip(&[("a/data.pkl", b"")], stored)),
        ("an archive of a web page", zip(&[("a/data.pkl", b"<html>")], stored)),
        ("an archive without its storages", without_storages(&["fc.bias"])),
        (
            "an archive whose storage is too short",
            archive(
                &dictionary,
                &{
                    let mut all = all.clone();
                    all.insert("fc.bias".into(), all["fc.bias"].narrow(0, 0, 1).unwrap());
                    all
                },
                &[],
            ),
        ),
        ("an archive of another machine", archive(&dictionary, &all, &[("byteorder", b"big")])),
        ("an archive of an unknown byte order", archive(&dictionary, &all, &[("byteorder", b"middle")])),
        ("an archive of a program", archive(&dictionary, &all, &[("code/__torch__.py", b"")])),
        ("a pickle of protocol 255", of([&b"\x80\xff"[..], &dictionary[2..]].concat())),
        ("a pickle that stops at once", raw(b"")),
        ("a pickle without an end", of(vec![0x80, 2, b'N'])),
        ("a pickle of an unknown instruction", raw(b"\xff")),
        ("a pickle of a list that holds itself", raw(b"]q\0h\0a")),
        ("a pickle of two lists that hold each other", raw(b"]q\0]q\x01h\0ah\x01a")),
        ("a pickle of a dictionary under itself", raw(b"}q\0X\x01\0\0\0ah\0s")),
        (
            "a pickle of a tuple of a million levels",
            of(Pickle::new().raw(b")").raw(&b"\x85".repeat(1_000_000)).end()),
        ),
        ("a pickle of ten million values", of(Pickle::new().raw(&b"K\x01".repeat(10_000_000)).end())),
        ("a pickle of ten million marks", of(Pickle::new().raw(&b"(".repeat(10_000_000)).end())),
        (
            "a pickle of a list that doubles",
            of(Pickle::new().raw(b"](NNNNNNNNNNe").raw(&b"q\0ctorch\nSize\nh\0\x85R".repeat(2)).end()),
        ),
        ("a pickle of a text of 2⁶³ bytes", raw(b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f")),
        ("a pickle of a text of 2⁶⁴ - 1 bytes", raw(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff")),
        ("a pickle of a number of two gigabytes", raw(b"\x8b\xff\xff\xff\x7f")),
        ("a pickle of a text that is not UTF-8", raw(b"X\x02\0\0\0\xff\xfe")),
        ("a pickle of a class of no name", raw(b"c\n\n")),
        ("a pickle of a class of control characters", raw(b"cfoo\x1b[31m\nbar\x07\n)R")),
        ("a pickle of a class without an end", of(b"\x80\x02ctorch".to_vec())),
        ("a pickle that runs a program", raw(b"cos\nsystem\nX\x01\0\0\0x\x85R")),
        (
            "a pickle that runs a program by its parts",
            raw(b"X\x02\0\0\0osX\x06\0\0\0system\x93X\x01\0\0\0x\x85R"),
        ),
        ("a pickle that reads a file", raw(b"c__builtin__\nopen\nX\x01\0\0\0x\x85R")),
        ("a pickle of an unknown memo", raw(b"h\x05")),
        ("a pickle of a memo that is no number", raw(b"gabc\n")),
        (
            "a pickle of a storage that is a text",
            bias(&|p| {
                p.call("torch._utils", "_rebuild_tensor_v2", |p| {
                    p.text("storage").raw(b"Q").int(0).ints(&[3]).ints(&[1])
                })
            }),
        ),
        ("a tensor of 65 dimensions", bias(&|p| p.tensor("fc.bias", 0, &[1; 65], &[1; 65]))),
        ("a tensor of fewer strides than dimensions", bias(&|p| p.tensor("fc.bias", 0, &[3, 1], &[1]))),
        ("a tensor that starts behind its storage", bias(&|p| p.tensor("fc.bias", 3, &[3], &[1]))),
        ("a tensor that starts at -1", bias(&|p| p.tensor("fc.bias", -1, &[3], &[1]))),
        ("a tensor of strides of two billion", bias(&|p| p.tensor("fc.bias", 0, &[3], &[i32::MAX as i64]))),
        ("a tensor of two billion elements", bias(&|p| p.tensor("fc.bias", 0, &[i32::MAX as i64], &[1]))),
        (
            "a tensor whose size overflows",
            bias(&|p| p.tensor("fc.bias", 0, &[i32::MAX as i64; 3], &[0, 0, 0])),
        ),
        ("a tensor of no storage", bias(&|p| p.tensor("none", 0, &[3], &[1]))),
        (
            "a tensor of integers",
            bias(&|p| {
                p.call("torch._utils", "_rebuild_tensor_v2", |p| {
                    p.storage("LongStorage", "fc.bias").int(0).ints(&[1]).ints(&[1]).raw(b"\x89}")
                })
            }),
        ),
        (
            "a tensor without data",
            bias(&|p| p.call("torch._utils", "_rebuild_meta_tensor_no_storage", |p| p)),
        ),
        ("a sparse tensor", bias(&|p| p.call("torch._utils", "_rebuild_sparse_tensor", |p| p.int(0)))),
        ("an old file", legacy(1001, &one, &["k"], &count(3))),
        ("an old file of protocol 3", legacy_of(b"\x80\x03", 1001, &one, &["k"], &count(3))),
        (
            "an old file of protocol 4",
            legacy_of(b"\x80\x04\x95\x0d\0\0\0\0\0\0\0", 1001, &one, &["k"], &count(3)),
        ),
        ("an old file of version 1002", legacy(1002, &one, &["k"], &count(3))),
        ("an old file cut in its pickles", legacy(1001, &one, &["k"], &[])[..60].to_vec()),
        ("an old file cut in its storage", legacy(1001, &one, &["k"], &count(3)[..15])),
        ("an old file without its storage", legacy(1001, &one, &["k"], &[])),
        ("an old file of a storage of 2⁶⁴ - 1 elements", legacy(1001, &one, &["k"], &count(u64::MAX))),
        ("an old file of a storage of 2⁶² elements", legacy(1001, &one, &["k"], &count(1 << 62))),
        ("an old file of no keys", legacy(1001, &one, &[], &count(3))),
        ("an old file of a million keys", legacy(1001, &one, &vec!["x"; 1_000_000], &[])),
        ("a bare pickle", bare(b"}")),
        ("a bare pickle that runs a program", bare(b"cposix\nsystem\nX\x01\0\0\0x\x85R")),
        ("a bare pickle without an end", b"\x80\x02}q".to_vec()),
    ]
}
