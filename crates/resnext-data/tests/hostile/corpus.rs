//! What fuzzing has found: the inputs in `fuzz/corpus` that reach code of the decoders, as the fuzz targets read them.

use super::MEMORY;
use flate2::Compression;
use flate2::write::GzEncoder;
use resnext_data::{
    EvalTransform, Interpolation, Normalization, Photo, PhotoError, Resize, Shards, ValidationSplit, cifar,
};
use std::io::Write;
use std::path::Path;

/// The inputs of a target, each with its name; at least `least`.
fn inputs(target: &str, least: usize) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.unwrap();
        (entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).unwrap())
    };
    let mut inputs: Vec<_> = std::fs::read_dir(folder).unwrap().map(read).collect();
    inputs.sort();
    assert!(inputs.len() >= least, "{target}: {}", inputs.len());
    inputs
}

/// Asserts that an error is one line.
fn assert_line(name: &str, error: impl std::fmt::Display) {
    let line = error.to_string();
    assert!(!line.chars().any(char::is_control), "{name}: {line}");
}

#[test]
fn photos_that_fuzzing_found_are_decoded_or_refused_in_one_line() {
    for (name, bytes) in inputs("photo", 300) {
        let photo = match Photo::decode_within(&bytes, MEMORY) {
            Ok(photo) => photo,
            // A panic of a decoder is caught, so that a user sees one line. Here it is to be seen.
            Err(PhotoError::Panicked(reason)) => panic!("{name}: {reason}"),
            Err(error) => {
                assert_line(&name, error);
                continue;
            }
        };
        let transform = EvalTransform {
            resize: Resize::Shorter(35),
            crop: (32, 40),
            interpolation: Interpolation::Bilinear,
            normalization: Normalization { mean: [0.5; 3], std: [0.25; 3] },
        };
        assert_eq!(transform.apply(&photo).len(), 32 * 40 * 3, "{name}");
    }
}

#[test]
fn archives_that_fuzzing_found_are_read_or_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cifar.tar.gz");
    for (name, bytes) in inputs("cifar", 50) {
        // The first byte says which data set is asked for, and whether the others are packed already.
        let Some((&first, bytes)) = bytes.split_first() else { continue };
        let mut packed = bytes.to_vec();
        if first % 4 != 0 {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::none());
            encoder.write_all(bytes).unwrap();
            packed = encoder.finish().unwrap();
        }
        std::fs::write(&path, packed).unwrap();
        match if first < 128 { cifar::cifar10(&path) } else { cifar::cifar100(&path) } {
            Ok(splits) => {
                assert!((0..splits.test.len()).all(|i| splits.test.image(i).len() == 3072), "{name}")
            }
            Err(error) => assert_line(&name, error),
        }
    }
}

#[test]
fn shards_that_fuzzing_found_are_read_or_refused_in_one_line() {
    for (name, bytes) in inputs("shards", 30) {
        // The first byte says whether the end mark is there, without which no shard is looked into.
        let Some((&first, bytes)) = bytes.split_first() else { continue };
        let end: &[u8] = if first % 8 == 0 { &[] } else { &[0; 1024] };
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.tar"), [bytes, end].concat()).unwrap();
        match Shards::open(folder.path(), ValidationSplit { share: 0.5, seed: 0 }) {
            Ok(shards) => {
                for set in [&shards.train, &shards.validation] {
                    for photo in (0..set.len().min(4)).map(|i| set.photo(i)) {
                        photo.map_or_else(|error| assert_line(&name, error), drop);
                    }
                }
            }
            Err(error) => assert_line(&name, error),
        }
    }
}
