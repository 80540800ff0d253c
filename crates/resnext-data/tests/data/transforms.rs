//! Training transforms beside torchvision's over Pillow, with fixed parameters (`scripts/golden/transforms.py`),
//! and the distribution of the parameters that are chosen at random.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use resnext_data::transform::color_jitter::ColorJitter;
use resnext_data::transform::crop::{RandomResizedCrop, Rectangle};
use resnext_data::transform::erasing::{EraseFill, RandomErasing};
use resnext_data::transform::lighting::Lighting;
use resnext_data::transform::mix::{Mix, Mixing};
use resnext_data::transform::operation::Operation;
use resnext_data::transform::policy::Policy;
use resnext_data::transform::rand_augment::RandAugment;
use resnext_data::transform::train::TrainTransform;
use resnext_data::transform::trivial_augment::TrivialAugment;
use resnext_data::{Interpolation, Normalization, Photo};
use serde::Deserialize;
use std::collections::BTreeSet;

#[derive(Deserialize)]
struct Golden {
    operations: Vec<Case>,
    crops: Vec<Case>,
    mixed: Vec<MixedBatch>,
    erased: Vec<f32>,
    lighting: [f32; 3],
}

#[derive(Deserialize)]
struct Case {
    name: String,
    value: f64,
    size: (usize, usize),
    hash: String,
    pixels: Vec<u8>,
    #[serde(default)]
    crop: [usize; 6],
}

#[derive(Deserialize)]
struct MixedBatch {
    name: String,
    images: Vec<f32>,
    targets: Vec<f32>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../golden/transforms.json")).unwrap()
}

const WIDTH: usize = 61;
const HEIGHT: usize = 47;
const FILL: [u8; 3] = [124, 116, 104];

/// The same image as in `transforms.py`.
fn image() -> Photo {
    let value = |i: usize| {
        let (x, y, c) = ((i / 3) % WIDTH, i / 3 / WIDTH, i % 3);
        let noise = (i as u32).wrapping_mul(2_654_435_761) >> 27;
        (x * (2 + c) + y * (3 - c)) % 180 + 8 + 9 * c + noise as usize
    };
    Photo::new(WIDTH, HEIGHT, (0..WIDTH * HEIGHT * 3).map(|i| value(i) as u8).collect()).unwrap()
}

fn check(case: &Case, image: &Photo) {
    let fnv = |h: u64, &b: &u8| (h ^ b as u64).wrapping_mul(0x100000001b3);
    let hash = image.pixels().iter().fold(0xcbf29ce484222325, fnv);
    let sampled: Vec<u8> = image.pixels().iter().step_by(211).copied().collect();
    assert_eq!((image.width(), image.height()), case.size);
    assert_eq!(sampled, case.pixels, "{} {} {:?}", case.name, case.value, case.crop);
    assert_eq!(format!("{hash:016x}"), case.hash, "{} {} {:?}", case.name, case.value, case.crop);
}

#[test]
fn every_pixel_of_every_operation_equals_pillows() {
    let golden = golden();
    assert!(golden.operations.len() >= 40);
    for case in &golden.operations {
        let value = case.value;
        let mut image = image();
        let operations: &[Operation] = match case.name.as_str() {
            "ShearX" => &[Operation::ShearX(value)],
            "ShearY" => &[Operation::ShearY(value)],
            "TranslateX" => &[Operation::TranslateX(value as i32)],
            "TranslateY" => &[Operation::TranslateY(value as i32)],
            "Rotate" => &[Operation::Rotate(value)],
            "Brightness" => &[Operation::Brightness(1.0 + value)],
            "Color" => &[Operation::Saturation(1.0 + value)],
            "Contrast" => &[Operation::Contrast(1.0 + value)],
            "Sharpness" => &[Operation::Sharpness(1.0 + value)],
            "Posterize" => &[Operation::Posterize(value as u32)],
            "Solarize" => &[Operation::Solarize(255.0 * value)],
            "AutoContrast" => &[Operation::AutoContrast],
            "Equalize" => &[Operation::Equalize],
            "Identity" => &[Operation::Identity],
            "Invert" => &[Operation::Invert],
            "Jitter" => {
                &[Operation::Brightness(1.31), Operation::Contrast(0.72), Operation::Saturation(1.17)]
            }
            other => panic!("{other}"),
        };
        operations.iter().for_each(|operation| operation.apply(&mut image, FILL));
        check(case, &image);
    }
}

