//! The photos that a user names: files, folders and patterns.

use anyhow::{Context, Result, bail, ensure};
use resnext_data::{PhotoFiles, is_strewn};
use std::path::{Path, PathBuf};

/// The photos that the arguments name; those in a folder or pattern are sorted by name. For each folder, a line on
/// standard error says which files are left out, and what they are.
///
/// # Errors
/// If an argument names nothing, or no photos.
pub fn photos(arguments: &[String]) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for argument in arguments {
        let path = Path::new(argument);
        if path.is_dir() {
            let files = list(path)?;
            if files.photos.is_empty() {
                let left_out = files.left_out_line().map_or(String::new(), |line| format!("; {line}"));
                bail!("{argument}: a folder without photos, subfolders included{left_out}");
            }
            paths.extend(files.photos);
        } else if path.exists() || !argument.contains(['*', '?', '[']) {
            ensure!(path.exists(), "{argument}: no such file or folder");
            paths.push(path.to_path_buf());
        } else {
            paths.extend(pattern(argument)?);
        }
    }
    Ok(paths)
}

/// The photos in a folder and its subfolders. If there are any, a line says which other files there are.
fn list(folder: &Path) -> Result<PhotoFiles> {
    let files = PhotoFiles::list(folder)?;
    if let Some(line) = files.left_out_line().filter(|_| !files.photos.is_empty()) {
        eprintln!("{}: {line}", folder.display());
    }
    Ok(files)
}

/// The files that match a pattern, and the photos of folders that match it. Files that systems strew in folders
/// match only if the pattern itself is a name.
fn pattern(argument: &str) -> Result<Vec<PathBuf>> {
    let found = glob::glob(argument).with_context(|| format!("the pattern {argument}"))?;
    let mut paths = Vec::new();
    for path in found {
        let path = path?;
        match path.is_dir() {
            _ if is_strewn(&path) => {}
            true => paths.extend(list(&path)?.photos),
            false => paths.push(path),
        }
    }
    ensure!(!paths.is_empty(), "{argument}: no file matches the pattern");
    Ok(paths)
}
