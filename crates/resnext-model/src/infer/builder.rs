//! How the inference form is built: from a trained network, or from weights, block by block.

use super::network::Fused;
use super::stage::{FusedBlock, FusedStage};
use crate::block::{Block, FoldedBlock};
use crate::calibration::Ranges;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::folded::{FoldedConv, InferenceType};
use crate::layer_names;
use crate::layers::{BatchNorm, Conv, head, stem};
use crate::network::ResNext;
use crate::pools::StemPool;
use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use resnext_ops::{Conv2dConfig, FusedConv, Quantization, bf16_is_native};
use std::sync::Mutex;

impl Fused {
    /// Builds the network of `config` from the weights under `vb`, f32, to compute in `dtype`, F32 or BF16.
    /// It does so block by block, and drops the unpacked weights of a block before it reads those of the
    /// next.
    ///
    /// # Errors
    /// If the configuration is invalid, a weight is missing, of the wrong shape or not f32, or this machine
    /// cannot compute in `dtype`.
    pub fn new(config: &Config, vb: VarBuilder, dtype: DType) -> Result<Self> {
        Self::build(config, vb, InferenceType::Float(dtype))
    }

    /// Builds the network like [`new`](Self::new), but to compute in int8, with feature maps in `ranges`: those that a
    /// network of the same weights in f32 or bf16 has found by [`calibrate`](Self::calibrate).
    ///
    /// # Errors
    /// The same as [`new`](Self::new); also if the range of a map is missing, or signed where the map has no negative
    /// numbers, or if a weight is not finite, or too large for the ranges.
    pub fn quantized(config: &Config, vb: VarBuilder, ranges: &Ranges) -> Result<Self> {
        Self::build(config, vb, InferenceType::Int8(ranges))
    }

    fn build(config: &Config, vb: VarBuilder, dtype: InferenceType) -> Result<Self> {
        config.validate()?;
        let mut builder = FusedBuilder::new(config, &stem(config, &vb)?, dtype)?;
        for (s, sizes) in config.blocks().iter().enumerate() {
            for (i, size) in sizes.iter().enumerate() {
                builder.add(s, i, &Block::new(size, config, vb.pp(layer_names::block(s, i)))?)?;
            }
        }
        builder.finish(&head(config, &vb)?)
    }
}

impl ResNext {
    /// The inference form in f32, with the weights as they are now: several times faster on a CPU.
    ///
    /// # Errors
    /// If the network is not f32.
    pub fn fuse(&self) -> Result<Fused> {
        self.fuse_to(DType::F32)
    }

    /// The inference form that computes in `dtype`, F32 or BF16.
    ///
    /// # Errors
    /// If the network is not f32, or this machine cannot compute in `dtype`.
    pub fn fuse_to(&self, dtype: DType) -> Result<Fused> {
        self.fuse_as(InferenceType::Float(dtype))
    }

    /// The inference form that computes in int8, like [`Fused::quantized`].
    ///
    /// # Errors
    /// The errors of [`Fused::quantized`].
    pub fn fuse_quantized(&self, ranges: &Ranges) -> Result<Fused> {
        self.fuse_as(InferenceType::Int8(ranges))
    }

    fn fuse_as(&self, dtype: InferenceType) -> Result<Fused> {
        let mut builder = FusedBuilder::new(&self.config, &self.stem, dtype)?;
        for (s, stage) in self.stages().iter().enumerate() {
            for (i, block) in stage.iter().enumerate() {
                builder.add(s, i, block)?;
            }
        }
        builder.finish(&self.fc)
    }
}

/// Builds a [`Fused`] network block by block.
struct FusedBuilder<'a> {
    dtype: InferenceType<'a>,
    /// The type of the first convolution and the last layer.
    ends_dtype: DType,
    quantization: Option<Quantization>,
    entrance: FusedConv,
    border: usize,
    stem: Vec<(String, FusedConv)>,
    stem_pool: StemPool,
    stages: Vec<FusedStage>,
    /// The layer whose output the next block reads.
    source: String,
}

