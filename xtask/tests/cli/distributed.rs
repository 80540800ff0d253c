//! `mpirun -n N xtask train`: needs Open MPI's launcher (`scripts/mpi.sh`).

use super::{TRAIN, text, tiny_cifar};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A command of `processes` processes on this machine, whatever the number of its cores, with one thread each.
fn mpirun(folder: &Path, processes: usize, args: &[&str]) -> Command {
    mpirun_with(folder, processes, 1, args)
}

fn mpirun_with(folder: &Path, processes: usize, threads: usize, args: &[&str]) -> Command {
    let mut command = Command::new("mpirun");
    command.args([
        "--allow-run-as-root",
        "--oversubscribe",
        "--mca",
        "btl_vader_single_copy_mechanism",
        "none",
    ]);
    command.args(["-n", &processes.to_string()]);
    command.args(["-x", &format!("RAYON_NUM_THREADS={threads}"), env!("CARGO_BIN_EXE_xtask")]).args(args);
    command.current_dir(folder).stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null());
    command
}

fn train(folder: &Path, processes: usize, out: &str, more: &[&str]) -> Output {
    mpirun(folder, processes, &[&TRAIN[..], &[out], more].concat()).output().unwrap()
}

/// The lines of this program on standard error, without those of the launcher.
fn own_errors(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    text.lines().filter(|line| line.starts_with("error:")).map(str::to_string).collect()
}

fn losses(folder: &Path, run: &str) -> Vec<f64> {
    let csv = std::fs::read_to_string(folder.join(run).join("metrics.csv")).unwrap();
    let column = csv.lines().next().unwrap().split(',').position(|name| name == "train_loss").unwrap();
    csv.lines().skip(1).map(|line| line.split(',').nth(column).unwrap().parse().unwrap()).collect()
}

fn read(folder: &Path, run: &str) -> Vec<u8> {
    std::fs::read(folder.join(run).join("last.safetensors")).unwrap()
}

/// Two and four processes, with batch norm over whole batches, have one process's losses within rounding; a run
/// repeats byte for byte, and a run of four goes on with two, and with one without a launcher.
#[test]
fn processes_train_one_network_together() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    tiny_cifar(path);
    let options = ["--epochs", "2", "--lr", "0.01"];
    let one = super::train(path, "one", &options);
    assert!(one.status.success(), "{}", String::from_utf8_lossy(&one.stderr));
    let shared = [&options[..], &["--sync-bn"]].concat();
    for (processes, out) in [(2, "two"), (2, "again"), (4, "four")] {
        let many = train(path, processes, out, &shared);
        assert!(many.status.success(), "{}", String::from_utf8_lossy(&many.stderr));
        let printed = text(&many);
        assert!(printed.contains(&format!("{processes} processes share each batch")), "{printed}");
        // One process prints for all.
        assert_eq!(printed.matches("best test top-1").count(), 1, "{printed}");
        for (got, want) in losses(path, out).iter().zip(losses(path, "one")) {
            assert!((got - want).abs() < 1e-4, "{processes} processes: {got}, one: {want}");
        }
    }
    assert!(read(path, "two") == read(path, "again"), "another run of two has other bytes");
    let threads = [&TRAIN[..], &["threads"], &shared].concat();
    assert!(mpirun_with(path, 2, 2, &threads).output().unwrap().status.success());
    assert!(read(path, "two") == read(path, "threads"), "two threads have other bytes than one");
    let longer =
        mpirun(path, 2, &["train", "--resume", "four", "--epochs", "3", "--sync-bn"]).output().unwrap();
    assert!(longer.status.success(), "{}", String::from_utf8_lossy(&longer.stderr));
    assert!(text(&longer).contains("from here on: processes from 4 to 2\n"), "{}", text(&longer));
    assert!(!text(&longer).contains("from here on: batch norm"), "{}", text(&longer));
    let alone = super::xtask(path, &["train", "--resume", "four", "--epochs", "4"]);
    assert!(alone.status.success(), "{}", String::from_utf8_lossy(&alone.stderr));
    assert!(text(&alone).contains("from here on: processes from 2 to 1\n"), "{}", text(&alone));
    assert_eq!(losses(path, "four").len(), 4);
    let report = std::fs::read_to_string(path.join("two/report.html")).unwrap();
    assert!(
        report.contains("2 processes share each batch"),
        "the report does not say how many processes there were"
    );
    // The folder is as one process leaves it.
    for file in ["recipe.toml", "report.html", "best.safetensors", "curves.svg"] {
        assert!(path.join("four").join(file).is_file(), "{file}");
    }
}

