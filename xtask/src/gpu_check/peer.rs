//! PyTorch on the same device, run by `bench/peers/gpu.py`.

use crate::bench::engine::Engine;
use anyhow::Result;
use candle_core::Device;
use std::path::Path;
use std::process::Command;

/// Starts PyTorch on `device`.
pub fn start(python: &Path, device: &Device) -> Result<Engine> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench/peers/gpu.py");
    let place = match device {
        Device::Cpu => "cpu",
        Device::Cuda(_) => "cuda",
        Device::Metal(_) => "mps",
    };
    Engine::connect("PyTorch channels-last", Command::new(python).arg(script).args(["--device", place]))
}
