//! Colours that files hold, as RGB over white.

use super::raster::RGB;

/// The meaning of a pixel's samples, 8 bits each.
pub enum Colour {
    /// Grey, of which 0 is black; or white, if it is inverted.
    Grey {
        /// Whether 0 is white.
        inverted: bool,
    },
    /// Red, green, blue.
    Rgb,
    /// Cyan, magenta, yellow, black, of which 0 is no ink.
    Cmyk,
    /// Luma and chroma as in JFIF.
    YCbCr,
    /// CIE L\*a\*b\* under illuminant D50: a and b as `i8`, or as `u8` with 128 for 0.
    Lab {
        /// Whether a and b are `i8`.
        signed: bool,
    },
    /// An index into these colours.
    Palette(Vec<[u8; RGB]>),
}

/// How a pixel's last sample covers the background.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Alpha {
    /// There is no such sample.
    None,
    /// The colours are as they would be without it.
    Straight,
    /// The colours are multiplied by it.
    Premultiplied,
}

/// The layout of a pixel.
pub struct Samples {
    /// The meaning of the first samples.
    pub colour: Colour,
    /// Whether the sample after the colour's is alpha.
    pub alpha: Alpha,
    /// The samples per pixel; those after colour and alpha are ignored.
    pub per_pixel: usize,
}

impl Colour {
    /// The samples of a pixel.
    pub fn samples(&self) -> usize {
        match self {
            Colour::Grey { .. } | Colour::Palette(_) => 1,
            Colour::Rgb | Colour::YCbCr | Colour::Lab { .. } => 3,
            Colour::Cmyk => 4,
        }
    }

    fn rgb(&self, samples: &[u8]) -> [u8; RGB] {
        match self {
            Colour::Grey { inverted: false } => [samples[0]; RGB],
            Colour::Grey { inverted: true } => [255 - samples[0]; RGB],
            Colour::Rgb => [samples[0], samples[1], samples[2]],
            Colour::Cmyk => cmyk([samples[0], samples[1], samples[2], samples[3]]),
            Colour::YCbCr => ycbcr([samples[0], samples[1], samples[2]]),
            Colour::Lab { signed: true } => lab(samples[0], samples[1] as i8, samples[2] as i8),
            Colour::Lab { signed: false } => {
                lab(samples[0], (samples[1] ^ 0x80) as i8, (samples[2] ^ 0x80) as i8)
            }
            Colour::Palette(colours) => colours.get(samples[0] as usize).copied().unwrap_or_default(),
        }
    }
}

impl Samples {
    /// Converts pixels to RGB, over white.
    pub fn to_rgb(&self, samples: &[u8], out: &mut [u8]) {
        for (pixel, out) in samples.chunks_exact(self.per_pixel).zip(out.chunks_exact_mut(RGB)) {
            out.copy_from_slice(&self.pixel(pixel));
        }
    }

    /// Converts pixels to RGB, over white, where they are: the samples are the last `count` pixels of `bytes`,
    /// which is long enough for their samples and for RGB. What is left over is cut off.
    pub fn to_rgb_in_place(&self, bytes: &mut Vec<u8>, count: usize) {
        let start = bytes.len() - count * self.per_pixel;
        // A pixel is written before or where it was read, and never over one that is still to be read.
        for i in 0..count {
            let rgb = self.pixel(&bytes[start + i * self.per_pixel..][..self.per_pixel]);
            bytes[i * RGB..][..RGB].copy_from_slice(&rgb);
        }
        bytes.truncate(count * RGB);
        bytes.shrink_to_fit();
    }

    fn pixel(&self, samples: &[u8]) -> [u8; RGB] {
        let rgb = self.colour.rgb(samples);
        let alpha = self.colour.samples();
        match self.alpha {
            Alpha::None => rgb,
            Alpha::Straight => rgb.map(|c| over_white(c, samples[alpha])),
            Alpha::Premultiplied => rgb.map(|c| c.saturating_add(255 - samples[alpha])),
        }
    }
}

/// A colour that covers white by `alpha`.
pub fn over_white(colour: u8, alpha: u8) -> u8 {
    let alpha = alpha as u32;
    ((colour as u32 * alpha + 255 * (255 - alpha) + 127) / 255) as u8
}

