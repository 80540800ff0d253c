//! PyTorch on the same device, run by `bench/peers/gpu.py`.

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
    pub fn of(device: &Device) -> &'static [Self] {
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
        Ok(Peer { engine: Engine::connect(PYTORCH, &mut command)? })
    }

    pub fn version(&self) -> &str {
        &self.engine.version
    }

    /// The times of a grouped 3×3 convolution's forward pass and of both gradients, in milliseconds.
    pub fn grouped(&mut self, request: Value) -> Result<(f64, f64)> {
        let answer = self.engine.ask(request)?;
        Ok((number(&answer, "forward_ms")?, number(&answer, "gradients_ms")?))
    }

    /// The time of a training step: `runs` steps per measurement, in so many rounds.
    pub fn train(&mut self, case: &NetworkCase, amp: bool, mode: Mode, runs: (usize, usize)) -> Result<f64> {
        self.time("train", case, amp, mode, runs)
    }

    /// The time of a forward pass, in bf16 or f32.
    pub fn infer(&mut self, case: &NetworkCase, bf16: bool, mode: Mode, runs: (usize, usize)) -> Result<f64> {
        self.time("infer", case, bf16, mode, runs)
    }

    /// The time of a forward pass of ONNX Runtime's CUDA provider, or its CPU provider on a CPU.
    pub fn onnx(&mut self, case: &NetworkCase, onnx: &Path, (runs, rounds): (usize, usize)) -> Result<f64> {
        let request = json!({"do": "onnx", "onnx": onnx, "batch": case.batch, "side": case.side,
            "runs": runs, "rounds": rounds});
        number(&self.engine.ask(request)?, "ms")
    }

    fn time(
        &mut self,
        what: &str,
        case: &NetworkCase,
        bf16: bool,
        mode: Mode,
        (runs, rounds): (usize, usize),
    ) -> Result<f64> {
        let config = Config::by_name(case.network)?;
        let request = json!({"do": what, "depths": config.depths, "groups": config.cardinality,
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
