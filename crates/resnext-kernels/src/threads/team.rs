//! A team of threads that stay awake between one loop and the next.

use super::standby::submit;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// A team of threads for the many short loops of one forward pass: the calling thread, and as many others as make up
/// the size of the current rayon pool, but no more than the machine has cores for.
///
/// Waking a sleeping thread takes longer than a small layer, so the team's threads spin until the next loop starts, and
/// leave when the pass is over. Each thread owns the same range of tasks in every loop, so it finds in its cache what it
/// wrote in the loop before. A thread that runs out steals from the end of another's range.
#[derive(Debug)]
pub struct ThreadTeam(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// One per thread.
    parts: Vec<TaskRange>,
    loops: Loops,
}

impl ThreadTeam {
    /// Calls `pass` with a team of [`size`](Self::size) threads, the calling one included.
    pub fn scope<R>(pass: impl FnOnce(&ThreadTeam) -> R) -> R {
        Self::scope_of(Self::size(), pass)
    }

    /// How many threads [`scope`](Self::scope) takes: as many as the current rayon pool has, or as the machine has cores for
    /// this process, if those are fewer. A thread without a core of its own would only spin in the time of one that computes.
    pub fn size() -> usize {
        static CORES: OnceLock<usize> = OnceLock::new();
        let cores = || std::thread::available_parallelism().map_or(usize::MAX, usize::from);
        rayon::current_num_threads().min(*CORES.get_or_init(cores))
    }

    /// Calls `pass` with a team of `threads` threads, whether there are cores for them or not: for tests of what a machine
    /// with more cores would compute. Threads that the pool lacks have their tasks done by the others.
    pub fn scope_of<R>(threads: usize, pass: impl FnOnce(&ThreadTeam) -> R) -> R {
        let parts = (0..threads.max(1)).map(|_| TaskRange::default()).collect();
        let team = ThreadTeam(Arc::new(Shared { parts, loops: Loops::default() }));
        for own in 1..team.threads() {
            let team = ThreadTeam(team.0.clone());
            // `lead` reports a panic to the leader.
            submit(Box::new(move || drop(catch_unwind(AssertUnwindSafe(|| team.serve(own))))));
        }
        // Runs when the pass unwinds, too.
        let _end = OnDrop(|| team.0.loops.closed.store(true, Ordering::Release));
        pass(&team)
    }

    /// The number of threads.
    pub fn threads(&self) -> usize {
        self.0.parts.len()
    }

    /// Calls `task(i)` for every `i` below `tasks`, on all threads, and returns when all calls have returned.
    ///
    /// There is one loop at a time: a call from within a task, or from a thread other than the leader, runs all its tasks
    /// on the calling thread. [`map_items`](Self::map_items) relies on that.
    ///
    /// # Panics
    /// If a task panics.
    pub fn for_each(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        if self.threads() == 1 || tasks < 2 || self.0.loops.busy.swap(true, Ordering::Acquire) {
            return (0..tasks).for_each(task);
        }
        let _free = OnDrop(|| self.0.loops.busy.store(false, Ordering::Release));
        for first in (0..tasks).step_by(TASK as usize) {
            self.lead(tasks.min(first + TASK as usize) - first, &|i| task(first + i));
        }
    }

    /// Calls `task` with the index of each item and the item, one item per thread at a time, and returns the results in
    /// order. Loops inside `task` stay on the item's thread; with one item, its inner loops use all threads.
    pub fn map_items<T: Send, R: Send>(
        &self,
        items: &mut [T],
        task: impl Fn(usize, &mut T) -> R + Sync,
    ) -> Vec<R> {
        let items: Vec<_> = items.iter_mut().map(|item| Mutex::new((item, None))).collect();
        self.for_each(items.len(), |i| {
            let (item, made) = &mut *items[i].lock().unwrap_or_else(PoisonError::into_inner);
            *made = Some(task(i, item));
        });
        let made = |item: Mutex<(_, Option<R>)>| item.into_inner().unwrap_or_else(PoisonError::into_inner).1;
        items.into_iter().filter_map(made).collect()
    }

