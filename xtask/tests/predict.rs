//! `predict` and `export` as a user types them: photos, folders, weights from anywhere, and bad input.

#[path = "../../crates/resnext-model/tests/common/server.rs"]
mod server;

use candle_core::{DType, Device};
use resnext_data::Photo;
use resnext_model::{Baseline, BaselineNetwork, Config, ResNext, Variables};
use serde_json::Value;
use server::Server;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn xtask(folder: &Path, args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    // Settings of the machine's user must not matter.
    for name in ["HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT"] {
        command.env_remove(name);
    }
    command.args(args).current_dir(folder).env("HF_HOME", folder.join("hf"));
    command.envs(variables.iter().copied()).output().unwrap()
}

fn ok(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Asserts that a command failed with exit status 1 and one line that contains `expected`.
fn refused(output: Output, expected: &str) {
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{expected}: {error}");
    assert!(
        error.contains(expected) && error.trim_end().lines().count() == 1,
        "expected `{expected}`, got: {error}"
    );
}

/// Writes a file of random weights.
fn weights(path: &Path, seed: u64) -> PathBuf {
    let variables = Variables::new(seed, DType::F32, &Device::Cpu);
    ResNext::new(&Config::by_name("resnext11_4x4d").unwrap(), variables.builder()).unwrap();
    let tensors = variables.all().into_iter().map(|(name, var)| (name, var.as_detached_tensor()));
    safetensors::serialize_to_file(tensors, None, path).unwrap();
    path.to_path_buf()
}

/// Makes a folder with `photos/a.png`, `photos/b.jpg`, `photos/inner/c.png`, `photos/notes.txt` and
/// `w.safetensors`.
fn prepared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("photos/inner")).unwrap();
    for (i, name) in ["a.png", "b.jpg", "inner/c.png"].iter().enumerate() {
        let pixels = (0..60 * 40 * 3).map(|p| (p * (i + 3) % 251) as u8).collect();
        Photo::new(60, 40, pixels).unwrap().save(&folder.path().join("photos").join(name)).unwrap();
    }
    std::fs::write(folder.path().join("photos/notes.txt"), "not asked for").unwrap();
    weights(&folder.path().join("w.safetensors"), 1);
    folder
}

fn predict(folder: &Path, args: &[&str]) -> Output {
    xtask(folder, &[&["predict", "--weights", "w.safetensors"], args].concat(), &[])
}

#[test]
fn photos_folders_and_patterns_are_classified_in_order() {
    let folder = prepared();
    let path = folder.path();
    let images =
        |text: &str| -> Vec<Value> { text.lines().map(|l| serde_json::from_str(l).unwrap()).collect() };
    let all = images(&ok(predict(path, &["photos", "--json", "--topk", "3"])));
    let names: Vec<&str> = all.iter().map(|image| image["image"].as_str().unwrap()).collect();
    assert_eq!(names, ["photos/a.png", "photos/b.jpg", "photos/inner/c.png"]);
    for image in &all {
        let p: Vec<f64> =
            image["top"].as_array().unwrap().iter().map(|c| c["probability"].as_f64().unwrap()).collect();
        assert!(p.len() == 3 && p[0] >= p[1] && p[1] >= p[2] && p.iter().sum::<f64>() <= 1.0 + 1e-6);
    }
    assert_eq!(images(&ok(predict(path, &["photos/*.png", "--json", "--topk", "3"]))), all[..1]);
    // The result does not depend on the order or the number of threads. Classes without names have numbers.
    let reversed =
        ok(predict(path, &["photos/b.jpg", "photos/a.png", "--json", "--topk", "3", "--threads", "1"]));
    assert_eq!(images(&reversed), [all[1].clone(), all[0].clone()]);
    let table = ok(predict(path, &["photos/a.png"]));
    assert_eq!(table.lines().count(), 6);
    assert!(table.lines().nth(1).unwrap().contains("%  class "), "{table}");
}

