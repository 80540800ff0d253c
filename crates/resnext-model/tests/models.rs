//! Sizes compared with published figures, names of networks and weights, initial values.

use candle_core::{DType, Device, Tensor};
use resnext_model::{
    Baseline, BaselineNetwork, BlockKind, Config, Error, Form, ResNext, Shortcut, StemKind, Summary,
    Variables, convert, equivalence,
};

fn millions(name: &str, side: usize) -> (usize, f64) {
    let summary = Summary::new(&Config::by_name(name).unwrap(), side, side).unwrap();
    (summary.parameters(), summary.multiply_adds() as f64 / 1e9)
}

#[test]
fn parameters_are_torchvisions_and_the_papers() {
    for (name, parameters) in [
        ("resnext50_32x4d", 25_028_904),
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
        ("resnext101_64x4d", 83_455_272),
        ("resnext101_32x8d", 88_791_336),
        ("resnext101_32x4d", 44_177_704),
    ] {
        assert_eq!(millions(name, 224).0, parameters, "{name}");
    }
    for (name, parameters) in [("resnext29_8x64d", 34.4), ("resnext29_16x64d", 68.1)] {
        assert_eq!((millions(name, 32).0 as f64 / 1e5).trunc() / 10.0, parameters, "{name}");
    }
    for (name, work) in
        [("resnet18", 1.81), ("resnet34", 3.66), ("resnext50_32x4d", 4.23), ("resnext101_64x4d", 15.46)]
    {
        assert_eq!((millions(name, 224).1 * 100.0).round() / 100.0, work, "{name}");
    }
}

#[test]
fn every_form_has_the_summarys_parameters_and_the_same_output_shape() {
    for form in [Form::A, Form::B, Form::C] {
        for shortcut in [Shortcut::Projection, Shortcut::Identity, Shortcut::None] {
            let config = Config { form, shortcut, ..Config::by_name("resnext11_4x4d").unwrap() };
            let variables = Variables::new(1, DType::F32, &Device::Cpu);
            let network = ResNext::new(&config, variables.builder()).unwrap();
            assert_eq!(variables.parameter_count(), Summary::new(&config, 32, 32).unwrap().parameters());
            let x = Tensor::ones((2, 3, 15, 18), DType::F32, &Device::Cpu).unwrap();
            for train in [true, false] {
                assert_eq!(network.forward(&x, train).unwrap().dims(), [2, 10]);
            }
            let maps = network.stage_maps(&x, false).unwrap();
            assert_eq!(maps[2].dims(), [2, 256, 4, 5]);
        }
    }
}

/// He et al., arXiv 1512.03385, section 4.2: in CIFAR's ResNet-20 too, where the shortcuts have no
/// parameters.
#[test]
fn basic_blocks_have_one_path_and_one_form() {
    let resnet18 = Config::by_name("resnet18").unwrap();
    assert_eq!((resnet18.channels(), resnet18.features()), (vec![64, 128, 256, 512], 512));
    let config = Config {
        depths: vec![3, 3, 3],
        planes: 16,
        base_width: 16,
        stem: StemKind::Cifar,
        shortcut: Shortcut::Identity,
        classes: 10,
        ..resnet18.clone()
    };
    // The paper's table 6 says 0.27 million.
    assert_eq!(Summary::new(&config, 32, 32).unwrap().parameters(), 269_722);
    let variables = Variables::new(1, DType::F32, &Device::Cpu);
    let network = ResNext::new(&config, variables.builder()).unwrap();
    assert_eq!(variables.parameter_count(), 269_722);
    let x = Tensor::ones((2, 3, 15, 18), DType::F32, &Device::Cpu).unwrap();
    for train in [true, false] {
        assert_eq!(network.forward(&x, train).unwrap().dims(), [2, 10]);
    }

    for wrong in [
        Config { form: Form::A, ..resnet18.clone() },
        Config { form: Form::B, ..resnet18.clone() },
        Config { cardinality: 2, ..resnet18.clone() },
    ] {
        assert!(matches!(wrong.validate(), Err(Error::Config(_))));
        assert!(matches!(Summary::new(&wrong, 32, 32), Err(Error::Config(_))));
        assert!(ResNext::new(&wrong, variables.builder()).is_err());
    }
    let nothing = std::collections::BTreeMap::new();
    assert!(matches!(convert::network(&nothing, &resnet18, Form::A), Err(Error::Config(_))));
    let block = &equivalence::Stack::distinct_blocks(&resnet18)[0];
    let proof = equivalence::identity(block, DType::F64, &Device::Cpu, 1e-3, 1);
    assert!(proof.unwrap_err().to_string().contains("basic blocks have form c only"));
}

