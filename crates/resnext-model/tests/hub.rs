//! Downloads from a server on 127.0.0.1 that speaks the hub's protocol: the cache has the right files and
//! never a partial one, and errors are clear.

#[path = "hub/hostile.rs"]
mod hostile;
#[path = "common/server.rs"]
mod server;

use resnext_model::hub::{Hub, HubError, Progress, RepoId};
use server::{COMMIT, Reply, Server, hub, ranged, sha256};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const REPO: &str = "me/model";
const FILE: &str = "model.safetensors";

fn bytes() -> Vec<u8> {
    (0..200_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect()
}

fn client(server: &Server, cache: &Path) -> Hub {
    Hub::new(&server.address(), cache).with_backoff(Duration::from_millis(1))
}

fn get(hub: &Hub, file: &str) -> Result<PathBuf, HubError> {
    hub.get(&REPO.parse().unwrap(), file)
}

fn folder(cache: &Path) -> PathBuf {
    cache.join("models--me--model")
}

/// The names of complete files in the cache.
fn blobs(cache: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder(cache).join("blobs")) else { return Vec::new() };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !name.ends_with(".incomplete")).collect()
}

/// A hub with modified answers.
fn changed(change: impl Fn(&server::Request, usize, Reply) -> Reply + Send + Sync + 'static) -> Server {
    let files = [(FILE, bytes())];
    Server::start(move |request, before| change(request, before, hub(REPO, &files, request)))
}

/// Checks that the error is one line that names the repository and contains `expected`.
fn fails(server: &Server, cache: &Path, expected: &str) {
    let error = get(&client(server, cache), FILE).unwrap_err().to_string();
    assert!(error.contains(expected) && error.contains(REPO), "expected `{expected}`: {error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(blobs(cache).is_empty() && !folder(cache).join("snapshots").join(COMMIT).join(FILE).exists());
}

#[test]
fn a_file_lands_where_every_program_looks_for_it() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::hub(REPO, vec![(FILE, bytes())]);
    let hub = client(&server, cache.path()).with_token(Some("secret".into()));
    let path = get(&hub, FILE).unwrap();
    assert_eq!(path, folder(cache.path()).join("snapshots").join(COMMIT).join(FILE));
    assert_eq!(std::fs::read(&path).unwrap(), bytes());
    assert_eq!(std::fs::read_to_string(folder(cache.path()).join("refs/main")).unwrap(), COMMIT);
    assert_eq!(blobs(cache.path()), [sha256(&bytes())]);
    #[cfg(unix)]
    assert_eq!(std::fs::read_link(&path).unwrap(), Path::new("../../blobs").join(sha256(&bytes())));
    // The second call asks the hub for the version, and downloads nothing.
    let transfers = server.requests("GET").len();
    assert_eq!(get(&hub, FILE).unwrap(), path);
    assert_eq!(server.requests("GET").len(), transfers);
    assert_eq!(server.requests("HEAD")[0].headers["authorization"], "Bearer secret");
    // A commit cannot change: the third call asks nothing.
    let asked = server.log.lock().unwrap().len();
    let repo: RepoId = format!("{REPO}@{COMMIT}").parse().unwrap();
    assert_eq!(hub.get(&repo, FILE).unwrap(), path);
    assert_eq!(server.log.lock().unwrap().len(), asked);
}

/// Progress counts each received byte once.
#[test]
fn progress_goes_from_nothing_to_the_whole_file() {
    let cache = tempfile::tempdir().unwrap();
    let server = changed(|request, before, reply| match request.path.starts_with("/cdn") && before == 0 {
        true => reply.cut(60_000),
        false => reply,
    });
    let reported: Arc<Mutex<Vec<(String, u64, u64)>>> = Arc::default();
    let seen = reported.clone();
    let progress: Progress =
        Box::new(move |file, done, total| seen.lock().unwrap().push((file.to_string(), done, total)));
    get(&client(&server, cache.path()).with_progress(progress), FILE).unwrap();
    let reported = reported.lock().unwrap();
    assert!(reported.iter().all(|(file, _, total)| file == FILE && *total == 200_000));
    let done: Vec<u64> = reported.iter().map(|(_, done, _)| *done).collect();
    assert!(done.is_sorted() && done.contains(&60_000), "{done:?}");
    assert_eq!((done.first(), done.last()), (Some(&0), Some(&200_000)));
}

