//! Finds out which of the known formats a file has.

use super::file::{Contents, FileBytes};
use super::pickle::Pickle;
use super::pytorch::{self, ZIP};
use super::safetensors;
use std::io::Read;

/// The first bytes of files that people take for weights, what they are, and what would be right.
const OTHER_FORMATS: [(&[u8], &str); 6] = [
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"BZh", "a bzip2 archive: unpack it first"),
    (b"\xfd7zXZ", "an xz archive: unpack it first"),
    (b"\x89HDF", "an HDF5 file, as Keras writes: expected safetensors or a file of torch.save"),
    (b"GGUF", "a GGUF file: expected safetensors or a file of torch.save"),
    (b"\x93NUMPY", "a NumPy array: expected safetensors or a file of torch.save"),
];

/// The tensors of a file of any known format, and the metadata of its header.
///
/// # Errors
/// A text that says what the file is instead, or what is wrong with it.
pub(super) fn contents(file: &mut FileBytes) -> std::result::Result<Contents, String> {
    let mut start = Vec::new();
    file.read_from(0)?.take(512).read_to_end(&mut start).map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&start);
    let text = text.trim_start().to_ascii_lowercase();
    if safetensors::header_len(&start, file.len).is_some() {
        safetensors::contents(file).map_err(|reason| format!("not a complete safetensors file: {reason}"))
    } else if ZIP.iter().any(|zip| start.starts_with(zip)) {
        pytorch::from_zip(file)
    } else if pytorch::is_legacy(&start) {
        pytorch::from_legacy(file)
    } else if start.starts_with(&[0x80]) && matches!(start.get(1), Some(2..=5)) {
        // The names in the pickle matter more than its purpose, so they are reported first.
        let mut bytes = Vec::new();
        file.read_from(0)?.take(1 << 20).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        if let Some(refusal) = Pickle::read(&bytes)?.refusal() {
            return Err(refusal);
        }
        Err("a bare pickle, expected a file of torch.save".into())
    } else if text.starts_with("<!doctype") || text.starts_with("<html") || text.starts_with("<?xml") {
        Err("a web page, not weights: its address may ask for a login, or be that of a page about them"
            .into())
    } else if text.starts_with("version https://git-lfs") {
        Err("a Git LFS pointer, not the weights themselves: fetch them with `git lfs pull`".into())
    } else if let Some((_, what)) = OTHER_FORMATS.iter().find(|(first, _)| start.starts_with(first)) {
        Err((*what).into())
    } else if start.get(257..262) == Some(b"ustar") {
        Err("a tar archive: unpack it; a file of PyTorch before version 0.1.10 has to be saved again".into())
    } else if is_onnx(&start) {
        Err("an ONNX file, which is for other programs: expected safetensors or a file of torch.save".into())
    } else {
        safetensors::contents(file)
            .map_err(|reason| format!("neither a complete safetensors file nor one of torch.save: {reason}"))
    }
}

/// Whether a file starts as ONNX's `ModelProto`: with a small version, then a producer's name or a graph.
fn is_onnx(start: &[u8]) -> bool {
    matches!(start, [0x08, 1..=20, 0x12 | 0x1a | 0x22 | 0x2a | 0x32 | 0x3a | 0x42, ..])
}