    /// Runs one loop on all threads, from the thread that leads.
    fn lead(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        // SAFETY: all tasks of the loop before are done, and none of this one can be claimed yet. The reference is used
        // only until this function returns or unwinds, because `rest` waits in both cases until all tasks are done. `rest`
        // does not unwind: the tasks it claims are those a panic on this thread has left, and they are skipped.
        unsafe {
            let task = std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(task);
            *self.0.loops.task.get() = Some(task);
        }
        // All counters are reset before any part is opened, as a thread counts as soon as it finds one open.
        self.0.parts.iter().for_each(|part| part.done.store(0, Ordering::Relaxed));
        for (i, part) in self.0.parts.iter().enumerate() {
            let bound = |i: usize| (tasks * i / self.threads()) as u64;
            part.open(bound(i), bound(i + 1));
        }
        // Waits when a task unwinds on this thread, too: others may still be running theirs.
        let rest = OnDrop(|| {
            let mut patience = PATIENCE;
            let done = || self.0.parts.iter().map(|part| part.done.load(Ordering::Acquire)).sum::<usize>();
            while done() < tasks {
                if !self.work(0) {
                    pause(&mut patience);
                }
            }
        });
        while self.work(0) {}
        drop(rest);
        assert!(!self.0.loops.panicked.load(Ordering::Relaxed), "a task on another thread panicked");
    }

    /// Claims tasks until the pass is over.
    fn serve(&self, own: usize) {
        let mut patience = PATIENCE;
        while !self.0.loops.closed.load(Ordering::Relaxed) {
            match self.work(own) {
                true => patience = PATIENCE,
                false => pause(&mut patience),
            }
        }
    }

    /// Claims and runs one task, of this thread's own range if possible. Returns whether there was one.
    fn work(&self, own: usize) -> bool {
        let others = (1..self.threads()).map(|i| &self.0.parts[(own + i) % self.threads()]);
        let claimed = self.0.parts[own].first().or_else(|| others.into_iter().find_map(TaskRange::last));
        let Some(claimed) = claimed else { return false };
        let _done = OnDrop(|| {
            if std::thread::panicking() {
                self.0.loops.panicked.store(true, Ordering::Relaxed);
            }
            self.0.parts[own].done.fetch_add(1, Ordering::Release);
        });
        // SAFETY: this thread holds a task of the open loop, so `task` is set and stays set.
        let task = unsafe { *self.0.loops.task.get() };
        // After a panic the remaining tasks are skipped: a second panic while the first unwinds would abort the process.
        if let Some(task) = task.filter(|_| !self.0.loops.panicked.load(Ordering::Relaxed)) {
            task(claimed);
        }
        true
    }
}

/// The loop that is open, if any, and the state of the pass.
#[derive(Default)]
struct Loops {
    busy: AtomicBool,
    closed: AtomicBool,
    /// The open loop's task.
    task: UnsafeCell<Option<&'static (dyn Fn(usize) + Sync)>>,
    panicked: AtomicBool,
}

// SAFETY: `task` is written by the leader only, while no task can be claimed, and read only by threads that hold a
// claimed task, which the leader waits for.
unsafe impl Sync for Loops {}

impl std::fmt::Debug for Loops {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Loops")
    }
}

const TASK_BITS: u32 = 20;
const TASK: u64 = (1 << TASK_BITS) - 1;

/// A thread's range of the open loop's tasks.
#[derive(Debug, Default)]
#[repr(align(128))]
struct TaskRange {
    /// Its unclaimed tasks: the loop's number, their end and their start, packed into one word, so that a late thread cannot
    /// claim a task of a loop other than the one it saw.
    unclaimed: AtomicU64,
    /// Tasks that its thread has done, of any range. One counter per thread, as another core's cache may be far away.
    done: AtomicUsize,
}

impl TaskRange {
    /// Makes tasks `start..end` of a new loop claimable.
    fn open(&self, start: u64, end: u64) {
        let number = (self.unclaimed.load(Ordering::Relaxed) >> (2 * TASK_BITS)) + 1;
        self.unclaimed.store((number << TASK_BITS | end) << TASK_BITS | start, Ordering::Release);
    }

    /// Claims the first task.
    fn first(&self) -> Option<usize> {
        self.claim(|start, end| (start + 1, end, start))
    }

    /// Claims the last task.
    fn last(&self) -> Option<usize> {
        self.claim(|start, end| (start, end - 1, end - 1))
    }

    /// Claims a task: `take` returns the new start and end, and the task.
    fn claim(&self, take: impl Fn(u64, u64) -> (u64, u64, u64)) -> Option<usize> {
        let mut now = self.unclaimed.load(Ordering::Acquire);
        loop {
            let (start, end) = (now & TASK, now >> TASK_BITS & TASK);
            if start >= end {
                return None;
            }
            let (start, end, task) = take(start, end);
            let then = (now >> (2 * TASK_BITS) << TASK_BITS | end) << TASK_BITS | start;
            match self.unclaimed.compare_exchange_weak(now, then, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(task as usize),
                Err(changed) => now = changed,
            }
        }
    }
}

/// Polls after which an idle thread yields to others between polls.
const PATIENCE: u32 = 20_000;

fn pause(patience: &mut u32) {
    match *patience {
        0 => std::thread::yield_now(),
        _ => {
            *patience -= 1;
            std::hint::spin_loop();
        }
    }
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
