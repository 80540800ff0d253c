//! Reads arbitrary bytes as a file of ranges for int8.

#![no_main]

use libfuzzer_sys::fuzz_target;
use resnext_model::Ranges;

fuzz_target!(|bytes: &[u8]| {
    let Ok(ranges) = serde_json::from_slice::<Ranges>(bytes) else { return };
    let written = serde_json::to_string(&ranges).expect("ranges that were read can be written");
    // JSON has no infinity, which a network refuses.
    if !written.contains("null") {
        let again: Ranges = serde_json::from_str(&written).expect("ranges that were written can be read");
        assert_eq!(again, ranges);
    }
});
