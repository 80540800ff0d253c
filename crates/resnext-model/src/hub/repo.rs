//! Names of repositories and files at the hub.

use super::error::HubError;
use std::str::FromStr;

/// A model repository at one of its revisions, for example `timm/resnext50_32x4d.a1_in1k` or `me/model@v2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoId {
    pub(super) id: String,
    pub(super) revision: String,
}

impl FromStr for RepoId {
    type Err = HubError;

    /// Parses `owner/name`, or `name` for a repository of timm. The prefix `hf-hub:` and the suffix
    /// `@revision` are optional.
    fn from_str(text: &str) -> Result<Self, HubError> {
        let invalid = || HubError::Id(text.to_string());
        let bare = ["hf-hub:", "hf_hub:"].iter().find_map(|start| text.strip_prefix(start)).unwrap_or(text);
        let (id, revision) = bare.split_once('@').unwrap_or((bare, "main"));
        let id = if id.contains('/') { id.to_string() } else { format!("timm/{id}") };
        let parts: Vec<&str> = id.split('/').collect();
        let revision_fits = revision.split('/').all(is_file_name);
        if parts.len() != 2 || !parts.iter().all(|part| is_file_name(part)) || !revision_fits {
            return Err(invalid());
        }
        Ok(RepoId { id, revision: revision.to_string() })
    }
}

impl std::fmt::Display for RepoId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.id)?;
        if self.revision == "main" { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

impl RepoId {
    /// The repository at the commit whose file is at `path` in the cache.
    pub(crate) fn at_commit_of(&self, path: &std::path::Path) -> RepoId {
        let parts = path.iter().filter_map(|part| part.to_str());
        let commit = parts.skip_while(|part| *part != "snapshots").nth(1);
        RepoId { id: self.id.clone(), revision: commit.unwrap_or(&self.revision).to_string() }
    }

    /// Whether the revision is a commit, whose files never change.
    pub(super) fn is_commit(&self) -> bool {
        self.revision.len() == 40 && self.revision.bytes().all(|b| b.is_ascii_hexdigit())
    }
}

/// Whether a text that comes from outside may be the name of a file in the cache.
pub(super) fn is_file_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    (1..=200).contains(&text.len())
        && text.bytes().all(plain)
        && !text.starts_with('.')
        && !text.contains("..")
}
