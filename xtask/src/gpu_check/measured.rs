//! A speed, or why there is none.

use anyhow::Result;

/// What was measured of one engine.
pub enum Measured<T> {
    Speed(T),
    /// What could not be measured, with the reason.
    Missing(String),
}

impl<T> Measured<T> {
    /// The speed made of a time, or the first line of why `what` has none.
    pub fn of<Time>(time: Result<Time>, what: &str, speed: impl FnOnce(Time) -> T) -> Self {
        match time {
            Ok(time) => Measured::Speed(speed(time)),
            Err(error) => {
                let text = error.to_string();
                Measured::Missing(format!("{what}: {}", text.lines().next().unwrap_or_default()))
            }
        }
    }
}
