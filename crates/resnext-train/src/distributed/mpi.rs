//! Processes that an MPI launcher has started.

use crate::distributed::transport::Transport;
use crate::error::{Error, Result};
use mpi::Threading;
use mpi::collective::SystemOperation;
use mpi::environment::Universe;
use mpi::request::{Request, Scope, scope};
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// All processes of `MPI_COMM_WORLD`. Exchanges are MPI's non-blocking collectives, which are polled, so that a
/// process that hangs does not hang the others for longer than the time-out.
pub(crate) struct Mpi {
    world: SimpleCommunicator,
    timeout: Duration,
    /// Set when this process gives up.
    abandoned: Arc<AtomicBool>,
    /// Dropped last: it finalises MPI.
    _universe: Universe,
}

/// Polls before the first pause. A small exchange takes microseconds.
const QUICK_POLLS: usize = 1000;
/// The pause between later polls, which leaves the core to threads that compute.
const PAUSE: Duration = Duration::from_micros(50);

impl Mpi {
    /// Initialises MPI on the current thread, the only one that may use it.
    pub(crate) fn new(timeout: Duration, abandoned: Arc<AtomicBool>) -> Result<Self> {
        let started = mpi::initialize_with_threading(Threading::Funneled);
        let (universe, level) =
            started.ok_or_else(|| Error::Processes("MPI is initialised already in this process".into()))?;
        if level < Threading::Funneled {
            return Err(Error::Processes("this MPI library has no support for threads".into()));
        }
        Ok(Mpi { world: universe.world(), timeout, abandoned, _universe: universe })
    }

    /// Polls `request` until it is complete.
    fn complete<'a, D: ?Sized, S: Scope<'a>>(&self, mut request: Request<'a, D, S>, purpose: &str) {
        let begun = Instant::now();
        // Ranks give up one after the other, so that the first one's message is the only one.
        let patience = self.timeout + Duration::from_millis(200) * self.rank().min(50) as u32;
        for poll in 0usize.. {
            request = match request.test() {
                Ok(_) => return,
                Err(request) => request,
            };
            if self.abandoned.load(Ordering::Relaxed) {
                self.world.abort(1);
            }
            if begun.elapsed() > patience {
                eprintln!(
                    "error: rank {}: no answer from another process for {} s while {purpose}; all processes end",
                    self.rank(),
                    self.timeout.as_secs_f64()
                );
                self.world.abort(1);
            }
            match poll < QUICK_POLLS {
                true => std::thread::yield_now(),
                false => std::thread::sleep(PAUSE),
            }
        }
    }

    /// MPI counts bytes in an i32.
    fn check(&self, buffer: &[u8]) -> Result<()> {
        match i32::try_from(buffer.len()) {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::Processes(format!(
                "an exchange of {} bytes: MPI takes up to {} at a time",
                buffer.len(),
                i32::MAX
            ))),
        }
    }
}

impl Transport for Mpi {
    fn rank(&self) -> usize {
        self.world.rank() as usize
    }

    fn size(&self) -> usize {
        self.world.size() as usize
    }

    fn all_to_all(&mut self, send: &[u8], receive: &mut [u8], purpose: &'static str) -> Result<()> {
        self.check(send)?;
        scope(|scope| self.complete(self.world.immediate_all_to_all_into(scope, send, receive), purpose));
        Ok(())
    }

    fn all_gather(&mut self, send: &[u8], receive: &mut [u8], purpose: &'static str) -> Result<()> {
        self.check(receive)?;
        scope(|scope| self.complete(self.world.immediate_all_gather_into(scope, send, receive), purpose));
        Ok(())
    }

    fn library_sum(&mut self, values: &[f32], received: &mut [f32], blocking: bool) -> Result<()> {
        self.check(bytemuck::cast_slice(values))?;
        let sum = SystemOperation::sum();
        match blocking {
            true => self.world.all_reduce_into(values, received, sum),
            false => scope(|scope| {
                let request = self.world.immediate_all_reduce_into(scope, values, received, sum);
                self.complete(request, "adding up by MPI's own sum");
            }),
        }
        Ok(())
    }

    fn abort(&mut self) {
        self.world.abort(1);
    }
}