/// Both find the complete file, which is downloaded once.
#[test]
fn two_programs_that_want_one_file_share_it() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::hub(REPO, vec![(FILE, bytes())]);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let path = get(&client(&server, cache.path()), FILE).unwrap();
                assert_eq!(std::fs::read(path).unwrap(), bytes());
            });
        }
    });
    assert_eq!(server.requests("GET").iter().filter(|request| request.path.starts_with("/cdn")).count(), 1);
}

#[test]
fn a_connection_cut_in_the_middle_is_taken_up_where_it_was() {
    let cache = tempfile::tempdir().unwrap();
    let server = changed(|request, before, reply| match request.path.starts_with("/cdn") && before < 2 {
        true => reply.cut(60_000),
        false => reply,
    });
    let path = get(&client(&server, cache.path()), FILE).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), bytes());
    let ranges: Vec<_> =
        server.requests("GET").iter().filter_map(|r| r.headers.get("range").cloned()).collect();
    assert!(ranges.iter().any(|range| range == "bytes=60000-"), "{ranges:?}");
    assert!(ranges.iter().any(|range| range == "bytes=120000-"), "{ranges:?}");
}

#[test]
fn a_failed_download_leaves_no_file_and_a_later_call_resumes_it() {
    let cache = tempfile::tempdir().unwrap();
    let broken = changed(|request, before, reply| match request.path.starts_with("/cdn") {
        true => reply.cut(if before == 0 { 70_000 } else { 0 }),
        false => reply,
    });
    fails(&broken, cache.path(), "cut at 70000 of 200000 bytes");
    let server = Server::hub(REPO, vec![(FILE, bytes())]);
    let path = get(&client(&server, cache.path()), FILE).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), bytes());
    assert_eq!(server.requests("GET")[0].headers["range"], "bytes=70000-");
}

#[test]
fn a_server_without_ranges_is_read_from_the_start() {
    let cache = tempfile::tempdir().unwrap();
    let server = changed(|request, before, _| match request.path.starts_with("/cdn") {
        true if before == 0 => Reply::new(200).body(&bytes()).cut(50_000),
        true => Reply::new(200).body(&bytes()),
        false => hub(REPO, &[(FILE, bytes())], request),
    });
    assert_eq!(std::fs::read(get(&client(&server, cache.path()), FILE).unwrap()).unwrap(), bytes());
}

#[test]
fn wrong_lengths_and_contents_are_never_kept() {
    let cache = tempfile::tempdir().unwrap();
    let on_the_way = |change: fn(Reply) -> Reply| {
        changed(move |request, _, reply| if request.path.starts_with("/cdn") { change(reply) } else { reply })
    };
    fails(
        &on_the_way(|reply| reply.body(&bytes()[..1000])),
        cache.path(),
        "expected 200000 bytes, the server sends 1000",
    );
    let longer = on_the_way(|reply| reply.body(&[bytes(), bytes()].concat()));
    fails(&longer, cache.path(), "expected 200000 bytes, the server sends 400000");
    let other = on_the_way(|reply| reply.body(&vec![7; 200_000]));
    fails(&other, cache.path(), "expected SHA-256");
    // No remains of it hinder the next attempt.
    let server = Server::hub(REPO, vec![(FILE, bytes())]);
    assert_eq!(std::fs::read(get(&client(&server, cache.path()), FILE).unwrap()).unwrap(), bytes());
}

/// A small file, which is no object of Git LFS, is described by the name that `git hash-object` gives.
#[test]
fn a_small_file_is_checked_by_gits_own_hash() {
    let cache = tempfile::tempdir().unwrap();
    let named = |etag: &'static str| changed(move |_, _, reply| reply.header("X-Linked-Etag", etag));
    let other = named("\"672a7c62adc05f92a7d7e4c90f8b889c32bd507e\"");
    fails(
        &other,
        cache.path(),
        "expected Git's SHA-1 672a7c62adc05f92a7d7e4c90f8b889c32bd507e, got 672a7c62",
    );
    let right = named("W/\"672a7c62adc05f92a7d7e4c90f8b889c32bd507d\"");
    assert_eq!(std::fs::read(get(&client(&right, cache.path()), FILE).unwrap()).unwrap(), bytes());
    assert_eq!(blobs(cache.path()), ["672a7c62adc05f92a7d7e4c90f8b889c32bd507d"]);
}