#[test]
fn narrow_types_agree_with_f32() {
    let folder = prepared();
    let calibrate = ["calibrate", "w.safetensors", "photos", "--out", "r.json"];
    let printed = ok(xtask(folder.path(), &calibrate, &[]));
    assert!(printed.contains("from 3 images"), "{printed}");
    let narrow = [
        // Where bf16 has no instructions, a note says how it runs.
        (&["--dtype", "bf16"][..], !resnext_ops::bf16_is_native()),
        (&["--dtype", "int8", "--ranges", "r.json"], false),
    ];
    for (options, noted) in narrow {
        let narrow = predict(folder.path(), &[&["photos", "--json", "--topk", "10"], options].concat());
        let note = String::from_utf8_lossy(&narrow.stderr).contains("weights are kept in bf16");
        assert_eq!(note, noted, "{options:?}");
        agrees_with_f32(folder.path(), narrow);
    }
    refused(predict(folder.path(), &["photos", "--dtype", "int8"]), "needs --ranges");
    let drawn = ["photos", "--dtype", "int8", "--ranges", "r.json", "--heatmap", "maps"];
    refused(predict(folder.path(), &drawn), "cannot be used with --heatmap");
}

fn agrees_with_f32(folder: &Path, narrow: Output) {
    let probabilities = |text: String| -> Vec<f64> {
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let sorted = |image: Value| {
            let mut classes = image["top"].as_array().unwrap().clone();
            classes.sort_by_key(|class| class["class"].as_u64());
            classes.into_iter().map(|class| class["probability"].as_f64().unwrap()).collect::<Vec<_>>()
        };
        lines.flat_map(sorted).collect()
    };
    let single = probabilities(ok(predict(folder, &["photos", "--json", "--topk", "10"])));
    let narrow = probabilities(ok(narrow));
    assert!(single != narrow && single.len() == 30);
    assert!(single.iter().zip(&narrow).all(|(a, b)| (a - b).abs() < 0.02), "{single:?} {narrow:?}");
}

