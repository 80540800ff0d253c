//! Feature maps of inference, in reused buffers.

use crate::config::Pool2dConfig;
use crate::element::map_type_of;
use crate::error::{Error, Result};
use crate::infer::map_view::MapView;
use crate::infer::rows::{OP, dims, put_rows};
use candle_core::{DType, Device, Tensor};
use resnext_kernels::{
    AlignedBuffer, MAX_LANES, MapType, Quantization, SharedSlice, ThreadTeam, max_pool_rows, padded_stride,
    quantize_rows, unpair,
};

/// Feature maps (N, H, W, C) in f32, bf16 or int8, in a buffer that is reused from one call to the next.
///
/// A pixel of zeros lies after the last one; a convolution's padding reads it. Pixels are a few elements
/// further apart than C where they would otherwise all fall into one set of the cache.
#[derive(Debug, Clone, Default)]
pub struct FeatureMap {
    pub(crate) data: AlignedBuffer,
    /// N, H, W and C.
    size: [usize; 4],
    /// Words from one pixel to the next.
    pub(crate) stride: usize,
    map_type: MapType,
}

impl FeatureMap {
    /// Creates an empty buffer, which an operation resizes and fills.
    pub fn new() -> Self {
        Self::default()
    }

    /// The sizes [N, H, W, C].
    pub fn size(&self) -> [usize; 4] {
        self.size
    }

    /// The number of pixels of all images.
    pub(crate) fn pixels(&self) -> usize {
        self.size[0] * self.size[1] * self.size[2]
    }

    pub(crate) fn view(&self) -> MapView<'_> {
        let FeatureMap { ref data, size, stride, map_type } = *self;
        MapView { data, size, map_type, pixel_stride: stride * map_type.channels() }
    }

    /// Makes room for other sizes. The contents are then unspecified, except for the zeros after the last
    /// pixel. With `spread_pixels`, pixels get the distance that keeps them out of one cache set; otherwise
    /// they are dense.
    pub(crate) fn resize(&mut self, size: [usize; 4], map_type: MapType, spread_pixels: bool) {
        let own = size[3].div_ceil(map_type.channels());
        self.stride = if spread_pixels { padded_stride(own) } else { own };
        (self.size, self.map_type) = (size, map_type);
        let end = self.pixels() * self.stride;
        // A kernel may read a vector that begins in the last pixel.
        let len = end + self.stride + MAX_LANES;
        self.data.grow(len);
        self.data[end..len].fill(0.0);
        if map_type == MapType::Bf16 && own * map_type.channels() > size[3] {
            // With an odd C, the half word after each pixel is multiplied by zero, so it must not be NaN.
            self.data[..end].fill(0.0);
        }
    }

    /// Copies an f32 tensor (N, C, H, W) as maps of `dtype`, f32 or bf16.
    ///
    /// # Errors
    /// If the tensor does not have four dimensions, is not f32 or not on the CPU, or `dtype` is another
    /// type.
    pub fn load(&mut self, team: &ThreadTeam, x: &Tensor, dtype: DType) -> Result<()> {
        let [n, c, h, w] = dims(x)?;
        let map_type = map_type_of(dtype).ok_or_else(|| Error::DType {
            op: OP,
            input: "maps",
            expected: "F32 or BF16".into(),
            got: dtype,
        })?;
        self.resize([n, h, w, c], map_type, false);
        put_rows(team, x, 0, map_type, self.stride * map_type.channels(), &mut self.data)
    }

    /// Copies the maps of `source`, a single image, to index `place` of a batch of `places`. A batch is put
    /// together by calls for place 0, 1 and so on, with no other operation on this buffer in between.
    ///
    /// # Errors
    /// If `source` is not a single image, `place` is not below `places`, or the maps differ in size or type
    /// from those at the places before.
    pub fn put(&mut self, team: &ThreadTeam, source: &FeatureMap, place: usize, places: usize) -> Result<()> {
        let [n, h, w, c] = source.size;
        if n != 1 || place >= places {
            let message = format!("{n} images cannot be put at place {place} of {places}");
            return Err(Error::Config { op: OP, message });
        }
        if place == 0 {
            let spread_pixels = source.stride > c.div_ceil(source.map_type.channels());
            self.resize([places, h, w, c], source.map_type, spread_pixels);
        }
        if (self.size, self.map_type, self.stride) != ([places, h, w, c], source.map_type, source.stride) {
            let message =
                format!("{:?} does not go with the {:?} at the places before it", source.size, self.size);
            return Err(Error::Config { op: OP, message });
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

    /// Quantizes the maps of `source` to int8, each value to the nearest. Values beyond the range saturate at
    /// its ends, and NaN becomes the largest value. Returns whether all values were finite.
    ///
    /// # Errors
    /// If `source` is int8 already.
    pub fn quantize(
        &mut self,
        team: &ThreadTeam,
        source: &FeatureMap,
        quantization: Quantization,
    ) -> Result<bool> {
        if let MapType::U8(_) = source.map_type {
            let message = "expected maps in f32 or bf16 to quantize".into();
            return Err(Error::Config { op: OP, message });
        }
        let [n, h, w, c] = source.size;
        self.resize(source.size, MapType::U8(quantization), true);
        let source = (source.view().pixels(), source.map_type, c);
        let stride = self.stride;
        Ok(quantize_rows(team, source, quantization, (n * h, w), (&mut self.data, stride)))
    }

    /// The maps' values in the order (N, H, W, C).
    pub fn values(&self) -> impl Iterator<Item = f32> {
        (0..self.pixels()).flat_map(move |i| (0..self.size[3]).map(move |k| self.channel(i, k)))
    }

    /// The maps as an f32 tensor (N, C, H, W), channels-last in memory.
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
        match self.map_type {
            MapType::F32 => pixel[k],
            MapType::Bf16 => unpair(pixel[k / 2])[k % 2],
            MapType::U8(quantization) => quantization.value(pixel[k / 4].to_bits().to_le_bytes()[k % 4]),
        }
    }

    /// Max-pools the maps into `out`, (N, H', W', C) of the same type. Padding is never the maximum.
    ///
    /// # Errors
    /// If the settings are not valid or the window does not fit the padded map.
    pub fn max_pool(&self, team: &ThreadTeam, config: &Pool2dConfig, out: &mut FeatureMap) -> Result<()> {
        let [n, h, w, c] = self.size;
        let (out_h, out_w) = (config.output(h)?, config.output(w)?);
        out.resize([n, out_h, out_w, c], self.map_type, true);
        let out_stride = out.stride;
        max_pool_rows(
            team,
            self.map_type,
            (self.view().pixels(), h, w, c),
            (config.kernel, config.stride, config.padding),
            (&mut out.data, out_stride, n * out_h, out_w),
        );
        Ok(())
    }

    /// The mean over the pixels of each image, as (N, C) row by row. int8 maps give the numbers they
    /// represent.
    pub fn global_avg_pool(&self) -> Vec<f32> {
        let [n, h, w, c] = self.size;
        let (pixels, own) = (h * w, c.div_ceil(self.map_type.channels()));
        let mut out = Vec::with_capacity(n * c);
        let mut sums = vec![0f32; own * self.map_type.channels()];
        for image in 0..n {
            sums.fill(0.0);
            for pixel in image * pixels..(image + 1) * pixels {
                add_pixel(&mut sums, &self.data[pixel * self.stride..][..own], self.map_type);
            }
            out.extend(sums[..c].iter().map(|sum| sum / pixels.max(1) as f32));
        }
        out
    }
}

