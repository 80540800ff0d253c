//! AMX's tile products against their definition and, where this machine has tiles, against the emulation, bit by bit.

use resnext_kernels::Isa;
use resnext_kernels::internals::{Amx, Emulated, Sums, TileOperands, TileShape, TileUnit};

/// Words from one pixel to the next, and from one row of weights to the next.
const STRIDES: [usize; 2] = [83, 40];

/// The number of products in a row.
const STEPS: usize = 5;

/// Bits without a pattern.
fn bits(i: usize, seed: u32) -> u32 {
    let bits = (i as u32).wrapping_mul(2654435761) ^ seed.wrapping_mul(0x9e3779b9);
    (bits ^ bits >> 15).wrapping_mul(0x85ebca6b) ^ bits >> 13
}

/// A word of two bf16 between -2 and 2, some of which are zero, subnormal or so large that products overflow.
fn pair(i: usize, seed: u32) -> f32 {
    let channel = |i: usize| match bits(i, seed) % 97 {
        0 => 0,
        1 => 0x0001,
        2 => 0x7f00,
        3 => 0x8003,
        4 => 0x0080,
        _ => (bits(i, seed) >> 8 & 0x80ff | 0x3f00) as u16,
    };
    f32::from_bits(u32::from(channel(2 * i)) | u32::from(channel(2 * i + 1)) << 16)
}

struct Case {
    shape: TileShape,
    pixels: Vec<f32>,
    weights: Vec<f32>,
    initial: [[f32; 16]; 2],
}

impl Case {
    fn new(shape: TileShape) -> Self {
        let word = |i, seed| if shape.int8 { f32::from_bits(bits(i, seed)) } else { pair(i, seed) };
        let pixels = (0..32 * STRIDES[0]).map(|i| word(i, 1)).collect();
        let weights = (0..16 * STEPS * STRIDES[1]).map(|i| word(i, 2)).collect();
        let initial = [0, 16].map(|first| {
            std::array::from_fn(|i| match shape.int8 {
                true => f32::from_bits(bits(first + i, 3)),
                false => (first + i) as f32 / 7.0,
            })
        });
        Case { shape, pixels, weights, initial }
    }

    fn count(&self) -> usize {
        self.shape.pixels[0] + self.shape.pixels[1]
    }

    fn sums(&self, unit: &mut impl TileUnit) -> Vec<[u32; 32]> {
        let mut operands = TileOperands {
            pixels: [0, self.shape.pixels[0]].map(|pixel| self.pixels[pixel * STRIDES[0]..].as_ptr()),
            pixel_stride: STRIDES[0],
            weights: [self.weights.as_ptr(), self.weights[16..].as_ptr()],
            weight_stride: STRIDES[1],
        };
        let mut sums: Sums = [[0.0; 32]; 32];
        unit.configure(self.shape);
        unit.start(self.initial.each_ref());
        // SAFETY: there are 16 words per step, of 32 pixels and 32 output channels.
        unsafe {
            unit.accumulate(&mut operands, 2);
            unit.accumulate(&mut operands, STEPS - 2);
        }
        unit.store(&mut sums);
        sums[..self.count()].iter().map(|sums| sums.map(f32::to_bits)).collect()
    }
}

fn shapes(int8: bool) -> impl Iterator<Item = TileShape> {
    let sizes = [([16, 16], 16), ([9, 8], 16), ([1, 1], 7), ([16, 3], 14), ([2, 1], 1)];
    sizes.into_iter().map(move |(pixels, words)| TileShape { pixels, words, int8, streams: words < 16 })
}

#[test]
fn emulated_tiles_of_int8_sum_the_products() {
    for shape in shapes(true) {
        let case = Case::new(shape);
        let bytes = |word: f32| word.to_bits().to_le_bytes();
        for (pixel, sums) in case.sums(&mut Emulated::default()).into_iter().enumerate() {
            for (channel, sum) in sums.into_iter().enumerate() {
                let word = |i: usize| -> i32 {
                    let x = bytes(case.pixels[pixel * STRIDES[0] + i]).into_iter();
                    let w = bytes(case.weights[i * STRIDES[1] + channel]);
                    x.zip(w).map(|(x, w)| i32::from(x) * i32::from(w as i8)).sum()
                };
                let initial = case.initial.as_flattened()[channel].to_bits() as i32;
                let want = (0..shape.words * STEPS).map(word).fold(initial, i32::wrapping_add);
                assert_eq!(sum as i32, want, "{shape:?}, pixel {pixel}, channel {channel}");
            }
        }
    }
}

#[test]
fn emulated_tiles_of_bf16_sum_the_products() {
    for shape in shapes(false) {
        let case = Case::new(shape);
        for (pixel, sums) in case.sums(&mut Emulated::default()).into_iter().enumerate() {
            for (channel, sum) in sums.into_iter().enumerate() {
                let mut want = f64::from(case.initial.as_flattened()[channel]);
                let mut magnitude = want.abs();
                for i in 0..shape.words * STEPS {
                    let [x, w] = [
                        case.pixels[pixel * STRIDES[0] + i].to_bits(),
                        case.weights[i * STRIDES[1] + channel].to_bits(),
                    ];
                    for half in [|word: u32| word << 16, |word: u32| word & 0xffff_0000] {
                        let channel = [x, w].map(|word| f32::from_bits(half(word)));
                        let product = channel.map(|v| if v.is_subnormal() { 0.0 } else { f64::from(v) });
                        want += product[0] * product[1];
                        magnitude += (product[0] * product[1]).abs();
                    }
                }
                let got = f64::from(f32::from_bits(sum));
                if magnitude < f64::from(f32::MAX) {
                    let bound = 1e-5 * magnitude + 1e-30;
                    assert!((got - want).abs() <= bound, "{shape:?}, pixel {pixel}, channel {channel}");
                }
            }
        }
    }
}

#[test]
fn tiles_of_the_cpu_compute_the_emulations_bits() {
    if !Isa::available().contains(&Isa::Amx) {
        eprintln!("this machine has no tiles: skipped");
        return;
    }
    let mut unit = Amx::default();
    for shape in shapes(true).chain(shapes(false)) {
        let case = Case::new(shape);
        let (got, want) = (case.sums(&mut unit), case.sums(&mut Emulated::default()));
        for (pixel, (got, want)) in got.iter().zip(&want).enumerate() {
            let same = |(got, want): (&u32, &u32)| {
                got == want || !shape.int8 && [got, want].iter().all(|bits| f32::from_bits(**bits).is_nan())
            };
            assert!(got.iter().zip(want).all(same), "{shape:?}, pixel {pixel}: {got:x?}, not {want:x?}");
        }
    }
}
