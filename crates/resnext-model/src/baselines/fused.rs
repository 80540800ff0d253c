//! A baseline for inference on a CPU: batch norm is folded into packed convolutions, and buffers are reused.

use super::baseline::Baseline;
use super::network::{BaselineNetwork, ConvLayer, Layer, head};
use crate::error::{Error, Result};
use crate::folded::InferenceType;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use resnext_ops::{
    AvgPool2dConfig, Conv2dConfig, FeatureMap, FusedConv, Fusion, InputImages, Pool2dConfig, ThreadTeam,
};
use std::borrow::Borrow;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A baseline for inference on a CPU, in f32 or bf16. All threads compute one image after the other.
#[derive(Debug)]
pub struct FusedBaseline {
    baseline: Baseline,
    entrance: FusedConv,
    entrance_name: String,
    /// The padding with which images are loaded, so that the first convolution needs none.
    border: usize,
    layers: Vec<PackedLayer>,
    head: FusedConv,
    classes: usize,
    /// Maps to write into, of the calls that ran before.
    free: Mutex<Vec<FeatureMap>>,
}

/// A layer with its weights packed.
#[derive(Debug)]
enum PackedLayer {
    Conv(PackedConv),
    MaxPool(Pool2dConfig),
    AvgPool(AvgPool2dConfig),
    AdaptiveAvgPool(usize),
    Sequence(Vec<PackedLayer>),
    Branches(Vec<PackedLayer>),
    Residual { branch: Box<PackedLayer>, conv: PackedConv, relu: bool },
}

#[derive(Debug)]
struct PackedConv {
    name: String,
    conv: FusedConv,
    /// The zeros around the map along rows and columns, if they differ.
    padding: Option<(usize, usize)>,
    relu: bool,
}

impl BaselineNetwork {
    /// The network for inference on a CPU in f32, from the current weights, which must be f32.
    ///
    /// # Errors
    /// If the weights are not f32, or on another device than the CPU.
    pub fn fuse(&self) -> Result<FusedBaseline> {
        self.fuse_to(DType::F32)
    }

    /// As [`fuse`](Self::fuse), to compute in `dtype`, F32 or BF16.
    ///
    /// # Errors
    /// Those of [`fuse`](Self::fuse), and if this machine cannot compute in `dtype`.
    pub fn fuse_to(&self, dtype: DType) -> Result<FusedBaseline> {
        let Layer::Sequence(layers) = &self.layers else {
            return Err(Error::Config("expected a sequence of layers".into()));
        };
        FusedBaseline::pack(self.baseline, layers, || Ok(self.head.clone()), dtype)
    }
}

impl FusedBaseline {
    /// Builds the network from the weights under `vb`, f32, to compute in `dtype`, F32 or BF16.
    ///
    /// # Errors
    /// If a weight is missing, of the wrong shape or not f32, or this machine cannot compute in `dtype`.
    pub fn new(baseline: Baseline, classes: usize, vb: VarBuilder, dtype: DType) -> Result<Self> {
        let Layer::Sequence(layers) = Layer::new(&baseline.layers(), baseline.eps(), &vb)? else {
            return Err(Error::Config("expected a sequence of layers".into()));
        };
        // Each layer's weights are dropped when they are packed.
        Self::pack(baseline, layers, || head(baseline, classes, &vb), dtype)
    }

    /// Packs layers one after the other, then the last one.
    fn pack<L: Borrow<Layer>>(
        baseline: Baseline,
        layers: impl IntoIterator<Item = L>,
        head: impl FnOnce() -> Result<(Tensor, Tensor)>,
        dtype: DType,
    ) -> Result<Self> {
        let mut layers = layers.into_iter();
        let first = layers.next();
        let Some(Layer::Conv(first)) = first.as_ref().map(Borrow::borrow) else {
            return Err(Error::Config("expected a convolution as the first layer".into()));
        };
        let (entrance, border) = first.fold(1.0)?.without_padding();
        let entrance_name = first.node.name.clone();
        let layers = layers.map(|layer| PackedLayer::new(layer.borrow(), dtype)).collect::<Result<_>>()?;
        let (weight, bias) = head()?;
        let (classes, features) = weight.dims2()?;
        let weight = weight.detach().reshape((classes, features, 1, 1))?;
        Ok(FusedBaseline {
            baseline,
            entrance_name,
            entrance: entrance.pack_for_images(dtype)?,
            border,
            layers,
            head: FusedConv::writing_f32(&weight, &bias.detach(), &Conv2dConfig::default(), dtype)?,
            classes,
            free: Mutex::default(),
        })
    }

