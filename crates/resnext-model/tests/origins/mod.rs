//! Weights as every program keeps them: under which names the network is found, and what is refused.

mod described;
mod pickled;

use crate::common::{CPU, save, tensors, values};
use crate::tiny;
use candle_core::Tensor;
use resnext_model::{Head, Pretrained, Weights};
use std::collections::BTreeMap;
use std::path::Path;

type Tensors = BTreeMap<String, Tensor>;

/// The tensors of the tiny network under other names. `None` leaves one out.
fn renamed(rename: impl Fn(&str) -> Option<String>) -> Tensors {
    tensors(&tiny()).into_iter().filter_map(|(name, t)| Some((rename(&name)?, t))).collect()
}

fn prefixed(prefix: &str) -> Tensors {
    renamed(|name| Some(format!("{prefix}{name}")))
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, candle_core::DType::F32, &CPU).unwrap()
}

fn opened(folder: &Path, tensors: &Tensors) -> resnext_model::Result<Weights> {
    let path = folder.join("weights.safetensors");
    save(tensors, &path);
    let weights = Weights::open(&path)?;
    weights.check(&weights.config()?, Head::Loaded)?;
    Ok(weights)
}

/// Asserts that the weights are those of the tiny network.
fn assert_whole(weights: &Weights, case: &str) {
    weights.check(tiny(), Head::Loaded).unwrap_or_else(|error| panic!("{case}: {error}"));
    for (name, expected) in tensors(&tiny()) {
        assert_eq!(values(&weights.tensor(&name, &CPU).unwrap()), values(&expected), "{case}: {name}");
    }
}

#[test]
fn the_network_is_found_under_every_prefix() {
    let folder = tempfile::tempdir().unwrap();
    let prefixes = [
        "module.",
        "model.",
        "backbone.",
        "encoder.",
        "resnet.",
        "_orig_mod.",
        "net.",
        "state_dict.",
        "model_state.",
        "ema.",
        "params.",
        "weights.",
        "teacher.",
        "module.model.backbone.",
        "a.b.c.d.",
        "layer1x.",
    ];
    for prefix in prefixes {
        let weights = opened(folder.path(), &prefixed(prefix)).unwrap();
        assert_whole(&weights, prefix);
        let notes = weights.notes();
        assert!(notes.len() == 1 && notes[0].contains(&format!("under `{prefix}`")), "{notes:?}");
    }
    let plain = opened(folder.path(), &prefixed("")).unwrap();
    assert!(plain.notes().is_empty(), "{:?}", plain.notes());
}

/// Adds tensors to those of a whole network, and looks for a part of the note that mentions them.
#[test]
fn what_lies_beside_the_network_is_passed_over_and_said() {
    let folder = tempfile::tempdir().unwrap();
    let cases: [(&str, &str, &[usize], &str); 14] = [
        ("", "confusion", &[3, 3], "not used: confusion"),
        ("model.", "model.history", &[10], "not used: model.history"),
        ("module.", "best_acc1", &[], "not used: best_acc1"),
        ("model.", "criterion.weight", &[3], "not used: criterion.weight"),
        ("model.", "n_averaged", &[], "not used: n_averaged"),
        ("", "total_ops", &[1], "not used: total_ops"),
        ("", "layer1.0.total_params", &[1], "not used: layer1.0.total_params"),
        ("", "loss_fn.pos_weight", &[3], "not used: loss_fn.pos_weight"),
        ("", "val_acc.correct", &[3], "not used: val_acc.correct"),
        ("", "temperature", &[], "not used: temperature"),
        ("encoder.", "normalizer.mean", &[3], "not used: normalizer.mean"),
        ("net.", "queue", &[32, 8], "not used: queue"),
        ("net.", "proj.0.weight", &[8, 32], "not used: proj.0.weight"),
        ("", "layer1.0.bn1.num_batches_tracked", &[], ""),
    ];
    for (prefix, name, shape, note) in cases {
        let mut all = prefixed(prefix);
        all.insert(name.into(), zeros(shape));
        let weights = opened(folder.path(), &all).unwrap();
        assert_whole(&weights, name);
        let notes = weights.notes().join("\n");
        assert!(notes.contains(note) && (!note.is_empty() || notes.is_empty()), "{name}: {notes}");
    }
}

