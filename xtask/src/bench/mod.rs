//! `cargo xtask bench`

mod chart;
mod engine;
pub mod grouped;
mod report;
mod serve;
mod train;

use crate::dtype::Dtype;
use crate::run_folder::{BEST, file_in};
use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device};
pub use engine::Engine;
use grouped::Pass;
use indicatif::ProgressBar;
pub use report::quantile;
use report::{Contestant, Layer, Report, Timing};
use resnext_model::{Calibration, Config, Form, Fused, ResNext, Stem, Summary, Variables, Weights};
use resnext_train::checkpoint::replace_file;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

#[derive(clap::Args)]
pub struct Args {
    /// Network
    #[arg(default_value = "resnext50_32x4d")]
    model: String,
    /// Run folder or safetensors file with form (c)'s weights; random ones if not given
    #[arg(long)]
    weights: Option<PathBuf>,
    /// Images a batch; 1,8,32 if not given, with --train one number: 16 or, for CIFAR networks, 128
    #[arg(long, value_delimiter = ',')]
    batch: Vec<usize>,
    /// Height and width of the images; 224 or, for CIFAR networks, 32 if not given
    #[arg(long)]
    size: Option<usize>,
    /// Times each engine is measured, one after the other
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Threads; all cores if not given
    #[arg(long)]
    threads: Option<usize>,
    /// What ours computes in, one after the other; if not given all this machine can, with --train f32
    #[arg(long, value_delimiter = ',')]
    dtype: Vec<Dtype>,
    /// With --dtype int8, the file that `cargo xtask calibrate` wrote for these weights; learnt from the bench's input if
    /// not given
    #[arg(long)]
    ranges: Option<PathBuf>,
    /// Each layer's time beside its own floor
    #[arg(long)]
    layers: bool,
    /// Also OpenVINO, ONNX Runtime and PyTorch, round by round in turn
    #[arg(long)]
    peers: bool,
    /// Python with the packages of bench/peers/requirements.txt
    #[arg(long, default_value = "python3")]
    python: PathBuf,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Bar chart to write
    #[arg(long, default_value = "runs/bench.svg")]
    chart: PathBuf,
    /// Training steps instead of inference
    #[arg(long)]
    train: bool,
    /// With --train, keep only what blocks put out and compute the rest again
    #[arg(long, requires = "train")]
    grad_checkpoint: bool,
    /// Answer requests on standard input instead (bench/peers/README.md)
    #[arg(long, hide = true)]
    serve: bool,
}

/// Inference is measured at.
const BATCHES: [usize; 3] = [1, 8, 32];

/// What is measured.
pub struct Target {
    pub name: String,
    pub config: Config,
    pub size: usize,
    pub threads: usize,
    /// Of ours, one engine each.
    pub dtypes: Vec<Dtype>,
}

pub fn run(mut args: Args) -> Result<()> {
    let config = Config { form: Form::C, ..Config::by_name(&args.model)? };
    let size = args.size.unwrap_or(if config.stem == Stem::ImageNet { 224 } else { 32 });
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    ensure!((1..=1 << 14).contains(&size), "--size must be from 1 to 16384, got {size}");
    ensure!(threads > 0 && args.rounds > 0, "--threads and --rounds must be at least 1");
    ensure!(args.batch.iter().all(|n| (1..=4096).contains(n)), "--batch must be from 1 to 4096");
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let dtypes = match (args.dtype.is_empty(), args.train) {
        (false, _) => args.dtype.clone(),
        (true, true) => vec![Dtype::F32],
        (true, false) => Dtype::supported(),
    };
    ensure!(
        args.ranges.is_none() || !args.train && dtypes.contains(&Dtype::Int8),
        "--ranges is for --dtype int8, and not for --train"
    );
    // Here, because what serves says nothing when it ends.
    for &dtype in dtypes.iter().filter(|_| !args.train) {
        ensure!(Dtype::supported().contains(&dtype), "this machine has no instructions for {}", dtype.name());
        if dtype == Dtype::Int8 && args.ranges.is_some() {
            dtype.ranges(args.ranges.as_deref())?;
        }
    }
    let target = Target { name: args.model.clone(), config, size, threads, dtypes };
    let folder = tempfile::tempdir()?;
    let weights = match &args.weights {
        Some(path) => file_in(path, BEST),
        None => random_weights(&target.config, folder.path())?,
    };
    if args.train {
        return train::run(&args, &target, &weights);
    }
    if args.serve {
        return serve::serve(&target, &weights, args.ranges.as_deref());
    }
    if args.batch.is_empty() {
        args.batch = BATCHES.to_vec();
    }
    let report = measure(&args, &target, &weights, folder.path())?;
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print!("{report}"),
    }
    if let Some(parent) = args.chart.parent() {
        std::fs::create_dir_all(parent)?;
    }
    replace_file(&args.chart, chart::draw(&report)?.as_bytes())?;
    Ok(())
}

