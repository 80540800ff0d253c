//! A convolution by its definition, over integers.

use candle_core::Shape;
use rayon::prelude::*;
use resnext_ops::Conv2dConfig;
use std::ops::Range;

/// The sizes of a convolution with square kernels: which pixel and which weight each product has, and which output it
/// belongs to. The convolution and both of its gradients are sums of these products.
#[derive(Debug, Clone, Copy)]
pub(in crate::equivalence) struct Definition {
    pub(in crate::equivalence) batch: usize,
    pub(in crate::equivalence) input: usize,
    pub(in crate::equivalence) output: usize,
    /// Height and width of the input.
    pub(in crate::equivalence) map: (usize, usize),
    pub(in crate::equivalence) kernel: usize,
    pub(in crate::equivalence) config: Conv2dConfig,
}

/// One product: the output it is added to, and where its pixel and weight come from.
#[derive(Debug, Clone, Copy)]
pub(in crate::equivalence) struct Product {
    pub(in crate::equivalence) image: usize,
    /// The output channel.
    pub(in crate::equivalence) channel: usize,
    /// The input channel, counted within the group.
    pub(in crate::equivalence) source: usize,
    /// The output pixel.
    pub(in crate::equivalence) at: (usize, usize),
    /// The kernel position.
    pub(in crate::equivalence) tap: (usize, usize),
}

/// The results of a convolution by its definition, as integers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::equivalence) struct Sums {
    /// (N, Cout, H', W').
    pub(in crate::equivalence) y: Vec<i32>,
    /// The gradient of the input (N, Cin, H, W).
    pub(in crate::equivalence) of_x: Vec<i32>,
    /// The gradient of the weight (Cout, Cin/groups, k, k).
    pub(in crate::equivalence) of_weight: Vec<i32>,
}

impl Sums {
    /// The output, and the gradients of the input and of the weight.
    pub(super) fn each(&self) -> [&[i32]; 3] {
        [&self.y, &self.of_x, &self.of_weight]
    }
}

impl Definition {
    /// Height and width of the output.
    pub(in crate::equivalence) fn out(&self) -> (usize, usize) {
        let Conv2dConfig { stride, padding, dilation, .. } = self.config;
        let side = |len: usize| (len + 2 * padding - dilation * (self.kernel - 1) - 1) / stride + 1;
        (side(self.map.0), side(self.map.1))
    }

    pub(in crate::equivalence) fn group_in(&self) -> usize {
        self.input / self.config.groups
    }

    pub(in crate::equivalence) fn group_out(&self) -> usize {
        self.output / self.config.groups
    }

    pub(in crate::equivalence) fn x(&self) -> Shape {
        (self.batch, self.input, self.map.0, self.map.1).into()
    }

    pub(in crate::equivalence) fn weight(&self) -> Shape {
        (self.output, self.group_in(), self.kernel, self.kernel).into()
    }

    pub(in crate::equivalence) fn y(&self) -> Shape {
        let (h, w) = self.out();
        (self.batch, self.output, h, w).into()
    }

    /// The products of the longest sum, forward and in both gradients.
    pub(in crate::equivalence) fn longest_sum(&self) -> usize {
        let ((h, w), taps) = (self.out(), self.kernel * self.kernel);
        (self.group_in() * taps).max(self.group_out() * taps).max(self.batch * h * w)
    }

    /// Row and column of the pixel of every product at an output pixel and a kernel position, or `None` if it lies in the
    /// padding.
    #[inline(always)]
    fn point(&self, at: (usize, usize), tap: (usize, usize)) -> Option<(usize, usize)> {
        let Conv2dConfig { stride, padding, dilation, .. } = self.config;
        let y = (at.0 * stride + tap.0 * dilation).checked_sub(padding).filter(|&y| y < self.map.0)?;
        let x = (at.1 * stride + tap.1 * dilation).checked_sub(padding).filter(|&x| x < self.map.1)?;
        Some((y, x))
    }