    /// Logits (N, classes), f32, of images `x` (N, 3, H, W), f32.
    ///
    /// # Errors
    /// If `x` is not (N, 3, H, W) of f32, or too small for the network's pools.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.pass(x, &mut |_| {})
    }

    /// [`forward`](Self::forward), with a call of `observe` after each layer, which is given the time that the layer took
    /// and its name: a convolution's as in [`Baseline::summary`], another one's in words.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    pub fn forward_observed(&self, x: &Tensor, observe: &mut dyn FnMut(&str, Duration)) -> Result<Tensor> {
        let mut clock = Instant::now();
        self.pass(x, &mut |name| {
            let now = Instant::now();
            observe(name, now - std::mem::replace(&mut clock, now));
        })
    }

    /// [`forward`](Self::forward), with a call of `done` after each layer.
    fn pass(&self, x: &Tensor, done: &mut dyn FnMut(&str)) -> Result<Tensor> {
        match x.dims() {
            &[_, 3, h, w] if h > 0 && w > 0 => {}
            _ => return Err(Error::Input(x.shape().clone())),
        }
        let images = x.dim(0)?;
        let free = std::mem::take(&mut *self.free.lock().unwrap_or_else(PoisonError::into_inner));
        let mut pass = Pass { free, done };
        let logits = ThreadTeam::scope(|team| {
            let (mut loaded, mut features) = (InputImages::default(), Vec::new());
            for i in 0..images {
                loaded.load(team, &x.narrow(0, i, 1)?, self.entrance.input_format(), self.border)?;
                (pass.done)("input");
                let mut map = pass.take();
                let relu = Fusion { relu: true, ..Default::default() };
                self.entrance.forward_images(team, &loaded, relu, &mut map)?;
                (pass.done)(&self.entrance_name);
                let last = forward_all(&self.layers, team, map, &mut pass)?;
                features.extend(last.global_avg_pool());
                (pass.done)("global average");
                pass.give(last);
            }
            let shape = (images, self.head.channels(), 1, 1);
            let features = Tensor::from_vec(features, shape, &Device::Cpu)?;
            let (mut loaded, mut logits) = (pass.take(), pass.take());
            // In bf16, a CPU without instructions for it has f32 maps.
            loaded.load(team, &features, self.head.map_dtype())?;
            self.head.forward(team, &loaded, Fusion::default(), &mut logits)?;
            let result = logits.to_tensor()?.reshape((images, self.classes))?;
            pass.give(loaded);
            pass.give(logits);
            (pass.done)(self.baseline.head().0);
            Ok(result)
        });
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) = pass.free;
        logits
    }

    /// The size of all packed weights in bytes.
    pub fn bytes(&self) -> usize {
        self.entrance.bytes() + self.head.bytes() + self.layers.iter().map(PackedLayer::bytes).sum::<usize>()
    }
}

/// A pass through the layers.
struct Pass<'a> {
    /// Maps that nothing is in.
    free: Vec<FeatureMap>,
    /// Called after each layer with its name.
    done: &'a mut dyn FnMut(&str),
}

impl Pass<'_> {
    fn take(&mut self) -> FeatureMap {
        self.free.pop().unwrap_or_default()
    }

    fn give(&mut self, map: FeatureMap) {
        self.free.push(map);
    }
}

/// The output of one layer after the other.
fn forward_all(
    layers: &[PackedLayer],
    team: &ThreadTeam,
    mut map: FeatureMap,
    pass: &mut Pass,
) -> Result<FeatureMap> {
    for layer in layers {
        let next = layer.forward(team, &map, pass)?;
        pass.give(std::mem::replace(&mut map, next));
    }
    Ok(map)
}

