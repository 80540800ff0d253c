//! Batches of photos, decoded and transformed by worker threads ahead of the step that needs them.

use crate::crop_position::CropPosition;
use crate::error::{Error, Result};
use crate::evaluation::EvalTransform;
use crate::image_set::ImageSet;
use crate::loader::Batch;
use crate::normalize::pixels_of;
use crate::photo::Photo;
use crate::random_stream::of_image;
use crate::share::{BatchPart, Share};
use crate::transform::mix::{Mix, Position};
use crate::transform::train::TrainTransform;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// How photos become a network's input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Preparation {
    /// Shuffled anew in each epoch and augmented.
    Training(TrainTransform),
    /// In order, each in the same way every time.
    Evaluation(EvalTransform),
    /// The same with the crop at another place, as one of several views of each photo.
    View(EvalTransform, CropPosition),
}

impl Preparation {
    fn validate(&self) -> Result<()> {
        match self {
            Preparation::Training(transform) => transform.validate(),
            Preparation::Evaluation(transform) | Preparation::View(transform, _) => transform.validate(),
        }
    }
}

/// The settings of an [`ImageLoader`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ImageLoaderConfig {
    /// Images per batch, at least 1; the last batch of an epoch may be smaller.
    pub batch_size: usize,
    /// How often each image is used in one epoch of training, augmented differently each time, at least 1; an
    /// epoch then has that many times fewer different images (repeated augmentation, Hoffer et al., arXiv
    /// 1901.09335).
    pub repeats: usize,
    /// How training batches are mixed.
    pub mix: Option<Mix>,
    /// The seed of order and augmentation.
    pub seed: u64,
    /// Worker threads, at least 1. Their number does not change the batches.
    pub threads: usize,
    /// Whether an image that cannot be read is an error. It is left out otherwise.
    pub strict: bool,
}

/// Makes the batches of each epoch from an [`ImageSet`]. They depend only on the files, the settings and the
/// epoch, not on the number of threads, so that a resumed run sees the same batches.
///
/// At most three batches are in memory at a time, beside one photo per thread. An image that cannot be read is
/// noted ([`unreadable`](Self::unreadable)); in training the next one in the epoch's order takes its place, so
/// that batches keep their sizes, and in evaluation its batch is smaller. A training epoch ends with an error if it has
/// found that no image of a class can be read.
#[derive(Debug, Clone)]
pub struct ImageLoader(Arc<Inner>, Share);

#[derive(Debug)]
struct Inner {
    set: ImageSet,
    preparation: Preparation,
    config: ImageLoaderConfig,
    /// Images that could not be read, in the order in which they were found, and why.
    unreadable: Arc<Mutex<Unreadable>>,
}

#[derive(Debug, Default)]
struct Unreadable {
    indices: BTreeSet<usize>,
    /// The images and what is wrong with them.
    order: Vec<usize>,
    problems: Vec<String>,
}

/// Batches that may be in preparation or ready, beside the one that the consumer has.
const AHEAD: usize = 2;

/// An image's input and label; `None` if it is left out.
type Example = Option<(Vec<f32>, u32)>;

/// A position in an epoch: an image, and which of its repetitions it is.
type Entry = (usize, u64);

impl ImageLoader {
    /// Creates a loader over `set`.
    ///
    /// # Errors
    /// [`Error::Loader`] or [`Error::Transform`] if a setting is out of range or the set has no images.
    pub fn new(set: ImageSet, preparation: Preparation, config: ImageLoaderConfig) -> Result<Self> {
        for (name, value) in
            [("batch size", config.batch_size), ("threads", config.threads), ("repeats", config.repeats)]
        {
            if value == 0 {
                return Err(Error::Loader(format!("{name} must be at least 1, got 0")));
            }
        }
        if set.is_empty() {
            return Err(Error::Loader("the data set has no images".into()));
        }
        preparation.validate()?;
        config.mix.map_or(Ok(()), |mix| mix.validate())?;
        let inner = Inner { set, preparation, config, unreadable: Arc::default() };
        Ok(ImageLoader(Arc::new(inner), Share::default()))
    }

