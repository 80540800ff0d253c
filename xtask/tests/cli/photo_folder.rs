//! Training on a folder of photos as a user types it: with nothing but the folder, from trained weights, and
//! with folders that are wrong.

use super::{refused, text, xtask};
use resnext_data::Photo;
use std::path::Path;
use std::process::Output;

/// Photos of three classes, each of its own colour with a gradient: `counts` of each, in `folder`/red and so on.
fn photos(folder: &Path, counts: [usize; 3]) {
    for (class, (name, count)) in ["red", "green", "blue"].iter().zip(counts).enumerate() {
        std::fs::create_dir_all(folder.join(name)).unwrap();
        for i in 0..count {
            let value = |p: usize| match p % 3 == class {
                true => 255 - (p / 3 % 40) as u8,
                false => (20 + 5 * i + p / 120 % 30) as u8,
            };
            let pixels = (0..40 * 30 * 3).map(value).collect();
            Photo::new(40, 30, pixels).unwrap().save(&folder.join(name).join(format!("{i}.png"))).unwrap();
        }
    }
}

fn ok(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    text(output)
}

#[test]
fn a_folder_of_photos_is_all_that_train_needs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    photos(&path.join("photos"), [8, 8, 4]);
    std::fs::write(path.join("photos/red/broken.jpg"), "no photo").unwrap();
    // Only what would take minutes is cut down.
    let quick = ["--model", "resnext11_4x4d", "--size", "16", "--epochs", "2"];
    let whole = xtask(path, &[&["train", "--data", "photos", "--out", "run"][..], &quick].concat());
    let said = ok(&whole);
    assert!(said.contains("chosen for these: --model resnext11_4x4d"), "{said}");
    assert!(said.contains("of 3 classes for training") && said.contains("split off"), "{said}");
    let warned = String::from_utf8_lossy(&whole.stderr).into_owned();
    assert_eq!(warned.matches("broken.jpg: not an image").count(), 1, "{warned}");

    // Evaluation and prediction find what the run knows: the photos, their preparation, and the classes' names.
    let eval = ok(&xtask(path, &["eval", "run"]));
    assert!(eval.contains("test images of folder") && eval.contains("green"), "{eval}");
    let predicted = ok(&xtask(path, &["predict", "photos/blue/0.png", "--weights", "run", "--topk", "3"]));
    assert!(["red", "green", "blue"].iter().all(|name| predicted.contains(name)), "{predicted}");

    // The run's recipe repeats it, also where the photos are named differently.
    let again = ["train", "--recipe", "run/recipe.toml", "--out", "again"];
    ok(&xtask(path, &again));
    let losses = |run: &str| -> Vec<String> {
        let csv = std::fs::read_to_string(path.join(run).join("metrics.csv")).unwrap();
        csv.lines().map(|line| line.split(',').take(6).collect::<Vec<_>>().join(",")).collect()
    };
    assert_eq!(losses("run").len(), 3);
    assert_eq!(losses("run"), losses("again"));

    // A run knows its classes, and does not judge photos of others by them.
    std::fs::rename(path.join("photos/green"), path.join("photos/yellow")).unwrap();
    refused(
        xtask(path, &["eval", "run"]),
        "photos has the classes blue, red, yellow, expected those of the run",
    );

    // Other classes: all weights but the last layer's come from the run.
    let tuned =
        ["train", "--data", "photos", "--weights", "run", "--size", "16", "--epochs", "1", "--out", "tuned"];
    let said = ok(&xtask(path, &tuned));
    assert!(said.contains("with a new last layer for 3 classes"), "{said}");
    let predicted = ok(&xtask(path, &["predict", "photos/blue/0.png", "--weights", "tuned", "--topk", "3"]));
    assert!(predicted.contains("yellow") && !predicted.contains("green"), "{predicted}");
    refused(
        xtask(
            path,
            &["train", "--data", "photos", "--strict", "--model", "resnext11_4x4d", "--out", "strict"],
        ),
        "broken.jpg",
    );
}

#[test]
fn a_folder_is_shown_before_it_is_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    photos(&folder.path().join("photos"), [3, 3, 3]);
    let args = ["data", "preview", "--data", "photos", "--size", "24", "--crops", "4", "--out", "sheet.png"];
    let said = ok(&xtask(folder.path(), &args));
    assert!(said.contains("row 1: blue") && said.contains("row 3: red"), "{said}");
    let sheet = Photo::open(&folder.path().join("sheet.png")).unwrap();
    assert_eq!((sheet.width(), sheet.height()), (5 * 28 + 4, 3 * 28 + 4));
    // The middle of the first photo in the rows of blue and red.
    let pixel = |row: usize| &sheet.pixels()[3 * ((row * 28 + 16) * sheet.width() + 16)..][..3];
    assert!(pixel(0)[2] > 200 && pixel(0)[0] < 100 && pixel(2)[0] > 200, "{:?} {:?}", pixel(0), pixel(2));
    let speed =
        ok(&xtask(folder.path(), &["data", "speed", "--data", "photos", "--threads", "2", "--seconds", "0"]));
    assert!(speed.contains("images/s") && speed.contains("on 2 threads"), "{speed}");
}

#[test]
fn folders_that_cannot_be_trained_on_are_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let train = |data: &str, more: &[&str]| {
        xtask(path, &[&["train", "--data", data, "--out", "run"][..], more].concat())
    };
    photos(&path.join("photos"), [3, 3, 3]);
    std::fs::create_dir(path.join("photos/empty")).unwrap();
    refused(train("photos", &[]), "photos/empty has no photos");
    std::fs::remove_dir(path.join("photos/empty")).unwrap();
    refused(train("photos", &["--size", "0"]), "size must be from 1 to 8192, got 0");
    refused(train("photos", &["--validation", "1.5"]), "must be above 0 and below 1, got 1.5");
    refused(train("photos", &["--policy", "best"]), "expected the policy trivial");
    refused(train("photos/red", &[]), "has no folder per class");
    refused(train("nowhere", &["--dataset", "folder"]), "nowhere");
    refused(train("photos", &["--dataset", "cifar10"]), "does not contain batches.meta.txt");
    refused(xtask(path, &["train", "--size", "64"]), "are for photos");
    refused(train("photos/red/0.png", &[]), "needs --dataset");
    assert!(!path.join("run").exists());
}
