//! The inference form of a network.

use super::buffers::{Buffers, ImageBuffers, Maps, source_of};
use crate::calibration::Calibration;
use crate::config::Stem;
use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use resnext_ops::{Activations, Crew, FusedConv, Fusion, Pool2dConfig, Quantization};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A network for inference on the CPU: batch norm folded into packed convolutions, bias, residual and ReLU in
/// their passes, and buffers that are kept. Whatever the form it was trained in, it runs form (c).
///
/// In f32, or in bf16 where [`fused_dtype_is_supported`](resnext_ops::fused_dtype_is_supported) says so: then maps, weights and the features that the last layer reads
/// are bf16, and sums, means and logits f32. Or in eight bits, where it says so of u8: then the first convolution and the last
/// layer are in bf16 where that is supported, else f32, and maps between them are u8, with a step each, the convolutions'
/// weights i8, with a step for each output channel, and sums whole numbers of 32 bits. In f32, 1×1 convolutions take
/// two thirds of the multiplications where the CPU has adders of their own (Winograd's inner products; AVX-512 on AMD),
/// and 3×3 ones of stride 1 take 4/9 (Winograd's tiles), for 16/9 of the memory, if groups fill whole vectors, of at most
/// 128 channels, or on AVX-512 are of 8; logits stay within 1e-4, relative, of the network's own.
#[derive(Debug)]
pub struct Fused {
    pub(super) entrance: FusedConv,
    /// Zeros around the image, which the first convolution then need not look for.
    pub(super) border: usize,
    pub(super) stem: Stem,
    pub(super) stages: Vec<FusedStage>,
    pub(super) fc: FusedConv,
    pub(super) classes: usize,
    /// What the first convolution and the last layer compute in.
    pub(super) dtype: DType,
    /// What all between them do, if that is eight bits: how the map they begin with is kept.
    pub(super) quantization: Option<Quantization>,
    /// One set for each call there ever was at the same time.
    pub(super) buffers: Mutex<Vec<Buffers>>,
}

/// A stage of blocks in form (c).
#[derive(Debug)]
pub(super) struct FusedStage {
    /// Of the first block, the only one that may change sizes.
    pub(super) projection: Option<FusedConv>,
    /// Whether the first block's first convolution leaves it to another to make the map smaller.
    pub(super) smaller_later: bool,
    pub(super) blocks: Vec<FusedBlock>,
}

#[derive(Debug)]
pub(super) struct FusedBlock {
    pub(super) name: String,
    pub(super) first: FusedConv,
    /// A basic block has none.
    pub(super) middle: Option<FusedConv>,
    pub(super) last: FusedConv,
}

/// What is told of each layer: its name, and the map it has written; with `input`, which is no map, the one written next.
type Done<'a> = dyn FnMut(&str, &Activations) + 'a;

/// Pixels of the largest images of which each thread computes one by itself, if there are as many: no layer then waits
/// for another thread, nor reads what one wrote. With larger ones, that is little beside the memory that maps take.
const ALONE: usize = 512 * 512;

/// Pixels of all images that are computed at the same time, at most.
const ALONE_IN_ALL: usize = 16 * ALONE;

/// Pixels that the last stage reads at once, of as many images as have no more: its maps are small and its weights many,
/// and those are then read once for all of them.
const TOGETHER: usize = 4 * 14 * 14;

impl Fused {
    /// The type it computes in; u8 for eight bits.
    pub fn dtype(&self) -> DType {
        if self.quantization.is_some() { DType::U8 } else { self.dtype }
    }

