//! What the first convolution of inference reads, in a buffer that is kept.

use crate::fused_conv::FusedConv;
use crate::kernels::{Cache, Crew, Lines, MAX_LANES, SharedMut, WordType, bf16_bits, halves_mut, prefetch};
use crate::{Error, Result};
use candle_core::{DType, Storage, Tensor};

/// Images (N, H, W, C) with a border of zeros, as one [`FusedConv`] reads them: for a kernel whose rows are read as runs of
/// channels, pixels follow each other without gaps, in bf16 also two in a word.
#[derive(Debug, Clone, Default)]
pub struct Images {
    pub(crate) data: Lines,
    /// With the border.
    pub(crate) size: [usize; 4],
    /// Channels from one pixel of a row to the next; a row begins with a word.
    pub(crate) apart: usize,
    pub(crate) words: WordType,
}

impl Images {
    /// None, to be loaded.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in a tensor (N, C, H, W) of f32 with a border of `border` zeros on all sides, for `conv`.
    ///
    /// # Errors
    /// If it is not of four dimensions, not f32 or not on the CPU, has other channels than `conv` reads, or `conv` reads maps
    /// in 8 bits.
    pub fn load(&mut self, crew: &Crew, x: &Tensor, conv: &FusedConv, border: usize) -> Result<()> {
        let [n, c, h, w] = dims(x)?;
        if c != conv.channels() {
            let message = format!("expected images of {} channels, got {c}", conv.channels());
            return Err(Error::Config { op: OP, message });
        }
        if let WordType::U8(_) = conv.reads() {
            return Err(Error::DType {
                op: OP,
                input: "maps",
                expected: "F32 or BF16".into(),
                got: DType::U8,
            });
        }
        (self.words, self.apart) = (conv.reads(), conv.apart);
        self.size = [n, h + 2 * border, w + 2 * border, c];
        let end = n * self.size[1] * row_words(self.size[2], self.apart, self.words);
        // Behind the last row lies a pixel of zeros; a kernel may read a vector that begins in it.
        let len = end + self.apart.div_ceil(self.words.channels()) + MAX_LANES;
        self.data.grow(len);
        self.data[end..len].fill(0.0);
        put_rows(crew, x, border, self.words, self.apart, &mut self.data)
    }
}

const OP: &str = "activations";

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

/// Words of a row of pixels that begin `apart` channels from each other.
pub(crate) fn row_words(pixels: usize, apart: usize, words: WordType) -> usize {
    (pixels * apart).div_ceil(words.channels())
}

/// Writes the rows of a tensor (N, C, H, W) of f32, and of a border of zeros, in words of f32 or bf16.
pub(crate) fn put_rows(
    crew: &Crew,
    x: &Tensor,
    border: usize,
    words: WordType,
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
    let rows = SharedMut::new(out);
    crew.for_each(n * height, |row| {
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
            (0..w * sw).step_by(16).for_each(|i| prefetch(below.wrapping_add(k * sc + i), Cache::First));
        }
        out.fill(0.0);
        for k in 0..c {
            let line = &values[start + image * sn + k * sc + (y - border) * sh..];
            if words == WordType::Bf16 {
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
