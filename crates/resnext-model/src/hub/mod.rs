//! Files from the Hugging Face Hub, in the hub's own cache, which every other program shares.
//!
//! hf-hub gives the cache's layout. Its own download neither checks what it got nor goes on where it stopped
//! nor works offline, so the transfer is here.

pub(crate) mod error;
pub(crate) mod repo;
mod transfer;

pub use error::{Cause, HubError};
pub use repo::{Progress, RepoId};

use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use repo::is_file_name;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;
use transfer::{Remote, Transfer};

/// Whether the hub answered that there is no such file. Not every server tells a file from its repository.
pub(crate) fn is_absent(error: &HubError) -> bool {
    match error {
        HubError::NoFile { .. } => true,
        HubError::Failed { cause, .. } => {
            matches!(cause, Cause::NoRepository | Cause::Offline(_))
        }
        _ => false,
    }
}

/// Access to the hub and its cache.
pub struct Hub {
    endpoint: String,
    cache: Cache,
    token: Option<String>,
    offline: bool,
    backoff: Duration,
    progress: Progress,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the token.
        let Hub { endpoint, offline, .. } = self;
        f.debug_struct("Hub").field("endpoint", endpoint).field("offline", offline).finish_non_exhaustive()
    }
}

impl Hub {
    /// As the hub's own programs are set up: `HF_ENDPOINT`, `HF_HOME` or `HF_HUB_CACHE`, `HF_TOKEN` or the token
    /// that `hf auth login` leaves, `HF_HUB_OFFLINE`.
    ///
    /// # Errors
    /// [`HubError::NoCache`] if there is neither a variable nor a home folder to say where the cache is.
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

    /// A hub at `endpoint` with its cache in the folder `cache`; no token, online.
    pub fn new(endpoint: &str, cache: &Path) -> Self {
        Hub {
            endpoint: endpoint.trim_end_matches('/').to_string(),
            cache: Cache::new(cache.to_path_buf()),
            token: None,
            offline: false,
            backoff: Duration::from_millis(500),
            progress: Box::new(|_, _, _| {}),
        }
    }

    /// With a token for private and gated repositories; it is sent to the endpoint's host alone.
    pub fn with_token(mut self, token: Option<String>) -> Self {
        self.token = token;
        self
    }

    /// With the cache alone.
    pub fn with_offline(mut self, offline: bool) -> Self {
        self.offline = offline;
        self
    }

    /// With another pause before the second attempt; each later one is twice as long.
    pub fn with_backoff(mut self, backoff: Duration) -> Self {
        self.backoff = backoff;
        self
    }

    /// With something that is told how downloads go.
    pub fn with_progress(mut self, progress: Progress) -> Self {
        self.progress = progress;
        self
    }

    /// The path in the cache of one of a repository's files, which is downloaded if it, or its newest version,
    /// isn't there. A download that stops goes on from where it was, now or in a later call; a file is in the
    /// cache when it has its length, and, where the hub gives one, its SHA-256. Without a connection the version
    /// in the cache is given.
    ///
    /// # Errors
    /// [`HubError`], which says which file of which repository, and what may help.
    pub fn get(&self, repo: &RepoId, file: &str) -> Result<PathBuf, HubError> {
        if file.is_empty() || !file.split('/').all(is_file_name) {
            return Err(HubError::FileName(file.to_string()));
        }
        let hub_repo = Repo::with_revision(repo.id.clone(), RepoType::Model, repo.revision.clone());
        let folder = hub_repo.folder_name();
        let url = format!("{}/{}/resolve/{}/{file}", self.endpoint, repo.id, hub_repo.url_revision());
        let cached = self.cache.repo(hub_repo);
        let is_commit = repo.revision.len() == 40 && repo.revision.bytes().all(|b| b.is_ascii_hexdigit());
        let at_hand = match is_commit {
            true => Some(cached.pointer_path(&repo.revision).join(file)).filter(|path| path.is_file()),
            false => cached.get(file),
        };
        if let (true, Some(path)) = (is_commit || self.offline, &at_hand) {
            return Ok(path.clone());
        }
        let named = |source| HubError::of(repo.to_string(), file.to_string(), source);
        if self.offline {
            return Err(named(Cause::Offline(self.cache.path().clone())));
        }
        let transfer =
            Transfer { token: self.token.as_deref(), backoff: self.backoff, progress: &self.progress };
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

    /// Sees to it that the file's content and the name that points to it are in the cache.
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
        // Two programs that want one file: the second finds it done. Closing the file gives the lock back.
        let lock = File::create(locks.join(format!("{}.lock", remote.etag)))?;
        lock.lock()?;
        let whole =
            std::fs::metadata(&blob).is_ok_and(|data| remote.size.is_none_or(|size| size == data.len()));
        if !whole {
            let incomplete = blob.with_file_name(format!("{}.incomplete", remote.etag));
            transfer.download(remote, file, &incomplete)?;
            std::fs::rename(&incomplete, &blob)?;
        }
        point(&pointer, &blob, file)?;
        Ok(())
    }
}

/// Makes `pointer`, a file's name in a snapshot, stand for `blob`. Another program may be reading it: it is never
/// gone, not for a moment.
fn point(pointer: &Path, blob: &Path, file: &str) -> std::io::Result<()> {
    if matches!((pointer.canonicalize(), blob.canonicalize()), (Ok(now), Ok(wanted)) if now == wanted) {
        return Ok(());
    }
    let beside = pointer.with_extension("new");
    // Of a program that was stopped here.
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