/// Weights by class, of which two have no image and so no weight, with images that are mixed in some batches: one
/// process's losses within rounding where nothing is mixed, and the same bits again where batches are.
#[test]
fn class_weights_and_mixing_are_those_of_the_whole_batch() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    tiny_cifar(path);
    let weighted = ["--epochs", "1", "--lr", "0.01", "--class-weights", "balanced"];
    assert!(super::train(path, "one", &weighted).status.success());
    let shared = [&weighted[..], &["--sync-bn"]].concat();
    let two = train(path, 2, "two", &shared);
    assert!(two.status.success(), "{}", String::from_utf8_lossy(&two.stderr));
    let (got, want) = (losses(path, "two")[0], losses(path, "one")[0]);
    assert!((got - want).abs() < 1e-4, "two processes: {got}, one: {want}");
    let mixed = [&shared[..], &["--mixup", "0.4", "--mix-probability", "0.5"]].concat();
    for out in ["mixed", "again"] {
        let run = train(path, 4, out, &mixed);
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    }
    assert!(read(path, "mixed") == read(path, "again"), "another run has other bytes");
}

/// An unreadable photo in each process's part: rank 0's report has both.
#[test]
fn unreadable_photos_of_all_processes_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for class in ["red", "green"] {
        std::fs::create_dir_all(path.join("photos").join(class)).unwrap();
        for i in 0..8u8 {
            let pixels = (0..24 * 24 * 3).map(|p| (p as u8).wrapping_mul(i + 1)).collect();
            let photo = resnext_data::Photo::new(24, 24, pixels).unwrap();
            photo.save(&path.join("photos").join(class).join(format!("{i}.png"))).unwrap();
        }
    }
    let broken = ["red/a.jpg", "red/b.jpg", "red/c.jpg", "green/a.jpg", "green/b.jpg", "green/c.jpg"];
    broken.iter().for_each(|name| std::fs::write(path.join("photos").join(name), "no photo").unwrap());
    let args =
        ["train", "--data", "photos", "--model", "resnext11_4x4d", "--size", "16", "--batch-size", "8"];
    let args = [&args[..], &["--epochs", "2", "--out", "run"]].concat();
    let run = mpirun(path, 2, &args).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert!(text(&run).contains("left out: 6 photos that cannot be read"), "{}", text(&run));
    let report = std::fs::read_to_string(path.join("run/report.html")).unwrap();
    for name in broken {
        assert!(report.contains(&format!("<li>photos/{name}: not an image")), "{name}");
    }
}

/// Starts processes that train for long and save after each step, and waits for a checkpoint. The launcher kills
/// processes `patience` seconds after it has told them to end.
fn started(folder: &Path, processes: usize, out: &str, patience: u32, more: &[&str]) -> Child {
    let args = [&TRAIN[..], &[out, "--save-every", "0", "--epochs", "5000"], more].concat();
    let mut command = mpirun(folder, processes, &args);
    command.env("OMPI_MCA_odls_base_sigkill_timeout", patience.to_string());
    let mut child = command.spawn().unwrap();
    let begun = Instant::now();
    while !folder.join(out).join("last.safetensors").exists() {
        let status = child.try_wait().unwrap();
        assert!(status.is_none() && begun.elapsed() < Duration::from_secs(60), "no checkpoint: {status:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

/// The processes that train into `out`, in the order of their ranks.
fn ranks(out: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let id = entry.file_name().to_string_lossy().into_owned();
        let read = |file: &str| std::fs::read(entry.path().join(file)).unwrap_or_default();
        let parts = |bytes: Vec<u8>| -> Vec<String> {
            bytes.split(|&byte| byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
        };
        let command = parts(read("cmdline"));
        let named = command.first().is_some_and(|program| program.ends_with("xtask"));
        if named && command.iter().any(|part| part == out) {
            let rank = parts(read("environ"))
                .into_iter()
                .find_map(|value| value.strip_prefix("OMPI_COMM_WORLD_RANK=").map(str::to_string));
            found.push((rank, id));
        }
    }
    found.sort();
    found.into_iter().map(|(_, id)| id).collect()
}

fn signal(name: &str, process: &str) {
    assert!(Command::new("kill").args([name, process]).status().unwrap().success());
}

/// Waits for the end of all processes, which is soon.
fn ended(child: Child, out: &str) -> Output {
    let begun = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(30), "it took {:?}", begun.elapsed());
    while !ranks(out).is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(30), "processes are left behind");
        std::thread::sleep(Duration::from_millis(20));
    }
    output
}

