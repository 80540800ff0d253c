//! Reference implementations in f64 and helpers that tests share.
#![allow(dead_code)] // each test binary uses some of them

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use resnext_kernels::Conv2dConfig;

/// A tensor whose element i, in row-major order, is ((i·2654435761 + salt·40503) mod 2³²) / 2³¹ - 1, in [-1,
/// 1): the formula of scripts/golden/ops.py.
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

/// A convolution: the sizes of its input and weight, its settings, and the input's strides.
#[derive(Debug, Clone)]
pub struct Case {
    pub x: Vec<usize>,
    pub weight: Vec<usize>,
    pub config: Conv2dConfig,
    pub layout: usize,
}

/// Convolutions of all kinds: grouped and dense, strided, padded, dilated.
pub fn cases() -> impl Strategy<Value = Case> {
    let groups = prop_oneof![Just(1usize), Just(2), Just(3), Just(4), Just(8), Just(32)];
    let widths = prop_oneof![
        (Just(4usize), Just(4usize)),
        (Just(8), Just(8)),
        (Just(1), Just(1)),
        (Just(2), Just(2)),
        (Just(16), Just(16)),
        (Just(3), Just(5)),
        (Just(1), Just(3)),
        (Just(17), Just(33)),
        (Just(24), Just(14)),
    ];
    (
        groups,
        widths,
        1usize..3,
        (1usize..10, 1usize..10),
        (1usize..4, 1usize..4),
        1usize..4,
        0usize..3,
        1usize..3,
        0usize..4,
    )
        .prop_filter_map(
            "kernel fits and it is small",
            |(groups, (cin, cout), n, (h, w), (kh, kw), stride, padding, dilation, layout)| {
                let fits = |size: usize, k: usize| (k - 1) * dilation < size + 2 * padding;
                let small = groups * cin * cout < 4000;
                (fits(h, kh) && fits(w, kw) && small).then(|| Case {
                    x: vec![n, groups * cin, h, w],
                    weight: vec![groups * cout, cin, kh, kw],
                    config: Conv2dConfig { stride, padding, dilation, groups },
                    layout,
                })
            },
        )
}

/// The same values under other strides.
pub fn in_layout(x: &Tensor, layout: usize) -> Tensor {
    match layout {
        0 => x.clone(),
        1 => x.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap().permute((0, 3, 1, 2)).unwrap(),
        2 => x.permute((3, 1, 0, 2)).unwrap().contiguous().unwrap().permute((2, 1, 3, 0)).unwrap(),
        _ => Tensor::cat(&[x, x], 1).unwrap().narrow(1, x.dim(1).unwrap(), x.dim(1).unwrap()).unwrap(),
    }
}
