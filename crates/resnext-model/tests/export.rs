//! Exported weights read back, and the structure of ONNX files. scripts/golden/exports.py loads both kinds in
//! torchvision and onnxruntime.

mod common;

use candle_core::DType;
use common::{CPU, difference, images, save, shapes, tensors, values, weight};
use resnext_model::export::Export;
use resnext_model::{
    Architecture, Baseline, BlockKind, Config, Description, Form, Fused, Preprocessing, Pretrained, Shortcut,
    Weights, convert,
};
use std::path::PathBuf;

fn saved(folder: &tempfile::TempDir, config: &Config) -> (PathBuf, Weights) {
    let path = folder.path().join("weights.safetensors");
    let c = Config { form: Form::C, ..config.clone() };
    save(&convert::network(&tensors(&c), &c, config.form).unwrap(), &path);
    let weights = Weights::open(&path).unwrap();
    (path, weights)
}

#[test]
fn safetensors_come_back_in_every_type_and_from_every_form() {
    let folder = tempfile::tempdir().unwrap();
    let x = images((1, 3, 32, 32));
    for form in [Form::A, Form::B, Form::C] {
        let config = Config { form, ..Config::by_name("resnext11_4x4d").unwrap() };
        let (path, weights) = saved(&folder, &config);
        let logits = |weights: &Weights| {
            let network =
                Fused::new(&weights.config().unwrap(), weights.builder(DType::F32, &CPU), DType::F32)
                    .unwrap();
            values(&network.forward(&x).unwrap())
        };
        let expected = logits(&weights);
        for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::F16, 5e-3), (DType::BF16, 5e-2)] {
            let bytes = Export::new(&weights).unwrap().safetensors(dtype).unwrap();
            let out = path.with_file_name("out.safetensors");
            std::fs::write(&out, &bytes).unwrap();
            let again = Weights::open(&out).unwrap();
            assert_eq!(again.config().unwrap(), Config { form: Form::C, ..config.clone() });
            assert!(difference(&logits(&again), &expected) < tolerance, "{form:?} {dtype:?}");
            // The file has all of torchvision's names, which are five per batch norm.
            let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            let norms = file.names().iter().filter(|name| name.ends_with("num_batches_tracked")).count();
            assert_eq!(file.names().len(), again.shapes().count() + norms);
            assert_eq!(again.metadata()["format"], "pt");
        }
    }
}

/// What shapes say is read from them; that there are no shortcuts is in the file's description.
#[test]
fn widths_and_missing_shortcuts_come_back_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let named = Config::by_name("resnext11_4x4d").unwrap();
    for form in [Form::A, Form::B, Form::C] {
        let widths = vec![4, 7, 18];
        let config = Config { form, widths, shortcut: Shortcut::None, ..named.clone() };
        let (path, weights) = saved(&folder, &config);
        let inferred = weights.config().unwrap();
        assert_eq!(inferred, Config { shortcut: Shortcut::Identity, ..config.clone() });
        let description = Description {
            preprocessing: Preprocessing::usual(config.stem),
            class_names: None,
            network: config.clone().into(),
        };
        let metadata = Some([(Description::KEY.to_string(), description.to_json())].into());
        let joined = Config { form: Form::C, ..config.clone() };
        let tensors = convert::network(&tensors(&joined), &joined, form);
        safetensors::serialize_to_file(&tensors.unwrap(), metadata, &path).unwrap();
        assert_eq!(Pretrained::open(&path).unwrap().network, config.clone().into());
        // Weights with projections are of another network than the description.
        let projected = Config { shortcut: Shortcut::Projection, ..config.clone() };
        assert!(Description::from_json(&description.to_json(), &projected.into()).is_err());
    }
}

#[test]
fn a_weight_that_f16_cannot_hold_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut all = tensors(&Config::by_name("resnext11_4x4d").unwrap());
    let large = (all["fc.weight"].clone() * 1e6).unwrap();
    all.insert("fc.weight".into(), large);
    let path = folder.path().join("weights.safetensors");
    save(&all, &path);
    let export = Export::new(&Weights::open(&path).unwrap()).unwrap();
    for error in [export.safetensors(DType::F16).unwrap_err(), export.onnx("x", DType::F16).unwrap_err()] {
        let error = error.to_string();
        assert!(error.contains("which F16 cannot hold: fc.weight"), "{error}");
    }
    export.safetensors(DType::BF16).unwrap();
    assert!(export.safetensors(DType::U8).is_err());
}

#[test]
fn a_network_of_basic_blocks_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { depths: vec![1, 2], ..Config::by_name("resnet18").unwrap() };
    let (path, weights) = saved(&folder, &config);
    let bytes = Export::new(&weights).unwrap().safetensors(DType::F32).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    let again = Weights::open(&path).unwrap();
    assert_eq!(again.config().unwrap(), config);
    again.check(&config, resnext_model::Head::Loaded).unwrap();
}

