//! Weights as other programs save them, and files that are not weights.

mod common;
mod hostile;
mod origins;

use candle_core::{DType, Tensor};
use common::{CPU, difference, images, save, tensors, values, weight};
use resnext_model::{
    Architecture, Attention, Baseline, Config, Error, Form, Fused, Head, Pretrained, ResNext, StemKind,
    Variables, Weights, convert,
};
use std::path::{Path, PathBuf};

fn checkpoint(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/checkpoints").join(name)
}

/// The network of scripts/golden/checkpoints.py.
fn tiny() -> Config {
    let config = Config::by_name("resnext11_2x2d").unwrap();
    Config { depths: vec![1, 1], planes: 4, classes: 3, ..config }
}

#[test]
fn every_format_of_torch_save_gives_the_formulas_weights() {
    for (file, tolerance) in
        [("plain.pth", 0.0), ("legacy.pth", 0.0), ("training.pth", 0.0), ("half.bin", 1e-3)]
    {
        let weights = Weights::open(&checkpoint(file)).unwrap();
        assert_eq!(weights.config().unwrap(), tiny(), "{file}");
        weights.check(tiny(), Head::Loaded).unwrap();
        assert!(weights.shapes().count() > 30);
        for (name, dims) in weights.shapes() {
            let got = weights.tensor(name, &CPU).unwrap().to_dtype(DType::F32).unwrap();
            assert!(difference(&values(&got), &values(&weight(name, dims))) <= tolerance, "{file}: {name}");
        }
    }
}

#[test]
fn a_pickle_that_would_run_code_is_refused() {
    let refused = |file: &str| {
        let error = Weights::open(&checkpoint(file)).unwrap_err().to_string();
        assert!(error.contains(file) && error.contains("refused") && error.lines().count() == 1, "{error}");
        error
    };
    assert!(refused("evil.pth").contains("posix.system"));
    assert!(refused("evil.pkl").contains("posix.system"));
    // A pickled module would be built by calling its class.
    assert!(refused("module.pth").contains("torchvision.models.resnet.ResNet"));
}

#[test]
fn the_configuration_is_inferred_from_the_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    for (name, stages) in [
        ("resnext50_32x4d", 4),
        ("resnet50", 4),
        ("resnext101_64x4d", 2),
        ("resnext20_8x4d", 3),
        ("resnet18", 4),
    ] {
        let config = Config::by_name(name).unwrap();
        let depths = config.depths.iter().take(stages).map(|depth| (*depth).min(2)).collect();
        let config = Config { depths, classes: 12, ..config };
        save(&tensors(&config), &path);
        assert_eq!(Weights::open(&path).unwrap().config().unwrap(), config);
    }
    // timm's relatives; what takes the place of strides has no weights.
    for (name, planes) in [
        ("resnet50s", 16),
        ("resnet26t", 16),
        ("seresnext50d_32x4d", 16),
        ("ecaresnet18", 24),
        ("seresnet18", 64),
    ] {
        let config = Config::by_name(name).unwrap();
        let depths = config.depths.iter().map(|_| 1).collect();
        let config = Config { depths, planes, base_width: planes / config.cardinality.min(4), ..config };
        save(&tensors(&config), &path);
        assert_eq!(Weights::open(&path).unwrap().config().unwrap(), config, "{name}");
    }
    let rest = Attention::SqueezeExcite { reduction: 4 };
    let config = Config { attention: rest, depths: vec![1, 1], ..Config::by_name("resnext11_4x4d").unwrap() };
    save(&tensors(&config), &path);
    assert_eq!(Weights::open(&path).unwrap().config().unwrap(), config);
    for form in [Form::A, Form::B] {
        let config = Config { form, ..tiny() };
        save(&convert::network(&tensors(&tiny()), &tiny(), form).unwrap(), &path);
        assert_eq!(Weights::open(&path).unwrap().config().unwrap(), config);
    }
}

#[test]
fn a_network_is_read_from_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let config = Config::by_name("resnext11_8x4d").unwrap();
    let variables = Variables::new(4, DType::F32, &CPU);
    let network = ResNext::new(&config, variables.builder()).unwrap();
    let tensors = variables.all().into_iter().map(|(name, var)| (name, var.as_detached_tensor()));
    save(&tensors.collect(), &path);
    let read = |config: &Config| {
        Weights::open(&path)
            .and_then(|weights| Fused::new(config, weights.builder(DType::F32, &CPU), DType::F32))
    };
    let fused = read(&config).unwrap();
    let x = Tensor::ones((1, 3, 9, 9), DType::F32, &CPU).unwrap();
    let expected = values(&network.fuse().unwrap().forward(&x).unwrap());
    assert_eq!(values(&fused.forward(&x).unwrap()), expected);

    let other = read(&Config { classes: 7, ..config }).unwrap_err().to_string();
    assert!(other.contains("expected shape [7, 256], file has [10, 256]: fc.weight"));
}

