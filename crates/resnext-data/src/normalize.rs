//! From pixels to a network's input.

use crate::dataset::{CHANNELS, Normalization};

/// Normalises pixels (H, W, 3) with the same f32 operations as torchvision: scale to [0, 1], subtract the mean,
/// divide by the deviation. `light` is added to the scaled pixels first.
pub(crate) fn normalized(pixels: &[u8], normalization: &Normalization, light: [f32; CHANNELS]) -> Vec<f32> {
    let Normalization { mean, std } = normalization;
    let table: [[f32; CHANNELS]; 256] =
        std::array::from_fn(|v| std::array::from_fn(|c| (v as f32 / 255.0 + light[c] - mean[c]) / std[c]));
    let of = |pixel: &[u8]| -> [f32; CHANNELS] { std::array::from_fn(|c| table[pixel[c] as usize][c]) };
    let mut out = Vec::with_capacity(pixels.len());
    pixels.chunks_exact(CHANNELS).for_each(|pixel| out.extend(of(pixel)));
    out
}

/// The pixels that [`normalized`] made `input` of, without light, rounded and limited to 0 to 255.
pub(crate) fn pixels_of(input: &[f32], normalization: &Normalization) -> Vec<u8> {
    let Normalization { mean, std } = normalization;
    let of = |(i, value): (usize, &f32)| {
        let c = i % CHANNELS;
        (255.0 * (value * std[c] + mean[c])).round().clamp(0.0, 255.0) as u8
    };
    input.iter().enumerate().map(of).collect()
}