#[test]
fn the_last_layer_is_found_under_every_name() {
    let folder = tempfile::tempdir().unwrap();
    let heads = [
        ("", "fc.0."),
        ("", "fc.1."),
        ("", "last_linear."),
        ("", "head.fc."),
        ("", "classifier."),
        ("", "classifier.1."),
        ("backbone.", "head.fc."),
        ("state_dict.backbone.", "state_dict.head.fc."),
        ("model.net.", "model.classifier.1."),
        ("model.encoder.net.", "model.head."),
        ("backbone.", "backbone.fc.2."),
    ];
    for (prefix, head) in heads {
        let all = renamed(|name| {
            Some(match name.strip_prefix("fc.") {
                Some(rest) => format!("{head}{rest}"),
                None => format!("{prefix}{name}"),
            })
        });
        let weights = opened(folder.path(), &all).unwrap();
        assert_whole(&weights, head);
        let note = format!("the last layer is `{}`", head.trim_end_matches('.'));
        assert!(weights.notes().join("").contains(&note), "{:?}", weights.notes());
    }
}

/// Each is another function than a ResNet with one last layer, or does not say which network is meant.
#[test]
fn what_cannot_be_understood_is_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let with = |mut all: Tensors, more: &[(&str, &[usize])]| {
        all.extend(more.iter().map(|(name, shape)| (name.to_string(), zeros(shape))));
        all
    };
    let both = |one: &str, other: &str| {
        let mut all = prefixed(one);
        all.extend(prefixed(other).into_iter().map(|(name, t)| (name, (t * 2.0).unwrap())));
        all
    };
    let headless = || renamed(|name| (!name.starts_with("fc.")).then(|| format!("net.{name}")));
    let hidden: [(&str, &[usize]); 2] = [("net.fc.0.weight", &[8, 32]), ("net.fc.2.weight", &[3, 8])];
    let normed: [(&str, &[usize]); 2] = [("net.fc.0.weight", &[32]), ("net.fc.1.weight", &[3, 32])];
    let heads: [(&str, &[usize]); 2] = [("head_a.weight", &[3, 32]), ("head_b.weight", &[5, 32])];
    let cases: [(&str, Tensors, &str); 9] = [
        ("two networks", both("student.", "teacher."), "2 networks, under `student.`, `teacher.`"),
        ("two networks, one bare", both("", "best."), "2 networks, under no prefix, `best.`"),
        (
            "a layer behind",
            with(prefixed("net."), &[("head.weight", &[2, 3])]),
            "has `head` after `net.fc`: 2×3",
        ),
        ("hidden layer", with(headless(), &hidden), "has `net.fc.2` after `net.fc.0`"),
        ("a norm before it", with(headless(), &normed), "1 unexpected: fc.0.weight"),
        (
            "several heads",
            with(headless(), &heads),
            "2 missing: fc.bias, fc.weight; file has head_a.weight, head_b.weight",
        ),
        ("no head", headless(), "missing: fc.bias, fc.weight"),
        (
            "other layers",
            with(prefixed(""), &[("attnpool.q_proj.weight", &[32, 32])]),
            "unexpected: attnpool.q_proj",
        ),
        (
            "other names",
            renamed(|name| Some(format!("resnet.encoder.stages.{}", name.replace("layer", "stage")))),
            "no conv1.weight, which every ResNet and ResNeXt has; it has resnet.encoder.stages.bn1.bias, ",
        ),
    ];
    for (case, all, expected) in cases {
        let error = opened(folder.path(), &all).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("weights.safetensors"), "{case}: {error}");
        assert_eq!(error.lines().count(), 1, "{case}: {error}");
        assert!(!error.contains('"') && error.len() < 1000, "{case}: {error}");
    }
    let error = opened(folder.path(), &renamed(|name| Some(format!("x{name}")))).unwrap_err().to_string();
    assert_eq!(error.matches(", x").count(), 9, "ten names: {error}");
}

#[test]
fn averages_take_the_place_of_what_they_average() {
    let folder = tempfile::tempdir().unwrap();
    for (plain, averaged) in [
        ("model.", "model_ema.module."),
        ("", "ema."),
        ("state_dict.", "state_dict_ema."),
        ("state_dict.model.", "state_dict.ema_model.module."),
        ("net.", "swa_state_dict."),
    ] {
        let mut all = prefixed(averaged);
        all.extend(prefixed(plain).into_iter().map(|(name, t)| (name, (t * 2.0).unwrap())));
        let weights = opened(folder.path(), &all).unwrap();
        assert_whole(&weights, averaged);
        let note = format!("averaged weights are under `{averaged}`, taken instead of those under ");
        assert!(weights.notes()[0].starts_with(&note), "{:?}", weights.notes());
    }
}

