//! The photos that a user names: files, folders and patterns.

use anyhow::{Context, Result, bail, ensure};
use resnext_data::{PhotoFiles, is_system_file};
use std::path::{Path, PathBuf};

/// The photos that the arguments name; those in a folder or pattern are sorted by name.
#[derive(Default)]
pub struct NamedPhotos {
    pub paths: Vec<PathBuf>,
    /// For each folder with other files, a line that says which of them are left out, and what they are.
    left_out: Vec<String>,
}

impl NamedPhotos {
    /// Prints what is left out to standard error: once it is clear that the photos can be processed.
    pub fn print_left_out(&self) {
        self.left_out.iter().for_each(|line| eprintln!("{line}"));
    }

    /// Adds the photos in a folder and its subfolders, and returns what was found.
    fn add(&mut self, folder: &Path) -> Result<PhotoFiles> {
        let files = PhotoFiles::list(folder)?;
        let line = files.left_out_line().filter(|_| !files.photos.is_empty());
        self.left_out.extend(line.map(|line| format!("{}: {line}", folder.display())));
        self.paths.extend(files.photos.iter().cloned());
        Ok(files)
    }
}

/// The photos that the arguments name.
///
/// # Errors
/// If an argument names nothing, or no photos.
pub fn photos(arguments: &[String]) -> Result<NamedPhotos> {
    let mut named = NamedPhotos::default();
    for argument in arguments {
        let path = Path::new(argument);
        if path.is_dir() {
            let files = named.add(path)?;
            if files.photos.is_empty() {
                let left_out = files.left_out_line().map_or(String::new(), |line| format!("; {line}"));
                bail!("{argument}: a folder without photos, subfolders included{left_out}");
            }
        } else if path.exists() || !argument.contains(['*', '?', '[']) {
            ensure!(path.exists(), "{argument}: no such file or folder");
            named.paths.push(path.to_path_buf());
        } else {
            pattern(argument, &mut named)?;
        }
    }
    Ok(named)
}

/// Adds the files that match a pattern, and the photos of folders that match it. Files that systems leave in
/// folders match only if the pattern itself is a name.
fn pattern(argument: &str, named: &mut NamedPhotos) -> Result<()> {
    let found = glob::glob(argument).with_context(|| format!("the pattern {argument}"))?;
    let before = named.paths.len();
    for path in found {
        let path = path?;
        match path.is_dir() {
            _ if is_system_file(&path) => {}
            true => {
                named.add(&path)?;
            }
            false => named.paths.push(path),
        }
    }
    ensure!(named.paths.len() > before, "{argument}: no file matches the pattern");
    Ok(())
}
