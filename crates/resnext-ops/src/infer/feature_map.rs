//! Feature maps of inference, in buffers that are kept.

use crate::config::Pool2dConfig;
use crate::element::map_type_of;
use crate::error::{Error, Result};
use crate::infer::rows::{dims, put_rows};
use candle_core::{DType, Device, Tensor};
use resnext_kernels::{
    AlignedBuffer, MAX_LANES, MapType, Pixels, Quantization, SharedSlice, ThreadTeam, max_pool_rows,
    padded_stride, quantize_rows, unpair,
};

/// Feature maps (N, H, W, C) in f32, bf16 or 8 bits, in a buffer that is kept from one use to the next.
///
/// Behind the last pixel lies one of zeros, which is what a convolution's padding reads. Pixels are a few
/// elements further apart than C where they would otherwise all share one set of the cache.
#[derive(Debug, Clone, Default)]
pub struct Activations {
    pub(crate) data: AlignedBuffer,
    pub(crate) size: [usize; 4],
    /// Precision from one pixel to the next.
    pub(crate) stride: usize,
    pub(crate) words: MapType,
}

impl Activations {
    /// Empty ones, to be written by an operation.
    pub fn new() -> Self {
        Self::default()
    }

    /// The sizes [N, H, W, C].
    pub fn size(&self) -> [usize; 4] {
        self.size
    }

    pub(crate) fn pixels(&self) -> usize {
        self.size[0] * self.size[1] * self.size[2]
    }

    /// Makes room for other sizes; the contents are then anything, but for the zeros behind them.
    pub(crate) fn resize(&mut self, size: [usize; 4], words: MapType, apart: bool) {
        let own = size[3].div_ceil(words.channels());
        self.stride = if apart { padded_stride(own) } else { own };
        (self.size, self.words) = (size, words);
        let end = self.pixels() * self.stride;
        // A kernel may read a vector that begins in the last pixel.
        let len = end + self.stride + MAX_LANES;
        self.data.grow(len);
        self.data[end..len].fill(0.0);
        if words == MapType::Bf16 && own * words.channels() > size[3] {
            // The half word behind each pixel is multiplied with a zero, which only a number survives.
            self.data[..end].fill(0.0);
        }
    }

    /// Takes in a tensor (N, C, H, W) of f32 as maps of `dtype`, f32 or bf16.
    ///
    /// # Errors
    /// If it is not of four dimensions, not f32 or not on the CPU, or maps can't be of `dtype`.
    pub fn load(&mut self, team: &ThreadTeam, x: &Tensor, dtype: DType) -> Result<()> {
        let [n, c, h, w] = dims(x)?;
        let words = map_type_of(dtype).ok_or_else(|| Error::DType {
            op: "activations",
            input: "maps",
            expected: "F32 or BF16".into(),
            got: dtype,
        })?;
        self.resize([n, h, w, c], words, false);
        put_rows(team, x, 0, words, self.stride * words.channels(), &mut self.data)
    }

    /// Takes in the maps of `source`, one image, as image `place` of `places`: one after the other, with nothing
    /// written here in between.
    ///
    /// # Errors
    /// If `source` is not one image, or there is no such place, or its maps are not as those in the places before it.
    pub fn put(
        &mut self,
        team: &ThreadTeam,
        source: &Activations,
        place: usize,
        places: usize,
    ) -> Result<()> {
        let [n, h, w, c] = source.size;
        if n != 1 || place >= places {
            let message = format!("{n} images can't be put in place {place} of {places}");
            return Err(Error::Config { op: "activations", message });
        }
        if place == 0 {
            let apart = source.stride > c.div_ceil(source.words.channels());
            self.resize([places, h, w, c], source.words, apart);
        }
        if (self.size, self.words, self.stride) != ([places, h, w, c], source.words, source.stride) {
            let message =
                format!("{:?} does not go with the {:?} in the places before it", source.size, self.size);
            return Err(Error::Config { op: "activations", message });
        }
        let row = w * source.stride;
        let rows = SharedSlice::new(&mut self.data);
        team.for_each(h, |y| {
            // SAFETY: each task has a row of its own.
            let out = unsafe { rows.slice((place * h + y) * row, row) };
            out.copy_from_slice(&source.data[y * row..(y + 1) * row]);
        });
        Ok(())
    }

    /// Takes in the maps of `source` in eight bits, and says whether all values were finite: those too large, and NaN,
    /// become the largest there is.
    ///
    /// # Errors
    /// If `source` is in eight bits already.
    pub fn quantize(
        &mut self,
        team: &ThreadTeam,
        source: &Activations,
        quantization: Quantization,
    ) -> Result<bool> {
        if let MapType::U8(_) = source.words {
            let message = "expected maps in f32 or bf16 to quantize".into();
            return Err(Error::Config { op: "activations", message });
        }
        let [n, h, w, c] = source.size;
        self.resize(source.size, MapType::U8(quantization), true);
        let source = (source.view(), source.words, c);
        let stride = self.stride;
        Ok(quantize_rows(team, source, quantization, (n * h, w), (&mut self.data, stride)))
    }

