//! What can keep a file from coming.

use std::path::PathBuf;

/// An error of the hub.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// A text that is no repository's name.
    #[error(
        "`{0}` names no file here and no repository: expected a path, or owner/name as in timm/resnext50_32x4d.a1_in1k"
    )]
    Id(String),
    /// A file name no repository has.
    #[error("`{0}` is no name of a file in a repository")]
    FileName(String),
    /// There is no folder for the cache.
    #[error("no home folder for the hub's cache: set HF_HOME")]
    NoCache,
    /// The repository has no such file.
    #[error("{repo} has no {file}")]
    NoFile {
        /// The repository.
        repo: String,
        /// The file.
        file: String,
    },
    /// The file could not be had.
    #[error("cannot get {file} of {repo}: {cause}")]
    Failed {
        /// The repository.
        repo: String,
        /// The file.
        file: String,
        /// Why.
        cause: Cause,
    },
}

impl HubError {
    pub(super) fn of(repo: String, file: String, cause: Cause) -> HubError {
        match cause {
            Cause::NoFile => HubError::NoFile { repo, file },
            cause => HubError::Failed { repo, file, cause },
        }
    }
}

/// Why a file could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The repository exists, the file does not.
    #[error("no such file")]
    NoFile,
    /// No such repository or revision.
    #[error("no such repository or revision (404): check the name")]
    NoRepository,
    /// It takes a login.
    #[error(
        "access refused ({status}): the repository is private, gated or does not exist; set HF_TOKEN to a token that may read it"
    )]
    Refused {
        /// 401 or 403.
        status: u16,
    },
    /// Too many requests.
    #[error("too many requests (429){}: try again later, or set HF_TOKEN", wait.map(|s| format!(", the hub asks to wait {s} s")).unwrap_or_default())]
    Busy {
        /// Seconds the hub asks to wait.
        wait: Option<u64>,
    },
    /// Another answer than the file.
    #[error("the hub answered {0}, expected the file")]
    Status(u16),
    /// An answer without what the hub's protocol says it has.
    #[error("the answer has no usable {0}: is HF_ENDPOINT a hub?")]
    Malformed(&'static str),
    /// The network failed.
    #[error("no connection: {0}")]
    Connection(String),
    /// The connection ended too early, again and again.
    #[error("the connection was cut at {have} of {size} bytes; they are kept, try again to go on from there")]
    Cut {
        /// Bytes there are.
        have: u64,
        /// Bytes there should be.
        size: u64,
    },
    /// The length is not what the hub said.
    #[error("wrong length: expected {expected} bytes, the server sends {got}")]
    Length {
        /// By the hub's description of the file.
        expected: u64,
        /// By the transfer.
        got: u64,
    },
    /// The content is not what the hub said.
    #[error("damaged on the way: expected SHA-256 {expected}, got {got}; nothing was kept")]
    Damaged {
        /// By the hub's description of the file.
        expected: String,
        /// Of what came.
        got: String,
    },
    /// `HF_HUB_OFFLINE` is set.
    #[error("not in the cache {}, and HF_HUB_OFFLINE is set", .0.display())]
    Offline(PathBuf),
    /// The cache can't be read or written.
    #[error("the cache: {0}")]
    Cache(#[from] std::io::Error),
}

impl Cause {
    pub(super) fn is_no_connection(&self) -> bool {
        matches!(self, Cause::Connection(_) | Cause::Busy { .. } | Cause::Status(500..))
    }
}
