//! The batches of a data set as tensors on a device.

use crate::machine;
use crate::open_data::OpenData;
use anyhow::{Result, bail};
use candle_core::{Device, Tensor};
use resnext_data::transform::mix::Mix;
use resnext_data::transform::train::TrainTransform;
use resnext_data::{
    Augmentation, CropPosition, ImageLoader, ImageSet, Loader, LoaderConfig, Preparation, Share,
};
use resnext_train::{Batch, Batches, Data};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A loader of training batches, shuffled, and one of test batches, in order and never augmented.
pub struct Loaders {
    train: Source,
    test: Source,
    class_names: Vec<String>,
    batch_size: usize,
    /// Height and width of training images, in pixels.
    size: (usize, usize),
    device: Device,
}

/// A loader of one of two kinds.
enum Source {
    Memory(Loader),
    /// With the number of unreadable photos that have been reported.
    Photos(ImageLoader, Arc<AtomicUsize>),
}

type Results<'a> = Box<dyn Iterator<Item = resnext_data::Result<resnext_data::Batch>> + 'a>;

impl Source {
    fn len(&self) -> usize {
        match self {
            Source::Memory(loader) => loader.dataset().len(),
            Source::Photos(loader, _) => loader.set().len(),
        }
    }

    /// A hash of what its files or images have in them, and how it prepares them.
    fn contents(&self) -> (String, String) {
        match self {
            Source::Memory(loader) => {
                (format!("{:016x}", loader.dataset().content_hash()), format!("{:?}", loader.normalization()))
            }
            Source::Photos(loader, _) => {
                (format!("{:016x}", loader.set().content_hash()), format!("{:?}", loader.preparation()))
            }
        }
    }

    /// A line that tells the set from others.
    fn fingerprint(&self) -> String {
        match self {
            Source::Memory(loader) => loader.dataset().fingerprint(),
            Source::Photos(loader, _) => loader.set().fingerprint(),
        }
    }

    /// A loader of a part of the batches.
    fn part(&self, share: Share) -> Source {
        match self {
            Source::Memory(loader) => Source::Memory(loader.clone().with_share(share)),
            Source::Photos(loader, reported) => {
                Source::Photos(loader.clone().with_share(share), Arc::clone(reported))
            }
        }
    }

    /// The batches of an epoch after its first `skip` images.
    fn epoch(&self, epoch: u64, skip: usize) -> Results<'_> {
        match self {
            Source::Memory(loader) => Box::new(loader.epoch(epoch, skip).map(Ok)),
            Source::Photos(loader, reported) => {
                let batches = loader.epoch(epoch, skip);
                Box::new(batches.inspect(|_| report(loader, reported)))
            }
        }
    }
}

/// Names the photos that were found unreadable since the last call.
fn report(loader: &ImageLoader, reported: &AtomicUsize) {
    let unreadable = loader.unreadable();
    let before = reported.swap(unreadable.len(), Ordering::Relaxed);
    for problem in unreadable.iter().skip(before) {
        eprintln!("left out: {problem}");
    }
}

impl Loaders {
    /// Loaders of images that are never mixed. Photos are decoded by as many threads as compute.
    pub fn new(
        data: impl Into<OpenData>,
        batch_size: usize,
        augment: bool,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        Self::mixed(data, batch_size, (augment, None), seed, device)
    }

