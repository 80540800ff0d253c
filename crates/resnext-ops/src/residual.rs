//! Element-wise operations of the residual block: ReLU, the sum with the shortcut, sums of paths.

use crate::conv2d::has_kernel;
#[cfg(feature = "cuda")]
use crate::cuda::{Pointwise, pointwise};
use crate::kernels::Element;
use crate::layout::{channels_last, from_nhwc, row_major, to_nhwc};
use crate::tape::{Output, apply1, apply2, needs_gradient, record, recording};
use crate::widened::with_widened;
use crate::{Error, Result};
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Shape, Tensor};
use rayon::prelude::*;

/// Elements a task; large enough that the hand-over costs nothing.
const CHUNK: usize = 1 << 14;

/// `max(x, 0)` of a tensor (N, C, H, W). Its gradient at 0 is 0, as in PyTorch.
///
/// # Errors
/// If `x` is not of four dimensions.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    check_rank("relu", x)?;
    if !has_kernel(x) {
        return Ok(x.relu()?);
    }
    apply1(x, Relu, Output::ChannelsLast)
}

/// `max(a + b, 0)` of two tensors (N, C, H, W) of one shape: the end of a residual block.
///
/// # Errors
/// If the shapes differ.
pub fn add_relu(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    check_same("add_relu", a, b)?;
    if !has_kernel(a) {
        return Ok((a + b)?.relu()?);
    }
    apply2(a, b, Add { relu: true }, Output::ChannelsLast)
}

/// `a + b` of two tensors (N, C, H, W) of one shape.
///
/// # Errors
/// If the shapes differ.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    check_same("add", a, b)?;
    if !has_kernel(a) {
        return Ok((a + b)?);
    }
    apply2(a, b, Add { relu: false }, Output::ChannelsLast)
}

/// The sum of tensors (N, C, H, W) of one shape, added in order: the paths of figure 3 (a).
///
/// # Errors
/// If there is no tensor, or shapes differ.
pub fn sum(tensors: &[Tensor]) -> Result<Tensor> {
    let (first, rest) = tensors.split_first().ok_or_else(|| empty("sum"))?;
    rest.iter().try_fold(first.clone(), |sum, x| add(&sum, x))
}

/// Joins tensors (N, Ci, H, W) to one (N, ΣCi, H, W): the concatenation of figure 3 (b).
///
/// # Errors
/// If there is no tensor, or sizes other than C differ.
pub fn cat_channels(tensors: &[Tensor]) -> Result<Tensor> {
    if tensors.is_empty() {
        return Err(empty("cat_channels"));
    }
    let mut needed = false;
    for x in tensors {
        check_rank("cat_channels", x)?;
        needed |= has_kernel(x) && needs_gradient("cat_channels", x)?;
    }
    let parts = tensors.iter().map(to_nhwc).collect::<candle_core::Result<Vec<_>>>()?;
    let y = from_nhwc(&Tensor::cat(&parts, 3)?)?;
    if recording() && needed {
        let tensors = tensors.to_vec();
        record(&y, move |g| {
            let mut start = 0;
            tensors
                .iter()
                .map(|x| {
                    let len = x.dim(1)?;
                    let part = g.narrow(1, start, len)?;
                    start += len;
                    Ok((x.clone(), Some(part)))
                })
                .collect()
        });
    }
    Ok(y)
}

/// The sum of two gradients of one shape, outside any graph.
pub(crate) fn add_untracked(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.rank() == 4 && has_kernel(a) {
        return Ok(from_nhwc(&a.apply_op2_no_bwd(b, &Add { relu: false })?)?);
    }
    #[cfg(feature = "cuda")]
    if crate::conv2d::has_cuda_kernel(a) {
        let ((a_values, a_layout), (b_values, b_layout)) = (a.storage_and_layout(), b.storage_and_layout());
        let (a_values, b_values) = (crate::cuda::cuda(&a_values)?, crate::cuda::cuda(&b_values)?);
        let sum = pointwise(Pointwise::Add, (a_values, a_layout), (b_values, b_layout))?;
        return Ok(crate::cuda::tensor(sum, a.shape()));
    }
    Ok((a + b)?)
}

pub(crate) fn check_rank(op: &'static str, x: &Tensor) -> Result<()> {
    match x.rank() {
        4 => Ok(()),
        _ => Err(Error::Shape { op, input: "x", expected: "(N, C, H, W)".into(), got: x.shape().clone() }),
    }
}

pub(crate) fn check_same(op: &'static str, a: &Tensor, b: &Tensor) -> Result<()> {
    check_rank(op, a)?;
    if a.dims() != b.dims() {
        let expected = format!("{:?}, the shape of the first", a.dims());
        return Err(Error::Shape { op, input: "the second input", expected, got: b.shape().clone() });
    }
    if a.dtype() != b.dtype() {
        let expected = format!("{:?}, the type of the first", a.dtype());
        return Err(Error::DType { op, input: "the second input", expected, got: b.dtype() });
    }
    Ok(())
}