/// Adds a pixel's channels to `sums`, which has as many as fit the pixel's words.
fn add_pixel(sums: &mut [f32], words: &[f32], map_type: MapType) {
    match map_type {
        MapType::F32 => sums.iter_mut().zip(words).for_each(|(sum, x)| *sum += x),
        MapType::Bf16 => sums.chunks_exact_mut(2).zip(words).for_each(|(sums, word)| {
            sums.iter_mut().zip(unpair(*word)).for_each(|(sum, x)| *sum += x);
        }),
        MapType::U8(quantization) => sums.chunks_exact_mut(4).zip(words).for_each(|(sums, word)| {
            let values = word.to_bits().to_le_bytes();
            sums.iter_mut().zip(values).for_each(|(sum, q)| *sum += quantization.value(q));
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounding keeps the order of numbers, so max-pooling may come before or after quantization. Pooled int8
    /// maps are averaged as the numbers they represent.
    #[test]
    fn int8_maps_are_pooled_as_the_numbers_they_represent() {
        for channels in [8, 5] {
            let values = (0..2 * channels * 7 * 6).map(|i| (i as f32 * 0.7).sin()).collect::<Vec<_>>();
            let x = Tensor::from_vec(values, (2, channels, 7, 6), &Device::Cpu).unwrap();
            let (signed, pool) =
                (Quantization::signed(0.9).unwrap(), Pool2dConfig { kernel: 3, stride: 2, padding: 1 });
            let [mut loaded, mut pooled, mut first, mut last, mut quantized] =
                std::array::from_fn(|_| FeatureMap::new());
            ThreadTeam::scope(|team| {
                loaded.load(team, &x, DType::F32).unwrap();
                loaded.max_pool(team, &pool, &mut pooled).unwrap();
                last.quantize(team, &pooled, signed).unwrap();
                quantized.quantize(team, &loaded, signed).unwrap();
                quantized.max_pool(team, &pool, &mut first).unwrap();
                assert!(pooled.quantize(team, &quantized, signed).is_err());
            });
            assert!(first.values().eq(last.values()) && first.size() == [2, 4, 3, channels]);
            // Means over the pixels of each image and channel, from values in the order (N, H, W, C).
            let values: Vec<f32> = first.values().collect();
            let mean =
                |n: usize, k: usize| (0..12).map(|i| values[(n * 12 + i) * channels + k]).sum::<f32>() / 12.0;
            let means: Vec<f32> =
                (0..2).flat_map(|n| (0..channels).map(move |k| (n, k))).map(|(n, k)| mean(n, k)).collect();
            assert_eq!(first.global_avg_pool(), means);
        }
    }
}