    /// Loads like [`new`](Self::new), with training images augmented and mixed.
    pub fn mixed(
        data: impl Into<OpenData>,
        batch_size: usize,
        (augment, mix): (bool, Option<Mix>),
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let data = data.into();
        let (class_names, size) = (data.class_names().to_vec(), data.size());
        let (train, test) = match data {
            OpenData::Memory(splits) => {
                let augmentation = if augment { Augmentation::cifar() } else { Augmentation::default() };
                let train = LoaderConfig { batch_size, shuffle: true, augmentation, mix, seed, threads: 1 };
                let test = LoaderConfig {
                    shuffle: false,
                    augmentation: Augmentation::default(),
                    mix: None,
                    ..train
                };
                let source = |set, config| -> Result<Source> {
                    Ok(Source::Memory(Loader::new(Arc::new(set), splits.normalization, config)?))
                };
                (source(splits.train, train)?, source(splits.test, test)?)
            }
            OpenData::Photos(photos, options, evaluation) => {
                photos.print_left_out();
                let config = options.loader(batch_size, mix, seed, machine::threads());
                let source = |set: ImageSet, preparation| -> Result<Source> {
                    Ok(Source::Photos(ImageLoader::new(set, preparation, config)?, Arc::default()))
                };
                (
                    source(
                        photos.train,
                        Preparation::Training(TrainTransform {
                            normalization: evaluation.normalization,
                            ..options.training(augment)?
                        }),
                    )?,
                    source(photos.validation, Preparation::Evaluation(evaluation))?,
                )
            }
        };
        Ok(Loaders { train, test, class_names, batch_size, size, device: device.clone() })
    }

    /// Loaders of the part that process `rank` of `of` has: a part of each training batch, and every `of`th test batch.
    pub fn part(&self, rank: usize, of: usize) -> Loaders {
        Loaders {
            train: self.train.part(Share::PartOfEachBatch { rank, of }),
            test: self.test.part(Share::EveryNthBatch { rank, of }),
            class_names: self.class_names.clone(),
            device: self.device.clone(),
            ..*self
        }
    }

    /// Height and width of training images, in pixels.
    pub fn size(&self) -> (usize, usize) {
        self.size
    }

    /// The number of training images.
    pub fn train_len(&self) -> usize {
        self.train.len()
    }

    /// The number of test images.
    pub fn test_len(&self) -> usize {
        self.test.len()
    }

    /// The number of training images of each class, indexed by label.
    pub fn class_counts(&self) -> Vec<usize> {
        match &self.train {
            Source::Memory(loader) => loader.dataset().class_counts(),
            Source::Photos(loader, _) => loader.set().class_counts(),
        }
    }

    /// The class names, indexed by label.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// The photos that could not be read so far, a line each.
    pub fn unreadable(&self) -> Vec<String> {
        let of = |source: &Source| match source {
            Source::Memory(_) => Vec::new(),
            Source::Photos(loader, _) => loader.unreadable(),
        };
        [of(&self.train), of(&self.test)].concat()
    }

    /// Whether images are in files, which may be damaged.
    pub fn may_be_unreadable(&self) -> bool {
        matches!(self.train, Source::Photos(..))
    }

    /// The photos that could not be read so far, with their indices: of the training set and of the test set.
    pub fn unreadable_photos(&self) -> [Vec<(usize, String)>; 2] {
        [&self.train, &self.test].map(|source| match source {
            Source::Memory(_) => Vec::new(),
            Source::Photos(loader, _) => loader.unreadable_photos(),
        })
    }

    /// Adds photos that another process has found unreadable, and has named.
    pub fn add_unreadable(&self, photos: [Vec<(usize, String)>; 2]) {
        for (source, photos) in [&self.train, &self.test].into_iter().zip(photos) {
            if let Source::Photos(loader, reported) = source {
                loader.add_unreadable(photos);
                reported.store(loader.unreadable().len(), Ordering::Relaxed);
            }
        }
    }

    /// The line about a class of which no training photo can be read.
    pub fn lost_class(&self) -> Option<String> {
        match &self.train {
            Source::Memory(_) => None,
            Source::Photos(loader, _) => loader.lost_class().map(|error| error.to_string()),
        }
    }

    /// The names of the test images at these positions, counted among those that could be read. The test images must have
    /// been through an epoch.
    pub fn test_names(&self, positions: &[usize]) -> Vec<String> {
        match &self.test {
            Source::Memory(_) => positions.iter().map(|position| format!("test image {position}")).collect(),
            Source::Photos(loader, _) => {
                let readable = loader.readable();
                let indices: Vec<usize> = positions.iter().map(|&position| readable[position]).collect();
                loader.set().names(&indices)
            }
        }
    }

