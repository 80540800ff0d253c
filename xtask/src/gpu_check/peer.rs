//! PyTorch on the same device, run by `bench/peers/gpu.py`.

use super::measured::Measured;
use super::network_speed::NetworkSpeed;
use super::sizes::NetworkCase;
use crate::bench::engine::Engine;
use anyhow::{Context, Result, ensure};
use candle_core::Device;
use resnext_model::Config;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The name of PyTorch in the tables.
pub const PYTORCH: &str = "PyTorch";

/// The ways in which PyTorch runs a network.
#[derive(Clone, Copy)]
pub enum Mode {
    /// One operation after the other.
    Eager,
    /// Captured once as a CUDA graph, which is then replayed.
    Graph,
    /// Compiled by `torch.compile`, with CUDA graphs.
    Compiled,
}

impl Mode {
    /// The modes that a device has.
    fn of(device: &Device) -> &'static [Self] {
        if device.is_cuda() { &[Mode::Eager, Mode::Graph, Mode::Compiled] } else { &[Mode::Eager] }
    }

    /// The name in the tables.
    pub fn engine(self) -> &'static str {
        match self {
            Mode::Eager => PYTORCH,
            Mode::Graph => "PyTorch, CUDA graph",
            Mode::Compiled => "torch.compile",
        }
    }

    /// The name in requests.
    fn name(self) -> &'static str {
        match self {
            Mode::Eager => "eager",
            Mode::Graph => "graph",
            Mode::Compiled => "compile",
        }
    }
}

/// The running script.
pub struct Peer {
    engine: Engine,
    modes: &'static [Mode],
}

/// A measurement of a network.
pub struct NetworkRun<'a> {
    /// The request: `train` or `infer`.
    pub request: &'static str,
    pub case: &'a NetworkCase,
    /// The name of the precision in the tables.
    pub precision: &'static str,
    pub bf16: bool,
    /// Steps or passes per measurement, and measurements.
    pub runs: (usize, usize),
}

impl Peer {
    /// Starts PyTorch on `device`. `script` is `gpu.py`; without one, the file beside this program or in the sources.
    pub fn start(python: &Path, script: Option<&Path>, device: &Device) -> Result<Self> {
        let script = script.map_or_else(find_script, |script| Ok(script.to_path_buf()))?;
        ensure!(script.is_file(), "--script: {} is not a file", script.display());
        let place = match device {
            Device::Cpu => "cpu",
            Device::Cuda(_) => "cuda",
            Device::Metal(_) => "mps",
        };
        let mut command = Command::new(python);
        command.arg(script).args(["--device", place]);
        Ok(Peer { engine: Engine::connect(PYTORCH, &mut command)?, modes: Mode::of(device) })
    }

    pub fn version(&self) -> &str {
        &self.engine.version
    }

    /// The times of a grouped 3×3 convolution's forward pass and of both gradients, in milliseconds.
    pub fn grouped(&mut self, request: Value) -> Result<(f64, f64)> {
        let answer = self.engine.ask(request)?;
        Ok((number(&answer, "forward_ms")?, number(&answer, "gradients_ms")?))
    }

    /// Measures a network in each mode that the device has, and calls `found` with each result.
    pub fn network(
        &mut self,
        run: &NetworkRun,
        mut found: impl FnMut(Measured<NetworkSpeed>) -> Result<()>,
    ) -> Result<()> {
        let NetworkRun { case, precision, .. } = *run;
        for &mode in self.modes {
            let (engine, ms) = (mode.engine(), self.time(run, mode));
            found(Measured::of(ms, &case.describe(engine, precision), |ms| {
                NetworkSpeed::new(case, engine, precision, ms)
            }))?;
        }
        Ok(())
    }

    /// The time of a forward pass of ONNX Runtime's CUDA provider, or its CPU provider on a CPU.
    pub fn onnx(&mut self, case: &NetworkCase, onnx: &Path, (runs, rounds): (usize, usize)) -> Result<f64> {
        let request = json!({"do": "onnx", "onnx": onnx, "batch": case.batch, "side": case.side,
            "runs": runs, "rounds": rounds});
        number(&self.engine.ask(request)?, "ms")
    }

    fn time(&mut self, run: &NetworkRun, mode: Mode) -> Result<f64> {
        let &NetworkRun { request, case, bf16, runs: (runs, rounds), .. } = run;
        let config = Config::by_name(case.network)?;
        let request = json!({"do": request, "depths": config.depths, "groups": config.cardinality,
            "width": config.base_width, "classes": config.classes, "batch": case.batch, "side": case.side,
            "bf16": bf16, "mode": mode.name(), "runs": runs, "rounds": rounds});
        number(&self.engine.ask(request)?, "ms")
    }
}

fn number(answer: &Value, key: &str) -> Result<f64> {
    answer[key].as_f64().with_context(|| format!("{PYTORCH}: expected the number {key}, got {answer}"))
}

/// `gpu.py` beside this program, or in the sources that it was built from.
fn find_script() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let beside = program.with_file_name("gpu.py");
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench/peers/gpu.py");
    let found = [&beside, &sources].into_iter().find(|path| path.is_file()).cloned();
    found.with_context(|| {
        format!("--python needs bench/peers/gpu.py: copy it to {} or name it with --script", beside.display())
    })
}
