//! Pickles of every kind, from right ones to those that attack.

use super::{Tensors, assert_whole};
use crate::common::pickles::{Pickle, archive, archive_in, state_dict, strides};
use crate::common::{CPU, tensors, values};
use crate::tiny;
use resnext_model::Weights;
use std::collections::BTreeMap;
use std::path::Path;

/// Opens an archive with this pickle and the tiny network's storages.
fn pickled(folder: &Path, pickle: Vec<u8>) -> resnext_model::Result<Weights> {
    let path = folder.join("weights.pth");
    std::fs::write(&path, archive(&pickle, &tensors(&tiny()), &[])).unwrap();
    Weights::open(&path)
}

/// PyTorch calls the folder in an archive like the file, and ends every archive with the records of zip64. A reader that
/// looks for an archive without them may take the second entry of the directory for the first.
#[test]
fn archives_are_read_whatever_their_file_was_called() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.pth");
    let all = tensors(&tiny());
    let pickle = Pickle::new().dict(state_dict(&all, "")).end();
    for len in 1..=60 {
        let mut bytes = archive_in(&"x".repeat(len), &pickle, &all, &[]);
        let end = bytes.len() - 22;
        let number = |at: usize, len: usize| bytes[end + at..][..len].to_vec();
        let (count, size, start) = (number(10, 2), number(12, 4), number(16, 4));
        let wide = |number: &[u8]| [number, &[0; 8]].concat()[..8].to_vec();
        let record = [
            b"PK\x06\x06\x2c\0\0\0\0\0\0\0\x1e\x03\x2d\0\0\0\0\0\0\0\0\0",
            &wide(&count)[..],
            &wide(&count),
            &wide(&size),
            &wide(&start),
        ]
        .concat();
        let locator = [b"PK\x06\x07\0\0\0\0", &(end as u64).to_le_bytes()[..], &1u32.to_le_bytes()].concat();
        bytes.splice(end..end, [record, locator].concat());
        std::fs::write(&path, bytes).unwrap();
        let weights = Weights::open(&path).unwrap_or_else(|error| panic!("{len}: {error}"));
        assert_whole(&weights, &len.to_string());
    }
}

