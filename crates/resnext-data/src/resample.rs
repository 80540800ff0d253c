//! Pillow's resampling, to the last bit: what torchvision and timm evaluate with.
//!
//! A pass along rows, then one along columns, each with the filter widened to the pixels it shrinks
//! (antialiasing), in fixed point of 22 bits, rounded to 8 bits after each pass. Only what lies within a window
//! is computed, so a crop costs no more than its own pixels, whatever the shape of the image around it.

use crate::Photo;
use std::ops::Range;

/// How pixels between pixels are made up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interpolation {
    /// By straight lines.
    Bilinear,
    /// By Keys' cubic with a = -0.5.
    Bicubic,
}

impl Interpolation {
    fn support(self) -> f64 {
        match self {
            Interpolation::Bilinear => 1.0,
            Interpolation::Bicubic => 2.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Interpolation::Bilinear if x < 1.0 => 1.0 - x,
            Interpolation::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Interpolation::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            _ => 0.0,
        }
    }
}

/// Fraction bits of a weight.
const PRECISION: u32 = 32 - 8 - 2;

/// What one output pixel is made of: weights of the input pixels from `first` on.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// The taps of the output pixels in `window`, of `output` that `input` pixels become.
fn taps(input: usize, output: usize, window: Range<usize>, interpolation: Interpolation) -> Vec<Taps> {
    let scale = input as f64 / output as f64;
    let widened = scale.max(1.0);
    let support = interpolation.support() * widened;
    let of = |i: usize| {
        if input == output {
            return Taps { first: i, weights: vec![1 << PRECISION] };
        }
        let center = (i as f64 + 0.5) * scale;
        let first = (center - support + 0.5).max(0.0) as usize;
        let end = ((center + support + 0.5) as usize).min(input);
        let weight = |x: usize| interpolation.weight((x as f64 - center + 0.5) * (1.0 / widened));
        let weights: Vec<f64> = (first..end).map(weight).collect();
        let total: f64 = weights.iter().sum();
        let fixed = |w: f64| {
            let w = if total != 0.0 { w / total } else { w };
            (w * (1 << PRECISION) as f64 + if w < 0.0 { -0.5 } else { 0.5 }) as i32
        };
        Taps { first, weights: weights.into_iter().map(fixed).collect() }
    };
    window.map(of).collect()
}

fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// The pixels in the window `columns` × `rows` of `photo` resized to `width` × `height`: (H, W, 3).
pub(crate) fn resample(
    photo: &Photo,
    (width, height): (usize, usize),
    columns: Range<usize>,
    rows: Range<usize>,
    interpolation: Interpolation,
) -> Vec<u8> {
    let across = taps(photo.width(), width, columns, interpolation);
    let down = taps(photo.height(), height, rows, interpolation);
    let (Some(first), Some(last)) = (down.first(), down.last()) else { return Vec::new() };
    let first_row = first.first;
    let end_row = last.first + last.weights.len();
    let line = across.len() * 3;
    let mut narrowed = Vec::with_capacity((end_row - first_row) * line);
    // Four bytes a pixel, so that a pixel is one vector.
    let mut row = vec![[0u8; 4]; photo.width()];
    for pixels in photo.pixels().chunks_exact(photo.width() * 3).take(end_row).skip(first_row) {
        for (wide, pixel) in row.iter_mut().zip(pixels.chunks_exact(3)) {
            *wide = [pixel[0], pixel[1], pixel[2], 0];
        }
        for Taps { first, weights } in &across {
            let mut sums = [1i32 << (PRECISION - 1); 4];
            for (pixel, &weight) in row[*first..].iter().zip(weights) {
                for c in 0..4 {
                    sums[c] += pixel[c] as i32 * weight;
                }
            }
            narrowed.extend([to_byte(sums[0]), to_byte(sums[1]), to_byte(sums[2])]);
        }
    }
    let mut out = Vec::with_capacity(down.len() * line);
    let mut sums = vec![0; line];
    for Taps { first, weights } in &down {
        sums.fill(1 << (PRECISION - 1));
        let lines = narrowed[(first - first_row) * line..].chunks_exact(line.max(1));
        for (pixels, &weight) in lines.zip(weights) {
            for (sum, &pixel) in sums.iter_mut().zip(pixels) {
                *sum += pixel as i32 * weight;
            }
        }
        out.extend(sums.iter().map(|&sum| to_byte(sum)));
    }
    out
}
