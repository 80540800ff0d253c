//! An error and its causes as one line.

use anyhow::Error;

/// The error and its causes, each said once: errors of libraries often repeat their cause in their own text.
pub fn error_line(error: &Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string().trim().replace(['\n', '\r'], " ");
        if line.ends_with(&text) {
            continue;
        }
        line += if line.is_empty() { "" } else { ": " };
        line += &text;
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_cause_is_said_once_and_in_one_line() {
        let cause = std::io::Error::other("no\nspace");
        let error = Error::new(cause).context("cannot write x: no space").context("saving");
        assert_eq!(error_line(&error), "saving: cannot write x: no space");
        let missing = std::fs::read("/none/at/all").context("reading").unwrap_err();
        assert_eq!(error_line(&missing), "reading: No such file or directory (os error 2)");
    }
}