    /// The pixel (N, Cin, H, W) of a product, or `None` if it lies in the padding.
    pub(in crate::equivalence) fn pixel(&self, p: Product) -> Option<usize> {
        let (y, x) = self.point(p.at, p.tap)?;
        let channel = p.channel / self.group_out() * self.group_in() + p.source;
        Some(((p.image * self.input + channel) * self.map.0 + y) * self.map.1 + x)
    }

    /// The weight (Cout, Cin/groups, k, k) of a product.
    #[inline(always)]
    pub(in crate::equivalence) fn weight_of(&self, p: Product) -> usize {
        ((p.channel * self.group_in() + p.source) * self.kernel + p.tap.0) * self.kernel + p.tap.1
    }

    /// The output (N, Cout, H', W') that a product belongs to.
    #[inline(always)]
    pub(in crate::equivalence) fn output_of(&self, p: Product) -> usize {
        let (h, w) = self.out();
        ((p.image * self.output + p.channel) * h + p.at.0) * w + p.at.1
    }

    /// Calls `f` for every product of the convolution.
    pub(in crate::equivalence) fn all_products(&self, mut f: impl FnMut(Product)) {
        for image in 0..self.batch {
            for channel in 0..self.output {
                self.all_positions(|at, tap| {
                    (0..self.group_in()).for_each(|source| f(Product { image, channel, source, at, tap }));
                });
            }
        }
    }

    /// Calls `f` for every output pixel and kernel position.
    #[inline(always)]
    fn all_positions(&self, mut f: impl FnMut((usize, usize), (usize, usize))) {
        let (h, w) = self.out();
        for y in 0..h {
            for x in 0..w {
                for ky in 0..self.kernel {
                    (0..self.kernel).for_each(|kx| f((y, x), (ky, kx)));
                }
            }
        }
    }

    /// The pixels of a map, and the positions of a kernel.
    fn areas(&self) -> (usize, usize) {
        (self.map.0 * self.map.1, self.kernel * self.kernel)
    }

    /// Calls `f` for every output pixel of one output channel, and every kernel position whose pixel lies on the map: with
    /// the output pixel (H', W'), and the places of the group's input channels in one image's pixels (H, W, Cin/groups) and
    /// in the channel's weights (k, k, Cin/groups). There the channels are neighbours, which is faster to read.
    #[inline(always)]
    fn runs(&self, mut f: impl FnMut(usize, Range<usize>, Range<usize>)) {
        let (width, group_in) = (self.out().1, self.group_in());
        self.all_positions(|at, tap| {
            if let Some((y, x)) = self.point(at, tap) {
                let channels = |place: usize| place * group_in..(place + 1) * group_in;
                f(at.0 * width + at.1, channels(y * self.map.1 + x), channels(tap.0 * self.kernel + tap.1));
            }
        });
    }

    /// The output (N, Cout, H', W').
    pub(in crate::equivalence) fn forward(&self, x: &[i32], weight: &[i32]) -> Vec<i32> {
        let ((h, w), (map, taps), group_in) = (self.out(), self.areas(), self.group_in());
        let (x, weight) = (transposed(x, group_in, map), transposed(weight, group_in, taps));
        let mut all = vec![0; self.batch * self.output * h * w];
        all.par_chunks_mut((h * w).max(1)).enumerate().for_each(|(i, out)| {
            // Images are split into groups, and groups into output channels.
            let x = part(&x, i / self.group_out(), map * group_in);
            let weight = part(&weight, i % self.output, taps * group_in);
            self.runs(|at, pixels, weights| {
                out[at] += x[pixels].iter().zip(&weight[weights]).map(|(x, w)| x * w).sum::<i32>();
            });
        });
        all
    }

    /// The gradient (N, Cin, H, W) of the input from that of the output.
    pub(in crate::equivalence) fn input_gradient(&self, gradient: &[i32], weight: &[i32]) -> Vec<i32> {
        let ((h, w), (map, taps), group_in) = (self.out(), self.areas(), self.group_in());
        let weight = transposed(weight, group_in, taps);
        let mut all = vec![0; self.batch * self.input * map];
        all.par_chunks_mut((map * group_in).max(1)).enumerate().for_each(|(i, out)| {
            for channel in 0..self.group_out() {
                let gradient = part(gradient, i * self.group_out() + channel, h * w);
                let channel = i % self.config.groups * self.group_out() + channel;
                let weight = part(&weight, channel, taps * group_in);
                self.runs(|at, pixels, weights| {
                    add_multiple(&mut out[pixels], gradient[at], &weight[weights])
                });
            }
        });
        transposed(&all, map, group_in)
    }

