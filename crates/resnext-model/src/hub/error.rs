//! The errors of the hub.

use std::path::PathBuf;

/// An error of the hub.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// A text that does not name a repository.
    #[error(
        "`{0}` is neither a file nor a repository: expected a path, or owner/name as in \
         timm/resnext50_32x4d.a1_in1k"
    )]
    Id(String),
    /// A text that does not name a file in a repository.
    #[error("`{0}` cannot be the name of a file in a repository")]
    FileName(String),
    /// No variable and no home folder says where the cache is.
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
    /// The file could not be downloaded.
    #[error("cannot get {file} of {repo}: {cause}")]
    Failed {
        /// The repository.
        repo: String,
        /// The file.
        file: String,
        /// The reason.
        cause: Cause,
    },
}

impl HubError {
    /// The error for `file` of `repo`, which could not be downloaded because of `cause`.
    pub(super) fn of(repo: String, file: String, cause: Cause) -> HubError {
        match cause {
            Cause::NoFile => HubError::NoFile { repo, file },
            cause => HubError::Failed { repo, file, cause },
        }
    }
}

/// Why a file could not be downloaded.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The repository exists, the file does not.
    #[error("no such file")]
    NoFile,
    /// No such repository or revision.
    #[error("no such repository or revision (404): check the name")]
    NoRepository,
    /// The repository requires a login.
    #[error(
        "access refused ({status}): the repository is private, gated or does not exist; set HF_TOKEN to a token \
         that may read it"
    )]
    Refused {
        /// 401 or 403.
        status: u16,
    },
    /// Too many requests.
    #[error("too many requests (429){}: try again later, or set HF_TOKEN",
        wait.map(|s| format!(", the hub asks to wait {s} s")).unwrap_or_default())]
    Busy {
        /// Seconds the hub asks to wait.
        wait: Option<u64>,
    },
    /// An answer that is not the file.
    #[error("the hub answered {0}, expected the file")]
    Status(u16),
    /// An answer without a header that the hub's protocol requires.
    #[error("the answer has no usable {0}: is HF_ENDPOINT a hub?")]
    Malformed(&'static str),
    /// The network failed.
    #[error("no connection: {0}")]
    Connection(String),
    /// The connection ended too early in every attempt.
    #[error(
        "the connection was cut at {have} of {size} bytes; they are kept: try again to resume from there"
    )]
    Cut {
        /// Bytes received.
        have: u64,
        /// Bytes expected.
        size: u64,
    },
    /// The server sends hardly anything.
    #[error(
        "the server sent {got} bytes in {seconds} s, {have} of {size} in all; they are kept: try again to resume \
         from there"
    )]
    Slow {
        /// Bytes received in that time.
        got: u64,
        /// The time, in seconds.
        seconds: u64,
        /// Bytes received in all.
        have: u64,
        /// Bytes expected.
        size: u64,
    },
    /// Another program holds the lock of the file in the cache, and does not download it.
    #[error("another program has locked it for {seconds} s and downloads nothing: end that program, or remove {}",
        path.display())]
    Locked {
        /// The lock's file.
        path: PathBuf,
        /// How long this client waited, in seconds.
        seconds: u64,
    },
    /// The length is not the one that the hub gave.
    #[error("wrong length: expected {expected} bytes, the server sends {got}")]
    Length {
        /// The length in the hub's description of the file.
        expected: u64,
        /// The length of the transfer.
        got: u64,
    },
    /// The content does not have the hash that the hub gave.
    #[error("the download is damaged: expected {kind} {expected}, got {got}; nothing was kept")]
    Damaged {
        /// The name of the hash.
        kind: &'static str,
        /// The hash in the hub's description of the file.
        expected: String,
        /// The hash of what was received.
        got: String,
    },
    /// The file is not in the cache, and the client is offline.
    #[error("not in the cache {}, and HF_HUB_OFFLINE is set", .0.display())]
    Offline(PathBuf),
    /// The cache cannot be read or written.
    #[error("the cache: {0}")]
    Cache(#[from] std::io::Error),
}

impl Cause {
    /// Whether the hub may be unreachable for the moment, so that the cache has to do.
    pub(super) fn is_no_connection(&self) -> bool {
        matches!(self, Cause::Connection(_) | Cause::Busy { .. } | Cause::Status(500..))
    }
}
