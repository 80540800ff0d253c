//! Training on a folder of photos as a user types it: with nothing but the folder, from trained weights, and
//! with folders that are wrong.

use super::{cells, refused, text, xtask};
use resnext_data::Photo;
use std::path::Path;
use std::process::Output;

/// Photos of three classes, each of its own colour with a gradient: `counts` of each, in `folder`/red and so on.
pub fn photos(folder: &Path, counts: [usize; 3]) {
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

pub fn ok(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    text(output)
}

#[test]
fn a_folder_of_photos_is_all_that_train_needs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    photos(&path.join("photos"), [8, 8, 4]);
    std::fs::write(path.join("photos/red/broken.jpg"), "no photo").unwrap();
    std::fs::write(path.join("photos/red/notes.txt"), "no photo").unwrap();
    // Only what would take minutes is cut down.
    let quick = ["--model", "resnext11_4x4d", "--size", "16", "--epochs", "2"];
    let whole = xtask(path, &[&["train", "--data", "photos", "--out", "run"][..], &quick].concat());
    let said = ok(&whole);
    // What was typed was not chosen.
    assert!(said.contains("chosen for these: --batch-size 16 --lr 0.003\n"), "{said}");
    assert!(said.contains("of 3 classes for training") && said.contains("split off"), "{said}");
    let warned = String::from_utf8_lossy(&whole.stderr).into_owned();
    assert_eq!(warned.matches("broken.jpg: not an image").count(), 1, "{warned}");
    assert!(warned.contains("photos: left out 1 file: notes.txt (not an image)\n"), "{warned}");
    std::fs::remove_file(path.join("photos/red/notes.txt")).unwrap();
    assert!(said.contains("left out: 1 photo that cannot be read"), "{said}");
    assert!(said.contains("of training's time was spent waiting for images"), "{said}");
    // With three classes, top-5 says nothing.
    assert!(!said.contains("top-5"), "{said}");
    let page = std::fs::read_to_string(path.join("run/report.html")).unwrap();
    for part in
        ["<li>photos/red/broken.jpg: not an image", "top-1 of always answering ", "waiting for images"]
    {
        assert!(page.contains(part), "{part} in {page}");
    }
    // Two epochs are not enough to be right everywhere: the mistakes are named by files of the class that they show.
    let mistakes: Vec<&str> = page.split("<figcaption>").skip(1).collect();
    assert!(!mistakes.is_empty());
    for mistake in mistakes {
        let (class, rest) = mistake.split_once(',').unwrap();
        assert!(rest.contains(&format!("<small>photos/{class}/")), "{mistake}");
    }

    // Evaluation and prediction find what the run knows: the photos, their preparation, and the classes' names.
    let eval = ok(&xtask(path, &["eval", "run"]));
    assert!(eval.contains("test images of folder") && eval.contains("green"), "{eval}");
    // Every evaluation adds a row to a table; views of an image are averaged.
    for (views, out) in [("one", "all.csv"), ("flip", "all.csv"), ("ten", "all.csv"), ("ten", "ten.jsonl")] {
        let args = ["eval", "run", "--size", "16", "--crop-pct", "0.7", "--views", views, "--results", out];
        ok(&xtask(path, &args));
    }
    let csv = std::fs::read_to_string(path.join("all.csv")).unwrap();
    let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    let column = |name: &str| rows[0].iter().position(|own| *own == name).unwrap();
    let of = |name: &str| -> Vec<&str> { rows[1..].iter().map(|row| row[column(name)]).collect() };
    assert_eq!(of("views"), ["one", "flip", "ten"]);
    assert_eq!((of("size"), of("crop_pct")), (vec!["16x16"; 3], vec!["0.7"; 3]));
    // Views differ, and none of them is certain.
    let losses: Vec<f64> = of("loss").iter().map(|loss| loss.parse().unwrap()).collect();
    assert!(
        losses[0] != losses[1] && losses[1] != losses[2] && losses.iter().all(|l| *l > 0.0),
        "{losses:?}"
    );
    let json = std::fs::read_to_string(path.join("ten.jsonl")).unwrap();
    let row: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert!((row["loss"].as_f64().unwrap() - losses[2]).abs() < 1e-12, "{row}");
    refused(
        xtask(path, &["eval", "run", "--results", "all.txt"]),
        "all.txt: expected a name that ends in .csv",
    );
    std::fs::write(path.join("other.csv"), "model,top1\n").unwrap();
    let other = xtask(path, &["eval", "run", "--results", "other.csv"]);
    assert!(String::from_utf8_lossy(&other.stderr).contains("other.csv has other columns"));
    // ReaL labels belong to numbers in names: every class is right for image 1, none for image 2.
    for class in ["red", "green", "blue"] {
        for (part, number) in [("train", 1), ("train", 2), ("val", 1), ("val", 2)] {
            let to = path.join(format!("imagenet/{part}/{class}"));
            std::fs::create_dir_all(&to).unwrap();
            let name = format!("ILSVRC2012_val_0000000{number}.png");
            std::fs::copy(path.join(format!("photos/{class}/{number}.png")), to.join(name)).unwrap();
        }
    }
    std::fs::write(path.join("real.json"), "[[0, 1, 2], [], [0]]").unwrap();
    let real = ["eval", "run", "--data", "imagenet", "--real", "real.json", "--views", "ten"];
    let real = ok(&xtask(path, &real));
    assert!(real.contains("ReaL top-1 100.00 % of 3 images that have ReaL labels"), "{real}");
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

    // A network that has no name is trained further by the configuration in its weights.
    let recipe = std::fs::read_to_string(path.join("run/recipe.toml")).unwrap();
    let nameless = recipe
        .replace("\"resnext11_4x4d\"", "\"mine, 4×(3, 5, 9)d\"")
        .replace("epochs = 2", "epochs = 1")
        + "\n[network]\ncardinality = 4\nbase_width = 3\nwidths = [3, 5, 9]\ndepths = [1, 1, 1]\nstem = \"cifar\"\nclasses = 3\n";
    std::fs::write(path.join("nameless.toml"), nameless).unwrap();
    ok(&xtask(path, &["train", "--recipe", "nameless.toml", "--out", "nameless"]));
    let tuned = ["train", "--data", "photos", "--weights", "nameless", "--size", "16", "--epochs", "1"];
    let said = ok(&xtask(path, &tuned));
    assert!(
        said.contains("network  resnext11, 4×(3, 5, 9)d") && said.contains("with their last layer"),
        "{said}"
    );
    assert!(path.join("runs/folder-resnext11-4-3-5-9-d-1/last.safetensors").is_file());

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

/// A tar shard of samples 0, 1, … with these labels.
fn shard(labels: &[&str]) -> Vec<u8> {
    let photo = tempfile::Builder::new().suffix(".png").tempfile().unwrap();
    Photo::new(8, 8, vec![90; 192]).unwrap().save(photo.path()).unwrap();
    let image = std::fs::read(photo.path()).unwrap();
    let mut bytes = Vec::new();
    let mut add = |name: String, content: &[u8]| {
        let mut header = [0u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..107].copy_from_slice(b"0000644");
        header[124..136].copy_from_slice(format!("{:011o} ", content.len()).as_bytes());
        header[156] = b'0';
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bytes.extend(header);
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    };
    for (i, label) in labels.iter().enumerate() {
        add(format!("{i}.png"), &image);
        add(format!("{i}.cls"), label.as_bytes());
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// `--data` takes tar shards one by one or by a pattern, too.
#[test]
fn shards_are_found_by_a_pattern() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for (name, images) in [("train-000.tar", 6), ("train-001.tar", 4), ("val-000.tar", 2)] {
        let labels: Vec<_> = (0..images).map(|i| ["0", "1"][i % 2]).collect();
        std::fs::write(path.join(name), shard(&labels)).unwrap();
    }
    let trained = |data: &str, out: &str| {
        let settings = ["--model", "resnext11_4x4d", "--size", "8", "--batch-size", "5", "--epochs", "1"];
        ok(&xtask(path, &[&["train", "--data", data, "--out", out][..], &settings].concat()))
    };
    assert!(trained("*-00[01].tar", "two").contains("10 training and 2 test images"));
    assert!(trained("train-000.tar", "one").contains("4 training and 2 test images"));
    ok(&xtask(path, &["train", "--resume", "two", "--epochs", "2"]));
    std::fs::write(path.join("val-001.tar.gz"), b"").unwrap();
    let mixed = xtask(path, &["train", "--data", "*-001.*", "--out", "mixed"]);
    refused(mixed, "val-001.tar.gz matches *-001.* and is no tar shard like the first one");
}

/// What is wrong with a folder or an option is said in one line, before anything is written.
#[test]
fn folders_that_cannot_be_trained_on_are_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for name in ["photos", "empty-class", "differ/train", "differ/val", "fewer/train", "fewer/val"] {
        photos(&path.join(name), [3, 3, 3]);
    }
    std::fs::create_dir(path.join("empty-class/none")).unwrap();
    std::fs::rename(path.join("differ/val/green"), path.join("differ/val/lime")).unwrap();
    std::fs::remove_dir_all(path.join("fewer/val/blue")).unwrap();
    std::fs::create_dir(path.join("single")).unwrap();
    std::fs::rename(path.join("fewer/train/red"), path.join("single/red")).unwrap();
    photos(&path.join("fewer/train"), [3, 0, 0]);
    let whole = shard(&["0", "1", "0", "1"]);
    for (name, bytes) in [
        ("cut", &whole[..whole.len() / 2]),
        ("words", &shard(&["cat", "dog"])[..]),
        ("one-label", &shard(&["0", "0"])[..]),
    ] {
        std::fs::create_dir(path.join(name)).unwrap();
        std::fs::write(path.join(name).join("train-000.tar"), bytes).unwrap();
    }
    for (data, more, expected) in [
        ("empty-class", &[][..], "empty-class/none has no photos"),
        ("single", &[], "single has one class only, red: expected at least two folders"),
        ("differ", &[], "differ/val has no folder green, which differ/train has"),
        ("fewer", &[], "fewer/val has no folder blue, which fewer/train has"),
        ("photos/red", &[], "has no folder per class: expected CLASS/photo.jpg"),
        ("cut", &[], "cut/train-000.tar is cut short"),
        ("words", &[], "words/train-000.tar 0.cls: expected the number of a class, got \"cat\""),
        ("one-label", &[], "one-label has one class only: expected at least two"),
        ("nowhere", &["--dataset", "folder"], "cannot read nowhere"),
        ("photos", &["--dataset", "cifar10"], "does not contain batches.meta.txt"),
        ("photos/red/0.png", &[], "name its data set with --dataset"),
        ("photos", &["--size", "0"], "size must be from 1 to 8192, got 0"),
        ("photos", &["--validation", "1.5"], "must be above 0 and below 1, got 1.5"),
        ("photos", &["--policy", "best"], "expected the policy trivial"),
        ("photos", &["--area", "0.5,2"], "the crop's area must be above 0 and at most 1, got (0.5, 2.0)"),
        ("photos", &["--erase", "1.5"], "erasing must have a probability from 0 to 1, got 1.5"),
        ("photos", &["--mixup", "9"], "mixup must be from 0 to 8, got 9"),
        ("photos", &["--repeats", "0"], "repeats must be at least 1, got 0"),
        ("photos", &["--class-weights", "balanced", "--loss", "bce"], "class weights are for cross-entropy"),
        // The last stage's map of an image of four pixels is one pixel.
        ("photos", &["--size", "4", "--batch-size", "5"], "the last of 6 images is alone in its batch of 5"),
    ] {
        let args =
            [&["train", "--data", data, "--model", "resnext11_4x4d", "--out", "run"][..], more].concat();
        refused(xtask(path, &args), expected);
    }
    refused(xtask(path, &["train", "--size", "64"]), "are for photos");
    assert!(!path.join("run").exists());
}

/// Mixup, CutMix, class weights and repeated augmentation change a run, and its recipe repeats it.
#[test]
fn mixing_class_weights_and_repeats_are_settings_of_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    photos(&path.join("photos"), [10, 5, 5]);
    let small = ["--data", "photos", "--model", "resnext11_4x4d", "--size", "16", "--batch-size", "4"];
    let train = |out: &str, more: &[&str]| {
        ok(&xtask(path, &[&["train"][..], &small, &["--epochs", "1", "--out", out], more].concat()))
    };
    let loss = |run: &str| -> String {
        let csv = std::fs::read_to_string(path.join(run).join("metrics.csv")).unwrap();
        csv.lines().nth(1).unwrap().split(',').nth(2).unwrap().to_string()
    };
    let all = [
        "--mixup",
        "0.2",
        "--cutmix",
        "1",
        "--mix-epochs",
        "3",
        "--class-weights",
        "balanced",
        "--repeats",
        "2",
    ];
    train("all", &all);
    let recipe = std::fs::read_to_string(path.join("all/recipe.toml")).unwrap();
    for line in ["mixup = 0.2", "cutmix = 1.0", "epochs = 3", "class_weights = \"balanced\"", "repeats = 2"] {
        assert!(recipe.contains(line), "{line} in {recipe}");
    }
    ok(&xtask(path, &["train", "--recipe", "all/recipe.toml", "--out", "again"]));
    assert_eq!(loss("again"), loss("all"));
    for left_out in ["--mixup", "--class-weights", "--repeats"] {
        let at = all.iter().position(|arg| *arg == left_out).unwrap();
        let run = format!("without{left_out}");
        train(&run, &[&all[..at], &all[at + 2..]].concat());
        assert_ne!(loss(&run), loss("all"), "{left_out}");
    }
    // Nothing is mixed after the last epoch of mixing.
    train("over", &["--mixup", "0.2", "--mix-epochs", "0"]);
    train("never", &[]);
    assert_eq!(loss("over"), loss("never"));
    let resumed =
        xtask(path, &["train", "--resume", "never", "--epochs", "2", "--erase", "0.5", "--mixup", "0.1"]);
    let said = ok(&resumed);
    for line in ["photos.erase from 0.0 to 0.5", "mix from none to ", "epochs from 1 to 2"] {
        assert!(said.contains(&format!("from here on: {line}")), "{line}: {said}");
    }
}