/// Chooses all of a photo: the only rectangle of its area and ratio.
fn whole(photo: &Photo) -> RandomResizedCrop {
    let ratio = photo.width() as f64 / photo.height() as f64;
    RandomResizedCrop { area: (1.0, 1.0), aspect: (ratio, ratio) }
}

/// A transform whose crop is always the same, and that changes nothing else.
struct FixedCrop(Rectangle);

impl FixedCrop {
    fn pixels(&self, size: (usize, usize), interpolation: Interpolation) -> Photo {
        let photo = self.0.crop(&image()).unwrap();
        let plain = Normalization { mean: [0.0; 3], std: [1.0 / 255.0; 3] };
        let mut transform = TrainTransform::new((size.1, size.0), interpolation, plain);
        transform.crop = whole(&photo);
        transform.flip = false;
        let input = transform.apply(&photo, &mut ChaCha8Rng::seed_from_u64(1));
        Photo::new(size.0, size.1, input.iter().map(|v| v.round() as u8).collect()).unwrap()
    }
}

#[test]
fn every_pixel_of_a_resized_crop_equals_pillows() {
    for case in &golden().crops {
        let [left, top, width, height, w, h] = case.crop;
        let interpolation =
            if case.name == "bilinear" { Interpolation::Bilinear } else { Interpolation::Bicubic };
        check(case, &FixedCrop(Rectangle { left, top, width, height }).pixels((w, h), interpolation));
    }
}

#[test]
fn mixed_batches_equal_torchvisions() {
    let pixel = |n: usize, c: usize, y: usize, x: usize| (((n * 3 + c) * 6 + y) * 5 + x) * 37 % 101;
    let mut images = Vec::new();
    for (n, y, x, c) in (0..4 * 6 * 5 * 3).map(|i| (i / 90, i / 15 % 6, i / 3 % 5, i % 3)) {
        images.push(pixel(n, c, y, x) as f32 / 100.0 - 0.5);
    }
    let labels = [0, 2, 1, 2];
    for case in golden().mixed {
        let mixing = match case.name.as_str() {
            "mixup" => Mixing::Blend(0.3),
            _ => Mixing::Paste(Rectangle { left: 1, top: 2, width: 3, height: 4 }),
        };
        let mut own = images.clone();
        let mixed = mixing.apply(&mut own, &labels, (6, 5));
        for (got, expected) in own.iter().zip(&case.images) {
            assert!((got - expected).abs() < 1e-6, "{}: {got}, not {expected}", case.name);
        }
        let mut targets = vec![0.0; 12];
        for (i, (&label, &other)) in labels.iter().zip(&mixed.labels).enumerate() {
            targets[3 * i + label as usize] += mixed.own;
            targets[3 * i + other as usize] += 1.0 - mixed.own;
        }
        for (got, expected) in targets.iter().zip(&case.targets) {
            assert!((got - expected).abs() < 1e-6, "{}: {targets:?}, not {:?}", case.name, case.targets);
        }
    }
}

#[test]
fn erasing_and_lighting_equal_the_references() {
    let golden = golden();
    let mut image = Vec::new();
    for (y, x, c) in (0..6 * 7 * 3).map(|i| (i / 21, i / 3 % 7, i % 3)) {
        image.push((((c * 6 + y) * 7 + x) * 37 % 101) as f32 / 100.0);
    }
    EraseFill::Zero.write(&mut image, 7, Rectangle { left: 2, top: 1, width: 3, height: 4 }, &mut rng(0));
    assert_eq!(image, golden.erased);
    for (got, expected) in Lighting::color([0.1, -0.25, 0.4]).iter().zip(golden.lighting) {
        assert!((got - expected).abs() < 1e-7, "{got}, not {expected}");
    }
}

fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

#[test]
fn random_crops_keep_to_their_ranges_and_fill_them() {
    let crop = RandomResizedCrop::default();
    let (mut smallest, mut largest, mut sum) = (1f64, 0f64, 0.0);
    for seed in 0..2000 {
        let Rectangle { left, top, width, height } = crop.choose((200, 150), &mut rng(seed));
        assert!(left + width <= 200 && top + height <= 150);
        let (area, ratio) = ((width * height) as f64 / 30_000.0, width as f64 / height as f64);
        assert!((0.079..=1.0).contains(&area) && (0.73..=1.37).contains(&ratio), "{area} {ratio}");
        (smallest, largest, sum) = (smallest.min(area), largest.max(area), sum + area);
    }
    assert!(smallest < 0.09 && largest > 0.95 && (0.40..0.48).contains(&(sum / 2000.0)), "{sum}");
    // Of a panorama none fits: the central part of the largest ratio is taken.
    let whole = RandomResizedCrop { area: (0.9, 1.0), ..crop };
    let expected = Rectangle { left: 433, top: 0, width: 133, height: 100 };
    assert_eq!(whole.choose((1000, 100), &mut rng(1)), expected);
    assert_eq!(crop.choose((1, 1), &mut rng(1)), Rectangle { left: 0, top: 0, width: 1, height: 1 });
}

#[test]
fn colour_jitter_takes_every_order_and_lighting_has_its_deviation() {
    let jitter = ColorJitter::paper();
    let kind = |operation: &Operation| match operation {
        Operation::Brightness(factor) => (0, *factor),
        Operation::Contrast(factor) => (1, *factor),
        Operation::Saturation(factor) => (2, *factor),
        other => panic!("{other:?}"),
    };
    let mut orders = BTreeSet::new();
    for seed in 0..200 {
        let chosen = jitter.choose(&mut rng(seed));
        assert!(chosen.iter().all(|operation| (0.6..=1.4).contains(&kind(operation).1)));
        orders.insert(chosen.iter().map(|operation| kind(operation).0).collect::<Vec<_>>());
    }
    assert_eq!(orders.len(), 6);
    // The first component is nearly grey and has by far the largest share.
    let lights: Vec<[f32; 3]> =
        (0..4000).map(|seed| Lighting { deviation: 0.1 }.choose(&mut rng(seed))).collect();
    let deviation = |c: usize| (lights.iter().map(|l| l[c] * l[c]).sum::<f32>() / 4000.0).sqrt();
    assert!((0.0115..0.0135).contains(&deviation(0)), "{}", deviation(0));
}

#[test]
fn policies_use_all_their_operations_within_their_ranges() {
    let count = |operations: &[Operation]| -> BTreeSet<String> {
        let name = |operation: &Operation| format!("{operation:?}").split('(').next().unwrap().to_string();
        operations.iter().map(name).collect()
    };
    let trivial: Vec<Operation> =
        (0..500).map(|seed| TrivialAugment::default().choose(&mut rng(seed))).collect();
    assert_eq!(count(&trivial).len(), 14);
    assert!(trivial.iter().all(|operation| match operation {
        Operation::TranslateX(pixels) | Operation::TranslateY(pixels) => pixels.abs() <= 32,
        Operation::Rotate(degrees) => degrees.abs() <= 135.0,
        Operation::Posterize(bits) => (2..=8).contains(bits),
        Operation::Brightness(factor) => (0.0..2.0).contains(factor),
        _ => true,
    }));
    let policy = |text: &str| match text.parse::<Policy>().unwrap() {
        Policy::Rand(policy) => policy,
        Policy::Trivial(_) => panic!("{text}"),
    };
    let chosen = |policy: RandAugment| -> Vec<Operation> {
        (0..500).flat_map(|seed| policy.choose((100, 200), &mut rng(seed))).collect()
    };
    // Two operations, each applied half of the time.
    let two = chosen(policy("rand-m9-mstd0.5-inc1"));
    assert!((440..560).contains(&two.len()), "{}", two.len());
    assert_eq!(count(&two).len(), 15);
    // Magnitude 10 is the strongest, and increasing: no brightness factor near 1.
    let strong = chosen(policy("rand-m10-n3-inc1"));
    assert!(strong.iter().all(|operation| match operation {
        Operation::Brightness(factor) => (factor - 0.1).abs() < 1e-9 || (factor - 1.9).abs() < 1e-9,
        Operation::TranslateX(pixels) => pixels.abs() == 45,
        Operation::TranslateY(pixels) => pixels.abs() == 90,
        Operation::Solarize(threshold) => *threshold == 0.0,
        _ => true,
    }));
    let weak = chosen(policy("rand-m0-inc1"));
    assert!(weak.iter().all(|operation| match operation {
        Operation::Brightness(factor) | Operation::Sharpness(factor) => *factor == 1.0,
        Operation::Rotate(degrees) => *degrees == 0.0,
        _ => true,
    }));
    assert_eq!("trivial".parse::<Policy>().unwrap(), Policy::Trivial(TrivialAugment::default()));
    for bad in ["auto", "rand-x9", "rand-m", "rand-mnine", "rand9", ""] {
        let error = bad.parse::<Policy>().unwrap_err().to_string();
        assert!(error.contains("rand-m9-mstd0.5-inc1") && error.contains(bad), "{error}");
    }
}

