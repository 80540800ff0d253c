//! How many views of each image are judged: the image, also its mirror image, or ten crops.

use crate::loaders::Loaders;
use anyhow::Result;
use candle_core::Tensor;
use candle_nn::ops::{log_softmax, softmax};
use clap::ValueEnum;
use resnext_data::CropPosition;
use resnext_train::{Batches, Data};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Views {
    /// The central crop
    One,
    /// The central crop and its mirror image
    Flip,
    /// The corners, the centre and their mirror images
    Ten,
}

impl Views {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Views::One => "one",
            Views::Flip => "flip",
            Views::Ten => "ten",
        }
    }

    /// The crops of each image; the first one's of all images of a batch come first.
    fn crops(self) -> usize {
        if self == Views::Ten { CropPosition::FIVE.len() } else { 1 }
    }

    /// The test batches: the crops (V·N, 3, H, W) of N images, and their labels (N).
    pub fn batches(self, loaders: &Loaders) -> Result<Batches<'_>> {
        match self {
            Views::One | Views::Flip => Ok(loaders.test()),
            Views::Ten => loaders.test_crops(&CropPosition::FIVE),
        }
    }

    /// Gives each image (N, K) the logarithm of the mean of its views' probabilities; of one view, its logits.
    /// `images` are crops as in [`batches`](Self::batches).
    pub fn judge(
        self,
        images: &Tensor,
        forward: impl Fn(&Tensor) -> resnext_model::Result<Tensor>,
    ) -> resnext_model::Result<Tensor> {
        let logits = forward(images)?;
        if self == Views::One {
            return Ok(logits);
        }
        let mirrored = forward(&images.contiguous()?.flip(&[3])?)?;
        let probabilities = ((softmax(&logits, 1)? + softmax(&mirrored, 1)?)? * 0.5)?;
        let (rows, classes) = probabilities.dims2()?;
        let crops = self.crops();
        let mean = probabilities.reshape((crops, rows / crops, classes))?.mean(0)?;
        // A probability that has vanished in every view has a logarithm, too.
        Ok(log_softmax(&mean.maximum(f32::MIN_POSITIVE)?.log()?, 1)?)
    }
}
