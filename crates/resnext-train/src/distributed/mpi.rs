//! Processes that an MPI launcher has started.

use crate::distributed::transport::Transport;
use crate::error::{Error, Result};
use mpi::Tag;
use mpi::Threading;
use mpi::collective::SystemOperation;
use mpi::environment::Universe;
use mpi::request::{Request, Scope, StaticScope, scope};
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
    /// The number of the current exchange, which all processes count alike.
    exchanges: Tag,
    /// Bytes of roll calls on their way.
    open: Vec<Option<Request<'static, u8, StaticScope>>>,
    /// Dropped last: it finalises MPI.
    _universe: Universe,
}

/// What a process knows of the others in an exchange that takes long.
struct RollCall {
    /// By rank, whether it has said that it waits, too.
    there: Vec<bool>,
    /// Whether this one has said so.
    answered: bool,
}

impl RollCall {
    /// The ranks other than `own` that have not said so.
    fn missing(&self, own: usize) -> String {
        let others = self.there.iter().enumerate().filter(|(rank, there)| !**there && *rank != own);
        match others.map(|(rank, _)| rank.to_string()).collect::<Vec<_>>() {
            none if none.is_empty() => "another process".into(),
            ranks => format!("rank {}", ranks.join(", ")),
        }
    }
}

/// What a process sends that waits.
static HERE: u8 = 1;
/// Tags below the least bound that MPI guarantees.
const TAGS: Tag = 32767;
/// An exchange that takes no longer sends no bytes besides.
const QUIET: Duration = Duration::from_millis(100);
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
        let (world, exchanges, open) = (universe.world(), 0, Vec::new());
        Ok(Mpi { world, timeout, abandoned, exchanges, open, _universe: universe })
    }

    /// Polls `request` until it is complete.
    fn complete<'a, D: ?Sized, S: Scope<'a>>(&mut self, request: Request<'a, D, S>, purpose: &str) {
        let mut open = Some(request);
        self.poll(purpose, || {
            open = open.take().and_then(|request| request.test().err());
            open.is_none()
        });
    }

    /// Polls until `done`, which takes part of every process.
    fn poll(&mut self, purpose: &str, mut done: impl FnMut() -> bool) {
        let begun = Instant::now();
        // Ranks give up one after the other, so that the first one's message is the only one.
        let patience = self.timeout + Duration::from_millis(200) * self.rank().min(50) as u32;
        self.exchanges = (self.exchanges + 1) % TAGS;
        let mut roll = RollCall { there: vec![false; self.size()], answered: false };
        for poll in 0usize.. {
            if done() {
                return;
            }
            if self.abandoned.load(Ordering::Relaxed) {
                self.world.abort(1);
            }
            let waited = begun.elapsed();
            if waited > QUIET {
                self.call_roll(&mut roll, waited > self.timeout / 2);
            }
            if waited > patience {
                // In one write, which the launcher's own messages cannot part.
                let line = format!(
                    "error: rank {}: no answer from {} for {} s while {purpose}; all processes end\n",
                    self.rank(),
                    roll.missing(self.rank()),
                    self.timeout.as_secs_f64()
                );
                eprint!("{line}");
                self.world.abort(1);
            }
            match poll < QUICK_POLLS {
                true => std::thread::yield_now(),
                false => std::thread::sleep(PAUSE),
            }
        }
    }

    /// Notes which processes say that they wait in the same exchange, and says so of this one, `first` or as soon as
    /// another has. The bytes are tagged with the exchange's number, so that those of an earlier one mean nothing.
    fn call_roll(&mut self, roll: &mut RollCall, first: bool) {
        while let Some((message, status)) = self.world.any_process().immediate_matched_probe() {
            let (_, _): (u8, _) = message.matched_receive();
            if status.tag() == self.exchanges {
                roll.there[status.source_rank() as usize] = true;
            }
        }
        if !roll.answered && (first || roll.there.contains(&true)) {
            roll.answered = true;
            self.open.retain_mut(|request| match request.take().map(Request::test) {
                Some(Err(open)) => {
                    *request = Some(open);
                    true
                }
                _ => false,
            });
            for rank in (0..self.world.size()).filter(|&rank| rank != self.world.rank()) {
                let to = self.world.process_at_rank(rank);
                self.open.push(Some(to.immediate_send_with_tag(StaticScope, &HERE, self.exchanges)));
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
        scope(|scope| {
            let request = self.world.immediate_all_to_all_into(scope, send, receive);
            self.complete(request, purpose);
        });
        Ok(())
    }

    fn all_gather(&mut self, send: &[u8], receive: &mut [u8], purpose: &'static str) -> Result<()> {
        self.check(receive)?;
        scope(|scope| {
            let request = self.world.immediate_all_gather_into(scope, send, receive);
            self.complete(request, purpose);
        });
        Ok(())
    }

    #[cfg(feature = "nccl")]
    fn wait(&mut self, done: &mut dyn FnMut() -> bool, purpose: &'static str) -> Result<()> {
        self.poll(purpose, done);
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

impl Drop for Mpi {
    /// Bytes of roll calls that a process has not fetched yet are left to MPI.
    fn drop(&mut self) {
        self.open.drain(..).for_each(std::mem::forget);
    }
}