#[test]
fn averages_of_parameters_alone_take_the_statistics_of_what_they_average() {
    let folder = tempfile::tempdir().unwrap();
    let is_statistic = |name: &str| name.contains("running_");
    let average = renamed(|name| (!is_statistic(name)).then(|| format!("ema.{name}")));
    let doubled = |(name, t): (String, Tensor)| {
        let factor = if is_statistic(&name) { 1.0 } else { 2.0 };
        (name, (t * factor).unwrap())
    };
    let all: Tensors =
        average.clone().into_iter().chain(prefixed("model.").into_iter().map(doubled)).collect();
    let weights = opened(folder.path(), &all).unwrap();
    assert_whole(&weights, "average of parameters");
    let note = "the averaged weights have no running statistics: those under `model.` are taken";
    assert_eq!(weights.notes()[1], note);
    // Without a network that was averaged there are none.
    let error = opened(folder.path(), &average).unwrap_err().to_string();
    assert!(error.contains("missing: bn1.running_mean"), "{error}");
}

#[test]
fn two_copies_of_one_network_are_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut all = prefixed("model.");
    all.extend(prefixed("best_state_dict."));
    assert_whole(&opened(folder.path(), &all).unwrap(), "copies");
    let bias = all.remove("model.fc.bias").unwrap();
    all.insert("model.fc.bias".into(), (bias + 1.0).unwrap());
    let error = opened(folder.path(), &all).unwrap_err().to_string();
    assert!(error.contains("2 networks, under `best_state_dict.`, `model.`"), "{error}");
}

#[test]
fn weights_in_several_files_are_opened_by_their_index() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let (first, second): (Tensors, Tensors) =
        prefixed("model.").into_iter().partition(|(name, _)| name < &"model.layer2".to_string());
    save(&first, &path(shards[0]));
    save(&second, &path(shards[1]));
    let map = |first_shard: &str| -> BTreeMap<String, String> {
        let of = |all: &Tensors, shard: &str| {
            all.keys().map(|name| (name.clone(), shard.to_string())).collect::<Vec<_>>()
        };
        [of(&first, first_shard), of(&second, shards[1])].concat().into_iter().collect()
    };
    let write = |map: &BTreeMap<String, String>| {
        let index = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map});
        std::fs::write(path("model.safetensors.index.json"), index.to_string()).unwrap();
    };
    write(&map(shards[0]));
    assert_whole(&Weights::open(&path("model.safetensors.index.json")).unwrap(), "index");
    assert_eq!(Pretrained::open(folder.path()).unwrap().network, tiny().into());

    let fails = |map: &BTreeMap<String, String>, expected: &str| {
        write(map);
        let error = Pretrained::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("index.json: "), "{expected}: {error}");
    };
    let alone = Weights::open(&path(shards[0])).unwrap_err().to_string();
    let expected = "one of 2 files of weights, number 1: expected their folder, or the index model.safetensors.index.json";
    assert!(alone.ends_with(expected), "{alone}");
    let lost = tempfile::tempdir().unwrap();
    std::fs::copy(path(shards[1]), lost.path().join(shards[1])).unwrap();
    let error = Pretrained::open(lost.path()).unwrap_err().to_string();
    assert!(error.contains("has model-00002-of-00002.safetensors, but no index"), "{error}");
    fails(&map("../secret.safetensors"), "expected the names of files beside it, got ../secret.safetensors");
    fails(&map("/etc/passwd"), "got /etc/passwd");
    fails(&map("none.safetensors"), "none.safetensors: ");
    fails(&map(shards[1]), "no model.bn1.bias, which the index says is there");
    let mut lacking = map(shards[0]);
    lacking.remove("model.fc.bias");
    fails(&lacking, "it has model.fc.bias, which the index does not know");
    fails(&BTreeMap::new(), "it names 0 files");
    std::fs::write(path("model.safetensors.index.json"), "{}").unwrap();
    let error = Weights::open(&path("model.safetensors.index.json")).unwrap_err().to_string();
    assert!(error.contains("not an index of weights"), "{error}");
}