/// One process killed, one that hangs, and SIGTERM to one: all end soon, and the run goes on from its checkpoint.
#[test]
fn faults_of_one_process_end_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    tiny_cifar(path);
    let resumes = |out: &str| {
        let checkpoint = super::xtask(path, &["eval", &format!("{out}/last.safetensors")]);
        assert!(checkpoint.status.success(), "{}", String::from_utf8_lossy(&checkpoint.stderr));
    };

    let child = started(path, 2, "killed", 1, &[]);
    signal("-KILL", &ranks("killed")[1]);
    let output = ended(child, "killed");
    assert!(!output.status.success());
    // The launcher sends SIGTERM to the other one: that is nobody's Ctrl-C.
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(own_errors(&output).is_empty() && !printed.contains("stopping"), "{printed}");
    resumes("killed");
    // It may have been killed in its first epoch, before which there are no metrics.
    let done = if path.join("killed/metrics.csv").exists() { losses(path, "killed").len() } else { 0 };
    let epochs = (done + 2).to_string();
    let longer = mpirun(path, 4, &["train", "--resume", "killed", "--epochs", &epochs]).output().unwrap();
    assert!(longer.status.success(), "{}", String::from_utf8_lossy(&longer.stderr));
    assert!(text(&longer).contains("from here on: processes from 2 to 4\n"), "{}", text(&longer));

    let child = started(path, 3, "hanging", 1, &["--timeout", "2"]);
    let hanging = ranks("hanging")[1].clone();
    signal("-STOP", &hanging);
    // Rank 2 waits for it like rank 0, which knows that.
    let output = ended(child, "hanging");
    assert!(!output.status.success());
    let errors = own_errors(&output);
    assert!(
        errors.len() == 1 && errors[0].starts_with("error: rank 0: no answer from rank 1 for 2 s while "),
        "{errors:?}"
    );
    resumes("hanging");

    // The rank that is told does not save; the one that saves is not told.
    let child = started(path, 2, "told", 5, &[]);
    signal("-TERM", &ranks("told")[1]);
    let output = ended(child, "told");
    assert!(own_errors(&output).is_empty(), "{output:?}");
    assert!(
        text(&output).contains("stopped and saved; continue with: cargo xtask train --resume told"),
        "{output:?}"
    );
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(printed.matches("stopping").count(), 1, "{printed}");
    resumes("told");

    // As Slurm does before it takes the nodes away.
    let child = started(path, 2, "all", 5, &[]);
    ranks("all").iter().for_each(|process| signal("-TERM", process));
    let output = ended(child, "all");
    assert!(own_errors(&output).is_empty() && output.status.code() == Some(130), "{output:?}");
    assert_eq!(text(&output).matches("stopped and saved").count(), 1, "{output:?}");
    resumes("all");

    // A disk that is full when rank 0 saves its best weights; the last ones are there.
    std::fs::create_dir(path.join("full")).unwrap();
    std::os::unix::fs::symlink("/dev/full", path.join("full/best.tmp")).unwrap();
    let output = train(path, 2, "full", &["--save-every", "0", "--epochs", "2"]);
    let errors = own_errors(&output);
    assert!(
        errors.len() == 1
            && errors[0].starts_with("error: rank 0: cannot write full/best.safetensors: No space left"),
        "{output:?}"
    );
    assert!(!output.status.success() && !String::from_utf8_lossy(&output.stderr).contains("stopping"));
    resumes("full");
}