#[test]
fn erasing_takes_its_share_and_fills_with_zeros_or_noise() {
    let noise = |fill, probability, seed| {
        let mut image = vec![5.0f32; 40 * 30 * 3];
        RandomErasing::new(probability, fill).apply(&mut image, (40, 30), &mut rng(seed));
        image.into_iter().filter(|&v| v != 5.0).collect::<Vec<f32>>()
    };
    let erased = (0..400).filter(|&seed| !noise(EraseFill::Zero, 0.25, seed).is_empty()).count();
    assert!((70..130).contains(&erased), "{erased}");
    let all: Vec<Vec<f32>> = (0..200).map(|seed| noise(EraseFill::Pixel, 1.0, seed)).collect();
    assert!(all.iter().all(|part| (0.015..0.36).contains(&(part.len() as f64 / 3600.0))));
    let values = all.concat();
    let mean = values.iter().sum::<f32>() / values.len() as f32;
    let variance = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
    assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "{mean} {variance}");
    assert!(noise(EraseFill::Zero, 1.0, 3).iter().all(|&v| v == 0.0));
}

#[test]
fn mixing_follows_its_probabilities_and_distributions() {
    let mix = Mix { mixup: 0.2, cutmix: 1.0, probability: 0.8, switch: 0.25, until: Some(10) };
    let (mut blends, mut pastes, mut shares, mut areas) = (0, 0, 0.0, 0.0);
    for seed in 0..4000 {
        match mix.choose(9, (32, 24), &mut rng(seed)) {
            Some(Mixing::Blend(share)) => (blends, shares) = (blends + 1, shares + share * (1.0 - share)),
            Some(Mixing::Paste(Rectangle { left, top, width, height })) => {
                assert!(left + width <= 24 && top + height <= 32);
                (pastes, areas) = (pastes + 1, areas + (width * height) as f64 / (32.0 * 24.0));
            }
            None => {}
        }
        assert_eq!(mix.choose(10, (32, 24), &mut rng(seed)), None);
    }
    assert!((2300..2500).contains(&blends) && (650..850).contains(&pastes), "{blends} {pastes}");
    // Of Beta(a, a), x(1 - x) has the mean a / (2·(2a + 1)): 0.0714 for 0.2.
    assert!((0.063..0.08).contains(&(shares / blends as f32)), "{}", shares / blends as f32);
    // Half of the image, less what is cut off at the edges.
    assert!((0.25..0.45).contains(&(areas / pastes as f64)), "{}", areas / pastes as f64);
}

