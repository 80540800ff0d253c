//! What files say of a network's images, classes and options.

use super::prefixed;
use crate::common::{save, tensors};
use crate::tiny;
use resnext_model::{AntiAlias, Pretrained, convert};

/// Each field of `config.json` has a value that is honoured, does not matter, or is refused by its name.
#[test]
fn every_field_of_a_configuration_is_honoured_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    save(&tensors(&tiny()), &folder.path().join("model.safetensors"));
    let open = |top: &str, arguments: &str, pretrained: &str| {
        let config = format!(
            r#"{{"architecture": "tiny", "num_classes": 3, {top} "model_args": {{{arguments}}},
                "pretrained_cfg": {{"num_classes": 1000, {pretrained} "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}}}}"#
        );
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        Pretrained::open(folder.path())
    };
    let neutral = [
        ("", r#""act_layer": "relu", "norm_layer": "batchnorm2d", "output_stride": 32, "in_chans": 3"#, ""),
        ("", r#""act_layer": "torch.nn.ReLU", "aa_layer": null, "stem_type": "", "avg_down": false"#, ""),
        ("", r#""drop_rate": 0.3, "drop_path_rate": 0.05, "zero_init_last": true, "layers": [1, 1]"#, ""),
        (r#""norm_eps": 0.00001, "test_time_pool": false,"#, "", r#""channel_order": "RGB","#),
        ("", r#""block": "Bottleneck", "cardinality": 2, "base_width": 32, "num_classes": 3"#, ""),
        (r#""global_pool": "avg", "num_features": 32,"#, r#""global_pool": "fast", "block_args": {}"#, ""),
        (r#""label_names": ["a", "b", "c"],"#, "", r#""pool_size": [1, 1], "license": "mit", "url": null,"#),
        (
            "",
            "",
            r#""first_conv": "conv1", "classifier": "fc", "label_offset": 0, "fixed_input_size": false,"#,
        ),
    ];
    for (top, arguments, pretrained) in neutral {
        let found = open(top, arguments, pretrained).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(found.preprocessing.mean, [0.5, 0.4, 0.3]);
        assert!(found.notes.is_empty() && !found.preprocessing_is_assumed, "{:?}", found.notes);
    }
    let refused = [
        ("", r#""act_layer": "silu""#, "", r#"expected act_layer relu, got "silu" (model_args.act_layer)"#),
        ("", r#""act_layer": "torch.nn.SiLU""#, "", "expected act_layer relu"),
        ("", r#""norm_layer": "groupnorm""#, "", r#"expected norm_layer batchnorm2d, got "groupnorm""#),
        ("", r#""output_stride": 8"#, "", "expected output_stride 32, got 8 (model_args.output_stride)"),
        (
            "",
            r#""global_pool": "max""#,
            "",
            r#"expected global_pool avg, got "max" (model_args.global_pool)"#,
        ),
        ("", r#""global_pool": "avgmax""#, "", "expected global_pool avg"),
        ("", r#""global_pool": """#, "", "expected global_pool avg"),
        ("", r#""global_pool": null"#, "", "there would be no pool"),
        (r#""global_pool": "catavgmax","#, "", "", "expected global_pool avg"),
        ("", r#""aa_layer": "wavelet""#, "", r#"expected aa_layer none, avg or blur, got "wavelet""#),
        ("", r#""stem_type": "deep""#, "", "expected stem_type none"),
        ("", r#""replace_stem_pool": true"#, "", "expected replace_stem_pool false, got true"),
        ("", r#""avg_down": true"#, "", "expected avg_down false"),
        ("", r#""block_reduce_first": 2"#, "", "expected block_reduce_first 1, got 2"),
        ("", r#""down_kernel_size": 3"#, "", "expected down_kernel_size 1, got 3"),
        ("", r#""block_args": {"attn_layer": "se"}"#, "", "expected block_args {}"),
        ("", r#""block_args": {"attn_layer": "cbam"}"#, "", "expected block_args {}"),
        ("", r#""features_only": true"#, "", "expected features_only false"),
        ("", r#""in_chans": 1"#, "", "expected in_chans 3, got 1"),
        ("", r#""num_classes": 5"#, "", "num_classes is 3, model_args.num_classes is 5"),
        ("", r#""surprise": {"a": 1}"#, "", r#"model_args.surprise is {"a":1}, which may change"#),
        ("", "", r#""label_offset": 1,"#, "expected label_offset 0, got 1 (pretrained_cfg.label_offset)"),
        ("", "", r#""input_size": [1, 32, 32],"#, "expected images of 3 channels, got 1"),
        ("", "", r#""input_size": [3, 0, 32],"#, "input_size must have sides of at least one pixel"),
        ("", "", r#""crop_mode": "wide","#, "expected center, squash or border, got wide"),
        ("", "", r#""interpolation": "nearest","#, "interpolation must be bilinear or bicubic, got nearest"),
        ("", "", r#""crop_pct": "0.9","#, "pretrained_cfg.crop_pct: invalid type"),
        ("", "", r#""crop_pct": 1.5,"#, "crop_pct must be above 0 and at most 1, got 1.5"),
        (r#""norm_eps": 0.001,"#, "", "", "expected norm_eps 1e-5, got 0.001 (norm_eps)"),
        (r#""test_time_pool": true,"#, "", "", "expected test_time_pool false, got true"),
        ("", r#""norm_kwargs": {"eps": 0.001}"#, "", r#"expected norm_kwargs {}, got {"eps":0.001}"#),
        ("", "", r#""channel_order": "bgr","#, r#"expected channel_order rgb, got "bgr""#),
        ("", "", r#""label_names": ["a"],"#, "expected 3 label_names, got 1"),
    ];
    for (top, arguments, pretrained, expected) in refused {
        let error = open(top, arguments, pretrained).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("config.json: "), "expected {expected}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    for other in ["densenet121", "resnetv2_50", "resnetrs50", "skresnext50_32x4d", "resnet50_gn"] {
        std::fs::write(folder.path().join("config.json"), format!(r#"{{"architecture": "{other}"}}"#))
            .unwrap();
        let error = Pretrained::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("as architecture, got {other}")), "{error}");
    }
    // The weights do not show what takes the place of strides.
    let anti_alias = |arguments: &str| open("", arguments, "").unwrap().network.config().unwrap().anti_alias;
    assert_eq!(anti_alias(""), AntiAlias::None);
    assert_eq!(anti_alias(r#""aa_layer": "blurpool""#), AntiAlias::Blur);
    assert_eq!(anti_alias(r#""aa_layer": "torch.nn.AvgPool2d""#), AntiAlias::Average);
    // timm's own files say it by the architecture alone, unless an argument says otherwise.
    let named = |arguments: &str| {
        let config = format!(r#"{{"architecture": "resnextblur7_2x32d", "model_args": {{{arguments}}}}}"#);
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        Pretrained::open(folder.path()).unwrap().network.config().unwrap().anti_alias
    };
    assert_eq!(named(""), AntiAlias::Blur);
    assert_eq!(named(r#""aa_layer": null"#), AntiAlias::None);
    let unknown = open(r#""colour_space": "bgr","#, "", r#""gamma": 2.2,"#).unwrap();
    assert_eq!(
        unknown.notes,
        ["fields of config.json that are not known: pretrained_cfg.gamma, colour_space"]
    );
    let border =
        open("", "", r#""crop_mode": "border", "crop_pct": 0.9, "interpolation": "bicubic","#).unwrap();
    assert_eq!(
        border.preprocessing.to_string(),
        "32×32 of 35, crop mode border, bicubic, mean [0.5, 0.4, 0.3], std [0.2, 0.2, 0.2]"
    );
}

/// A description in the file's own metadata is used, and checked.
#[test]
fn a_file_says_how_its_images_are_prepared() {
    use resnext_model::export::Export;
    use resnext_model::{Config, CropMode, Description, Form, Preprocessing};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    save(&prefixed(""), &path);
    let plain = Pretrained::open(&path).unwrap();
    assert!(plain.preprocessing_is_assumed);
    let preprocessing = Preprocessing {
        size: (40, 48),
        crop_pct: 0.9,
        crop_mode: CropMode::Squash,
        interpolation: "bicubic".into(),
        mean: [0.1, 0.2, 0.3],
        std: [0.4, 0.5, 0.6],
    };
    let class_names = Some(vec!["ant".to_string(), "bée".into(), "\"cat\"".into()]);
    let description = Description { preprocessing, class_names, network: tiny().into() };
    let write = |description: Option<Description>| {
        let mut export = Export::new(&plain.weights).unwrap();
        if let Some(description) = description {
            export.describe(description);
        }
        std::fs::write(
            folder.path().join("out.safetensors"),
            export.safetensors(candle_core::DType::F32).unwrap(),
        )
        .unwrap();
        Pretrained::open(&folder.path().join("out.safetensors"))
    };
    assert!(write(None).unwrap().preprocessing_is_assumed);
    let found = write(Some(description.clone())).unwrap();
    assert_eq!((&found.preprocessing, &found.labels), (&description.preprocessing, &description.class_names));
    assert!(!found.preprocessing_is_assumed && found.notes.is_empty());
    // The form of the blocks does not change the function.
    let paths = convert::network(&tensors(&tiny()), &tiny(), Form::A).unwrap();
    let metadata = Some([(Description::KEY.to_string(), description.to_json())].into());
    safetensors::serialize_to_file(&paths, metadata, &path).unwrap();
    assert_eq!(Pretrained::open(&path).unwrap().preprocessing, description.preprocessing);
    // Blurs have no weights: the description is all that shows them.
    let blurred = Config { anti_alias: AntiAlias::Blur, ..tiny() };
    let metadata = Some(
        [(
            Description::KEY.to_string(),
            Description { network: blurred.clone().into(), ..description.clone() }.to_json(),
        )]
        .into(),
    );
    safetensors::serialize_to_file(&tensors(&tiny()), metadata, &path).unwrap();
    assert_eq!(Pretrained::open(&path).unwrap().network, blurred.clone().into());
    // A configuration whose architecture says nothing of them leaves them.
    std::fs::write(folder.path().join("config.json"), r#"{"architecture": "mine", "pretrained_cfg": {}}"#)
        .unwrap();
    assert_eq!(Pretrained::open(&path).unwrap().network, blurred.into());
    std::fs::remove_file(folder.path().join("config.json")).unwrap();
    safetensors::serialize_to_file(
        &prefixed(""),
        Some([(Description::KEY.to_string(), description.to_json())].into()),
        &path,
    )
    .unwrap();
    // A configuration beside it overrides it, and that is said.
    let config = r#"{"architecture": "tiny", "pretrained_cfg": {"crop_pct": 1.0}}"#;
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let found = Pretrained::open(&path).unwrap();
    assert!(found.preprocessing.crop_pct == 1.0 && found.notes[0].starts_with("config.json overrides"));
    std::fs::remove_file(folder.path().join("config.json")).unwrap();

    let fails = |text: &str, expected: &str| {
        let metadata = Some([(Description::KEY.to_string(), text.to_string())].into());
        safetensors::serialize_to_file(&prefixed(""), metadata, &path).unwrap();
        let error = Pretrained::open(&path).unwrap_err().to_string();
        assert!(error.contains(expected) && error.lines().count() == 1, "{expected}: {error}");
    };
    let json = description.to_json();
    fails("{}", "resnext-description: missing field");
    fails(&json.replace("0.4", "0.0"), "std must be above 0");
    fails(&json.replace("\"ant\",", ""), "has 2 class names, expected 3");
    fails(&json.replace("\"depths\":[1,1]", "\"depths\":[1,2]"), "is of another network than the weights");
}