/// A rank with other data, a bad setting, and a file that cannot be written: one line each.
#[test]
fn ranks_that_differ_are_refused_with_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    tiny_cifar(path);
    let one_line = |output: Output, expected: &str| {
        let errors = own_errors(&output);
        assert!(!output.status.success() && errors.len() == 1 && errors[0].contains(expected), "{output:?}");
    };
    // Two programs in one launch, of which the second one has other options and is in another folder.
    let pair = |out: &str, second: &[&str], second_folder: &str| {
        let mut command = mpirun(path, 1, &[&TRAIN[..], &[out]].concat());
        command.args([":", "-n", "1", "-wdir"]).arg(path.join(second_folder));
        command.arg(env!("CARGO_BIN_EXE_xtask")).args(TRAIN).args([out]).args(second);
        command.output().unwrap()
    };
    std::fs::create_dir(path.join("other")).unwrap();
    tiny_cifar(&path.join("other"));
    let batch = path.join("other/data_batch_1.bin");
    let mut bytes = std::fs::read(&batch).unwrap();
    bytes[1] ^= 1;
    std::fs::write(&batch, bytes).unwrap();
    one_line(pair("a", &[], "other"), "error: rank 1 has another data set than rank 0: `");
    tiny_cifar(&path.join("other"));
    let batch = path.join("other/test_batch.bin");
    let mut bytes = std::fs::read(&batch).unwrap();
    bytes[1] ^= 1;
    std::fs::write(&batch, bytes).unwrap();
    one_line(pair("a", &[], "other"), "error: rank 1 has another test set than rank 0: `");
    // Another program: this one with a byte behind its end.
    let program = path.join("xtask");
    std::fs::copy(env!("CARGO_BIN_EXE_xtask"), &program).unwrap();
    let mut end = std::fs::OpenOptions::new().append(true).open(&program).unwrap();
    end.write_all(&[0]).unwrap();
    drop(end);
    let mut command = mpirun(path, 1, &[&TRAIN[..], &["a"]].concat());
    command.args([":", "-n", "1"]).arg(&program).args(TRAIN).arg("a");
    one_line(command.output().unwrap(), "error: rank 1 has another program (hash) than rank 0: `");
    std::fs::remove_file(&program).unwrap();
    one_line(pair("a", &["--lr", "0.2"], "."), "error: rank 1 has another recipe than rank 0: `…");
    one_line(pair("a", &["--recipe", "missing.toml"], "."), "error: rank 1: ");
    one_line(train(path, 2, "a", &["--lr", "0"]), "the learning rate must be above 0");
    let thirteen: Vec<&str> = TRAIN.into_iter().map(|arg| if arg == "16" { "13" } else { arg }).collect();
    one_line(
        mpirun(path, 4, &[&thirteen[..], &["a"]].concat()).output().unwrap(),
        "4 processes cannot share a batch of 1 of 40 images",
    );
    assert!(!path.join("a").exists());
    let alone = super::xtask(path, &[&TRAIN[..], &["a", "--sync-bn"]].concat());
    one_line(alone, "--sync-bn, --wire and --bucket are for several processes");
    let mut of_srun = Command::new(env!("CARGO_BIN_EXE_xtask"));
    let of_srun = of_srun.args(TRAIN).arg("a").current_dir(path).env("SLURM_STEP_NUM_TASKS", "2");
    one_line(of_srun.output().unwrap(), "srun has started several processes without MPI");
    assert!(!path.join("a").exists());
    std::fs::write(path.join("file"), "").unwrap();
    one_line(train(path, 2, "file/run", &[]), "error: rank 0: cannot make the folder file/run");
}

/// The benchmark of two processes has a row for each way to add up, MPI's own among them, and a bar for each sum.
#[test]
fn steps_of_several_processes_are_measured_beside_mpi() {
    let folder = tempfile::tempdir().unwrap();
    let args = [
        "bench",
        "--train",
        "--distributed",
        "resnext11_4x4d",
        "--batch",
        "4",
        "--rounds",
        "2",
        "--bucket",
        "1",
    ];
    let output = mpirun(folder.path(), 2, &args).output().unwrap();
    let printed = text(&output);
    assert!(output.status.success(), "{output:?}");
    let rows = |start: &str| printed.lines().filter(|line| line.trim_start().starts_with(start)).count();
    assert_eq!((rows("2 together"), rows("scaling efficiency: ")), (1, 1), "{printed}");
    assert_eq!(
        (rows("this program's, f32"), rows("MPI_Iallreduce, f32"), rows("MPI_Allreduce, f32")),
        (1, 2, 2)
    );
    assert!(rows("backward  █") == 1 && rows("sum 1     ") == 1, "{printed}");
}