#[test]
fn a_flip_mirrors_half_of_the_photos() {
    let plain = Normalization { mean: [0.0; 3], std: [1.0 / 255.0; 3] };
    let mut transform = TrainTransform::new((HEIGHT, WIDTH), Interpolation::Bilinear, plain);
    let photo = image();
    transform.crop = whole(&photo);
    let mirrored: Vec<f32> = photo
        .pixels()
        .chunks_exact(3 * WIDTH)
        .flat_map(|row| row.chunks_exact(3).rev().flatten())
        .map(|&v| v as f32)
        .collect();
    let mut flipped = 0;
    for seed in 0..200 {
        let input: Vec<f32> = transform.apply(&photo, &mut rng(seed)).iter().map(|v| v.round()).collect();
        let same = input.iter().zip(photo.pixels()).all(|(a, b)| *a == *b as f32);
        assert!(same || input == mirrored);
        flipped += usize::from(!same);
    }
    assert!((75..125).contains(&flipped), "{flipped}");
}

/// A JPEG of smooth colours, edges and lines, with this EXIF orientation.
fn jpeg(width: usize, height: usize, orientation: u8) -> Vec<u8> {
    let value = |i: usize| {
        let (x, y, c) = ((i / 3) % width, i / 3 / width, i % 3);
        let wave =
            55.0 * (x as f64 / 37.0 + c as f64).sin() + 35.0 * (y as f64 / (23.0 + 9.0 * c as f64)).cos();
        let edge = if (x / 90 + y / 70) % 2 == 0 { 30.0 } else { 0.0 };
        (110.0 + wave + edge + if (x + 2 * y) % 19 < 3 { 20.0 } else { 0.0 }) as u8
    };
    let photo = Photo::new(width, height, (0..3 * width * height).map(value).collect()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    photo.save(&folder.path().join("photo.jpg")).unwrap();
    let plain = std::fs::read(folder.path().join("photo.jpg")).unwrap();
    let mut exif = b"\xff\xe1\x00\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    [&plain[..2], &exif, &plain[2..]].concat()
}

/// A crop that is at least twice as large as the input needs fewer pixels: it is the same part of the photo, also of one
/// that lies on its side, with nearly the same pixels. Every other photo is decoded whole.
#[test]
fn jpegs_are_decoded_with_the_pixels_that_a_crop_needs() {
    let normalization = Normalization { mean: [0.0; 3], std: [1.0 / 255.0; 3] };
    let of = |height: usize, width: usize| {
        let mut transform = TrainTransform::new((height, width), Interpolation::Bilinear, normalization);
        transform.crop.area = (0.3, 1.0);
        transform
    };
    for orientation in [1, 2, 3, 4, 5, 6, 7, 8] {
        let bytes = jpeg(1003, 797, orientation);
        let photo = Photo::decode(&bytes).unwrap();
        for (size, reduced) in [((40, 48), true), ((90, 80), true), ((200, 180), true), ((420, 420), false)] {
            let (transform, mut differences, mut same) = (of(size.0, size.1), Vec::new(), 0);
            for seed in 0..2 {
                let whole = transform.apply(&photo, &mut rng(seed));
                let own = transform.decode(&bytes, &mut rng(seed)).unwrap();
                same += usize::from(whole == own);
                differences.extend(whole.iter().zip(&own).map(|(a, b)| (a - b).abs()));
            }
            differences.sort_by(f32::total_cmp);
            let mean = differences.iter().sum::<f32>() / differences.len() as f32;
            let most = differences[differences.len() * 99 / 100];
            assert_eq!(same == 2, !reduced, "{size:?}");
            assert!(mean < 1.0 && most < 6.0, "{orientation} {size:?}: {mean} {most}");
        }
    }
    // A file that is cut short, and other formats, are decoded whole.
    let bytes = jpeg(640, 480, 1);
    let cut = &bytes[..bytes.len() - 2000];
    let transform = of(32, 32);
    let whole = transform.apply(&Photo::decode(cut).unwrap(), &mut rng(1));
    assert_eq!(transform.decode(cut, &mut rng(1)).unwrap(), whole);
    assert!(transform.decode(b"no photo", &mut rng(1)).is_err());
}
