//! Processes that are threads of one process, for tests and for measuring without a launcher.

use crate::distributed::transport::Transport;
use crate::error::{Error, Result};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One of several threads that exchange bytes in memory.
pub(crate) struct Threads {
    rank: usize,
    shared: Arc<Shared>,
    timeout: Duration,
}

struct Shared {
    size: usize,
    state: Mutex<State>,
    changed: Condvar,
}

/// An exchange has two phases: every thread posts its bytes, then every thread reads what it needs. Nobody posts
/// again before all have read.
struct State {
    posted: Vec<Option<Vec<u8>>>,
    /// Threads that have still to read what is posted.
    readers: usize,
}

impl Threads {
    /// `size` of them, by rank. A thread waits for the others for `timeout` at most.
    pub(crate) fn new(size: usize, timeout: Duration) -> Vec<Self> {
        let state = State { posted: vec![None; size], readers: 0 };
        let shared = Arc::new(Shared { size, state: Mutex::new(state), changed: Condvar::new() });
        (0..size).map(|rank| Threads { rank, shared: Arc::clone(&shared), timeout }).collect()
    }

    /// Posts `send`, waits for all others, and calls `read` with each rank's bytes.
    fn exchange(&self, send: &[u8], purpose: &str, mut read: impl FnMut(usize, &[u8])) -> Result<()> {
        let Shared { size, state, changed } = &*self.shared;
        let deadline = Instant::now() + self.timeout;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state = self.wait(state, deadline, purpose, |state| state.readers == 0)?;
        state.posted[self.rank] = Some(send.to_vec());
        if state.posted.iter().all(Option::is_some) {
            state.readers = *size;
            changed.notify_all();
        }
        state = self.wait(state, deadline, purpose, |state| state.readers > 0)?;
        for (rank, posted) in state.posted.iter().enumerate() {
            if let Some(posted) = posted {
                read(rank, posted);
            }
        }
        state.readers -= 1;
        if state.readers == 0 {
            state.posted.fill(None);
            changed.notify_all();
        }
        Ok(())
    }

    fn wait<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        deadline: Instant,
        purpose: &str,
        ready: impl Fn(&State) -> bool,
    ) -> Result<MutexGuard<'a, State>> {
        while !ready(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let missing: Vec<String> = (0..self.shared.size)
                    .filter(|&rank| state.posted[rank].is_none())
                    .map(|rank| rank.to_string())
                    .collect();
                return Err(Error::Processes(format!(
                    "rank {} waited {:.1} s for rank {} while {purpose}",
                    self.rank,
                    self.timeout.as_secs_f64(),
                    missing.join(", ")
                )));
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(state)
    }
}

impl Transport for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.shared.size
    }

    fn all_to_all(&mut self, send: &[u8], receive: &mut [u8], purpose: &'static str) -> Result<()> {
        let part = receive.len() / self.shared.size;
        self.exchange(send, purpose, |rank, posted| {
            let own = &posted[self.rank * part..(self.rank + 1) * part];
            receive[rank * part..(rank + 1) * part].copy_from_slice(own);
        })
    }

    fn all_gather(&mut self, send: &[u8], receive: &mut [u8], purpose: &'static str) -> Result<()> {
        let part = send.len();
        self.exchange(send, purpose, |rank, posted| {
            receive[rank * part..(rank + 1) * part].copy_from_slice(posted);
        })
    }

    #[cfg(feature = "nccl")]
    fn wait(&mut self, done: &mut dyn FnMut() -> bool, purpose: &'static str) -> Result<()> {
        let deadline = Instant::now() + self.timeout;
        while !done() {
            if Instant::now() > deadline {
                let (rank, waited) = (self.rank, self.timeout.as_secs_f64());
                return Err(Error::Processes(format!("rank {rank} waited {waited:.1} s while {purpose}")));
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    /// The others time out.
    fn abort(&mut self) {}
}
