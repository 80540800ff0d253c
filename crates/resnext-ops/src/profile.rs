//! The time that each layer takes of a training step.

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

/// Runs `f` and returns how long each part of the fused training operations in it took, in order. A part is
/// named by its scopes, layer and work, such as `layer1.0.conv2 weight gradient`. Single operations are not
/// listed.
pub fn profiled<R>(f: impl FnOnce() -> R) -> (R, Vec<(String, Duration)>) {
    let outer = PROFILE.replace(Some(Profile::default()));
    let result = f();
    let profile = PROFILE.replace(outer).unwrap_or_default();
    (result, profile.times)
}

/// Runs `f` in a scope with the given name, such as `layer1.0`, which prefixes the names of its parts in
/// [`profiled`]. `name` is called only while a profile is taken.
pub fn scope<R>(name: impl FnOnce() -> String, f: impl FnOnce() -> R) -> R {
    match PROFILE.with_borrow(Option::is_some) {
        true => within(name(), f),
        false => f(),
    }
}

/// The current scope, for work that is done later on its behalf.
pub(crate) fn path() -> String {
    PROFILE.with_borrow(|profile| profile.as_ref().map(|profile| profile.path.clone()).unwrap_or_default())
}

/// Runs `f` in the scope `path`, whatever the current one.
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

/// Times the work from here to the end of the scope that holds the span, as `work` of `layer` in the current
/// scope.
#[must_use = "a span that is not bound to a name ends at once"]
pub(crate) fn span(layer: &'static str, work: &'static str) -> Span {
    Span { layer, work, start: PROFILE.with_borrow(Option::is_some).then(Instant::now) }
}

/// A part of a layer's work while it runs; see [`span`].
pub(crate) struct Span {
    layer: &'static str,
    work: &'static str,
    /// `None` if no profile is taken.
    start: Option<Instant>,
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(time) = self.start.map(|start| start.elapsed()) else { return };
        let (layer, work) = (self.layer, self.work);
        PROFILE.with_borrow_mut(|profile| {
            if let Some(Profile { path, times }) = profile {
                let dot = if path.is_empty() || layer.is_empty() { "" } else { "." };
                times.push((format!("{path}{dot}{layer} {work}"), time));
            }
        });
    }
}
