//! Worker threads that spin briefly before they sleep.

use resnext_kernels::internals::{SPIN, submit};
use std::sync::mpsc::channel;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{ThreadId, current, sleep};
use std::time::Duration;

/// Workers that one test leaves spinning would run another test's jobs.
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

/// The submitting thread may itself be a spinning worker.
#[test]
fn a_thread_that_waits_does_not_hand_over_to_itself() {
    let _alone = alone();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    for _ in 0..200 {
        pool.install(|| assert_ne!(who_does_it(), current().id()));
        // The submitting thread falls asleep.
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