    /// A loader of the same images, prepared in another way. Both know of each other's unreadable images.
    ///
    /// # Errors
    /// [`Error::Transform`] if a setting is out of range.
    pub fn prepared(&self, preparation: Preparation) -> Result<Self> {
        preparation.validate()?;
        let Inner { set, config, unreadable, .. } = &*self.0;
        let (set, unreadable) = (set.clone(), Arc::clone(unreadable));
        Ok(ImageLoader(Arc::new(Inner { set, preparation, config: *config, unreadable }), self.1))
    }

    /// The same loader, of a part of its batches.
    pub fn with_share(self, share: Share) -> Self {
        ImageLoader(self.0, share)
    }

    /// The images.
    pub fn set(&self) -> &ImageSet {
        &self.0.set
    }

    /// How the images are prepared.
    pub fn preparation(&self) -> &Preparation {
        &self.0.preparation
    }

    /// Height and width of the images in a batch, in pixels.
    pub fn size(&self) -> (usize, usize) {
        self.0.size()
    }

    /// The settings.
    pub fn config(&self) -> &ImageLoaderConfig {
        &self.0.config
    }

    /// The images that could not be read so far, one line each: the file and what is wrong with it.
    pub fn unreadable(&self) -> Vec<String> {
        locked(&self.0.unreadable).problems.clone()
    }

    /// The images that could not be read so far, as [`unreadable`](Self::unreadable) says, with their indices.
    pub fn unreadable_photos(&self) -> Vec<(usize, String)> {
        let unreadable = locked(&self.0.unreadable);
        unreadable.order.iter().copied().zip(unreadable.problems.iter().cloned()).collect()
    }

    /// Adds images that a loader of the same set in another process could not read.
    pub fn add_unreadable(&self, photos: Vec<(usize, String)>) {
        photos.into_iter().for_each(|(index, problem)| self.0.note(index, problem));
    }

    /// The error of training on a class without an image that can be read.
    pub fn lost_class(&self) -> Option<Error> {
        self.0.lost_class()
    }

    /// The indices of the images that have not been found unreadable, in ascending order. After an epoch of evaluation
    /// they are those of its examples, one after the other.
    pub fn readable(&self) -> Vec<usize> {
        let unreadable = locked(&self.0.unreadable);
        (0..self.0.set.len()).filter(|index| !unreadable.indices.contains(index)).collect()
    }

    /// The network's view of image `index` in `epoch`, as pixels: its input before normalisation, rounded, and before images
    /// of a batch are mixed.
    ///
    /// # Errors
    /// [`Error::Photo`] if the image cannot be read.
    ///
    /// # Panics
    /// If `index` is not below the number of images.
    pub fn view(&self, index: usize, epoch: u64) -> Result<Photo> {
        let (height, width) = self.size();
        let normalization = match &self.0.preparation {
            Preparation::Training(transform) => &transform.normalization,
            Preparation::Evaluation(transform) | Preparation::View(transform, _) => &transform.normalization,
        };
        let pixels = pixels_of(&self.0.prepare(epoch, (index, 0))?, normalization);
        Photo::new(width, height, pixels).ok_or_else(|| Error::Loader("an image without pixels".into()))
    }

