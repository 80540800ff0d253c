//! Photos read, decoded, transformed and worked on by other threads, ahead of who uses what they make of them.

use crate::{EvalTransform, Photo, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

/// A photo ready for a network.
#[derive(Debug)]
pub struct Sample {
    /// The photo.
    pub photo: Photo,
    /// The network's input (H, W, 3), normalised.
    pub input: Vec<f32>,
}

/// What workers make of photos, in the order of their paths. Dropping it ends the threads behind it.
///
/// Each thread takes a photo from its file to the result. So nobody waits for anybody, and the cores are busy
/// whatever share of the time decoding takes.
#[derive(Debug)]
pub struct PhotoLoader<T> {
    receivers: Vec<Receiver<T>>,
    next: usize,
}

/// Photos each thread may be ahead.
const AHEAD: usize = 16;

impl<T: Send + 'static> PhotoLoader<T> {
    /// Starts a thread for each worker. A worker is given each photo's path, and the photo or why there is none.
    pub fn new<W>(paths: Vec<PathBuf>, transform: EvalTransform, workers: Vec<W>) -> Self
    where
        W: FnMut(&Path, Result<Sample>) -> T + Send + 'static,
    {
        let paths: Arc<[PathBuf]> = paths.into();
        let threads = workers.len();
        // Thread t loads photos t, t + threads, …; the user takes them in turn.
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
