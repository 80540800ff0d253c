//! What a network gives to other tasks: maps of what it looked at, parts that are not trained.
//!
//! The stage maps that detection and segmentation want are [`ResNext::stage_maps`]; their strides and channels
//! are [`Config::strides`](crate::config::Config::strides) and
//! [`Config::channels`](crate::config::Config::channels).

use crate::error::{Error, Result};
use crate::network::ResNext;
use candle_core::{D, Tensor};
use resnext_ops::global_avg_pool;

impl ResNext {
    /// Logits (N, classes) of images `x` (N, 3, H, W), and what speaks for `class` where in each: Grad-CAM
    /// (Selvaraju et al., arXiv 1610.02391) of the last stage, (N, H/stride, W/stride), from 0 to the image's
    /// largest, which is 1. No class means each image's most likely one.
    ///
    /// Behind the last stage there are only an average and a linear layer, so a logit's gradient with respect to
    /// the map is the layer's weight over the number of pixels, and needs no backward pass (the paper's section
    /// 3.1).
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward), and if there is no such class.
    pub fn grad_cam(&self, x: &Tensor, class: Option<usize>) -> Result<(Tensor, Tensor)> {
        let maps = self.stage_maps(x, false)?;
        let last = maps.last().ok_or_else(|| Error::Config("no stages".into()))?.detach();
        let (weight, bias) = (self.fc.0.detach(), self.fc.1.detach());
        let logits = resnext_ops::linear(&global_avg_pool(&last)?, &weight, Some(&bias))?;
        let classes = weight.dim(0)?;
        let of = match class {
            Some(class) if class >= classes => {
                return Err(Error::Config(format!("class must be below {classes}, got {class}")));
            }
            Some(class) => Tensor::full(class as u32, x.dim(0)?, x.device())?,
            None => logits.argmax(D::Minus1)?,
        };
        // (N, 1, features) · (N, features, pixels)
        let (n, _, h, w) = last.dims4()?;
        let weights = weight.index_select(&of, 0)?.unsqueeze(1)?;
        let evidence = weights.matmul(&last.contiguous()?.flatten_from(2)?)?.relu()?.reshape((n, h * w))?;
        // An image with nothing for the class is 0 everywhere.
        let largest = (evidence.max_keepdim(1)? + f64::from(f32::MIN_POSITIVE))?;
        Ok((logits, evidence.broadcast_div(&largest)?.reshape((n, h, w))?))
    }

    /// Keeps the stem and the first `stages` stages as they are from now on: batch norm there uses its running
    /// statistics, no gradient goes there, and nothing is kept for one. `None` frees all.
    pub fn freeze(&mut self, stages: Option<usize>) {
        self.frozen = stages;
    }

    /// Whether the weight of this name is in a frozen part, so none for an optimizer.
    pub fn is_frozen(&self, name: &str) -> bool {
        let Some(frozen) = self.frozen else { return false };
        let stage = name.strip_prefix("layer").and_then(|rest| rest.split_once('.')?.0.parse::<usize>().ok());
        match stage {
            Some(stage) => stage <= frozen,
            None => !name.starts_with("fc."),
        }
    }
}
