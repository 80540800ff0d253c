//! Files from the Hugging Face Hub, in the cache that all programs share.
//!
//! ```no_run
//! use resnext_model::Pretrained;
//! use resnext_model::hub::{Hub, RepoId};
//!
//! let repo: RepoId = "timm/resnext50_32x4d.a1_in1k".parse()?;
//! let pretrained = Pretrained::from_hub(&Hub::from_env()?, &repo)?;
//! println!("{} classes", pretrained.network.classes());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The crate hf-hub defines the layout of the cache. Transfers are implemented here, because those of hf-hub
//! neither verify what they received, nor resume where they stopped, nor work offline.

pub(crate) mod error;
pub(crate) mod repo;
mod transfer;

pub use error::{Cause, HubError};
pub use repo::RepoId;
pub use transfer::Progress;

use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use repo::is_file_name;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use transfer::{Remote, Transfer};

/// How often a client tries to lock a file that another program has locked.
const LOCK_INTERVAL: Duration = Duration::from_millis(100);

/// Whether the hub has no such file, as far as one can tell: some servers report a missing file as a missing
/// repository, and offline the cache is all there is.
pub(crate) fn is_absent(error: &HubError) -> bool {
    match error {
        HubError::NoFile { .. } => true,
        HubError::Failed { cause, .. } => {
            matches!(cause, Cause::NoRepository | Cause::Offline(_))
        }
        _ => false,
    }
}

/// A client of the hub and its cache.
pub struct Hub {
    endpoint: String,
    cache: Cache,
    token: Option<String>,
    offline: bool,
    backoff: Duration,
    patience: Duration,
    progress: Progress,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token is a secret and is left out.
        let Hub { endpoint, offline, .. } = self;
        f.debug_struct("Hub").field("endpoint", endpoint).field("offline", offline).finish_non_exhaustive()
    }
}

impl Hub {
    /// A client with the settings of the hub's own programs: the variables `HF_ENDPOINT`, `HF_HOME` or
    /// `HF_HUB_CACHE`, `HF_HUB_OFFLINE`, and `HF_TOKEN` or the token that `hf auth login` stores.
    ///
    /// # Errors
    /// [`HubError::NoCache`] if neither a variable nor a home folder says where the cache is.
    pub fn from_env() -> Result<Self, HubError> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let cache = match (variable("HF_HUB_CACHE"), variable("HF_HOME"), std::env::home_dir()) {
            (Some(path), ..) => Cache::new(path.into()),
            (None, Some(home), _) => Cache::new(Path::new(&home).join("hub")),
            (None, None, Some(_)) => Cache::default(),
            (None, None, None) => return Err(HubError::NoCache),
        };
        let mut hub =
            Hub::new(&variable("HF_ENDPOINT").unwrap_or("https://huggingface.co".into()), cache.path());
        let tokens =
            Cache::new(variable("HF_HOME").map_or(cache.path().clone(), |home| Path::new(&home).join("hub")));
        hub.token = variable("HF_TOKEN").map(|token| token.trim().to_string()).or_else(|| tokens.token());
        let yes = |value: String| matches!(value.to_ascii_lowercase().as_str(), "1" | "on" | "yes" | "true");
        hub.offline = variable("HF_HUB_OFFLINE").is_some_and(yes);
        Ok(hub)
    }

    /// A client of the hub at the URL `endpoint`, with its cache in the folder `cache`; online and without a
    /// token.
    pub fn new(endpoint: &str, cache: &Path) -> Self {
        Hub {
            endpoint: endpoint.trim_end_matches('/').to_string(),
            cache: Cache::new(cache.to_path_buf()),
            token: None,
            offline: false,
            backoff: Duration::from_millis(500),
            patience: Duration::from_secs(30),
            progress: Box::new(|_, _, _| {}),
        }
    }

    /// Sets the token for private and gated repositories. It is sent to no host but the endpoint's.
    pub fn with_token(mut self, token: Option<String>) -> Self {
        self.token = token;
        self
    }

    /// Sets whether only the cache is used, and never the network.
    pub fn with_offline(mut self, offline: bool) -> Self {
        self.offline = offline;
        self
    }

    /// Sets the pause before the second attempt, half a second by default; each later pause is twice as long.
    pub fn with_backoff(mut self, backoff: Duration) -> Self {
        self.backoff = backoff;
        self
    }

    /// Sets how long the client waits without progress, 30 seconds by default: for an answer or more bytes from
    /// a server, for a server that sends less than a kibibyte in that time, and for another program that has
    /// locked a file of the cache and does not download it.
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Sets a callback for the progress of downloads.
    pub fn with_progress(mut self, progress: Progress) -> Self {
        self.progress = progress;
        self
    }

    /// The path of a repository's file in the cache. The file is downloaded first if its newest version is
    /// not there.
    ///
    /// A download that stops is resumed, in this call or in a later one. A file enters the cache only if its
    /// length and its hash, SHA-256 or Git's SHA-1, are those that the hub gives. Without a connection, the version in
    /// the cache is used.
    ///
    /// # Errors
    /// [`HubError`], which names the file and the repository, and says what may help.
    pub fn get(&self, repo: &RepoId, file: &str) -> Result<PathBuf, HubError> {
        if file.is_empty() || !file.split('/').all(is_file_name) {
            return Err(HubError::FileName(file.to_string()));
        }
        let hub_repo = Repo::with_revision(repo.id.clone(), RepoType::Model, repo.revision.clone());
        let folder = hub_repo.folder_name();
        let url = format!("{}/{}/resolve/{}/{file}", self.endpoint, repo.id, hub_repo.url_revision());
        let cached = self.cache.repo(hub_repo);
        let is_commit = repo.is_commit();
        let at_hand = match is_commit {
            true => Some(cached.pointer_path(&repo.revision).join(file)).filter(|path| path.is_file()),
            false => cached.get(file),
        };
        if let (true, Some(path)) = (is_commit || self.offline, &at_hand) {
            return Ok(path.clone());
        }
        let folder_of_cache = self.cache.path().display();
        let named = |cause| {
            let cause = match cause {
                Cause::Cache(e) => {
                    Cause::Cache(std::io::Error::new(e.kind(), format!("{folder_of_cache}: {e}")))
                }
                other => other,
            };
            HubError::of(repo.to_string(), file.to_string(), cause)
        };
        if self.offline {
            return Err(named(Cause::Offline(self.cache.path().clone())));
        }
        let Hub { backoff, patience, progress, .. } = self;
        let transfer =
            Transfer { token: self.token.as_deref(), backoff: *backoff, patience: *patience, progress };
        let remote = match (transfer.look_up(&url), at_hand) {
            (Err(cause), Some(path)) if cause.is_no_connection() => return Ok(path),
            (remote, _) => remote.map_err(named)?,
        };
        self.fetch(&transfer, &remote, &cached, &folder, file).map_err(named)?;
        if !is_commit {
            cached.create_ref(&remote.commit).map_err(|e| named(Cause::Cache(e)))?;
        }
        Ok(cached.pointer_path(&remote.commit).join(file))
    }

    /// Brings the content of a file, and the name in a snapshot that points to it, into the cache.
    fn fetch(
        &self,
        transfer: &Transfer,
        remote: &Remote,
        cached: &CacheRepo,
        folder: &str,
        file: &str,
    ) -> Result<(), Cause> {
        let blob = cached.blob_path(&remote.etag);
        let locks = self.cache.path().join(".locks").join(folder);
        let pointer = cached.pointer_path(&remote.commit).join(file);
        for parent in [blob.parent(), Some(locks.as_path()), pointer.parent()].into_iter().flatten() {
            std::fs::create_dir_all(parent)?;
        }
        // If two programs want the same file, the second waits and finds it done. Closing the lock's file
        // unlocks it.
        let incomplete = blob.with_file_name(format!("{}.incomplete", remote.etag));
        let _lock = self.lock(&locks.join(format!("{}.lock", remote.etag)), &incomplete)?;
        let whole =
            std::fs::metadata(&blob).is_ok_and(|data| remote.size.is_none_or(|size| size == data.len()));
        if !whole {
            transfer.download(remote, file, &incomplete)?;
            std::fs::rename(&incomplete, &blob)?;
        }
        point(&pointer, &blob, file)?;
        Ok(())
    }
}

