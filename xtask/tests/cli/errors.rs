//! Every error of the program, made to happen: `errors.txt` lists the commands and the whole line that each prints.

use super::{TRAIN, tiny_cifar};
use resnext_data::Photo;
use resnext_train::Checkpoint;
use std::path::Path;
use std::process::{Command, Output};

const TRANSCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/errors.txt");

/// The recipe that lines with `+` change.
const BASE: &str = "model = \"resnext11_4x4d\"\ndataset = \"cifar10\"\ndata = \"data\"\nepochs = 1\nbatch_size = 16\n\
                    lr = 0.1\naugment = true\nschedule = { kind = \"cosine\" }\n";

/// Words in the transcript before the one line of several that is compared.
const PARTS: [&str; 2] = ["first line of ", "last line of "];

fn xtask(folder: &Path, arguments: &[String]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    for name in ["HF_HUB_CACHE", "HF_TOKEN", "HF_ENDPOINT"] {
        command.env_remove(name);
    }
    command.env("HF_HOME", "hf").env("HF_HUB_OFFLINE", "1").current_dir(folder);
    command.args(arguments).output().unwrap()
}

/// Runs a command that must succeed.
fn prepare(folder: &Path, arguments: &[&str]) {
    let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    let output = xtask(folder, &arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Writes photos, or files that are none, into a folder of this name for each class.
fn photos(folder: &Path, counts: &[(&str, usize)], whole: bool) {
    for (class, count) in counts {
        let folder = folder.join(class);
        std::fs::create_dir_all(&folder).unwrap();
        for i in 0..*count {
            let path = folder.join(format!("{i}.png"));
            match whole {
                true => Photo::new(8, 6, vec![30 * i as u8; 144]).unwrap().save(&path).unwrap(),
                false => std::fs::write(path, "no photo").unwrap(),
            }
        }
    }
}

/// The files that the commands of the transcript find.
fn fixtures(folder: &Path) {
    let at = |name: &str| folder.join(name);
    for name in [
        "data",
        "other",
        "empty",
        "shards",
        "table",
        "begun",
        "middle",
        "moved",
        "locked",
        "described",
        "two",
        "studied",
    ] {
        std::fs::create_dir(at(name)).unwrap();
    }
    tiny_cifar(&at("data"));
    tiny_cifar(&at("other"));
    let mut batch = std::fs::read(at("other/data_batch_1.bin")).unwrap();
    batch[0] ^= 1;
    std::fs::write(at("other/data_batch_1.bin"), batch).unwrap();
    std::fs::write(at("file"), "kept").unwrap();
    std::fs::write(at("empty/notes.txt"), "words").unwrap();
    std::fs::write(at("shards/a.tar"), "no tar").unwrap();
    std::fs::write(at("table/train-00000.parquet"), "PAR1").unwrap();
    std::fs::create_dir_all(at("hub/plain_text")).unwrap();
    std::fs::write(at("hub/plain_text/train.parquet"), "PAR1").unwrap();
    std::fs::write(at("base.toml"), BASE).unwrap();
    std::fs::write(at("int8.json"), r#"{"conv1":{"largest":1.0,"signed":false}}"#).unwrap();
    photos(&at("photos"), &[("red", 3), ("green", 3)], true);
    photos(&at("onlyone"), &[("red", 3)], true);
    photos(&at("lacking"), &[("red", 3), ("green", 0)], true);
    photos(&at("single"), &[("red", 3), ("green", 1)], true);
    photos(&at("uneven/train"), &[("red", 2), ("green", 2)], true);
    photos(&at("divided/train"), &[("red", 3), ("green", 3)], true);
    photos(&at("divided/val"), &[("red", 1), ("green", 1)], true);
    photos(&at("uneven/val"), &[("red", 1), ("blue", 1)], true);
    photos(&at("shades"), &[("red", 3), ("blue", 3)], true);
    photos(&at("three"), &[("red", 1), ("green", 1), ("blue", 1)], true);
    photos(&at("spoilt"), &[("red", 3), ("green", 3)], false);
    photos(&at("lost"), &[("red", 3)], true);
    photos(&at("lost"), &[("green", 3)], false);

    let data = TRAIN.map(|argument| if argument == "." { "data" } else { argument });
    prepare(folder, &[&data[..], &["run", "--epochs", "1"]].concat());
    prepare(folder, &[&data[..], &["lamb", "--epochs", "1", "--optimizer", "lamb"]].concat());
    // One that early stopping has ended: with this learning rate, nothing changes.
    let stopped = ["stopped", "--epochs", "9", "--early-stopping", "1", "--lr", "1e-9"];
    prepare(folder, &[&data[..], &stopped].concat());
    let of_photos =
        ["train", "--data", "photos", "--model", "resnext11_4x4d", "--size", "16", "--epochs", "1"];
    prepare(folder, &[&of_photos[..], &["--out", "photorun"]].concat());
    std::fs::copy(at("photorun/best.safetensors"), at("two/resnext11_4x4d.safetensors")).unwrap();
    // A run in the middle of its first epoch, and one that another process trains.
    let cpu = candle_core::Device::Cpu;
    let mut checkpoint = Checkpoint::load(&at("run/last.safetensors"), &cpu).unwrap();
    (checkpoint.progress.epoch, checkpoint.progress.images) = (0, 16);
    checkpoint.save(&at("middle/last.safetensors")).unwrap();
    std::fs::copy(at("run/recipe.toml"), at("locked/recipe.toml")).unwrap();
    // A run from before checkpoints described their images, whose data set is gone.
    let mut old = Checkpoint::load(&at("run/best.safetensors"), &cpu).unwrap();
    old.metadata.clear();
    old.recipe["data"] = "gone".into();
    old.save(&at("old.safetensors")).unwrap();
    old.save(&at("moved/last.safetensors")).unwrap();
    old.recipe = serde_json::json!({"model": 3});
    old.save(&at("strange.safetensors")).unwrap();
    // Weights that say nothing of themselves, and those of a network without a name.
    let bare: Vec<_> = checkpoint.weights().clone().into_iter().collect();
    safetensors::serialize_to_file(bare, None, &at("w.safetensors")).unwrap();
    std::fs::copy(at("w.safetensors"), at("described/model.safetensors")).unwrap();
    let golden =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/resnext-model/tests/golden/checkpoints/plain.pth");
    std::fs::copy(golden, at("odd.pth")).unwrap();
}

/// The bytes of a text with the escapes `\n` and `\xNN`.
fn unescaped(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text);
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend(before.as_bytes());
        let (byte, len) = match after.as_bytes() {
            [b'n', ..] => (b'\n', 1),
            [b'x', ..] => (u8::from_str_radix(&after[1..3], 16).unwrap(), 3),
            _ => panic!("{text}: an unknown escape"),
        };
        bytes.push(byte);
        rest = &after[len..];
    }
    bytes.extend(rest.as_bytes());
    bytes
}

/// Words between spaces, or between single quotes.
fn words(line: &str) -> Vec<String> {
    let quoted = |(i, part): (usize, &str)| match i % 2 {
        1 => vec![part.to_string()],
        _ => part.split_whitespace().map(String::from).collect(),
    };
    line.split('\'').enumerate().flat_map(quoted).collect()
}

/// Whether a line is the expected one, in which `[…]` stands for numbers that differ from machine to machine.
fn fits(line: &str, expected: &str) -> bool {
    let mut parts = expected.split("[…]");
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = if part.is_empty() { "" } else { &rest[at + part.len()..] };
    }
    rest.is_empty()
}