#[test]
fn widths_of_stages_need_not_double() {
    let config = |widths: &[usize]| Config {
        base_width: 3,
        widths: widths.to_vec(),
        ..Config::by_name("resnext11_4x4d").unwrap()
    };
    let paths = |config: &Config| config.blocks().iter().map(|stage| stage[0].path).collect::<Vec<_>>();
    assert_eq!(paths(&config(&[])), [3, 6, 12]);
    assert_eq!(paths(&config(&[3, 5, 14])), [3, 5, 14]);
    for (wrong, text) in [
        (&[3, 5][..], "one per stage"),
        (&[4, 5, 14], "starting with base_width 3"),
        (&[3, 5, 99_999], "from 1 to 16384, got 99999"),
        (&[3, 0, 14], "got 0"),
    ] {
        let error = config(wrong).validate().unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn names_are_torchvisions() {
    let variables = Variables::new(1, DType::F32, &Device::Cpu);
    ResNext::new(&Config::by_name("resnext50_32x4d").unwrap(), variables.builder()).unwrap();
    let all = variables.all();
    let shape = |name: &str| all.iter().find(|(n, _)| n == name).map(|(_, v)| v.dims().to_vec());
    assert_eq!(shape("layer1.0.conv2.weight"), Some(vec![128, 4, 3, 3]));
    assert_eq!(shape("layer4.2.bn3.running_var"), Some(vec![2048]));
    assert_eq!(shape("layer2.0.downsample.0.weight"), Some(vec![512, 256, 1, 1]));
    assert_eq!(shape("fc.bias"), Some(vec![1000]));
    // torchvision's state dict has 320 entries, 53 of them `num_batches_tracked`.
    assert_eq!(all.len(), 320 - 53);
}

#[test]
fn first_values_depend_on_seed_and_name_alone() {
    let config = Config::by_name("resnext11_4x4d").unwrap();
    let build = |seed| {
        let variables = Variables::new(seed, DType::F32, &Device::Cpu);
        ResNext::new(&config, variables.builder()).unwrap();
        let weight = variables.all().into_iter().find(|(n, _)| n == "layer1.0.conv1.weight").unwrap().1;
        weight.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    assert_eq!(build(7), build(7));
    assert_ne!(build(7), build(8));
    // He normal, fan-out: variance 2 / 16.
    let weight = build(7);
    let variance = weight.iter().map(|w| w * w).sum::<f32>() / weight.len() as f32;
    assert!((variance - 0.125).abs() < 0.03, "{variance}");
}

/// Parameters of timm 1.0.31, printed by scripts/golden/relatives.py.
#[test]
fn parameters_of_relatives_are_timms() {
    for line in include_str!("golden/parameters.txt").lines() {
        let (name, parameters) = line.split_once(' ').unwrap();
        assert_eq!(millions(name, 64).0.to_string(), parameters, "{name}");
    }
}

/// Parameters of timm 1.0.31; multiply-adds of fvcore 0.1.5 (scripts/golden/multiply_adds.py).
#[test]
fn baselines_have_timms_sizes() {
    for (baseline, parameters, multiply_adds) in [
        (Baseline::InceptionV3, 23_834_568, 5.71),
        (Baseline::InceptionV4, 42_679_816, 12.25),
        (Baseline::InceptionResNetV2, 55_843_464, 13.16),
        (Baseline::Vgg16, 138_365_992, 15.47),
        (Baseline::Vgg19, 143_678_248, 19.63),
    ] {
        let summary = baseline.summary(1000, baseline.size(), baseline.size());
        assert_eq!(summary.parameters(), parameters, "{baseline:?}");
        let multiply_adds_found = (summary.multiply_adds() as f64 / 1e7).round() / 100.0;
        assert_eq!(multiply_adds_found, multiply_adds, "{baseline:?}");
        assert_eq!(Baseline::by_name(baseline.name()), Some(baseline));
    }
    // What the network asks for is what the summary counts.
    let variables = Variables::new(1, DType::F32, &Device::Cpu);
    BaselineNetwork::new(Baseline::InceptionV3, 10, variables.builder()).unwrap();
    assert_eq!(variables.parameter_count(), Baseline::InceptionV3.summary(10, 299, 299).parameters());
}

/// The depth in a name counts the layers with weights, shortcuts, attention and the further convolutions of a
/// deep stem aside; after it follow cardinality and base width.
#[test]
fn presets_are_what_their_names_say() {
    assert!(Config::preset_names().len() > 20);
    for name in Config::preset_names() {
        let config = Config::by_name(name).unwrap();
        let number = name.trim_start_matches(|c: char| !c.is_ascii_digit());
        let (depth, size) = number.split_once('_').unwrap_or((number, "1x64d"));
        let depth = depth.trim_end_matches(|c: char| !c.is_ascii_digit());
        let size = if name.starts_with("wide") { "1x128d" } else { size };
        assert_eq!(size, format!("{}x{}d", config.cardinality, config.base_width), "{name}");
        let side = if config.stem == StemKind::ImageNet { 224 } else { 32 };
        let summary = Summary::new(&config, side, side).unwrap();
        let aside = ["downsample", ".se.", "conv1.3", "conv1.6"];
        let layers =
            summary.layers.iter().filter(|layer| !aside.iter().any(|aside| layer.name.contains(aside)));
        assert_eq!(layers.count(), depth.parse::<usize>().unwrap(), "{name}");
        assert_eq!(config.block == BlockKind::Basic, matches!(depth, "10" | "18" | "34"), "{name}");
        assert_eq!(config.classes, if config.stem == StemKind::ImageNet { 1000 } else { 10 }, "{name}");
        // The last convolution's map is 7×7 for ImageNet and 8×8 for CIFAR, as in the paper's tables.
        let side = if config.stem == StemKind::ImageNet { 7 } else { 8 };
        let mut layers = summary.layers.iter().filter(|layer| !layer.name.contains(".se."));
        let conv = layers.rfind(|layer| layer.name.contains("conv")).unwrap();
        assert_eq!(conv.output, (config.features(), side, side), "{name}");
    }
}

#[test]
fn any_size_by_name_and_suggestions_for_wrong_ones() {
    let config = Config::by_name("resnext50_16x8d").unwrap();
    assert_eq!((config.cardinality, config.base_width), (16, 8));
    let message = Config::by_name("resnext50_32x4").unwrap_err().to_string();
    assert!(
        message.contains("did you mean `resnext50_32x4d`?") && message.contains("resnext101_64x4d"),
        "{message}"
    );
    for wrong in [
        "",
        "vgg",
        "resnext50_0x4d",
        "resnext50_32x99999999999999999999d",
        "resnext50_-1x4d",
        "resnet50_32x4d",
        "resnet18_1x64d",
        "resnext18_32x4d",
        "resnext50",
    ] {
        assert!(Config::by_name(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn wrong_images_get_an_error() {
    let variables = Variables::new(1, DType::F32, &Device::Cpu);
    let network = ResNext::new(&Config::by_name("resnext11_4x4d").unwrap(), variables.builder()).unwrap();
    let x = Tensor::ones((1, 4, 32, 32), DType::F32, &Device::Cpu).unwrap();
    assert!(matches!(network.forward(&x, false), Err(Error::Input(_))));
}

#[test]
fn variables_of_an_integer_type_get_an_error() {
    let variables = Variables::new(1, DType::U8, &Device::Cpu);
    let built = ResNext::new(&Config::by_name("resnext11_4x4d").unwrap(), variables.builder());
    assert!(built.unwrap_err().to_string().contains("got U8"));
}

#[test]
fn the_papers_cifar_networks_have_these_parameters_exactly() {
    assert_eq!(millions("resnext29_8x64d", 32).0, 34_426_698);
    assert_eq!(millions("resnext29_16x64d", 32).0, 68_155_210);
}
