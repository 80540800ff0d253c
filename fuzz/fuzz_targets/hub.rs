//! Answers a client of the hub with arbitrary bytes: the question what a file is with those before the text `%%%%`, the
//! request for the file with those behind it. Nothing may be written outside of the cache.

#![no_main]

use libfuzzer_sys::fuzz_target;
use resnext_model::hub::{Hub, RepoId};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

/// The answers to HEAD and GET.
static ANSWERS: Mutex<(Vec<u8>, Vec<u8>)> = Mutex::new((Vec::new(), Vec::new()));
const BETWEEN: &[u8] = b"%%%%";

/// Starts the server, once.
fn address() -> &'static str {
    static ADDRESS: OnceLock<String> = OnceLock::new();
    ADDRESS.get_or_init(|| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut asked = [0; 2048];
                let Ok(len) = stream.read(&mut asked) else { continue };
                let answers = ANSWERS.lock().expect("no thread panics with it");
                let answer = if asked[..len].starts_with(b"HEAD") { &answers.0 } else { &answers.1 };
                let _ = stream.write_all(answer);
            }
        });
        address
    })
}

fuzz_target!(|bytes: &[u8]| {
    // A client waits as long as it is asked to, and for connections to other machines.
    let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    if text.contains("retry-after") || text.contains("://") {
        return;
    }
    let at = bytes.windows(BETWEEN.len()).position(|window| window == BETWEEN).unwrap_or(bytes.len());
    let behind = bytes.get(at + BETWEEN.len()..).unwrap_or_default();
    *ANSWERS.lock().expect("no thread panics with it") = (bytes[..at].to_vec(), behind.to_vec());
    let folder: PathBuf = std::env::temp_dir().join(format!("fuzz-hub-{}", std::process::id()));
    let cache = folder.join("deep/cache");
    let hub = Hub::new(address(), &cache).with_backoff(Duration::ZERO).with_patience(Duration::from_millis(100));
    let repo: RepoId = "me/model".parse().expect("a repository's name");
    match hub.get(&repo, "model.safetensors") {
        Ok(path) => assert!(path.starts_with(&cache) && path.is_file()),
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
    }
    let beside = |folder: PathBuf, own: &str| {
        std::fs::read_dir(folder).map_or(true, |entries| entries.flatten().all(|entry| entry.file_name() == own))
    };
    assert!(beside(folder.clone(), "deep") && beside(folder.join("deep"), "cache"));
    let _ = std::fs::remove_dir_all(&folder);
});
