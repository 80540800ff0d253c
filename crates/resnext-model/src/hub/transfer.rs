//! The hub's HTTP protocol: the description of a file, and its content.

use super::error::Cause;
use super::repo::is_file_name;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};
use ureq::http::{HeaderMap, Response, Uri};
use ureq::{Agent, Body};

/// Receives the progress of a download: the file's name, the bytes received, and the bytes expected.
pub type Progress = Box<dyn Fn(&str, u64, u64) + Send + Sync>;

/// The settings of transfers.
pub(super) struct Transfer<'a> {
    pub(super) token: Option<&'a str>,
    pub(super) backoff: Duration,
    /// The longest wait for a connection, for an answer, or for more bytes.
    pub(super) patience: Duration,
    pub(super) progress: &'a Progress,
}

/// A file as the hub describes it.
pub(super) struct Remote {
    /// Its address at the hub.
    url: String,
    pub(super) commit: String,
    pub(super) etag: String,
    pub(super) size: Option<u64>,
}

/// The number of attempts without progress, one after the other, before a transfer fails.
const ATTEMPTS: u32 = 5;
/// The longest pause, in seconds, that a server may request.
const LONGEST_WAIT: u64 = 60;
/// The most redirects one after the other: within the hub they happen after a repository is renamed, and from it
/// to the storage of large files.
const REDIRECTS: usize = 5;
/// The fewest bytes that a server must send while a client is patient; one that sends less would take days.
const SLOWEST: u64 = 1 << 10;

/// How an attempt failed.
enum Failure {
    /// Another attempt would fail the same way.
    Final(Cause),
    /// Another attempt may succeed, after the pause that the server requests, if it does.
    Passing(Cause, Option<Duration>),
}