/// Runs the commands of a section, and returns those that print anything else than the transcript says.
fn differences(folder: &Path, section: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = section.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    while let Some(line) = lines.next() {
        let (kind, rest) = line.split_at(2);
        match kind {
            "> " => {
                let (name, text) = rest.split_once(':').unwrap();
                std::fs::write(folder.join(name), unescaped(text.strip_prefix(' ').unwrap_or(text))).unwrap();
            }
            "+ " => {
                let (name, setting) = rest.split_once(": ").unwrap();
                let key = setting.split(" = ").next().unwrap();
                let kept = BASE.lines().filter(|line| line.split(" = ").next() != Some(key));
                let lines: Vec<&str> = kept.chain([setting]).collect();
                std::fs::write(folder.join(name), unescaped(&(lines.join("\n") + "\n"))).unwrap();
            }
            "$ " => {
                let expected = lines.next().unwrap();
                let part = PARTS.iter().find(|part| expected.starts_with(**part)).copied().unwrap_or("");
                let output = xtask(folder, &words(rest));
                let printed = String::from_utf8_lossy(&output.stderr).trim_end().to_string();
                let shown = match part {
                    "" => printed.as_str(),
                    "last line of " => printed.lines().last().unwrap_or(""),
                    _ => printed.lines().next().unwrap_or(""),
                };
                let status = if part == "first line of " { 2 } else { 1 };
                if !fits(&format!("{part}{shown}"), expected) || output.status.code() != Some(status) {
                    found.push(format!(
                        "$ {rest}\nexpected {expected}\nprinted  {printed}\n{}\n",
                        output.status
                    ));
                }
            }
            _ => panic!("not a line of a transcript: {line}"),
        }
    }
    found
}

#[test]
#[cfg(target_os = "linux")] // whose words for its errors the transcript has
fn every_error_is_the_line_that_the_transcript_says() {
    let folder = tempfile::tempdir().unwrap();
    fixtures(folder.path());
    let lock = std::fs::File::create(folder.path().join("locked/run.lock")).unwrap();
    lock.lock().unwrap();
    let transcript = std::fs::read_to_string(TRANSCRIPT).unwrap();
    let sections: Vec<&str> =
        transcript.split("\n## ").skip(1).map(|section| section.split_once('\n').unwrap().1).collect();
    let found: Vec<String> = std::thread::scope(|scope| {
        let path = folder.path();
        let run = sections.iter().map(|section| scope.spawn(move || differences(path, section)));
        let threads: Vec<_> = run.collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(found.is_empty(), "{} commands:\n{}", found.len(), found.join("\n"));
    assert!(!folder.path().join("out").exists(), "a refused run left a folder");
}