#[test]
fn refusals_say_what_may_help() {
    let cache = tempfile::tempdir().unwrap();
    let always = |status: u16| Server::start(move |_, _| Reply::new(status));
    fails(&always(401), cache.path(), "access refused (401)");
    fails(&always(403), cache.path(), "set HF_TOKEN");
    fails(&always(404), cache.path(), "no such repository");
    fails(&always(500), cache.path(), "the hub answered 500");
    fails(&always(418), cache.path(), "the hub answered 418");
    fails(&always(200), cache.path(), "is HF_ENDPOINT a hub?");
    let busy = Server::start(|_, _| Reply::new(429).header("Retry-After", 0));
    fails(&busy, cache.path(), "too many requests (429)");
    assert_eq!(busy.requests("HEAD").len(), 5);
    let for_an_hour = Server::start(|_, _| Reply::new(429).header("Retry-After", 3600));
    fails(&for_an_hour, cache.path(), "the hub asks to wait 3600 s");
    assert_eq!(for_an_hour.requests("HEAD").len(), 1);
    let evil = changed(|_, _, reply| reply.header("X-Linked-Etag", "\"../../evil\""));
    fails(&evil, cache.path(), "no usable ETag");
    let looping = Server::start(|_, _| Reply::new(307).header("Location", "/again"));
    fails(&looping, cache.path(), "redirects");

    let server = Server::hub(REPO, vec![(FILE, bytes())]);
    let missing = get(&client(&server, cache.path()), "other.bin").unwrap_err();
    assert!(matches!(missing, HubError::NoFile { .. }) && missing.to_string() == "me/model has no other.bin");
}

#[test]
fn temporary_failures_are_retried() {
    let cache = tempfile::tempdir().unwrap();
    let server = changed(|_, before, reply| match before {
        0 => Reply::new(503),
        1 => Reply::new(429).header("Retry-After", 0),
        _ => reply,
    });
    assert_eq!(std::fs::read(get(&client(&server, cache.path()), FILE).unwrap()).unwrap(), bytes());
}

#[test]
fn a_renamed_repository_is_followed_with_its_token_and_another_host_never_sees_it() {
    let cache = tempfile::tempdir().unwrap();
    let elsewhere = Server::start(|request, _| ranged(&bytes(), request));
    let cdn = format!("http://localhost:{}/file", elsewhere.port);
    let server = Server::start(move |request, _| match request.path.starts_with("/me/model/") {
        true => Reply::new(307).header("Location", request.path.replace("/me/model", "/new/name")),
        false => hub("new/name", &[(FILE, bytes())], request).header("Location", &cdn),
    });
    let hub = client(&server, cache.path()).with_token(Some("secret".into()));
    assert_eq!(std::fs::read(get(&hub, FILE).unwrap()).unwrap(), bytes());
    assert!(
        server.log.lock().unwrap().iter().all(|request| request.headers["authorization"] == "Bearer secret")
    );
    let seen = elsewhere.requests("GET");
    assert!(!seen.is_empty() && seen.iter().all(|request| !request.headers.contains_key("authorization")));
}

#[test]
fn without_a_connection_the_cache_serves() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::hub(REPO, vec![(FILE, bytes())]);
    let offline = || client(&server, cache.path()).with_offline(true);
    let error = get(&offline(), FILE).unwrap_err().to_string();
    assert!(error.contains("HF_HUB_OFFLINE is set") && server.log.lock().unwrap().is_empty());
    let path = get(&client(&server, cache.path()), FILE).unwrap();
    let asked = server.log.lock().unwrap().len();
    assert_eq!(get(&offline(), FILE).unwrap(), path);
    assert_eq!(server.log.lock().unwrap().len(), asked);
    // No server listens on this port any more.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let cut_off = |cache: &Path| {
        Hub::new(&format!("http://127.0.0.1:{nobody}"), cache).with_backoff(Duration::from_millis(1))
    };
    assert_eq!(get(&cut_off(cache.path()), FILE).unwrap(), path);
    let empty = tempfile::tempdir().unwrap();
    let error = get(&cut_off(empty.path()), FILE).unwrap_err().to_string();
    assert!(error.contains("no connection"), "{error}");
}

