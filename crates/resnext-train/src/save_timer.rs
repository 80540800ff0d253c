//! When a run saves between the ends of its epochs.

use std::time::{Duration, Instant};

/// Says when a checkpoint is due: a fixed time after the last one.
pub struct SaveTimer {
    every: Duration,
    /// The time since some fixed moment.
    clock: Box<dyn Fn() -> Duration>,
    last: Duration,
}

impl SaveTimer {
    /// A timer by the machine's monotonic clock, which does not jump when the date is set.
    pub fn new(every: Duration) -> Self {
        let start = Instant::now();
        Self::with_clock(every, move || start.elapsed())
    }

    /// A timer by another clock, such as a test's: the time since some fixed moment.
    pub fn with_clock(every: Duration, clock: impl Fn() -> Duration + 'static) -> Self {
        let last = clock();
        SaveTimer { every, clock: Box::new(clock), last }
    }

    /// Whether the time since the last checkpoint, or since the start, is at least the interval. A clock that
    /// went back counts as standing still.
    pub fn is_due(&self) -> bool {
        (self.clock)().saturating_sub(self.last) >= self.every
    }

    /// Starts the next interval. Called after a checkpoint is written, so that writing a large one to a slow
    /// disk does not make the next one due at once.
    pub fn saved(&mut self) {
        self.last = (self.clock)();
    }
}

impl std::fmt::Debug for SaveTimer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SaveTimer").field("every", &self.every).field("last", &self.last).finish()
    }
}
