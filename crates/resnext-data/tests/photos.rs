//! The evaluation transform and photo decoding, compared with Pillow and torchvision
//! (`scripts/golden/photos.py`), and files that are not photos.

#[path = "odd_photos/mod.rs"]
mod odd_photos;

use resnext_data::heatmap::overlay;
use resnext_data::{
    CropPosition, EvalTransform, Interpolation, Normalization, Photo, PhotoFiles, PhotoLoader, Resize,
    Result, Sample,
};
use serde::Deserialize;
use std::path::{Path, PathBuf};

const IMAGENET: Normalization = Normalization { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };

#[derive(Deserialize)]
struct Golden {
    transform: Vec<Transformed>,
    files: Vec<Decoded>,
}

#[derive(Deserialize)]
struct Transformed {
    photo: (usize, usize),
    resize: usize,
    crop: (usize, usize),
    mode: String,
    hash: String,
    step: usize,
    pixels: Vec<u8>,
    input: Vec<f32>,
}

#[derive(Deserialize)]
struct Decoded {
    file: String,
    size: (usize, usize),
    tolerance: u8,
    pixels: Vec<u8>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/photos.json")).unwrap()
}

fn files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/files")
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf29ce484222325, |h, &b| (h ^ b as u64).wrapping_mul(0x100000001b3))
}

/// The same photo as in `scripts/golden/photos.py`.
fn photo(width: usize, height: usize) -> Photo {
    let salt = fnv(b"photo") as u32;
    let noise = |i: usize| {
        let mut h = (i as u32).wrapping_mul(0x9e3779b1).wrapping_add(salt);
        h = (h ^ h >> 16).wrapping_mul(0x85ebca6b);
        h = (h ^ h >> 13).wrapping_mul(0xc2b2ae35);
        (h ^ h >> 16) as f64 / (1u64 << 31) as f64 - 1.0
    };
    let value = |i: usize| {
        let (x, y, c) = ((i / 3) % width, i / 3 / width, i % 3);
        ((x * (3 + c) + y * (5 - c)) % 256 + (64.0 * (noise(i) + 1.0)).floor() as usize) % 256
    };
    Photo::new(width, height, (0..width * height * 3).map(|i| value(i) as u8).collect()).unwrap()
}

#[test]
fn every_pixel_of_the_transform_equals_pillows() {
    let golden = golden();
    assert!(golden.transform.len() >= 8);
    for case in golden.transform {
        let interpolation = match case.mode.as_str() {
            "bilinear" => Interpolation::Bilinear,
            _ => Interpolation::Bicubic,
        };
        let transform = EvalTransform {
            resize: Resize::Shorter(case.resize),
            crop: case.crop,
            interpolation,
            normalization: IMAGENET,
        };
        let photo = photo(case.photo.0, case.photo.1);
        let crop = transform.crop(&photo);
        assert_eq!(crop.len(), case.crop.0 * case.crop.1 * 3);
        let sampled: Vec<u8> = crop.iter().step_by(case.step).copied().collect();
        assert_eq!(sampled, case.pixels, "{:?} {}", case.photo, case.mode);
        assert_eq!(format!("{:016x}", fnv(&crop)), case.hash, "{:?} {}", case.photo, case.mode);
        for (got, expected) in transform.apply(&photo).iter().step_by(case.step).zip(&case.input) {
            assert!((got - expected).abs() < 1e-6, "{got}, not {expected}");
        }
    }
}

#[test]
fn photos_of_every_kind_decode_as_pillow_does() {
    for case in golden().files {
        let photo = Photo::open(&files().join(&case.file)).unwrap();
        assert_eq!((photo.width(), photo.height()), case.size, "{}", case.file);
        let sampled: Vec<u8> = photo.pixels().iter().step_by(97).copied().collect();
        assert_eq!(sampled.len(), case.pixels.len());
        for (got, expected) in sampled.iter().zip(&case.pixels) {
            assert!(
                got.abs_diff(*expected) <= case.tolerance,
                "{}: {sampled:?}, not {:?}",
                case.file,
                case.pixels
            );
        }
    }
}