#[test]
fn a_new_version_is_fetched_and_the_old_one_stays() {
    let cache = tempfile::tempdir().unwrap();
    let old = get(&client(&Server::hub(REPO, vec![(FILE, b"old".to_vec())]), cache.path()), FILE).unwrap();
    let newer = "f".repeat(40);
    let commit = newer.clone();
    let server = changed(move |_, _, reply| reply.header("X-Repo-Commit", &commit));
    let new = get(&client(&server, cache.path()), FILE).unwrap();
    assert_eq!((std::fs::read(old).unwrap(), std::fs::read(new).unwrap()), (b"old".to_vec(), bytes()));
    assert_eq!(std::fs::read_to_string(folder(cache.path()).join("refs/main")).unwrap(), newer);
}

#[test]
fn invalid_names_are_refused_before_any_request() {
    for wrong in ["", "a/b/c", "../etc", "me/..", "me/mo del", "me/model@", "me/model@../x", "/me"] {
        assert!(matches!(wrong.parse::<RepoId>(), Err(HubError::Id(_))), "{wrong}");
    }
    let shown = |text: &str| text.parse::<RepoId>().unwrap().to_string();
    assert_eq!(shown("resnet50.a1_in1k"), "timm/resnet50.a1_in1k");
    assert_eq!(shown("hf-hub:me/model@v2"), "me/model@v2");
    let server = Server::hub(REPO, Vec::new());
    let cache = tempfile::tempdir().unwrap();
    for wrong in ["", "../x", "a//b", "/etc/passwd"] {
        assert!(matches!(get(&client(&server, cache.path()), wrong), Err(HubError::FileName(_))), "{wrong}");
    }
    assert!(server.log.lock().unwrap().is_empty());
}

/// A redirect within the machine, to another port, is one to another host too.
#[test]
fn a_token_stays_with_the_hubs_own_address() {
    let cache = tempfile::tempdir().unwrap();
    let elsewhere = Server::start(|request, _| ranged(&bytes(), request));
    let storage = format!("{}/file", elsewhere.address());
    let server =
        Server::start(move |request, _| hub(REPO, &[(FILE, bytes())], request).header("Location", &storage));
    let hub = client(&server, cache.path()).with_token(Some("secret".into()));
    assert_eq!(std::fs::read(get(&hub, FILE).unwrap()).unwrap(), bytes());
    let seen = elsewhere.requests("GET");
    assert!(!seen.is_empty() && seen.iter().all(|request| !request.headers.contains_key("authorization")));
    for location in ["ftp://127.0.0.1/file", "file:///etc/passwd", "//127.0.0.1/file", "file"] {
        let server = changed(move |request, _, reply| match request.method.as_str() {
            "GET" => Reply::new(302).header("Location", location),
            _ => reply,
        });
        let cache = tempfile::tempdir().unwrap();
        fails(&server, cache.path(), "the answer has no usable redirect");
    }
}

#[test]
fn a_server_that_sends_hardly_anything_is_left() {
    let cache = tempfile::tempdir().unwrap();
    let drip = changed(|request, _, reply| match request.path.starts_with("/cdn") {
        true => reply.drip(Duration::from_millis(20)),
        false => reply,
    });
    let hub = client(&drip, cache.path()).with_patience(Duration::from_millis(300));
    let error = get(&hub, FILE).unwrap_err().to_string();
    assert!(error.contains("of 200000 in all; they are kept") && error.lines().count() == 1, "{error}");
    assert!(blobs(cache.path()).is_empty());
    // What was received is kept for another server.
    let server = Server::hub(REPO, vec![(FILE, bytes())]);
    assert_eq!(std::fs::read(get(&client(&server, cache.path()), FILE).unwrap()).unwrap(), bytes());
    let ranges: Vec<_> =
        server.requests("GET").into_iter().filter_map(|r| r.headers.get("range").cloned()).collect();
    assert!(!ranges.is_empty() && ranges.iter().all(|range| range != "bytes=0-"), "{ranges:?}");
}

