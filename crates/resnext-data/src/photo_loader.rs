//! Photos read, decoded, transformed and processed by worker threads, ahead of the consumer of their results.

use crate::error::Result;
use crate::evaluation::EvalTransform;
use crate::photo::Photo;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

/// A photo and the network input made of it.
#[derive(Debug)]
pub struct Sample {
    /// The decoded photo.
    pub photo: Photo,
    /// The transformed photo, normalised, (H, W, 3).
    pub input: Vec<f32>,
}

/// An iterator over the workers' results, in the order of the photos' paths. Dropping it ends the threads.
///
/// Each thread takes a photo all the way from its file to the result, so that the cores stay busy whatever
/// share of the time decoding takes.
#[derive(Debug)]
pub struct PhotoLoader<T> {
    receivers: Vec<Receiver<T>>,
    next: usize,
}

/// The number of results that each thread may prepare ahead of the consumer.
const AHEAD: usize = 16;

impl<T: Send + 'static> PhotoLoader<T> {
    /// Starts one thread per worker. A worker is called with a photo's path and either its [`Sample`] or the
    /// error that reading it gave.
    pub fn new<W>(paths: Vec<PathBuf>, transform: EvalTransform, workers: Vec<W>) -> Self
    where
        W: FnMut(&Path, Result<Sample>) -> T + Send + 'static,
    {
        let paths: Arc<[PathBuf]> = paths.into();
        let threads = workers.len();
        // Thread t loads photos t, t + threads, …, and the consumer receives from the threads in turn.
        let start = |(thread, mut worker): (usize, W)| {
            let (sender, receiver) = sync_channel(AHEAD);
            let paths = Arc::clone(&paths);
            std::thread::spawn(move || {
                for path in paths.iter().skip(thread).step_by(threads) {
                    let sample =
                        Photo::open(path).map(|photo| Sample { input: transform.apply(&photo), photo });
                    if sender.send(worker(path, sample)).is_err() {
                        return;
                    }
                }
            });
            receiver
        };
        PhotoLoader { receivers: workers.into_iter().enumerate().map(start).collect(), next: 0 }
    }
}

impl<T> Iterator for PhotoLoader<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let turn = self.next % self.receivers.len().max(1);
        let result = self.receivers.get(turn)?.recv().ok()?;
        self.next += 1;
        Some(result)
    }
}
