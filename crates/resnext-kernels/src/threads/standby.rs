//! Threads that wait awake, for a moment, for the next job.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long. OpenMP's threads, those of other engines, wait from one to 200 ms.
const SPIN: Duration = Duration::from_millis(1);

/// How long in all, job after job: rayon may have a thread do this in the middle of another task of its own, which is held
/// up meanwhile.
const SPIN_TOTAL: Duration = Duration::from_millis(50);

/// What a thread is to do. It must not panic.
pub type Job = Box<dyn FnOnce() + Send>;

/// Where threads and jobs meet.
struct Queue {
    /// Threads in it, those included for which there is a job already.
    waiting: usize,
    jobs: Vec<Job>,
}

static QUEUE: Mutex<Queue> = Mutex::new(Queue { waiting: 0, jobs: Vec::new() });
/// As many as there are in the queue, to be looked at without its lock.
static JOBS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static WAITS: Cell<bool> = const { Cell::new(false) };
    /// Whether this thread is among those in the queue, and does something else of its pool's there.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Has another thread do `job`: one that waits, if there is one, or one of the current rayon pool, which then waits for
/// more.
///
/// Small operations follow each other within microseconds. A thread that fell asleep in between is late for the next:
/// it has to be woken, and may be put on the core of another one first. So threads look out for jobs for a while;
/// meanwhile they take what work there is in their pool, and let others run.
pub fn submit(job: Job) {
    let mut queue = queue();
    // Whoever hands over does not wait.
    if queue.waiting - usize::from(INSIDE.get()) > queue.jobs.len() {
        queue.jobs.push(job);
        JOBS.store(queue.jobs.len(), Ordering::Release);
    } else {
        drop(queue);
        rayon::spawn(|| {
            job();
            // A thread that waits already has taken this up meanwhile.
            if !WAITS.replace(true) {
                wait();
                WAITS.set(false);
            }
        });
    }
}

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

/// The next job, if one comes in time.
fn next_job() -> Option<Job> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::thread::{ThreadId, current, sleep};

    /// Threads that one test leaves waiting would do another's jobs.
    static ONE_TEST: Mutex<()> = Mutex::new(());

    fn alone() -> MutexGuard<'static, ()> {
        ONE_TEST.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn who_does_it() -> ThreadId {
        let (send, receive) = channel();
        submit(Box::new(move || send.send(current().id()).unwrap()));
        receive.recv_timeout(Duration::from_secs(60)).expect("somebody to do it")
    }

    #[test]
    fn every_job_is_done_whether_threads_wait_or_left() {
        let _alone = alone();
        for pause in [0, 10, 900, 1000, 1100, 5000] {
            for _ in 0..20 {
                assert_ne!(who_does_it(), current().id());
                sleep(Duration::from_micros(pause));
            }
        }
    }

    /// The thread that calls may itself be one that waits, and took up the call meanwhile.
    #[test]
    fn a_thread_that_waits_does_not_hand_over_to_itself() {
        let _alone = alone();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        for _ in 0..200 {
            pool.install(|| assert_ne!(who_does_it(), current().id()));
            // The one that called falls asleep.
            sleep(SPIN / 2);
        }
    }

    #[test]
    fn many_jobs_at_once_are_all_done() {
        let _alone = alone();
        let (send, receive) = channel();
        for i in 0..1000 {
            let send = send.clone();
            submit(Box::new(move || send.send(i).unwrap()));
        }
        drop(send);
        let mut done: Vec<usize> = receive.iter().collect();
        done.sort();
        assert!(done.into_iter().eq(0..1000));
    }
}