#[test]
fn a_body_without_an_end_is_left_at_the_files_length() {
    let cache = tempfile::tempdir().unwrap();
    let chunk = [&b"10000\r\n"[..], &[7; 1 << 16], b"\r\n"].concat();
    let endless = changed(move |request, _, reply| match request.path.starts_with("/cdn") {
        true => Reply::new(200).header("Transfer-Encoding", "chunked").body(&chunk.repeat(100)),
        false => reply,
    });
    fails(&endless, cache.path(), "expected 200000 bytes, the server sends 2");
    // Neither the hub nor the storage gives a length.
    let unknown = changed(move |request, _, reply| match request.path.starts_with("/cdn") {
        true => Reply::new(200).header("Transfer-Encoding", "chunked").body(b"1\r\nx\r\n"),
        false => reply.without("X-Linked-Size"),
    });
    let cache = tempfile::tempdir().unwrap();
    fails(&unknown, cache.path(), "the answer has no usable length");
}

#[test]
fn names_that_climb_out_of_the_cache_are_refused() {
    for (header, value) in [
        ("X-Linked-Etag", "\"../../../evil\""),
        ("X-Linked-Etag", "/etc/evil"),
        ("X-Linked-Etag", ".."),
        ("X-Repo-Commit", "../../evil"),
        ("X-Repo-Commit", "a/b"),
        ("X-Repo-Commit", "..\\evil"),
    ] {
        let cache = tempfile::tempdir().unwrap();
        let inner = cache.path().join("deep/cache");
        let server = changed(move |_, _, reply| reply.header(header, value));
        let error = get(&client(&server, &inner), FILE).unwrap_err().to_string();
        assert!(error.contains("the answer has no usable"), "{header} {value}: {error}");
        let beside =
            std::fs::read_dir(cache.path()).unwrap().flatten().any(|entry| entry.file_name() != "deep");
        assert!(!beside && !inner.join("evil").exists(), "{header} {value}");
    }
}

#[test]
fn a_lock_of_another_program_is_waited_for_and_then_named() {
    let cache = tempfile::tempdir().unwrap();
    let locks = cache.path().join(".locks/models--me--model");
    std::fs::create_dir_all(&locks).unwrap();
    let path = locks.join(format!("{}.lock", sha256(&bytes())));
    let lock = std::fs::File::create(&path).unwrap();
    lock.lock().unwrap();
    let server = Server::hub(REPO, vec![(FILE, bytes())]);
    let hub = client(&server, cache.path()).with_patience(Duration::from_millis(200));
    let error = get(&hub, FILE).unwrap_err().to_string();
    assert!(error.contains("another program has locked it") && error.contains(".lock"), "{error}");
    assert_eq!(error.lines().count(), 1);
    let waiting = std::thread::spawn(move || get(&hub, FILE).map(|path| std::fs::read(path).unwrap()));
    std::thread::sleep(Duration::from_millis(50));
    drop(lock);
    assert_eq!(waiting.join().unwrap().unwrap(), bytes());
}

/// A full disk, here one of no bytes: the error names the cache, nothing partial enters it, and the next
/// attempt succeeds.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_named_and_leaves_nothing() {
    let cache = tempfile::tempdir().unwrap();
    let blobs_folder = folder(cache.path()).join("blobs");
    std::fs::create_dir_all(&blobs_folder).unwrap();
    let incomplete = blobs_folder.join(format!("{}.incomplete", sha256(&bytes())));
    std::os::unix::fs::symlink("/dev/full", &incomplete).unwrap();
    let server = Server::hub(REPO, vec![(FILE, bytes())]);
    fails(&server, cache.path(), &format!("the cache: {}: No space left on device", cache.path().display()));
    std::fs::remove_file(&incomplete).unwrap();
    assert_eq!(std::fs::read(get(&client(&server, cache.path()), FILE).unwrap()).unwrap(), bytes());
}
