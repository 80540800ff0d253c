//! The network that is evaluated: its training form, from which the inference form is made.

use crate::dtype_arg::{Dtype, file_of};
use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use resnext_model::{AnyFused, AnyNetwork, Architecture, Config, Form, Head, Pretrained, Ranges};
use std::path::Path;

pub struct Network {
    pub architecture: Architecture,
    network: AnyNetwork,
}

impl Network {
    /// The network with the pretrained weights, which must have the data set's number of classes. `model` is the name
    /// that it must have, and `form` that of its blocks, if they are given.
    pub fn new(
        (model, form): (Option<&str>, Option<Form>),
        pretrained: &Pretrained,
        classes: usize,
        device: &Device,
    ) -> Result<Self> {
        let expected = match model {
            Some(name) => Architecture::by_name(name)?,
            None => pretrained.network.clone(),
        };
        let weights = &pretrained.weights;
        let (architecture, builder) = match expected.with_classes(classes) {
            baseline @ Architecture::Baseline { .. } if form.is_none() => {
                weights.check(&baseline, Head::Loaded)?;
                (baseline, weights.builder(DType::F32, device))
            }
            expected => {
                let config = expected.config()?;
                let found = pretrained.network.config().map_or(config.form, |found| found.form);
                let form = form.unwrap_or(found);
                let tensors = weights.in_form(&Config { form: found, ..config.clone() }, form, device)?;
                let builder = VarBuilder::from_tensors(tensors.into_iter().collect(), DType::F32, device);
                (Config { form, ..config.clone() }.into(), builder)
            }
        };
        let network = AnyNetwork::new(&architecture, builder)?;
        Ok(Network { architecture, network })
    }

    /// The logits (N, classes) of images (N, 3, H, W).
    pub fn forward(&self, images: &Tensor) -> resnext_model::Result<Tensor> {
        self.network.forward(images, false)
    }

    /// The inference form, with the result of [`Dtype::ranges`] for the file `ranges_file`.
    pub fn fuse(
        &self,
        dtype: Dtype,
        ranges: Option<&Ranges>,
        ranges_file: Option<&Path>,
    ) -> Result<AnyFused> {
        let Some(ranges) = ranges else { return Ok(self.network.fuse_to(dtype.into())?) };
        // For a network without int8, its error.
        self.architecture.config()?;
        let network = self.network.resnext().context("int8 is for ResNets and ResNeXts")?;
        Ok(network.fuse_quantized(ranges).with_context(|| file_of(ranges_file))?.into())
    }
}
