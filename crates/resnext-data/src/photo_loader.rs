//! Photos read, decoded and transformed on other threads, ahead of who uses them.

use crate::{EvalTransform, Photo, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

/// A photo ready for a network.
#[derive(Debug)]
pub struct Sample {
    /// The file.
    pub path: PathBuf,
    /// The network's input (H, W, 3), normalised; or why there is none.
    pub input: Result<Vec<f32>>,
    /// The photo itself, where it was asked for.
    pub photo: Option<Photo>,
}

/// Samples in the order of their paths. Dropping it ends the threads behind it.
#[derive(Debug)]
pub struct PhotoLoader {
    receivers: Vec<Receiver<Sample>>,
    next: usize,
}

/// Photos each thread may be ahead.
const AHEAD: usize = 16;

impl PhotoLoader {
    /// Starts to load `paths` on so many threads, at least one; `keep` keeps the photos for who draws on them.
    pub fn new(paths: Vec<PathBuf>, transform: EvalTransform, threads: usize, keep: bool) -> Self {
        let paths: Arc<[PathBuf]> = paths.into();
        let threads = threads.clamp(1, paths.len().max(1));
        // Thread t loads photos t, t + threads, …; the user takes them in turn.
        let start = |thread: usize| {
            let (sender, receiver) = sync_channel(AHEAD);
            let paths = Arc::clone(&paths);
            std::thread::spawn(move || {
                for path in paths.iter().skip(thread).step_by(threads) {
                    if sender.send(load(path, &transform, keep)).is_err() {
                        return;
                    }
                }
            });
            receiver
        };
        PhotoLoader { receivers: (0..threads).map(start).collect(), next: 0 }
    }
}

fn load(path: &Path, transform: &EvalTransform, keep: bool) -> Sample {
    let photo = Photo::open(path);
    let path = path.to_path_buf();
    match photo {
        Ok(photo) => Sample { path, input: Ok(transform.apply(&photo)), photo: keep.then_some(photo) },
        Err(error) => Sample { path, input: Err(error), photo: None },
    }
}

impl Iterator for PhotoLoader {
    type Item = Sample;

    fn next(&mut self) -> Option<Sample> {
        let sample = self.receivers[self.next % self.receivers.len()].recv().ok()?;
        self.next += 1;
        Some(sample)
    }
}
