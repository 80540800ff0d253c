//! Windows that are summed with fixed weights: average pools and blurs. Both are linear, and products of one
//! window along the rows and one along the columns, so that their gradient is the same operation with the
//! weights the other way round.

use crate::config::{AvgPool2dConfig, adaptive_taps, blur_taps, padding_taps};
use crate::devices::{Backend, has_kernel};
use crate::element::Element;
use crate::error::Result;
use crate::layout::{channels_last, from_nhwc, to_channels_last};
use crate::shape::check_rank;
use crate::taps::AxisTaps;
use crate::train::tape::{Output, apply1, needs_gradient, record, recording};
use crate::train::upcast::with_upcast;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};
use rayon::prelude::*;

/// The mean of each window of `x` (N, C, H, W). Returns (N, C, H', W'), channels-last.
///
/// # Errors
/// If `x` does not have four dimensions, `kernel` or `stride` is zero, the padding is more than half the
/// kernel, or a window is larger than the padded input.
pub fn avg_pool2d(x: &Tensor, config: &AvgPool2dConfig) -> Result<Tensor> {
    check_rank("avg_pool2d", x)?;
    let (_, _, h, w) = x.dims4()?;
    window_sum(x, WindowSum { name: "avg_pool2d", rows: config.taps(h)?, columns: config.taps(w)? })
}

/// Every `stride`th pixel of `x` (N, C, H, W), blurred by (1, 2, 1)/4 along rows and columns: the
/// anti-aliasing of Zhang, arXiv 1904.11486, section 3, with its triangle filter. The map is reflected at its
/// borders. Returns (N, C, ⌈H/stride⌉, ⌈W/stride⌉), channels-last.
///
/// # Errors
/// If `x` does not have four dimensions, a side has less than two pixels, or `stride` is zero.
pub fn blur_pool2d(x: &Tensor, stride: usize) -> Result<Tensor> {
    check_rank("blur_pool2d", x)?;
    let (_, _, h, w) = x.dims4()?;
    let (rows, columns) = (blur_taps(h, stride)?, blur_taps(w, stride)?);
    window_sum(x, WindowSum { name: "blur_pool2d", rows, columns })
}

/// The mean of each cell of a grid of `cells`×`cells` over `x` (N, C, H, W), as PyTorch's adaptive average pool
/// divides it. Returns (N, C, cells, cells), channels-last.
///
/// # Errors
/// If `x` does not have four dimensions or has no pixels, or `cells` is zero.
pub fn adaptive_avg_pool2d(x: &Tensor, cells: usize) -> Result<Tensor> {
    check_rank("adaptive_avg_pool2d", x)?;
    let (_, _, h, w) = x.dims4()?;
    let (rows, columns) = (adaptive_taps(h, cells)?, adaptive_taps(w, cells)?);
    window_sum(x, WindowSum { name: "adaptive_avg_pool2d", rows, columns })
}

/// `x` (N, C, H, W) with zeros around it: `rows` above and below, `columns` to the left and right. Convolutions
/// pad by themselves where both are the same.
///
/// # Errors
/// If `x` does not have four dimensions.
pub fn pad2d(x: &Tensor, rows: usize, columns: usize) -> Result<Tensor> {
    check_rank("pad2d", x)?;
    let (_, _, h, w) = x.dims4()?;
    window_sum(x, WindowSum { name: "pad2d", rows: padding_taps(h, rows), columns: padding_taps(w, columns) })
}

fn window_sum(x: &Tensor, op: WindowSum) -> Result<Tensor> {
    match Backend::of(x) {
        Backend::Cpu => apply1(x, op, Output::ChannelsLast),
        _ => op.by_matrices(x),
    }
}

/// y = R·x·Cᵀ of each channel: R has the weights along the rows, C those along the columns.
#[derive(Clone)]
struct WindowSum {
    name: &'static str,
    rows: AxisTaps,
    columns: AxisTaps,
}

