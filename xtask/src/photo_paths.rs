//! The photos that a user names: files, folders and patterns.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};

/// The file endings that count as photos in a folder.
const ENDINGS: [&str; 14] =
    ["jpg", "jpeg", "png", "gif", "webp", "bmp", "tif", "tiff", "pnm", "ppm", "pgm", "pbm", "ico", "qoi"];

/// The photos that the arguments name; those in a folder or pattern are sorted by name.
///
/// # Errors
/// If an argument names nothing.
pub fn photos(arguments: &[String]) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for argument in arguments {
        let path = Path::new(argument);
        if path.is_dir() {
            let before = paths.len();
            folder(path, &mut paths)?;
            ensure!(paths.len() > before, "{argument}: a folder without photos, subfolders included");
        } else if path.exists() || !argument.contains(['*', '?', '[']) {
            ensure!(path.exists(), "{argument}: no such file or folder");
            paths.push(path.to_path_buf());
        } else {
            let found = glob::glob(argument).with_context(|| format!("the pattern {argument}"))?;
            let before = paths.len();
            for path in found {
                let path = path?;
                match path.is_dir() {
                    true => folder(&path, &mut paths)?,
                    false => paths.push(path),
                }
            }
            ensure!(paths.len() > before, "{argument}: no file matches the pattern");
        }
    }
    Ok(paths)
}

/// Adds the photos in a folder and its subfolders.
fn folder(path: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    let context = || format!("cannot read the folder {}", path.display());
    let mut entries = std::fs::read_dir(path)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>())
        .with_context(context)?;
    entries.sort();
    for entry in entries {
        let ending = entry.extension().map(|ending| ending.to_string_lossy().to_lowercase());
        // Links to folders are not followed, because they may lead back here.
        if entry.is_dir() && !entry.is_symlink() {
            folder(&entry, paths)?;
        } else if entry.is_file() && ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str())) {
            paths.push(entry);
        }
    }
    Ok(())
}