    /// The gradient (Cout, Cin/groups, k, k) of the weight from the input and the gradient of the output.
    pub(in crate::equivalence) fn weight_gradient(&self, x: &[i32], gradient: &[i32]) -> Vec<i32> {
        let ((h, w), (map, taps), group_in) = (self.out(), self.areas(), self.group_in());
        let x = transposed(x, group_in, map);
        let mut all = vec![0; self.output * taps * group_in];
        all.par_chunks_mut((taps * group_in).max(1)).enumerate().for_each(|(channel, out)| {
            for image in 0..self.batch {
                let gradient = part(gradient, image * self.output + channel, h * w);
                let group = image * self.config.groups + channel / self.group_out();
                let x = part(&x, group, map * group_in);
                self.runs(|at, pixels, weights| add_multiple(&mut out[weights], gradient[at], &x[pixels]));
            }
        });
        transposed(&all, taps, group_in)
    }
}

/// The `index`-th of parts of `len` values.
fn part(values: &[i32], index: usize, len: usize) -> &[i32] {
    &values[index * len..(index + 1) * len]
}

/// `sums` + `factor` · `values`.
fn add_multiple(sums: &mut [i32], factor: i32, values: &[i32]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += factor * value;
    }
}

/// Each of the matrices (`rows`, `columns`) that follow each other in `values`, transposed.
fn transposed(values: &[i32], rows: usize, columns: usize) -> Vec<i32> {
    let mut all = Vec::with_capacity(values.len());
    for matrix in values.chunks((rows * columns).max(1)) {
        all.extend((0..columns).flat_map(|column| matrix.iter().skip(column).step_by(columns)));
    }
    all
}

impl std::fmt::Display for Definition {
    /// For example `128→128, 3×3, 32 groups, /2, on 2×5×6`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Definition { batch, input, output, map: (h, w), kernel, config } = *self;
        write!(f, "{input}→{output}, {kernel}×{kernel}")?;
        if config.groups > 1 {
            write!(f, ", {} groups", config.groups)?;
        }
        if config.stride > 1 {
            write!(f, ", /{}", config.stride)?;
        }
        if config.dilation > 1 {
            write!(f, ", dilation {}", config.dilation)?;
        }
        write!(f, ", padding {}, on {batch}×{h}×{w}", config.padding)
    }
}

#[cfg(test)]
mod tests {
    use super::super::integers::{self, Integers};
    use super::super::shapes;
    use super::*;
    use crate::equivalence::stack::generator;

    /// The output and both gradients are sums of the same products.
    #[test]
    fn sums_are_those_of_all_products() {
        let mut rng = generator(1);
        for _ in 0..20 {
            let definition = Definition { batch: 2, ..shapes::random(&mut rng) };
            let integers = Integers::draw(&definition, integers::Range { least: 0, most: 5 }, &mut rng);
            let Sums { y, of_x, of_weight } = Sums::new(&definition, &integers);
            let mut expected =
                Sums { y: vec![0; y.len()], of_x: vec![0; of_x.len()], of_weight: vec![0; of_weight.len()] };
            let Integers { x, weight, gradient, .. } = &integers;
            definition.all_products(|p| {
                if let Some(pixel) = definition.pixel(p) {
                    let (output, w) = (definition.output_of(p), definition.weight_of(p));
                    expected.y[output] += x[pixel] * weight[w];
                    expected.of_x[pixel] += gradient[output] * weight[w];
                    expected.of_weight[w] += gradient[output] * x[pixel];
                }
            });
            assert_eq!(Sums { y, of_x, of_weight }, expected, "{definition}");
        }
    }
}
