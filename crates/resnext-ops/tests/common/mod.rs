//! Plain references in f64 and shared helpers.
#![allow(dead_code)] // each test binary uses its part

use candle_core::{DType, Device, Tensor};
use resnext_ops::Conv2dConfig;

/// Element i of the flattened tensor is ((i·2654435761 + salt·40503) mod 2³²) / 2³¹ - 1, in [-1, 1):
/// the formula of scripts/golden/ops.py.
pub fn fill(shape: &[usize], salt: u64) -> Tensor {
    let values: Vec<f64> = (0..shape.iter().product::<usize>() as u64)
        .map(|i| ((i * 2654435761 + salt * 40503) % (1 << 32)) as f64 / 2147483648.0 - 1.0)
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

pub fn values(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest difference, relative to the largest reference value (or 1).
pub fn error(got: &Tensor, want: &[f64]) -> f64 {
    let got = values(got);
    assert_eq!(got.len(), want.len(), "number of elements");
    let scale = want.iter().fold(1.0f64, |m, v| m.max(v.abs()));
    got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / scale
}

/// Convolution by its definition, (N, C, H, W) in row-major order.
pub fn reference_conv(x: &Tensor, weight: &Tensor, config: &Conv2dConfig) -> (Vec<usize>, Vec<f64>) {
    let (n, c, h, w) = x.dims4().unwrap();
    let (cout, cg, kh, kw) = weight.dims4().unwrap();
    let Conv2dConfig { stride, padding, dilation, groups } = *config;
    let out = |size: usize, k: usize| (size + 2 * padding - dilation * (k - 1) - 1) / stride + 1;
    let (oh, ow) = (out(h, kh), out(w, kw));
    let (xs, ws) = (values(x), values(weight));
    let mut y = vec![0.0; n * cout * oh * ow];
    for (i, y) in y.iter_mut().enumerate() {
        let (ox, oy, k, b) = (i % ow, i / ow % oh, i / (ow * oh) % cout, i / (ow * oh * cout));
        let group = k / (cout / groups);
        for ci in 0..cg {
            for ky in 0..kh {
                for kx in 0..kw {
                    let iy = (oy * stride + ky * dilation) as isize - padding as isize;
                    let ix = (ox * stride + kx * dilation) as isize - padding as isize;
                    if (0..h as isize).contains(&iy) && (0..w as isize).contains(&ix) {
                        let source = ((b * c + group * cg + ci) * h + iy as usize) * w + ix as usize;
                        *y += xs[source] * ws[((k * cg + ci) * kh + ky) * kw + kx];
                    }
                }
            }
        }
    }
    (vec![n, cout, oh, ow], y)
}
