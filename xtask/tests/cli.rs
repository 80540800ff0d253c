//! The commands as a user types them: a whole small run, and the errors for bad input.

#[cfg(feature = "mpi")]
#[path = "cli/distributed.rs"]
mod distributed;
#[path = "cli/errors.rs"]
mod errors;
#[path = "cli/messages.rs"]
mod messages;
#[path = "cli/parquet.rs"]
mod parquet;
#[path = "cli/photo_folder.rs"]
mod photo_folder;
#[path = "cli/study.rs"]
mod study;

use resnext_model::{Config, Summary};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

fn xtask(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask")).args(args).current_dir(folder).output().unwrap()
}

/// A data set in CIFAR-10's format, small enough to train on in a second.
fn tiny_cifar(folder: &Path) {
    for i in 1..=6u8 {
        let name = if i == 6 { "test_batch.bin".to_string() } else { format!("data_batch_{i}.bin") };
        let records = (0..8u8).flat_map(|r| {
            std::iter::once(r % 10).chain((0..3072).map(move |p| (p as u8).wrapping_mul(r + i)))
        });
        std::fs::write(folder.join(name), records.collect::<Vec<u8>>()).unwrap();
    }
    std::fs::write(folder.join("batches.meta.txt"), "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n").unwrap();
}

const TRAIN: [&str; 10] = [
    "train",
    "--dataset",
    "cifar10",
    "--data",
    ".",
    "--model",
    "resnext11_4x4d",
    "--batch-size",
    "16",
    "--out",
];

fn train(folder: &Path, out: &str, more: &[&str]) -> Output {
    xtask(folder, &[&TRAIN[..], &[out], more].concat())
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Asserts that a command failed with one line that contains `expected`.
fn refused(output: Output, expected: &str) {
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{expected}");
    assert!(
        error.contains(expected) && error.trim_end().lines().count() == 1,
        "expected `{expected}`, got: {error}"
    );
}

#[test]
fn a_run_is_trained_resumed_and_evaluated() {
    let folder = tempfile::tempdir().unwrap();
    tiny_cifar(folder.path());
    let whole = train(folder.path(), "whole", &["--epochs", "2"]);
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    assert!(text(&whole).trim_end().ends_with("next: cargo xtask eval whole"));
    assert!(text(&whole).contains("; the official archive has 50000 and 10000"), "{}", text(&whole));
    for file in ["recipe.toml", "metrics.csv", "curves.svg", "last.safetensors", "best.safetensors"] {
        assert!(folder.path().join("whole").join(file).is_file(), "{file}");
    }
    // The run's own recipe repeats it.
    let again = xtask(folder.path(), &["train", "--recipe", "whole/recipe.toml", "--out", "again"]);
    assert!(again.status.success());
    let losses = |run: &str| -> Vec<String> {
        let csv = std::fs::read_to_string(folder.path().join(run).join("metrics.csv")).unwrap();
        csv.lines().map(|line| line.rsplit_once(',').unwrap().0.to_string()).collect()
    };
    assert_eq!(losses("whole"), losses("again"));
    let longer = xtask(folder.path(), &["train", "--resume", "again", "--epochs", "3"]);
    assert!(longer.status.success(), "{}", String::from_utf8_lossy(&longer.stderr));
    assert_eq!(losses("again").len(), 4);
    assert_eq!(losses("again")[..3], losses("whole")[..]);

    let eval = xtask(folder.path(), &["eval", "whole"]);
    assert!(eval.status.success());
    assert!(text(&eval).contains("on 8 test images") && text(&eval).lines().count() == 3 + 10);
    refused(train(folder.path(), "whole", &[]), "already holds a run");
    refused(
        xtask(folder.path(), &["train", "--resume", "whole", "--model", "resnext11_8x4d"]),
        "does not fit the network",
    );
    refused(xtask(folder.path(), &["eval", "whole", "--model", "resnext11_8x4d"]), "of the wrong shape");
}

/// Starts a run of many epochs that saves after every step, and waits for its first checkpoint.
fn started(folder: &Path, out: &str, more: &[&str]) -> Child {
    let args = [&TRAIN[..], &[out, "--save-every", "0"], more].concat();
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    let command = command.args(args).current_dir(folder).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    while !folder.join(out).join("last.safetensors").exists() {
        if let Some(status) = child.try_wait().unwrap() {
            panic!("the run ended without a checkpoint: {status}");
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child
}

/// kill -9 at three moments, SIGTERM, and a death before the first checkpoint: the run that is resumed ends
/// with the files of one that was left alone, byte for byte.
#[test]
#[cfg(unix)]
fn a_run_that_is_killed_and_resumed_ends_with_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    tiny_cifar(path);
    let options = ["--epochs", "6", "--accumulate", "2", "--ema", "0.9"];
    let whole = train(path, "whole", &options);
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    let same = |run: &str| {
        let resumed = xtask(path, &["train", "--resume", run]);
        assert!(resumed.status.success(), "{}", String::from_utf8_lossy(&resumed.stderr));
        for file in ["last.safetensors", "best.safetensors", "recipe.toml"] {
            let read = |run: &str| std::fs::read(path.join(run).join(file)).unwrap();
            assert!(read(run) == read("whole"), "{run}/{file} has other bytes");
        }
    };
    for (run, wait) in [("first", 0), ("second", 150), ("third", 300)] {
        let mut child = started(path, run, &options);
        std::thread::sleep(std::time::Duration::from_millis(wait));
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            // This machine was faster than the kill.
            continue;
        }
        std::fs::write(path.join(run).join("last.tmp"), "half a checkpo").unwrap();
        same(run);
        assert!(!path.join(run).join("last.tmp").exists());
    }
    let child = started(path, "asked", &options);
    Command::new("kill").arg(child.id().to_string()).status().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text(&output).contains("stopped and saved; continue with: cargo xtask train --resume asked"));
    same("asked");
    std::fs::create_dir(path.join("early")).unwrap();
    std::fs::copy(path.join("whole/recipe.toml"), path.join("early/recipe.toml")).unwrap();
    same("early");
    refused(
        xtask(path, &["train", "--resume", "whole"]),
        "whole has completed 6 epochs; set more with --epochs",
    );
    std::fs::create_dir(path.join("empty")).unwrap();
    refused(xtask(path, &["train", "--resume", "empty"]), "neither last.safetensors nor recipe.toml");
}

