//! Answers that no hub should give. Each has one line, which is the error, or the file that was read.

use super::{FILE, REPO, blobs, bytes, changed, folder, get};
use crate::server::{Reply, Server, hub};
use resnext_model::hub::Hub;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

fn client(address: &str, cache: &Path) -> Hub {
    Hub::new(address, cache).with_backoff(Duration::ZERO).with_patience(Duration::from_millis(300))
}

/// What a client makes of a hub at `address`: how much was read, or the error. Only a whole file may enter the cache.
fn outcome(address: &str) -> String {
    let cache = tempfile::tempdir().unwrap();
    let line = match get(&client(address, cache.path()), FILE) {
        Ok(path) => format!("{} bytes", std::fs::read(path).unwrap().len()),
        Err(error) => {
            assert!(blobs(cache.path()).is_empty() && !folder(cache.path()).join("refs").exists(), "{error}");
            error.to_string()
        }
    };
    line.replace(&cache.path().display().to_string(), "the cache").replace(address, "the hub")
}

/// A server that sends these bytes whatever it is asked.
fn raw(answer: Vec<u8>) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut asked = [0; 4096];
            // A client that has disconnected is not an error.
            let _ = stream.read(&mut asked).and_then(|_| stream.write_all(&answer));
        }
    });
    address
}

/// Answers to the question what the file is, with one header changed.
fn descriptions() -> Vec<(&'static str, Server, &'static str)> {
    let header = |name: &'static str, value: &'static str| {
        changed(move |request, _, reply| match request.method.as_str() {
            "HEAD" => reply.header(name, value),
            _ => reply,
        })
    };
    let long = || changed(|_, _, reply| reply.header("X-Linked-Etag", "e".repeat(201)));
    vec![
        (
            "an empty ETag",
            header("X-Linked-Etag", ""),
            "the answer has no usable ETag: is HF_ENDPOINT a hub?",
        ),
        (
            "an ETag of quotes",
            header("X-Linked-Etag", "\"\""),
            "the answer has no usable ETag: is HF_ENDPOINT a hub?",
        ),
        (
            "an ETag of dots",
            header("X-Linked-Etag", "..."),
            "the answer has no usable ETag: is HF_ENDPOINT a hub?",
        ),
        (
            "an ETag that is hidden",
            header("X-Linked-Etag", ".ssh"),
            "the answer has no usable ETag: is HF_ENDPOINT a hub?",
        ),
        ("an ETag of 201 letters", long(), "the answer has no usable ETag: is HF_ENDPOINT a hub?"),
        ("a weak ETag", header("X-Linked-Etag", "W/\"abc\""), "200000 bytes"),
        (
            "a commit with a space",
            header("X-Repo-Commit", "a b"),
            "the answer has no usable X-Repo-Commit: is HF_ENDPOINT a hub?",
        ),
        (
            "no commit",
            changed(|_, _, reply| reply.without("X-Repo-Commit")),
            "the answer has no usable X-Repo-Commit: is HF_ENDPOINT a hub?",
        ),
        ("a negative size", header("X-Linked-Size", "-5"), "200000 bytes"),
        ("a size of words", header("X-Linked-Size", "large"), "200000 bytes"),
        ("a size of 0", header("X-Linked-Size", "0"), "the download is damaged: expected SHA-256"),
        (
            "a size of 2⁶⁴ - 1",
            header("X-Linked-Size", "18446744073709551615"),
            "wrong length: expected 18446744073709551615 bytes, the server sends 200000",
        ),
        ("a size of 10³⁰", header("X-Linked-Size", "1000000000000000000000000000000"), "200000 bytes"),
        (
            "a wait of words",
            always(429, "Retry-After", "soon"),
            "too many requests (429): try again later, or set HF_TOKEN",
        ),
        (
            "a wait of -1 s",
            always(429, "Retry-After", "-1"),
            "too many requests (429): try again later, or set HF_TOKEN",
        ),
        (
            "a wait of 10¹⁸ s",
            always(429, "Retry-After", "1000000000000000000"),
            "too many requests (429), the hub asks to wait 1000000000000000000 s: try again later, or set HF_TOKEN",
        ),
        (
            "a redirect to nowhere",
            always(302, "Location", ""),
            "the answer has no usable ETag: is HF_ENDPOINT a hub?",
        ),
        (
            "a redirect without an address",
            always(302, "X-Other", "1"),
            "the answer has no usable ETag: is HF_ENDPOINT a hub?",
        ),
        (
            "a redirect to itself",
            always(302, "Location", "/me/model/resolve/main/model.safetensors"),
            "the answer has no usable end to its redirects: is HF_ENDPOINT a hub?",
        ),
        ("status 204", always(204, "X-Other", "1"), "the answer has no usable ETag: is HF_ENDPOINT a hub?"),
        ("status 599", always(599, "X-Other", "1"), "the hub answered 599, expected the file"),
    ]
}

fn always(status: u16, name: &'static str, value: &'static str) -> Server {
    Server::start(move |_, _| Reply::new(status).header(name, value))
}

