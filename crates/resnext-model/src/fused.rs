//! The inference form of a network.

use crate::block::Block;
use crate::config::Stem;
use crate::layers::{Folded, Numbers};
use crate::network::{entrance, head};
use crate::{Calibration, Config, Error, Ranges, Result};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use resnext_ops::{
    Activations, Conv2dConfig, Crew, FusedConv, Fusion, Images, Pool2dConfig, Quantization,
    fused_dtype_is_supported,
};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A network for inference on the CPU: batch norm folded into packed convolutions, bias, residual and ReLU in
/// their passes, and buffers that are kept. Whatever the form it was trained in, it runs form (c).
///
/// In f32, or in bf16 where [`fused_dtype_is_supported`] says so: then maps and the convolutions' weights are bf16, and sums,
/// pooling and the last layer f32. Or in eight bits, where it says so of u8: then the first convolution is one of those, and
/// maps behind it are u8, with a step each, the convolutions' weights i8, with a step for each output channel, and sums whole
/// numbers of 32 bits; the mean of the last map and the last layer are f32. In f32, 1×1 convolutions take
/// two thirds of the multiplications where the CPU has adders of their own (Winograd's inner products; AVX-512 on AMD),
/// and 3×3 ones of stride 1 take 4/9 (Winograd's tiles), for 16/9 of the memory, if groups fill whole vectors, of at most
/// 128 channels, or on AVX-512 are of 8; logits stay within 1e-4, relative, of the network's own.
#[derive(Debug)]
pub struct Fused {
    entrance: FusedConv,
    /// Zeros around the image, which the first convolution then need not look for.
    border: usize,
    stem: Stem,
    blocks: Vec<FusedBlock>,
    /// The first block of the last stage.
    last_stage: usize,
    fc: FusedConv,
    classes: usize,
    /// What the first convolution computes in.
    dtype: DType,
    /// What all others do, if that is eight bits: how the map they begin with is kept.
    quantization: Option<Quantization>,
    /// One set for each call there ever was at the same time.
    buffers: Mutex<Vec<Buffers>>,
}

/// A block in form (c).
#[derive(Debug)]
pub(crate) struct FusedBlock {
    name: String,
    starts_stage: bool,
    /// First to last.
    convs: Vec<FusedConv>,
    shortcut: Option<FusedConv>,
}

/// What is told of each layer: its name, and the map it has written.
type Done<'a> = dyn FnMut(&str, &Activations) + 'a;

/// What a forward pass writes to.
#[derive(Debug, Default)]
struct Buffers {
    images: Images,
    x: Activations,
    y: Activations,
    inner: [Activations; 2],
    shortcut: Activations,
    /// What the last stage reads, of several images.
    together: Activations,
}

/// Pixels that the last stage reads at once, of as many images as have no more: its maps are small and its weights many,
/// and those are then read once for all of them.
const TOGETHER: usize = 4 * 14 * 14;

impl Fused {
    /// Builds the network of `config` from the weights under `vb`, f32, and fuses it block by block, to
    /// compute in `dtype`: a block's unpacked weights are gone when the next one's are read.
    ///
    /// # Errors
    /// If the configuration is invalid, a weight is missing, of the wrong shape or not f32, or this machine
    /// can't compute in `dtype`.
    pub fn new(config: &Config, vb: VarBuilder, dtype: DType) -> Result<Self> {
        Self::of(config, vb, Numbers::Float(dtype))
    }

    /// As [`new`](Self::new), but to compute in eight bits, with maps of `ranges`, which a network of the same weights has
    /// learnt ([`calibrate`](Self::calibrate)).
    ///
    /// # Errors
    /// As `new`; also if the range of a map is missing, or signed where there are no negative numbers, or if a weight is not
    /// finite, or too large for the ranges.
    pub fn quantized(config: &Config, vb: VarBuilder, ranges: &Ranges) -> Result<Self> {
        Self::of(config, vb, Numbers::Quantized(ranges))
    }

    fn of(config: &Config, vb: VarBuilder, numbers: Numbers) -> Result<Self> {
        config.validate()?;
        let (conv1, bn1) = entrance(config, &vb)?;
        let mut builder = FusedBuilder::new(conv1.fold(&bn1)?, config.stem, numbers)?;
        for (s, sizes) in config.blocks().iter().enumerate() {
            for (i, size) in sizes.iter().enumerate() {
                builder.add(s, i, &Block::new(size, config, vb.pp(format!("layer{}", s + 1)).pp(i))?)?;
            }
        }
        builder.finish(&head(config, &vb)?)
    }

    /// The type it computes in; u8 for eight bits.
    pub fn dtype(&self) -> DType {
        if self.quantization.is_some() { DType::U8 } else { self.dtype }
    }