    /// The test photos in batches of several crops of each: (V·N, 3, H, W), all images of the first position before
    /// those of the next one, with labels (N).
    ///
    /// # Errors
    /// If the test set has images of one size in memory, which leave nothing to choose a crop from.
    pub fn test_crops(&self, positions: &[CropPosition]) -> Result<Batches<'_>> {
        let Source::Photos(loader, reported) = &self.test else {
            bail!("several crops are for photos, which are larger than a crop; --views flip takes any images")
        };
        let Preparation::Evaluation(transform) = *loader.preparation() else {
            bail!("test photos are prepared for evaluation")
        };
        let at = |position: &CropPosition| -> Result<ImageLoader> {
            Ok(loader.prepared(Preparation::View(transform, *position))?)
        };
        let loaders = positions.iter().map(at).collect::<Result<Vec<_>>>()?;
        let mut views: Vec<_> = loaders.iter().map(|loader| loader.epoch(0, 0)).collect();
        Ok(Box::new(std::iter::from_fn(move || {
            let crops: Option<Vec<_>> = views.iter_mut().map(Iterator::next).collect();
            // Every view leaves out the same photos, which the loaders know of each other.
            report(loader, reported);
            crops.map(|crops| self.joined(crops))
        })))
    }

    /// The crops of one batch one after the other, and its labels.
    fn joined(&self, crops: Vec<resnext_data::Result<resnext_data::Batch>>) -> resnext_train::Result<Batch> {
        let batches =
            crops.into_iter().map(|crop| self.tensors(crop)).collect::<resnext_train::Result<Vec<_>>>()?;
        let images: Vec<&Tensor> = batches.iter().map(|(images, _)| images).collect();
        let images = Tensor::cat(&images, 0)?;
        let (_, labels) =
            batches.into_iter().next().ok_or_else(|| resnext_train::Error::Data("no views".into()))?;
        Ok((images, labels))
    }

    fn tensors(&self, batch: resnext_data::Result<resnext_data::Batch>) -> resnext_train::Result<Batch> {
        let batch = batch.map_err(|error| resnext_train::Error::Data(Box::new(error)))?;
        let (n, (h, w)) = (batch.labels.len(), batch.size);
        let mixed = batch.targets(self.class_names.len());
        // The loader's memory is (N, H, W, C); the network sees (N, C, H, W) with those strides.
        let images = Tensor::from_vec(batch.images, (n, h, w, 3), &self.device)?.permute((0, 3, 1, 2))?;
        let targets = match mixed {
            Some(rows) => Tensor::from_vec(rows, (n, self.class_names.len()), &self.device)?,
            None => Tensor::from_vec(batch.labels, n, &self.device)?,
        };
        Ok((images, targets))
    }
}

impl Data for Loaders {
    fn images_per_epoch(&self) -> usize {
        self.train.len()
    }

    fn batch_size(&self) -> usize {
        self.batch_size
    }

    fn image_size(&self) -> (usize, usize) {
        self.size
    }

    fn fingerprint(&self) -> String {
        self.train.fingerprint()
    }

    fn contents(&self) -> Vec<(&'static str, String)> {
        let [train, test] = [self.train.contents(), self.test.contents()];
        vec![
            ("content of the data set (hash)", train.0),
            ("test set", self.test.fingerprint()),
            ("content of the test set (hash)", test.0),
            ("preparation of training images", train.1),
            ("preparation of test images", test.1),
        ]
    }

    fn class_counts(&self) -> Vec<usize> {
        Loaders::class_counts(self)
    }

    fn train(&self, epoch: usize, skip: usize) -> Batches<'_> {
        Box::new(self.train.epoch(epoch as u64, skip).map(|batch| self.tensors(batch)))
    }

    fn test(&self) -> Batches<'_> {
        Box::new(self.test.epoch(0, 0).map(|batch| self.tensors(batch)))
    }
}
