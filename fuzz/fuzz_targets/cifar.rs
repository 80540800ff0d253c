//! Reads arbitrary bytes as an archive of CIFAR. The first byte says whether the others are packed already.

#![no_main]

use flate2::Compression;
use flate2::write::GzEncoder;
use libfuzzer_sys::fuzz_target;
use resnext_data::cifar;
use std::io::Write;

fuzz_target!(|bytes: &[u8]| {
    let Some((&first, bytes)) = bytes.split_first() else { return };
    let path = std::env::temp_dir().join(format!("fuzz-cifar-{}.tar.gz", std::process::id()));
    let packed = match first % 4 {
        0 => bytes.to_vec(),
        _ => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::none());
            encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("a vector takes all bytes")
        }
    };
    std::fs::write(&path, packed).expect("the temporary folder is writable");
    let splits = if first < 128 { cifar::cifar10(&path) } else { cifar::cifar100(&path) };
    match splits {
        Ok(splits) => assert!((0..splits.test.len()).all(|i| splits.test.image(i).len() == 3072)),
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
    }
});