impl WindowSum {
    /// The operation that takes the output's gradient to the input's.
    fn adjoint(&self) -> Self {
        WindowSum { name: self.name, rows: self.rows.transposed(), columns: self.columns.transposed() }
    }

    fn forward<T: Element>(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (n, c, h, w) = layout.shape().dims4()?;
        let (out_h, out_w) = (self.rows.outputs(), self.columns.outputs());
        let x = channels_last::<T>(storage, layout)?;
        let mut y = vec![T::ZERO; n * out_h * out_w * c];
        y.par_chunks_mut((out_w * c).max(1)).enumerate().for_each(|(row, out)| {
            let image = &x[row / out_h * h * w * c..][..h * w * c];
            for (column, sums) in out.chunks_exact_mut(c).enumerate() {
                for &(sy, row_weight) in self.rows.of(row % out_h) {
                    for &(sx, column_weight) in self.columns.of(column) {
                        let weight = T::of_f64(row_weight * column_weight);
                        let pixel = &image[(sy * w + sx) * c..][..c];
                        for (sum, &x) in sums.iter_mut().zip(pixel) {
                            *sum += weight * x;
                        }
                    }
                }
            }
        });
        Ok((T::to_cpu_storage_owned(y), (n, out_h, out_w, c).into()))
    }

    /// Composed of candle's operations, for devices without a kernel of this project: two matrix products.
    fn by_matrices(&self, x: &Tensor) -> Result<Tensor> {
        let matrix = |taps: &AxisTaps| -> candle_core::Result<Tensor> {
            let mut values = vec![0f32; taps.outputs() * taps.sources()];
            for i in 0..taps.outputs() {
                for &(source, weight) in taps.of(i) {
                    values[i * taps.sources() + source] += weight as f32;
                }
            }
            let shape = (taps.outputs(), taps.sources());
            Tensor::from_vec(values, shape, x.device())?.to_dtype(x.dtype())
        };
        let taped = recording() && has_kernel(x);
        let source = if taped { x.detach() } else { x.clone() };
        let along_rows = matrix(&self.rows)?.broadcast_matmul(&source.contiguous()?)?;
        let y = along_rows.broadcast_matmul(&matrix(&self.columns)?.t()?.contiguous()?)?;
        let y = to_channels_last(&y)?;
        if taped && needs_gradient(self.name, x)? {
            let (x, adjoint) = (x.clone(), self.adjoint());
            record(&y, move |g| Ok(vec![(x.clone(), Some(adjoint.by_matrices(&g.detach())?))]));
        }
        Ok(y)
    }
}

