//! Negative controls: a small workspace without violations, and one violation of each kind, which must be
//! found.

use crate::rules::violations;
use crate::tree::Crate;

const PICTURE: &str = "
```wings
top              programs                    → middle base
middle           tensors                     → base
  train/         with gradients              → ground; base: kernels
  infer/         without
                 → base: packed
  devices/       GPUs                        → ground; base: ground
  ground         error.rs config.rs: needed everywhere
base             slices                      → outside: rayon
  kernels/       of training                 → ground
  packed/        of inference                → ground
  ground         shape.rs: sizes
```
";

/// A workspace of three crates without violations.
fn sound() -> Vec<(&'static str, &'static str, &'static str)> {
    vec![
        (
            "top",
            "main.rs",
            "mod args; use middle::{Conv, Shape}; fn main() { args::read(); base::shape::area(); }",
        ),
        ("top", "args.rs", "pub fn read() {}"),
        (
            "middle",
            "lib.rs",
            "mod config; mod devices; mod error; mod infer; mod train; pub use train::Conv; pub use base::shape::Shape;",
        ),
        (
            "middle",
            "error.rs",
            "pub struct Error; #[cfg(test)] mod tests { use super::*; use crate::train::conv::Conv; }",
        ),
        ("middle", "config.rs", "use crate::error::Error; pub fn check() -> Result<(), Error> { Ok(()) }"),
        (
            "middle",
            "devices/mod.rs",
            "use base::shape::Shape; use crate::config; fn f() { config::check(); }",
        ),
        ("middle", "infer/mod.rs", "mod map; mod conv; use base::packed::pack;"),
        ("middle", "infer/map.rs", "pub struct Map;"),
        (
            "middle",
            "infer/conv.rs",
            "use super::map::Map; fn f(m: Map) { matches!(m, crate::infer::map::Map); }",
        ),
        ("middle", "train/mod.rs", "pub mod conv; mod tape; pub use conv::Conv;"),
        (
            "middle",
            "train/conv.rs",
            "use crate::{config::check, error}; use super::tape; pub struct Conv(error::Error, tape::Tape);",
        ),
        ("middle", "train/tape.rs", "pub struct Tape; fn f() { base::kernels::conv::run(); }"),
        ("base", "lib.rs", "pub mod kernels; pub mod packed; pub mod shape;"),
        ("base", "shape.rs", "pub struct Shape; pub fn area() {}"),
        ("base", "kernels/mod.rs", "pub mod conv;"),
        ("base", "kernels/conv.rs", "use crate::shape::Shape; pub fn run() {}"),
        ("base", "packed/mod.rs", "use crate::shape; pub fn pack(s: shape::Shape) {}"),
    ]
}

const MANIFESTS: [(&str, &str); 3] = [
    ("top", "[dependencies]\nmiddle = {}\nbase = {}\nclap = {}\n"),
    ("middle", "[dependencies]\nbase = {}\ncandle-core = {}\n"),
    ("base", "[dependencies]\nrayon = {}\n[dev-dependencies]\nproptest = {}\n"),
];

