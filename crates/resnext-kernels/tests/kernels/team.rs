//! Thread teams.

use resnext_kernels::ThreadTeam;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

fn on(threads: usize, pass: impl FnOnce(&ThreadTeam) + Send) {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .unwrap()
        .install(|| ThreadTeam::scope_of(threads, pass));
}

#[test]
fn a_pool_of_more_threads_than_cores_has_a_team_without_the_surplus() {
    let cores = std::thread::available_parallelism().unwrap().get();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(cores + 254).build().unwrap();
    let (threads, helpers) = pool.install(|| {
        ThreadTeam::scope(|team| {
            let ids = Mutex::new(std::collections::HashSet::new());
            for _ in 0..100 {
                team.for_each(1000, |_| {
                    ids.lock().unwrap().insert(std::thread::current().id());
                });
            }
            (team.threads(), ids.into_inner().unwrap().len())
        })
    });
    assert_eq!(threads, cores);
    assert!(helpers <= cores, "{helpers} threads on {cores} cores");
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert_eq!(alone.install(|| ThreadTeam::scope(ThreadTeam::threads)), 1);
}

#[test]
fn every_task_of_every_loop_is_done_once_before_the_next_loop() {
    for threads in [1, 2, 5] {
        on(threads, |team| {
            for tasks in (0..300).chain([5000, 2_500_000]) {
                let seen: Vec<_> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
                team.for_each(tasks, |i| {
                    seen[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(seen.iter().all(|n| n.load(Ordering::Relaxed) == 1));
            }
        });
    }
}

#[test]
fn loops_inside_loops_and_from_other_threads_end() {
    let count = AtomicUsize::new(0);
    on(3, |team| {
        team.for_each(7, |_| {
            team.for_each(5, |_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
        });
    });
    assert_eq!(count.load(Ordering::Relaxed), 35);
}

#[test]
fn items_apart_are_each_seen_once_and_loops_within_stay_on_their_thread() {
    on(3, |team| {
        for items in [0, 2, 3, 7] {
            let mut items = vec![1; items];
            let made = team.map_items(&mut items, |i, item| {
                let own = std::thread::current().id();
                team.for_each(50, |_| assert_eq!(std::thread::current().id(), own));
                *item += i;
                10 * i
            });
            assert!(items.iter().copied().eq(1..=items.len()));
            assert!(made.iter().copied().eq((0..items.len()).map(|i| 10 * i)));
        }
        // Three that wait for each other: on one thread they would do so forever.
        let all = std::sync::Barrier::new(3);
        team.map_items(&mut [()], |_, _| {
            team.for_each(3, |_| {
                all.wait();
            })
        });
    });
}

#[test]
fn a_panic_in_a_task_ends_the_pass() {
    for threads in [1, 4] {
        let outcome = std::panic::catch_unwind(|| {
            on(threads, |team| team.for_each(64, |i| assert!(i < 33, "as planned")));
        });
        assert!(outcome.is_err());
    }
}