    /// Logits (N, classes), f32, of images `x` (N, 3, H, W), f32. NaN in an image makes its logits NaN, and in eight bits
    /// infinity does so, too; no images give no logits.
    ///
    /// # Errors
    /// If `x` is not (N, 3, H, W) of f32.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.pass(x, &mut |_, _| {})
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
        self.pass(x, &mut |name, map| {
            // What is neither read nor written by a convolution in eight bits; of the stem, its last map is.
            let stem = name == "conv1" && self.stem == Stem::ImageNet;
            if !stem && !matches!(name, "input" | "avgpool" | "fc") {
                // All others go through ReLU.
                calibration.see(name, map, name.ends_with("downsample.0"));
            }
        })?;
        Ok(())
    }

    /// [`forward`](Self::forward), which tells `observe` the time each layer took, by the names of
    /// [`Summary`](crate::Summary).
    ///
    /// # Errors
    /// As `forward`.
    pub fn forward_observed(&self, x: &Tensor, observe: &mut dyn FnMut(&str, Duration)) -> Result<Tensor> {
        let mut clock = Instant::now();
        self.pass(x, &mut |name, _| {
            let now = Instant::now();
            observe(name, now - std::mem::replace(&mut clock, now));
        })
    }

    /// [`forward`](Self::forward), which tells `done` each layer's name and the map it has written.
    fn pass(&self, x: &Tensor, done: &mut Done) -> Result<Tensor> {
        let n = match x.dims() {
            &[n, 3, h, w] if h > 0 && w > 0 => n,
            _ => return Err(Error::Input(x.shape().clone())),
        };
        let free = self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffers = free.unwrap_or_default();
        let logits = Crew::run(|crew| -> Result<Tensor> {
            // Image by image: then maps stay in the caches from one layer to the next.
            let (mut features, mut spoilt) = (Vec::new(), vec![false; n]);
            for i in 0..n {
                spoilt[i] = !self.enter(crew, &x.narrow(0, i, 1)?, &mut buffers, done)?;
                self.blocks(crew, 0..self.last_stage, &mut buffers, done)?;
                let [_, h, w, _] = buffers.x.size();
                let most = (TOGETHER / (h * w)).clamp(1, n);
                let (place, places) = (i % most, most.min(n - i / most * most));
                if places > 1 {
                    buffers.together.put(crew, &buffers.x, place, places)?;
                    if place + 1 < places {
                        continue;
                    }
                    std::mem::swap(&mut buffers.x, &mut buffers.together);
                }
                self.blocks(crew, self.last_stage..self.blocks.len(), &mut buffers, done)?;
                features.extend(buffers.x.global_avg_pool());
                done("avgpool", &buffers.x);
            }
            // Eight bits can't say it themselves.
            let images = features.chunks_exact_mut(self.fc.channels()).zip(spoilt);
            images.filter(|(_, spoilt)| *spoilt).for_each(|(features, _)| features.fill(f32::NAN));
            // All at once: there are more weights than anything else.
            let Buffers { x, y, .. } = &mut buffers;
            let features = Tensor::from_vec(features, (n, self.fc.channels(), 1, 1), &Device::Cpu)?;
            x.load(crew, &features, DType::F32)?;
            self.fc.forward(crew, x, Fusion::default(), y)?;
            let logits = y.to_tensor()?.reshape((n, self.classes))?;
            done("fc", y);
            Ok(logits)
        })?;
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).push(buffers);
        Ok(logits)
    }

    /// From an image to what the first block reads, in `x`; says whether that can be relied upon.
    fn enter(
        &self,
        crew: &Crew,
        image: &Tensor,
        Buffers { images, x, y, .. }: &mut Buffers,
        done: &mut Done,
    ) -> Result<bool> {
        images.load(crew, image, &self.entrance, self.border)?;
        done("input", x);
        self.entrance.forward_images(crew, images, Fusion { relu: true, ..Default::default() }, x)?;
        let mut layer = "conv1";
        if self.stem == Stem::ImageNet {
            done(layer, x);
            layer = "maxpool";
            x.max_pool(crew, &Pool2dConfig { kernel: 3, stride: 2, padding: 1 }, y)?;
            std::mem::swap(x, y);
        }
        let mut finite = true;
        if let Some(quantization) = self.quantization {
            finite = y.quantize(crew, x, quantization)?;
            std::mem::swap(x, y);
        }
        done(layer, x);
        Ok(finite)
    }

    /// Some blocks, from `x` to `x`.
    fn blocks(
        &self,
        crew: &Crew,
        range: Range<usize>,
        Buffers { x, y, inner: [first, second], shortcut, .. }: &mut Buffers,
        done: &mut Done,
    ) -> Result<()> {
        let relu = Fusion { relu: true, ..Default::default() };
        for i in range {
            let FusedBlock { name, convs, shortcut: projection, .. } = &self.blocks[i];
            // In the order of their use. A grouped convolution in the middle has too little to do to fetch much
            // meanwhile: its neighbours do.
            let last = convs.len() - 1;
            let ahead: Vec<_> = convs[1..last].iter().chain(projection).chain(&convs[last..]).collect();
            let next = [self.blocks.get(i + 1).map_or(&self.fc, |next| &next.convs[0])];
            for (j, conv) in convs.iter().enumerate() {
                let source = if j == 0 { &*x } else { &*first };
                if j < last {
                    let ahead = if j == 0 { &ahead[..] } else { &[] };
                    conv.forward(crew, source, Fusion { ahead, ..relu }, second)?;
                    std::mem::swap(first, second);
                    done(&format!("{name}.conv{}", j + 1), first);
                } else {
                    let residual = match projection {
                        Some(projection) => {
                            projection.forward(crew, x, Fusion::default(), shortcut)?;
                            done(&format!("{name}.downsample.0"), shortcut);
                            &*shortcut
                        }
                        None => &*x,
                    };
                    let fusion = Fusion { residual: Some(residual), ahead: &next, ..relu };
                    conv.forward(crew, source, fusion, y)?;
                    done(&format!("{name}.conv{}", j + 1), y);
                }
            }
            std::mem::swap(x, y);
        }
        Ok(())
    }

    /// Bytes of all packed weights.
    pub fn bytes(&self) -> usize {
        let block = |block: &FusedBlock| {
            block.convs.iter().chain(&block.shortcut).map(FusedConv::bytes).sum::<usize>()
        };
        self.entrance.bytes() + self.fc.bytes() + self.blocks.iter().map(block).sum::<usize>()
    }
}