const LOCK: &str = "
[[package]]
name = \"base\"
dependencies = [\"rayon\", \"proptest 1.0.0\"]
[[package]]
name = \"middle\"
dependencies = [\"base\", \"candle-core\"]
";

/// The violations in the sound workspace after replacing or adding some files and manifests.
fn found_with(
    files: &[(&'static str, &'static str, &'static str)],
    manifests: &[(&'static str, &'static str)],
    lock: &str,
) -> Vec<String> {
    let mut crates: Vec<Crate> = Vec::new();
    for (name, manifest) in MANIFESTS.iter().chain(manifests) {
        let manifest = format!("[package]\nname = \"{name}\"\n{manifest}");
        match crates.iter_mut().find(|krate| krate.name == *name) {
            Some(krate) => krate.manifest = manifest,
            None => crates.push(Crate { name: name.to_string(), manifest, files: Default::default() }),
        }
    }
    for (name, path, text) in sound().into_iter().chain(files.iter().copied()) {
        let krate = crates.iter_mut().find(|krate| krate.name == name).unwrap();
        krate.files.insert(path.to_string(), text.to_string());
    }
    violations(&crates, PICTURE, lock)
}

/// The same without unused arrows, because the replaced file may have been the only one to use an arrow.
fn found(files: &[(&'static str, &'static str, &'static str)]) -> Vec<String> {
    let mut found = found_with(files, &[], LOCK);
    found.retain(|message| !message.starts_with("the picture: no file of"));
    found
}

/// Asserts that exactly one violation was found, and that its message contains all of `words`.
#[track_caller]
fn one(found: Vec<String>, words: &[&str]) {
    assert_eq!(found.len(), 1, "{found:#?}");
    for word in words {
        assert!(found[0].contains(word), "{word:?} is not in {}", found[0]);
    }
}

#[test]
fn a_sound_workspace_has_no_violations() {
    assert_eq!(found_with(&[], &[], LOCK), Vec::<String>::new());
}

#[test]
fn two_files_in_a_circle() {
    let tape = "use super::conv::Conv; pub struct Tape; fn f(c: Conv) {}";
    one(
        found(&[("middle", "train/tape.rs", tape)]),
        &[
            "middle: 2 files import each other in a circle",
            "train/conv.rs uses tape::Tape, of train/tape.rs",
            "train/tape.rs uses super::conv::Conv, of train/conv.rs",
        ],
    );
}

#[test]
fn three_files_in_a_circle_and_one_more_beside() {
    let files = [
        ("middle", "train/mod.rs", "pub mod conv; mod tape; mod pool; mod norm; pub use conv::Conv;"),
        ("middle", "train/tape.rs", "use super::{norm::N, pool::P}; pub struct Tape;"),
        ("middle", "train/pool.rs", "use super::conv::Conv; pub struct P;"),
        ("middle", "train/norm.rs", "use crate::train::pool::P; pub struct N;"),
    ];
    one(found(&files), &["4 files", "train/pool.rs uses super::conv::Conv", "and with them train/norm.rs"]);
}

#[test]
fn a_circle_through_a_re_export() {
    // The parent re-exports an item of one child, and another child imports it from there.
    let files = [
        ("middle", "train/mod.rs", "pub mod conv; mod tape; pub use conv::Conv;"),
        ("middle", "train/tape.rs", "use super::Conv as C; pub struct Tape(Option<Box<C>>);"),
    ];
    let text = found(&files);
    one(text, &["3 files", "train/tape.rs uses super::Conv, of train/conv.rs", "and with them train/mod.rs"]);
    // Through a glob and two renames.
    let files = [
        ("middle", "train/mod.rs", "pub mod conv; mod names; mod tape; pub use conv::Conv;"),
        (
            "middle",
            "train/names.rs",
            "mod inner { pub use crate::train::conv::Conv as A; } pub use inner::*;",
        ),
        ("middle", "train/tape.rs", "use super::names::A as C; pub struct Tape(Option<Box<C>>);"),
    ];
    let text = found(&files);
    assert!(text[0].contains("train/tape.rs") && text[0].contains("circle"), "{text:#?}");
}

#[test]
fn a_circle_through_an_inline_path() {
    for tape in [
        "pub struct Tape; fn f() -> crate::train::conv::Conv { todo!() }",
        "pub struct Tape; fn f() { let _ = super::conv::Conv::default(); }",
        "pub struct Tape; fn f() { g::<super::super::train::conv::Conv>(); }",
        "pub struct Tape; fn f() { assert!(x, \"{}\", [1, 2].map(|_| crate::train::conv::Conv::new())); }",
        "pub struct Tape; fn f() { use super::conv; g(conv::Conv); }",
        "pub struct Tape; macro_rules! m { ($a:ident) => { $crate::train::conv::Conv }; }",
        "pub struct Tape; macro_rules! m { () => { use $crate::train::{conv::{Conv}}; }; }",
        "#[derive(Error)] #[error(\"{}\", crate::train::conv::names())] pub struct Tape;",
        "pub struct Tape; impl super::conv::Layer for Tape {}",
        "mod inner { pub fn f(_: super::super::conv::Conv) {} } pub struct Tape;",
    ] {
        one(
            found(&[("middle", "train/tape.rs", tape)]),
            &["2 files", "train/tape.rs uses", "of train/conv.rs"],
        );
    }
}

#[test]
fn a_circle_in_code_of_one_configuration() {
    for tape in [
        "pub struct Tape; #[cfg(feature = \"cuda\")] fn f() -> crate::train::conv::Conv { todo!() }",
        "pub struct Tape; #[cfg(any(test, feature = \"metal\"))] use super::conv::Conv;",
        "pub struct Tape; #[cfg(target_arch = \"x86_64\")] mod avx { use super::super::conv::*; }",
        "pub struct Tape; #[cfg(not(test))] use super::conv::Conv;",
    ] {
        one(
            found(&[("middle", "train/tape.rs", tape)]),
            &["2 files", "train/tape.rs uses", "of train/conv.rs"],
        );
    }
    // Unit tests are exempt.
    for tape in [
        "pub struct Tape; #[cfg(test)] mod tests { use crate::train::conv::Conv; }",
        "pub struct Tape; #[cfg(all(test, unix))] use super::conv::Conv;",
        "pub struct Tape; impl Tape { #[cfg(test)] fn f() { super::conv::f() } }",
    ] {
        assert_eq!(found(&[("middle", "train/tape.rs", tape)]), Vec::<String>::new());
    }
}

#[test]
fn a_child_that_imports_its_parent() {
    let files = [
        (
            "middle",
            "infer/mod.rs",
            "mod map; mod conv; use base::packed::pack; use conv::f; pub struct Shared;",
        ),
        ("middle", "infer/conv.rs", "use super::Shared; pub fn f() {}"),
    ];
    one(found(&files), &["2 files", "infer/conv.rs uses super::Shared, of infer/mod.rs"]);
}

#[test]
fn a_name_from_the_crate_s_own_root() {
    let tape = "use crate::Conv; pub struct Tape;";
    let text = found(&[("middle", "train/tape.rs", tape), ("middle", "train/conv.rs", "pub struct Conv;")]);
    one(text, &["train/tape.rs uses crate::Conv through lib.rs: import it from the file that defines it"]);
    let text = found(&[("top", "args.rs", "pub fn read() { crate::main() }")]);
    one(text, &["args.rs uses crate::main through main.rs"]);
}

#[test]
fn imports_against_the_wings() {
    let conv = |text: &'static str| found(&[("middle", "infer/conv.rs", text)]);
    let no_arrow = "the picture has no arrow from infer to train";
    one(conv("use crate::train::tape::Tape;"), &["infer/conv.rs uses crate::train::tape::Tape", no_arrow]);
    one(
        conv("fn f() { crate::train::tape::f(); }"),
        &["uses crate::train::tape::f of train/tape.rs", no_arrow],
    );
    one(conv("use base::kernels::conv::run;"), &["the picture has no arrow from infer to kernels of base"]);
    one(conv("#[cfg(feature = \"cuda\")] use crate::devices::f;"), &["no arrow from infer to devices"]);
    let devices = |text: &'static str| found(&[("middle", "devices/mod.rs", text)]);
    one(devices("use base::packed::pack;"), &["the picture has no arrow from devices to packed of base"]);
    one(devices("fn f() { base::kernels::conv::run(); }"), &["no arrow from devices to kernels of base"]);
    // Through a re-export, and from the lowest wing.
    let files = [
        (
            "base",
            "lib.rs",
            "pub mod kernels; pub mod packed; pub mod shape; pub use kernels::conv::run as conv;",
        ),
        ("middle", "devices/mod.rs", "use base::conv;"),
    ];
    one(
        found(&files),
        &["devices/mod.rs uses base::conv of kernels/conv.rs", "no arrow from devices to kernels of base"],
    );
    one(found(&[("middle", "config.rs", "use crate::infer::map::Map;")]), &["no arrow from ground to infer"]);
    one(
        found(&[("base", "packed/mod.rs", "use crate::kernels::conv::run;")]),
        &["no arrow from packed to kernels"],
    );
}

#[test]
fn an_unused_arrow() {
    let text = found_with(&[("middle", "infer/mod.rs", "mod map; mod conv;")], &[], LOCK);
    one(text, &["the picture: no file of middle infer uses packed of base"]);
    let text = found_with(&[], &[("top", "[dependencies]\nmiddle = {}\n")], LOCK);
    one(text, &["the picture: Cargo.toml of top has no base"]);
}

#[test]
fn a_file_without_wing_and_a_file_without_module() {
    let files = [
        ("base", "lib.rs", "pub mod kernels; pub mod packed; pub mod shape; mod lost;"),
        ("base", "lost.rs", "fn f() {}"),
    ];
    one(found(&files), &["lost.rs of base belongs to no wing"]);
    one(found(&[("top", "left.rs", "")]), &["top: no `mod` leads to left.rs"]);
}

#[test]
fn tensors_in_a_crate_that_must_not_know_them() {
    let manifest =
        "[dependencies]\nrayon = {}\n[target.'cfg(unix)'.dependencies]\nc = { package = \"candle-core\" }\n";
    one(found_with(&[], &[("base", manifest)], LOCK), &["base: dependencies of Cargo.toml has candle-core"]);
    let source = "pub struct Shape; pub fn area() {} #[cfg(test)] mod tests { use candle_core::Tensor; }";
    one(found(&[("base", "shape.rs", source)]), &["base: shape.rs uses candle_core, a crate of tensors"]);
    let lock = format!("{LOCK}[[package]]\nname = \"proptest\"\ndependencies = [\"candle-nn 0.9.1\"]\n");
    one(found_with(&[], &[], &lock), &["base → proptest → candle-nn"]);
    let manifest = "[dependencies]\nrayon = {}\nserde = {}\n";
    one(
        found_with(&[], &[("base", manifest)], LOCK),
        &["has serde, which is not among the picture's: rayon"],
    );
}

#[test]
fn a_crate_that_imports_one_above_it() {
    let manifest = "[dependencies]\nrayon = {}\n[dev-dependencies]\nmiddle = {}\n";
    one(found_with(&[], &[("base", manifest)], LOCK), &["base: dev-dependencies of Cargo.toml has middle"]);
    let source = "pub struct Shape; pub fn area() {} #[cfg(test)] mod tests { use middle::Conv; }";
    let text = found(&[("base", "shape.rs", source)]);
    one(text, &["base: shape.rs uses middle: the picture has no arrow to middle"]);
}

#[test]
fn a_picture_whose_arrows_point_up() {
    let told = |from: &str, to: &str| {
        crate::picture::Picture::parse(&PICTURE.replace(from, to)).err().unwrap_or_default()
    };
    assert!(
        told("GPUs                        → ground", "GPUs → train")
            .contains("middle devices imports train, which")
    );
    assert!(told("slices                      →", "slices → top;").contains("base imports top, which"));
    assert!(told("base: packed", "base: tape").contains("middle infer imports tape of"));
    assert!(told("shape.rs: sizes", "sizes").contains("base ground is no folder or file"));
}
