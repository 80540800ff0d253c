//! What the first convolution of inference reads, in a buffer that is kept.

use crate::error::{Error, Result};
use crate::infer::conv::FusedConv;
use crate::infer::rows::{OP, dims, put_rows, row_words};
use candle_core::{DType, Tensor};
use resnext_kernels::{AlignedBuffer, MAX_LANES, MapType, ThreadTeam};

/// Images (N, H, W, C) with a border of zeros, as one [`FusedConv`] reads them: for a kernel whose rows are read as runs of
/// channels, pixels follow each other without gaps, in bf16 also two in a word.
#[derive(Debug, Clone, Default)]
pub struct Images {
    pub(crate) data: AlignedBuffer,
    /// With the border.
    pub(crate) size: [usize; 4],
    /// Channels from one pixel of a row to the next; a row begins with a word.
    pub(crate) apart: usize,
    pub(crate) words: MapType,
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
    pub fn load(&mut self, team: &ThreadTeam, x: &Tensor, conv: &FusedConv, border: usize) -> Result<()> {
        let [n, c, h, w] = dims(x)?;
        if c != conv.channels() {
            let message = format!("expected images of {} channels, got {c}", conv.channels());
            return Err(Error::Config { op: OP, message });
        }
        if let MapType::U8(_) = conv.reads() {
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
        put_rows(team, x, border, self.words, self.apart, &mut self.data)
    }
}
