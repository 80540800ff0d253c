//! Resampling with the same bits as Pillow, which torchvision and timm evaluate with.
//!
//! A horizontal pass is followed by a vertical one. When shrinking, the filter is widened by the scale
//! (antialiasing). Weights have 22 fraction bits, and each pass rounds to 8 bits. Only the pixels of a window
//! are computed, so a crop's cost does not depend on the size of the resized image around it.

use crate::photo::Photo;
use crate::transform::crop::Part;
use std::ops::Range;

/// The resampling filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interpolation {
    /// Bilinear: a triangle of radius 1.
    Bilinear,
    /// Bicubic: Keys' cubic of radius 2, with a = -0.5.
    Bicubic,
}

impl Interpolation {
    /// The filter of this name, as timm and torchvision spell it: `bilinear` or `bicubic`.
    pub fn named(name: &str) -> Option<Self> {
        [Interpolation::Bilinear, Interpolation::Bicubic].into_iter().find(|filter| filter.name() == name)
    }

    /// The filter's name: `bilinear` or `bicubic`.
    pub fn name(self) -> &'static str {
        match self {
            Interpolation::Bilinear => "bilinear",
            Interpolation::Bicubic => "bicubic",
        }
    }

    /// The filter's radius, in input pixels.
    fn support(self) -> f64 {
        match self {
            Interpolation::Bilinear => 1.0,
            Interpolation::Bicubic => 2.0,
        }
    }

    /// The filter at distance `x` from its centre.
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

/// Fraction bits of a weight: 32 less 8 for a pixel's value and 2 for sign and overshoot.
const PRECISION: u32 = 32 - 8 - 2;

/// The weights of one output pixel: they apply to the input pixels from `first` on.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// The taps of the output pixels in `window`, when `length` pixels from `start` on, which is below 1, are resized to
/// `output`. The filter sees the `input` pixels that these touch, as if there were no others.
fn taps(
    (start, length): (f64, f64),
    input: usize,
    output: usize,
    window: Range<usize>,
    interpolation: Interpolation,
) -> Vec<Taps> {
    let scale = length / output as f64;
    let widened = scale.max(1.0);
    let support = interpolation.support() * widened;
    let of = |i: usize| {
        if start == 0.0 && length == output as f64 {
            return Taps { first: i, weights: vec![1 << PRECISION] };
        }
        let center = start + (i as f64 + 0.5) * scale;
        let first = ((center - support + 0.5).max(0.0) as usize).min(input.saturating_sub(1));
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

/// Rounds a fixed-point sum, which starts at one half, to a pixel's value.
fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// Resizes `photo` to `width` × `height` and returns the window `columns` × `rows` of it, (H, W, 3).
pub(crate) fn resample(
    photo: &Photo,
    (width, height): (usize, usize),
    columns: Range<usize>,
    rows: Range<usize>,
    interpolation: Interpolation,
) -> Vec<u8> {
    resample_part(photo, &Part::whole(photo), (width, height), columns, rows, interpolation)
}

/// Does the same with a part of a photo, as if that were a photo of its own. Parts that begin or end between pixels give
/// the same filter's values there.
pub(crate) fn resample_part(
    photo: &Photo,
    part: &Part,
    (width, height): (usize, usize),
    columns: Range<usize>,
    rows: Range<usize>,
    interpolation: Interpolation,
) -> Vec<u8> {
    let (seen_columns, seen_rows) = part.pixels(photo);
    let (left, top) = (part.left - seen_columns.start as f64, part.top - seen_rows.start as f64);
    let across = taps((left, part.width), seen_columns.len(), width, columns, interpolation);
    let down = taps((top, part.height), seen_rows.len(), height, rows, interpolation);
    let (Some(first), Some(last)) = (down.first(), down.last()) else { return Vec::new() };
    let first_row = first.first;
    let end_row = last.first + last.weights.len();
    let line = across.len() * 3;
    let mut narrowed = Vec::with_capacity((end_row - first_row) * line);
    // Four bytes per pixel, so that the compiler sums a pixel's channels as one vector.
    let mut row = vec![[0u8; 4]; seen_columns.len()];
    let lines = photo.pixels().chunks_exact(photo.width() * 3).skip(seen_rows.start);
    for pixels in lines.take(end_row).skip(first_row) {
        for (wide, pixel) in row.iter_mut().zip(pixels[3 * seen_columns.start..].chunks_exact(3)) {
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
