//! A generated data set that needs no download: 32×32 RGB images of ten classes of shapes.
//!
//! Only the outline determines the class. Colours, position, size, brightness gradient and noise are random,
//! and the shape is as often lighter than its background as darker. No weighted sum of pixels therefore says
//! much about the class: a linear model fails, while a small convolutional network learns the set within a
//! minute.

use crate::dataset::{CHANNELS, Dataset, Splits};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

const SIDE: usize = 32;

const CLASSES: [&str; 10] = [
    "disc",
    "ring",
    "square",
    "frame",
    "triangle",
    "cross",
    "horizontal bars",
    "vertical bars",
    "checkerboard",
    "diamond frame",
];

/// Draws `train` training and `test` test images. The result depends only on the arguments, not on the number
/// of threads.
pub fn splits(seed: u64, train: usize, test: usize) -> Splits {
    let train = draw_set(seed, 0, train);
    let normalization = train.normalization();
    Splits { train, test: draw_set(seed, 1, test), normalization }
}

fn draw_set(seed: u64, split: u64, len: usize) -> Dataset {
    let images: Vec<(Vec<u8>, u32)> = (0..len)
        .into_par_iter()
        .map(|i| {
            // One random stream per image, so that it does not matter which thread draws it.
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(split << 32 | i as u64);
            let class = i % CLASSES.len();
            (draw(class, &mut rng), class as u32)
        })
        .collect();
    let labels = images.iter().map(|image| image.1).collect();
    let pixels = images.into_iter().flat_map(|image| image.0).collect();
    Dataset::new(pixels, labels, (SIDE, SIDE), CLASSES.map(String::from).to_vec())
}

/// Draws one image of `class`, planar (3, 32, 32).
fn draw(class: usize, rng: &mut ChaCha8Rng) -> Vec<u8> {
    let radius = rng.random_range(7.0..12.0f32);
    let mut place = || rng.random_range(radius + 1.0..SIDE as f32 - 1.0 - radius);
    let centre = (place(), place());
    // Two colours whose brightness differs by at least 70 of 255; either one may be the foreground.
    let (front, back) = loop {
        let mut colour = || -> [f32; CHANNELS] { std::array::from_fn(|_| rng.random_range(20.0..235.0)) };
        let (a, b) = (colour(), colour());
        let brightness = |c: [f32; CHANNELS]| c.iter().sum::<f32>() / CHANNELS as f32;
        if (brightness(a) - brightness(b)).abs() > 70.0 {
            break (a, b);
        }
    };
    let slope: [f32; 2] = std::array::from_fn(|_| rng.random_range(-1.0..1.0));
    let mut image = vec![0; CHANNELS * SIDE * SIDE];
    for y in 0..SIDE {
        for x in 0..SIDE {
            let (u, v) = ((x as f32 - centre.0) / radius, (y as f32 - centre.1) / radius);
            let colour = if covers(class, u, v) { front } else { back };
            let shade = slope[0] * (x as f32 - 16.0) + slope[1] * (y as f32 - 16.0);
            for c in 0..CHANNELS {
                let noise = rng.random_range(-12.0..12.0f32);
                image[(c * SIDE + y) * SIDE + x] = (colour[c] + shade + noise).clamp(0.0, 255.0) as u8;
            }
        }
    }
    image
}

/// Whether the shape of `class`, of radius 1 about the origin, covers the point (u, v).
fn covers(class: usize, u: f32, v: f32) -> bool {
    let (distance, box_distance, diamond) = (u.hypot(v), u.abs().max(v.abs()), u.abs() + v.abs());
    let bar = |t: f32| ((t + 1.0) * 2.5).floor() as i32 % 2 == 0;
    match class {
        0 => distance < 1.0,
        1 => (0.6..1.0).contains(&distance),
        2 => box_distance < 0.9,
        3 => (0.55..0.9).contains(&box_distance),
        4 => v < 0.9 && v > -0.9 && u.abs() < (v + 0.9) / 1.8,
        5 => box_distance < 1.0 && u.abs().min(v.abs()) < 0.3,
        6 => box_distance < 1.0 && bar(v),
        7 => box_distance < 1.0 && bar(u),
        8 => box_distance < 1.0 && bar(u) == bar(v),
        _ => (0.6..1.05).contains(&diamond),
    }
}
