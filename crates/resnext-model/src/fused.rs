//! The inference form of a network.

use crate::block::Block;
use crate::config::Stem;
use crate::layers::Folded;
use crate::network::{entrance, head};
use crate::{Config, Error, Result};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use resnext_ops::{Activations, Conv2dConfig, Crew, FusedConv, Fusion, Pool2dConfig};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A network for inference on the CPU: batch norm folded into packed convolutions, bias, residual and ReLU in
/// their passes, and buffers that are kept. Whatever the form it was trained in, it runs form (c).
///
/// In f32, or in bf16 where [`fused_dtype_is_supported`](resnext_ops::fused_dtype_is_supported) says so: then
/// maps and the convolutions' weights are bf16, and sums, pooling and the last layer f32.
#[derive(Debug)]
pub struct Fused {
    entrance: FusedConv,
    /// Zeros around the image, which the first convolution then need not look for.
    border: usize,
    stem: Stem,
    blocks: Vec<FusedBlock>,
    fc: FusedConv,
    classes: usize,
    dtype: DType,
    /// One set for each call there ever was at the same time.
    buffers: Mutex<Vec<Buffers>>,
}

/// A block in form (c).
#[derive(Debug)]
pub(crate) struct FusedBlock {
    name: String,
    /// First to last.
    convs: Vec<FusedConv>,
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
    /// Builds the network of `config` from the weights under `vb`, f32, and fuses it block by block, to
    /// compute in `dtype`: a block's unpacked weights are gone when the next one's are read.
    ///
    /// # Errors
    /// If the configuration is invalid, a weight is missing, of the wrong shape or not f32, or this machine
    /// can't compute in `dtype`.
    pub fn new(config: &Config, vb: VarBuilder, dtype: DType) -> Result<Self> {
        config.validate()?;
        let (conv1, bn1) = entrance(config, &vb)?;
        let mut blocks = Vec::new();
        for (s, sizes) in config.blocks().iter().enumerate() {
            for (i, size) in sizes.iter().enumerate() {
                let block = Block::new(size, config, vb.pp(format!("layer{}", s + 1)).pp(i))?;
                blocks.push(FusedBlock::new(s, i, &block, dtype)?);
            }
        }
        Fused::assemble(conv1.fold(&bn1)?, config.stem, blocks, &head(config, &vb)?, dtype)
    }

    pub(crate) fn assemble(
        entrance: Folded,
        stem: Stem,
        blocks: Vec<FusedBlock>,
        (weight, bias): &(Tensor, Tensor),
        dtype: DType,
    ) -> Result<Self> {
        let (entrance, border) = entrance.without_padding();
        let (classes, features) = weight.dims2()?;
        let weight = weight.detach().reshape((classes, features, 1, 1))?;
        Ok(Fused {
            entrance: entrance.pack(dtype)?,
            border,
            stem,
            blocks,
            fc: FusedConv::new(&weight, &bias.detach(), &Conv2dConfig::default(), DType::F32)?,
            classes,
            dtype,
            buffers: Mutex::default(),
        })
    }

    /// The type it computes in.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Logits (N, classes), f32, of images `x` (N, 3, H, W), f32. NaN in an image makes its logits NaN; no
    /// images give no logits.
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
        let logits = Crew::run(|crew| -> Result<Tensor> {
            // Image by image: then maps stay in the caches from one layer to the next.
            let mut features = Vec::new();
            for i in 0..n {
                features.extend(self.features(crew, &x.narrow(0, i, 1)?, &mut buffers, observe)?);
            }
            // All at once: there are more weights than anything else.
            let start = Instant::now();
            let Buffers { x, y, .. } = &mut buffers;
            let features = Tensor::from_vec(features, (n, self.fc.channels(), 1, 1), &Device::Cpu)?;
            x.load(crew, &features, DType::F32, 0)?;
            self.fc.forward(crew, x, Fusion::default(), y)?;
            let logits = y.to_tensor()?.reshape((n, self.classes))?;
            observe("fc", start.elapsed());
            Ok(logits)
        })?;
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).push(buffers);
        Ok(logits)
    }

    /// What the last layer sees of one image.
    fn features(
        &self,
        crew: &Crew,
        image: &Tensor,
        buffers: &mut Buffers,
        observe: &mut dyn FnMut(&str, Duration),
    ) -> Result<Vec<f32>> {
        let mut clock = Instant::now();
        let mut done = |name: &str| {
            let now = Instant::now();
            observe(name, now - std::mem::replace(&mut clock, now));
        };
        let Buffers { x, y, inner: [first, second], shortcut } = buffers;
        y.load(crew, image, self.dtype, self.border)?;
        done("input");
        let relu = Fusion { relu: true, ..Default::default() };
        self.entrance.forward(crew, y, relu, x)?;
        done("conv1");
        if self.stem == Stem::ImageNet {
            x.max_pool(crew, &Pool2dConfig { kernel: 3, stride: 2, padding: 1 }, y)?;
            std::mem::swap(x, y);
            done("maxpool");
        }
        for (i, block) in self.blocks.iter().enumerate() {
            let FusedBlock { name, convs, shortcut: projection } = block;
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
                } else {
                    let residual = match projection {
                        Some(projection) => {
                            projection.forward(crew, x, Fusion::default(), shortcut)?;
                            done(&format!("{name}.downsample.0"));
                            &*shortcut
                        }
                        None => &*x,
                    };
                    let fusion = Fusion { residual: Some(residual), ahead: &next, ..relu };
                    conv.forward(crew, source, fusion, y)?;
                }
                done(&format!("{name}.conv{}", j + 1));
            }
            std::mem::swap(x, y);
        }
        let features = x.global_avg_pool();
        done("avgpool");
        Ok(features)
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
    pub(crate) fn new(s: usize, i: usize, block: &Block, dtype: DType) -> Result<Self> {
        let name = format!("layer{}.{i}", s + 1);
        let (convs, shortcut) = block.fold()?;
        let convs = convs.iter().map(|folded| folded.pack(dtype)).collect::<Result<_>>()?;
        Ok(FusedBlock { name, convs, shortcut: shortcut.map(|folded| folded.pack(dtype)).transpose()? })
    }
}