/// A setting that changes on resumption holds by image and is written down, or is refused with the reason.
#[test]
#[cfg(unix)]
fn a_change_on_resumption_is_exact_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    tiny_cifar(path);
    let mut child = started(path, "run", &["--epochs", "3"]);
    child.kill().unwrap();
    child.wait().unwrap();
    let resume = |more: &[&str]| xtask(path, &[&["train", "--resume", "run"], more].concat());
    let before = std::fs::read(path.join("run/last.safetensors")).unwrap();
    refused(resume(&["--dataset", "synthetic"]), "a run stays on its data set");
    refused(resume(&["--model", "resnext11_8x4d"]), "the checkpoint does not fit the network");
    let lock = std::fs::File::open(path.join("run/run.lock")).unwrap();
    lock.lock().unwrap();
    refused(resume(&[]), "another process is training in run");
    drop(lock);
    let first = path.join("data_batch_1.bin");
    let kept = std::fs::read(&first).unwrap();
    let mut other = kept.clone();
    other[0] ^= 1;
    std::fs::write(&first, other).unwrap();
    refused(resume(&[]), "the run was trained on 40 images of 32×32 in 10 classes (");
    std::fs::write(&first, kept).unwrap();
    assert!(std::fs::read(path.join("run/last.safetensors")).unwrap() == before, "a refusal changed the run");

    let changed = resume(&["--batch-size", "13", "--amp", "bf16", "--ema", "0.5", "--form", "b"]);
    assert!(changed.status.success(), "{}", String::from_utf8_lossy(&changed.stderr));
    for line in
        ["batch size from 16 to 13", "amp from off to bf16", "ema from 0.998 to 0.5", "form from c to b"]
    {
        assert!(text(&changed).contains(&format!("from here on: {line}\n")), "{line}: {}", text(&changed));
    }
    let recipe = std::fs::read_to_string(path.join("run/recipe.toml")).unwrap();
    for line in ["batch_size = 13", "amp = \"bf16\"", "ema = 0.5", "form = \"b\""] {
        assert!(recipe.contains(line), "{line} in {recipe}");
    }
}

#[test]
#[cfg(unix)]
fn a_folder_that_vanishes_ends_the_run_with_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    tiny_cifar(path);
    let child = started(path, "run", &["--epochs", "1000"]);
    std::fs::rename(path.join("run"), path.join("moved")).unwrap();
    refused(child.wait_with_output().unwrap(), ": no folder run");
    assert!(!path.join("run").exists());
    let resumed = xtask(path, &["eval", "moved/last.safetensors"]);
    assert!(resumed.status.success(), "{}", String::from_utf8_lossy(&resumed.stderr));
}

#[test]
fn an_average_of_the_weights_is_judged_saved_and_evaluated() {
    let folder = tempfile::tempdir().unwrap();
    tiny_cifar(folder.path());
    let run = train(folder.path(), "run", &["--epochs", "2", "--ema", "0.5", "--grad-checkpoint"]);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let csv = std::fs::read_to_string(folder.path().join("run/metrics.csv")).unwrap();
    let headers: Vec<&str> = csv.lines().next().unwrap().split(',').collect();
    let column = headers.iter().position(|&name| name == "test_loss").unwrap();
    let loss: f64 = csv.lines().nth(2).unwrap().split(',').nth(column).unwrap().parse().unwrap();
    let eval = xtask(folder.path(), &["eval", "run/last.safetensors"]);
    assert!(eval.status.success(), "{}", String::from_utf8_lossy(&eval.stderr));
    assert!(text(&eval).contains(&format!("{loss:.4}")), "{loss} in {}", text(&eval));
    refused(train(folder.path(), "other", &["--ema", "1"]), "decay must be from 0 to below 1");
}

