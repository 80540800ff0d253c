//! Worker threads that spin briefly before they sleep.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long an idle worker spins before it sleeps. OpenMP runtimes spin for 1 to 200 ms.
pub const SPIN: Duration = Duration::from_millis(1);

/// How long a worker spins in total, job after job: rayon may run this loop in the middle of another task of the same
/// thread, which is delayed meanwhile.
const SPIN_TOTAL: Duration = Duration::from_millis(50);

/// Work for another thread. It must not panic.
pub type Work = Box<dyn FnOnce() + Send>;

/// Idle workers and the jobs for them.
struct Queue {
    /// Spinning workers, including those that a queued job is meant for.
    waiting: usize,
    jobs: Vec<Work>,
}

static QUEUE: Mutex<Queue> = Mutex::new(Queue { waiting: 0, jobs: Vec::new() });
/// The number of queued jobs, which workers poll without the lock.
static JOBS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static WAITS: Cell<bool> = const { Cell::new(false) };
    /// Whether this thread is counted in `waiting`: it may be running another task of its pool while it spins.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `job` on another thread: on a spinning worker if there is one, otherwise on the current rayon pool, whose thread
/// becomes a spinning worker afterwards. The submitting thread never blocks.
///
/// Small operations follow each other within microseconds. A thread that has fallen asleep in between is late for the next:
/// it has to be woken, and may first be scheduled on another thread's core. So workers poll for jobs for a while, and
/// meanwhile run their pool's own work and yield to other threads.
pub fn submit(job: Work) {
    let mut queue = queue();
    // This thread may itself be counted as waiting, and cannot take the job.
    if queue.waiting - usize::from(INSIDE.get()) > queue.jobs.len() {
        queue.jobs.push(job);
        JOBS.store(queue.jobs.len(), Ordering::Release);
    } else {
        drop(queue);
        rayon::spawn(|| {
            job();
            // A thread that spins already may have run this as its pool's work.
            if !WAITS.replace(true) {
                wait();
                WAITS.set(false);
            }
        });
    }
}

/// Spins for jobs and runs them.
fn wait() {
    let start = Instant::now();
    while start.elapsed() < SPIN_TOTAL {
        queue().waiting += 1;
        INSIDE.set(true);
        let job = next_job();
        INSIDE.set(false);
        match job {
            Some(job) => job(),
            None => return,
        }
    }
}

/// The next job, if one arrives while the worker spins.
fn next_job() -> Option<Work> {
    let mut until = Instant::now() + SPIN;
    loop {
        let over = Instant::now() >= until;
        if over || JOBS.load(Ordering::Acquire) > 0 {
            let mut queue = queue();
            let job = queue.jobs.pop();
            JOBS.store(queue.jobs.len(), Ordering::Release);
            if over || job.is_some() {
                queue.waiting -= 1;
                return job;
            }
        }
        match rayon::yield_now() {
            Some(rayon::Yield::Executed) => until = Instant::now() + SPIN,
            _ => std::thread::yield_now(),
        }
    }
}

fn queue() -> MutexGuard<'static, Queue> {
    QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
}