/// Squeeze and excitation, deep stems and pooled shortcuts come back, and ONNX files have their operations.
#[test]
fn timms_relatives_come_back() {
    let folder = tempfile::tempdir().unwrap();
    for (name, operations) in [
        ("seresnextaa14d_4x4d", ["Sigmoid", "AveragePool", "layer4.0.se.fc2", "layer2.0.downsample.2"]),
        ("ecaresnetblur10t", ["Transpose", "reflect", "layer4.0.se.conv", "conv1.6"]),
    ] {
        let config = Config { planes: 16, ..Config::by_name(name).unwrap() };
        let base_width = if config.block == BlockKind::Basic { 16 } else { 4 };
        let config = Config { base_width, ..config };
        let (path, weights) = saved(&folder, &config);
        let export = Export::of(&weights, &config).unwrap();
        std::fs::write(&path, export.safetensors(DType::F32).unwrap()).unwrap();
        // Nothing says how images are prepared, so the file has no description, which alone shows the pools.
        let again = Weights::open(&path).unwrap().config().unwrap();
        assert_eq!(Config { anti_alias: config.anti_alias, ..again }, config);
        let bytes = export.onnx("network", DType::F32).unwrap();
        for text in operations {
            assert!(bytes.windows(text.len()).any(|window| window == text.as_bytes()), "{name}: {text}");
        }
    }
}

#[test]
fn onnx_files_shrink_with_their_type() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config::by_name("resnext20_8x4d").unwrap();
    let export = Export::new(&saved(&folder, &config).1).unwrap();
    let len = |dtype| export.onnx("network", dtype).unwrap().len();
    let parameters = 247_898;
    assert!((len(DType::F32) as f64 / (4 * parameters) as f64 - 1.0).abs() < 0.05);
    assert_eq!(len(DType::F16), len(DType::BF16));
    assert!(len(DType::F16) < len(DType::F32) * 6 / 10);
    let bytes = export.onnx("network", DType::F32).unwrap();
    // The file starts with IR version 8.
    assert_eq!(bytes[..2], [8, 8]);
    for text in ["images", "batch", "logits", "layer3.1.conv2.weight", "BatchNormalization"] {
        assert!(bytes.windows(text.len()).any(|window| window == text.as_bytes()), "{text}");
    }
}

/// An Inception is found under a prefix and without its auxiliary classifier, and comes back with its description.
#[test]
fn a_baseline_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let network = Architecture::Baseline { baseline: Baseline::InceptionV3, classes: 7 };
    let mut all = shapes(Baseline::InceptionV3, 7);
    all.insert("AuxLogits.fc.weight".into(), vec![7, 768]);
    let named = |(name, shape): (String, Vec<usize>)| (format!("module.{name}"), weight(&name, &shape));
    save(&all.into_iter().map(named).collect(), &path);
    let found = Pretrained::open(&path).unwrap();
    assert_eq!((&found.network, found.preprocessing.size), (&network, (299, 299)));
    assert!(
        found.notes[0].contains("under `module.`; not used: module.AuxLogits.fc.weight"),
        "{:?}",
        found.notes
    );

    let mut export = Export::new(&found.weights).unwrap();
    let names = (0..7).map(|class| format!("class {class}")).collect();
    let preprocessing = Preprocessing { size: (75, 75), ..found.preprocessing };
    let description = Description { preprocessing, class_names: Some(names), network: network.clone() };
    export.describe(description.clone());
    std::fs::write(&path, export.safetensors(DType::F16).unwrap()).unwrap();
    let again = Pretrained::open(&path).unwrap();
    assert_eq!((again.network, again.preprocessing), (network, description.preprocessing));
    assert_eq!((again.labels, again.preprocessing_is_assumed), (description.class_names, false));
    let bytes = export.onnx("network", DType::F16).unwrap();
    for text in ["Concat", "AveragePool", "Mixed_7c.branch3x3dbl_3b.conv.weight", "height"] {
        assert!(bytes.windows(text.len()).any(|window| window == text.as_bytes()), "{text}");
    }
    // A configuration beside it must be of the same network.
    let config = folder.path().join("config.json");
    std::fs::write(&config, r#"{"architecture": "inception_v3", "num_classes": 7}"#).unwrap();
    Pretrained::open(&path).unwrap();
    std::fs::write(&config, r#"{"architecture": "inception_v4", "num_classes": 7}"#).unwrap();
    let error = Pretrained::open(&path).unwrap_err().to_string();
    assert!(error.contains("expected inception_v4, file has inception_v3"), "{error}");
}
