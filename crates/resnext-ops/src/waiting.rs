//! Threads that wait awake, for a moment, for the next job.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long. OpenMP's threads, those of other engines, wait from one to 200 ms.
const LINGER: Duration = Duration::from_millis(1);

/// What a thread is to do. It must not panic.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Where threads and jobs meet.
struct Room {
    /// Threads in it, those included for which there is a job already.
    waiting: usize,
    jobs: Vec<Job>,
}

static ROOM: Mutex<Room> = Mutex::new(Room { waiting: 0, jobs: Vec::new() });
/// As many as there are in the room, to be looked at without its lock.
static JOBS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static WAITS: Cell<bool> = const { Cell::new(false) };
}

/// Has another thread do `job`: one that waits, if there is one, or one of the current rayon pool, which then waits for
/// more.
///
/// Small operations follow each other within microseconds. A thread that fell asleep in between is late for the next:
/// it has to be woken, and may be put on the core of another one first. So threads look out for jobs for a while;
/// meanwhile they take what work there is in their pool, and let others run.
pub(crate) fn hand_over(job: Job) {
    let mut room = room();
    if room.waiting > room.jobs.len() {
        room.jobs.push(job);
        JOBS.store(room.jobs.len(), Ordering::Release);
    } else {
        drop(room);
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
    loop {
        room().waiting += 1;
        match next_job() {
            Some(job) => job(),
            None => return,
        }
    }
}

/// The next job, if one comes in time.
fn next_job() -> Option<Job> {
    let mut until = Instant::now() + LINGER;
    loop {
        let over = Instant::now() >= until;
        if over || JOBS.load(Ordering::Acquire) > 0 {
            let mut room = room();
            let job = room.jobs.pop();
            JOBS.store(room.jobs.len(), Ordering::Release);
            if over || job.is_some() {
                room.waiting -= 1;
                return job;
            }
        }
        match rayon::yield_now() {
            Some(rayon::Yield::Executed) => until = Instant::now() + LINGER,
            _ => std::thread::yield_now(),
        }
    }
}

fn room() -> MutexGuard<'static, Room> {
    ROOM.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::thread::{ThreadId, current, sleep};

    fn who_does_it() -> ThreadId {
        let (send, receive) = channel();
        hand_over(Box::new(move || send.send(current().id()).unwrap()));
        receive.recv().unwrap()
    }

    #[test]
    fn every_job_is_done_whether_threads_wait_or_left() {
        for pause in [0, 10, 900, 1000, 1100, 5000] {
            for _ in 0..20 {
                assert_ne!(who_does_it(), current().id());
                sleep(Duration::from_micros(pause));
            }
        }
    }

    #[test]
    fn many_jobs_at_once_are_all_done() {
        let (send, receive) = channel();
        for i in 0..1000 {
            let send = send.clone();
            hand_over(Box::new(move || send.send(i).unwrap()));
        }
        drop(send);
        let mut done: Vec<usize> = receive.iter().collect();
        done.sort();
        assert!(done.into_iter().eq(0..1000));
    }
}