/// A network in the making, block by block.
pub(crate) struct FusedBuilder<'a> {
    numbers: Numbers<'a>,
    dtype: DType,
    quantization: Option<Quantization>,
    entrance: FusedConv,
    border: usize,
    stem: Stem,
    blocks: Vec<FusedBlock>,
    /// The layer that writes what the next block reads.
    source: String,
}

impl<'a> FusedBuilder<'a> {
    pub(crate) fn new(entrance: Folded, stem: Stem, numbers: Numbers<'a>) -> Result<Self> {
        let (entrance, border) = entrance.without_padding();
        let source = if stem == Stem::ImageNet { "maxpool" } else { "conv1" };
        let (dtype, quantization) = match numbers {
            Numbers::Float(dtype) => (dtype, None),
            Numbers::Quantized(ranges) => {
                // Images have signs, which maps that a convolution reads in eight bits have not.
                let half = fused_dtype_is_supported(DType::BF16);
                (if half { DType::BF16 } else { DType::F32 }, Some(ranges.quantization(source)?))
            }
        };
        Ok(FusedBuilder {
            numbers,
            dtype,
            quantization,
            entrance: entrance.pack_for_images(dtype)?,
            border,
            stem,
            blocks: Vec::new(),
            source: source.into(),
        })
    }

    /// Adds block `i` of stage `s`, both from 0.
    pub(crate) fn add(&mut self, s: usize, i: usize, block: &Block) -> Result<()> {
        let name = format!("layer{}.{i}", s + 1);
        let (folded, projection) = block.fold()?;
        let pack = |folded: Folded| folded.pack(self.numbers, &self.source, &format!("{name}.downsample.0"));
        let shortcut = projection.map(pack).transpose()?;
        let mut convs = Vec::new();
        for (j, folded) in folded.iter().enumerate() {
            let to = format!("{name}.conv{}", j + 1);
            convs.push(folded.pack(self.numbers, &self.source, &to)?);
            self.source = to;
        }
        self.blocks.push(FusedBlock { name, starts_stage: i == 0, convs, shortcut });
        Ok(())
    }

    /// Adds the last layer.
    pub(crate) fn finish(self, (weight, bias): &(Tensor, Tensor)) -> Result<Fused> {
        let FusedBuilder { dtype, quantization, entrance, border, stem, blocks, .. } = self;
        let (classes, features) = weight.dims2()?;
        let weight = weight.detach().reshape((classes, features, 1, 1))?;
        Ok(Fused {
            entrance,
            border,
            stem,
            last_stage: blocks.iter().rposition(|block| block.starts_stage).unwrap_or(0),
            blocks,
            fc: FusedConv::new(&weight, &bias.detach(), &Conv2dConfig::default(), DType::F32)?,
            classes,
            dtype,
            quantization,
            buffers: Mutex::default(),
        })
    }
}
