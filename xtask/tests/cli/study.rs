//! `cargo xtask study`: plans, resumption and reports.

use super::{refused, text, tiny_cifar, xtask};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

const STUDY: [&str; 13] = [
    "study",
    "cardinality",
    "--dataset",
    "cifar10",
    "--data",
    ".",
    "--network",
    "resnet20_1x17d",
    "--cardinalities",
    "1,4",
    "--epochs",
    "2",
    "--out",
];

fn study(folder: &Path, out: &str, more: &[&str]) -> Output {
    xtask(folder, &[&STUDY[..], &[out], more].concat())
}

fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn read(folder: &Path, file: &str) -> String {
    std::fs::read_to_string(folder.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn spawned(folder: &Path, args: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    let command = command.args(args).current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// kill -9 as soon as a file is there.
fn kill_when(child: &mut Child, file: &Path) {
    while !file.exists() {
        assert!(child.try_wait().unwrap().is_none(), "the study ended before it was killed");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// kill -9 in the middle, and a run that another machine has trained: the study ends with the report of one that was
/// left alone.
#[test]
fn a_study_that_is_killed_goes_on_and_takes_runs_from_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    tiny_cifar(path);
    let whole = study(path, "whole", &["--seeds", "2"]);
    succeeded(&whole);
    let shown = text(&whole);
    assert!(shown.contains("run 4 of 4, 4×"), "{shown}");
    assert!(shown.contains("per doubling of C"), "{shown}");
    for file in ["recipe.toml", "metrics.csv", "last.safetensors", "best.safetensors", "report.html"] {
        assert!(path.join("whole/c4-seed1").join(file).is_file(), "{file}");
    }
    refused(study(path, "whole", &[]), "already holds a study");

    let mut child = spawned(path, &[&STUDY[..], &["killed", "--seeds", "2"]].concat());
    kill_when(&mut child, &path.join("killed/c4-seed0/recipe.toml"));
    // The page shows what there is.
    succeeded(&xtask(path, &["study", "report", "killed"]));
    assert!(read(path, "killed/study.md").contains("The study is unfinished"));
    // The other machine has one run of each network.
    std::fs::create_dir(path.join("other")).unwrap();
    std::fs::copy(path.join("killed/plan.toml"), path.join("other/plan.toml")).unwrap();
    let part = xtask(path, &["study", "resume", "other", "--part", "2/2"]);
    succeeded(&part);
    assert!(text(&part).contains("run 2 of 2, 1×"), "{}", text(&part));
    assert!(path.join("other/c4-seed0").exists() && !path.join("other/c1-seed0").exists());
    for file in ["recipe.toml", "metrics.csv"] {
        let to = path.join("killed/c1-seed1");
        std::fs::create_dir_all(&to).unwrap();
        std::fs::copy(path.join("other/c1-seed1").join(file), to.join(file)).unwrap();
    }
    // Killed again, after a run's first checkpoint. On a busy machine the run may be over by then.
    let first_epoch = || read(path, "killed/c4-seed1/metrics.csv").lines().nth(1).unwrap().to_string();
    let killed = (0..5).find_map(|_| {
        let mut child = spawned(path, &["study", "resume", "killed"]);
        kill_when(&mut child, &path.join("killed/c4-seed1/last.safetensors"));
        if path.join("killed/c4-seed1/report.html").exists() {
            std::fs::remove_dir_all(path.join("killed/c4-seed1")).unwrap();
            return None;
        }
        Some(first_epoch())
    });
    let resumed = xtask(path, &["study", "resume", "killed", "--data", "."]);
    succeeded(&resumed);
    assert!(!text(&resumed).contains("run 3 of 4"), "a run that was copied here was trained again");
    // The epoch of the checkpoint was not trained again, which would have taken another time.
    assert_eq!(killed.unwrap(), first_epoch());
    assert_eq!(read(path, "killed/study.md"), read(path, "whole/study.md"));
    assert_eq!(read(path, "killed/study.html"), read(path, "whole/study.html"));
}

/// Every run of this recipe diverges: the study goes through all of them, and its report shows why.
#[test]
fn failed_runs_do_not_end_a_study_and_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    tiny_cifar(path);
    let recipe = "model = \"any\"\ndataset = \"cifar10\"\nepochs = 20\nbatch_size = 8\nlr = 1e30\naugment = false\n\n\
                  [schedule]\nkind = \"step\"\nmilestones = [0.5]\nfactor = 0.1\n";
    std::fs::write(path.join("wild.toml"), recipe).unwrap();
    let output = study(path, "wild", &["--recipe", "wild.toml", "--seeds", "1", "--train-images", "16"]);
    succeeded(&output);
    assert!(text(&output).contains("There is no verdict yet"), "{}", text(&output));
    for run in ["c1-seed0", "c4-seed0"] {
        assert!(read(path, &format!("wild/{run}/failure.txt")).contains("loss"), "{run}");
    }
    let markdown = read(path, "wild/study.md");
    assert_eq!(markdown.matches("| failed: ").count(), 2, "{markdown}");
    assert!(markdown.contains("2 runs are without a result"), "{markdown}");
    // They are not tried again; a folder of another run is refused, and says what to do.
    let again = xtask(path, &["study", "resume", "wild"]);
    succeeded(&again);
    assert!(!text(&again).contains("run 1 of 2"));
    let other = read(path, "wild/c1-seed0/recipe.toml").replace("seed = 0", "seed = 5");
    std::fs::write(path.join("wild/c1-seed0/recipe.toml"), other).unwrap();
    refused(
        xtask(path, &["study", "resume", "wild"]),
        "recipe.toml is not the plan's; move that folder away",
    );
}

#[test]
fn a_plan_is_fitted_to_a_budget_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    tiny_cifar(path);
    let plan = |kind: &str, more: &[&str]| {
        let common = [
            "study",
            kind,
            "--dataset",
            "cifar10",
            "--data",
            ".",
            "--network",
            "resnet20_1x17d",
            "--dry-run",
        ];
        xtask(path, &[&common[..], more].concat())
    };
    let fitted = plan("cardinality", &["--cardinalities", "1,4", "--budget", "99h"]);
    succeeded(&fitted);
    assert!(text(&fitted).contains("The length of the study was chosen for 99 h 0 min"), "{}", text(&fitted));
    // The recipe's 20 epochs are the most, and ten seeds.
    assert!(text(&fitted).contains("20 runs: 10 seeds of 20 epochs each"), "{}", text(&fitted));
    for kind in ["capacity", "shortcuts"] {
        let shown = plan(kind, &["--cardinality", "4"]);
        succeeded(&shown);
        assert!(text(&shown).contains("3 seeds of 20 epochs each"), "{}", text(&shown));
    }
    assert!(!path.join("studies").exists());
    refused(
        plan("cardinality", &["--budget", "0.001s", "--cardinalities", "1,4"]),
        "--budget: 3 seeds of each network",
    );
    refused(
        plan("cardinality", &["--cardinalities", "1,512"]),
        "no widths make these networks equally complex",
    );
    refused(plan("cardinality", &["--train-images", "41"]), "from 1 to the 40 of cifar10, got 41");
    refused(xtask(path, &["study", "resume", "."]), "is not a study folder");
}