#[test]
fn mixed_precision_is_a_setting_of_the_recipe() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    tiny_cifar(path);
    let ok = |output: Output| assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for run in ["kept", "repeated", "changed"] {
        ok(train(path, run, &["--epochs", "1", "--amp", "bf16", "--device", "cpu"]));
    }
    let read = |name: &str| std::fs::read_to_string(path.join(name)).unwrap();
    assert!(read("kept/recipe.toml").contains("amp = \"bf16\""));
    // The setting belongs to the run: resuming it keeps the setting, unless an option changes it.
    ok(xtask(path, &["train", "--resume", "kept", "--epochs", "2"]));
    ok(xtask(path, &["train", "--resume", "repeated", "--epochs", "2", "--amp", "bf16"]));
    ok(xtask(path, &["train", "--resume", "changed", "--epochs", "2", "--amp", "off"]));
    let losses = |run: &str| -> Vec<String> {
        read(&format!("{run}/metrics.csv"))
            .lines()
            .map(|line| line.split(',').nth(2).unwrap().into())
            .collect()
    };
    assert_eq!(losses("kept"), losses("repeated"));
    assert_eq!(losses("kept")[..2], losses("changed")[..2]);
    assert_ne!(losses("kept")[2], losses("changed")[2]);
    ok(xtask(path, &["eval", "kept", "--device", "auto"]));
    ok(train(path, "less", &["--epochs", "1", "--amp", "bf16", "--grad-checkpoint", "--device", "cpu"]));
    assert_eq!(losses("less")[..2], losses("kept")[..2]);
}

