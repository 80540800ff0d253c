//! Where the time of a training step goes, by layer.

use std::cell::RefCell;
use std::time::{Duration, Instant};

#[derive(Default)]
struct Profile {
    path: String,
    times: Vec<(String, Duration)>,
}

thread_local! {
    static PROFILE: RefCell<Option<Profile>> = const { RefCell::new(None) };
}

/// Runs `f` and says what fused training operations inside it took, in order: the scopes they were in and their own
/// name, such as `layer1.0.conv2 weight gradient`. Operations that run one by one are not listed.
pub fn profiled<R>(f: impl FnOnce() -> R) -> (R, Vec<(String, Duration)>) {
    let outer = PROFILE.replace(Some(Profile::default()));
    let result = f();
    let profile = PROFILE.replace(outer).unwrap_or_default();
    (result, profile.times)
}

/// Runs `f` in a scope of the given name, such as `layer1.0`.
pub fn scope<R>(name: impl FnOnce() -> String, f: impl FnOnce() -> R) -> R {
    match PROFILE.with_borrow(Option::is_some) {
        true => within(name(), f),
        false => f(),
    }
}

/// The scope at the moment, for what is done later in its name.
pub(crate) fn path() -> String {
    PROFILE.with_borrow(|profile| profile.as_ref().map(|profile| profile.path.clone()).unwrap_or_default())
}

/// Runs `f` in exactly that scope.
pub(crate) fn within<R>(path: String, f: impl FnOnce() -> R) -> R {
    let set = |path: String| {
        PROFILE.with_borrow_mut(|profile| {
            profile.as_mut().map(|profile| std::mem::replace(&mut profile.path, path))
        })
    };
    let before = set(path);
    let result = f();
    before.map(set);
    result
}

/// Runs `f`, a part of a layer's work.
pub(crate) fn timed<R>(layer: &str, work: &str, f: impl FnOnce() -> R) -> R {
    if PROFILE.with_borrow(Option::is_none) {
        return f();
    }
    let start = Instant::now();
    let result = f();
    let time = start.elapsed();
    PROFILE.with_borrow_mut(|profile| {
        if let Some(Profile { path, times }) = profile {
            let dot = if path.is_empty() || layer.is_empty() { "" } else { "." };
            times.push((format!("{path}{dot}{layer} {work}"), time));
        }
    });
    result
}