fn random_weights(config: &Config, folder: &Path) -> Result<PathBuf> {
    let variables = Variables::new(1, DType::F32, &Device::Cpu);
    ResNext::new(config, variables.builder())?;
    let path = folder.join("weights.safetensors");
    let tensors = variables.all().into_iter().map(|(name, var)| (name, var.as_detached_tensor()));
    candle_core::safetensors::save(&tensors.collect(), &path)?;
    // Or the first engine's start would compete with the disk.
    std::fs::File::open(&path)?.sync_all()?;
    Ok(path)
}

/// Writes the ranges of the maps of the bench's input.
fn learn_ranges(target: &Target, weights: &Path, folder: &Path) -> Result<PathBuf> {
    let weights = Weights::open(weights)?.builder(DType::F32, &Device::Cpu);
    let mut calibration = Calibration::new();
    let network = Fused::new(&target.config, weights, DType::F32)?;
    network.calibrate(&serve::images(1, target.size)?, &mut calibration)?;
    let path = folder.join("ranges.json");
    replace_file(&path, &serde_json::to_vec(&calibration.ranges()?)?)?;
    Ok(path)
}

fn engines(args: &Args, target: &Target, weights: &Path, folder: &Path) -> Result<Vec<Engine>> {
    let threads = target.threads.to_string();
    let mut engines = Vec::new();
    for dtype in &target.dtypes {
        let mut ours = Command::new(std::env::current_exe()?);
        ours.args(["bench", &target.name, "--serve", "--threads", &threads, "--dtype", dtype.name()]);
        ours.arg("--weights").arg(weights);
        if *dtype == Dtype::Int8 {
            ours.arg("--ranges").arg(match &args.ranges {
                Some(path) => path.clone(),
                None => learn_ranges(target, weights, folder)?,
            });
        }
        engines.push(Engine::start("resnext", &mut ours, target.size)?);
    }
    if args.peers {
        ensure!(target.config.stem == Stem::ImageNet, "--peers needs a network with an ImageNet stem");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench/peers/peers.py");
        let onnx = folder.join("model.onnx");
        let depths: Vec<String> = target.config.depths.iter().map(ToString::to_string).collect();
        let shape = [
            ("--depths", depths.join(",")),
            ("--groups", target.config.cardinality.to_string()),
            ("--width", target.config.base_width.to_string()),
            ("--classes", target.config.classes.to_string()),
        ];
        let python = |subcommand: &str| {
            let mut command = Command::new(&args.python);
            command.arg(&script).arg(subcommand);
            command
        };
        let with_weights = |command: &mut Command| {
            command.arg("--weights").arg(weights);
            shape.iter().for_each(|(key, value)| {
                command.arg(key).arg(value);
            });
        };
        let mut prepare = python("prepare");
        with_weights(&mut prepare);
        let done = prepare.arg("--onnx").arg(&onnx).stdout(Stdio::null()).output().with_context(|| {
            format!(
                "cannot run {}; --python names one with bench/peers/requirements.txt",
                args.python.display()
            )
        })?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(
            done.status.success(),
            "peers.py prepare failed: {}",
            said.lines().last().unwrap_or_default()
        );
        for name in ["openvino-f32", "openvino", "onnxruntime", "pytorch", "pytorch-channels-last"] {
            let mut command = python("serve");
            command.args(["--engine", name, "--threads", &threads]);
            match name.starts_with("pytorch") {
                true => with_weights(&mut command),
                false => {
                    command.arg("--onnx").arg(&onnx);
                }
            }
            engines.push(Engine::start(name, &mut command, target.size)?);
        }
    }
    Ok(engines)
}

