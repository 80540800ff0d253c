//! Rows of pixels, from a tensor to a kernel's words.

use crate::error::{Error, Result};
use candle_core::{DType, Storage, Tensor};
use resnext_kernels::{CacheLevel, MapType, SharedSlice, ThreadTeam, bf16_bits, halves_mut, prefetch};

pub(crate) const OP: &str = "activations";

/// N, C, H and W of a tensor of f32.
pub(crate) fn dims(x: &Tensor) -> Result<[usize; 4]> {
    let dims = x.dims4().map_err(|_| Error::Shape {
        op: OP,
        input: "x",
        expected: "(N, C, H, W)".into(),
        got: x.shape().clone(),
    })?;
    if x.dtype() != DType::F32 {
        return Err(Error::DType { op: OP, input: "x", expected: "F32".into(), got: x.dtype() });
    }
    Ok(dims.into())
}

/// Precision of a row of pixels that begin `apart` channels from each other.
pub(crate) fn row_words(pixels: usize, apart: usize, words: MapType) -> usize {
    (pixels * apart).div_ceil(words.channels())
}

/// Writes the rows of a tensor (N, C, H, W) of f32, and of a border of zeros, in words of f32 or bf16.
pub(crate) fn put_rows(
    team: &ThreadTeam,
    x: &Tensor,
    border: usize,
    words: MapType,
    apart: usize,
    out: &mut [f32],
) -> Result<()> {
    let [n, c, h, w] = dims(x)?;
    // Rows are read at their stride, which must not be none.
    let copied = if x.stride()[3] == 0 { Some(x.force_contiguous()?) } else { None };
    let (storage, layout) = copied.as_ref().unwrap_or(x).storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        return Err(Error::Config { op: OP, message: "expected a tensor on the CPU".into() });
    };
    let (values, start) = (storage.as_slice::<f32>()?, layout.start_offset());
    let &[sn, sc, sh, sw] = layout.stride() else { unreachable!("dims4 passed") };
    let height = h + 2 * border;
    let row_len = row_words(w + 2 * border, apart, words);
    let rows = SharedSlice::new(out);
    team.for_each(n * height, |row| {
        // SAFETY: each task has a row of its own.
        let out = unsafe { rows.slice(row * row_len, row_len) };
        let (image, y) = (row / height, row % height);
        if y < border || y >= border + h {
            return out.fill(0.0);
        }
        // The next row, that it need not be waited for: of channels that lie apart, or all in one.
        let below = values.as_ptr().wrapping_add(start + image * sn + (y + 1 - border) * sh);
        let lines = if sw == 1 { c } else { usize::from(sw == c) };
        for k in 0..lines {
            (0..w * sw).step_by(16).for_each(|i| prefetch(below.wrapping_add(k * sc + i), CacheLevel::First));
        }
        out.fill(0.0);
        for k in 0..c {
            let line = &values[start + image * sn + k * sc + (y - border) * sh..];
            if words == MapType::Bf16 {
                put_line(&mut halves_mut(out)[border * apart..], apart, k, (line, sw, w), bf16_bits);
            } else {
                put_line(&mut out[border * apart..], apart, k, (line, sw, w), |x| x);
            }
        }
    });
    Ok(())
}

/// Writes a row's channel `k`, of pixels that begin `apart` from each other: `count` values that lie `step` apart in `line`.
fn put_line<T>(
    row: &mut [T],
    apart: usize,
    k: usize,
    (line, step, count): (&[f32], usize, usize),
    number: impl Fn(f32) -> T,
) {
    let pixels = row.chunks_exact_mut(apart);
    match step {
        // By itself, because quicker.
        1 => pixels.zip(&line[..count]).for_each(|(pixel, &x)| pixel[k] = number(x)),
        _ => pixels.zip(line.iter().step_by(step)).take(count).for_each(|(pixel, &x)| pixel[k] = number(x)),
    }
}