/// `compare` measures the errors of weights that are called like their networks: those that `eval` measures.
#[test]
fn compare_measures_errors_as_eval_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    photos(&path.join("photos/train"), [6, 6, 6]);
    photos(&path.join("photos/val"), [5, 2, 4]);
    let quick = ["--model", "resnext11_4x4d", "--size", "16", "--epochs", "1", "--lr", "0.0001"];
    ok(&xtask(path, &[&["train", "--data", "photos", "--out", "run"][..], &quick].concat()));
    std::fs::create_dir(path.join("weights")).unwrap();
    std::fs::copy(path.join("run/best.safetensors"), path.join("weights/resnext11_4x4d.safetensors"))
        .unwrap();
    let eval = ok(&xtask(path, &["eval", "run"]));
    let top1 = eval.split("top-1 ").nth(1).unwrap().split(" %").next().unwrap();
    let error = format!("{:.1} %", 100.0 - top1.parse::<f64>().unwrap());
    assert!(error != "0.0 %" && error != "100.0 %", "{eval}");
    for data in ["photos", "photos/val"] {
        let networks = ["compare", "resnext11_4x4d", "resnet101", "--runs", "0", "--picture", "c.svg"];
        let measured = ["--weights", "weights", "--data", data, "--markdown", "c.md"];
        let shown = ok(&xtask(path, &[&networks[..], &measured].concat()));
        let markdown = std::fs::read_to_string(path.join("c.md")).unwrap();
        let rows = cells(&markdown);
        assert_eq!((&rows[0][5], rows[1][5].as_str()), (&error, "no weights"), "{markdown}");
        assert!(shown.contains("error of the weights in weights on 11 photos of photos"), "{shown}");
        assert!(std::fs::read_to_string(path.join("c.svg")).unwrap().contains("measured here"));
    }
    let compare = |weights, data, name| xtask(path, &["compare", name, "--weights", weights, "--data", data]);
    refused(compare("weights", "photos", "resnet101"), "weights of none of these networks");
    refused(compare("weights", "run", "resnext11_4x4d"), "no folder per class");
    std::fs::remove_dir_all(path.join("photos/val/green")).unwrap();
    refused(compare("weights", "photos", "resnext11_4x4d"), "its network has 3 classes, but photos has 2");
    let both =
        ["weights/resnext11_4x4d.safetensors", "weights/resnext11_8x4d.safetensors"].map(|f| path.join(f));
    std::fs::rename(&both[0], &both[1]).unwrap();
    refused(compare("weights", "photos/train", "resnext11_8x4d"), "of the wrong shape");
}
