//! Packed convolutions of integers against their definition, exactly, with every instruction set of the machine.

use resnext_kernels::internals::{bytes, bytes_mut};
use resnext_kernels::{
    AlignedBuffer, ConvJob, ConvKernel, Epilogue, Filter, Isa, MAX_LANES, MAX_PAIR_SUM, Packed, PixelView,
    Precision, RowLayout, SourceTable, Sources, ThreadTeam,
};

/// A convolution with stride 1 whose output has the size of its input.
struct Case {
    /// Height and width of the maps.
    size: (usize, usize),
    groups: usize,
    group_in: usize,
    group_out: usize,
    kernel: usize,
}

/// Integers from `-most` to `most`, without a pattern.
fn numbers(count: usize, most: i32, seed: u32) -> Vec<i32> {
    let number =
        |i: u32| (i.wrapping_mul(2654435761) ^ seed.wrapping_mul(0x9e3779b9)).wrapping_mul(0x85ebca6b) >> 8;
    (0..count as u32).map(|i| number(i) as i32 % (2 * most + 1) - most).collect()
}

impl Case {
    fn pixels(&self) -> usize {
        self.size.0 * self.size.1
    }

    fn taps(&self) -> usize {
        self.kernel * self.kernel
    }

    /// Weights that int8 may have, the largest sums of two neighbours among them.
    fn weight(&self) -> Vec<i32> {
        let (outputs, taps) = (self.groups * self.group_out, self.taps());
        let mut weight = numbers(outputs * self.group_in * taps, 127, 2);
        for weights in weight.chunks_mut(self.group_in * taps) {
            for (one, other) in (0..self.group_in / 2).map(|i| (2 * i, 2 * i + 1)) {
                for tap in 0..taps {
                    let left = MAX_PAIR_SUM - weights[one * taps + tap].abs();
                    let other = &mut weights[other * taps + tap];
                    *other = (2 * *other).clamp(-left.min(127), left.min(127));
                }
            }
        }
        weight
    }

    /// The place of each kernel position of each pixel; `None` in the padding.
    fn sources(&self) -> Vec<Option<usize>> {
        let (height, width) = (self.size.0 as isize, self.size.1 as isize);
        let (kernel, before) = (self.kernel as isize, self.kernel as isize / 2);
        let positions = (0..height * width * kernel * kernel).map(|i| {
            let (pixel, tap) = (i / (kernel * kernel), i % (kernel * kernel));
            (pixel / width + tap / kernel - before, pixel % width + tap % kernel - before)
        });
        let inside = |(y, x)| (0..height).contains(&y) && (0..width).contains(&x);
        positions.map(|at| inside(at).then_some((at.0 * width + at.1) as usize)).collect()
    }

    /// The sums, `[pixel][output channel]`.
    fn sums(&self, x: &[i32], weight: &[i32]) -> Vec<i32> {
        let Case { groups, group_in, group_out, .. } = *self;
        let (taps, sources) = (self.taps(), self.sources());
        let sum = |pixel: usize, channel: usize| -> i32 {
            let product = |(c, tap): (usize, usize)| {
                let source = sources[pixel * taps + tap];
                let x = |at: usize| x[at * groups * group_in + channel / group_out * group_in + c];
                source.map_or(0, x) * weight[(channel * group_in + c) * taps + tap]
            };
            (0..group_in).flat_map(|c| (0..taps).map(move |tap| (c, tap))).map(product).sum()
        };
        (0..self.pixels())
            .flat_map(|p| (0..groups * group_out).map(move |k| (p, k)))
            .map(|(p, k)| sum(p, k))
            .collect()
    }

    /// The words that the kernel writes for the maps `src`, of `stride` words per pixel.
    fn run(
        &self,
        precision: Precision,
        (src, stride): (&[f32], usize),
        (weight, bias, scales): (&[i32], &[f32], &[f32]),
        out_stride: usize,
    ) -> AlignedBuffer {
        let Case { groups, group_in, group_out, kernel, .. } = *self;
        let weight: Vec<f32> = weight.iter().map(|&w| w as f32).collect();
        let columns = if kernel == 3 && groups > 1 { 3 } else { 1 };
        let taps = self.taps();
        let filter = Filter {
            groups,
            group_in,
            group_out,
            taps,
            columns,
            tiled: false,
            weight: &weight,
            bias,
            scales,
        };
        let pixels = self.pixels();
        let place = |source: Option<usize>| (source.unwrap_or(pixels) * stride) as u32;
        let row = (columns == 3).then_some(RowLayout { width: self.size.1, stride: 1 });
        let table = SourceTable::new(self.sources().into_iter().map(place).collect(), row);
        let sources = if kernel == 1 { Sources::Same } else { Sources::Table(&table) };
        let mut out = AlignedBuffer::zeros(pixels * out_stride);
        let job = ConvJob {
            src: PixelView { data: src, stride },
            residual: None,
            epilogue: Epilogue { least: 0.0, residual_step: 1.0, offset: 0.0 },
            count: pixels,
            out: &mut out,
            out_stride,
            ahead: &[],
        };
        // Packed before, by the pool's threads, which a team holds.
        let packed = Packed::new(precision, &filter);
        ThreadTeam::scope_of(3, |team| packed.convolve(team, sources, job));
        out
    }
}

