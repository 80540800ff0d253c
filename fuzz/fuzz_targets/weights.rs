//! Opens arbitrary bytes as a weights file, infers the network from its tensors, checks them and reads some.

#![no_main]

use candle_core::Device;
use libfuzzer_sys::fuzz_target;
use resnext_model::{Head, Weights};

fuzz_target!(|bytes: &[u8]| {
    let path = std::env::temp_dir().join(format!("fuzz-weights-{}", std::process::id()));
    std::fs::write(&path, bytes).expect("the temporary folder is writable");
    let weights = match Weights::open(&path) {
        Ok(weights) => weights,
        Err(error) => return assert!(!error.to_string().chars().any(char::is_control), "{error}"),
    };
    if let Ok(network) = weights.network() {
        let _ = weights.check(&network, Head::Loaded);
    }
    for (name, _) in weights.shapes().take(100) {
        let _ = weights.tensor(name, &Device::Cpu);
    }
});
