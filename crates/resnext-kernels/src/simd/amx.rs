//! AMX: tile registers of 16 rows of 64 bytes, and products of tiles in bf16 and int8. Intel's server CPUs have had them
//! since 2023.
//!
//! A product multiplies a tile of pixels, one pixel per row, by a tile of weights, one word of channels per row and one
//! output channel per column, and adds it to a tile of sums. Four tiles of sums, for 32 pixels times 32 output channels,
//! take two tiles of pixels and two of weights: four products for four loads, and all eight registers.

/// Rows per tile, and words per row.
pub const TILE: usize = 16;

/// The pixels, and the output channels, of the four tiles of sums together.
pub const BLOCK: usize = 2 * TILE;

/// The sums of 32 pixels and 32 output channels, `[pixel][output channel]`: f32 or the bits of i32.
pub type Sums = [[f32; BLOCK]; BLOCK];

/// The pixels and the weights that a block multiplies.
#[derive(Clone, Copy)]
pub struct TileOperands {
    /// The first word of the first pixel of both tiles of pixels.
    pub pixels: [*const f32; 2],
    /// Words from one pixel to the next.
    pub pixel_stride: usize,
    /// The first word of the first output channel of both tiles of weights, `[word][output channel]`.
    pub weights: [*const f32; 2],
    /// Words from one row of weights to the next.
    pub weight_stride: usize,
}

/// The sizes of a block's tiles, and the type of their words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TileShape {
    /// The pixels of both tiles of pixels, 1 to 16.
    pub pixels: [usize; 2],
    /// The words of channels that one product sums over, 1 to 16.
    pub words: usize,
    /// Whether a word is four channels, u8 of pixels and i8 of weights, summed in i32. Otherwise it is two channels of bf16,
    /// summed in f32, where subnormal numbers count as zero.
    pub int8: bool,
    /// Whether pixels are loaded with a hint that they are not needed again soon, so that weights stay in the first-level
    /// cache. This pays where they fit there beside the pixels of one block.
    pub streams: bool,
}

/// What multiplies tiles: the CPU's [`Amx`], or [`Emulated`] in plain Rust, which gives the same bits but for those of NaN.
pub trait TileUnit: Default {
    /// Prepares for blocks of one shape.
    fn configure(&mut self, shape: TileShape);
    /// Begins a block: the sums of all pixels start from `initial`, those of the first and of the second half of the output
    /// channels.
    fn start(&mut self, initial: [&[f32; TILE]; 2]);
    /// Adds the products of `steps` times as many words as the shape has, which follow each other, and advances the
    /// operands past them.
    ///
    /// # Safety
    /// The operands hold the words of all pixels and weights of the block.
    unsafe fn accumulate(&mut self, operands: &mut TileOperands, steps: usize);
    /// Ends a block: writes the sums of the first tile's pixels, followed by those of the second.
    fn store(&mut self, sums: &mut Sums);
}

/// The tile instructions in plain Rust.
pub struct Emulated {
    shape: TileShape,
    sums: Sums,
}

impl Default for Emulated {
    fn default() -> Self {
        let shape = TileShape { pixels: [1; 2], words: 1, int8: false, streams: false };
        Emulated { shape, sums: [[0.0; BLOCK]; BLOCK] }
    }
}

impl TileUnit for Emulated {
    fn configure(&mut self, shape: TileShape) {
        self.shape = shape;
    }

    fn start(&mut self, initial: [&[f32; TILE]; 2]) {
        for sums in &mut self.sums {
            let halves = sums.chunks_exact_mut(TILE).zip(initial);
            halves.for_each(|(sums, initial)| sums.copy_from_slice(initial));
        }
    }

    unsafe fn accumulate(&mut self, operands: &mut TileOperands, steps: usize) {
        let TileShape { pixels, words, int8, .. } = self.shape;
        let TileOperands { pixel_stride, weight_stride, .. } = *operands;
        for _ in 0..steps {
            for (pixel, sums) in self.sums.iter_mut().enumerate().take(pixels[0] + pixels[1]) {
                let (tile, row) = if pixel < pixels[0] { (0, pixel) } else { (1, pixel - pixels[0]) };
                for (channel, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: the function's contract.
                    let products = (0..words).map(|word| unsafe {
                        let x = operands.pixels[tile].add(row * pixel_stride + word).read_unaligned();
                        let weights = operands.weights[channel / TILE].add(channel % TILE);
                        [x, weights.add(word * weight_stride).read_unaligned()].map(f32::to_bits)
                    });
                    *sum = if int8 { dot_int8(products, *sum) } else { dot_bf16(products, *sum) };
                }
            }
            advance(operands, words);
        }
    }

