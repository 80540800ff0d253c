//! The inference form of a network.

use super::buffers::{Buffers, ImageBuffers, LastStageBuffers, StageMaps, StemMaps, input_and_spare};
use super::stage::{FusedStage, Observer};
use crate::calibration::Calibration;
use crate::error::{Error, Result};
use crate::pools::StemPool;
use candle_core::{DType, Device, Tensor};
use resnext_ops::{FeatureMap, FusedConv, Fusion, Quantization, ThreadTeam};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A network for inference on a CPU: batch norm is folded into packed convolutions, which also add bias and
/// shortcut and apply ReLU, and buffers are reused. Networks of every form run in form (c).
///
/// It computes in one of three types:
///
/// | [`dtype`](Self::dtype) | feature maps and weights | sums | first convolution and last layer |
/// |---|---|---|---|
/// | f32 | f32 | f32 | f32 |
/// | bf16 | bf16; only weights, if not [`resnext_ops::bf16_is_native`] | f32 | bf16 |
/// | u8 | u8 maps, int8 weights | i32 | bf16 if native, else f32 |
///
/// Means and logits are f32 in each of them. In u8, each map has one scale, and weights have one per output
/// channel.
///
/// In f32, 1×1 convolutions take two thirds of the multiplications where additions run on execution ports of
/// their own (Winograd's inner products, on AMD CPUs with AVX-512). 3×3 convolutions with stride 1 take 4/9
/// of the multiplications and 16/9 of the memory for weights (Winograd's F(2×2, 3×3)), if groups fill whole
/// vectors and have at most 128 channels, or with AVX-512 have 8; with AVX2 only if they have more than 32,
/// as rows of plain products are faster there. Logits stay within 1e-4 of the unfused
/// network's, relative to the largest.
#[derive(Debug)]
pub struct Fused {
    pub(super) entrance: FusedConv,
    /// The padding with which images are loaded, so that the first convolution needs none.
    pub(super) border: usize,
    /// The stem's further convolutions, by name.
    pub(super) stem: Vec<(String, FusedConv)>,
    pub(super) stem_pool: StemPool,
    pub(super) stages: Vec<FusedStage>,
    pub(super) fc: FusedConv,
    pub(super) classes: usize,
    /// The type of the first convolution and the last layer.
    pub(super) dtype: DType,
    /// In int8, the scale of the stem's output.
    pub(super) quantization: Option<Quantization>,
    /// One set for each of the calls that ever ran at the same time.
    pub(super) buffers: Mutex<Vec<Buffers>>,
}

/// The largest image, in pixels, of which each thread computes one of its own, if there are enough images:
/// then no layer waits for another thread, or reads what another thread wrote. For larger images, those costs
/// are small beside the memory that one set of maps per thread takes.
const PIXELS_PER_THREAD: usize = 512 * 512;

/// The most pixels of images that are computed at the same time, on all threads together.
const PIXELS_AT_ONCE: usize = 16 * PIXELS_PER_THREAD;

/// The most pixels of maps that the last stage reads at once. Its maps are small and its weights many, so it
/// takes as many images as fit, and reads the weights once for all of them.
const LAST_STAGE_PIXELS: usize = 4 * 14 * 14;

impl Fused {
    /// The type this network computes in: F32, BF16, or U8 for int8.
    pub fn dtype(&self) -> DType {
        if self.quantization.is_some() { DType::U8 } else { self.dtype }
    }

