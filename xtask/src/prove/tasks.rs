//! Independent parts of a proof, two at a time.

use anyhow::{Context, Result, anyhow};
use indicatif::ProgressBar;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// A part of a proof that depends on no other.
pub struct Task<'a, T> {
    /// The text of the progress bar while it runs.
    pub message: String,
    /// An estimate of its time and memory, in any unit.
    pub cost: usize,
    pub run: Box<dyn FnOnce() -> Result<T> + Send + 'a>,
}

/// Runs tasks in two lanes, each with half of the threads of the current pool, and returns their results in the order of
/// the tasks. With one thread, or if not `parallel`, there is one lane.
///
/// Much of a proof runs on one thread: random numbers are drawn, weights converted, results compared. Two lanes keep the
/// cores busy meanwhile. One lane takes the most expensive task that is left and the other the cheapest, so that two large
/// networks are not in memory at once, and neither lane waits long for the other at the end.
///
/// # Errors
/// The first error of any task, after which no other task starts.
pub fn run_tasks<T: Send>(tasks: Vec<Task<'_, T>>, parallel: bool, bar: &ProgressBar) -> Result<Vec<T>> {
    let threads = rayon::current_num_threads();
    let lanes = if parallel { threads.min(2) } else { 1 };
    let mut order: Vec<_> = tasks.into_iter().enumerate().collect();
    order.sort_by_key(|(_, task)| task.cost);
    let count = order.len();
    let queue = Mutex::new(VecDeque::from(order));
    let next = |lane: usize| {
        let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
        if lane == 0 { queue.pop_back() } else { queue.pop_front() }
    };
    let work = |lane: usize| -> Result<Vec<(usize, T)>> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads / lanes).build();
        let pool = pool.context("cannot start threads")?;
        let mut done = Vec::new();
        while let Some((i, Task { message, run, .. })) = next(lane) {
            bar.set_message(message);
            match pool.install(run) {
                Ok(result) => done.push((i, result)),
                Err(error) => {
                    queue.lock().unwrap_or_else(PoisonError::into_inner).clear();
                    return Err(error);
                }
            }
            bar.inc(1);
        }
        Ok(done)
    };
    let work = &work;
    let lanes: Vec<_> = std::thread::scope(|scope| {
        let started: Vec<_> = (0..lanes).map(|lane| scope.spawn(move || work(lane))).collect();
        started.into_iter().map(|lane| lane.join()).collect()
    });
    let mut results: Vec<Option<T>> = (0..count).map(|_| None).collect();
    for lane in lanes {
        let done = lane.unwrap_or_else(|_| Err(anyhow!("a part of the proof panicked")))?;
        done.into_iter().for_each(|(i, result)| results[i] = Some(result));
    }
    Ok(results.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    fn task<'a>(i: usize, cost: usize, run: impl FnOnce() -> Result<usize> + Send + 'a) -> Task<'a, usize> {
        Task { message: i.to_string(), cost, run: Box::new(run) }
    }

    fn in_pool<T: Send>(threads: usize, run: impl FnOnce() -> T + Send) -> T {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run)
    }

    #[test]
    fn results_have_the_order_of_the_tasks_with_any_number_of_threads() {
        for (threads, parallel, own) in [(1, true, 1), (2, true, 1), (5, true, 2), (4, false, 4)] {
            let tasks = (0..20).map(|i| {
                task(i, i * 7 % 5, move || {
                    assert_eq!(rayon::current_num_threads(), own);
                    Ok(i)
                })
            });
            let tasks = tasks.collect();
            let results = in_pool(threads, || run_tasks(tasks, parallel, &ProgressBar::hidden()));
            assert_eq!(results.unwrap(), (0..20).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_error_ends_the_proof() {
        let started = Mutex::new(0);
        let one = |i: usize| {
            let started = &started;
            task(i, i, move || {
                *started.lock().unwrap() += 1;
                if i == 19 { bail!("task {i} failed") } else { Ok(i) }
            })
        };
        let tasks = (0..20).map(one).collect();
        let error = in_pool(1, || run_tasks(tasks, true, &ProgressBar::hidden())).unwrap_err();
        assert_eq!((error.to_string().as_str(), *started.lock().unwrap()), ("task 19 failed", 1));
    }
}
