//! Convolutions and their gradients by their definition, in f64.

use resnext_kernels::{Conv2dConfig, ConvShape};

/// A convolution by its definition, as nested loops.
pub struct Convolution {
    /// (N, H', W', Cout)
    pub output: Vec<f64>,
    /// (N, H, W, Cin)
    pub input_gradient: Vec<f64>,
    /// (Cout, Cin/groups, kh, kw)
    pub weight_gradient: Vec<f64>,
}

impl Convolution {
    /// Of `x` (N, H, W, Cin) with `weight` (Cout, Cin/groups, kh, kw), and from `gradient` (N, H', W', Cout).
    pub fn new(shape: &ConvShape, x: &[f64], weight: &[f64], gradient: &[f64]) -> Self {
        assert_eq!(
            [x.len(), weight.len(), gradient.len()],
            [shape.input_len(), shape.weight_len(), shape.output_len()]
        );
        let [mut output, mut input_gradient, mut weight_gradient] =
            [shape.output_len(), shape.input_len(), shape.weight_len()].map(|len| vec![0.0; len]);
        for_each_product(shape, |o, i, w| {
            output[o] += x[i] * weight[w];
            input_gradient[i] += gradient[o] * weight[w];
            weight_gradient[w] += gradient[o] * x[i];
        });
        Convolution { output, input_gradient, weight_gradient }
    }
}

/// Calls `product` with every product of the convolution: the elements of the output, the input and the weight.
fn for_each_product(shape: &ConvShape, mut product: impl FnMut(usize, usize, usize)) {
    let Conv2dConfig { stride, padding, dilation, groups } = shape.config;
    let (group_in, group_out) = (shape.group_in(), shape.group_out());
    for pixel in 0..shape.batch * shape.out_h * shape.out_w {
        let (n, oy, ox) =
            (pixel / shape.out_w / shape.out_h, pixel / shape.out_w % shape.out_h, pixel % shape.out_w);
        for tap in 0..shape.kernel_positions() {
            let y = (oy * stride + tap / shape.kernel_w * dilation).wrapping_sub(padding);
            let x = (ox * stride + tap % shape.kernel_w * dilation).wrapping_sub(padding);
            if y >= shape.in_h || x >= shape.in_w {
                continue;
            }
            let input = ((n * shape.in_h + y) * shape.in_w + x) * shape.in_channels;
            for k in 0..group_out {
                for c in 0..group_in {
                    // Groups come last: products that follow each other are then of different elements, and do not wait.
                    for group in 0..groups {
                        let channel = group * group_out + k;
                        product(
                            pixel * shape.out_channels + channel,
                            input + group * group_in + c,
                            (channel * group_in + c) * shape.kernel_positions() + tap,
                        );
                    }
                }
            }
        }
    }
}