#[test]
fn prefixes_and_other_names_become_torchvisions() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let plain = tensors(&tiny());
    for prefix in ["module.", "module.model.", "_orig_mod."] {
        save(&plain.iter().map(|(name, t)| (format!("{prefix}{name}"), t.clone())).collect(), &path);
        Weights::open(&path).unwrap().check(tiny(), Head::Loaded).unwrap();
    }
    save(&plain.iter().map(|(name, t)| (name.replace("fc.", "last_linear."), t.clone())).collect(), &path);
    Weights::open(&path).unwrap().check(tiny(), Head::Loaded).unwrap();
}

#[test]
fn a_checkpoint_has_the_averaged_weights() {
    let folder = tempfile::tempdir().unwrap();
    let average = Tensor::new(&[7f32, 8.0, 9.0], &CPU).unwrap();
    let weights = changed(folder.path(), |all| {
        all.insert("optimizer.average.fc.bias".into(), average.clone());
        all.insert("optimizer.momentum.fc.bias".into(), (&average * 2.0).unwrap());
    });
    weights.check(tiny(), Head::Loaded).unwrap();
    assert_eq!(values(&weights.tensor("fc.bias", &CPU).unwrap()), [7.0, 8.0, 9.0]);
}

/// A file of one megabyte, in which a few thousand names describe a network of 10¹⁵ weights.
#[test]
fn a_network_that_the_file_cannot_hold_is_not_built() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let scalar = Tensor::zeros(1, DType::F32, &CPU).unwrap();
    let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &CPU).unwrap();
    let mut all: std::collections::BTreeMap<_, _> = (1..=6)
        .flat_map(|s| (0..500).map(move |i| format!("layer{s}.{i}.conv1.weight")))
        .map(|name| (name, scalar.clone()))
        .collect();
    all.insert("conv1.weight".into(), zeros(&[4096, 3, 3, 3]));
    all.insert("layer1.0.conv2.weight".into(), zeros(&[4096, 4, 3, 3]));
    all.insert("layer1.0.conv3.weight".into(), scalar);
    save(&all, &path);
    let weights = Weights::open(&path).unwrap();
    let error = weights.check(weights.config().unwrap(), Head::Fresh).unwrap_err().to_string();
    assert!(error.contains("its shapes are of a network of"), "{error}");
}

/// A file of the tiny network with modified weights.
fn changed(folder: &Path, change: impl FnOnce(&mut std::collections::BTreeMap<String, Tensor>)) -> Weights {
    let mut all = tensors(&tiny());
    change(&mut all);
    let path = folder.join("changed.safetensors");
    save(&all, &path);
    Weights::open(&path).unwrap()
}

#[test]
fn weights_that_do_not_fit_are_counted_and_listed() {
    let folder = tempfile::tempdir().unwrap();
    let weights = changed(folder.path(), |all| {
        all.retain(|name, _| !name.starts_with("layer2.0.bn"));
        all.insert("bn1.weight".into(), Tensor::zeros(5, DType::F32, &CPU).unwrap());
        all.insert("extra.weight".into(), Tensor::zeros(5, DType::F32, &CPU).unwrap());
    });
    let error = weights.check(&Config { classes: 5, ..tiny() }, Head::Loaded).unwrap_err().to_string();
    for part in [
        "changed.safetensors does not fit the network",
        "3 of the wrong shape",
        "expected 5 classes, file has 3: fc.weight",
        "expected shape [4], file has [5]: bn1.weight",
        "12 missing: layer2.0.bn1.bias",
        "layer2.0.bn3.running_mean, …",
        "1 unexpected: extra.weight",
    ] {
        assert!(error.contains(part), "no `{part}` in: {error}");
    }
    assert!(!error.contains("layer2.0.bn3.weight") && error.lines().count() == 1);
}

