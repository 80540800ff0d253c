//! The network that is evaluated: its training form, from which the inference form is made.

use crate::dtype_arg::{Dtype, file_of};
use crate::inference_network::InferenceNetwork;
use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use resnext_model::{
    Architecture, BaselineNetwork, Config, Form, Head, Pretrained, Ranges, ResNext, Weights,
};
use std::path::Path;

pub struct Network {
    pub architecture: Architecture,
    form: TrainingForm,
    weights: Weights,
}

enum TrainingForm {
    ResNext(Box<ResNext>),
    Baseline(Box<BaselineNetwork>),
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
        let weights = pretrained.weights.clone();
        let (architecture, form) = match expected.with_classes(classes) {
            Architecture::Baseline { baseline, classes } if form.is_none() => {
                let architecture = Architecture::Baseline { baseline, classes };
                weights.check(&architecture, Head::Loaded)?;
                let network = BaselineNetwork::new(baseline, classes, weights.builder(DType::F32, device))?;
                (architecture, TrainingForm::Baseline(Box::new(network)))
            }
            expected => {
                let config = expected.config()?;
                let found = pretrained.network.config().map_or(config.form, |found| found.form);
                let form = form.unwrap_or(found);
                let tensors = weights.in_form(&Config { form: found, ..config.clone() }, form, device)?;
                let config = Config { form, ..config.clone() };
                let builder = VarBuilder::from_tensors(tensors.into_iter().collect(), DType::F32, device);
                let network = ResNext::new(&config, builder)?;
                (Architecture::ResNext(config), TrainingForm::ResNext(Box::new(network)))
            }
        };
        Ok(Network { architecture, form, weights })
    }

    /// The logits (N, classes) of images (N, 3, H, W).
    pub fn forward(&self, images: &Tensor) -> resnext_model::Result<Tensor> {
        match &self.form {
            TrainingForm::ResNext(network) => network.forward(images, false),
            TrainingForm::Baseline(network) => network.forward(images, false),
        }
    }

    /// The inference form, with the result of [`Dtype::ranges`] for the file `ranges_file`.
    pub fn fuse(
        &self,
        dtype: Dtype,
        ranges: Option<&Ranges>,
        ranges_file: Option<&Path>,
    ) -> Result<InferenceNetwork> {
        Ok(match (&self.form, ranges) {
            (TrainingForm::ResNext(network), Some(ranges)) => {
                let fused = network.fuse_quantized(ranges);
                fused.with_context(|| file_of(ranges_file))?.into()
            }
            (TrainingForm::ResNext(network), None) => network.fuse_to(dtype.into())?.into(),
            (TrainingForm::Baseline(_), _) => {
                let builder = self.weights.builder(DType::F32, &Device::Cpu);
                InferenceNetwork::new(&self.architecture, builder, dtype, ranges)?
            }
        })
    }
}
