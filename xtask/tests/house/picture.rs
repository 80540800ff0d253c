//! The picture in `docs/architecture.md`: crates, their wings, and what each may import.
//!
//! The block that begins with ```` ```wings ```` has one row per crate and, indented below it, one row per
//! wing, which is a part of the crate. Columns are separated by at least two spaces. A line that is indented
//! by ten spaces or more continues the row above:
//!
//! ```text
//! resnext-ops   tensors                              → resnext-kernels
//!   infer/      packed convolutions                  → ground; kernels: infer ground
//!   ground      error.rs config.rs: what all need
//!                                                    → kernels: ground
//! resnext-kernels   slices                           → outside: half rayon
//! ```
//!
//! A wing is a folder (`infer/`), a file (`layout.rs`), or a name followed by a list of files and a colon.
//! The arrow is followed by wings of the same crate, then by wings of other crates. A row imports only rows
//! below it, so that arrows point down. If no wing of a crate lists wings of another crate, its wings may
//! import all of the crates in the crate's row. `outside` limits the external dependencies of a crate to the
//! listed ones.

use crate::tree::Crate;

/// The parsed picture.
pub struct Picture {
    /// The rows of crates, from the top.
    pub crates: Vec<CrateRow>,
}

/// A crate in the picture.
pub struct CrateRow {
    /// The package's name.
    pub name: String,
    /// The crates of the workspace that it may import.
    pub imports: Vec<String>,
    /// The external crates that it may depend on, if they are limited.
    pub outside: Option<Vec<String>>,
    /// Its wings, from the top.
    pub wings: Vec<Wing>,
}

/// A part of a crate.
pub struct Wing {
    /// Its name in the picture, without `/` or `.rs`.
    pub name: String,
    /// Its folder, with a trailing `/`, or its files.
    pub places: Vec<String>,
    /// The wings of the same crate that it may import.
    pub imports: Vec<String>,
    /// The wings of other crates that it may import, as crate and wing.
    pub others: Vec<(String, String)>,
}

impl Picture {
    /// Parses the picture in a Markdown document.
    pub fn parse(document: &str) -> Result<Picture, String> {
        let mut lines = document.lines();
        lines.find(|line| line.trim_end() == "```wings").ok_or("there is no ```wings block")?;
        let mut rows: Vec<String> = Vec::new();
        for line in lines.take_while(|line| !line.starts_with("```")).filter(|line| !line.trim().is_empty()) {
            match rows.last_mut() {
                Some(row) if line.starts_with("          ") => {
                    row.push(' ');
                    row.push_str(line.trim_start());
                }
                _ => rows.push(line.to_string()),
            }
        }
        let mut picture = Picture { crates: Vec::new() };
        for line in &rows {
            let (left, right) = line.split_once('→').unwrap_or((line.as_str(), ""));
            let (first, sentence) = left.trim().split_once("  ").unwrap_or((left.trim(), ""));
            let lists: Vec<(&str, Vec<String>)> = right.split(';').map(list).collect();
            let of =
                |wanted: &str| lists.iter().find(|(name, _)| *name == wanted).map(|(_, names)| names.clone());
            if !line.starts_with(' ') {
                let (imports, outside) = (of("").unwrap_or_default(), of("outside"));
                picture.crates.push(CrateRow { name: first.into(), imports, outside, wings: Vec::new() });
                continue;
            }
            let files = sentence.split_once(':').map_or("", |(files, _)| files).split_whitespace();
            let places = if first.ends_with('/') || first.ends_with(".rs") {
                vec![first.to_string()]
            } else {
                files.map(String::from).collect()
            };
            let others = lists.iter().filter(|(name, _)| !name.is_empty());
            let others = others
                .flat_map(|(name, wings)| wings.iter().map(move |wing| (name.to_string(), wing.clone())));
            let wing = Wing {
                name: first.trim_end_matches('/').trim_end_matches(".rs").into(),
                places,
                imports: of("").unwrap_or_default(),
                others: others.collect(),
            };
            picture.crates.last_mut().ok_or("the picture begins with a wing")?.wings.push(wing);
        }
        // In the rows of wings, the crates' common prefix may be left out.
        let names: Vec<String> = picture.crates.iter().map(|row| row.name.clone()).collect();
        let others =
            picture.crates.iter_mut().flat_map(|row| &mut row.wings).flat_map(|wing| &mut wing.others);
        for (krate, _) in others {
            let full = format!("resnext-{krate}");
            if names.contains(&full) {
                *krate = full;
            }
        }
        picture.points_down()?;
        Ok(picture)
    }

    /// Checks that each row imports only rows below it.
    fn points_down(&self) -> Result<(), String> {
        for (i, row) in self.crates.iter().enumerate() {
            let below = &self.crates[i + 1..];
            for name in &row.imports {
                if !below.iter().any(|other| other.name == *name) {
                    return Err(format!("{} imports {name}, which does not stand below it", row.name));
                }
            }
            for (k, wing) in row.wings.iter().enumerate() {
                let who = format!("{} {}", row.name, wing.name);
                if wing.places.is_empty() {
                    return Err(format!("{who} is no folder or file, and names none before a colon"));
                }
                for name in &wing.imports {
                    if !row.wings[k + 1..].iter().any(|other| other.name == *name) {
                        return Err(format!("{who} imports {name}, which does not stand below it"));
                    }
                }
                for (krate, name) in &wing.others {
                    let found =
                        below.iter().find(|other| other.name == *krate && row.imports.contains(krate));
                    if !found.is_some_and(|found| found.wings.iter().any(|other| other.name == *name)) {
                        return Err(format!(
                            "{who} imports {name} of {krate}, which does not stand below it"
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// The row of a crate.
    pub fn row(&self, krate: &Crate) -> Option<&CrateRow> {
        self.crates.iter().find(|row| row.name == krate.name)
    }
}

impl CrateRow {
    /// The wing of a file: the one with the longest matching folder or file.
    pub fn wing(&self, file: &str) -> Option<&Wing> {
        let fits =
            |place: &&String| if place.ends_with('/') { file.starts_with(*place) } else { file == **place };
        let fitting = |wing: &Wing| wing.places.iter().filter(fits).map(String::len).max();
        self.wings.iter().filter(|wing| fitting(wing).is_some()).max_by_key(|wing| fitting(wing))
    }
}

/// Splits `name: a b` into the name, which may be missing, and the list.
fn list(text: &str) -> (&str, Vec<String>) {
    let (name, names) = text.split_once(':').unwrap_or(("", text));
    (name.trim(), names.split([' ', ',']).filter(|name| !name.is_empty()).map(String::from).collect())
}
