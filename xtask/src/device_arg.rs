//! `--device`: where tensors live.

use anyhow::{Result, anyhow, bail, ensure};
use candle_core::Device;
use candle_core::utils::{cuda_is_available, metal_is_available};
use std::fmt;
use std::str::FromStr;

/// A device as it is named on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceName {
    /// A GPU if this build and machine have one, else the CPU.
    Auto,
    Cpu,
    /// The CUDA device with this number.
    Cuda(usize),
    Metal,
}

/// The help text of `--device`.
pub const HELP: &str = "Device to compute on: auto (a GPU if this build and machine have one), cpu, cuda, cuda:N or metal. Of several \
     processes on a machine, each has its own GPU by auto and cuda";

impl FromStr for DeviceName {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let numbered = |text: &str| text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
        Ok(match text {
            "auto" => DeviceName::Auto,
            "cpu" => DeviceName::Cpu,
            "cuda" => DeviceName::Cuda(own_gpu()),
            "metal" => DeviceName::Metal,
            _ => match numbered(text) {
                Some(number) => DeviceName::Cuda(number),
                None => bail!("a device is auto, cpu, cuda, cuda:N or metal, got `{text}`"),
            },
        })
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            DeviceName::Auto => f.write_str("auto"),
            DeviceName::Cpu => f.write_str("cpu"),
            DeviceName::Cuda(number) => write!(f, "cuda:{number}"),
            DeviceName::Metal => f.write_str("metal"),
        }
    }
}

impl DeviceName {
    /// Opens the device.
    ///
    /// # Errors
    /// If this build does not support it, or this machine does not have it.
    pub fn open(self) -> Result<Device> {
        let built = |there: bool, what: &str, feature: &str| {
            ensure!(
                there,
                "device {self}: this build does not support {what}; \
                 build with --features {feature} (docs/gpu.md), or use --device cpu"
            );
            Ok(())
        };
        let first_line = |error: candle_core::Error| {
            let text = error.to_string();
            anyhow!("device {self} cannot be opened: {}", text.lines().next().unwrap_or_default())
        };
        match self {
            DeviceName::Auto => Ok(gpu().unwrap_or(Device::Cpu)),
            DeviceName::Cpu => Ok(Device::Cpu),
            DeviceName::Cuda(number) => {
                built(cuda_is_available(), "CUDA", "cuda")?;
                cuda(number).map_err(first_line)
            }
            DeviceName::Metal => {
                built(metal_is_available(), "Metal", "metal")?;
                metal().map_err(first_line)
            }
        }
    }
}

/// The name of an opened device, for reports: the requested one, or the one that `auto` chose.
pub fn opened_name(device: &Device, wanted: DeviceName) -> String {
    match (wanted, device) {
        (DeviceName::Auto, Device::Cpu) => "cpu".into(),
        (DeviceName::Auto, Device::Cuda(_)) => "cuda".into(),
        (DeviceName::Auto, Device::Metal(_)) => "metal".into(),
        (named, _) => named.to_string(),
    }
}

/// What launchers set to the number of a process among those on its machine, from 0: Open MPI, MPICH and Intel MPI, and
/// Slurm.
const LOCAL_RANKS: [&str; 3] = ["OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"];

/// The number of the GPU that is this process's own: 0, or by its place among the processes of a launcher on this machine.
fn own_gpu() -> usize {
    gpu_of(|name| std::env::var(name).ok(), gpus())
}

/// The GPU of the process that a launcher has given these variables, of `gpus`. More processes than GPUs share them, and
/// one that is shown a single GPU, as by `CUDA_VISIBLE_DEVICES`, has that.
fn gpu_of(variable: impl Fn(&str) -> Option<String>, gpus: usize) -> usize {
    let place = LOCAL_RANKS.iter().find_map(|name| variable(name)?.parse::<usize>().ok());
    place.unwrap_or(0) % gpus.max(1)
}

/// The number of GPUs that CUDA shows this process.
fn gpus() -> usize {
    #[cfg(feature = "cuda")]
    return candle_core::cuda_backend::cudarc::driver::CudaContext::device_count()
        .map_or(0, |count| usize::try_from(count).unwrap_or(0));
    #[cfg(not(feature = "cuda"))]
    return 0;
}

/// This process's GPU, or the first one that is not CUDA's.
fn gpu() -> Option<Device> {
    cuda(own_gpu()).or_else(|_| metal()).ok()
}

/// Opens a CUDA device with a stream of its own: candle's default stream belongs to a thread, and training
/// steps move between threads.
fn cuda(number: usize) -> candle_core::Result<Device> {
    #[cfg(feature = "cuda")]
    return Ok(resnext_ops::cuda::open(number)?);
    #[cfg(not(feature = "cuda"))]
    return Device::new_cuda_with_stream(number);
}

fn metal() -> candle_core::Result<Device> {
    #[cfg(feature = "metal")]
    if resnext_ops::metal_devices() == 0 {
        candle_core::bail!("this machine has no Metal device");
    }
    Device::new_metal(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each process on a machine has a GPU of its own, whoever has launched it.
    #[test]
    fn processes_have_gpus_of_their_own() {
        let of = |name: &'static str, value: &'static str, gpus| {
            gpu_of(|asked| (asked == name).then(|| value.to_string()), gpus)
        };
        assert_eq!(of("OMPI_COMM_WORLD_LOCAL_RANK", "3", 8), 3);
        assert_eq!(of("MPI_LOCALRANKID", "1", 2), 1);
        assert_eq!(of("SLURM_LOCALID", "2", 4), 2);
        // Without a launcher, with a GPU that only this process sees, and with fewer GPUs than processes.
        assert_eq!((of("", "", 8), of("SLURM_LOCALID", "2", 1), of("SLURM_LOCALID", "5", 4)), (0, 0, 1));
    }

    #[test]
    fn names_are_read_and_written() {
        for (text, name) in [
            ("auto", DeviceName::Auto),
            ("cpu", DeviceName::Cpu),
            ("cuda:0", DeviceName::Cuda(0)),
            ("cuda:13", DeviceName::Cuda(13)),
            ("metal", DeviceName::Metal),
        ] {
            assert_eq!(text.parse::<DeviceName>().unwrap(), name);
            assert_eq!(name.to_string(), text);
        }
        assert_eq!("cuda".parse::<DeviceName>().unwrap(), DeviceName::Cuda(0));
        for wrong in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "CPU"] {
            let error = wrong.parse::<DeviceName>().unwrap_err().to_string();
            assert!(error.contains("auto, cpu, cuda, cuda:N or metal"), "{error}");
        }
    }
}