#[test]
fn everything_that_pytorch_loads_as_weights_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let all = tensors(&tiny());
    let network = |prefix: &'static str| state_dict(&all, prefix);
    let fc_bias = |p: Pickle, value: &dyn Fn(Pickle) -> Pickle| {
        let others: Tensors = all.clone().into_iter().filter(|(name, _)| name != "fc.bias").collect();
        value(p.dict(state_dict(&others, "")).text("fc.bias")).raw(b"s")
    };
    // Each pushes a value beside the network, or a tensor of it, as a program may save it.
    let beside: [(&str, &dyn Fn(Pickle) -> Pickle); 14] = [
        ("a counter", &|p| p.call("collections", "Counter", |p| p.dict(|p| p.int(30).int(1)))),
        ("a bytearray", &|p| p.call("builtins", "bytearray", |p| p.raw(b"C\x03abc"))),
        ("a bytearray of protocol 5", &|p| p.raw(b"\x96\x03\0\0\0\0\0\0\0abc")),
        ("a complex number", &|p| p.call("builtins", "complex", |p| p.raw(b"G\x3f\xf0\0\0\0\0\0\0N"))),
        ("a device", &|p| p.call("torch", "device", |p| p.text("cuda").int(0))),
        ("a size", &|p| p.call("torch", "Size", |p| p.ints(&[1, 2]))),
        ("a type", &|p| p.global("torch", "float8_e4m3fn")),
        ("a set", &|p| p.raw(b"\x8f(").int(1).raw(b"\x90")),
        ("a frozen set", &|p| p.raw(b"(").int(1).raw(b"\x91")),
        ("a large integer", &|p| p.raw(b"\x8b\x09\0\0\0\x01\0\0\0\0\0\0\0\x01")),
        ("settings", &|p| {
            p.raw(b"\x80\x02")
                .global("mmengine.config.config", "ConfigDict")
                .raw(b")\x81}(")
                .text("a")
                .int(1)
                .raw(b"ub")
        }),
        ("hyperparameters", &|p| {
            p.global("lightning.fabric.utilities.data", "AttributeDict")
                .raw(b")\x81(")
                .text("lr")
                .int(1)
                .raw(b"u}b")
        }),
        ("a path", &|p| p.call("pathlib", "PosixPath", |p| p.text("runs").text("1"))),
        ("numpy's random state", &|p| {
            p.call("numpy.core.multiarray", "_reconstruct", |p| {
                p.global("numpy", "ndarray").ints(&[0]).raw(b"C\x01b")
            })
            .ints(&[1])
            .raw(b"b")
        }),
    ];
    for (case, push) in beside {
        let pickle =
            Pickle::new().dict(|p| push(p.text("other")).text("state_dict").dict(network("module.")));
        let weights = pickled(folder.path(), pickle.end()).unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_whole(&weights, case);
    }
    let tensors_of: [(&str, &dyn Fn(Pickle) -> Pickle); 6] = [
        ("a parameter", &|p| {
            p.call("torch._utils", "_rebuild_parameter", |p| p.tensor("fc.bias", 0, &[3], &[1]).raw(b"\x88}"))
        }),
        ("a parameter with state", &|p| {
            p.call("torch._utils", "_rebuild_parameter_with_state", |p| {
                p.tensor("fc.bias", 0, &[3], &[1]).raw(b"\x88}}")
            })
        }),
        ("an old parameter", &|p| {
            p.call("torch.nn.parameter", "Parameter", |p| p.tensor("fc.bias", 0, &[3], &[1]).raw(b"\x88"))
        }),
        ("a subclass of tensors", &|p| {
            p.call("torch._tensor", "_rebuild_from_type_v2", |p| {
                p.global("torch._utils", "_rebuild_tensor_v2")
                    .global("torch", "Tensor")
                    .raw(b"(")
                    .storage("FloatStorage", "fc.bias")
                    .int(0)
                    .ints(&[3])
                    .ints(&[1])
                    .raw(b"\x89}t}")
            })
        }),
        ("a tensor of an untyped storage", &|p| {
            p.call("torch._utils", "_rebuild_tensor_v3", |p| {
                let p = p.storage("UntypedStorage", "fc.bias").int(0).ints(&[3]).ints(&[1]);
                p.raw(b"\x89}").global("torch", "float32").raw(b"}")
            })
        }),
        ("the oldest function", &|p| {
            p.call("torch._utils", "_rebuild_tensor", |p| {
                p.storage("FloatStorage", "fc.bias").int(0).ints(&[3]).ints(&[1])
            })
        }),
    ];
    for (case, push) in tensors_of {
        let weights = pickled(folder.path(), fc_bias(Pickle::new(), push).end())
            .unwrap_or_else(|e| panic!("{case}: {e}"));
        assert_whole(&weights, case);
    }
    // Python 2 wrote an OrderedDict as a list of pairs, which are lists.
    let pairs = all.iter().fold(
        Pickle::new().global("collections", "OrderedDict").raw(b"(]("),
        |p, (name, tensor)| {
            let shape: Vec<i64> = tensor.dims().iter().map(|&dim| dim as i64).collect();
            p.raw(b"](").text(name).tensor(name, 0, &shape, &strides(tensor.dims())).raw(b"e")
        },
    );
    assert_whole(&pickled(folder.path(), pairs.raw(b"etR").end()).unwrap(), "Python 2");
    // Elements that a tensor repeats, or takes in another order.
    let weights =
        pickled(folder.path(), fc_bias(Pickle::new(), &|p| p.tensor("fc.bias", 1, &[3], &[0])).end())
            .unwrap();
    let expected = values(&all["fc.bias"])[1];
    assert_eq!(values(&weights.tensor("fc.bias", &CPU).unwrap()), [expected; 3]);
    let every_other = fc_bias(Pickle::new(), &|p| p.tensor("bn1.bias", 0, &[2], &[2]));
    let weights = pickled(folder.path(), every_other.end()).unwrap();
    let of_bn1 = values(&all["bn1.bias"]);
    assert_eq!(values(&weights.tensor("fc.bias", &CPU).unwrap()), [of_bn1[0], of_bn1[2]]);
}

