//! The description of this machine for reports, and the number of threads that a command uses on it.

use crate::plural::counted;
use candle_core::Device;

/// The processor and the instruction set that runs, or the GPU, in words.
pub fn description(device: &Device) -> String {
    match device {
        Device::Cpu => {
            let threads = counted(threads(), "thread");
            let isa = resnext_ops::Isa::current().name();
            match processor() {
                Some(name) => format!("{name}, {threads}, {isa}"),
                None => format!("CPU, {threads}, {isa}"),
            }
        }
        Device::Cuda(_) => "CUDA".into(),
        Device::Metal(_) => "Metal".into(),
    }
}

/// The number of threads that a command uses by default: one per core, or what `RAYON_NUM_THREADS` says.
pub fn threads() -> usize {
    // rayon's own answer would start its pool before a command has set the size.
    let set = std::env::var("RAYON_NUM_THREADS").ok().and_then(|text| text.parse::<usize>().ok());
    set.filter(|&threads| threads > 0)
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// The processor's name, where Linux says it.
fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_string())
}
