//! A server on 127.0.0.1 that speaks the hub's protocol, and can be made to fail in several ways.

#![allow(dead_code)] // each test uses a part

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A client's request.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
}

/// The server's answer.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The number of bytes of the body after which the connection is cut.
    pub cut: Option<usize>,
    /// The pause before each byte of the body.
    pub pause: Option<Duration>,
}

impl Reply {
    pub fn new(status: u16) -> Self {
        Reply { status, headers: Vec::new(), body: Vec::new(), cut: None, pause: None }
    }

    pub fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.headers.push((name.into(), value.to_string()));
        self
    }

    pub fn body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self
    }

    pub fn drip(mut self, pause: Duration) -> Self {
        self.pause = Some(pause);
        self
    }

    pub fn cut(mut self, at: usize) -> Self {
        self.cut = Some(at);
        self
    }
}

/// A server, with a log of its requests.
pub struct Server {
    pub port: u16,
    pub log: Arc<Mutex<Vec<Request>>>,
}

type Handler = dyn Fn(&Request, usize) -> Reply + Send + Sync;

impl Server {
    /// Starts a server. `handler` receives a request, and the number of earlier ones with the same method and
    /// path.
    pub fn start(handler: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let log: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (shared, handler): (_, Arc<Handler>) = (log.clone(), Arc::new(handler));
        // The thread ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (shared, handler) = (shared.clone(), handler.clone());
                std::thread::spawn(move || answer(stream.unwrap(), &shared, &*handler));
            }
        });
        Server { port, log }
    }

    /// A hub with the files of one repository. As for large files, their content is behind a redirect.
    pub fn hub(repo: &'static str, files: Vec<(&'static str, Vec<u8>)>) -> Self {
        Server::start(move |request, _| hub(repo, &files, request))
    }

    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn requests(&self, method: &str) -> Vec<Request> {
        self.log.lock().unwrap().iter().filter(|request| request.method == method).cloned().collect()
    }
}

/// The answers of an undisturbed hub.
pub fn hub(repo: &str, files: &[(&str, Vec<u8>)], request: &Request) -> Reply {
    let find = |name: &str| files.iter().find(|(file, _)| *file == name);
    if let Some((_, bytes)) = request.path.strip_prefix("/cdn/").and_then(find) {
        return ranged(bytes, request);
    }
    let at = |revision: &str| request.path.strip_prefix(&format!("/{repo}/resolve/{revision}/"));
    let Some(name) = at("main").or(at(COMMIT)) else {
        return Reply::new(404).header("X-Error-Code", "RepoNotFound");
    };
    let Some((name, bytes)) = find(name) else {
        return Reply::new(404).header("X-Error-Code", "EntryNotFound").header("X-Repo-Commit", COMMIT);
    };
    let host = &request.headers["host"];
    Reply::new(302)
        .header("Location", format!("http://{host}/cdn/{name}"))
        .header("X-Repo-Commit", COMMIT)
        .header("X-Linked-Etag", format!("\"{}\"", sha256(bytes)))
        .header("X-Linked-Size", bytes.len())
        .header("ETag", "\"of-the-pointer\"")
        .body(b"Found. Redirecting")
}

/// The bytes from where the client's range starts.
pub fn ranged(bytes: &[u8], request: &Request) -> Reply {
    let range =
        request.headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
    match range.map(|start| start.parse::<usize>().unwrap()) {
        None => Reply::new(200).body(bytes),
        Some(start) if start >= bytes.len() => Reply::new(416),
        Some(start) => Reply::new(206)
            .header("Content-Range", format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len()))
            .body(&bytes[start..]),
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn answer(stream: TcpStream, log: &Mutex<Vec<Request>>, handler: &Handler) {
    let mut lines = BufReader::new(&stream).lines();
    let Some(Ok(first)) = lines.next() else { return };
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap().to_string(), words.next().unwrap().to_string());
    let header =
        |line: String| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_string()));
    let headers =
        lines.map_while(Result::ok).take_while(|line| !line.is_empty()).filter_map(header).collect();
    let request = Request { method, path, headers };
    let before = {
        let mut log = log.lock().unwrap();
        log.push(request.clone());
        log.iter().filter(|r| r.method == request.method && r.path == request.path).count() - 1
    };
    let reply = handler(&request, before);
    let mut head = format!("HTTP/1.1 {} Because\r\nConnection: close\r\n", reply.status);
    let has = |wanted: &str| reply.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(wanted));
    if !has("content-length") && !has("transfer-encoding") {
        head += &format!("Content-Length: {}\r\n", reply.body.len());
    }
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let body = if request.method == "HEAD" { &[][..] } else { &reply.body[..] };
    let body = &body[..reply.cut.unwrap_or(body.len()).min(body.len())];
    // A client that has disconnected is not an error.
    let _ = (&stream).write_all(head.as_bytes()).and_then(|()| (&stream).write_all(b"\r\n"));
    if let Some(pause) = reply.pause {
        for byte in body {
            std::thread::sleep(pause);
            if (&stream).write_all(&[*byte]).is_err() {
                return;
            }
        }
        return;
    }
    let _ = (&stream).write_all(body).and_then(|()| (&stream).flush());
}
