//! ReLU and addition as candle custom ops, below the tape, which adds gradients with them.

use crate::devices::Backend;
#[cfg(feature = "cuda")]
use crate::devices::cuda::memory::{cuda, tensor};
#[cfg(feature = "cuda")]
use crate::devices::cuda::pointwise::{Pointwise, pointwise};
use crate::element::Element;
use crate::error::Result;
use crate::layout::{channels_last, from_nhwc, row_major};
use crate::train::upcast::with_upcast;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Shape, Tensor};
use rayon::prelude::*;

/// Elements per task: enough that distributing tasks costs nothing beside them.
const CHUNK: usize = 1 << 14;

/// The sum of two gradients of one shape, outside of tape and graph.
pub(crate) fn add_untracked(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    match Backend::of(a) {
        Backend::Cpu | Backend::Cuda if a.rank() == 4 => {
            Ok(from_nhwc(&a.apply_op2_no_bwd(b, &Add { relu: false })?)?)
        }
        #[cfg(feature = "cuda")]
        Backend::Cuda => {
            let ((a_values, a_layout), (b_values, b_layout)) =
                (a.storage_and_layout(), b.storage_and_layout());
            let (a_values, b_values) = (cuda(&a_values)?, cuda(&b_values)?);
            let sum = pointwise(Pointwise::Add, (a_values, a_layout), (b_values, b_layout))?;
            Ok(tensor(sum, a.shape()))
        }
        _ => Ok((a + b)?),
    }
}

fn nhwc_shape(layout: &Layout) -> candle_core::Result<Shape> {
    let (n, c, h, w) = layout.shape().dims4()?;
    Ok((n, h, w, c).into())
}

/// `f` of two slices of one length, element by element, on all cores.
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
    // Written so that NaN stays NaN.
    if x < T::ZERO { T::ZERO } else { x }
}

/// `max(x, 0)`.
pub(crate) struct Relu;

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
        with_upcast!([storage], inner(storage, layout))
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

/// `a + b`, or `max(a + b, 0)`.
pub(crate) struct Add {
    pub(crate) relu: bool,
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
        with_upcast!([s1, s2], inner(self.relu, s1, l1, s2, l2))
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

/// The output's gradient where the output is positive, zero elsewhere; both are contiguous and of one shape.
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
        with_upcast!([s1, s2], inner(s1, l1, s2, l2))
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
