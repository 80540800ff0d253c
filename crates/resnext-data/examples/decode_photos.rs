//! Decodes the files whose paths come line by line on standard input, for `scripts/suites/photos.py`.
//!
//! For each it writes a line of its own to standard output: `ok WIDTH HEIGHT NOTE`, followed by the pixels (H, W, 3),
//! or `error MESSAGE`.

use resnext_data::Photo;
use std::io::{BufRead, Write};
use std::path::Path;

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for path in std::io::stdin().lock().lines() {
        match Photo::open(Path::new(&path?)) {
            Ok(photo) => {
                let note = photo.note().unwrap_or_default();
                writeln!(out, "ok {} {} {note}", photo.width(), photo.height())?;
                out.write_all(photo.pixels())?;
            }
            Err(error) => writeln!(out, "error {error}")?,
        }
        out.flush()?;
    }
    Ok(())
}
