//! The inference form of a network.

use crate::block::Block;
use crate::config::Stem;
use crate::layers::Folded;
use crate::network::{entrance, head};
use crate::{Config, Error, Result};
use candle_core::Tensor;
use candle_nn::VarBuilder;
use resnext_ops::{Activations, Conv2dConfig, FusedConv, Pool2dConfig};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A network for inference on the CPU, in f32: batch norm folded into packed convolutions, bias, residual and
/// ReLU in their passes, and buffers that are kept. Whatever the form it was trained in, it runs form (c).
#[derive(Debug)]
pub struct Fused {
    entrance: FusedConv,
    /// Zeros around the image, which the first convolution then need not look for.
    border: usize,
    stem: Stem,
    blocks: Vec<FusedBlock>,
    fc: FusedConv,
    classes: usize,
    /// One set for each call there ever was at the same time.
    buffers: Mutex<Vec<Buffers>>,
}

/// A block in form (c).
#[derive(Debug)]
pub(crate) struct FusedBlock {
    name: String,
    convs: [FusedConv; 3],
    shortcut: Option<FusedConv>,
}

/// What a forward pass writes to.
#[derive(Debug, Default)]
struct Buffers {
    x: Activations,
    y: Activations,
    inner: [Activations; 2],
    shortcut: Activations,
}

impl Fused {
    /// Builds the network of `config` from the weights under `vb`, f32, and fuses it block by block: a
    /// block's unpacked weights are gone when the next one's are read.
    ///
    /// # Errors
    /// If the configuration is invalid, or a weight is missing, of the wrong shape or not f32.
    pub fn new(config: &Config, vb: VarBuilder) -> Result<Self> {
        config.validate()?;
        let (conv1, bn1) = entrance(config, &vb)?;
        let mut blocks = Vec::new();
        for (s, sizes) in config.blocks().iter().enumerate() {
            for (i, size) in sizes.iter().enumerate() {
                let block = Block::new(size, config, vb.pp(format!("layer{}", s + 1)).pp(i))?;
                blocks.push(FusedBlock::new(s, i, &block)?);
            }
        }
        Fused::assemble(conv1.fold(&bn1)?, config.stem, blocks, &head(config, &vb)?)
    }

    pub(crate) fn assemble(
        entrance: Folded,
        stem: Stem,
        blocks: Vec<FusedBlock>,
        (weight, bias): &(Tensor, Tensor),
    ) -> Result<Self> {
        let (entrance, border) = entrance.without_padding();
        let (classes, features) = weight.dims2()?;
        let weight = weight.detach().reshape((classes, features, 1, 1))?;
        Ok(Fused {
            entrance: entrance.pack()?,
            border,
            stem,
            blocks,
            fc: FusedConv::new(&weight, &bias.detach(), &Conv2dConfig::default())?,
            classes,
            buffers: Mutex::default(),
        })
    }

    /// Logits (N, classes) of images `x` (N, 3, H, W), f32. NaN in an image makes its logits NaN; no images
    /// give no logits.
    ///
    /// # Errors
    /// If `x` is not (N, 3, H, W) of f32.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_observed(x, &mut |_, _| {})
    }

    /// [`forward`](Self::forward), which tells `observe` the time each layer took, by the names of
    /// [`Summary`](crate::Summary).
    ///
    /// # Errors
    /// As `forward`.
    pub fn forward_observed(&self, x: &Tensor, observe: &mut dyn FnMut(&str, Duration)) -> Result<Tensor> {
        let n = match x.dims() {
            &[n, 3, h, w] if h > 0 && w > 0 => n,
            _ => return Err(Error::Input(x.shape().clone())),
        };
        let free = self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffers = free.unwrap_or_default();
        let mut logits = Vec::with_capacity(n);
        // Image by image: then maps stay in the caches from one layer to the next.
        for i in 0..n {
            logits.push(self.run(&x.narrow(0, i, 1)?, &mut buffers, observe)?);
        }
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).push(buffers);
        match logits.is_empty() {
            true => Ok(Tensor::zeros((0, self.classes), x.dtype(), x.device())?),
            false => Ok(Tensor::cat(&logits, 0)?),
        }
    }

    fn run(
        &self,
        image: &Tensor,
        buffers: &mut Buffers,
        observe: &mut dyn FnMut(&str, Duration),
    ) -> Result<Tensor> {
        let mut clock = Instant::now();
        let mut done = |name: &str| {
            let now = Instant::now();
            observe(name, now - std::mem::replace(&mut clock, now));
        };
        let Buffers { x, y, inner: [first, second], shortcut } = buffers;
        y.load(image, self.border)?;
        done("input");
        self.entrance.forward(y, None, true, x)?;
        done("conv1");
        if self.stem == Stem::ImageNet {
            x.max_pool(&Pool2dConfig { kernel: 3, stride: 2, padding: 1 }, y)?;
            std::mem::swap(x, y);
            done("maxpool");
        }
        for FusedBlock { name, convs, shortcut: projection } in &self.blocks {
            convs[0].forward(x, None, true, first)?;
            done(&format!("{name}.conv1"));
            convs[1].forward(first, None, true, second)?;
            done(&format!("{name}.conv2"));
            let residual = match projection {
                Some(projection) => {
                    projection.forward(x, None, false, shortcut)?;
                    done(&format!("{name}.downsample.0"));
                    &*shortcut
                }
                None => &*x,
            };
            convs[2].forward(second, Some(residual), true, y)?;
            done(&format!("{name}.conv3"));
            std::mem::swap(x, y);
        }
        x.global_avg_pool(first);
        done("avgpool");
        self.fc.forward(first, None, false, second)?;
        done("fc");
        Ok(second.to_tensor()?.reshape((1, self.classes))?)
    }

    /// Bytes of all packed weights.
    pub fn bytes(&self) -> usize {
        let block = |block: &FusedBlock| {
            block.convs.iter().chain(&block.shortcut).map(FusedConv::bytes).sum::<usize>()
        };
        self.entrance.bytes() + self.fc.bytes() + self.blocks.iter().map(block).sum::<usize>()
    }
}

impl FusedBlock {
    /// Block `i` of stage `s`, both from 0.
    pub(crate) fn new(s: usize, i: usize, block: &Block) -> Result<Self> {
        let name = format!("layer{}.{i}", s + 1);
        let ([a, b, c], shortcut) = block.fold()?;
        let shortcut = shortcut.map(|folded| folded.pack()).transpose()?;
        Ok(FusedBlock { name, convs: [a.pack()?, b.pack()?, c.pack()?], shortcut })
    }
}