#[test]
fn values_that_are_not_finite_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let weights = changed(folder.path(), |all| {
        all.insert("fc.bias".into(), Tensor::new(&[0.5, f32::NAN, f32::INFINITY], &CPU).unwrap());
        all.insert("bn1.running_var".into(), Tensor::new(&[1f32, -0.25, 1.0, 0.0], &CPU).unwrap());
        all.insert("bn1.running_mean".into(), Tensor::new(&[1u8, 2, 3, 4], &CPU).unwrap());
    });
    let error = |name: &str| weights.tensor(name, &CPU).unwrap_err().to_string();
    assert!(error("fc.bias").contains("2 of 3 values are not finite: fc.bias in"));
    assert!(error("bn1.running_var").contains("1 of 4 values are negative or not finite"));
    assert!(error("bn1.running_mean").contains("expected a floating type"));
    let built = ResNext::new(&tiny(), weights.builder(DType::F32, &CPU));
    assert!(built.unwrap_err().to_string().contains("in "));
}

#[test]
fn files_that_are_not_weights_get_an_error_of_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let good = {
        save(&tensors(&tiny()), &path);
        std::fs::read(&path).unwrap()
    };
    let refused = |bytes: &[u8], expected: &str| {
        std::fs::write(&path, bytes).unwrap();
        let error = Weights::open(&path).unwrap_err();
        assert!(matches!(error, Error::File { .. }));
        let error = error.to_string();
        assert!(error.contains("model.safetensors") && error.contains(expected), "{expected}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    };
    refused(b"<!DOCTYPE html>\n<html><body>Log in</body></html>", "a web page, not weights");
    refused(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer");
    refused(b"", "the file has 0");
    for len in [7, 8, 100] {
        refused(&good[..len], "neither a complete safetensors file nor one of torch.save");
    }
    refused(&good[..good.len() - 3], "bytes of data, it has");
    refused(&[&good[..], b"more"].concat(), "bytes of data, it has");
    refused(&good[..200], "its header says");
    let mut lies = good.clone();
    lies[..8].copy_from_slice(&(u64::MAX / 2).to_le_bytes());
    refused(&lies, "its header says");
    let header = br#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,16]}}"#;
    let lies = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 16]].concat();
    refused(&lies, "complete safetensors file");
    let zip = std::fs::read(checkpoint("plain.pth")).unwrap();
    refused(&zip[..zip.len() / 2], "not a complete zip archive");
    let legacy = std::fs::read(checkpoint("legacy.pth")).unwrap();
    refused(&legacy[..legacy.len() - 5], "it ends inside storage");
    refused(&legacy[..60], "cut short");
    std::fs::remove_file(&path).unwrap();
    assert!(Weights::open(&path).unwrap_err().to_string().contains("model.safetensors"));
    assert!(Weights::open(folder.path()).unwrap_err().to_string().contains("a folder"));
}

#[test]
fn other_networks_are_refused_by_what_they_have() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.safetensors");
    let refused = |change: &dyn Fn(&str) -> Option<String>, expected: &str| {
        let renamed = tensors(&tiny()).into_iter().filter_map(|(name, t)| Some((change(&name)?, t)));
        save(&renamed.collect(), &path);
        let error = Weights::open(&path).unwrap().config().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused(&|name| Some(name.replace("conv1.weight", "conv1.0.weight")), "a stem of three convolutions");
    refused(
        &|name| {
            (!name.contains("layer1.0.downsample.0.")).then(|| name.replace("downsample.1", "downsample.1.0"))
        },
        "a shortcut of another kind",
    );
    refused(&|name| Some(format!("x{name}")), "no conv1.weight");
}

