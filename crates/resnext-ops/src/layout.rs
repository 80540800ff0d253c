//! The memory format: tensors are shaped (N, C, H, W) and stored channels-last, that is (N, H, W, C).

#[cfg(feature = "cuda")]
use crate::devices::cuda::log::log_candle;
use crate::error::Result;
use candle_core::{CpuStorage, Layout, Tensor, WithDType};
use rayon::prelude::*;
use std::borrow::Cow;

/// Returns a tensor (N, C, H, W) that is stored channels-last. Does not copy one that already is.
///
/// A network calls this once for its input; every operation of this crate returns channels-last tensors.
///
/// # Errors
/// If `x` does not have four dimensions.
pub fn to_channels_last(x: &Tensor) -> Result<Tensor> {
    Ok(from_nhwc(&to_nhwc(x)?)?)
}

/// Whether a tensor (N, C, H, W) is stored channels-last.
pub fn is_channels_last(x: &Tensor) -> bool {
    x.rank() == 4 && x.permute((0, 2, 3, 1)).is_ok_and(|nhwc| nhwc.is_contiguous())
}

/// A contiguous (N, H, W, C) view of a tensor (N, C, H, W), or a copy if its strides differ.
pub(crate) fn to_nhwc(x: &Tensor) -> candle_core::Result<Tensor> {
    contiguous(&x.permute((0, 2, 3, 1))?)
}

/// `x` if it is contiguous, else a contiguous copy.
pub(crate) fn contiguous(x: &Tensor) -> candle_core::Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() && !x.is_contiguous() {
        log_candle("ucopy", x.layout(), x.dtype());
    }
    x.contiguous()
}

/// The (N, C, H, W) view of a tensor (N, H, W, C).
pub(crate) fn from_nhwc(x: &Tensor) -> candle_core::Result<Tensor> {
    x.permute((0, 3, 1, 2))
}

/// The elements of a (N, C, H, W) layout in channels-last order, borrowed if they are stored so.
pub(crate) fn channels_last<'a, T: WithDType + Default>(
    storage: &'a CpuStorage,
    layout: &Layout,
) -> candle_core::Result<Cow<'a, [T]>> {
    let data = storage.as_slice::<T>()?;
    let (n, c, h, w) = layout.shape().dims4()?;
    let nhwc = layout.permute(&[0, 2, 3, 1])?;
    if let Some((start, end)) = nhwc.contiguous_offsets() {
        return Ok(Cow::Borrowed(&data[start..end]));
    }
    let &[sn, sc, sh, sw] = layout.stride() else { unreachable!("dims4 passed") };
    let mut out = vec![T::default(); n * c * h * w];
    out.par_chunks_mut((w * c).max(1)).enumerate().for_each(|(row, out)| {
        let start = layout.start_offset() + row / h * sn + row % h * sh;
        // Channels go in the outer loop where neighbouring pixels are closer in memory than channels.
        if sw <= sc {
            for k in 0..c {
                for x in 0..w {
                    out[x * c + k] = data[start + x * sw + k * sc];
                }
            }
        } else {
            for (i, value) in out.iter_mut().enumerate() {
                *value = data[start + i / c * sw + i % c * sc];
            }
        }
    });
    Ok(Cow::Owned(out))
}

/// The elements of a layout in row-major order, borrowed if they are stored so.
pub(crate) fn row_major<'a, T: WithDType + Default>(
    storage: &'a CpuStorage,
    layout: &Layout,
) -> candle_core::Result<Cow<'a, [T]>> {
    let data = storage.as_slice::<T>()?;
    Ok(match layout.contiguous_offsets() {
        Some((start, end)) => Cow::Borrowed(&data[start..end]),
        None => Cow::Owned(
            strided(layout.dims(), layout.stride(), layout.start_offset()).map(|i| data[i]).collect(),
        ),
    })
}

/// The storage indices of a layout's elements in row-major order.
fn strided<'a>(dims: &'a [usize], strides: &'a [usize], start: usize) -> impl Iterator<Item = usize> + 'a {
    (0..dims.iter().product()).map(move |i: usize| {
        let place = |(rest, at): (usize, usize), (&dim, &stride): (&usize, &usize)| {
            (rest / dim, at + rest % dim * stride)
        };
        dims.iter().zip(strides).rev().fold((i, start), place).1
    })
}
