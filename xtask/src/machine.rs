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

/// The number of threads that a command uses by default: one per core, or what `RAYON_NUM_THREADS` says if that is less.
pub fn threads() -> usize {
    set_threads().map_or_else(cores, |threads| threads.min(cores()))
}

/// The number of threads that a user asked for, or else [`threads`]. It is limited to the number of cores, with a note:
/// more threads would only wait for each other.
pub fn threads_or(asked: Option<usize>) -> usize {
    let Some(asked) = asked else { return threads() };
    say_if_limited("--threads", asked);
    asked.min(cores())
}

/// Starts rayon's pool with [`threads`] if `RAYON_NUM_THREADS` says more. To be called before rayon is used, by commands
/// that start no pool themselves.
pub fn limit_pool() -> anyhow::Result<()> {
    if let Some(set) = set_threads().filter(|&set| set > cores()) {
        say_if_limited("RAYON_NUM_THREADS", set);
        rayon::ThreadPoolBuilder::new().num_threads(cores()).build_global()?;
    }
    Ok(())
}

/// The value of `RAYON_NUM_THREADS`. rayon's own answer would start its pool before a command has set the size.
fn set_threads() -> Option<usize> {
    let set = std::env::var("RAYON_NUM_THREADS").ok()?.parse().ok()?;
    (set > 0).then_some(set)
}

/// The cores that this process may use.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn say_if_limited(setting: &str, asked: usize) {
    let cores = cores();
    if asked > cores {
        eprintln!("note: {setting}: {} instead of {asked}, one per core", counted(cores, "thread"));
    }
}

/// The processor's name, where Linux says it.
fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_string())
}