#[test]
fn a_training_bench_measures_every_part() {
    let args = [
        "bench",
        "resnext11_4x4d",
        "--train",
        "--batch",
        "4",
        "--size",
        "8",
        "--rounds",
        "1",
        "--layers",
        "--dtype",
        "f32,bf16",
        "--json",
    ];
    let output = xtask(Path::new("."), &args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_str(&text(&output)).unwrap();
    for (i, precision) in ["f32", "bf16"].into_iter().enumerate() {
        let ours = &report["engines"][i];
        assert_eq!(ours["precision"], precision);
        let number = |key: &str| ours[key].as_f64().unwrap();
        let close = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-9;
        // There is one round, so that medians add up.
        let parts = ["forward_ms", "backward_ms", "optimizer_ms", "wait_ms"].map(number);
        assert!(parts[..3].iter().all(|&ms| ms > 0.0) && parts[3] >= 0.0, "{parts:?}");
        let step = number("step_ms");
        assert!(close(parts.iter().sum(), step), "{parts:?} are not the parts of {step}");
        assert_eq!([number("step_p10_ms"), number("step_p90_ms")], [step, step]);
        assert!(close(number("images_per_s"), 4.0 / step * 1e3), "{ours}");
        // Three times the forward pass, two operations per multiply-add.
        let network = Config::by_name("resnext11_4x4d").unwrap();
        let work = 6.0 * (Summary::new(&network, 8, 8).unwrap().multiply_adds() * 4) as f64;
        assert!(close(number("gflops"), work / step / 1e6), "{ours}");
        if cfg!(target_os = "linux") {
            let memory = number("peak_mb");
            assert!((5.0..5000.0).contains(&memory), "{memory} MiB");
        }
        // New weights know nothing of the ten classes.
        let losses: Vec<f64> = serde_json::from_value(ours["losses"].clone()).unwrap();
        assert!(losses.len() == 3 && losses.iter().all(|loss| (1.0..6.0).contains(loss)), "{losses:?}");
    }
    assert_eq!(report["engines"][0]["loss_error"], 0.0);
    let difference = report["engines"][1]["loss_error"].as_f64().unwrap();
    assert!(difference > 0.0 && difference < 0.05, "bf16 rounds differently, but not by much: {difference}");
    let layers: Vec<String> =
        report["layers"].as_array().unwrap().iter().map(|layer| layer[0].as_str().unwrap().into()).collect();
    assert!(layers.contains(&"layer2.0.conv2 gradients".to_string()), "{layers:?}");
    let two = xtask(Path::new("."), &["bench", "resnext11_4x4d", "--train", "--batch", "4,8"]);
    refused(two, "--train takes one --batch");
}

#[test]
fn an_inference_bench_measures_every_type_and_draws_a_chart() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["bench", "resnext11_4x4d", "--batch", "1,2", "--rounds", "2", "--layers", "--json"];
    let output = xtask(folder.path(), &[&args[..], &["--chart", "chart.svg"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_str(&text(&output)).unwrap();
    let work = 2.0
        * Summary::new(&Config::by_name("resnext11_4x4d").unwrap(), 32, 32).unwrap().multiply_adds() as f64;
    let contestants = report["contestants"].as_array().unwrap();
    for contestant in contestants {
        for (timing, batch) in contestant["timings"].as_array().unwrap().iter().zip([1.0, 2.0]) {
            let number = |key: &str| timing[key].as_f64().unwrap();
            let close = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-9;
            assert_eq!(number("batch"), batch);
            assert!(number("p10_ms") <= number("median_ms") && number("median_ms") <= number("p90_ms"));
            assert!(close(number("images_per_s"), batch / number("median_ms") * 1e3), "{timing}");
            assert!(close(number("gflops"), work * batch / number("median_ms") / 1e6), "{timing}");
        }
        let error = contestant["logits_error"].as_f64().unwrap();
        let bound = if contestant["precision"] == "f32" { 0.0 } else { 0.2 };
        assert!(error <= bound, "{contestant}");
    }
    assert_eq!(contestants[0]["precision"], "f32");
    let layers = report["layers"].as_array().unwrap();
    for name in ["conv1", "layer1.0.conv2", "layer3.0.downsample.0", "fc"] {
        let layer = layers.iter().find(|layer| layer["name"] == name);
        let layer = layer.unwrap_or_else(|| panic!("{name} is missing in {layers:?}"));
        let floor = layer["floor_ms"].as_f64().unwrap();
        assert!(floor > 0.0 && floor < 10.0, "{layer}");
    }
    let chart = std::fs::read_to_string(folder.path().join("chart.svg")).unwrap();
    for label in ["batch 1\n", "batch 2\n", "resnext, f32\n"] {
        assert!(chart.contains(label), "{label} in {chart}");
    }
    // Baselines too, layer by layer.
    let args = ["bench", "inception_v3", "--size", "75", "--batch", "1", "--rounds", "1", "--dtype", "f32"];
    let output = xtask(folder.path(), &[&args[..], &["--layers"]].concat());
    for part in ["inception_v3, 75×75", "Mixed_6b.branch7x7_2.conv", "concatenation"] {
        assert!(text(&output).contains(part), "{part}: {output:?}");
    }
}

/// Ranges come from a run's own training images, and int8 is compared with f32.
#[test]
fn int8_is_calibrated_and_evaluated_beside_f32() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    tiny_cifar(path);
    assert!(train(path, "run", &["--epochs", "1"]).status.success());
    let calibrate = xtask(path, &["calibrate", "run", "--images", "5"]);
    assert!(calibrate.status.success(), "{}", String::from_utf8_lossy(&calibrate.stderr));
    assert!(text(&calibrate).contains("from 5 images"), "{}", text(&calibrate));
    refused(xtask(path, &["calibrate", "run", "--images", "0"]), "at least 1");
    let int8 = ["eval", "run", "--dtype", "int8"];
    refused(xtask(path, &int8), "needs --ranges");
    refused(xtask(path, &["eval", "run", "--ranges", "ranges.json"]), "--ranges is for --dtype int8");
    std::fs::write(path.join("broken.json"), "[").unwrap();
    refused(xtask(path, &[&int8[..], &["--ranges", "broken.json"]].concat()), "the ranges in broken.json");
    let eval = xtask(path, &[&int8[..], &["--ranges", "ranges.json"]].concat());
    assert!(eval.status.success(), "{}", String::from_utf8_lossy(&eval.stderr));
    let printed = text(&eval);
    assert!(printed.contains("points in int8, from"), "{printed}");
    assert!(printed.contains("the predicted class is the same for"), "{printed}");
    std::fs::write(path.join("none.json"), "{}").unwrap();
    refused(xtask(path, &[&int8[..], &["--ranges", "none.json"]].concat()), "range of the map");
}

/// A run that starts in form (a) is evaluated, and continued, in the others.
#[test]
fn a_run_changes_its_form() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    tiny_cifar(path);
    let ok = |output: Output| assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    ok(train(path, "a", &["--form", "a", "--epochs", "1"]));
    ok(xtask(path, &["convert", "a", "--out", "c.safetensors"]));
    ok(xtask(path, &["eval", "a", "--predictions", "a.csv"]));
    ok(xtask(path, &["eval", "a", "--form", "b", "--predictions", "b.csv"]));
    ok(xtask(path, &["eval", "c.safetensors", "--predictions", "c.csv"]));
    // Without the optimizer's state the file does not name its network, and has only torchvision's names.
    ok(xtask(path, &["convert", "a", "--weights-only", "--out", "bare.safetensors"]));
    let data = ["--dataset", "cifar10", "--data", "."];
    let bare = [&["eval", "bare.safetensors"], &data[..]].concat();
    ok(xtask(path, &[&bare[..], &["--predictions", "bare.csv"]].concat()));
    ok(xtask(path, &[&bare[..], &["--model", "resnext11_4x4d", "--form", "a"]].concat()));
    refused(xtask(path, &bare[..2]), "need --dataset");
    refused(xtask(path, &[&bare[..], &["--model", "resnext11_8x4d"]].concat()), "of the wrong shape");
    // PyTorch's files can be read as well.
    let pth =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/resnext-model/tests/golden/checkpoints/plain.pth");
    refused(xtask(path, &[&["eval", pth], &data[..]].concat()), "expected 10 classes, file has 3: fc.weight");
    let read = |name: &str| std::fs::read_to_string(path.join(name)).unwrap();
    assert_eq!(read("a.csv").lines().count(), 1 + 8);
    for other in ["b.csv", "c.csv", "bare.csv"] {
        assert_eq!(read("a.csv"), read(other), "{other}");
    }
    // Momentum is converted too: the second epoch is like that of a run that stayed in form (a).
    ok(train(path, "stayed", &["--form", "a", "--epochs", "2"]));
    ok(xtask(path, &["train", "--resume", "a", "--form", "c", "--epochs", "2"]));
    let loss = |run: &str| -> f64 {
        let csv = read(&format!("{run}/metrics.csv"));
        csv.lines().nth(2).unwrap().split(',').nth(1).unwrap().parse().unwrap()
    };
    assert!((loss("a") / loss("stayed") - 1.0).abs() < 0.2, "{} {}", loss("a"), loss("stayed"));
    refused(xtask(path, &["convert", "none", "--out", "c.safetensors"]), "cannot read none");
}

#[test]
fn the_quick_proof_succeeds_and_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let output = xtask(folder.path(), &["prove", "--quick", "--report", "proof/report.md"]);
    assert!(output.status.success(), "{}", text(&output));
    let read = |name: &str| std::fs::read_to_string(folder.path().join("proof").join(name)).unwrap();
    for text in [read("report.md"), text(&output)] {
        for control in [
            "a permuted group",
            "a weight moved by one",
            "a missing path",
            "groups off by one channel",
            "the shortcut left out",
            "batch-norm statistics of the wrong path",
            "a converted weight moved by one ulp",
        ] {
            let row = text.lines().find(|line| line.contains(control)).unwrap();
            assert!(row.contains(" yes ") && row.contains(": expected "), "{row}");
        }
        assert!(text.contains("Proved on cpu"));
    }
    assert!(read("report.md").contains("(report.svg)"));
    let json: serde_json::Value = serde_json::from_str(&read("report.json")).unwrap();
    assert_eq!(json["proved"], true);
    assert!(json["blocks"].as_array().unwrap().iter().all(|b| b["identities"][0]["tally"]["bits"] == 0));
    assert!(read("report.svg").starts_with("<svg"));
    // What cannot be written is reported before minutes of proof.
    std::fs::write(folder.path().join("file"), "").unwrap();
    refused(xtask(folder.path(), &["prove", "--report", "file/report.md"]), "cannot make the folder");
    refused(xtask(folder.path(), &["prove", "--report", "proof"]), "it is a folder");
    refused(xtask(folder.path(), &["prove", "--device", "cuda:99"]), "device cuda:99");
}