    /// The batches of `epoch` after the first `skip` images of its order, where a resumed run continues. The
    /// order does not depend on the batch size, so that a run may continue with another one.
    pub fn epoch(&self, epoch: u64, skip: usize) -> ImageBatches {
        let order = self.0.order(epoch);
        let parts = self.1.batches(skip..order.len(), self.0.config.batch_size);
        let batches = parts.len();
        let state =
            State { next: (0, 0), taken: 0, open: BTreeMap::new(), ready: BTreeMap::new(), ended: None };
        let work = Arc::new(Work {
            loader: Arc::clone(&self.0),
            epoch,
            order,
            parts,
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        for _ in 0..self.0.config.threads {
            let work = Arc::clone(&work);
            std::thread::spawn(move || work.run());
        }
        ImageBatches { work, next: 0, batches, ended: false }
    }
}

impl Inner {
    fn size(&self) -> (usize, usize) {
        match &self.preparation {
            Preparation::Training(transform) => transform.size,
            Preparation::Evaluation(transform) | Preparation::View(transform, _) => transform.crop,
        }
    }

    fn training(&self) -> bool {
        matches!(self.preparation, Preparation::Training(_))
    }

    fn order(&self, epoch: u64) -> Vec<Entry> {
        let len = self.set.len();
        if !self.training() {
            return (0..len).map(|index| (index, 0)).collect();
        }
        let repeats = self.config.repeats as u64;
        let shuffled = self.set.shuffled(self.config.seed, epoch).into_iter();
        shuffled.flat_map(|index| (0..repeats).map(move |repeat| (index, repeat))).take(len).collect()
    }

    /// Reads and prepares one image.
    fn prepare(&self, epoch: u64, (index, repeat): Entry) -> Result<Vec<f32>> {
        match &self.preparation {
            Preparation::Training(transform) => {
                let seed = self.config.seed.wrapping_add(repeat << 48);
                let mut rng = of_image(seed, epoch, index as u64);
                self.set.decode(index, |bytes| transform.decode(bytes, &mut rng))
            }
            Preparation::Evaluation(transform) => Ok(transform.apply(&self.set.photo(index)?)),
            Preparation::View(transform, position) => {
                Ok(transform.apply_at(&self.set.photo(index)?, *position))
            }
        }
    }

    /// The example at `position` of `order`.
    fn example(&self, epoch: u64, order: &[Entry], position: usize) -> Result<Example> {
        let tries = if self.training() { order.len() } else { 1 };
        for step in 0..tries {
            let entry = order[(position + step) % order.len()];
            if self.noted(entry.0) && !self.config.strict {
                continue;
            }
            match self.prepare(epoch, entry) {
                Ok(input) => return Ok(Some((input, self.set.label(entry.0)))),
                Err(error) if self.config.strict => return Err(error),
                Err(error) => self.note(entry.0, error.to_string()),
            }
        }
        match self.training() {
            true => Err(Error::Loader(format!("none of {} images can be read", self.set.len()))),
            false => Ok(None),
        }
    }

    /// Whether an image is known to be unreadable.
    fn noted(&self, index: usize) -> bool {
        locked(&self.unreadable).indices.contains(&index)
    }

    fn note(&self, index: usize, problem: String) {
        let mut unreadable = locked(&self.unreadable);
        if unreadable.indices.insert(index) {
            unreadable.order.push(index);
            unreadable.problems.push(problem);
        }
    }

    /// The error of training on a class without an image that can be read.
    fn lost_class(&self) -> Option<Error> {
        let unreadable = locked(&self.unreadable);
        if unreadable.indices.is_empty() || !self.training() {
            return None;
        }
        let counts = self.set.class_counts();
        let mut lost = vec![0; counts.len()];
        unreadable.indices.iter().for_each(|&index| lost[self.set.label(index) as usize] += 1);
        let label = (0..counts.len()).find(|&label| counts[label] > 0 && lost[label] == counts[label])?;
        Some(Error::Loader(format!(
            "none of the {} images of class {} can be read: repair them, or remove the class",
            counts[label],
            self.set.class_names()[label]
        )))
    }

    /// Joins the examples of a part of a batch.
    fn assemble(&self, epoch: u64, part: &BatchPart, examples: Vec<Example>) -> Batch {
        let size = self.size();
        let mut images = Vec::with_capacity(examples.len() * 3 * size.0 * size.1);
        let mut labels = Vec::with_capacity(examples.len());
        for (input, label) in examples.into_iter().flatten() {
            images.extend(input);
            labels.push(label);
        }
        let at = Position { seed: self.config.seed, epoch, batch: part.batch.clone() };
        let mix = self.config.mix.filter(|_| self.training());
        let mixed = mix.and_then(|mix| mix.apply(&mut images, &labels, size, at));
        Batch { images, labels, size, mixed }
    }
}

/// One epoch's work, shared by the worker threads and the consumer.
#[derive(Debug)]
struct Work {
    loader: Arc<Inner>,
    epoch: u64,
    order: Vec<Entry>,
    /// The batches' positions in the order; none is empty.
    parts: Vec<BatchPart>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// The next image to prepare: its batch and its place in it.
    next: (usize, usize),
    /// The batch that the consumer waits for or asks for next; batches count from 0 at the first one wanted.
    taken: usize,
    /// Batches in preparation: their examples so far, and how many are missing.
    open: BTreeMap<usize, (Vec<Example>, usize)>,
    ready: BTreeMap<usize, Batch>,
    /// Set when the work ends early: by the consumer, by an error or by a panic.
    ended: Option<Error>,
}

impl Work {
    /// The loop of one worker thread.
    fn run(&self) {
        let _guard = EndOnPanic(self);
        while let Some((position, number)) = self.claim() {
            match self.loader.example(self.epoch, &self.order, position) {
                Ok(example) => self.hand_in(position, number, example),
                Err(error) => return self.end(error),
            }
        }
    }

    /// The next position to prepare, and its batch, as soon as that batch is among those that may be in memory.
    fn claim(&self) -> Option<(usize, usize)> {
        let mut state = locked(&self.state);
        loop {
            let (number, place) = state.next;
            let range = &self.parts.get(number).filter(|_| state.ended.is_none())?.own;
            if number < state.taken + AHEAD {
                state.next = if place + 1 < range.len() { (number, place + 1) } else { (number + 1, 0) };
                return Some((range.start + place, number));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn hand_in(&self, position: usize, number: usize, example: Example) {
        let part = &self.parts[number];
        let mut state = locked(&self.state);
        let (examples, missing) =
            state.open.entry(number).or_insert_with(|| (vec![None; part.own.len()], part.own.len()));
        examples[position - part.own.start] = example;
        *missing -= 1;
        if *missing > 0 {
            return;
        }
        let Some((examples, _)) = state.open.remove(&number) else { return };
        drop(state);
        let batch = self.loader.assemble(self.epoch, part, examples);
        locked(&self.state).ready.insert(number, batch);
        self.changed.notify_all();
    }

    fn end(&self, error: Error) {
        let mut state = locked(&self.state);
        state.ended.get_or_insert(error);
        drop(state);
        self.changed.notify_all();
    }
}

/// A panic of one thread ends the others and the consumer's wait.
struct EndOnPanic<'a>(&'a Work);

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end(Error::Loader("a worker thread panicked".into()));
        }
    }
}

/// An iterator over an epoch's batches, in order. Dropping it ends the worker threads. After an error there are
/// no more batches.
#[derive(Debug)]
pub struct ImageBatches {
    work: Arc<Work>,
    next: usize,
    batches: usize,
    /// Whether everything has been returned, an error included.
    ended: bool,
}

impl Iterator for ImageBatches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        let mut state = locked(&self.work.state);
        while self.next < self.batches {
            if let Some(batch) = state.ready.remove(&self.next) {
                self.next += 1;
                state.taken = self.next;
                self.work.changed.notify_all();
                if batch.labels.is_empty() {
                    continue;
                }
                return Some(Ok(batch));
            }
            if let Some(error) = state.ended.take() {
                self.next = self.batches;
                self.ended = true;
                // Threads that still work must see that it has ended.
                state.ended = Some(Error::Loader("the epoch has ended".into()));
                return Some(Err(error));
            }
            state = self.work.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if std::mem::replace(&mut self.ended, true) {
            return None;
        }
        // All of the epoch's images have been tried.
        self.work.loader.lost_class().map(Err)
    }
}

impl Drop for ImageBatches {
    fn drop(&mut self) {
        self.work.end(Error::Loader("the epoch has ended".into()));
    }
}

/// Locks a mutex, also one whose thread panicked: it has left the value complete, as every change is a single statement.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