/// Forward passes an engine is timed at each time it is its turn, after one that is not: that one finds the
/// caches full of the last engine's weights.
const RUNS: usize = 3;
/// Between two engines' turns: OpenMP's threads go on spinning for 200 ms, at the next one's cost.
const PAUSE: Duration = Duration::from_millis(300);

fn measure(args: &Args, target: &Target, weights: &Path, folder: &Path) -> Result<Report> {
    let summary = Summary::new(&target.config, target.size, target.size)?;
    let peaks = Dtype::ALL.map(|dtype| resnext_ops::fma_peak(dtype.into()));
    let place = |precision: &str| Dtype::ALL.iter().position(|dtype| dtype.name() == precision);
    let peak = |precision: &str| place(precision).and_then(|i| peaks[i]).unwrap_or(f64::NAN);
    let bandwidth = resnext_ops::read_bandwidth();
    let mut engines = engines(args, target, weights, folder)?;
    let bar = ProgressBar::new((args.batch.len() * args.rounds * engines.len()) as u64);
    let mut times = vec![vec![Vec::new(); args.batch.len()]; engines.len()];
    for (b, &batch) in args.batch.iter().enumerate() {
        for _ in 0..args.rounds {
            for (engine, times) in engines.iter_mut().zip(&mut times) {
                if args.peers {
                    std::thread::sleep(PAUSE);
                }
                times[b].extend(&engine.time(batch, target.size, RUNS + 1)?[1..]);
                bar.inc(1);
            }
        }
    }
    bar.finish_and_clear();
    let layers = match args.layers {
        true => {
            let request = json!({"do": "layers", "batch": 1, "size": target.size, "runs": args.rounds});
            let answer = engines[0].ask(request)?;
            let times: Vec<(String, Vec<f64>)> = serde_json::from_value(answer["layers"].clone())?;
            let layer = |(name, ms): (String, Vec<f64>)| {
                let dtype = target.dtypes[0].of_layer(&name);
                Layer::new(name, ms, &summary, (peak(dtype.name()), bandwidth, dtype.bytes() as f64))
            };
            times.into_iter().map(layer).collect()
        }
        false => Vec::new(),
    };
    let comparable = |engine: &&mut Engine| engine.name.starts_with("pytorch");
    let grouped = match engines.split_first_mut() {
        Some((ours, peers)) if args.peers && ours.precision == Dtype::F32.name() => {
            let mut both = vec![ours];
            both.extend(peers.iter_mut().filter(comparable));
            grouped::measure(&mut both, Pass::Forward)?
        }
        _ => Vec::new(),
    };
    let ours = engines[0].logits.clone();
    let contestant = |(engine, times): (&Engine, Vec<Vec<f64>>)| Contestant {
        engine: engine.name.clone(),
        version: engine.version.clone(),
        precision: engine.precision.clone(),
        timings: args
            .batch
            .iter()
            .zip(times)
            .map(|(&batch, ms)| Timing::new(batch, ms, &summary, peak(&engine.precision)))
            .collect(),
        peak_mb: engine.peak_mb,
        first_logits_s: engine.first_logits_s,
        logits_error: report::difference(&engine.logits, &ours),
    };
    Ok(Report {
        model: target.name.clone(),
        size: target.size,
        threads: target.threads,
        rounds: args.rounds,
        instructions: resnext_ops::Isa::current().name(),
        peak_gflops: peak(Dtype::F32.name()) / 1e9,
        bandwidth_gb: bandwidth / 1e9,
        contestants: engines.iter().zip(times).map(contestant).collect(),
        layers,
        grouped,
    })
}