#[test]
fn every_instruction_set_is_proved_in_a_process_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let output = xtask(folder.path(), &["prove", "--kernels", "--quick", "--report", "kernels.md"]);
    assert!(output.status.success(), "{}", text(&output));
    let json = std::fs::read_to_string(folder.path().join("kernels.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["proved"], true);
    let kernels = json["kernels"].as_array().unwrap();
    for isa in resnext_ops::Isa::available() {
        let own: Vec<_> = kernels.iter().filter(|kernel| kernel["isa"] == isa.name()).collect();
        for operation in ["inference", "training, forward", "training, gradient of the weight"] {
            assert!(own.iter().any(|kernel| kernel["operation"] == operation), "{isa:?} {operation}");
        }
        assert!(own.iter().all(|kernel| kernel["tally"]["bits"] == 0 && kernel["shapes"].as_u64() > Some(0)));
        assert!(json["networks"].as_array().unwrap().iter().any(|network| network["isa"] == isa.name()));
    }
}

#[test]
fn bad_input_gets_one_clear_line_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    tiny_cifar(path);
    refused(train(path, "out", &["--epochs", "0"]), "epochs must be at least 1");
    refused(xtask(path, &["train", "--batch-size", "0", "--out", "out"]), "batch size");
    refused(
        xtask(path, &["train", "--model", "resnext50_32x4", "--out", "out"]),
        "did you mean `resnext50_32x4d`?",
    );
    refused(xtask(path, &["train", "--dataset", "cifar10", "--out", "out"]), "needs --data");
    refused(
        xtask(path, &["train", "--dataset", "cifar10", "--data", "none.tar.gz", "--out", "out"]),
        "none.tar.gz",
    );
    for command in ["train", "eval", "predict"] {
        // Whether or not this build has CUDA, and this machine a GPU.
        refused(
            xtask(
                path,
                &[command, "--device", "cuda:99", "test_batch.bin"][..if command == "train" { 3 } else { 4 }],
            ),
            "device cuda:99",
        );
    }
    refused(xtask(path, &["train", "--resume", "out"]), "out");
    refused(xtask(path, &["eval", "test_batch.bin"]), "complete safetensors file");
    refused(xtask(path, &["eval", "none.pth"]), "none.pth: no such file");
    std::fs::write(path.join("recipe.toml"), "model = 3").unwrap();
    refused(xtask(path, &["train", "--recipe", "recipe.toml", "--out", "out"]), "recipe.toml");
    assert!(!path.join("out").exists());
    std::fs::write(path.join("file"), "kept").unwrap();
    refused(train(path, "file/out", &[]), "cannot make the folder");
    assert_eq!(std::fs::read_to_string(path.join("file")).unwrap(), "kept");
    let test = path.join("test_batch.bin");
    let mut data = std::fs::read(&test).unwrap();
    data[0] = 10;
    std::fs::write(&test, data).unwrap();
    refused(train(path, "out", &[]), "record 0 has label 10");
}

