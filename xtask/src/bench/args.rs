//! The options of `cargo xtask bench`.

#[cfg(feature = "mpi")]
use crate::distributed_args::DistributedArgs;
use crate::dtype_arg::Dtype;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// Network to measure
    #[arg(default_value = "resnext50_32x4d")]
    pub model: String,
    /// Run folder, or safetensors file with weights in form (c) [default: random weights]
    #[arg(long)]
    pub weights: Option<PathBuf>,
    /// Images per batch, as a list [default: 1,8,32; with --train one number: 16, or 128 for CIFAR networks]
    #[arg(long, value_delimiter = ',')]
    pub batch: Vec<usize>,
    /// Height and width of the images [default: 224, 299 for Inceptions, or 32 for CIFAR networks]
    #[arg(long)]
    pub size: Option<usize>,
    /// Number of rounds; in each, every engine has one turn
    #[arg(long, default_value_t = 15)]
    pub rounds: usize,
    /// Number of threads [default: one per core]
    #[arg(long)]
    pub threads: Option<usize>,
    /// Types to measure our engine in, as a list [default: f32, int8 where the network has it, and bf16
    /// where the CPU has instructions for it; with --train f32]
    #[arg(long, value_delimiter = ',')]
    pub dtype: Vec<Dtype>,
    /// With --dtype int8, the file that `cargo xtask calibrate` wrote for these weights [default: ranges of
    /// the benchmark's own input]
    #[arg(long)]
    pub ranges: Option<PathBuf>,
    /// Show the time of each layer; for inference, beside the least time that the hardware allows
    #[arg(long)]
    pub layers: bool,
    /// Measure OpenVINO, ONNX Runtime and PyTorch too; with --train only PyTorch
    #[arg(long)]
    pub peers: bool,
    /// Python interpreter that has the packages of bench/peers/requirements.txt
    #[arg(long, default_value = "python3")]
    pub python: PathBuf,
    /// Print JSON instead of tables
    #[arg(long)]
    pub json: bool,
    /// SVG file for the bar chart of inference
    #[arg(long, default_value = "runs/bench.svg")]
    pub chart: PathBuf,
    /// Measure training steps instead of inference
    #[arg(long)]
    pub train: bool,
    /// With --train, keep only the outputs of blocks and recompute the rest in the backward pass
    #[arg(long, requires = "train")]
    pub grad_checkpoint: bool,
    /// With --train, measure steps of the processes that `mpirun` has started, and their sums
    #[cfg(feature = "mpi")]
    #[arg(long, requires = "train", conflicts_with_all = ["peers", "layers", "weights", "grad_checkpoint", "dtype"])]
    pub distributed: bool,
    #[cfg(feature = "mpi")]
    #[command(flatten)]
    pub shared: DistributedArgs,
    /// Answer requests on standard input instead (bench/peers/README.md)
    #[arg(long, hide = true)]
    pub serve: bool,
}
