//! Widths of lines in Markdown and in comments, which `cargo fmt` does not check.

use crate::{root, tree};
use std::fs;
use std::path::Path;

/// The most characters of a line.
const WIDEST: usize = 126;

/// The numbers of the lines that are too wide: outside of tables and code in Markdown, and of comments in Rust.
fn too_wide(name: &str, text: &str) -> Vec<usize> {
    let (markdown, mut code) = (name.ends_with(".md"), false);
    let mut wide = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        code ^= line.starts_with("```");
        let prose =
            if markdown { !code && !line.starts_with('|') } else { line.trim_start().starts_with("//") };
        if prose && line.chars().count() > WIDEST {
            wide.push(number);
        }
    }
    wide
}

/// Adds the wide lines of the files below `folder`. Build outputs, runs, and the pages of studies, which `study` writes,
/// are left out.
fn collect(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if path.is_dir() {
            if !name.starts_with('.') && !["target", "runs", "shared", "studies"].contains(&name.as_str()) {
                collect(&path, found);
            }
        } else if name.ends_with(".md") && name != "study.md" || name.ends_with(".rs") {
            let wide = too_wide(&name, &tree::text(&path).unwrap());
            found.extend(wide.iter().map(|line| format!("{}:{line}", path.display())));
        }
    }
}

#[test]
fn lines_of_prose_are_within_their_width() {
    let mut found = Vec::new();
    collect(&root(), &mut found);
    assert!(found.is_empty(), "wider than {WIDEST} characters:\n{}\n", found.join("\n"));
}

#[test]
fn a_wide_line_is_found_by_its_characters_outside_of_tables_and_code() {
    let wide = "é".repeat(WIDEST + 1);
    let fits = "é".repeat(WIDEST);
    assert_eq!(too_wide("a.md", &format!("{fits}\n{wide}\n| {wide} |\n```sh\n{wide}\n```\n{wide}")), [2, 7]);
    assert_eq!(too_wide("a.rs", &format!("    // {wide}\nlet s = \"{wide}\";\n/// {wide}")), [1, 3]);
}
