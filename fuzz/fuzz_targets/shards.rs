//! Indexes arbitrary bytes as a tar shard, and decodes the photos in it. The first byte says whether an end mark is added,
//! without which no shard is looked into.

#![no_main]

use libfuzzer_sys::fuzz_target;
use resnext_data::{Shards, ValidationSplit};

fuzz_target!(|bytes: &[u8]| {
    let Some((&first, bytes)) = bytes.split_first() else { return };
    let folder = std::env::temp_dir().join(format!("fuzz-shards-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the temporary folder is writable");
    let end: &[u8] = if first % 8 == 0 { &[] } else { &[0; 1024] };
    std::fs::write(folder.join("a.tar"), [bytes, end].concat()).expect("the temporary folder is writable");
    match Shards::open(&folder, ValidationSplit { share: 0.5, seed: 0 }) {
        Ok(shards) => {
            for set in [&shards.train, &shards.validation] {
                (0..set.len().min(4)).for_each(|i| drop(set.photo(i)));
            }
        }
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
    }
});