#[test]
fn files_that_are_not_photos_get_a_one_line_error() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str, bytes: &[u8], expected: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = Photo::open(&path).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(expected) && error.lines().count() == 1, "{error}");
    };
    refused("text.jpg", b"Dear diary, today I am a photo.", "not an image");
    refused("empty.png", b"", "not an image");
    let whole = std::fs::read(files().join("alpha.png")).unwrap();
    refused("cut.png", &whole[..whole.len() / 2], "a damaged image");
    for name in ["420.jpg", "444-progressive.jpg", "orientation-6.jpg"] {
        let whole = std::fs::read(files().join(name)).unwrap();
        let cut = Photo::decode(&whole[..whole.len() - 30]).unwrap();
        assert!(cut.note().unwrap().contains("cut short"), "{name}: {:?}", cut.note());
        let path = folder.path().join("trailer.jpg");
        std::fs::write(&path, [&whole[..], b"a film, say"].concat()).unwrap();
        assert_eq!(Photo::open(&path).unwrap().note(), None);
    }
    // 60000 × 60000 pixels in a file of a few bytes.
    let mut bomb = whole;
    bomb[16..20].copy_from_slice(&60000u32.to_be_bytes());
    bomb[20..24].copy_from_slice(&60000u32.to_be_bytes());
    let crc = crc32(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&crc.to_be_bytes());
    refused("bomb.png", &bomb, "60000×60000 pixels");
    assert!(Photo::open(&folder.path().join("none.jpg")).unwrap_err().to_string().contains("none.jpg"));
    assert!(Photo::new(2, 2, vec![0; 11]).is_none() && Photo::new(0, 0, Vec::new()).is_none());
}

/// The CRC-32 of a PNG chunk.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0xedb88320 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, &byte| (0..8).fold(crc ^ byte as u32, |crc, _| step(crc)))
}

/// A photo one pixel wide resizes to an enormous height; only the crop of it may be computed.
#[test]
fn a_one_pixel_wide_photo_costs_no_more_than_its_crop() {
    let line = Photo::new(1, 200_000, vec![9; 600_000]).unwrap();
    let transform = EvalTransform {
        resize: Resize::Shorter(256),
        crop: (224, 224),
        interpolation: Interpolation::Bicubic,
        normalization: IMAGENET,
    };
    assert!(transform.crop(&line).iter().all(|&p| p == 9));
}

/// The sizes that timm 1.0's `ResizeKeepRatio` and `CenterCropOrPad` give.
#[test]
fn timms_crop_modes_give_its_sizes_and_its_padding() {
    let window = |resize: Resize, crop: (usize, usize), (width, height): (usize, usize)| {
        let transform =
            EvalTransform { resize, crop, interpolation: Interpolation::Bilinear, normalization: IMAGENET };
        let photo = Photo::new(width, height, vec![9; width * height * 3]).unwrap();
        let window = transform.window(&photo);
        let pixels = transform.crop(&photo);
        assert_eq!(pixels.len(), crop.0 * crop.1 * 3);
        let padding = pixels.chunks_exact(3).filter(|pixel| pixel[0] != 9).count();
        ((window.left, window.top, window.width, window.height), padding, pixels[..3].to_vec())
    };
    // 60×40 squashed to 20×20, of which the middle 10×10 are kept.
    let squashed = window(Resize::Squash(20, 20), (10, 10), (60, 40));
    assert_eq!(squashed, ((15.0, 10.0, 30.0, 20.0), 0, vec![9; 3]));
    // 60×40 fitted into 30×30 is 30×20; five rows above and below have the mean colour.
    let fitted = window(Resize::Fit(30, 30), (30, 30), (60, 40));
    assert_eq!(fitted, ((0.0, -10.0, 60.0, 60.0), 300, vec![124, 116, 104]));
    // 60×40 covers 20×40 (height × width) as 40×27.
    let covering = window(Resize::Cover(20, 40), (20, 40), (60, 40));
    assert_eq!((covering.0.0, covering.0.2, covering.1), (0.0, 60.0, 0));
    assert!((covering.0.1 - 4.0 * 40.0 / 27.0).abs() < 1e-12);
}