#[test]
fn summary_prints_the_published_figures() {
    let output = xtask(Path::new("."), &["summary", "resnext50_32x4d"]);
    assert!(text(&output).contains("parameters     25028904") && text(&output).contains("4.23 G"));
    refused(xtask(Path::new("."), &["summary", "resnext50_32x4d", "--size", "0"]), "--size must be from 1");
}

/// The cells of a Markdown table, without its headings.
fn cells(markdown: &str) -> Vec<Vec<String>> {
    let rows = markdown.lines().filter(|line| line.starts_with('|')).skip(2);
    let cells = |row: &str| row.trim_matches('|').split('|').map(|cell| cell.trim().to_string()).collect();
    rows.map(cells).collect()
}

#[test]
fn compare_prints_sizes_and_published_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    // Sizes and published figures alone, which take no time.
    let written = ["--runs", "0", "--markdown", "c.md", "--picture", "c.svg"];
    let output = xtask(path, &[&["compare"], &written[..]].concat());
    assert!(output.status.success(), "{output:?}");
    let markdown = std::fs::read_to_string(path.join("c.md")).unwrap();
    for part in ["VGG-16", "138.37 M", "Inception-ResNet-v2", "55.84 M", "19.9 %", "table 5", "](c.svg)"] {
        assert!(markdown.contains(part), "{part}: {markdown}");
    }
    // Nine networks, and a cell without a figure says why.
    let rows = cells(&markdown);
    assert_eq!(rows.len(), 9, "{markdown}");
    let columns = rows[0].len();
    for row in &rows {
        assert!(row.len() == columns && row.iter().all(|cell| !cell.is_empty() && cell != "–"), "{row:?}");
    }
    assert!(rows[2].iter().any(|cell| cell == "no weights"), "{:?}", rows[2]);
    assert!(std::fs::read_to_string(path.join("c.svg")).unwrap().contains("Inception-v4"));
    // One small network is timed, in bf16 whatever the CPU has.
    let output = xtask(path, &["compare", "resnext11_4x4d", "--runs", "1", "--markdown", "one.md"]);
    assert!(text(&output).contains("ms, f32") && text(&output).contains("0.09 M"), "{output:?}");
    let markdown = std::fs::read_to_string(path.join("one.md")).unwrap();
    let times = &cells(&markdown)[0][5..7];
    assert!(markdown.contains("| ms, f32 | ms, bf16 |"), "{markdown}");
    assert!(times.iter().all(|time| time.parse::<f64>().is_ok()), "{times:?}");
    refused(xtask(path, &["compare", "resnet101", "inception_v5"]), "unknown model `inception_v5`");
    refused(
        xtask(path, &["compare", "resnext11_4x4d", "--runs", "0", "--picture", "x.svg"]),
        "none of these is listed",
    );
    let output = xtask(path, &["summary", "inception_v4", "--classes", "10"]);
    assert!(text(&output).contains("12.25 G per image of 299×299"), "{output:?}");
}

