//! Reads arbitrary bytes as a file of ranges for int8.

#![no_main]

use libfuzzer_sys::fuzz_target;
use resnext_model::Ranges;

fuzz_target!(|bytes: &[u8]| {
    let ranges = match serde_json::from_slice::<Ranges>(bytes) {
        Ok(ranges) => ranges,
        Err(error) => return assert!(!error.to_string().contains('\n'), "{error}"),
    };
    let written = serde_json::to_string(&ranges).expect("ranges that were read can be written");
    let again: Ranges = serde_json::from_str(&written).expect("ranges that were written can be read");
    assert_eq!(again, ranges);
});