#[test]
fn a_heat_map_is_drawn_over_every_photo() {
    let folder = prepared();
    let path = folder.path();
    std::fs::copy(path.join("photos/a.png"), path.join("a.png")).unwrap();
    let plain = ok(predict(path, &["a.png", "photos", "--json"]));
    let with_maps = ok(predict(path, &["a.png", "photos", "--json", "--heatmap", "maps"]));
    let first = |text: &str| {
        text.lines()
            .map(|l| serde_json::from_str::<Value>(l).unwrap()["top"][0]["class"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(first(&plain), first(&with_maps));
    for name in ["a.png", "a-2.png", "b.png", "c.png"] {
        let drawn = Photo::open(&path.join("maps").join(name)).unwrap();
        assert_eq!((drawn.width(), drawn.height()), (60, 40));
    }
}

#[test]
fn a_bad_photo_does_not_stop_the_others() {
    let folder = prepared();
    std::fs::write(folder.path().join("photos/aa.jpg"), "a text").unwrap();
    let output = predict(folder.path(), &["photos"]);
    assert_eq!(output.status.code(), Some(1));
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(out.lines().filter(|line| line.starts_with("photos/")).count(), 3);
    assert!(error.contains("photos/aa.jpg: not an image") && error.contains("1 of 4 photos"), "{error}");
}

/// Neither on standard output nor on standard error does a name end a line or move a terminal's cursor.
#[test]
#[cfg(target_os = "linux")] // where a name may have any characters
fn names_of_control_characters_stay_in_their_line() {
    let folder = prepared();
    let at = |name: &str| folder.path().join("photos").join(name);
    std::fs::copy(at("a.png"), at("new\nline.png")).unwrap();
    std::fs::write(at("esc\u{1b}[31m.png"), "a text").unwrap();
    std::fs::write(at("other\n.txt"), "not asked for").unwrap();
    let output = predict(folder.path(), &["photos"]);
    assert_eq!(output.status.code(), Some(1));
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        out.contains("photos/new\u{fffd}line.png\n") && error.contains("esc\u{fffd}[31m.png: not an image")
    );
    assert!(error.contains("other\u{fffd}.txt"), "{error}");
    let text = format!("{out}{error}");
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text}");
}

/// Whatever an argument is, the others are classified, and it has its line.
#[test]
fn an_argument_that_names_no_photo_does_not_stop_the_others() {
    let folder = prepared();
    let path = folder.path();
    std::fs::create_dir(path.join("empty")).unwrap();
    let args = ["photos/a.png", "none.jpg", "empty", "none*.jpg", "photos/b.jpg"];
    let output = predict(path, &args);
    assert_eq!(output.status.code(), Some(1));
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let named = out.lines().filter(|line| line.starts_with("photos/"));
    assert_eq!(named.collect::<Vec<_>>(), ["photos/a.png", "photos/b.jpg"]);
    for line in [
        "error: none.jpg: no such file or folder\n",
        "error: empty: a folder without photos, subfolders included\n",
        "error: none*.jpg: no file matches the pattern\n",
        "error: 3 of 5 photos could not be classified\n",
    ] {
        assert!(error.contains(line), "{line}: {error}");
    }
    let output = predict(path, &[&args[..], &["--json"]].concat());
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let error = |name: &str| {
        let line = lines.iter().find(|line| line["image"] == name).unwrap_or_else(|| panic!("{name}: {out}"));
        line["error"].as_str().map(String::from)
    };
    assert_eq!(lines.len(), 5, "{out}");
    assert_eq!(error("none.jpg").unwrap(), "no such file or folder");
    assert_eq!(error("none*.jpg").unwrap(), "no file matches the pattern");
    assert_eq!((error("photos/a.png"), error("photos/b.jpg")), (None, None));
}

/// More threads than cores would only wait for each other.
#[test]
fn no_more_threads_are_started_than_there_are_cores() {
    let folder = prepared();
    let cores = std::thread::available_parallelism().unwrap().get();
    let usual = ok(predict(folder.path(), &["photos", "--json"]));
    let threads = if cores == 1 { "thread" } else { "threads" };
    let output = predict(folder.path(), &["photos", "--json", "--threads", "100000"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(ok(output), usual);
    let note = format!("note: --threads: {cores} {threads} instead of 100000, one per core\n");
    assert!(error.contains(&note), "{error}");
    let args = ["predict", "--weights", "w.safetensors", "photos", "--json"];
    let output = xtask(folder.path(), &args, &[("RAYON_NUM_THREADS", "100000")]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(ok(output), usual);
    assert!(error.contains("note: RAYON_NUM_THREADS: "), "{error}");
}

#[test]
fn bad_input_gets_one_clear_line() {
    let folder = prepared();
    let path = folder.path();
    let checkpoints =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/resnext-model/tests/golden/checkpoints");
    let with = |weights: &str| xtask(path, &["predict", "photos/a.png", "--weights", weights], &[]);
    let good = std::fs::read(path.join("w.safetensors")).unwrap();
    std::fs::write(path.join("cut.safetensors"), &good[..good.len() - 10]).unwrap();
    refused(with("cut.safetensors"), "cut.safetensors: not a complete safetensors file");
    std::fs::write(path.join("page.safetensors"), "<!doctype html><html>Log in</html>").unwrap();
    refused(with("page.safetensors"), "a web page, not weights");
    refused(
        with(checkpoints.join("evil.pth").to_str().unwrap()),
        "refused: the pickle asks for posix.system",
    );
    refused(with("none.safetensors"), "none.safetensors: no such file");
    refused(with("not a repository"), "expected a path, or owner/name");
    refused(with("photos"), "the folder has no model.safetensors and no pytorch_model.bin");
    let mut nan = good.clone();
    let end = nan.len();
    nan[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(path.join("nan.safetensors"), nan).unwrap();
    refused(with("nan.safetensors"), "values are not finite");
    std::fs::write(path.join("text.jpg"), "a text").unwrap();
    refused(predict(path, &["text.jpg"]), "text.jpg: not an image");
    refused(predict(path, &["none.jpg"]), "none.jpg: no such file or folder");
    refused(predict(path, &["none*.jpg"]), "no file matches the pattern");
    std::fs::create_dir(path.join("empty")).unwrap();
    refused(predict(path, &["empty"]), "empty: a folder without photos");
    refused(predict(path, &["photos", "--topk", "0"]), "--topk must be at least 1");
    refused(
        predict(path, &["photos", "--dtype", "bf16", "--heatmap", "maps"]),
        "cannot be used with --heatmap",
    );
    refused(predict(path, &["photos", "--heatmap", "w.safetensors/x"]), "cannot make the folder");
    let export = |out: &str| xtask(path, &["export", "w.safetensors", "--out", out], &[]);
    refused(export("model.txt"), "expected a name that ends in .safetensors or .onnx");
    refused(export("none/model.onnx"), "cannot write none/model.onnx");
}

#[test]
fn a_repository_of_the_hub_is_fetched_once_and_then_works_offline() {
    let folder = prepared();
    let path = folder.path();
    let labels: Vec<String> = (0..10).map(|i| format!("thing {i}")).collect();
    let config = serde_json::json!({
        "architecture": "resnext11_4x4d", "num_classes": 10, "label_names": labels,
        "pretrained_cfg": {"input_size": [3, 32, 32], "crop_pct": 1.0, "interpolation": "bicubic",
            "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    });
    let files = vec![
        ("config.json", config.to_string().into_bytes()),
        ("model.safetensors", std::fs::read(path.join("w.safetensors")).unwrap()),
    ];
    let server = Server::hub("me/tiny", files);
    let address = server.address();
    let ask = |more: &[(&str, &str)]| {
        let variables = [&[("HF_ENDPOINT", address.as_str())], more].concat();
        xtask(path, &["predict", "photos/a.png", "--weights", "me/tiny"], &variables)
    };
    let online = ok(ask(&[("HF_TOKEN", "secret")]));
    assert!(online.lines().nth(1).unwrap().contains("thing "), "{online}");
    assert!(path.join("hf/hub/models--me--tiny/refs/main").is_file());
    assert_eq!(server.requests("HEAD")[0].headers["authorization"], "Bearer secret");
    let asked = server.log.lock().unwrap().len();
    assert_eq!(ok(ask(&[("HF_HUB_OFFLINE", "1")])), online);
    assert_eq!(server.log.lock().unwrap().len(), asked);
    let other =
        xtask(path, &["predict", "photos/a.png", "--weights", "me/other"], &[("HF_ENDPOINT", &address)]);
    refused(other, "me/other");
    let other =
        xtask(path, &["predict", "photos/a.png", "--weights", "me/other"], &[("HF_HUB_OFFLINE", "1")]);
    refused(other, "HF_HUB_OFFLINE is set");
}

/// Old repositories have neither safetensors nor `config.json`.
#[test]
fn an_old_repository_has_a_pickle() {
    let folder = prepared();
    let plain = "../crates/resnext-model/tests/golden/checkpoints/plain.pth";
    let plain = Path::new(env!("CARGO_MANIFEST_DIR")).join(plain);
    let server = Server::hub("me/old", vec![("pytorch_model.bin", std::fs::read(&plain).unwrap())]);
    let ask = |weights: &str| {
        let args = ["predict", "photos", "--json", "--weights", weights];
        ok(xtask(folder.path(), &args, &[("HF_ENDPOINT", &server.address())]))
    };
    let printed = ask("me/old");
    assert_eq!((printed.lines().count(), printed), (3, ask(plain.to_str().unwrap())));
    let empty = Server::hub("me/empty", vec![("README.md", b"nothing".to_vec())]);
    let args = ["predict", "photos", "--weights", "me/empty"];
    let refusal = xtask(folder.path(), &args, &[("HF_ENDPOINT", &empty.address())]);
    refused(refusal, "me/empty has no model.safetensors and no pytorch_model.bin");
}

#[test]
fn what_is_exported_predicts_the_same() {
    let folder = prepared();
    let path = folder.path();
    let expected = ok(predict(path, &["photos", "--json"]));
    ok(xtask(path, &["export", "w.safetensors", "--out", "out.safetensors"], &[]));
    let again = xtask(path, &["predict", "photos", "--json", "--weights", "out.safetensors"], &[]);
    assert_eq!(ok(again), expected);
    let said = ok(xtask(path, &["export", "w.safetensors", "--out", "out.onnx", "--dtype", "f16"], &[]));
    assert!(said.contains("ONNX, opset 17") && path.join("out.onnx").is_file());
}

/// An Inception is used as a ResNeXt is, except where only those are taken.
#[test]
fn an_inception_predicts_and_is_exported() {
    let folder = prepared();
    let path = folder.path();
    let variables = Variables::new(1, DType::F32, &Device::Cpu);
    BaselineNetwork::new(Baseline::InceptionV3, 2, variables.builder()).unwrap();
    let tensors = variables.all().into_iter().map(|(name, var)| (name, var.as_detached_tensor()));
    safetensors::serialize_to_file(tensors, None, &path.join("w.safetensors")).unwrap();
    let size = ["--size", "75", "--mean", "0.5", "--std", "0.5"];
    let expected = ok(predict(path, &[&["photos/a.png", "--json"], &size[..]].concat()));
    ok(xtask(path, &[&["export", "w.safetensors", "--out", "out.safetensors"], &size[..]].concat(), &[]));
    let args = ["predict", "photos/a.png", "--json", "--weights", "out.safetensors"];
    assert_eq!(ok(xtask(path, &args, &[])), expected);
    let only = "expected a ResNet or ResNeXt, got inception_v3";
    refused(xtask(path, &[&args[..], &["--heatmap", "maps"]].concat(), &[]), only);
    refused(xtask(path, &["calibrate", "w.safetensors", "photos"], &[]), only);
}

/// The probabilities of classes 0, 1, … that `--json` prints for one photo.
fn probabilities(printed: &str) -> Vec<f64> {
    let image: Value = serde_json::from_str(printed.lines().next().unwrap()).unwrap();
    let mut classes: Vec<Value> = image["top"].as_array().unwrap().clone();
    classes.sort_by_key(|class| class["class"].as_u64());
    classes.into_iter().map(|class| class["probability"].as_f64().unwrap()).collect()
}

fn origins() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/resnext-model/tests/golden/origins")
}

/// The same network as PyTorch's programs save it. Each prints the probabilities that PyTorch computes, and
/// one line for each thing that the user should know.
#[test]
fn weights_of_every_origin_predict_the_same() {
    let origins = origins();
    let photo = origins.join("good.bmp");
    let assumed = "it does not say how its images are prepared: assumed 32×32 of 32, bilinear, mean [0.4914";
    for (file, said) in [
        ("plain.safetensors", ""),
        ("best_acc1_tensor.pth.tar", "the network is under `state_dict.module.`; not used: best_acc1"),
        ("bytearray.pth", "the network is under `model.`"),
        ("complex.pth", "the network is under `model.`"),
        ("fc_sequential.pth", "the last layer is `fc.1`"),
        ("lightning_criterion.ckpt", "under `state_dict.model.`; not used: state_dict.criterion.weight"),
        ("mmpretrain.pth", "under `state_dict.backbone.`; the last layer is `state_dict.head.fc`"),
        ("multisteplr_counter.pth", "the network is under `model_state_dict.`"),
        ("thop.pth", "not used: layer1.0.total_params, total_ops"),
        (
            "torchvision_model_ema.pth",
            "averaged weights are under `model_ema.module.`, taken instead of those under `model.`",
        ),
    ] {
        let weights = origins.join(file);
        let args = ["predict", photo.to_str().unwrap(), "--json", "--weights", weights.to_str().unwrap()];
        let output = xtask(&origins, &args, &[]);
        let notes = String::from_utf8_lossy(&output.stderr).into_owned();
        let found = probabilities(&ok(output));
        let expected = [0.7422, 0.1872, 0.0706];
        assert!(found.iter().zip(expected).all(|(p, e)| (p - e).abs() < 6e-5), "{file}: {found:?}");
        assert!(notes.contains(said) && notes.contains(assumed), "{file}: {notes}");
        assert_eq!(notes.lines().count(), if said.is_empty() { 1 } else { 2 }, "{file}: {notes}");
    }
}

/// Fields of timm's `config.json` that change what the network computes.
#[test]
fn configurations_of_other_functions_are_refused_by_the_fields_name() {
    let origins = origins();
    let photo = origins.join("good.bmp");
    for (folder, expected) in [
        ("timm_ok", Ok([0.7422, 0.1873, 0.0706])),
        ("timm_silu", Err("expected act_layer relu, got \"silu\" (model_args.act_layer)")),
        ("timm_global_pool_max", Err("expected global_pool avg, got \"max\"")),
        ("timm_output_stride", Err("expected output_stride 32, got 8 (model_args.output_stride)")),
    ] {
        let place = tempfile::tempdir().unwrap();
        std::fs::copy(origins.join(folder).join("config.json"), place.path().join("config.json")).unwrap();
        let weights = origins.join("timm_ok/model.safetensors");
        std::fs::copy(weights, place.path().join("model.safetensors")).unwrap();
        let args = ["predict", photo.to_str().unwrap(), "--json", "--weights", "."];
        let output = xtask(place.path(), &args, &[]);
        match expected {
            Ok(expected) => {
                assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
                let found = probabilities(&ok(output));
                assert!(found.iter().zip(expected).all(|(p, e)| (p - e).abs() < 6e-5), "{found:?}");
            }
            Err(expected) => refused(output, expected),
        }
    }
}

#[test]
fn options_override_how_images_are_prepared() {
    let folder = prepared();
    let path = folder.path();
    let run = |args: &[&str]| {
        let output = predict(path, &[&["photos/a.png", "--json", "--topk", "10"], args].concat());
        let notes = String::from_utf8_lossy(&output.stderr).into_owned();
        (ok(output), notes)
    };
    let (plain, notes) = run(&[]);
    assert!(notes.contains("assumed 32×32 of 32, bilinear") && notes.contains("--mean, --std"), "{notes}");
    let normalization = ["--mean", "0.4914,0.4822,0.4465", "--std", "0.2470 0.2435 0.2616"];
    assert_eq!(run(&normalization), (plain.clone(), String::new()));
    let usual =
        [&normalization[..], &["--resize", "32", "--interpolation", "bilinear", "--crop-mode", "center"]];
    assert_eq!(run(&usual.concat()), (plain.clone(), String::new()));
    let changes: [&[&str]; 7] = [
        &["--mean", "0.5"],
        &["--std", "0.3,0.3,0.3"],
        &["--resize", "40"],
        &["--crop-pct", "0.8"],
        &["--crop-mode", "squash"],
        &["--crop-mode", "border"],
        &["--interpolation", "bicubic"],
    ];
    let results: Vec<String> = changes.iter().map(|change| run(change).0).collect();
    for (i, result) in results.iter().enumerate() {
        // A crop of 0.8 is a resize to 40.
        let same: Vec<usize> = (0..results.len()).filter(|&j| results[j] == *result).collect();
        let expected = if i == 2 || i == 3 { vec![2, 3] } else { vec![i] };
        assert!(*result != plain && same == expected, "{:?}", changes[i]);
    }
    std::fs::write(path.join("names.txt"), "a\nb\nc\nd\ne\nf\ng\nh\ni\nthe last\n\n").unwrap();
    let object: Vec<String> = (0..10).map(|i| format!("\"{i}\": [\"n{i}\", \"thing {i}\"]")).collect();
    std::fs::write(path.join("names.json"), format!("{{{}}}", object.join(", "))).unwrap();
    assert!(run(&["--labels", "names.txt"]).0.contains("\"the last\""));
    assert!(run(&["--labels", "names.json"]).0.contains("\"thing 9\""));
    std::fs::write(path.join("few.txt"), "a\nb\n").unwrap();
    let refuse = |args: &[&str], expected: &str| {
        refused(predict(path, &[&["photos/a.png"], args].concat()), expected);
    };
    refuse(&["--labels", "few.txt"], "few.txt: expected the names of 10 classes, got 2");
    refuse(&["--labels", "none.txt"], "none.txt: No such file");
    refuse(&["--std", "0,1,1"], "--std must be above 0");
    refuse(&["--mean", "123.675,116.28,103.53"], "--mean must be of pixels from 0 to 1, got [123.675");
    refuse(&["--resize", "0"], "--resize must be at least 1");
    refuse(&["--crop-pct", "1.2"], "--crop-pct must be above 0 and at most 1, got 1.2");
    refuse(&["--interpolation", "nearest"], "--interpolation must be bilinear or bicubic, got nearest");
    // What is known goes into the export, and comes back out of it; what was assumed does not.
    let options = ["--mean", "0.5", "--std", "0.25", "--crop-mode", "squash", "--labels", "names.txt"];
    let export = |out: &str, more: &[&str]| {
        xtask(path, &[&["export", "w.safetensors", "--out", out], more].concat(), &[])
    };
    ok(export("known.safetensors", &options));
    ok(export("assumed.safetensors", &[]));
    let again = |weights: &str, args: &[&str]| {
        let args =
            [&["predict", "photos/a.png", "--json", "--topk", "10", "--weights", weights], args].concat();
        let output = xtask(path, &args, &[]);
        let notes = String::from_utf8_lossy(&output.stderr).into_owned();
        (ok(output), notes)
    };
    assert_eq!(again("known.safetensors", &[]), run(&options));
    assert_eq!(again("assumed.safetensors", &[]).0, plain);
    assert!(again("assumed.safetensors", &[]).1.contains("it does not say how its images are prepared"));
    ok(export("known.onnx", &options));
    let onnx = std::fs::read(path.join("known.onnx")).unwrap();
    let holds = |text: &str| onnx.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("resnext-description") && holds("\"crop_mode\":\"squash\"") && holds("the last"));
}