    /// The maps' values, channel by channel of each pixel (N, H, W, C).
    pub fn values(&self) -> impl Iterator<Item = f32> {
        (0..self.pixels()).flat_map(move |i| (0..self.size[3]).map(move |k| self.channel(i, k)))
    }

    /// The maps as a tensor (N, C, H, W) of f32, channels-last in memory.
    ///
    /// # Errors
    /// If candle fails.
    pub fn to_tensor(&self) -> Result<Tensor> {
        let [n, h, w, c] = self.size;
        Ok(Tensor::from_vec(self.values().collect::<Vec<_>>(), (n, h, w, c), &Device::Cpu)?
            .permute((0, 3, 1, 2))?)
    }

    /// Channel `k` of pixel `i`.
    fn channel(&self, i: usize, k: usize) -> f32 {
        let pixel = &self.data[i * self.stride..];
        match self.words {
            MapType::F32 => pixel[k],
            MapType::Bf16 => unpair(pixel[k / 2])[k % 2],
            MapType::U8(quantization) => quantization.value(pixel[k / 4].to_bits().to_le_bytes()[k % 4]),
        }
    }

    /// Max-pooling into `out`; padding never wins.
    ///
    /// # Errors
    /// If the window does not fit the padded map.
    pub fn max_pool(&self, team: &ThreadTeam, config: &Pool2dConfig, out: &mut Activations) -> Result<()> {
        let [n, h, w, c] = self.size;
        let Pool2dConfig { kernel, stride, padding } = *config;
        if kernel == 0 || stride == 0 || 2 * padding > kernel || h.min(w) + 2 * padding < kernel {
            let message = format!("{config:?} does not fit a map of {h}×{w}");
            return Err(Error::Config { op: "max_pool", message });
        }
        let sides = [h, w].map(|side| (side + 2 * padding - kernel) / stride + 1);
        out.resize([n, sides[0], sides[1], c], self.words, true);
        let out_stride = out.stride;
        max_pool_rows(
            team,
            self.words,
            (self.view(), h, w, c),
            (kernel, stride, padding),
            (&mut out.data, out_stride, n * sides[0], sides[1]),
        );
        Ok(())
    }

    /// The mean over each map's pixels, (N, C).
    pub fn global_avg_pool(&self) -> Vec<f32> {
        let [n, h, w, c] = self.size;
        let (pixels, own) = (h * w, c.div_ceil(self.words.channels()));
        let mut out = Vec::with_capacity(n * c);
        let mut sums = vec![0f32; own * self.words.channels()];
        for image in 0..n {
            sums.fill(0.0);
            for pixel in image * pixels..(image + 1) * pixels {
                let words = &self.data[pixel * self.stride..][..own];
                match self.words {
                    MapType::F32 => sums.iter_mut().zip(words).for_each(|(sum, x)| *sum += x),
                    MapType::Bf16 => sums.chunks_exact_mut(2).zip(words).for_each(|(sums, word)| {
                        sums.iter_mut().zip(unpair(*word)).for_each(|(sum, x)| *sum += x);
                    }),
                    MapType::U8(quantization) => {
                        sums.chunks_exact_mut(4).zip(words).for_each(|(sums, word)| {
                            let numbers = word.to_bits().to_le_bytes();
                            sums.iter_mut().zip(numbers).for_each(|(sum, q)| *sum += quantization.value(q));
                        })
                    }
                }
            }
            out.extend(sums[..c].iter().map(|sum| sum / pixels.max(1) as f32));
        }
        out
    }

    pub(crate) fn view(&self) -> Pixels<'_> {
        Pixels { data: &self.data, stride: self.stride }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounding keeps the order of numbers, so that pooling may come before it or after.
    #[test]
    fn eight_bits_are_pooled_as_what_they_stand_for() {
        for channels in [8, 5] {
            let values = (0..2 * channels * 7 * 6).map(|i| (i as f32 * 0.7).sin()).collect::<Vec<_>>();
            let x = Tensor::from_vec(values, (2, channels, 7, 6), &Device::Cpu).unwrap();
            let (signed, pool) =
                (Quantization::signed(0.9).unwrap(), Pool2dConfig { kernel: 3, stride: 2, padding: 1 });
            let [mut loaded, mut pooled, mut first, mut last, mut quantized] =
                std::array::from_fn(|_| Activations::new());
            ThreadTeam::scope(|team| {
                loaded.load(team, &x, DType::F32).unwrap();
                loaded.max_pool(team, &pool, &mut pooled).unwrap();
                last.quantize(team, &pooled, signed).unwrap();
                quantized.quantize(team, &loaded, signed).unwrap();
                quantized.max_pool(team, &pool, &mut first).unwrap();
                assert!(pooled.quantize(team, &quantized, signed).is_err());
            });
            assert!(first.values().eq(last.values()) && first.size() == [2, 4, 3, channels]);
            assert_eq!(first.global_avg_pool().len(), 2 * channels);
        }
    }
}
