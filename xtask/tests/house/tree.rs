//! The sources of the workspace: read from the disk, or given by a control.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// One crate of the workspace.
pub struct Crate {
    /// The package's name, such as `resnext-ops`.
    pub name: String,
    /// The text of its `Cargo.toml`.
    pub manifest: String,
    /// The text of each file by its path below `src`, such as `infer/conv.rs`.
    pub files: BTreeMap<String, String>,
}

impl Crate {
    /// Reads the crate in `folder`.
    pub fn read(folder: &Path) -> Result<Crate, String> {
        let manifest = text(&folder.join("Cargo.toml"))?;
        let parsed: toml::Table = manifest.parse().map_err(|e| format!("{}: {e}", folder.display()))?;
        let name = parsed["package"]["name"].as_str().unwrap_or_default().to_string();
        let mut files = BTreeMap::new();
        collect(&folder.join("src"), "", &mut files)?;
        Ok(Crate { name, manifest, files })
    }

    /// The crate's name in `use` lines, with underscores for hyphens.
    pub fn ident(&self) -> String {
        self.name.replace('-', "_")
    }

    /// The file of the crate's root module.
    pub fn root(&self) -> &'static str {
        if self.files.contains_key("lib.rs") { "lib.rs" } else { "main.rs" }
    }
}

/// Every crate of the workspace at `root`: the folders of `crates`, and `xtask`.
pub fn workspace(root: &Path) -> Result<Vec<Crate>, String> {
    let entries = fs::read_dir(root.join("crates")).map_err(|e| format!("crates: {e}"))?;
    let mut folders: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    folders.push(root.join("xtask"));
    folders.retain(|folder| folder.join("Cargo.toml").is_file());
    folders.sort();
    folders.iter().map(|folder| Crate::read(folder)).collect()
}

/// Adds the Rust files in `folder` to `files`; `prefix` is the folder's path below `src`.
fn collect(folder: &Path, prefix: &str, files: &mut BTreeMap<String, String>) -> Result<(), String> {
    let entries = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if path.is_dir() {
            collect(&path, &format!("{prefix}{name}/"), files)?;
        } else if name.ends_with(".rs") {
            files.insert(format!("{prefix}{name}"), text(&path)?);
        }
    }
    Ok(())
}

/// The text of a file.
pub fn text(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}
