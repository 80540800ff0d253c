//! Copying a tensor's rows into a buffer, in the type and at the distance that kernels read pixels. Buffers
//! are made of 32-bit words, each of one f32, two bf16 or four u8 channels.

use crate::error::{Error, Result};
use candle_core::{DType, Storage, Tensor};
use resnext_kernels::{CacheLevel, MapType, SharedSlice, ThreadTeam, bf16_bits, halves_mut, prefetch};

/// The operation's name in the error messages of both buffers.
pub(crate) const OP: &str = "feature map";

/// N, C, H and W of an f32 tensor.
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

/// The words of a row of `pixels` pixels that begin `pixel_stride` channels from each other.
pub(crate) fn row_words(pixels: usize, pixel_stride: usize, map_type: MapType) -> usize {
    (pixels * pixel_stride).div_ceil(map_type.channels())
}

/// Writes the rows of an f32 tensor (N, C, H, W) with a border of zeros to `out`, as f32 or bf16.
pub(crate) fn put_rows(
    team: &ThreadTeam,
    x: &Tensor,
    border: usize,
    map_type: MapType,
    pixel_stride: usize,
    out: &mut [f32],
) -> Result<()> {
    let [n, c, h, w] = dims(x)?;
    // Rows are read with a stride, which must be non-zero.
    let copied = if x.stride()[3] == 0 { Some(x.force_contiguous()?) } else { None };
    let (storage, layout) = copied.as_ref().unwrap_or(x).storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        return Err(Error::Config { op: OP, message: "expected a tensor on the CPU".into() });
    };
    let (values, start) = (storage.as_slice::<f32>()?, layout.start_offset());
    let &[sn, sc, sh, sw] = layout.stride() else { unreachable!("dims4 passed") };
    let height = h + 2 * border;
    let row_len = row_words(w + 2 * border, pixel_stride, map_type);
    let rows = SharedSlice::new(out);
    team.for_each(n * height, |row| {
        // SAFETY: each task has a row of its own.
        let out = unsafe { rows.slice(row * row_len, row_len) };
        let (image, y) = (row / height, row % height);
        if y < border || y >= border + h {
            return out.fill(0.0);
        }
        // Prefetch the next row: one run per channel if the image is planar, a single run if it is
        // interleaved.
        let below = values.as_ptr().wrapping_add(start + image * sn + (y + 1 - border) * sh);
        let runs = if sw == 1 { c } else { usize::from(sw == c) };
        for k in 0..runs {
            (0..w * sw).step_by(16).for_each(|i| prefetch(below.wrapping_add(k * sc + i), CacheLevel::First));
        }
        out.fill(0.0);
        for k in 0..c {
            let channel = &values[start + image * sn + k * sc + (y - border) * sh..];
            if map_type == MapType::Bf16 {
                let row = &mut halves_mut(out)[border * pixel_stride..];
                put_channel(row, pixel_stride, k, (channel, sw, w), bf16_bits);
            } else {
                put_channel(&mut out[border * pixel_stride..], pixel_stride, k, (channel, sw, w), |x| x);
            }
        }
    });
    Ok(())
}

/// Writes channel `k` of a row whose pixels begin `pixel_stride` elements from each other: `count` values,
/// `step` apart in `values`, each converted by `convert`.
fn put_channel<T>(
    row: &mut [T],
    pixel_stride: usize,
    k: usize,
    (values, step, count): (&[f32], usize, usize),
    convert: impl Fn(f32) -> T,
) {
    let pixels = row.chunks_exact_mut(pixel_stride);
    match step {
        // This is a case of its own because the compiler makes faster code of it.
        1 => pixels.zip(&values[..count]).for_each(|(pixel, &x)| pixel[k] = convert(x)),
        _ => {
            pixels.zip(values.iter().step_by(step)).take(count).for_each(|(pixel, &x)| pixel[k] = convert(x))
        }
    }
}
