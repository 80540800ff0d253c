//! The memory format: tensors are shaped (N, C, H, W) and lie channels-last, (N, H, W, C), in memory.

#[cfg(feature = "cuda")]
use crate::devices::cuda::log::log_candle;
use crate::error::Result;
use candle_core::{CpuStorage, Layout, Tensor, WithDType};
use rayon::prelude::*;
use std::borrow::Cow;

/// Gives a (N, C, H, W) tensor that lies channels-last in memory. No copy if it does already.
///
/// A network calls this once at its entrance; every operation of this crate gives channels-last back.
///
/// # Errors
/// If `x` does not have four dimensions.
pub fn to_channels_last(x: &Tensor) -> Result<Tensor> {
    Ok(from_nhwc(&to_nhwc(x)?)?)
}

/// Whether a (N, C, H, W) tensor lies channels-last in memory.
pub fn is_channels_last(x: &Tensor) -> bool {
    x.rank() == 4 && x.permute((0, 2, 3, 1)).is_ok_and(|nhwc| nhwc.is_contiguous())
}

/// The contiguous (N, H, W, C) view, or copy, of a (N, C, H, W) tensor.
pub(crate) fn to_nhwc(x: &Tensor) -> candle_core::Result<Tensor> {
    contiguous(&x.permute((0, 2, 3, 1))?)
}

/// `x` in the order of its dimensions: itself, or a copy.
pub(crate) fn contiguous(x: &Tensor) -> candle_core::Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() && !x.is_contiguous() {
        log_candle("ucopy", x.layout(), x.dtype());
    }
    x.contiguous()
}

/// The (N, C, H, W) view of a (N, H, W, C) tensor.
pub(crate) fn from_nhwc(x: &Tensor) -> candle_core::Result<Tensor> {
    x.permute((0, 3, 1, 2))
}

/// The elements of a (N, C, H, W) layout in channels-last order: borrowed where they lie so already.
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
        // Channels in the outer loop where pixels are the closer neighbours in memory.
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

/// The elements of a layout in row-major order: borrowed where they lie so already.
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