#[test]
fn hostile_pickles_are_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let all = tensors(&tiny());
    let fc_bias = |value: &dyn Fn(Pickle) -> Pickle| {
        let others: Tensors = all.clone().into_iter().filter(|(name, _)| name != "fc.bias").collect();
        value(Pickle::new().dict(state_dict(&others, "")).text("fc.bias")).raw(b"s").end()
    };
    let beside = |value: &dyn Fn(Pickle) -> Pickle| {
        Pickle::new().dict(|p| value(p.text("x")).text("state_dict").dict(state_dict(&all, ""))).end()
    };
    let call =
        |module: &'static str, name: &'static str| move |p: Pickle| p.call(module, name, |p| p.text("x"));
    let whole = beside(&|p| p.int(1));
    let nested = |open: &[u8], close: &[u8], depth: usize| {
        Pickle::new().raw(&open.repeat(depth)).raw(&close.repeat(depth)).end()
    };
    let copies = Pickle::new()
        .raw(b"](")
        .raw(&b"N".repeat(100_000))
        .raw(b"eq\0")
        .raw(&b"ctorch\nSize\nh\0\x85R".repeat(1000));
    let cases: [(&str, Vec<u8>, &str); 27] = [
        ("os", beside(&call("os", "system")), "refused: the pickle asks for os.system"),
        ("posix", beside(&call("posix", "system")), "refused: the pickle asks for posix.system"),
        ("subprocess", beside(&call("subprocess", "Popen")), "refused: the pickle asks for subprocess.Popen"),
        ("eval", beside(&call("builtins", "eval")), "refused: the pickle asks for builtins.eval"),
        ("exec of Python 2", beside(&call("__builtin__", "execfile")), "asks for __builtin__.execfile"),
        ("runpy", beside(&call("runpy", "_run_code")), "asks for runpy._run_code"),
        ("webbrowser", beside(&call("webbrowser", "open")), "asks for webbrowser.open"),
        (
            "by stack",
            beside(&|p| p.text("os").text("system").raw(b"\x93").text("x").raw(b"\x85R")),
            "asks for os.system",
        ),
        ("an instance", beside(&|p| p.raw(b"(").text("x").raw(b"ios\nsystem\n")), "asks for os.system"),
        ("cut", whole[..whole.len() - 1].to_vec(), "the pickle is cut short"),
        ("cut in the middle", whole[..whole.len() / 2].to_vec(), "cut short"),
        ("empty", Vec::new(), "the pickle is cut short"),
        (
            "a huge text",
            Pickle::new().raw(b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f").end(),
            "the pickle is cut short",
        ),
        ("huge bytes", Pickle::new().raw(b"B\xff\xff\xff\xff").end(), "the pickle is cut short"),
        ("an empty stack", Pickle::new().raw(b"0").end(), "empty stack"),
        ("no mark", Pickle::new().raw(b"t").end(), "no mark"),
        ("an unknown memo", Pickle::new().raw(b"h\x07").end(), "a memo that it never stored"),
        ("an extension", Pickle::new().raw(b"\x82\x01").end(), "instruction 0x82"),
        ("a key alone", Pickle::new().raw(b"}(").int(1).raw(b"u").end(), "a key without a value"),
        ("a call of a number", Pickle::new().int(1).raw(b")R").end(), "not a function"),
        ("nothing", Pickle::new().raw(b"N").end(), "no dictionary"),
        (
            "no tensors",
            Pickle::new().dict(|p| p.text("epoch").int(3).text("lr").int(1)).end(),
            "its keys: epoch, lr",
        ),
        ("a copying bomb", copies.end(), "more than 8388608 values"),
        (
            "a negative size",
            fc_bias(&|p| p.tensor("fc.bias", 0, &[-3], &[1])),
            "a tensor with an invalid description: fc.bias",
        ),
        (
            "a negative stride",
            fc_bias(&|p| p.tensor("fc.bias", 2, &[3], &[-1])),
            "a tensor with an invalid description: fc.bias",
        ),
        (
            "outside",
            fc_bias(&|p| p.tensor("fc.bias", 1, &[3], &[1])),
            "reaches outside of storage fc.bias: fc.bias",
        ),
        (
            "expanded far",
            fc_bias(&|p| p.tensor("fc.bias", 0, &[1 << 30], &[0])),
            "reaches outside of storage",
        ),
    ];
    for (case, pickle, expected) in cases {
        let error = pickled(folder.path(), pickle).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("weights.pth: "), "{case}: {error}");
        assert!(error.lines().count() == 1 && error.len() < 500, "{case}: {error}");
    }
    // Deep nesting and containers that contain themselves end, in an error or without one.
    for pickle in
        [nested(b"(", b"t", 200_000), nested(b"](", b"e", 200_000), nested(b"}(K\x01", b"u", 200_000)]
    {
        pickled(folder.path(), pickle).unwrap_err();
    }
    let itself =
        Pickle::new().raw(b"}q\0(").text("again").raw(b"h\0").text("state_dict").dict(state_dict(&all, ""));
    assert_whole(
        &pickled(folder.path(), itself.raw(b"u").end()).unwrap(),
        "a dictionary that contains itself",
    );
    // One list a million times: each is looked into once.
    let many = beside(&|p| p.raw(b"]q\0(").raw(&b"h\0".repeat(1_000_000)).raw(b"e"));
    assert_whole(&pickled(folder.path(), many).unwrap(), "a list that contains itself");
}

#[test]
fn archives_of_other_kinds_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.pth");
    let all = tensors(&tiny());
    let pickle = Pickle::new().dict(state_dict(&all, "")).end();
    let refused = |bytes: &[u8], expected: &str| {
        std::fs::write(&path, bytes).unwrap();
        let error = Weights::open(&path).unwrap_err().to_string();
        assert!(error.contains(expected) && error.lines().count() == 1, "{expected}: {error}");
    };
    refused(&archive(&pickle, &all, &[("byteorder", b"big")]), "saved on a big-endian machine");
    refused(&archive(&pickle, &all, &[("code/__torch__.py", b"")]), "a TorchScript archive");
    refused(&archive(&pickle, &BTreeMap::new(), &[]), "no storage bn1.bias in the file: bn1.bias");
    refused(b"\x1f\x8b\x08\0", "a gzip archive: unpack it first");
    refused(b"\x89HDF\r\n\x1a\n", "an HDF5 file");
    refused(b"\x08\x08\x12\x07pytorch", "an ONNX file");
    std::fs::write(&path, archive(&pickle, &all, &[("byteorder", b"little"), ("version", b"3\n")])).unwrap();
    assert_whole(&Weights::open(&path).unwrap(), "byteorder");
}