impl Transfer<'_> {
    /// A client that follows no redirects: to whom a request goes is decided here.
    fn agent(&self) -> Agent {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(self.patience))
            .timeout_recv_response(Some(self.patience))
            .timeout_per_read(Some(self.patience))
            .user_agent(concat!("resnext-model/", env!("CARGO_PKG_VERSION")));
        config.build().into()
    }

    fn authorization(&self) -> Option<String> {
        self.token.map(|token| format!("Bearer {token}"))
    }

    /// Requests the description of a file. Redirects within the hub are followed until an answer describes
    /// the file. A redirect to the storage of its content is not followed, because that server does not
    /// describe it.
    pub(super) fn look_up(&self, url: &str) -> Result<Remote, Cause> {
        self.repeated(|| {
            let agent = self.agent();
            let mut url = url.to_string();
            for _ in 0..=REDIRECTS {
                let mut request = agent.head(&url).header("Accept-Encoding", "identity");
                if let Some(value) = self.authorization() {
                    request = request.header("Authorization", value);
                }
                let response = checked(request.call().map_err(no_connection)?)?;
                let headers = response.headers();
                let complete = headers.contains_key("x-repo-commit") && headers.contains_key("x-linked-etag");
                let moved = response.status().is_redirection() && !complete;
                let location = text(headers, "location").filter(|_| moved);
                match location.and_then(|location| within(&url, location)) {
                    Some(next) => url = next,
                    None => return described(url, &response).map_err(Failure::Final),
                }
            }
            Err(Failure::Final(Cause::Malformed("end to its redirects")))
        })
    }

    /// Downloads the file to `path`, where its first bytes may be already, and verifies it.
    pub(super) fn download(&self, remote: &Remote, name: &str, path: &Path) -> Result<(), Cause> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut size = remote.size;
        if size.is_some_and(|size| file.metadata().is_ok_and(|data| data.len() > size)) {
            file.set_len(0)?;
        }
        let mut idle = 0;
        loop {
            let before = file.metadata()?.len();
            if size == Some(before) {
                break;
            }
            match self.append(remote, name, &mut file, &mut size) {
                Ok(()) => {}
                Err(Failure::Final(cause)) => return Err(cause),
                Err(Failure::Passing(cause, wait)) => {
                    idle = if file.metadata()?.len() > before { 0 } else { idle + 1 };
                    if idle >= ATTEMPTS {
                        return Err(cause);
                    }
                    self.pause(idle, wait);
                }
            }
        }
        verify(&mut file, &remote.etag).inspect_err(|_| {
            // A damaged file must not be resumed. If it cannot be removed, the next attempt finds it damaged
            // again.
            let _ = std::fs::remove_file(path);
        })?;
        file.sync_all()?;
        Ok(())
    }

    /// Requests the missing bytes once and appends them to `file`. Sets `size` if it was unknown.
    fn append(
        &self,
        remote: &Remote,
        name: &str,
        file: &mut File,
        size: &mut Option<u64>,
    ) -> Result<(), Failure> {
        let have = file.seek(SeekFrom::End(0)).map_err(cache)?;
        let mut response = self.request(remote, have)?;
        if response.status() == 416 {
            // The bytes in `file` do not fit the hub's file.
            file.set_len(0).map_err(cache)?;
            return Err(Failure::Passing(Cause::Status(416), None));
        }
        response = checked(response)?;
        let (start, total) = body_range(&response)?;
        if start != have {
            // A server without support for ranges starts from 0. An answer with another range
            // cannot be used.
            if start != 0 {
                return Err(Failure::Final(Cause::Malformed("Content-Range")));
            }
            file.set_len(0).and_then(|()| file.rewind()).map_err(cache)?;
        }
        let expected = match (*size, total) {
            (Some(expected), Some(got)) if expected != got => {
                return Err(Failure::Final(Cause::Length { expected, got }));
            }
            (expected, got) => expected.or(got).ok_or(Failure::Final(Cause::Malformed("length")))?,
        };
        *size = Some(expected);
        self.copy(&mut response.body_mut().as_reader(), file, name, start, expected)
    }

    /// Requests the file from byte `have` on. Redirects are followed anywhere but from https to http; the token
    /// goes to the hub's own scheme, host and port alone.
    fn request(&self, remote: &Remote, have: u64) -> Result<Response<Body>, Failure> {
        let agent = self.agent();
        let home = origin(&remote.url);
        let mut url = remote.url.clone();
        for _ in 0..=REDIRECTS {
            let mut request = agent.get(&url).header("Accept-Encoding", "identity");
            if let Some(value) = self.authorization().filter(|_| home.is_some() && origin(&url) == home) {
                request = request.header("Authorization", value);
            }
            if have > 0 {
                request = request.header("Range", format!("bytes={have}-"));
            }
            let response = request.call().map_err(no_connection)?;
            let location =
                text(response.headers(), "location").filter(|_| response.status().is_redirection());
            let Some(location) = location else { return Ok(response) };
            let next = absolute(&url, location).filter(|next| is_as_safe(&url, next));
            url = next.ok_or(Failure::Final(Cause::Malformed("redirect")))?;
        }
        Err(Failure::Final(Cause::Malformed("end to its redirects")))
    }

    /// Appends the rest of a file of `size` bytes, of which there are `have`, and reports progress.
    fn copy(
        &self,
        body: &mut impl Read,
        file: &mut File,
        name: &str,
        mut have: u64,
        size: u64,
    ) -> Result<(), Failure> {
        let mut buffer = vec![0; 1 << 16];
        let (mut since, mut had) = (Instant::now(), have);
        loop {
            (self.progress)(name, have, size);
            if since.elapsed() > self.patience {
                let (got, seconds) = (have - had, since.elapsed().as_secs());
                if got < SLOWEST {
                    return Err(Failure::Final(Cause::Slow { got, seconds, have, size }));
                }
                (since, had) = (Instant::now(), have);
            }
            let read = match body.read(&mut buffer) {
                Ok(0) if have == size => return Ok(()),
                Ok(0) | Err(_) => return Err(Failure::Passing(Cause::Cut { have, size }, None)),
                Ok(read) => read,
            };
            have += read as u64;
            if have > size {
                return Err(Failure::Final(Cause::Length { expected: size, got: have }));
            }
            file.write_all(&buffer[..read]).map_err(cache)?;
        }
    }

    /// Repeats `attempt` until it succeeds, fails for good, or has failed [`ATTEMPTS`] times.
    fn repeated<T>(&self, attempt: impl Fn() -> Result<T, Failure>) -> Result<T, Cause> {
        for failed in 1.. {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(Failure::Final(cause)) => return Err(cause),
                Err(Failure::Passing(cause, _)) if failed >= ATTEMPTS => return Err(cause),
                Err(Failure::Passing(_, wait)) => self.pause(failed, wait),
            }
        }
        Err(Cause::Malformed("end to its attempts"))
    }

    fn pause(&self, failed: u32, wait: Option<Duration>) {
        std::thread::sleep(wait.unwrap_or(self.backoff * (1 << failed.saturating_sub(1).min(6))));
    }
}

fn cache(error: std::io::Error) -> Failure {
    Failure::Final(Cause::Cache(error))
}

