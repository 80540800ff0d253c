//! Finds out which of the known formats a file has.

use super::file::{FileBytes, Tables};
use super::pickle::Pickle;
use super::pytorch::{self, LEGACY, ZIP};
use super::safetensors;
use std::collections::BTreeMap;
use std::io::Read;

/// The tensors of a file of any known format, and the metadata of its header.
///
/// # Errors
/// A text that says what the file is instead, or what is wrong with it.
pub(super) fn tables(file: &mut FileBytes) -> std::result::Result<Tables, String> {
    let mut start = Vec::new();
    file.read_from(0)?.take(512).read_to_end(&mut start).map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&start);
    let text = text.trim_start().to_ascii_lowercase();
    if safetensors::header_len(&start, file.len).is_some() {
        safetensors::entries(file).map_err(|reason| format!("not a whole safetensors file: {reason}"))
    } else if start.starts_with(&ZIP) {
        Ok((pytorch::from_zip(file)?, BTreeMap::new()))
    } else if start.starts_with(&LEGACY) {
        Ok((pytorch::from_legacy(file)?, BTreeMap::new()))
    } else if start.starts_with(&[0x80]) && matches!(start.get(1), Some(2..=5)) {
        // What the pickle names matters more than what it is for, so that is reported first.
        let mut bytes = Vec::new();
        file.read_from(0)?.take(1 << 20).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        Pickle::read(&bytes)?;
        Err("a bare pickle, expected a file of torch.save".into())
    } else if text.starts_with("<!doctype") || text.starts_with("<html") || text.starts_with("<?xml") {
        Err("a web page, not weights: the address it came from may ask for a login, or be that of a page"
            .into())
    } else if text.starts_with("version https://git-lfs") {
        Err("a Git LFS pointer, not the weights themselves: fetch them with `git lfs pull`".into())
    } else {
        safetensors::entries(file)
            .map_err(|reason| format!("not a whole safetensors file, and none of torch.save: {reason}"))
    }
}
