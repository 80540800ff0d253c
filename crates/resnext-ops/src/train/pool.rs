//! Pooling: overlapping max-pooling, as in the stem, and global average pooling, as in the head.

use crate::config::Pool2dConfig;
#[cfg(feature = "cuda")]
use crate::devices::Backend;
#[cfg(feature = "cuda")]
use crate::devices::cuda::memory::{cuda, tensor};
#[cfg(feature = "cuda")]
use crate::devices::cuda::pool as cuda_pool;
use crate::devices::has_kernel;
use crate::element::Element;
use crate::error::{Error, Result};
use crate::layout::{channels_last, from_nhwc, row_major, to_nhwc};
use crate::shape::check_rank;
use crate::train::fallback::every;
use crate::train::tape::{Output, apply1};
use crate::train::upcast::with_upcast;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Layout, Shape, Tensor};
use rayon::prelude::*;

/// The maximum of each window of `x` (N, C, H, W). Returns (N, C, H', W'), channels-last.
///
/// Windows may overlap. If several elements are the maximum, the first in row-major order takes the
/// gradient. A NaN in a window makes its maximum NaN, as in PyTorch.
///
/// # Errors
/// If `x` does not have four dimensions, `kernel` or `stride` is zero, the padding is more than half the
/// kernel, or a window is larger than the padded input.
pub fn max_pool2d(x: &Tensor, config: &Pool2dConfig) -> Result<Tensor> {
    check_rank("max_pool2d", x)?;
    let (_, _, h, w) = x.dims4()?;
    let (out_h, out_w) = (config.output(h)?, config.output(w)?);
    if has_kernel(x) {
        return apply1(x, MaxPool::new(config), Output::ChannelsLast);
    }
    // Composed of candle's operations: the maximum of one strided view per window position.
    let lowest = if x.dtype() == DType::F16 { -65504.0 } else { -3.0e38 };
    let x = to_nhwc(x)?;
    let (device, dtype) = (x.device().clone(), x.dtype());
    let border = |shape: (usize, usize, usize, usize)| Tensor::full(lowest, shape, &device)?.to_dtype(dtype);
    let (n, _, _, c) = x.dims4()?;
    let p = config.padding;
    let rows = border((n, p, w, c))?;
    let x = if p > 0 { Tensor::cat(&[&rows, &x, &rows], 1)? } else { x };
    let columns = border((n, h + 2 * p, p, c))?;
    let x = if p > 0 { Tensor::cat(&[&columns, &x, &columns], 2)? } else { x };
    let mut best: Option<Tensor> = None;
    for ky in 0..config.kernel {
        for kx in 0..config.kernel {
            let rows = every(&x, 1, ky, config.stride, out_h)?;
            let view = every(&rows, 2, kx, config.stride, out_w)?;
            best = Some(match best {
                None => view,
                Some(best) => best.maximum(&view)?,
            });
        }
    }
    let best = best.ok_or_else(|| config.wrong("a kernel of 0"))?;
    Ok(from_nhwc(&best)?)
}

struct MaxPool {
    config: Pool2dConfig,
    /// On CUDA: where in its window each maximum was, set by the forward pass.
    #[cfg(feature = "cuda")]
    at: std::sync::OnceLock<candle_core::CudaStorage>,
}

impl MaxPool {
    fn new(config: &Pool2dConfig) -> Self {
        MaxPool {
            config: *config,
            #[cfg(feature = "cuda")]
            at: Default::default(),
        }
    }

    /// For output pixel (y, x) of an image (H, W, C): the maximum of each channel, and the index of its
    /// source pixel.
    fn window_max<T: Element>(
        &self,
        image: &[T],
        (h, w, c): (usize, usize, usize),
        (y, x): (usize, usize),
        best: &mut [T],
        at: &mut [usize],
    ) {
        let mut first = true;
        for sy in self.config.window(y, h) {
            for sx in self.config.window(x, w) {
                let pixel = sy * w + sx;
                let row = &image[pixel * c..(pixel + 1) * c];
                for k in 0..c {
                    // Once NaN, a maximum stays NaN: no comparison with it is true.
                    if first || row[k] > best[k] || row[k].as_f64().is_nan() {
                        best[k] = row[k];
                        at[k] = pixel;
                    }
                }
                first = false;
            }
        }
    }

    fn forward<T: Element>(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (n, c, h, w) = layout.shape().dims4()?;
        let (out_h, out_w) = (self.config.output(h)?, self.config.output(w)?);
        let x = channels_last::<T>(storage, layout)?;
        let mut y = vec![T::ZERO; n * out_h * out_w * c];
        y.par_chunks_mut((out_w * c).max(1)).enumerate().for_each(|(row, out)| {
            let image = &x[row / out_h * h * w * c..][..h * w * c];
            let mut at = vec![0; c];
            for (column, best) in out.chunks_exact_mut(c).enumerate() {
                self.window_max(image, (h, w, c), (row % out_h, column), best, &mut at);
            }
        });
        Ok((T::to_cpu_storage_owned(y), (n, out_h, out_w, c).into()))
    }
}

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max_pool2d"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        fn inner<T: Element>(
            op: &MaxPool,
            storage: &CpuStorage,
            layout: &Layout,
        ) -> candle_core::Result<(CpuStorage, Shape)> {
            op.forward::<T>(storage, layout)
        }
        with_upcast!([storage], inner(self, storage, layout))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        storage: &candle_core::CudaStorage,
        layout: &Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        let (n, c, h, w) = layout.shape().dims4()?;
        let output = (self.config.output(h)?, self.config.output(w)?);
        let (y, at) = cuda_pool::max_pool((storage, layout), output, &self.config)?;
        let _ = self.at.set(at);
        Ok((y, (n, output.0, output.1, c).into()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        #[cfg(feature = "cuda")]
        if let Some(at) = self.at.get() {
            let (n, c, h, w) = x.dims4()?;
            let (_, out_h, out_w, _) = grad.dims4()?;
            let (storage, layout) = grad.storage_and_layout();
            let grad = (cuda(&storage)?, layout);
            let dx = cuda_pool::max_pool_gradient(grad, at, (n, c, h, w), (out_h, out_w), &self.config)?;
            return Ok(Some(from_nhwc(&tensor(dx, (n, h, w, c)))?));
        }
        Ok(Some(from_nhwc(&x.apply_op2_no_bwd(grad, &MaxPoolGradient(self))?)?))
    }
}