fn no_connection(error: ureq::Error) -> Failure {
    Failure::Passing(Cause::Connection(error.to_string()), None)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Turns answers that do not describe or hold a file into failures.
fn checked(response: Response<Body>) -> Result<Response<Body>, Failure> {
    let headers = response.headers();
    let status = response.status().as_u16();
    Err(match status {
        200..=399 => return Ok(response),
        401 | 403 => Failure::Final(Cause::Refused { status }),
        404 => Failure::Final(match text(headers, "x-error-code") {
            Some("RepoNotFound" | "RevisionNotFound") => Cause::NoRepository,
            Some("EntryNotFound") => Cause::NoFile,
            // Only a repository that exists names a commit.
            _ if headers.contains_key("x-repo-commit") => Cause::NoFile,
            _ => Cause::NoRepository,
        }),
        429 => {
            let wait = text(headers, "retry-after").and_then(|wait| wait.trim().parse::<u64>().ok());
            let cause = Cause::Busy { wait };
            match wait {
                Some(seconds) if seconds > LONGEST_WAIT => Failure::Final(cause),
                _ => Failure::Passing(cause, wait.map(Duration::from_secs)),
            }
        }
        408 | 500.. => Failure::Passing(Cause::Status(status), None),
        _ => Failure::Final(Cause::Status(status)),
    })
}

/// The address of a redirect, if it stays at the host of `url`.
fn within(url: &str, location: &str) -> Option<String> {
    match location.parse::<Uri>().ok()?.authority() {
        None => absolute(url, location),
        _ => None,
    }
}

/// The address of a redirect from `url`.
fn absolute(url: &str, location: &str) -> Option<String> {
    let next: Uri = location.parse().ok()?;
    match next.scheme_str() {
        Some("http" | "https") if next.authority().is_some() => Some(location.to_string()),
        None if location.starts_with('/') && !location.starts_with("//") => {
            Some(format!("{}{location}", origin(url)?))
        }
        _ => None,
    }
}

/// Scheme, host and port of an address.
fn origin(url: &str) -> Option<String> {
    let url: Uri = url.parse().ok()?;
    Some(format!("{}://{}", url.scheme_str()?, url.authority()?.as_str().to_ascii_lowercase()))
}

/// Whether a redirect does not lead from an encrypted connection to one that is not.
fn is_as_safe(url: &str, next: &str) -> bool {
    !(url.starts_with("https:") && next.starts_with("http:"))
}

/// The first byte of a body, and the length of the whole file if the answer gives it.
fn body_range(response: &Response<Body>) -> Result<(u64, Option<u64>), Failure> {
    let headers = response.headers();
    match response.status().as_u16() {
        206 => {
            let range = text(headers, "content-range").and_then(content_range);
            range.ok_or(Failure::Final(Cause::Malformed("Content-Range")))
        }
        200 => Ok((0, text(headers, "content-length").and_then(|length| length.parse::<u64>().ok()))),
        status => Err(Failure::Final(Cause::Status(status))),
    }
}

/// The description of a file in the answer to a HEAD request.
fn described(url: String, response: &Response<Body>) -> Result<Remote, Cause> {
    let headers = response.headers();
    let etag = text(headers, "x-linked-etag").or_else(|| text(headers, "etag"));
    let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_string());
    let etag = etag.filter(|etag| is_file_name(etag)).ok_or(Cause::Malformed("ETag"))?;
    let commit = text(headers, "x-repo-commit").filter(|commit| is_file_name(commit));
    let commit = commit.ok_or(Cause::Malformed("X-Repo-Commit"))?.to_string();
    // The length of a redirect is that of its own body.
    let own = text(headers, "content-length").filter(|_| response.status().is_success());
    let size = text(headers, "x-linked-size").or(own).and_then(|size| size.parse().ok());
    Ok(Remote { url, commit, etag, size })
}

/// The first byte and the length of the whole file, from a header such as `bytes 5-9/10`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.trim().parse().ok()?, total.trim().parse().ok()))
}

/// Compares the file with its ETag, if that is a hash of it: SHA-256 for every file in Git LFS or Xet, and for others the
/// name that Git gives them, which is SHA-1 of their length and content.
fn verify(file: &mut File, etag: &str) -> Result<(), Cause> {
    if !etag.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(());
    }
    let (kind, got) = match etag.len() {
        64 => ("SHA-256", hexadecimal(file, Sha256::new())?),
        40 => {
            let length = file.metadata()?.len();
            ("Git's SHA-1", hexadecimal(file, Sha1::new_with_prefix(format!("blob {length}\0")))?)
        }
        _ => return Ok(()),
    };
    match got.eq_ignore_ascii_case(etag) {
        true => Ok(()),
        false => Err(Cause::Damaged { kind, expected: etag.to_string(), got }),
    }
}

/// The hash of what is in `hash` already and of the whole file.
fn hexadecimal(file: &mut File, mut hash: impl Digest) -> std::io::Result<String> {
    file.rewind()?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hash.update(&buffer[..read]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