    /// Logits (N, classes), f32, of images `x` (N, 3, H, W), f32. N may be 0.
    ///
    /// NaN in an image makes the logits of that image NaN; in int8, infinity does so too.
    ///
    /// As many images are computed at the same time as the rayon pool has threads, one per thread. All
    /// threads share the images that are left over, and every image of more than 512×512 pixels. They also
    /// share every image if one per thread would take more pixels than 16 images of 512×512. The logits are
    /// the same bits in each case. The buffers are reused by later calls; for ResNeXt-50 in f32 they take
    /// some 450 bytes per pixel of each image that is computed at the same time.
    ///
    /// # Errors
    /// If `x` is not (N, 3, H, W) of f32.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.pass(x, None)
    }

    /// Adds the feature maps of images `x` (N, 3, H, W), f32, to `calibration`, from whose ranges
    /// [`Fused::quantized`] builds an int8 network.
    ///
    /// # Errors
    /// The same as [`forward`](Self::forward); also if this network computes in int8 itself.
    pub fn calibrate(&self, x: &Tensor, calibration: &mut Calibration) -> Result<()> {
        if self.quantization.is_some() {
            let message = "expected a network in f32 or bf16, this one is in int8 already";
            return Err(Error::Calibration(message.into()));
        }
        let mut observe = |name: &str, map: &FeatureMap| {
            // Maps that no int8 convolution reads or writes need no range: of the stem, only its output does.
            let inside_stem = name.starts_with("conv1") && self.stem_pool != StemPool::None;
            if !inside_stem && !matches!(name, "input" | "avgpool" | "fc") {
                // Projections are the only maps before their ReLU.
                calibration.observe(name, map, name.ends_with("downsample.0"));
            }
        };
        self.pass(x, Some(&mut observe))?;
        Ok(())
    }

    /// [`forward`](Self::forward), with a call of `observe` after each layer, which is given the layer's name
    /// as in [`Summary`](crate::summary::Summary) and the time it took. All threads compute one image after
    /// the other.
    ///
    /// `observe` runs while rayon's threads are held: it must not wait for work on rayon's pool.
    ///
    /// # Errors
    /// The same as [`forward`](Self::forward).
    pub fn forward_observed(&self, x: &Tensor, observe: &mut dyn FnMut(&str, Duration)) -> Result<Tensor> {
        let mut clock = Instant::now();
        let mut timed = |name: &str, _: &FeatureMap| {
            let now = Instant::now();
            observe(name, now - std::mem::replace(&mut clock, now));
        };
        self.pass(x, Some(&mut timed))
    }

    /// The size of all packed weights in bytes.
    pub fn bytes(&self) -> usize {
        let stem: usize = self.stem.iter().map(|(_, conv)| conv.bytes()).sum();
        self.entrance.bytes()
            + stem
            + self.fc.bytes()
            + self.stages.iter().map(FusedStage::bytes).sum::<usize>()
    }

    /// [`forward`](Self::forward); with `observe`, image by image.
    fn pass(&self, x: &Tensor, observe: Option<&mut Observer>) -> Result<Tensor> {
        let pixels = match x.dims() {
            &[_, 3, h, w] if h > 0 && w > 0 => h * w,
            _ => return Err(Error::Input(x.shape().clone())),
        };
        let fits = observe.is_none() && pixels <= PIXELS_PER_THREAD;
        let mut nobody = |_: &str, _: &FeatureMap| {};
        let observe = observe.unwrap_or(&mut nobody);
        let free = self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffers = free.unwrap_or_default();
        let logits = ThreadTeam::scope(|team| {
            let threads = team.threads();
            let at_once = if fits && threads * pixels <= PIXELS_AT_ONCE { threads } else { 1 };
            let features = self.features(team, x, at_once, &mut buffers, observe)?;
            self.classify(team, features, &mut buffers, observe)
        });
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).push(buffers);
        logits
    }

    /// The features of all images, one row of `self.fc.channels()` after the other. The rows of images whose
    /// int8 maps cannot express what the image holds are NaN.
    fn features(
        &self,
        team: &ThreadTeam,
        x: &Tensor,
        at_once: usize,
        Buffers { per_image, last_stage, .. }: &mut Buffers,
        observe: &mut Observer,
    ) -> Result<Vec<f32>> {
        let n = x.dim(0)?;
        let (mut features, mut finite) = (Vec::new(), Vec::with_capacity(n));
        while finite.len() < n {
            let first = finite.len();
            // All threads share each of the images that are left over.
            let count = if n - first < at_once { 1 } else { at_once };
            if per_image.len() < count {
                per_image.resize_with(count, ImageBuffers::default);
            }
            let early = |i: usize, buffers: &mut ImageBuffers, observe: &mut Observer| {
                self.forward_early(team, &x.narrow(0, first + i, 1)?, buffers, observe)
            };
            let done = match count {
                1 => vec![early(0, &mut per_image[0], observe)],
                _ => team.map_items(&mut per_image[..count], |i, buffers| early(i, buffers, &mut |_, _| {})),
            };
            for (is_finite, buffers) in done.into_iter().zip(&mut *per_image) {
                finite.push(is_finite?);
                let index = finite.len() - 1;
                features.extend(self.forward_last(team, (index, n), buffers, last_stage, observe)?);
            }
        }
        let rows = features.chunks_exact_mut(self.fc.channels()).zip(finite);
        rows.filter(|(_, finite)| !finite).for_each(|(row, _)| row.fill(f32::NAN));
        Ok(features)
    }

    /// Stem and all stages but the last of one image (1, 3, H, W). Returns what
    /// [`forward_stem`](Self::forward_stem) does.
    fn forward_early(
        &self,
        team: &ThreadTeam,
        image: &Tensor,
        buffers: &mut ImageBuffers,
        observe: &mut Observer,
    ) -> Result<bool> {
        let finite = self.forward_stem(team, image, buffers, observe)?;
        let ImageBuffers { stem, stages, .. } = buffers;
        stages.resize_with(self.stages.len() - 1, StageMaps::default);
        for s in 0..stages.len() {
            let (before, maps) = stages.split_at_mut(s);
            let (input, spare) = input_and_spare(self.stem_output(stem), before);
            self.forward_stage(team, s, input, spare, &mut maps[0], observe)?;
        }
        Ok(finite)
    }

    /// The stem of one image (1, 3, H, W). Returns false if int8 was to express a value that is not finite.
    fn forward_stem(
        &self,
        team: &ThreadTeam,
        image: &Tensor,
        ImageBuffers { image: loaded, stem, .. }: &mut ImageBuffers,
        observe: &mut Observer,
    ) -> Result<bool> {
        loaded.load(team, image, self.entrance.input_format(), self.border)?;
        observe("input", &stem.conv);
        let relu = Fusion { relu: true, ..Default::default() };
        self.entrance.forward_images(team, loaded, relu, &mut stem.conv)?;
        let mut name = if self.stem.is_empty() { "conv1" } else { "conv1.0" };
        for (next, conv) in &self.stem {
            observe(name, &stem.conv);
            conv.forward(team, &stem.conv, relu, &mut stem.next)?;
            std::mem::swap(&mut stem.conv, &mut stem.next);
            name = next;
        }
        let mut output = &stem.conv;
        if self.stem_pool != StemPool::None {
            observe(name, output);
            match self.stem_pool {
                StemPool::None => {}
                StemPool::Max(pool) => output.max_pool(team, &pool, &mut stem.pooled)?,
                StemPool::Average(pool) => output.avg_pool(team, &pool, &mut stem.pooled)?,
                StemPool::Blurred(pool) => {
                    output.max_pool(team, &pool, &mut stem.largest)?;
                    stem.largest.blur_pool(team, 2, &mut stem.pooled)?;
                }
            }
            (name, output) = ("maxpool", &stem.pooled);
        }
        let finite = match self.quantization {
            Some(quantization) => stem.quantized.quantize(team, output, quantization)?,
            None => true,
        };
        observe(name, self.stem_output(stem));
        Ok(finite)
    }

    /// The map that the first stage reads.
    fn stem_output<'a>(&self, stem: &'a StemMaps) -> &'a FeatureMap {
        match (self.quantization, self.stem_pool) {
            (Some(_), _) => &stem.quantized,
            (None, StemPool::None) => &stem.conv,
            (None, _) => &stem.pooled,
        }
    }

    /// The last stage and the average after it, of image `i` of `n`, or of several images at once: then an
    /// image is kept in `last_stage.input` until they are complete. Returns the features of the images that
    /// were computed.
    fn forward_last(
        &self,
        team: &ThreadTeam,
        (i, n): (usize, usize),
        buffers: &mut ImageBuffers,
        LastStageBuffers { input: gathered, maps }: &mut LastStageBuffers,
        observe: &mut Observer,
    ) -> Result<Vec<f32>> {
        let stem = self.stem_output(&buffers.stem);
        let (mut input, spare) = input_and_spare(stem, &mut buffers.stages);
        let [_, h, w, _] = input.size();
        let most = (LAST_STAGE_PIXELS / (h * w)).clamp(1, n);
        let (place, places) = (i % most, most.min(n - i / most * most));
        if places > 1 {
            gathered.put(team, input, place, places)?;
            if place + 1 < places {
                return Ok(Vec::new());
            }
            input = gathered;
        }
        self.forward_stage(team, self.stages.len() - 1, input, spare, maps, observe)?;
        let features = maps.x.global_avg_pool();
        observe("avgpool", &maps.x);
        Ok(features)
    }

    fn forward_stage(
        &self,
        team: &ThreadTeam,
        s: usize,
        input: &FeatureMap,
        spare: Option<&mut FeatureMap>,
        maps: &mut StageMaps,
        observe: &mut Observer,
    ) -> Result<()> {
        let next = self.stages.get(s + 1).map_or(&self.fc, |next| &next.blocks[0].first);
        self.stages[s].forward(team, input, spare, maps, next, observe)
    }

    /// The last layer, for all images at once, because it has more weights than inputs. Logits (N, classes),
    /// f32.
    fn classify(
        &self,
        team: &ThreadTeam,
        features: Vec<f32>,
        Buffers { features: loaded, logits, .. }: &mut Buffers,
        observe: &mut Observer,
    ) -> Result<Tensor> {
        let channels = self.fc.channels();
        let n = features.len() / channels;
        let features = Tensor::from_vec(features, (n, channels, 1, 1), &Device::Cpu)?;
        loaded.load(team, &features, self.fc.map_dtype())?;
        self.fc.forward(team, loaded, Fusion::default(), logits)?;
        observe("fc", logits);
        Ok(logits.to_tensor()?.reshape((n, self.classes))?)
    }
}