impl<'a> FusedBuilder<'a> {
    fn new(config: &Config, stem: &[(Conv, BatchNorm)], dtype: InferenceType<'a>) -> Result<Self> {
        let stem_pool = config.stem_pool();
        let mut layers = stem.iter().map(|(conv, bn)| conv.fold(bn));
        let first = layers.next().ok_or_else(|| Error::Config("a stem without convolutions".into()))??;
        let (entrance, border) = first.without_padding();
        let source = if stem_pool == StemPool::None { "conv1" } else { "maxpool" };
        let (ends_dtype, quantization) = match dtype {
            InferenceType::Float(dtype) => (dtype, None),
            InferenceType::Int8(ranges) => {
                config.check_int8()?;
                // Images are signed, and int8 convolutions read unsigned maps.
                (if bf16_is_native() { DType::BF16 } else { DType::F32 }, Some(ranges.quantization(source)?))
            }
        };
        let others = layers.enumerate().map(|(i, layer)| {
            // timm's names: batch norms and ReLUs are numbered too.
            Ok((format!("conv1.{}", 3 * (i + 1)), layer?.pack(InferenceType::Float(ends_dtype), "", "")?))
        });
        Ok(FusedBuilder {
            dtype,
            ends_dtype,
            quantization,
            entrance: entrance.pack_for_images(ends_dtype)?,
            border,
            stem: others.collect::<Result<_>>()?,
            stem_pool,
            stages: Vec::new(),
            source: source.into(),
        })
    }

    /// Adds block `i` of stage `s`, both counted from 0, after those added before.
    fn add(&mut self, s: usize, i: usize, block: &Block) -> Result<()> {
        let name = layer_names::block(s, i);
        let FoldedBlock {
            convs: folded,
            anti_alias,
            attention,
            projection,
            projection_layer,
            pooled_shortcut,
        } = block.fold()?;
        let pack =
            |folded: FoldedConv| folded.pack(self.dtype, &self.source, &format!("{name}.{projection_layer}"));
        let projection = projection.map(pack).transpose()?;
        let stride_in_middle = folded[0].stride() == 1 && folded.iter().any(|conv| conv.stride() > 1);
        let mut convs = Vec::new();
        for (j, folded) in folded.iter().enumerate() {
            let to = format!("{name}.conv{}", j + 1);
            convs.push(folded.pack(self.dtype, &self.source, &to)?);
            self.source = to;
        }
        let mut convs = convs.into_iter();
        let (Some(first), Some(second), third) = (convs.next(), convs.next(), convs.next()) else {
            return Err(Error::Config(format!("expected two or three convolutions in {name}")));
        };
        let (middle, last) = match third {
            Some(third) => (Some(second), third),
            None => (None, second),
        };
        if i == 0 {
            let projection = projection.map(|conv| (format!("{name}.{projection_layer}"), conv));
            self.stages.push(FusedStage {
                projection,
                pooled_shortcut,
                stride_in_middle,
                blocks: Vec::new(),
            });
        }
        if let Some(stage) = self.stages.last_mut() {
            stage.blocks.push(FusedBlock {
                name,
                first,
                middle,
                last,
                anti_alias,
                attention,
                residual: block.is_residual(),
            });
        }
        Ok(())
    }

    /// Adds the last layer: weight (classes, features) and bias (classes).
    fn finish(self, (weight, bias): &(Tensor, Tensor)) -> Result<Fused> {
        let FusedBuilder { ends_dtype, quantization, entrance, border, stem, stem_pool, stages, .. } = self;
        let (classes, features) = weight.dims2()?;
        let weight = weight.detach().reshape((classes, features, 1, 1))?;
        Ok(Fused {
            entrance,
            border,
            stem,
            stem_pool,
            stages,
            fc: FusedConv::writing_f32(&weight, &bias.detach(), &Conv2dConfig::default(), ends_dtype)?,
            classes,
            dtype: ends_dtype,
            quantization,
            buffers: Mutex::default(),
        })
    }
}
