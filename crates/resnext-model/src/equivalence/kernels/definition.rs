//! A convolution by its definition, over integers.

use candle_core::Shape;
use rayon::prelude::*;
use resnext_ops::Conv2dConfig;

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

/// What a convolution computes, as integers.
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

    /// The pixel (N, Cin, H, W) of a product, or `None` if it lies in the padding.
    #[inline(always)]
    pub(in crate::equivalence) fn pixel(&self, p: Product) -> Option<usize> {
        let Conv2dConfig { stride, padding, dilation, .. } = self.config;
        let y = (p.at.0 * stride + p.tap.0 * dilation).checked_sub(padding).filter(|&y| y < self.map.0)?;
        let x = (p.at.1 * stride + p.tap.1 * dilation).checked_sub(padding).filter(|&x| x < self.map.1)?;
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

    /// Calls `f` for every product of one image, output channel and input channel of its group.
    #[inline(always)]
    fn products(&self, image: usize, channel: usize, source: usize, mut f: impl FnMut(Product)) {
        let (h, w) = self.out();
        for ky in 0..self.kernel {
            for kx in 0..self.kernel {
                for y in 0..h {
                    for x in 0..w {
                        f(Product { image, channel, source, at: (y, x), tap: (ky, kx) });
                    }
                }
            }
        }
    }

    /// Calls `f` for every product of the convolution.
    pub(in crate::equivalence) fn all_products(&self, mut f: impl FnMut(Product)) {
        for image in 0..self.batch {
            for channel in 0..self.output {
                (0..self.group_in()).for_each(|source| self.products(image, channel, source, &mut f));
            }
        }
    }

    /// The output (N, Cout, H', W').
    pub(in crate::equivalence) fn forward(&self, x: &[i32], weight: &[i32]) -> Vec<i32> {
        let (h, w) = self.out();
        let mut out = vec![0; self.batch * self.output * h * w];
        out.par_chunks_mut((h * w).max(1)).enumerate().for_each(|(i, out)| {
            let (image, channel) = (i / self.output, i % self.output);
            for source in 0..self.group_in() {
                self.products(image, channel, source, |p| {
                    if let Some(pixel) = self.pixel(p) {
                        out[p.at.0 * w + p.at.1] += x[pixel] * weight[self.weight_of(p)];
                    }
                });
            }
        });
        out
    }

    /// The gradient (N, Cin, H, W) of the input from that of the output.
    pub(in crate::equivalence) fn input_gradient(&self, gradient: &[i32], weight: &[i32]) -> Vec<i32> {
        let (map, group) = (self.map.0 * self.map.1, self.group_out());
        let mut out = vec![0; self.batch * self.input * map];
        out.par_chunks_mut(map.max(1)).enumerate().for_each(|(i, out)| {
            let (image, channel) = (i / self.input, i % self.input);
            let (of, source) = (channel / self.group_in(), channel % self.group_in());
            for channel in of * group..(of + 1) * group {
                self.products(image, channel, source, |p| {
                    if let Some(pixel) = self.pixel(p) {
                        out[pixel - i * map] += gradient[self.output_of(p)] * weight[self.weight_of(p)];
                    }
                });
            }
        });
        out
    }

    /// The gradient (Cout, Cin/groups, k, k) of the weight from the input and the gradient of the output.
    pub(in crate::equivalence) fn weight_gradient(&self, x: &[i32], gradient: &[i32]) -> Vec<i32> {
        let size = self.kernel * self.kernel;
        let mut out = vec![0; self.output * self.group_in() * size];
        out.par_chunks_mut(size).enumerate().for_each(|(i, out)| {
            let (channel, source) = (i / self.group_in(), i % self.group_in());
            for image in 0..self.batch {
                self.products(image, channel, source, |p| {
                    if let Some(pixel) = self.pixel(p) {
                        out[p.tap.0 * self.kernel + p.tap.1] += x[pixel] * gradient[self.output_of(p)];
                    }
                });
            }
        });
        out
    }
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
