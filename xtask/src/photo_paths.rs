//! The photos that a user names: files, folders and patterns.

use crate::error_line::plain;
use anyhow::{Context, Result, bail};
use resnext_data::{PhotoFiles, is_system_file};
use std::path::{Path, PathBuf};

/// The photos that the arguments name; those in a folder or pattern are sorted by name.
#[derive(Default)]
pub struct NamedPhotos {
    /// The photos. A file that is not there is among them: decoding it gives its error.
    pub paths: Vec<PathBuf>,
    /// The arguments that name no photos, and the folders below them that cannot be read.
    pub faults: Vec<Fault>,
    /// For each folder with other files, a line that says which of them are left out, and what they are.
    left_out: Vec<String>,
}

/// What gives no photos, and why.
pub struct Fault {
    pub name: String,
    pub reason: String,
}

impl NamedPhotos {
    /// Prints what is left out to standard error: once it is clear that the photos can be processed.
    pub fn print_left_out(&self) {
        self.left_out.iter().for_each(|line| eprintln!("{}", plain(line)));
    }

    /// Adds the photos in a folder and its subfolders. Without any, it is a fault if an argument `names` the folder.
    fn add(&mut self, folder: &Path, names: bool) {
        let name = folder.display().to_string();
        let files = match PhotoFiles::list(folder) {
            Ok(files) => files,
            Err(resnext_data::Error::Io { source, .. }) => {
                return self.fault(name, format!("cannot be read: {source}"));
            }
            Err(error) => return self.fault(name, error.to_string()),
        };
        for (path, reason) in &files.unreadable {
            self.fault(path.display().to_string(), reason.clone());
        }
        let line = files.left_out_line();
        match files.photos.is_empty() {
            true if names => {
                let left_out = line.map_or(String::new(), |line| format!("; {line}"));
                self.fault(name, format!("a folder without photos, subfolders included{left_out}"));
            }
            true => {}
            false => self.left_out.extend(line.map(|line| format!("{name}: {line}"))),
        }
        self.paths.extend(files.photos);
    }

    /// Adds the files that match a pattern, and the photos of folders that match it. Files that systems leave in
    /// folders match only if the pattern itself is a name.
    fn add_pattern(&mut self, argument: &str) -> Result<()> {
        let found = glob::glob(argument).with_context(|| format!("the pattern {argument}"))?;
        let before = (self.paths.len(), self.faults.len());
        for path in found {
            match path {
                Err(error) => {
                    let name = error.path().display().to_string();
                    self.fault(name, format!("cannot be read: {}", error.error()));
                }
                Ok(path) if is_system_file(&path) => {}
                Ok(path) if path.is_dir() => self.add(&path, false),
                Ok(path) => self.paths.push(path),
            }
        }
        if before == (self.paths.len(), self.faults.len()) {
            self.fault(argument.into(), "no file matches the pattern".into());
        }
        Ok(())
    }

    fn fault(&mut self, name: String, reason: String) {
        self.faults.push(Fault { name, reason });
    }
}

/// The photos that the arguments name.
///
/// # Errors
/// If none of them names photos, or one is no pattern.
pub fn photos(arguments: &[String]) -> Result<NamedPhotos> {
    let mut named = NamedPhotos::default();
    for argument in arguments {
        let path = Path::new(argument);
        if path.is_dir() {
            named.add(path, true);
        } else if path.exists() {
            named.paths.push(path.to_path_buf());
        } else if argument.contains(['*', '?', '[']) {
            named.add_pattern(argument)?;
        } else if arguments.len() == 1 {
            // Known before weights are downloaded for it.
            bail!("{argument}: no such file or folder");
        } else {
            named.paths.push(path.to_path_buf());
        }
    }
    if named.paths.is_empty() {
        let lines: Vec<String> =
            named.faults.iter().map(|Fault { name, reason }| format!("{name}: {reason}")).collect();
        bail!("{}", lines.join("; "));
    }
    Ok(named)
}
