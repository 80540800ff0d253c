//! The CUDA kernels' own source, run on the CPU: `cuda_kernels/emulator.h` emulates the GPU, and each program
//! beside it compares kernels with sums in f64. Needs g++, but neither a GPU nor the CUDA toolkit.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles `source`.cpp as the program `name` with some definitions and runs it. Checks that all its comparisons passed.
fn check(name: &str, source: &str, definitions: &[&str]) {
    if Command::new("g++").arg("--version").output().is_err() {
        eprintln!("skipped: {name} needs g++, which is not here");
        return;
    }
    let source =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda_kernels").join(source).with_extension("cpp");
    let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("cuda_kernels_{name}"));
    // The sanitizer finds accesses that are less aligned than the device requires, accesses beyond an array, and
    // arithmetic that overflows. Its other checks would double the time and find what guard pages find.
    let flags = [
        "-std=c++17",
        "-O1",
        "-w",
        "-fsanitize=alignment,bounds,signed-integer-overflow,shift,integer-divide-by-zero",
        "-fno-sanitize-recover=all",
        "-U_FORTIFY_SOURCE",
    ];
    let compiled = Command::new("g++")
        .args(flags)
        .args(definitions)
        .arg("-o")
        .arg(&program)
        .arg(&source)
        .output()
        .unwrap();
    assert!(compiled.status.success(), "{name}: {}", String::from_utf8_lossy(&compiled.stderr));
    let ran = Command::new(&program).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success() && out.ends_with(" passed, 0 failed\n"), "{name}: {out}{err}");
    println!("{name}: {out}");
}

#[test]
fn grouped_convolution_in_f32_and_tf32() {
    check("grouped_f32", "grouped", &["-DSIXTEEN_BITS=0"]);
}

#[test]
fn grouped_convolution_in_bf16_and_f16() {
    check("grouped_16_bits", "grouped", &["-DSIXTEEN_BITS=1"]);
}

#[test]
fn any_convolution() {
    check("conv", "conv", &[]);
}

#[test]
fn other_operations() {
    check("others", "others", &[]);
}
