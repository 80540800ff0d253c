//! Dense 1×1 convolution and its gradients as one gemm of cuBLAS, which candle links.

use crate::devices::cuda::conv::job::{Direction, Job};
use crate::devices::cuda::conv::weights;
use crate::devices::cuda::launch::int;
use crate::devices::cuda::log::log_call;
use crate::devices::cuda::memory::{pointer, uninitialised};
use crate::devices::cuda::settings::tf32;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::cublas::{result, sys};
use candle_core::{CudaStorage, DType};
use resnext_kernels::ConvShape;

/// c = op(a) · op(b) in cuBLAS's terms: matrices are column-major, (m × k) · (k × n).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Product {
    transpose: (bool, bool),
    m: usize,
    n: usize,
    k: usize,
    /// The leading dimensions of a, b and c: elements from one column to the next.
    leading: (usize, usize, usize),
}

/// The product of the operands in the order (`Job::other`, `Job::image`). Our matrices are row-major, so
/// cuBLAS sees their transposes, and computes the transpose of each product.
fn product(shape: &ConvShape, direction: Direction) -> Product {
    let pixels = shape.batch * shape.out_h * shape.out_w;
    let (inputs, outputs) = (shape.in_channels, shape.out_channels);
    match direction {
        // y (pixels, out) = x · wᵀ
        Direction::Forward => Product {
            transpose: (true, false),
            m: outputs,
            n: pixels,
            k: inputs,
            leading: (inputs, inputs, outputs),
        },
        // dx (pixels, in) = g · w
        Direction::Input => Product {
            transpose: (false, false),
            m: inputs,
            n: pixels,
            k: outputs,
            leading: (inputs, outputs, inputs),
        },
        // dw (out, in) = gᵀ · x
        Direction::Weight => Product {
            transpose: (false, true),
            m: inputs,
            n: outputs,
            k: pixels,
            leading: (inputs, outputs, inputs),
        },
    }
}

fn cuda_type(dtype: DType) -> candle_core::Result<sys::cudaDataType> {
    match dtype {
        DType::F32 => Ok(sys::cudaDataType::CUDA_R_32F),
        DType::BF16 => Ok(sys::cudaDataType::CUDA_R_16BF),
        DType::F16 => Ok(sys::cudaDataType::CUDA_R_16F),
        other => candle_core::bail!("convolution on CUDA takes F32, BF16 and F16, got {other:?}"),
    }
}

/// Computes the job if its convolution is dense, 1×1 and reads every pixel; else returns `None`.
pub(super) fn try_compute(job: &Job) -> candle_core::Result<Option<CudaStorage>> {
    let (device, shape, config) = (job.device, job.shape, job.shape.config);
    let plain =
        shape.kernel_positions() == 1 && config.groups == 1 && config.stride == 1 && config.padding == 0;
    if !plain {
        return Ok(None);
    }
    let p = product(shape, job.direction);
    // The weight's gradient may have any type, but both factors must have the same.
    let result_dtype = if job.direction == Direction::Weight { job.weight_dtype } else { job.dtype };
    let converted = (job.direction != Direction::Weight && job.weight_dtype != job.dtype)
        .then(|| weights::to_elements(device, shape, job.other, job.weight_dtype, job.dtype))
        .transpose()?;
    let other = converted.as_ref().map_or(Ok(job.other), |converted| pointer(converted, 0))?;
    let out = uninitialised(device, job.result_len(), result_dtype)?;
    let (blas, one, zero) = (device.cublas_handle(), 1f32, 0f32);
    let operation = |transpose: bool| match transpose {
        true => sys::cublasOperation_t::CUBLAS_OP_T,
        false => sys::cublasOperation_t::CUBLAS_OP_N,
    };
    let compute = match job.dtype == DType::F32 && tf32() {
        true => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
        false => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
    };
    log_call("cuBLAS: gemm");
    device.cuda_stream().context().bind_to_thread().w()?;
    // SAFETY: the operands have the sizes of `product`, which are checked to fit ints; operands and result
    // are on the handle's device, and α and β are f32, as the compute type requires.
    unsafe {
        result::gemm_ex(
            *blas.handle(),
            operation(p.transpose.0),
            operation(p.transpose.1),
            int(p.m)?,
            int(p.n)?,
            int(p.k)?,
            (&raw const one).cast(),
            other as *const _,
            cuda_type(job.dtype)?,
            int(p.leading.0)?,
            job.image as *const _,
            cuda_type(job.dtype)?,
            int(p.leading.1)?,
            (&raw const zero).cast(),
            pointer(&out, 0)? as *mut _,
            cuda_type(result_dtype)?,
            int(p.leading.2)?,
            compute,
            sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }
    .w()?;
    Ok(Some(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use resnext_kernels::Conv2dConfig;

    /// The product as cuBLAS documents it, element by element: column-major, (m × k) · (k × n).
    fn documented(p: Product, a: &[f64], b: &[f64]) -> Vec<f64> {
        let mut c = vec![0.0; p.leading.2 * p.n];
        for (i, j, k) in (0..p.m).flat_map(|i| (0..p.n).flat_map(move |j| (0..p.k).map(move |k| (i, j, k)))) {
            let from_a = if p.transpose.0 { a[k + i * p.leading.0] } else { a[i + k * p.leading.0] };
            let from_b = if p.transpose.1 { b[j + k * p.leading.1] } else { b[k + j * p.leading.1] };
            c[i + j * p.leading.2] += from_a * from_b;
        }
        c
    }

    /// The three products are the 1×1 convolution and its gradients.
    #[test]
    fn products_are_the_convolution() {
        let (pixels, inputs, outputs) = (6, 3, 5);
        let config = Conv2dConfig::default();
        let shape = ConvShape {
            batch: 1,
            in_channels: inputs,
            in_h: 2,
            in_w: 3,
            out_channels: outputs,
            out_h: 2,
            out_w: 3,
            kernel_h: 1,
            kernel_w: 1,
            config,
        };
        let fill = |len: usize, salt: usize| {
            (0..len).map(|i| ((i * 7 + salt) % 11) as f64 - 5.0).collect::<Vec<_>>()
        };
        let (x, w, g) = (fill(pixels * inputs, 1), fill(outputs * inputs, 2), fill(pixels * outputs, 3));
        let (mut y, mut dx, mut dw) = (vec![0.0; g.len()], vec![0.0; x.len()], vec![0.0; w.len()]);
        for p in 0..pixels {
            for o in 0..outputs {
                for i in 0..inputs {
                    y[p * outputs + o] += x[p * inputs + i] * w[o * inputs + i];
                    dx[p * inputs + i] += g[p * outputs + o] * w[o * inputs + i];
                    dw[o * inputs + i] += g[p * outputs + o] * x[p * inputs + i];
                }
            }
        }
        assert_eq!(documented(product(&shape, Direction::Forward), &w, &x), y);
        assert_eq!(documented(product(&shape, Direction::Input), &w, &g), dx);
        assert_eq!(documented(product(&shape, Direction::Weight), &x, &g), dw);
    }
}