#[test]
fn a_folder_has_its_configuration_and_it_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    save(&tensors(&tiny()), &folder.path().join("model.safetensors"));
    let open = |config: &str| {
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        Pretrained::open(folder.path())
    };
    let timm = |classes: usize, more: &str| {
        format!(
            r#"{{"architecture": "tiny", "num_classes": {classes}, "num_features": 32, "pretrained_cfg": {{
                "tag": "a1_in1k", "input_size": [3, 40, 48], "interpolation": "bicubic", "crop_pct": 0.95,
                "crop_mode": "center", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3], "pool_size": [7, 7]}},
                "label_names": ["n01", "n02", "n03"]{more}}}"#
        )
    };
    let found = open(&timm(3, r#", "label_descriptions": {"n02": "goldfish"}"#)).unwrap();
    assert_eq!((found.preprocessing.size, found.preprocessing.resize()), ((40, 48), 42));
    assert_eq!(found.preprocessing.interpolation, "bicubic");
    assert_eq!(found.preprocessing.std, [0.2, 0.25, 0.3]);
    assert_eq!(found.labels.unwrap(), ["n01", "goldfish", "n03"]);
    let fails = |config: &str| open(config).unwrap_err().to_string();
    assert!(
        fails(r#"{"architecture": "resnet18"}"#)
            .contains("expected resnet18, file has 2×2d in blocks [1, 1]")
    );
    let error = fails(&timm(1000, ""));
    assert!(
        error.contains("expected 1000 classes, file has 3: fc.weight in ") && error.contains("config.json")
    );
    assert!(fails(r#"{"architecture": "resnet50"}"#).contains("expected resnet50, file has 2×2d"));
    assert!(fails(r#"{"architecture": "resnetblur50"}"#).contains("expected resnetblur50, file has 2×2d"));
    assert!(fails("<html>").contains("config.json"));
    assert!(fails(&timm(3, "").replace("0.95", "0")).contains("crop_pct must be above 0"));
    assert!(fails(&timm(3, "").replace("center", "wide")).contains("crop_mode: expected center"));
    // The config.json of another program is ignored, and a missing one does not matter.
    for other in [r#"{"mean": [1, 1, 1]}"#, "{}"] {
        let usual = resnext_model::Preprocessing::usual(StemKind::Cifar);
        assert_eq!(open(other).unwrap().preprocessing, usual);
    }
    std::fs::remove_file(folder.path().join("config.json")).unwrap();
    assert_eq!(Pretrained::open(&folder.path().join("model.safetensors")).unwrap().network, tiny().into());
}

#[test]
fn a_fresh_head_has_other_classes_and_the_rest_comes_from_the_file() {
    let weights = Weights::open(&checkpoint("plain.pth")).unwrap();
    let config = Config { classes: 7, ..weights.config().unwrap() };
    let variables = Variables::new(5, DType::F32, &CPU);
    let network = ResNext::new(&config, variables.builder()).unwrap();
    assert!(weights.assign(&variables, &config, Head::Loaded).is_err());
    let head = |variables: &Variables| {
        let all = variables.all();
        values(all.iter().find(|(name, _)| name == "fc.weight").unwrap().1.as_tensor())
    };
    let fresh = head(&variables);
    weights.assign(&variables, &config, Head::Fresh).unwrap();
    assert_eq!(head(&variables), fresh);
    for (name, var) in variables.all().iter().filter(|(name, _)| !name.starts_with("fc.")) {
        assert_eq!(values(var.as_tensor()), values(&weight(name, var.dims())), "{name}");
    }
    assert_eq!(network.forward(&images((2, 3, 16, 16)), false).unwrap().dims(), [2, 7]);
}

/// Every baseline is recognised by a header alone, VGG under timm's names too, and a wrong shape is named.
#[test]
fn baselines_are_recognised() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    // A file of zeros that takes no space: nothing reads the weights.
    let write = |shapes: &std::collections::BTreeMap<String, Vec<usize>>| {
        let mut end = 0;
        let entry = |(name, shape): (&String, &Vec<usize>)| {
            let start = end;
            end += 4 * shape.iter().product::<usize>();
            (name.clone(), serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]}))
        };
        let header = serde_json::Value::Object(shapes.iter().map(entry).collect()).to_string();
        std::fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat())
            .unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len((8 + header.len() + end) as u64).unwrap();
        Weights::open(&path).unwrap()
    };
    for baseline in Baseline::ALL {
        let mut shapes = common::shapes(baseline, 9);
        let expected = Architecture::Baseline { baseline, classes: 9 };
        let weights = write(&shapes);
        assert_eq!(weights.network().unwrap(), expected);
        weights.check(&expected, Head::Loaded).unwrap();
        let error = weights.config().unwrap_err().to_string();
        assert!(error.contains(&format!("file has {}", baseline.name())), "{error}");
        if baseline == Baseline::Vgg16 {
            for (own, timm, shape) in [
                ("classifier.0", "pre_logits.fc1", vec![4096, 512, 7, 7]),
                ("classifier.3", "pre_logits.fc2", vec![4096, 4096, 1, 1]),
                ("classifier.6", "head.fc", vec![9, 4096]),
            ] {
                shapes.remove(&format!("{own}.weight")).unwrap();
                let bias = shapes.remove(&format!("{own}.bias")).unwrap();
                shapes.extend([(format!("{timm}.weight"), shape), (format!("{timm}.bias"), bias)]);
            }
            let weights = write(&shapes);
            assert_eq!(weights.network().unwrap(), expected);
            weights.check(&expected, Head::Loaded).unwrap();
        }
        let (name, shape) = shapes.iter_mut().find(|(_, shape)| shape.len() == 4).unwrap();
        shape[0] += 1;
        let name = name.clone();
        let error = write(&shapes).check(&expected, Head::Loaded).unwrap_err().to_string();
        assert!(error.contains(&name), "{name}: {error}");
    }
}