/// Ink on white paper, without colour management, rounded as Pillow does.
pub fn cmyk([c, m, y, k]: [u8; 4]) -> [u8; RGB] {
    let light = 255 - k as u32;
    [c, m, y].map(|ink| {
        let product = ink as u32 * light + 128;
        light.saturating_sub(((product >> 8) + product) >> 8) as u8
    })
}

/// JFIF's luma and chroma, in fixed point with 16 bits of fraction.
pub fn ycbcr([y, cb, cr]: [u8; 3]) -> [u8; RGB] {
    let (y, cb, cr) = ((y as i32) << 16 | 0x8000, cb as i32 - 128, cr as i32 - 128);
    [y + 91881 * cr, y - 22554 * cb - 46802 * cr, y + 116130 * cb].map(|c| (c >> 16).clamp(0, 255) as u8)
}

/// CIE L\*a\*b\* under D50 to sRGB; `l` is 255 for L\* = 100. Colours outside of sRGB are clipped.
fn lab(l: u8, a: i8, b: i8) -> [u8; RGB] {
    const D50: [f64; 3] = [0.96422, 1.0, 0.82521];
    /// From XYZ under D50 to linear sRGB, with Bradford's chromatic adaptation.
    const SRGB: [[f64; 3]; 3] = [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ];
    let y = (l as f64 * 100.0 / 255.0 + 16.0) / 116.0;
    let linear =
        |f: f64| if f > 6.0 / 29.0 { f.powi(3) } else { 3.0 * (6.0f64 / 29.0).powi(2) * (f - 4.0 / 29.0) };
    let f = [y + a as f64 / 500.0, y, y - b as f64 / 200.0];
    let xyz: [f64; 3] = std::array::from_fn(|i| D50[i] * linear(f[i]));
    SRGB.map(|row| {
        let c: f64 = row.iter().zip(xyz).map(|(weight, v)| weight * v).sum();
        let encoded = if c <= 0.0031308 { 12.92 * c } else { 1.055 * c.powf(1.0 / 2.4) - 0.055 };
        (255.0 * encoded).round().clamp(0.0, 255.0) as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_colours() {
        assert_eq!(
            (cmyk([0, 0, 0, 0]), cmyk([255, 0, 0, 0]), cmyk([9, 9, 9, 255])),
            ([255; 3], [0, 255, 255], [0; 3])
        );
        assert_eq!((ycbcr([76, 85, 255]), ycbcr([255, 128, 128])), ([254, 0, 0], [255; 3]));
        // sRGB's red, green and blue are Lab (54.29, 80.80, 69.89), (87.82, -79.27, 80.99), (29.57, 68.30, -112.03)
        // under D50.
        let near = |got: [u8; 3], expected: [u8; 3]| (0..3).all(|i| got[i].abs_diff(expected[i]) <= 12);
        assert!(near(lab(138, 81, 70), [255, 0, 0]), "{:?}", lab(138, 81, 70));
        assert!(near(lab(224, -79, 81), [0, 255, 0]), "{:?}", lab(224, -79, 81));
        assert!(near(lab(75, 68, -112), [0, 0, 255]), "{:?}", lab(75, 68, -112));
        assert_eq!((lab(255, 0, 0), lab(0, 0, 0)), ([255; 3], [0; 3]));
    }

    #[test]
    fn alpha_covers_white() {
        let mut out = [0; 6];
        let samples = |alpha| Samples { colour: Colour::Grey { inverted: false }, alpha, per_pixel: 3 };
        samples(Alpha::Straight).to_rgb(&[100, 128, 9, 100, 0, 9], &mut out);
        assert_eq!(out, [177, 177, 177, 255, 255, 255]);
        samples(Alpha::Premultiplied).to_rgb(&[50, 128, 9, 0, 0, 9], &mut out);
        assert_eq!(out, [177, 177, 177, 255, 255, 255]);
        samples(Alpha::None).to_rgb(&[50, 128, 9, 0, 0, 9], &mut out);
        assert_eq!(out, [50, 50, 50, 0, 0, 0]);
    }
}