/// `ulimit -f`, with SIGXFSZ ignored, stands in for a disk that fills up in the middle of a run.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_ends_the_run_with_one_line() {
    let folder = tempfile::tempdir().unwrap();
    tiny_cifar(folder.path());
    let command = format!(
        "trap '' XFSZ; ulimit -f 64; exec {} {} out --epochs 1",
        env!("CARGO_BIN_EXE_xtask"),
        TRAIN.join(" ")
    );
    let output = Command::new("bash").args(["-c", &command]).current_dir(folder.path()).output().unwrap();
    // The best checkpoint is written before the last one.
    refused(output, "cannot write out/best.safetensors");
    for file in ["best.safetensors", "best.tmp", "last.safetensors", "last.tmp"] {
        assert!(!folder.path().join("out").join(file).exists(), "{file}");
    }
}

/// A run's checkpoint, in any form, names its classes and the normalization of its images.
#[test]
fn a_run_predicts_with_the_names_of_its_classes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    tiny_cifar(path);
    std::fs::write(path.join("batches.meta.txt"), "ant\nbee\ncat\ndog\nelk\nfly\ngnu\nhen\nibis\njay\n")
        .unwrap();
    assert!(train(path, "run", &["--epochs", "1", "--form", "b"]).status.success());
    let photo = resnext_data::Photo::new(50, 40, (0..6000).map(|i| (i % 251) as u8).collect()).unwrap();
    photo.save(&path.join("photo.png")).unwrap();
    let output = xtask(path, &["predict", "photo.png", "--weights", "run", "--topk", "10"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = text(&output);
    assert!(printed.contains("ibis (8)") && printed.lines().count() == 11, "{printed}");
}

/// A data set in CIFAR-100's format, of which the test images have classes 0 to 7 only.
fn tiny_cifar100(folder: &Path) {
    let records = |images: u8| -> Vec<u8> {
        let record = |r: u8| [0, r].into_iter().chain((0..3072).map(move |p| (p as u8).wrapping_mul(r + 3)));
        (0..images).flat_map(record).collect()
    };
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("train.bin"), records(32)).unwrap();
    std::fs::write(folder.join("test.bin"), records(8)).unwrap();
    let names: String = (0..100).map(|i| format!("thing {i}\n")).collect();
    std::fs::write(folder.join("fine_label_names.txt"), names).unwrap();
}

/// A run carries all that its use requires: it may move, and its data set may vanish or move.
#[test]
fn a_run_is_used_from_any_folder_without_its_data() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    tiny_cifar100(&path.join("data"));
    let train = [
        "train",
        "--dataset",
        "cifar100",
        "--data",
        "data",
        "--model",
        "resnext11_4x4d",
        "--batch-size",
        "16",
    ];
    let trained = xtask(path, &[&train[..], &["--epochs", "1", "--out", "run"]].concat());
    assert!(trained.status.success(), "{}", String::from_utf8_lossy(&trained.stderr));
    let photo = resnext_data::Photo::new(50, 40, (0..6000).map(|i| (i % 251) as u8).collect()).unwrap();
    photo.save(&path.join("photo.png")).unwrap();
    let used = |folder: &Path, args: &[&str]| {
        let output = xtask(folder, args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && error.is_empty(), "{args:?}: {error}");
        text(&output)
    };
    let predicted = used(path, &["predict", "photo.png", "--weights", "run", "--json", "--topk", "100"]);
    assert!(predicted.contains("\"thing 99\""), "{predicted}");
    let judged = used(path, &["eval", "run"]);
    // Classes of which there is no test image have no accuracy.
    let row =
        |class: &str| judged.lines().find(|line| line.trim_start().starts_with(class)).unwrap().to_string();
    assert!(row("thing 7 ").contains('%') && row("thing 8 ").trim_end().ends_with('–'), "{judged}");

    // Whoever reads the output may stop early.
    let mut child = Command::new(env!("CARGO_BIN_EXE_xtask"));
    child.args(["eval", "run"]).current_dir(path).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"));

    for (command, out) in [("export", "weights.safetensors"), ("convert", "converted.safetensors")] {
        used(path, &[command, "run", "--out", out]);
    }
    used(path, &["convert", "run", "--weights-only", "--form", "a", "--out", "form_a.safetensors"]);
    let elsewhere = path.join("else/where");
    std::fs::create_dir_all(&elsewhere).unwrap();
    for file in ["run", "weights.safetensors", "converted.safetensors", "form_a.safetensors", "photo.png"] {
        std::fs::rename(path.join(file), elsewhere.join(file)).unwrap();
    }
    std::fs::rename(path.join("data"), path.join("moved")).unwrap();
    for weights in ["run", "weights.safetensors", "converted.safetensors", "form_a.safetensors"] {
        let again =
            used(&elsewhere, &["predict", "photo.png", "--weights", weights, "--json", "--topk", "100"]);
        let close = |a: &str, b: &str| {
            let probabilities = |text: &str| -> Vec<f64> {
                let image: serde_json::Value = serde_json::from_str(text).unwrap();
                let top = image["top"].as_array().unwrap();
                top.iter().map(|class| class["probability"].as_f64().unwrap()).collect()
            };
            probabilities(a).iter().zip(probabilities(b)).all(|(a, b)| (a - b).abs() < 1e-5)
        };
        // Other forms add up their paths in another order.
        let same = if weights.starts_with("form") { close(&again, &predicted) } else { again == predicted };
        assert!(same, "{weights}: {again} {predicted}");
        let args = ["eval", weights, "--dataset", "cifar100", "--data", "../../moved"];
        let figures = |text: &str| text.lines().nth(1).unwrap().to_string();
        assert_eq!(figures(&used(&elsewhere, &args)), figures(&judged), "{weights}");
    }
}

