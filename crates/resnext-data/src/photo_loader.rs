//! Photos read, decoded, transformed and processed by worker threads, ahead of the consumer of their results.

use crate::decode::guard::caught;
use crate::error::{Error, Result};
use crate::evaluation::EvalTransform;
use crate::photo::Photo;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// A photo and the network input made of it.
#[derive(Debug)]
pub struct Sample {
    /// The decoded photo.
    pub photo: Photo,
    /// The transformed photo, normalised, (H, W, 3).
    pub input: Vec<f32>,
}

/// An iterator over the workers' results, in the order of the photos' paths: exactly one per photo. Dropping it
/// ends the threads.
///
/// Each thread takes a photo all the way from its file to the result, so that the cores stay busy whatever
/// share of the time decoding takes. A worker that panics gives [`Error::Worker`] for that photo, and goes on
/// with the next; a thread that died, or could not be started, gives it for each of its photos.
#[derive(Debug)]
pub struct PhotoLoader<T> {
    receivers: Vec<Receiver<Result<T>>>,
    paths: Arc<[PathBuf]>,
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
            let run = move || {
                let own = paths.iter().skip(thread).step_by(threads);
                serve(own, transform, &mut worker, &sender);
            };
            // If the thread cannot be started, its sender is dropped, which the consumer sees.
            let _ = std::thread::Builder::new().name(format!("photos {thread}")).spawn(run);
            receiver
        };
        let receivers = workers.into_iter().enumerate().map(start).collect();
        PhotoLoader { receivers, paths, next: 0 }
    }
}

/// Passes photos through a worker, until nobody wants its results.
fn serve<'a, T>(
    paths: impl Iterator<Item = &'a PathBuf>,
    transform: EvalTransform,
    worker: &mut impl FnMut(&Path, Result<Sample>) -> T,
    results: &SyncSender<Result<T>>,
) {
    for path in paths {
        let loaded =
            caught(|| Photo::open(path).map(|photo| Sample { input: transform.apply(&photo), photo }));
        let sample = loaded.unwrap_or_else(|panic| Err(Error::Worker { path: path.clone(), reason: panic }));
        let result = caught(|| worker(path, sample));
        let result = result.map_err(|reason| Error::Worker { path: path.clone(), reason });
        if results.send(result).is_err() {
            return;
        }
    }
}

impl<T> Iterator for PhotoLoader<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        let receiver = self.receivers.get(self.next % self.receivers.len().max(1))?;
        let path = self.paths.get(self.next)?;
        self.next += 1;
        let died = || Error::Worker { path: path.clone(), reason: "its thread ended early".into() };
        Some(receiver.recv().unwrap_or_else(|_| Err(died())))
    }
}
