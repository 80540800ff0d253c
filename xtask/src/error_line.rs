//! An error and its causes as one line.

use anyhow::Error;
use resnext_model::json_problem;

/// What Rust's library says of a file that is no text.
const NO_TEXT: &str = "stream did not contain valid UTF-8";

/// The error and its causes, each said once: errors of libraries often repeat their cause in their own text.
pub fn error_line(error: &Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = match cause.downcast_ref() {
            Some(json) => json_problem(json),
            None => cause.to_string().replace(NO_TEXT, "it is not UTF-8 text"),
        };
        let text = plain(&text.trim().replace(['\n', '\r'], " "));
        if line.ends_with(&text) {
            continue;
        }
        line += if line.is_empty() { "" } else { ": " };
        line += &text;
    }
    line
}

/// A text without control characters: names of files and classes must neither end a line nor move a terminal's cursor.
pub fn plain(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
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
        assert_eq!(error_line(&anyhow::anyhow!("a\u{1b}[31m\nb")), "a\u{fffd}[31m b");
        let missing = std::fs::read("/none/at/all").context("reading").unwrap_err();
        assert_eq!(error_line(&missing), "reading: No such file or directory (os error 2)");
        let json = serde_json::from_str::<u8>("").context("x.json").unwrap_err();
        assert_eq!(error_line(&json), "x.json: the text ends where a value is expected, at line 1 column 0");
    }
}