/// Answers to the request for the file itself.
fn transfers() -> Vec<(&'static str, Server, &'static str)> {
    let of_the_file = |change: fn(Reply, usize) -> Reply| {
        changed(move |request, before, reply| match request.path.starts_with("/cdn") {
            true => change(reply, before),
            false => reply,
        })
    };
    // The first part is right, so that the rest is asked for.
    let range = |value: &'static str| {
        changed(move |request, before, reply| match (request.path.starts_with("/cdn"), before) {
            (true, 0) => reply.cut(60_000),
            (true, _) => reply.header("Content-Range", value),
            _ => reply,
        })
    };
    vec![
        (
            "no body",
            of_the_file(|reply, _| reply.body(b"")),
            "wrong length: expected 200000 bytes, the server sends 0",
        ),
        (
            "a part that was not asked for",
            of_the_file(|_, _| Reply::new(206).body(b"x")),
            "the answer has no usable Content-Range: is HF_ENDPOINT a hub?",
        ),
        (
            "a part without its place",
            range("bytes */200000"),
            "the answer has no usable Content-Range: is HF_ENDPOINT a hub?",
        ),
        (
            "a part of another unit",
            range("rows 60000-199999/200000"),
            "the answer has no usable Content-Range: is HF_ENDPOINT a hub?",
        ),
        (
            "a part from elsewhere",
            range("bytes 70000-199999/200000"),
            "the answer has no usable Content-Range: is HF_ENDPOINT a hub?",
        ),
        (
            "a part from -1",
            range("bytes -1-199999/200000"),
            "the answer has no usable Content-Range: is HF_ENDPOINT a hub?",
        ),
        (
            "a part of another file",
            range("bytes 60000-199999/300000"),
            "wrong length: expected 200000 bytes, the server sends 300000",
        ),
        ("a part of a file of unknown length", range("bytes 60000-199999/*"), "200000 bytes"),
        ("416 without end", of_the_file(|_, _| Reply::new(416)), "the hub answered 416, expected the file"),
        (
            "other bytes of the same length",
            of_the_file(|reply, _| reply.body(&[7; 200_000])),
            "the download is damaged: expected SHA-256",
        ),
        (
            "a packed body",
            of_the_file(|reply, _| reply.header("Content-Encoding", "gzip")),
            "the connection was cut at 0 of 200000 bytes; they are kept: try again to resume from there",
        ),
        (
            "chunks of no length",
            of_the_file(|_, _| Reply::new(200).header("Transfer-Encoding", "chunked").body(b"zz\r\n")),
            "the connection was cut at 0 of 200000 bytes; they are kept: try again to resume from there",
        ),
        (
            "a chunk of 2⁶⁴ - 1 bytes",
            of_the_file(|_, _| {
                Reply::new(200).header("Transfer-Encoding", "chunked").body(b"ffffffffffffffff\r\nx")
            }),
            "the connection was cut at",
        ),
        (
            "redirects of the file without end",
            of_the_file(|_, _| Reply::new(302).header("Location", "/cdn/model.safetensors")),
            "the answer has no usable end to its redirects: is HF_ENDPOINT a hub?",
        ),
    ]
}

#[test]
fn hostile_answers_have_the_line_of_the_table() {
    let mut wrong = Vec::new();
    let mut compare = |name: &str, line: String, expected: &str| {
        let expected = match expected.ends_with("bytes") && expected.len() < 20 {
            true => expected.to_string(),
            false => format!("cannot get {FILE} of {REPO}: {expected}"),
        };
        if !line.starts_with(&expected) || line.chars().any(char::is_control) {
            wrong.push(format!("{name}: {line}\n  expected {expected}\n"));
        }
    };
    for (name, server, expected) in [descriptions(), transfers()].into_iter().flatten() {
        compare(name, outcome(&server.address()), expected);
    }
    let ok = "HTTP/1.1 200 OK\r\n";
    let many: String = (0..5000).map(|i| format!("X-{i}: 1\r\n")).collect();
    let answers: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("a greeting of another protocol", b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()),
        ("noise", (0..3000u32).map(|i| ((i * i * 37) >> 3) as u8).collect()),
        ("half a line", b"HTTP/1.1 20".to_vec()),
        ("another version", b"HTTP/9.9 200 OK\r\n\r\n".to_vec()),
        ("a status of words", b"HTTP/1.1 fine OK\r\n\r\n".to_vec()),
        ("a status of 99999", b"HTTP/1.1 99999 OK\r\n\r\n".to_vec()),
        ("headers without an end", [ok, "A: b\r\n"].concat().into_bytes()),
        ("a header without a colon", [ok, "what\r\n\r\n"].concat().into_bytes()),
        ("a header of zeros", [ok.as_bytes(), b"A: \0\0\r\n\r\n"].concat()),
        ("5000 headers", [ok, &many, "\r\n"].concat().into_bytes()),
        ("a header of a megabyte", [ok, "A: ", &"b".repeat(1 << 20), "\r\n\r\n"].concat().into_bytes()),
        ("two lengths", [ok, "Content-Length: 5\r\nContent-Length: 6\r\n\r\n"].concat().into_bytes()),
    ];
    for (name, answer) in answers {
        let line = outcome(&raw(answer));
        compare(name, line.clone(), "");
        let told = line.contains("no connection: ") || line.contains("is HF_ENDPOINT a hub?");
        assert!(told && line.len() < 300, "{name}: {line}");
    }
    assert!(wrong.is_empty(), "{}", wrong.concat());
    // An undisturbed hub, so that the table is one of answers and not of this client.
    let files = [(FILE, bytes())];
    let good = Server::start(move |request, _| hub(REPO, &files, request));
    assert_eq!(outcome(&good.address()), format!("{} bytes", bytes().len()));
}
