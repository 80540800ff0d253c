//! Single changes to an image, with the same bits as Pillow: what RandAugment, TrivialAugment and colour jitter
//! choose from.

use crate::photo::Photo;

/// One change to an image of 8 bits per channel. Its size stays the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Operation {
    /// No change.
    Identity,
    /// Moves row y by -y·`0` pixels: the shear about the upper left corner.
    ShearX(f64),
    /// Moves column x by -x·`0` pixels.
    ShearY(f64),
    /// Moves the image to the right by this number of pixels.
    TranslateX(i32),
    /// Moves the image down by this number of pixels.
    TranslateY(i32),
    /// Turns the image about its centre, counter-clockwise, by this number of degrees.
    Rotate(f64),
    /// Multiplies pixels by this factor.
    Brightness(f64),
    /// Multiplies distances from the image's grey by this factor: 0 gives a grey image.
    Saturation(f64),
    /// Multiplies distances from the image's mean brightness by this factor.
    Contrast(f64),
    /// Multiplies distances from a smoothed copy by this factor: 0 smooths, 2 sharpens.
    Sharpness(f64),
    /// Keeps this number of the highest bits of each value, at most 8.
    Posterize(u32),
    /// Inverts values from this one on.
    Solarize(f64),
    /// Adds `0` to values below 128, up to 255.
    SolarizeAdd(u8),
    /// Stretches each channel to the range from 0 to 255.
    AutoContrast,
    /// Spreads each channel's values evenly.
    Equalize,
    /// Inverts all values.
    Invert,
}

use Operation::*;

impl Operation {
    /// Applies the operation to `image`. Pixels that come from outside the image get the colour `fill`.
    pub fn apply(self, image: &mut Photo, fill: [u8; 3]) {
        let (w, h) = (image.width() as f64, image.height() as f64);
        match self {
            Identity => {}
            ShearX(shear) => affine(image, [1.0, shear, 0.0, 0.0, 1.0, 0.0], fill),
            ShearY(shear) => affine(image, [1.0, 0.0, 0.0, shear, 1.0, 0.0], fill),
            TranslateX(pixels) => affine(image, [1.0, 0.0, -pixels as f64, 0.0, 1.0, 0.0], fill),
            TranslateY(pixels) => affine(image, [1.0, 0.0, 0.0, 0.0, 1.0, -pixels as f64], fill),
            Rotate(degrees) => affine(image, rotation(degrees, w, h), fill),
            Brightness(factor) => blend(image, factor, |_| [0; 3]),
            Saturation(factor) => blend(image, factor, |pixel| [grey(pixel); 3]),
            Contrast(factor) => {
                let sum: u64 = image.pixels().chunks_exact(3).map(|pixel| grey(pixel) as u64).sum();
                let mean = (sum as f64 / (w * h) + 0.5) as u8;
                blend(image, factor, |_| [mean; 3]);
            }
            Sharpness(factor) => sharpness(image, factor),
            Posterize(bits) => {
                let mask = !(0xffu32 >> bits.min(8)) as u8;
                map(image, |_, value| value & mask);
            }
            Solarize(threshold) => {
                map(image, |_, value| if (value as f64) < threshold { value } else { 255 - value });
            }
            SolarizeAdd(add) => {
                map(image, |_, value| if value < 128 { value.saturating_add(add) } else { value });
            }
            AutoContrast => by_histogram(image, stretched),
            Equalize => by_histogram(image, equalized),
            Invert => map(image, |_, value| 255 - value),
        }
    }
}

/// A pixel's brightness, in the integer arithmetic of Pillow's conversion to mode `L`.
fn grey(pixel: &[u8]) -> u8 {
    let [r, g, b] = [pixel[0] as u32, pixel[1] as u32, pixel[2] as u32];
    ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16) as u8
}

/// Replaces each value by a function of its channel and itself.
fn map(image: &mut Photo, of: impl Fn(usize, u8) -> u8) {
    let tables: [[u8; 256]; 3] = std::array::from_fn(|c| std::array::from_fn(|v| of(c, v as u8)));
    for pixel in image.pixels_mut().chunks_exact_mut(3) {
        for (value, table) in pixel.iter_mut().zip(&tables) {
            *value = table[*value as usize];
        }
    }
}

/// Pillow's `ImagingBlend` of one value: between `from` and `to`, or beyond.
fn blended(from: u8, to: u8, factor: f32) -> u8 {
    let value = from as f32 + factor * (to as i32 - from as i32) as f32;
    value.clamp(0.0, 255.0) as u8
}

/// Blends each pixel with what `degenerate` makes of it; a factor of 1 leaves it unchanged.
fn blend(image: &mut Photo, factor: f64, degenerate: impl Fn(&[u8]) -> [u8; 3]) {
    for pixel in image.pixels_mut().chunks_exact_mut(3) {
        let from = degenerate(pixel);
        for (value, from) in pixel.iter_mut().zip(from) {
            *value = blended(from, *value, factor as f32);
        }
    }
}