    fn store(&mut self, sums: &mut Sums) {
        let count = self.shape.pixels[0] + self.shape.pixels[1];
        sums[..count].copy_from_slice(&self.sums[..count]);
    }
}

/// Moves the operands to the next words.
fn advance(operands: &mut TileOperands, words: usize) {
    operands.pixels = operands.pixels.map(|pixel| pixel.wrapping_add(words));
    operands.weights = operands.weights.map(|weights| weights.wrapping_add(words * operands.weight_stride));
}

/// Adds the products of words of four channels, as `tdpbusd` does.
fn dot_int8(words: impl Iterator<Item = [u32; 2]>, sum: f32) -> f32 {
    let channels = words.flat_map(|[x, w]| x.to_le_bytes().into_iter().zip(w.to_le_bytes()));
    let products = channels.map(|(x, w)| i32::from(x) * i32::from(w as i8));
    f32::from_bits(products.fold(sum.to_bits() as i32, i32::wrapping_add) as u32)
}

/// Adds the products of words of two channels, as `tdpbf16ps` does: the even channels' sum and the odd ones', each by fused
/// multiply-adds from zero, and then both to the sum.
fn dot_bf16(words: impl Iterator<Item = [u32; 2]>, sum: f32) -> f32 {
    let flushed = |v: f32| if v.is_subnormal() { 0f32.copysign(v) } else { v };
    let channel =
        |word: u32, odd: bool| flushed(f32::from_bits(if odd { word & 0xffff_0000 } else { word << 16 }));
    let [even, odd] = words.fold([0f32; 2], |[even, odd], [x, w]| {
        let add = |sum: f32, is_odd| flushed(channel(x, is_odd).mul_add(channel(w, is_odd), sum));
        [add(even, false), add(odd, true)]
    });
    flushed(flushed(sum) + flushed(even + odd))
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub use hardware::Amx;

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub use Emulated as Amx;

/// Whether this machine has tiles of bf16 and of int8, and the system lets this process use them.
pub fn available() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    return hardware::available();
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    false
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod hardware {
    use super::{BLOCK, Sums, TILE, TileOperands, TileShape, TileUnit};
    use std::arch::asm;
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    use std::cell::Cell;
    use std::sync::OnceLock;

    /// See [`available`](super::available).
    pub fn available() -> bool {
        static AVAILABLE: OnceLock<bool> = OnceLock::new();
        *AVAILABLE.get_or_init(|| {
            // AMX-BF16, AMX-TILE and AMX-INT8, in edx of leaf 7.
            const TILES: u32 = 1 << 22 | 1 << 24 | 1 << 25;
            let has = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & TILES == TILES;
            has && is_x86_feature_detected!("avx512f") && granted()
        })
    }

    /// Asks Linux for the data of tiles, 8 KB more to be saved per thread, which it grants a process only when asked, and
    /// only if it saves them.
    fn granted() -> bool {
        const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
        const TILE_DATA: libc::c_ulong = 18;
        // SAFETY: this system call changes what the process may use, and no memory.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
    }

    thread_local! {
        /// Whether the thread's registers belong to a value of [`Amx`].
        static IN_USE: Cell<bool> = const { Cell::new(false) };
    }

    /// The CPU's tile registers, as the calling thread's. They belong to one value of this type at a time, and are given back
    /// when it is dropped, so that the system need not save them. Sums stay in them from one block of assembly to the next:
    /// no function is compiled with AMX, so nothing else writes them.
    pub struct Amx {
        shape: Option<TileShape>,
        /// Neither sent to another thread nor shared with one, as the registers are the thread's own.
        _own: std::marker::PhantomData<*const ()>,
    }

    /// The sizes of the eight tiles, as `ldtilecfg` reads them.
    #[repr(C, align(64))]
    struct Configuration {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    impl Default for Amx {
        /// # Panics
        /// If tiles are not [`available`](super::available), or the thread has another value of this type.
        fn default() -> Self {
            assert!(available(), "this CPU has no tiles, or the system does not grant them");
            assert!(!IN_USE.replace(true), "the thread's tiles are in use");
            Amx { shape: None, _own: std::marker::PhantomData }
        }
    }

    /// Multiplies by one instruction, loads pixels by another, and advances the operands.
    macro_rules! multiply {
        ($instruction:literal, $load:literal, $operands:ident, $words:ident, $steps:ident) => {
            asm!(
                "2:",
                concat!($load, " tmm4, [{x0} + {pixel_stride}]"),
                "tileloadd tmm6, [{w0} + {weight_stride}]",
                "tileloadd tmm7, [{w1} + {weight_stride}]",
                concat!($instruction, " tmm0, tmm4, tmm6"),
                concat!($load, " tmm5, [{x1} + {pixel_stride}]"),
                concat!($instruction, " tmm1, tmm4, tmm7"),
                concat!($instruction, " tmm2, tmm5, tmm6"),
                concat!($instruction, " tmm3, tmm5, tmm7"),
                "add {x0}, {next_x}",
                "add {x1}, {next_x}",
                "add {w0}, {next_w}",
                "add {w1}, {next_w}",
                "dec {steps}",
                "jnz 2b",
                x0 = inout(reg) $operands.pixels[0],
                x1 = inout(reg) $operands.pixels[1],
                w0 = inout(reg) $operands.weights[0],
                w1 = inout(reg) $operands.weights[1],
                pixel_stride = in(reg) 4 * $operands.pixel_stride,
                weight_stride = in(reg) 4 * $operands.weight_stride,
                next_x = in(reg) 4 * $words,
                next_w = in(reg) 4 * $words * $operands.weight_stride,
                steps = inout(reg) $steps => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly),
            )
        };
    }

    impl TileUnit for Amx {
        fn configure(&mut self, shape: TileShape) {
            if self.shape == Some(shape) {
                return;
            }
            let TileShape { pixels, words, .. } = shape;
            assert!(pixels.into_iter().chain([words]).all(|size| (1..=TILE).contains(&size)));
            let [first, second] = pixels.map(|pixels| pixels as u8);
            let (word_bytes, sum_bytes) = (4 * words as u16, 4 * TILE as u16);
            let mut configuration = Configuration {
                palette: 1,
                start_row: 0,
                reserved: [0; 14],
                row_bytes: [0; 16],
                rows: [0; 16],
            };
            let (x, w) = (word_bytes, sum_bytes);
            configuration.row_bytes[..8].copy_from_slice(&[w, w, w, w, x, x, w, w]);
            let words = words as u8;
            configuration.rows[..8]
                .copy_from_slice(&[first, first, second, second, first, second, words, words]);
            // SAFETY: tiles are available, as a value of this type exists, and the configuration is valid.
            unsafe {
                asm!(
                    "ldtilecfg [{}]",
                    in(reg) &configuration,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack, readonly),
                );
            }
            self.shape = Some(shape);
        }

        fn start(&mut self, initial: [&[f32; TILE]; 2]) {
            assert!(self.shape.is_some());
            let [left, right] = initial.map(|half| half.as_ptr());
            // SAFETY: tiles are configured. A stride of zero reads one row, of 64 bytes, for all pixels.
            unsafe {
                asm!(
                    "tileloadd tmm0, [{left} + {none}]",
                    "tileloadd tmm2, [{left} + {none}]",
                    "tileloadd tmm1, [{right} + {none}]",
                    "tileloadd tmm3, [{right} + {none}]",
                    left = in(reg) left,
                    right = in(reg) right,
                    none = in(reg) 0usize,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    options(nostack, readonly),
                );
            }
        }

        unsafe fn accumulate(&mut self, operands: &mut TileOperands, steps: usize) {
            let Some(TileShape { words, int8, streams, .. }) = self.shape else {
                panic!("configured before")
            };
            if steps == 0 {
                return;
            }
            // SAFETY: tiles are configured, and the caller's operands hold what is read.
            unsafe {
                match (int8, streams) {
                    (true, false) => multiply!("tdpbusd", "tileloadd", operands, words, steps),
                    (false, false) => multiply!("tdpbf16ps", "tileloadd", operands, words, steps),
                    (true, true) => multiply!("tdpbusd", "tileloaddt1", operands, words, steps),
                    (false, true) => multiply!("tdpbf16ps", "tileloaddt1", operands, words, steps),
                }
            }
        }

        fn store(&mut self, sums: &mut Sums) {
            let Some(TileShape { pixels: [first, _], .. }) = self.shape else { panic!("configured before") };
            let sums = sums.as_mut_ptr().cast::<f32>();
            // SAFETY: tiles are configured; the first tile has 1 to 16 rows, and so has the second, which follow in `sums`.
            unsafe {
                asm!(
                    "tilestored [{first} + {stride}], tmm0",
                    "tilestored [{first} + {stride} + 64], tmm1",
                    "tilestored [{second} + {stride}], tmm2",
                    "tilestored [{second} + {stride} + 64], tmm3",
                    first = in(reg) sums,
                    second = in(reg) sums.add(first * BLOCK),
                    stride = in(reg) 4 * BLOCK,
                    options(nostack),
                );
            }
        }
    }

    impl Drop for Amx {
        fn drop(&mut self) {
            if self.shape.is_some() {
                // SAFETY: tiles are available, and no block is in progress.
                unsafe {
                    asm!(
                        "tilerelease",
                        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                        options(nostack, nomem),
                    );
                }
            }
            IN_USE.set(false);
        }
    }
}