impl Hub {
    /// Locks the file at `path`, after the program that has locked it has downloaded to `incomplete`.
    fn lock(&self, path: &Path, incomplete: &Path) -> Result<File, Cause> {
        let lock = File::create(path)?;
        let len = || std::fs::metadata(incomplete).map_or(0, |data| data.len());
        let (mut since, mut seen) = (Instant::now(), len());
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::Error(error)) => return Err(Cause::Cache(error)),
                Err(TryLockError::WouldBlock) => {}
            }
            let now = len();
            if now != seen {
                (since, seen) = (Instant::now(), now);
            }
            if since.elapsed() > self.patience {
                return Err(Cause::Locked { path: path.to_path_buf(), seconds: self.patience.as_secs() });
            }
            std::thread::sleep(LOCK_INTERVAL.min(self.patience));
        }
    }
}

/// Makes `pointer`, a file's name in a snapshot, point to `blob`. Another program may be reading it, so it is
/// replaced and never absent.
fn point(pointer: &Path, blob: &Path, file: &str) -> std::io::Result<()> {
    if matches!((pointer.canonicalize(), blob.canonicalize()), (Ok(now), Ok(wanted)) if now == wanted) {
        return Ok(());
    }
    let beside = pointer.with_extension("new");
    // A program that was stopped here may have left one.
    if beside.symlink_metadata().is_ok() {
        std::fs::remove_file(&beside)?;
    }
    #[cfg(unix)]
    {
        let up = "../".repeat(2 + file.matches('/').count());
        let name = blob.file_name().unwrap_or_default();
        std::os::unix::fs::symlink(Path::new(&up).join("blobs").join(name), &beside)?;
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        std::fs::hard_link(blob, &beside).or_else(|_| std::fs::copy(blob, &beside).map(drop))?;
    }
    std::fs::rename(&beside, pointer)
}