/// Blends with Pillow's filter `SMOOTH`, which leaves the outermost pixels as they are.
fn sharpness(image: &mut Photo, factor: f64) {
    const EDGE: f32 = 1.0 / 13.0;
    const CENTRE: f32 = 5.0 / 13.0;
    let (width, height) = (image.width(), image.height());
    if width < 3 || height < 3 {
        return;
    }
    let line = 3 * width;
    let source = image.pixels().to_vec();
    let row = |at: usize, kernel: [f32; 3]| {
        source[at - 3] as f32 * kernel[0] + source[at] as f32 * kernel[1] + source[at + 3] as f32 * kernel[2]
    };
    for y in 1..height - 1 {
        for at in y * line + 3..(y + 1) * line - 3 {
            let mut sum = 0.5;
            sum += row(at + line, [EDGE; 3]);
            sum += row(at, [EDGE, CENTRE, EDGE]);
            sum += row(at - line, [EDGE; 3]);
            image.pixels_mut()[at] = blended(sum.clamp(0.0, 255.0) as u8, source[at], factor as f32);
        }
    }
}

/// Replaces each channel's values by a table that is made of its histogram.
fn by_histogram(image: &mut Photo, table: impl Fn(&[u32; 256]) -> [u8; 256]) {
    let mut histograms = [[0u32; 256]; 3];
    for pixel in image.pixels().chunks_exact(3) {
        for (histogram, &value) in histograms.iter_mut().zip(pixel) {
            histogram[value as usize] += 1;
        }
    }
    let tables = histograms.map(|histogram| table(&histogram));
    map(image, |channel, value| tables[channel][value as usize]);
}

fn unchanged() -> [u8; 256] {
    std::array::from_fn(|v| v as u8)
}

/// Pillow's `ImageOps.autocontrast`.
fn stretched(histogram: &[u32; 256]) -> [u8; 256] {
    let lowest = histogram.iter().position(|&count| count > 0).unwrap_or(0);
    let highest = histogram.iter().rposition(|&count| count > 0).unwrap_or(0);
    if highest <= lowest {
        return unchanged();
    }
    let scale = 255.0 / (highest - lowest) as f64;
    let offset = -(lowest as f64) * scale;
    std::array::from_fn(|v| (v as f64 * scale + offset).clamp(0.0, 255.0) as u8)
}

/// Pillow's `ImageOps.equalize`.
fn equalized(histogram: &[u32; 256]) -> [u8; 256] {
    let present: Vec<u32> = histogram.iter().copied().filter(|&count| count > 0).collect();
    let Some((last, others)) = present.split_last().filter(|(_, others)| !others.is_empty()) else {
        return unchanged();
    };
    let _ = last;
    let step = others.iter().sum::<u32>() / 255;
    if step == 0 {
        return unchanged();
    }
    let mut sum = step / 2;
    std::array::from_fn(|v| {
        let value = (sum / step).min(255) as u8;
        sum += histogram[v];
        value
    })
}

/// The matrix from a pixel of the turned image to one of the source, as Pillow's `Image.rotate` rounds it.
fn rotation(degrees: f64, width: f64, height: f64) -> [f64; 6] {
    let rounded = |value: f64| (value * 1e15).round() / 1e15;
    let angle = -(degrees.rem_euclid(360.0)).to_radians();
    let (cos, sin) = (rounded(angle.cos()), rounded(angle.sin()));
    let (x, y) = (width / 2.0, height / 2.0);
    [cos, sin, -x * cos - y * sin + x, -sin, cos, x * sin - y * cos + y]
}

/// Pillow's affine transform with the nearest pixel: output pixel (x, y) comes from (m0·x + m1·y + m2,
/// m3·x + m4·y + m5), in 16 fraction bits.
fn affine(image: &mut Photo, m: [f64; 6], fill: [u8; 3]) {
    let (width, height) = (image.width() as i64, image.height() as i64);
    let fixed = |value: f64| (value * 65536.0 + 0.5).floor() as i64;
    let (step_x, step_y) = ([fixed(m[0]), fixed(m[3])], [fixed(m[1]), fixed(m[4])]);
    let mut start = [fixed(m[2] + m[0] * 0.5 + m[1] * 0.5), fixed(m[5] + m[3] * 0.5 + m[4] * 0.5)];
    let source = image.pixels().to_vec();
    for row in image.pixels_mut().chunks_exact_mut(3 * width as usize) {
        let mut at = start;
        for pixel in row.chunks_exact_mut(3) {
            let (x, y) = (at[0] >> 16, at[1] >> 16);
            let inside = (0..width).contains(&x) && (0..height).contains(&y);
            let from = 3 * (y * width + x);
            pixel.copy_from_slice(if inside { &source[from as usize..][..3] } else { &fill });
            at = [at[0] + step_x[0], at[1] + step_x[1]];
        }
        start = [start[0] + step_y[0], start[1] + step_y[1]];
    }
}
