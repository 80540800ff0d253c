//! The examination of a trained network on the test images: counts of confused classes, and the worst mistakes.

use super::confusion::Confusion;
use crate::loaders::Loaders;
use anyhow::{Context, Result};
use candle_core::{DType, Tensor};
use resnext_data::heatmap::overlay;
use resnext_data::{Normalization, Photo, Window};
use resnext_model::AnyNetwork;
use resnext_train::{Batches, Data, Metrics, evaluate};

/// A test image that the network is wrong about.
pub struct Mistake {
    /// The image's file, or its number.
    pub name: String,
    pub label: usize,
    pub predicted: usize,
    /// The probability of the predicted class, from 0 to 1.
    pub confidence: f64,
    /// The image as the network sees it.
    pub photo: Photo,
    /// The same with Grad-CAM of the predicted class over it, of a ResNet or ResNeXt.
    pub heat: Option<Photo>,
}

pub struct Examination {
    pub metrics: Metrics,
    pub confusion: Confusion,
    /// The mistakes with the smallest probabilities of the right class, worst first.
    pub mistakes: Vec<Mistake>,
}

/// A mistake before its pictures are drawn.
struct Candidate {
    /// Its place among the test images that could be read.
    position: usize,
    /// The log-probability of the right class.
    log_probability: f64,
    label: usize,
    predicted: usize,
    confidence: f64,
    /// (1, 3, H, W).
    image: Tensor,
}

/// Examines `network` on the test images, which are normalised by `normalization`. Keeps at most `limit`
/// mistakes.
pub fn examine(
    network: &AnyNetwork,
    loaders: &Loaders,
    classes: usize,
    normalization: &Normalization,
    limit: usize,
) -> Result<Examination> {
    let mut confusion = Confusion::new(classes);
    let mut worst: Vec<Candidate> = Vec::new();
    let mut metrics = Metrics::default();
    // On a CPU the inference form is about three times as fast.
    let fused = network.fuse_to(DType::F32).ok();
    for batch in loaders.test() {
        let (images, labels) = batch?;
        let forward = |x: &Tensor| match &fused {
            Some(fused) => fused.forward(x),
            None => network.forward(x, false),
        };
        let before = metrics.count;
        let one: Batches = Box::new(std::iter::once(Ok((images.clone(), labels))));
        let of_batch = evaluate(forward, one, |_, logits, labels| {
            let rows = logits.to_dtype(DType::F64)?.to_vec2::<f64>()?;
            for (i, (row, label)) in rows.iter().zip(labels.to_vec1::<u32>()?).enumerate() {
                let label = label as usize;
                let predicted =
                    row.iter().enumerate().fold(0, |best, (k, v)| if *v > row[best] { k } else { best });
                confusion.add(label, predicted);
                if predicted == label || label >= row.len() {
                    continue;
                }
                let largest = row[predicted];
                let log_sum = largest + row.iter().map(|v| (v - largest).exp()).sum::<f64>().ln();
                let confidence = (row[predicted] - log_sum).exp();
                let image = images.narrow(0, i, 1)?;
                let log_probability = row[label] - log_sum;
                let position = before + i;
                worst.push(Candidate { position, log_probability, label, predicted, confidence, image });
            }
            worst.sort_by(|a, b| a.log_probability.total_cmp(&b.log_probability));
            worst.truncate(limit);
            // A view would keep the whole batch in memory.
            for candidate in &mut worst {
                candidate.image = candidate.image.force_contiguous()?;
            }
            Ok(())
        })?;
        metrics.merge(&of_batch);
    }
    let names = loaders.test_names(&worst.iter().map(|candidate| candidate.position).collect::<Vec<_>>());
    let mistakes =
        worst.iter().zip(names).map(|(candidate, name)| draw(network, candidate, name, normalization));
    Ok(Examination { metrics, confusion, mistakes: mistakes.collect::<Result<_>>()? })
}

fn draw(
    network: &AnyNetwork,
    candidate: &Candidate,
    name: String,
    normalization: &Normalization,
) -> Result<Mistake> {
    let &Candidate { label, predicted, confidence, ref image, .. } = candidate;
    let photo = photo(image, normalization)?;
    let heat = network.resnext().map(|network| -> Result<Photo> {
        let (_, map) = network.grad_cam(image, Some(predicted))?;
        let (_, rows, columns) = map.dims3()?;
        let map = map.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let (width, height) = (photo.width() as f64, photo.height() as f64);
        let window = Window { left: 0.0, top: 0.0, width, height };
        Ok(overlay(&photo, &window, &map, (rows, columns)))
    });
    let heat = heat.transpose()?;
    Ok(Mistake { name, label, predicted, confidence, photo, heat })
}

/// A normalised image (1, 3, H, W) as a photo.
fn photo(image: &Tensor, normalization: &Normalization) -> Result<Photo> {
    let (_, _, height, width) = image.dims4()?;
    let values = image.to_dtype(DType::F32)?.permute((0, 2, 3, 1))?.flatten_all()?.to_vec1::<f32>()?;
    let pixel = |(i, value): (usize, f32)| {
        let (mean, std) = (normalization.mean[i % 3], normalization.std[i % 3]);
        (255.0 * (value * std + mean)).round().clamp(0.0, 255.0) as u8
    };
    let pixels = values.into_iter().enumerate().map(pixel).collect();
    Photo::new(width, height, pixels).context("an image without pixels")
}