impl PackedLayer {
    fn new(layer: &Layer, dtype: DType) -> Result<Self> {
        let all = |layers: &[Layer]| {
            layers.iter().map(|layer| PackedLayer::new(layer, dtype)).collect::<Result<Vec<_>>>()
        };
        Ok(match layer {
            Layer::Conv(conv) => PackedLayer::Conv(PackedConv::new(conv, 1.0, dtype)?),
            Layer::MaxPool(config) => PackedLayer::MaxPool(*config),
            Layer::AvgPool(config) => PackedLayer::AvgPool(*config),
            Layer::AdaptiveAvgPool(cells) => PackedLayer::AdaptiveAvgPool(*cells),
            Layer::Sequence(layers) => PackedLayer::Sequence(all(layers)?),
            Layer::Branches(layers) => PackedLayer::Branches(all(layers)?),
            Layer::Residual { branch, conv, scale, relu } => PackedLayer::Residual {
                branch: Box::new(PackedLayer::new(branch, dtype)?),
                conv: PackedConv::new(conv, *scale, dtype)?,
                relu: *relu,
            },
        })
    }

    /// The output for `input`, in a map from `free`.
    fn forward(&self, team: &ThreadTeam, input: &FeatureMap, pass: &mut Pass) -> Result<FeatureMap> {
        let mut out = match self {
            PackedLayer::Sequence(layers) => {
                let (first, rest) = layers.split_first().ok_or_else(|| Error::Config("no layers".into()))?;
                let map = first.forward(team, input, pass)?;
                return forward_all(rest, team, map, pass);
            }
            _ => pass.take(),
        };
        match self {
            PackedLayer::Sequence(_) => {}
            PackedLayer::Conv(conv) => {
                conv.forward(team, input, Fusion { relu: conv.relu, ..Default::default() }, &mut out, pass)?;
            }
            PackedLayer::MaxPool(config) => {
                input.max_pool(team, config, &mut out)?;
                (pass.done)("max pool");
            }
            PackedLayer::AvgPool(config) => {
                input.avg_pool(team, config, &mut out)?;
                (pass.done)("average pool");
            }
            PackedLayer::AdaptiveAvgPool(cells) => {
                input.adaptive_avg_pool(team, *cells, &mut out)?;
                (pass.done)("adaptive average pool");
            }
            PackedLayer::Branches(layers) => {
                let outputs = layers.iter().map(|layer| layer.forward(team, input, pass));
                let outputs = outputs.collect::<Result<Vec<_>>>()?;
                out.concat(team, &outputs.iter().collect::<Vec<_>>())?;
                (pass.done)("concatenation");
                outputs.into_iter().for_each(|output| pass.give(output));
            }
            PackedLayer::Residual { branch, conv, relu } => {
                let inner = branch.forward(team, input, pass)?;
                let fusion = Fusion { residual: Some(input), relu: *relu, ..Default::default() };
                conv.forward(team, &inner, fusion, &mut out, pass)?;
                pass.give(inner);
            }
        }
        Ok(out)
    }

    fn bytes(&self) -> usize {
        match self {
            PackedLayer::Conv(conv) => conv.conv.bytes(),
            PackedLayer::Sequence(layers) | PackedLayer::Branches(layers) => {
                layers.iter().map(PackedLayer::bytes).sum()
            }
            PackedLayer::Residual { branch, conv, .. } => branch.bytes() + conv.conv.bytes(),
            PackedLayer::MaxPool(_) | PackedLayer::AvgPool(_) | PackedLayer::AdaptiveAvgPool(_) => 0,
        }
    }
}

impl PackedConv {
    fn new(layer: &ConvLayer, scale: f64, dtype: DType) -> Result<Self> {
        let (rows, columns) = layer.node.padding;
        Ok(PackedConv {
            name: layer.node.name.clone(),
            conv: layer.fold(scale)?.pack(InferenceType::Float(dtype), "", "")?,
            padding: (rows != columns).then_some((rows, columns)),
            relu: layer.node.relu,
        })
    }

    fn forward(
        &self,
        team: &ThreadTeam,
        input: &FeatureMap,
        fusion: Fusion,
        out: &mut FeatureMap,
        pass: &mut Pass,
    ) -> Result<()> {
        match self.padding {
            None => self.conv.forward(team, input, fusion, out)?,
            Some((rows, columns)) => {
                let mut padded = pass.take();
                input.pad(team, rows, columns, &mut padded)?;
                self.conv.forward(team, &padded, fusion, out)?;
                pass.give(padded);
            }
        }
        (pass.done)(&self.name);
        Ok(())
    }
}