impl CustomOp1 for WindowSum {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        fn inner<T: Element>(
            op: &WindowSum,
            storage: &CpuStorage,
            layout: &Layout,
        ) -> candle_core::Result<(CpuStorage, Shape)> {
            op.forward::<T>(storage, layout)
        }
        with_upcast!([storage], inner(self, storage, layout))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        Ok(Some(from_nhwc(&from_nhwc(grad)?.apply_op1_no_bwd(&self.adjoint())?)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::tape::vjp;
    use candle_core::{DType, Device, Var};

    type Operation<'a> = &'a dyn Fn(&Tensor) -> Result<Tensor>;

    fn waves(shape: (usize, usize, usize, usize), dtype: DType) -> Tensor {
        let count = shape.0 * shape.1 * shape.2 * shape.3;
        let values = (0..count).map(|i| (i as f64 * 0.7).sin()).collect::<Vec<_>>();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
    }

    fn values(x: &Tensor) -> Vec<f64> {
        x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    fn averages(
        kernel: usize,
        stride: usize,
        padding: usize,
        ceil: bool,
        count_padding: bool,
    ) -> AvgPool2dConfig {
        AvgPool2dConfig { kernel, stride, padding, ceil, count_padding }
    }

    /// Figures of PyTorch 2.15's avg_pool2d and of timm 1.0.31's BlurPool2d on 0, 1, 2 … in rows of five.
    #[test]
    fn windows_are_pytorchs() {
        let x = Tensor::arange(0f32, 15f32, &Device::Cpu).unwrap().reshape((1, 1, 3, 5)).unwrap();
        let pool = |config| avg_pool2d(&x, &config).unwrap();
        let floor = pool(averages(2, 2, 0, false, true));
        assert_eq!((floor.dims(), values(&floor)), (&[1, 1, 1, 2][..], vec![3.0, 5.0]));
        let ceil = pool(averages(2, 2, 0, true, false));
        assert_eq!((ceil.dims(), values(&ceil)), (&[1, 1, 2, 3][..], vec![3.0, 5.0, 6.5, 10.5, 12.5, 14.0]));
        let close = |got: &Tensor, want: &[f64]| {
            let got = values(got);
            assert!(
                got.len() == want.len() && got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-5),
                "{got:?}"
            );
        };
        let ninths = |sums: &[f64]| sums.iter().map(|sum| sum / 9.0).collect::<Vec<_>>();
        // Corners see four pixels, edges six.
        let padded = pool(averages(3, 2, 1, false, true));
        close(&padded, &ninths(&[12.0, 27.0, 24.0, 32.0, 57.0, 44.0]));
        close(&pool(averages(3, 2, 1, false, false)), &[3.0, 4.5, 6.0, 8.0, 9.5, 11.0]);
        // Reflected: rows 1, 0, 1 and columns 1, 0, 1 around the first pixel.
        close(&blur_pool2d(&x, 2).unwrap(), &[3.0, 4.5, 6.0, 8.0, 9.5, 11.0]);
        assert!(blur_pool2d(&x.narrow(2, 0, 1).unwrap(), 2).unwrap_err().to_string().contains("at least 2"));
        let wide = averages(3, 1, 2, false, true);
        assert!(avg_pool2d(&x, &wide).unwrap_err().to_string().contains("half the kernel"));
    }

    /// ⟨A·x, g⟩ = ⟨x, Aᵀ·g⟩ on the tape, and candle's graph gives the same gradient; matrices the same values.
    #[test]
    fn gradients_are_the_adjoint() {
        for (h, w) in [(5, 8), (2, 3)] {
            let x = Var::from_tensor(&waves((2, 3, h, w), DType::F64)).unwrap();
            let operations: [Operation; 6] = [
                &|x| pad2d(x, 0, 3),
                &|x| adaptive_avg_pool2d(x, 3),
                &|x| avg_pool2d(x, &averages(2, 2, 0, true, false)),
                &|x| avg_pool2d(x, &averages(3, 1, 1, false, true)),
                &|x| avg_pool2d(x, &averages(3, 1, 1, false, false)),
                &|x| blur_pool2d(x, 2),
            ];
            for operation in operations {
                let y = operation(&x).unwrap();
                let g = waves(y.dims4().unwrap(), DType::F64);
                let (taped, gradients) = vjp(|| operation(&x), &g).unwrap();
                let gradient = values(gradients.get(&x).unwrap());
                let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
                let (left, right) = (dot(&values(&taped), &values(&g)), dot(&values(&x), &gradient));
                assert!((left - right).abs() < 1e-9, "{left}, {right}");
                let graph = (&y * &g).unwrap().sum_all().unwrap().backward().unwrap();
                for (a, b) in values(graph.get(&x).unwrap()).iter().zip(&gradient) {
                    assert!((a - b).abs() < 1e-12);
                }
            }
            let op = WindowSum {
                name: "blur_pool2d",
                rows: blur_taps(h, 2).unwrap(),
                columns: blur_taps(w, 2).unwrap(),
            };
            let x = x.to_dtype(DType::F32).unwrap();
            for (a, b) in
                values(&op.by_matrices(&x).unwrap()).iter().zip(values(&blur_pool2d(&x, 2).unwrap()))
            {
                assert!((a - b).abs() < 1e-6);
            }
        }
    }
}