    /// Logits (N, classes), f32, of images `x` (N, 3, H, W), f32. NaN in an image makes its logits NaN, and in eight bits
    /// infinity does so, too; no images give no logits.
    ///
    /// Of as many images as the rayon pool has threads, each thread computes one; all threads share an image that is left
    /// over, or has more than 512×512 pixels, or if 16 such would have less than one for each thread. An image's logits are
    /// the same bits either way. The buffers of an image, for ResNeXt-50 in f32 some 450 bytes a pixel, are kept for the next
    /// call, for as many images, and calls, as there were at the same time.
    ///
    /// # Errors
    /// If `x` is not (N, 3, H, W) of f32.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.pass(x, None)
    }

    /// Shows `calibration` all maps of images `x` (N, 3, H, W), f32.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and if this network computes in eight bits itself.
    pub fn calibrate(&self, x: &Tensor, calibration: &mut Calibration) -> Result<()> {
        if self.quantization.is_some() {
            let message = "expected a network in f32 or bf16, this one is in eight bits already";
            return Err(Error::Calibration(message.into()));
        }
        let mut see = |name: &str, map: &Activations| {
            // What is neither read nor written by a convolution in eight bits; of the stem, its last map is.
            let stem = name == "conv1" && self.stem == Stem::ImageNet;
            if !stem && !matches!(name, "input" | "avgpool" | "fc") {
                // All others go through ReLU.
                calibration.see(name, map, name.ends_with("downsample.0"));
            }
        };
        self.pass(x, Some(&mut see))?;
        Ok(())
    }

    /// [`forward`](Self::forward), which tells `observe` the time each layer took, by the names of
    /// [`Summary`](crate::summary::Summary): all threads compute one image after the other.
    /// They are rayon's, and busy until the pass is over: `observe` must not wait for work of theirs.
    ///
    /// # Errors
    /// As `forward`.
    pub fn forward_observed(&self, x: &Tensor, observe: &mut dyn FnMut(&str, Duration)) -> Result<Tensor> {
        let mut clock = Instant::now();
        let mut tell = |name: &str, _: &Activations| {
            let now = Instant::now();
            observe(name, now - std::mem::replace(&mut clock, now));
        };
        self.pass(x, Some(&mut tell))
    }

    /// [`forward`](Self::forward), which tells `done`, if given, each layer's name and the map it has written.
    fn pass(&self, x: &Tensor, done: Option<&mut Done>) -> Result<Tensor> {
        let (n, h, w) = match x.dims() {
            &[n, 3, h, w] if h > 0 && w > 0 => (n, h, w),
            _ => return Err(Error::Input(x.shape().clone())),
        };
        let alone = done.is_none() && h * w <= ALONE;
        let mut nobody = |_: &str, _: &Activations| {};
        let done = done.unwrap_or(&mut nobody);
        let free = self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffers = free.unwrap_or_default();
        let logits = Crew::run(|crew| -> Result<Tensor> {
            let Buffers { per_image, together, last, features: pooled, logits } = &mut buffers;
            let (mut features, mut spoilt) = (Vec::new(), Vec::with_capacity(n));
            let threads = if alone && crew.threads() * h * w <= ALONE_IN_ALL { crew.threads() } else { 1 };
            while spoilt.len() < n {
                let first = spoilt.len();
                // All threads share those that are left over.
                let count = if n - first < threads { 1 } else { threads };
                if per_image.len() < count {
                    per_image.resize_with(count, ImageBuffers::default);
                }
                let begin = |i: usize, own: &mut ImageBuffers, done: &mut Done| {
                    self.begin(crew, &x.narrow(0, first + i, 1)?, own, done)
                };
                let begun = match count {
                    1 => vec![begin(0, &mut per_image[0], done)],
                    _ => crew.apart(&mut per_image[..count], |i, own| begin(i, own, &mut |_, _| {})),
                };
                for (finite, own) in begun.into_iter().zip(&mut *per_image) {
                    spoilt.push(!finite?);
                    features.extend(self.end(crew, (spoilt.len() - 1, n), own, together, last, done)?);
                }
            }
            // Eight bits can't say it themselves.
            let rows = features.chunks_exact_mut(self.fc.channels()).zip(spoilt);
            rows.filter(|(_, spoilt)| *spoilt).for_each(|(row, _)| row.fill(f32::NAN));
            // All at once: there are more weights than anything else.
            let features = Tensor::from_vec(features, (n, self.fc.channels(), 1, 1), &Device::Cpu)?;
            pooled.load(crew, &features, self.dtype)?;
            self.fc.forward(crew, pooled, Fusion::default(), logits)?;
            done("fc", logits);
            Ok(logits.to_tensor()?.reshape((n, self.classes))?)
        });
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).push(buffers);
        logits
    }

    /// All stages of an image but the last: says whether its pixels were finite, if eight bits have to know, else `true`.
    fn begin(&self, crew: &Crew, image: &Tensor, own: &mut ImageBuffers, done: &mut Done) -> Result<bool> {
        let finite = self.enter(crew, image, own, done)?;
        let ImageBuffers { stem, stages, .. } = own;
        stages.resize_with(self.stages.len() - 1, Maps::default);
        for s in 0..stages.len() {
            let (before, maps) = stages.split_at_mut(s);
            let (source, entry) = source_of(&stem[self.stem_output()], before);
            self.stage(crew, s, source, entry, &mut maps[0], done)?;
        }
        Ok(finite)
    }

    /// The stem, up to what the first block reads: says the same.
    fn enter(&self, crew: &Crew, image: &Tensor, own: &mut ImageBuffers, done: &mut Done) -> Result<bool> {
        let ImageBuffers { images, stem: [first, pooled, quantized], .. } = own;
        images.load(crew, image, &self.entrance, self.border)?;
        done("input", first);
        self.entrance.forward_images(crew, images, Fusion { relu: true, ..Default::default() }, first)?;
        let (mut layer, mut last) = ("conv1", &*first);
        if self.stem == Stem::ImageNet {
            done(layer, first);
            layer = "maxpool";
            first.max_pool(crew, &Pool2dConfig { kernel: 3, stride: 2, padding: 1 }, pooled)?;
            last = &*pooled;
        }
        let mut finite = true;
        if let Some(quantization) = self.quantization {
            finite = quantized.quantize(crew, last, quantization)?;
        }
        done(layer, &own.stem[self.stem_output()]);
        Ok(finite)
    }

    /// Which of the stem's maps is its last: of the first convolution, pooled, in eight bits.
    fn stem_output(&self) -> usize {
        match (self.quantization, self.stem) {
            (Some(_), _) => 2,
            (None, Stem::ImageNet) => 1,
            _ => 0,
        }
    }

    /// The last stage of image `i` of `n`, or of several, for which an image waits in `together`. Gives the features of those
    /// it has computed: none, while the image waits.
    fn end(
        &self,
        crew: &Crew,
        (i, n): (usize, usize),
        own: &mut ImageBuffers,
        together: &mut Activations,
        maps: &mut Maps,
        done: &mut Done,
    ) -> Result<Vec<f32>> {
        let (mut source, entry) = source_of(&own.stem[self.stem_output()], &mut own.stages);
        let [_, h, w, _] = source.size();
        let most = (TOGETHER / (h * w)).clamp(1, n);
        let (place, places) = (i % most, most.min(n - i / most * most));
        if places > 1 {
            together.put(crew, source, place, places)?;
            if place + 1 < places {
                return Ok(Vec::new());
            }
            source = together;
        }
        self.stage(crew, self.stages.len() - 1, source, entry, maps, done)?;
        let features = maps.x.global_avg_pool();
        done("avgpool", &maps.x);
        Ok(features)
    }

    /// Stage `s`, of the maps `entered`: what it makes is in `x`. `entry`, if there is a stage before, is for maps of that
    /// one's size, which the first convolution may still make.
    fn stage(
        &self,
        crew: &Crew,
        s: usize,
        entered: &Activations,
        mut entry: Option<&mut Activations>,
        Maps { x, y, opened, inner }: &mut Maps,
        done: &mut Done,
    ) -> Result<()> {
        let relu = Fusion { relu: true, ..Default::default() };
        let FusedStage { projection, smaller_later, blocks } = &self.stages[s];
        let following = self.stages.get(s + 1).map_or(&self.fc, |next| &next.blocks[0].first);
        for (i, FusedBlock { name, first, middle, last }) in blocks.iter().enumerate() {
            let projection = projection.as_ref().filter(|_| i == 0);
            let source = if i == 0 { entered } else { &*x };
            let opened = entry.take().filter(|_| *smaller_later).unwrap_or(&mut *opened);
            // In the order of their use. A grouped convolution in the middle has too little to do to fetch much
            // meanwhile: its neighbours do.
            let ahead: Vec<_> = middle.iter().chain(projection).chain([last]).collect();
            first.forward(crew, source, Fusion { ahead: &ahead, ..relu }, opened)?;
            done(&format!("{name}.conv1"), opened);
            let inner = match middle {
                Some(middle) => {
                    middle.forward(crew, opened, relu, inner)?;
                    done(&format!("{name}.conv2"), inner);
                    &*inner
                }
                None => &*opened,
            };
            let residual = match projection {
                Some(projection) => {
                    projection.forward(crew, entered, Fusion::default(), x)?;
                    done(&format!("{name}.downsample.0"), x);
                    &*x
                }
                None => source,
            };
            let ahead = [blocks.get(i + 1).map_or(following, |next| &next.first)];
            last.forward(crew, inner, Fusion { residual: Some(residual), ahead: &ahead, ..relu }, y)?;
            done(&format!("{name}.conv{}", if middle.is_some() { 3 } else { 2 }), y);
            std::mem::swap(x, y);
        }
        Ok(())
    }

    /// Bytes of all packed weights.
    pub fn bytes(&self) -> usize {
        let of = |block: &FusedBlock| {
            let middle = block.middle.as_ref().map_or(0, FusedConv::bytes);
            block.first.bytes() + middle + block.last.bytes()
        };
        let stage = |stage: &FusedStage| {
            let projection = stage.projection.as_ref().map_or(0, FusedConv::bytes);
            projection + stage.blocks.iter().map(of).sum::<usize>()
        };
        self.entrance.bytes() + self.fc.bytes() + self.stages.iter().map(stage).sum::<usize>()
    }
}
