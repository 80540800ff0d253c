//! Calls whose panics become errors.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    /// Whether this thread is inside [`caught`].
    static GUARDED: Cell<bool> = const { Cell::new(false) };
    /// Where this thread last panicked.
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Calls `f`; a panic of this thread becomes an error that says what was found and where, in one line, and
/// prints nothing.
///
/// The first call installs a panic hook, which passes every panic elsewhere to the hook before it.
pub fn caught<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    // Changing the hook while this thread panics would abort the program.
    if !std::thread::panicking() {
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                if !GUARDED.get() {
                    return before(info);
                }
                let place = info.location().map(|at| format!(" ({}:{})", file_name(at.file()), at.line()));
                PLACE.set(place.unwrap_or_default());
            }));
        });
    }
    let outer = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    GUARDED.set(outer);
    result.map_err(|payload| format!("{}{}", message(&*payload), PLACE.take()))
}

/// The message of a panic, in one line.
fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A source file's name without its folders, which differ from one machine to the next.
fn file_name(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_one_line_that_says_where() {
        assert_eq!(caught(|| 3), Ok(3));
        let error = caught(|| panic!("first line\n  and {}", 2)).unwrap_err();
        assert!(error.starts_with("first line and 2 (guard.rs:") && error.lines().count() == 1, "{error}");
        let nested = caught(|| caught(|| panic!("inner")).unwrap_err()).unwrap();
        assert!(nested.starts_with("inner"), "{nested}");
        assert!(!GUARDED.get());
    }
}
