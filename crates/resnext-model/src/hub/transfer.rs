//! The hub's HTTP: what a file is, and its bytes.

use super::error::Cause;
use super::repo::{Progress, is_file_name};
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;
use ureq::http::{HeaderMap, Response, Uri};
use ureq::{Agent, Body};

/// One file's transfers.
pub(super) struct Transfer<'a> {
    pub(super) token: Option<&'a str>,
    pub(super) backoff: Duration,
    pub(super) progress: &'a Progress,
}

/// A file as the hub describes it.
pub(super) struct Remote {
    /// Where it is, at the hub.
    url: String,
    pub(super) commit: String,
    pub(super) etag: String,
    pub(super) size: Option<u64>,
}

/// Attempts that bring nothing, one after the other, before a transfer is given up.
const ATTEMPTS: u32 = 5;
/// The longest pause a server may ask for.
const LONGEST_WAIT: u64 = 60;
/// Redirects within the hub, as after a repository was renamed.
const REDIRECTS: usize = 5;
const SILENCE: Duration = Duration::from_secs(30);

/// How one attempt ended that did not succeed.
enum Failure {
    /// The same again would end the same.
    Final(Cause),
    /// Another attempt may do better, after a pause if the server asks for one.
    Passing(Cause, Option<Duration>),
}

impl Transfer<'_> {
    fn agent(&self, redirects: u32) -> Agent {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(redirects)
            .max_redirects_will_error(false)
            .redirect_auth_headers(ureq::config::RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(SILENCE))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .user_agent(concat!("resnext-model/", env!("CARGO_PKG_VERSION")));
        config.build().into()
    }

    fn authorization(&self) -> Option<String> {
        self.token.map(|token| format!("Bearer {token}"))
    }

    /// Asks what the file is. Redirects within the hub are followed until an answer describes the file; one to
    /// where the bytes are is not, since that place doesn't know it as the hub does.
    pub(super) fn look_up(&self, url: &str) -> Result<Remote, Cause> {
        self.repeated(|| {
            let agent = self.agent(0);
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

    /// Brings the file's bytes to `path`, where some may be already.
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
            // What is wrong must not be gone on from; if it can't be removed, the next attempt finds it wrong too.
            let _ = std::fs::remove_file(path);
        })?;
        file.sync_all()?;
        Ok(())
    }

    /// One request for the bytes that are missing; learns the file's size where that was unknown.
    fn append(
        &self,
        remote: &Remote,
        name: &str,
        file: &mut File,
        size: &mut Option<u64>,
    ) -> Result<(), Failure> {
        let have = file.seek(SeekFrom::End(0)).map_err(cache)?;
        let mut request = self.agent(10).get(&remote.url).header("Accept-Encoding", "identity");
        if let Some(value) = self.authorization() {
            request = request.header("Authorization", value);
        }
        if have > 0 {
            request = request.header("Range", format!("bytes={have}-"));
        }
        let mut response = request.call().map_err(no_connection)?;
        if response.status() == 416 {
            // What there is does not fit the file that is there.
            file.set_len(0).map_err(cache)?;
            return Err(Failure::Passing(Cause::Status(416), None));
        }
        response = checked(response)?;
        let headers = response.headers();
        let length = text(headers, "content-length").and_then(|length| length.parse::<u64>().ok());
        let (start, total) = match response.status().as_u16() {
            206 => {
                let range = text(headers, "content-range").and_then(content_range);
                range.ok_or(Failure::Final(Cause::Malformed("Content-Range")))?
            }
            200 => (0, length),
            status => return Err(Failure::Final(Cause::Status(status))),
        };
        if start != have {
            // A server that doesn't know ranges starts again; one that sends another part is of no use.
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
        let mut have = start;
        let mut body = response.body_mut().as_reader();
        let mut buffer = vec![0; 1 << 16];
        loop {
            (self.progress)(name, have, expected);
            let read = match body.read(&mut buffer) {
                Ok(0) if have < expected => {
                    return Err(Failure::Passing(Cause::Cut { have, size: expected }, None));
                }
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(_) => return Err(Failure::Passing(Cause::Cut { have, size: expected }, None)),
            };
            have += read as u64;
            if have > expected {
                return Err(Failure::Final(Cause::Length { expected, got: have }));
            }
            file.write_all(&buffer[..read]).map_err(cache)?;
        }
    }

    /// Does `attempt` until it succeeds, fails for good, or has failed often enough.
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

/// Turns answers that are no file into what they mean.
fn checked(response: Response<Body>) -> Result<Response<Body>, Failure> {
    let headers = response.headers();
    let status = response.status().as_u16();
    Err(match status {
        200..=399 => return Ok(response),
        401 | 403 => Failure::Final(Cause::Refused { status }),
        404 => Failure::Final(match text(headers, "x-error-code") {
            Some("RepoNotFound" | "RevisionNotFound") => Cause::NoRepository,
            Some("EntryNotFound") => Cause::NoFile,
            // A commit is only named by a repository that is there.
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

/// The address of a redirect that stays at `url`'s host.
fn within(url: &str, location: &str) -> Option<String> {
    let base: Uri = url.parse().ok()?;
    let origin = format!("{}://{}", base.scheme_str()?, base.authority()?);
    match location.parse::<Uri>().ok()?.authority() {
        None if location.starts_with('/') => Some(format!("{origin}{location}")),
        _ => None,
    }
}

fn described(url: String, response: &Response<Body>) -> Result<Remote, Cause> {
    let headers = response.headers();
    let etag = text(headers, "x-linked-etag").or_else(|| text(headers, "etag"));
    let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_string());
    let etag = etag.filter(|etag| is_file_name(etag)).ok_or(Cause::Malformed("ETag"))?;
    let commit = text(headers, "x-repo-commit").filter(|commit| is_file_name(commit));
    let commit = commit.ok_or(Cause::Malformed("X-Repo-Commit"))?.to_string();
    // The length of a redirect is that of its own text.
    let own = text(headers, "content-length").filter(|_| response.status().is_success());
    let size = text(headers, "x-linked-size").or(own).and_then(|size| size.parse().ok());
    Ok(Remote { url, commit, etag, size })
}

/// First byte and whole length, from `bytes 5-9/10`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.trim().parse().ok()?, total.trim().parse().ok()))
}

/// Compares the file with its ETag, where that is a SHA-256, as for every file that Git LFS or Xet keeps.
fn verify(file: &mut File, etag: &str) -> Result<(), Cause> {
    if etag.len() != 64 || !etag.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(());
    }
    file.rewind()?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hash.update(&buffer[..read]),
        }
    }
    let got: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    match got.eq_ignore_ascii_case(etag) {
        true => Ok(()),
        false => Err(Cause::Damaged { expected: etag.to_string(), got }),
    }
}