/// The five crops are parts of the whole resized photo.
#[test]
fn crops_lie_in_the_corners_and_in_the_middle() {
    let photo = photo(50, 40);
    let of = |crop| EvalTransform {
        resize: Resize::Shorter(21),
        crop,
        interpolation: Interpolation::Bicubic,
        normalization: IMAGENET,
    };
    // 21 rows of 26 pixels.
    let whole = of((21, 26)).crop(&photo);
    let part = |top: usize, left: usize| -> Vec<u8> {
        (top..top + 16).flat_map(|y| whole[3 * (26 * y + left)..][..3 * 15].to_vec()).collect()
    };
    for (position, (top, left)) in
        CropPosition::FIVE.into_iter().zip([(0, 0), (0, 11), (5, 0), (5, 11), (2, 6)])
    {
        assert_eq!(of((16, 15)).crop_at(&photo, position), part(top, left), "{position:?}");
    }
    assert_eq!(of((16, 15)).crop(&photo), part(2, 6));
    // A smaller photo lies in the middle, whatever the position.
    let large = of((40, 40));
    assert_eq!(large.crop_at(&photo, CropPosition::TopLeft), large.crop(&photo));
}

#[test]
fn settings_out_of_range_get_an_error() {
    let good = EvalTransform {
        resize: Resize::Shorter(8),
        crop: (8, 8),
        interpolation: Interpolation::Bilinear,
        normalization: IMAGENET,
    };
    good.validate().unwrap();
    let fails = |transform: EvalTransform| transform.validate().unwrap_err().to_string();
    assert!(fails(EvalTransform { resize: Resize::Shorter(0), ..good }).contains("resize must be from 1"));
    assert!(fails(EvalTransform { crop: (8, 1 << 20), ..good }).contains("crop must be from 1"));
    let normalization = Normalization { std: [0.0, 1.0, 1.0], ..IMAGENET };
    assert!(fails(EvalTransform { normalization, ..good }).contains("std above 0"));
}

#[test]
fn a_loader_keeps_the_order_and_goes_on_after_a_bad_file() {
    let folder = tempfile::tempdir().unwrap();
    let paths: Vec<PathBuf> = (0..20).map(|i| folder.path().join(format!("{i}.png"))).collect();
    for (i, path) in paths.iter().enumerate() {
        match i {
            7 => std::fs::write(path, "no photo").unwrap(),
            _ => Photo::new(2, 2, vec![10 * i as u8; 12]).unwrap().save(path).unwrap(),
        }
    }
    let transform = EvalTransform {
        resize: Resize::Shorter(4),
        crop: (4, 4),
        interpolation: Interpolation::Bilinear,
        normalization: Normalization { mean: [0.0; 3], std: [1.0 / 255.0; 3] },
    };
    let keep = |path: &Path, sample: Result<Sample>| (path.to_path_buf(), sample);
    for threads in [1, 3] {
        let mut seen = 0;
        for (i, result) in PhotoLoader::new(paths.clone(), transform, vec![keep; threads]).enumerate() {
            let (path, sample) = result.unwrap();
            assert_eq!(path, paths[i]);
            match sample {
                Ok(Sample { photo, input }) => {
                    assert!(input.iter().all(|v| (v - 10.0 * i as f32).abs() < 1e-3));
                    assert_eq!(photo.width(), 2);
                }
                Err(error) => assert!(i == 7 && error.to_string().contains("7.png")),
            }
            seen += 1;
        }
        assert_eq!(seen, 20);
    }
    assert_eq!(PhotoLoader::new(Vec::new(), transform, vec![keep; 2]).count(), 0);
    assert_eq!(PhotoLoader::new(paths, transform, vec![keep; 0]).count(), 0);
}