/// On the CPU the command tests itself; without a GPU it says so and writes nothing.
#[test]
fn the_gpu_check_runs_on_a_cpu_too() {
    let folder = tempfile::tempdir().unwrap();
    let output = xtask(folder.path(), &["gpu-check", "--device", "cpu", "--report", "check/report.md"]);
    assert!(output.status.success(), "{}{}", text(&output), String::from_utf8_lossy(&output.stderr));
    assert!(text(&output).starts_with("green: "), "{}", text(&output));
    let read = |name: &str| std::fs::read_to_string(folder.path().join("check").join(name)).unwrap();
    let json: serde_json::Value = serde_json::from_str(&read("report.json")).unwrap();
    assert_eq!(json["green"], true);
    let checks = json["checks"].as_array().unwrap();
    for what in
        ["conv2d", "batch_norm + relu", "max_pool2d", "cross_entropy", "sgd", "three forms", "training"]
    {
        assert!(checks.iter().any(|check| check["what"] == what && check["passed"] == true), "{what}");
    }
    let grouped = json["grouped"].as_array().unwrap();
    let engines = |name: &str| grouped.iter().filter(|g| g["engine"] == name).count();
    // Two shapes in two types. candle computes f32 on a CPU, and the report names what it does not.
    assert_eq!(engines("ours"), 4);
    assert_eq!(engines("candle") + json["missing"].as_array().unwrap().len(), 4);
    for measured in grouped {
        let number = |key: &str| measured[key].as_f64().unwrap();
        let size = if measured["dtype"] == "f32" { 4.0 } else { 2.0 };
        let (channels, side) = (number("channels"), number("side"));
        let bytes =
            size * (2.0 * number("batch") * channels * side * side + channels * channels / 32.0 * 9.0);
        let share = bytes / (number("forward_ms") / 1e3) / json["bandwidth"].as_f64().unwrap();
        assert!((number("forward_share") / share - 1.0).abs() < 1e-9, "{measured}");
    }
    for (list, precisions) in [("training", ["bf16 AMP", "f32"]), ("inference", ["bf16", "f32"])] {
        let speeds = json[list].as_array().unwrap();
        assert_eq!(speeds.len(), 2);
        for (measured, precision) in speeds.iter().zip(precisions) {
            assert_eq!(measured["precision"], precision);
            let (speed, ms) = (measured["images_per_s"].as_f64().unwrap(), measured["ms"].as_f64().unwrap());
            assert!((speed * ms / 2000.0 - 1.0).abs() < 1e-9, "2 images per pass: {measured}");
        }
    }
    // What was not measured has no figure.
    assert!(
        json["launches"].is_null() && json["bars"].as_array().unwrap().last().unwrap()["measured"].is_null()
    );
    assert!(read("report.md").contains("not measured ") && read("report.md").contains("## Checks"));
    let only = ["gpu-check", "--device", "cpu", "--only", "inference,training", "--report", "only.md"];
    let output = xtask(folder.path(), &only);
    assert!(
        output.status.success() && text(&output).starts_with("nothing was checked on cpu\n"),
        "{output:?}"
    );
    let only = std::fs::read_to_string(folder.path().join("only.json")).unwrap();
    let only: serde_json::Value = serde_json::from_str(&only).unwrap();
    assert_eq!(only["parts"], serde_json::json!(["training", "inference"]));
    assert!(only["checks"].as_array().unwrap().is_empty() && only["training"].as_array().unwrap().len() == 2);
    let missing = ["gpu-check", "--device", "cpu", "--python", "python3", "--script", "none.py"];
    refused(xtask(folder.path(), &missing), "--script: none.py is not a file");
    refused(xtask(folder.path(), &["gpu-check", "--device", "cuda:99"]), "device cuda:99");
    if candle_core::Device::new_cuda_with_stream(0).or_else(|_| candle_core::Device::new_metal(0)).is_err() {
        refused(xtask(folder.path(), &["gpu-check"]), "no GPU, so there is nothing to measure");
        assert!(!folder.path().join("runs").exists());
    }
}