/// The precisions of int8 that this machine computes. With AVX-512's VNNI, AMX's tiles are emulated where the CPU has none.
fn int8() -> Vec<Precision> {
    let mut found: Vec<_> = Isa::available().into_iter().map(Precision::int8).collect();
    if found.contains(&Precision::Int8(Isa::Avx512)) && !found.contains(&Precision::Int8(Isa::Amx)) {
        found.push(Precision::Int8(Isa::Amx));
    }
    found
}

impl Case {
    /// Compares all instruction sets with the definition, in f32 and int8.
    fn check(&self) {
        let Case { size, groups, group_in, group_out, kernel } = *self;
        let (channels, outputs, pixels) = (groups * group_in, groups * group_out, self.pixels());
        let x: Vec<i32> = numbers(pixels * channels, 127, 1).into_iter().map(|x| x + 127).collect();
        let weight = self.weight();
        let bias: Vec<f32> = numbers(outputs, 99, 3).into_iter().map(|b| b as f32).collect();
        let scales = vec![1.0 / 1024.0; outputs];
        let sums = self.sums(&x, &weight);
        let what = format!("{groups}×{group_in} to {group_out}, {kernel}×{kernel}, {size:?}");
        // A pixel of zeros for the padding, and room for what kernels read after it.
        let mut words = AlignedBuffer::zeros((pixels + 1) * channels + MAX_LANES);
        words.iter_mut().zip(&x).for_each(|(word, &x)| *word = x as f32);
        for isa in Isa::available() {
            let precision = Precision::F32(isa);
            let out = self.run(precision, (&words, channels), (&weight, &bias, &[]), outputs);
            let want = sums.iter().enumerate().map(|(i, &sum)| (sum as f32 + bias[i % outputs]).max(0.0));
            assert!(out.iter().copied().eq(want), "{precision:?}, {what}");
        }
        let mut words = AlignedBuffer::zeros((pixels + 1) * channels / 4 + MAX_LANES);
        bytes_mut(&mut words).iter_mut().zip(&x).for_each(|(byte, &x)| *byte = x as u8);
        for precision in int8() {
            let out = self.run(precision, (&words, channels / 4), (&weight, &bias, &scales), outputs / 4);
            let scaled = sums
                .iter()
                .enumerate()
                .map(|(i, &sum)| (sum as f32).mul_add(1.0 / 1024.0, bias[i % outputs]));
            let want = scaled.map(|y| y.max(0.0).round_ties_even() as u8);
            assert!(bytes(&out).iter().copied().eq(want), "{precision:?}, {what}");
        }
    }
}

#[test]
fn every_instruction_set_computes_what_a_convolution_is() {
    for (groups, group_in, group_out, kernel) in [
        (1, 64, 40, 1),
        (1, 48, 40, 1),
        (1, 16, 24, 3),
        (1, 20, 12, 1),
        (16, 4, 4, 3),
        (4, 8, 8, 3),
        (2, 16, 16, 3),
        (2, 32, 32, 3),
        (2, 64, 64, 3),
    ] {
        Case { size: (5, 9), groups, group_in, group_out, kernel }.check();
    }
}

#[test]
fn any_number_of_pixels_is_computed() {
    for size in [(1, 1), (1, 2), (1, 17), (4, 8), (3, 11), (5, 13)] {
        Case { size, groups: 1, group_in: 64, group_out: 40, kernel: 1 }.check();
        Case { size, groups: 1, group_in: 64, group_out: 64, kernel: 3 }.check();
    }
}

#[test]
fn tiles_of_amx_compute_wide_convolutions() {
    let kernel = |groups, group_in, precision| {
        let weight = vec![0.0; groups * group_in * group_in];
        let bias = vec![0.0; groups * group_in];
        let filter = Filter {
            groups,
            group_in,
            group_out: group_in,
            taps: 1,
            columns: 1,
            tiled: false,
            weight: &weight,
            bias: &bias,
            scales: &bias,
        };
        Packed::new(precision, &filter).kernel()
    };
    for precision in int8() {
        let tiles = precision.isa() == Isa::Amx;
        assert_eq!(kernel(1, 64, precision) == ConvKernel::MatrixTiles, tiles, "{precision:?}");
        assert_eq!(kernel(2, 64, precision) == ConvKernel::MatrixTiles, tiles, "{precision:?}");
        assert_ne!(kernel(16, 4, precision), ConvKernel::MatrixTiles, "{precision:?}");
    }
}

/// Without a table, only one kernel position can be read.
#[test]
fn several_kernel_positions_without_a_table_are_refused() {
    let Some(precision) = int8().into_iter().find(|precision| precision.isa() == Isa::Amx) else {
        return;
    };
    let (weight, bias) = (vec![0.0; 9 * 64 * 32], vec![0.0; 32]);
    let filter = Filter {
        groups: 1,
        group_in: 64,
        group_out: 32,
        taps: 9,
        columns: 1,
        tiled: false,
        weight: &weight,
        bias: &bias,
        scales: &bias,
    };
    let (src, mut out) = (vec![0f32; 16], vec![0f32; 8]);
    let job = ConvJob {
        src: PixelView { data: &src, stride: 16 },
        residual: None,
        epilogue: Epilogue { least: 0.0, residual_step: 1.0, offset: 0.0 },
        count: 1,
        out: &mut out,
        out_stride: 8,
        ahead: &[],
    };
    let packed = Packed::new(precision, &filter);
    let convolve = || ThreadTeam::scope_of(1, |team| packed.convolve(team, Sources::Same, job));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(convolve)).is_err());
}