/// The gradient (N, H, W, C) of the input, from the input (N, C, H, W) and the output's gradient
/// (N, H', W', C).
struct MaxPoolGradient<'a>(&'a MaxPool);

impl CustomOp2 for MaxPoolGradient<'_> {
    fn name(&self) -> &'static str {
        "max_pool2d-gradient"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        fn inner<T: Element>(
            op: &MaxPool,
            s1: &CpuStorage,
            l1: &Layout,
            s2: &CpuStorage,
            l2: &Layout,
        ) -> candle_core::Result<(CpuStorage, Shape)> {
            let (x, grad) = (channels_last::<T>(s1, l1)?, row_major::<T>(s2, l2)?);
            let (n, c, h, w) = l1.shape().dims4()?;
            let (_, out_h, out_w, _) = l2.shape().dims4()?;
            let mut out = vec![T::ZERO; n * h * w * c];
            // Windows overlap, so each task is a whole image. Positions are found again rather than stored.
            out.par_chunks_mut((h * w * c).max(1)).enumerate().for_each(|(i, out)| {
                let image = &x[i * h * w * c..][..h * w * c];
                let (mut best, mut at) = (vec![T::ZERO; c], vec![0; c]);
                for y in 0..out_h {
                    for x in 0..out_w {
                        op.window_max(image, (h, w, c), (y, x), &mut best, &mut at);
                        let grad = &grad[((i * out_h + y) * out_w + x) * c..][..c];
                        for k in 0..c {
                            out[at[k] * c + k] += grad[k];
                        }
                    }
                }
            });
            Ok((T::to_cpu_storage_owned(out), (n, h, w, c).into()))
        }
        with_upcast!([s1, s2], inner(self.0, s1, l1, s2, l2))
    }
}

/// The mean over all pixels of each channel of `x` (N, C, H, W). Returns (N, C).
///
/// # Errors
/// If `x` does not have four dimensions or has no pixels.
pub fn global_avg_pool(x: &Tensor) -> Result<Tensor> {
    check_rank("global_avg_pool", x)?;
    let (_, _, h, w) = x.dims4()?;
    if h * w == 0 {
        let expected = "at least one pixel".to_string();
        return Err(Error::Shape { op: "global_avg_pool", input: "x", expected, got: x.shape().clone() });
    }
    if !has_kernel(x) {
        return Ok(x.mean((2, 3))?);
    }
    apply1(x, GlobalAvgPool, Output::Plain)
}

struct GlobalAvgPool;

impl CustomOp1 for GlobalAvgPool {
    fn name(&self) -> &'static str {
        "global_avg_pool"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        fn inner<T: Element>(
            storage: &CpuStorage,
            layout: &Layout,
        ) -> candle_core::Result<(CpuStorage, Shape)> {
            let x = channels_last::<T>(storage, layout)?;
            let (n, c, h, w) = layout.shape().dims4()?;
            let mut y = vec![T::ZERO; n * c];
            let scale = T::of_f64(1.0 / (h * w) as f64);
            y.par_chunks_mut(c.max(1)).zip(x.par_chunks((h * w * c).max(1))).for_each(|(y, image)| {
                for pixel in image.chunks_exact(c) {
                    for (sum, &x) in y.iter_mut().zip(pixel) {
                        *sum += x;
                    }
                }
                for sum in y {
                    *sum *= scale;
                }
            });
            Ok((T::to_cpu_storage_owned(y), (n, c).into()))
        }
        with_upcast!([storage], inner(storage, layout))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        storage: &candle_core::CudaStorage,
        layout: &Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        let (n, c, _, _) = layout.shape().dims4()?;
        Ok((cuda_pool::average_pool((storage, layout))?, (n, c).into()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let (n, c, h, w) = x.dims4()?;
        #[cfg(feature = "cuda")]
        if Backend::of(grad) == Backend::Cuda {
            let (storage, layout) = grad.storage_and_layout();
            let dx = cuda_pool::average_pool_gradient((cuda(&storage)?, layout), (n, c, h, w))?;
            return Ok(Some(from_nhwc(&tensor(dx, (n, h, w, c)))?));
        }
        let grad = (grad / (h * w) as f64)?.reshape((n, 1, c))?.broadcast_as((n, h * w, c))?;
        Ok(Some(from_nhwc(&grad.contiguous()?.reshape((n, h, w, c))?)?))
    }
}
