//! Odd, damaged and hostile photo files: each decodes as in Pillow, or is refused by one line that says why.

mod memory;

use resnext_data::Photo;
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
struct Case {
    file: String,
    tolerance: f64,
    size: Option<(usize, usize)>,
    mean: Option<[f64; 3]>,
    corner: Option<[f64; 3]>,
    error: Option<String>,
    note: Option<String>,
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The mean colour of the first `side` columns and rows.
fn mean(photo: &Photo, side: usize) -> [f64; 3] {
    let (width, height) = (photo.width().min(side), photo.height().min(side));
    let rows = photo.pixels().chunks_exact(3 * photo.width()).take(height);
    let pixels: Vec<&[u8]> = rows.flat_map(|row| row[..3 * width].chunks_exact(3)).collect();
    std::array::from_fn(|c| pixels.iter().map(|pixel| pixel[c] as f64).sum::<f64>() / pixels.len() as f64)
}

/// What is wrong with how a file was decoded, if anything is.
fn fault(case: &Case, folder: &Path) -> Option<String> {
    let near = |got: [f64; 3], expected: Option<[f64; 3]>| {
        expected.is_none_or(|expected| (0..3).all(|c| (got[c] - expected[c]).abs() <= case.tolerance))
    };
    let path = folder.join(&case.file);
    match (Photo::open(&path), &case.error) {
        (Err(error), Some(expected)) => {
            let line = error.to_string();
            let clean = line.lines().count() == 1 && !line.contains("{ ") && line.starts_with(path.to_str()?);
            (!clean || !line.contains(expected)).then(|| format!("{line}, expected {expected}"))
        }
        (Err(error), None) => Some(error.to_string()),
        (Ok(_), Some(expected)) => Some(format!("decoded, expected {expected}")),
        (Ok(photo), None) => {
            let size = (photo.width(), photo.height());
            let (whole, corner) = (mean(&photo, usize::MAX), mean(&photo, 8));
            let as_noted = match (photo.note(), &case.note) {
                (Some(note), Some(expected)) => note.contains(expected) && note.lines().count() == 1,
                (note, expected) => note.is_none() && expected.is_none(),
            };
            let right =
                Some(size) == case.size && near(whole, case.mean) && near(corner, case.corner) && as_noted;
            (!right)
                .then(|| format!("{size:?}, mean {whole:.1?}, corner {corner:.1?}, note {:?}", photo.note()))
        }
    }
}

fn check(folder: &Path, cases: &[Case]) {
    let faults = cases.iter().filter_map(|case| Some(format!("{}: {}", case.file, fault(case, folder)?)));
    let faults: Vec<String> = faults.collect();
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), cases.len(), faults.join("\n"));
}

/// The files of `scripts/golden/odd_photos.py`, with Pillow's size, mean and mean of the upper left corner.
#[test]
fn odd_files_decode_as_in_pillow_or_are_refused_by_name() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("../golden/odd.json")).unwrap();
    assert!(cases.len() >= 130);
    check(&golden().join("odd"), &cases);
}

/// Files that were read wrongly once. Sizes and means are Pillow's.
#[test]
fn files_that_were_read_wrongly() {
    let read = |file: &str, size, mean, note: Option<&str>| Case {
        file: file.into(),
        tolerance: 1.0,
        size: Some(size),
        mean: Some(mean),
        corner: None,
        error: None,
        note: note.map(String::from),
    };
    let refused = |file: &str, error: &str| Case {
        file: file.into(),
        tolerance: 0.0,
        size: None,
        mean: None,
        corner: None,
        error: Some(error.into()),
        note: None,
    };
    let over_white = [173.1, 219.0, 197.0];
    check(
        &golden().join("cases"),
        &[
            read("tiled_planar_33x33.tif", (33, 33), [32.0, 48.0, 32.0], None),
            read("noninterleaved_22.jpg", (64, 64), [125.5, 160.1, 124.9], None),
            read("noninterleaved_12.jpg", (64, 64), [125.5, 160.2, 124.7], None),
            read("webp_exif6_header.webp", (64, 96), [115.2, 124.5, 79.0], None),
            read("exif6_after_idat.png", (72, 104), over_white, None),
            read("exif6_long.jpg", (72, 104), [138.3, 134.5, 162.1], None),
            read("exif_with_header.png", (72, 104), over_white, None),
            read("ycbcr.tiff", (104, 72), [136.7, 134.0, 160.4], None),
            read("p.tiff", (104, 72), [138.3, 134.5, 162.1], None),
            read("la.tiff", (104, 72), [138.8; 3], Some("transparency")),
            read("lab.tiff", (104, 72), [137.5, 134.3, 162.1], None),
            read("f32.tiff", (104, 72), [0.0; 3], Some("none of its floating-point samples is above 1")),
            refused("p63.heic", "a HEIC image, which is not read"),
            read("good.jfif", (8, 8), [137.7, 134.8, 162.3], None),
            read("bad_crc_idat.png", (104, 72), over_white, Some("checksum")),
            read("no_iend.png", (104, 72), over_white, None),
        ],
    );
}

/// Every file, cut at many places and with bytes changed: a photo or a line, but never a panic.
#[test]
fn damaged_files_give_a_photo_or_one_line() {
    let mut seed = 1u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) as usize
    };
    for folder in ["odd", "cases", "files"] {
        for file in std::fs::read_dir(golden().join(folder)).unwrap() {
            let path = file.unwrap().path();
            let whole = std::fs::read(&path).unwrap();
            for trial in 0..12 {
                let mut bytes = whole.clone();
                match trial {
                    0..4 => bytes.truncate(bytes.len() * (trial + 1) / 5),
                    _ if bytes.is_empty() => {}
                    _ => (0..trial).for_each(|_| {
                        let at = random() % bytes.len();
                        bytes[at] = random() as u8;
                    }),
                }
                // A limit of 16 MB keeps claimed sizes from taking time.
                if let Err(error) = Photo::decode_within(&bytes, 16 << 20) {
                    let line = error.to_string();
                    assert!(line.lines().count() == 1, "{}, trial {trial}: {line}", path.display());
                }
            }
        }
    }
}