/// A worker's panic is an error for the photo that it had, and for no other.
#[test]
fn a_list_gives_one_result_per_photo_even_if_workers_panic() {
    let folder = tempfile::tempdir().unwrap();
    let paths: Vec<PathBuf> = (0..11).map(|i| folder.path().join(format!("{i}.png"))).collect();
    for path in &paths {
        Photo::new(2, 2, vec![9; 12]).unwrap().save(path).unwrap();
    }
    let transform = EvalTransform {
        resize: Resize::Shorter(4),
        crop: (4, 4),
        interpolation: Interpolation::Bilinear,
        normalization: IMAGENET,
    };
    let worker = |path: &Path, _: Result<Sample>| {
        assert!(!path.ends_with("4.png") && !path.ends_with("5.png"), "no room for\n{}", path.display());
        path.to_path_buf()
    };
    for threads in [1, 2, 20] {
        let results: Vec<_> = PhotoLoader::new(paths.clone(), transform, vec![worker; threads]).collect();
        assert_eq!(results.len(), paths.len());
        for (i, (result, path)) in results.into_iter().zip(&paths).enumerate() {
            match result {
                Ok(found) => assert!(found == *path && i != 4 && i != 5),
                Err(error) => {
                    let line = error.to_string();
                    assert!(i == 4 || i == 5, "{line}");
                    assert!(line.starts_with(path.to_str().unwrap()), "{line}");
                    assert!(
                        line.contains("the worker failed: no room for") && line.lines().count() == 1,
                        "{line}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_folder_says_what_it_leaves_out_but_for_system_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for inner in ["b", "__MACOSX", ".thumbnails"] {
        std::fs::create_dir(path.join(inner)).unwrap();
    }
    let jpeg = std::fs::read(files().join("420.jpg")).unwrap();
    let names = ["a.JPG", "b/c.jfif", "d.jpe", "e.TIFF", "f.webp", "k.mpo"];
    let system = ["._a.jpg", ".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX/a.jpg", ".thumbnails/a.jpg"];
    for name in names.iter().chain(&system) {
        std::fs::write(path.join(name), &jpeg).unwrap();
    }
    std::fs::write(path.join("g.heic"), b"\0\0\0\x18ftypheic\0\0\0\0mif1heic").unwrap();
    std::fs::write(path.join("h.txt"), "words").unwrap();
    std::fs::write(path.join("i"), &jpeg).unwrap();
    let files = PhotoFiles::list(path).unwrap();
    let found: Vec<_> =
        files.photos.iter().map(|photo| photo.strip_prefix(path).unwrap().to_str().unwrap()).collect();
    assert_eq!(found, names);
    assert_eq!(
        files.left_out_line().unwrap(),
        "left out 3 files: g.heic (a HEIC image), h.txt (not an image), \
         i (holds a JPG image, but does not end as one)"
    );
    (0..20).for_each(|i| std::fs::write(path.join(format!("j{i:02}.doc")), "words").unwrap());
    let line = PhotoFiles::list(path).unwrap().left_out_line().unwrap();
    assert!(line.starts_with("left out 23 files: ") && line.ends_with(" and 15 more"), "{line}");
    assert_eq!(PhotoFiles::list(&path.join("b")).unwrap().left_out_line(), None);
}

#[test]
fn a_heatmap_is_red_where_it_is_high_and_dark_where_nothing_was_seen() {
    let photo = Photo::new(8, 4, vec![100; 96]).unwrap();
    let transform = EvalTransform {
        resize: Resize::Shorter(4),
        crop: (4, 4),
        interpolation: Interpolation::Bilinear,
        normalization: IMAGENET,
    };
    let window = transform.window(&photo);
    assert_eq!((window.left, window.top, window.width, window.height), (2.0, 0.0, 4.0, 4.0));
    let drawn = overlay(&photo, &window, &[0.0, 1.0, 0.0, 1.0], (2, 2));
    let pixel = |x: usize, y: usize| &drawn.pixels()[(y * 8 + x) * 3..][..3];
    assert_eq!(pixel(0, 0), [50, 50, 50]);
    assert!(pixel(2, 1)[2] > pixel(2, 1)[0] && pixel(5, 1)[0] > pixel(5, 1)[2]);
}

/// Real photos can be read. `scripts/golden/photos.py` measures how close the JPEG decoder comes to Pillow's
/// on them.
#[test]
fn real_photos_are_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/clothing/validation");
    if !folder.is_dir() {
        eprintln!("skipped: no photos at {}", folder.display());
        return;
    }
    let found = std::fs::read_dir(folder)
        .unwrap()
        .flat_map(|class| std::fs::read_dir(class.unwrap().path()).unwrap());
    for file in found.take(10) {
        let photo = Photo::open(&file.unwrap().path()).unwrap();
        assert!(photo.width() > 100 && photo.height() > 100);
    }
}
