//! Transfer learning and inspection: class activation maps, and frozen stages.

use crate::error::{Error, Result};
use crate::layer_names;
use crate::network::ResNext;
use candle_core::{D, Tensor};
use resnext_ops::{global_avg_pool, linear};

impl ResNext {
    /// Logits (N, classes) of images `x` (N, 3, H, W), and where in each image the evidence for `class` lies:
    /// Grad-CAM (Selvaraju et al., arXiv 1610.02391) of the last stage, (N, ⌈H/stride⌉, ⌈W/stride⌉), scaled
    /// so that each image's largest value is 1. An image without evidence for the class is 0 everywhere.
    /// `None` stands for each image's most likely class.
    ///
    /// Only an average and a linear layer follow the last stage, so the gradient of a logit with respect to
    /// the map is the layer's weight divided by the number of pixels, and takes no backward pass (section 3.1
    /// of that paper).
    ///
    /// # Errors
    /// The errors of [`forward`](Self::forward), and if `class` is not below the number of classes.
    pub fn grad_cam(&self, x: &Tensor, class: Option<usize>) -> Result<(Tensor, Tensor)> {
        let maps = self.stage_maps(x, false)?;
        let last = maps.last().ok_or_else(|| Error::Config("no stages".into()))?.detach();
        let (weight, bias) = (self.fc.0.detach(), self.fc.1.detach());
        let logits = linear(&global_avg_pool(&last)?, &weight, Some(&bias))?;
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
        // The smallest positive number keeps 0 / 0 from being NaN.
        let largest = (evidence.max_keepdim(1)? + f64::from(f32::MIN_POSITIVE))?;
        Ok((logits, evidence.broadcast_div(&largest)?.reshape((n, h, w))?))
    }

    /// Freezes the stem and the first `stages` stages: training then uses the running statistics of their
    /// batch norms, computes no gradients for them and keeps nothing for a backward pass. `None` unfreezes
    /// everything.
    pub fn freeze(&mut self, stages: Option<usize>) {
        self.frozen = stages;
    }

    /// Freezes the running statistics of all batch norms, or unfreezes them: training then normalises by them
    /// and leaves them as they are. An optimizer must leave out the norms' scales and shifts itself. Blocks
    /// are not computed as one fused operation then.
    pub fn freeze_norms(&mut self, frozen: bool) {
        self.frozen_norms = frozen;
    }

    /// Whether the weight `name` lies in a frozen part, so that an optimizer must leave it out.
    pub fn is_frozen(&self, name: &str) -> bool {
        let Some(frozen) = self.frozen else { return false };
        match layer_names::stage_number(name) {
            Some(stage) => stage <= frozen,
            None => !layer_names::is_head(name),
        }
    }
}
