//! How the inference form comes about: from a trained network, or from weights block by block.

use super::network::{Fused, FusedBlock, FusedStage};
use crate::block::Block;
use crate::calibration::Ranges;
use crate::config::{Config, Stem};
use crate::error::{Error, Result};
use crate::folded::{Folded, Numbers};
use crate::layers::{entrance, head};
use crate::network::ResNext;
use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use resnext_ops::{Conv2dConfig, FusedConv, Quantization, fused_dtype_is_supported};
use std::sync::Mutex;

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
}

impl ResNext {
    /// The inference form, f32: several times faster on a CPU, with the weights as they are now.
    ///
    /// # Errors
    /// If the network is not f32.
    pub fn fuse(&self) -> Result<Fused> {
        self.fuse_to(DType::F32)
    }

    /// The inference form that computes in `dtype`, f32 or bf16.
    ///
    /// # Errors
    /// If the network is not f32, or this machine can't compute in `dtype`.
    pub fn fuse_to(&self, dtype: DType) -> Result<Fused> {
        self.fuse_numbers(Numbers::Float(dtype))
    }

    /// The inference form that computes in eight bits: [`Fused::quantized`].
    ///
    /// # Errors
    /// As that.
    pub fn fuse_quantized(&self, ranges: &Ranges) -> Result<Fused> {
        self.fuse_numbers(Numbers::Quantized(ranges))
    }

    fn fuse_numbers(&self, numbers: Numbers) -> Result<Fused> {
        let mut builder = FusedBuilder::new(self.conv1.fold(&self.bn1)?, self.stem, numbers)?;
        for (s, stage) in self.stages().iter().enumerate() {
            for (i, block) in stage.iter().enumerate() {
                builder.add(s, i, block)?;
            }
        }
        builder.finish(&self.fc)
    }
}

/// A network in the making, block by block.
struct FusedBuilder<'a> {
    numbers: Numbers<'a>,
    dtype: DType,
    quantization: Option<Quantization>,
    entrance: FusedConv,
    border: usize,
    stem: Stem,
    stages: Vec<FusedStage>,
    /// The layer that writes what the next block reads.
    source: String,
}

impl<'a> FusedBuilder<'a> {
    fn new(entrance: Folded, stem: Stem, numbers: Numbers<'a>) -> Result<Self> {
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
            stages: Vec::new(),
            source: source.into(),
        })
    }

    /// Adds block `i` of stage `s`, both from 0, after those before it.
    fn add(&mut self, s: usize, i: usize, block: &Block) -> Result<()> {
        let name = format!("layer{}.{i}", s + 1);
        let (folded, projection) = block.fold()?;
        let pack = |folded: Folded| folded.pack(self.numbers, &self.source, &format!("{name}.downsample.0"));
        let projection = projection.map(pack).transpose()?;
        let smaller_later = folded[0].stride() == 1 && folded.iter().any(|conv| conv.stride() > 1);
        let mut convs = Vec::new();
        for (j, folded) in folded.iter().enumerate() {
            let to = format!("{name}.conv{}", j + 1);
            convs.push(folded.pack(self.numbers, &self.source, &to)?);
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
            self.stages.push(FusedStage { projection, smaller_later, blocks: Vec::new() });
        }
        if let Some(stage) = self.stages.last_mut() {
            stage.blocks.push(FusedBlock { name, first, middle, last });
        }
        Ok(())
    }

    /// Adds the last layer.
    fn finish(self, (weight, bias): &(Tensor, Tensor)) -> Result<Fused> {
        let FusedBuilder { dtype, quantization, entrance, border, stem, stages, .. } = self;
        let (classes, features) = weight.dims2()?;
        let weight = weight.detach().reshape((classes, features, 1, 1))?;
        Ok(Fused {
            entrance,
            border,
            stem,
            stages,
            fc: FusedConv::writing_f32(&weight, &bias.detach(), &Conv2dConfig::default(), dtype)?,
            classes,
            dtype,
            quantization,
            buffers: Mutex::default(),
        })
    }
}