fn empty(op: &'static str) -> Error {
    Error::Config { op, message: "expected at least one tensor, got none".into() }
}

fn nhwc_shape(layout: &Layout) -> candle_core::Result<Shape> {
    let (n, c, h, w) = layout.shape().dims4()?;
    Ok((n, h, w, c).into())
}

/// `f` of two slices, element by element, on all cores.
fn zip<T: Element>(a: &[T], b: &[T], f: impl Fn(T, T) -> T + Sync) -> Vec<T> {
    let mut out = vec![T::ZERO; a.len()];
    out.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).zip(b.par_chunks(CHUNK)).for_each(|((out, a), b)| {
        for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
            *out = f(a, b);
        }
    });
    out
}

#[inline(always)]
fn positive<T: Element>(x: T) -> T {
    // In this order NaN stays NaN.
    if x < T::ZERO { T::ZERO } else { x }
}

struct Relu;

impl CustomOp1 for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        fn inner<T: Element>(
            storage: &CpuStorage,
            layout: &Layout,
        ) -> candle_core::Result<(CpuStorage, Shape)> {
            let x = channels_last::<T>(storage, layout)?;
            Ok((T::to_cpu_storage_owned(zip(&x, &x, |x, _| positive(x))), nhwc_shape(layout)?))
        }
        with_widened!([storage], inner(storage, layout))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        storage: &candle_core::CudaStorage,
        layout: &Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        let x = (storage, &layout.permute(&[0, 2, 3, 1])?);
        Ok((pointwise(Pointwise::Relu, x, x)?, nhwc_shape(layout)?))
    }

    fn bwd(&self, _x: &Tensor, y: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        Ok(Some(from_nhwc(&grad.apply_op2_no_bwd(y, &ReluGradient)?)?))
    }
}

/// `a + b`, through a ReLU if asked for.
struct Add {
    relu: bool,
}

impl CustomOp2 for Add {
    fn name(&self) -> &'static str {
        if self.relu { "add_relu" } else { "add" }
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        fn inner<T: Element>(
            relu: bool,
            s1: &CpuStorage,
            l1: &Layout,
            s2: &CpuStorage,
            l2: &Layout,
        ) -> candle_core::Result<(CpuStorage, Shape)> {
            let (a, b) = (channels_last::<T>(s1, l1)?, channels_last::<T>(s2, l2)?);
            let y = if relu { zip(&a, &b, |a, b| positive(a + b)) } else { zip(&a, &b, |a, b| a + b) };
            Ok((T::to_cpu_storage_owned(y), nhwc_shape(l1)?))
        }
        with_widened!([s1, s2], inner(self.relu, s1, l1, s2, l2))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s1: &candle_core::CudaStorage,
        l1: &Layout,
        s2: &candle_core::CudaStorage,
        l2: &Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        let operation = if self.relu { Pointwise::AddRelu } else { Pointwise::Add };
        let (a, b) = (l1.permute(&[0, 2, 3, 1])?, l2.permute(&[0, 2, 3, 1])?);
        Ok((pointwise(operation, (s1, &a), (s2, &b))?, nhwc_shape(l1)?))
    }

    fn bwd(
        &self,
        _a: &Tensor,
        _b: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = if self.relu { grad.apply_op2_no_bwd(y, &ReluGradient)? } else { grad.clone() };
        let grad = from_nhwc(&grad)?;
        Ok((Some(grad.clone()), Some(grad)))
    }
}

/// The gradient where the output was positive, zero elsewhere; both row-major of one shape.
struct ReluGradient;

impl CustomOp2 for ReluGradient {
    fn name(&self) -> &'static str {
        "relu-gradient"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        fn inner<T: Element>(
            s1: &CpuStorage,
            l1: &Layout,
            s2: &CpuStorage,
            l2: &Layout,
        ) -> candle_core::Result<(CpuStorage, Shape)> {
            let (grad, y) = (row_major::<T>(s1, l1)?, row_major::<T>(s2, l2)?);
            let out = zip(&grad, &y, |g, y| if y > T::ZERO { g } else { T::ZERO });
            Ok((T::to_cpu_storage_owned(out), l1.shape().clone()))
        }
        with_widened!([s1, s2], inner(s1, l1, s2, l2))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s1: &candle_core::CudaStorage,
        l1: &Layout,
        s2: &candle_core::CudaStorage,
        l2: &Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        Ok((pointwise(Pointwise::Gate, (s1, l1), (s2, l2))?, l1.shape().clone()))
    }
}
