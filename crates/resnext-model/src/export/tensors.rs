//! A network's weights in form (c), and their safetensors file.

use crate::architecture::Architecture;
use crate::config::{Config, Form};
use crate::convert::Tensors;
use crate::description::Description;
use crate::error::{Error, Result};
use crate::weights::Weights;
use candle_core::{DType, Device, Tensor};
use std::collections::{BTreeMap, HashMap};

/// A network's weights, in form (c) where there are forms, under torchvision's or timm's names, to be written for other
/// programs.
#[derive(Debug, Clone)]
pub struct Export {
    network: Architecture,
    tensors: Tensors,
    description: Option<Description>,
}

impl Export {
    /// Reads all weights of a file. Those of forms (a) and (b) are converted to form (c).
    ///
    /// # Errors
    /// The errors of [`Weights::network`] and [`of`](Self::of).
    pub fn new(weights: &Weights) -> Result<Self> {
        Self::of(weights, weights.network()?)
    }

    /// Reads all weights like [`new`](Self::new), for `network`, a [`Config`] or an [`Architecture`], which may have options
    /// that its weights do not show.
    ///
    /// # Errors
    /// The errors of [`Weights::in_form`] and [`Weights::all`].
    pub fn of(weights: &Weights, network: impl Into<Architecture>) -> Result<Self> {
        let (network, tensors) = match network.into() {
            Architecture::ResNext(config) => {
                let tensors = weights.in_form(&config, Form::C, &Device::Cpu)?;
                (Architecture::ResNext(Config { form: Form::C, ..config }), tensors)
            }
            baseline => {
                let tensors = weights.all(&baseline, &Device::Cpu)?;
                (baseline, tensors)
            }
        };
        Ok(Export { network, tensors, description: None })
    }

    /// Sets what the files say of the network's images and classes, so that programs which read that give the
    /// same results.
    pub fn describe(&mut self, description: Description) {
        self.description = Some(Description { network: self.network.clone(), ..description });
    }

    /// The metadata of an exported file.
    pub(super) fn metadata(&self) -> BTreeMap<String, String> {
        // Programs around PyTorch require this entry.
        let mut metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
        if let Some(description) = &self.description {
            metadata.insert(Description::KEY.to_string(), description.to_json());
        }
        metadata
    }

    /// The network, in form (c) where there are forms.
    pub fn network(&self) -> &Architecture {
        &self.network
    }

    /// The description of the network's images and classes, for the files.
    pub(super) fn description(&self) -> Option<&Description> {
        self.description.as_ref()
    }

    pub(super) fn tensor(&self, name: &str) -> Result<&Tensor> {
        let problem = || "no such weight".to_string();
        self.tensors.get(name).ok_or_else(|| Error::Convert { name: name.into(), problem: problem() })
    }

    /// The bytes of a safetensors file in `dtype`, F32, F16 or BF16, which `load_state_dict(…, strict=True)`
    /// of torchvision and timm takes. For that it has a `num_batches_tracked` of 0 for each batch norm.
    ///
    /// # Errors
    /// If `dtype` is another type, or a weight is beyond its range.
    pub fn safetensors(&self, dtype: DType) -> Result<Vec<u8>> {
        let mut tensors = BTreeMap::new();
        for (name, tensor) in &self.tensors {
            tensors.insert(name.clone(), narrowed(name, tensor, dtype)?);
            if let Some(norm) = name.strip_suffix("running_var") {
                tensors.insert(format!("{norm}num_batches_tracked"), Tensor::new(0i64, &Device::Cpu)?);
            }
        }
        let metadata: HashMap<String, String> = self.metadata().into_iter().collect();
        safetensors::serialize(tensors, Some(metadata)).map_err(|e| Error::Config(e.to_string()))
    }
}

/// Converts the weight `name` from f32 to `dtype`.
///
/// # Errors
/// If `dtype` is not F32, F16 or BF16, or cannot hold a value of the weight.
pub(super) fn narrowed(name: &str, tensor: &Tensor, dtype: DType) -> Result<Tensor> {
    if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
        return Err(Error::Config(format!("weights are written as F32, F16 or BF16, not {dtype:?}")));
    }
    let largest = tensor.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
    if dtype == DType::F16 && largest > half::f16::MAX.to_f32() {
        let problem =
            format!("expected values up to {}, got {largest}, which F16 cannot hold", half::f16::MAX);
        return Err(Error::Convert { name: name.into(), problem });
    }
    Ok(tensor.to_dtype(dtype)?)
}
