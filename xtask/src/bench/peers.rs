//! The commands that start engines: this program itself, and the other engines of `bench/peers/peers.py`.

use super::target::Target;
use crate::dtype_arg::Dtype;
use anyhow::{Context, Result, ensure};
use candle_core::DType;
use resnext_model::export::Export;
use resnext_model::{AntiAlias, Attention, Config, Shortcut, StemConvs, Weights};
use resnext_train::checkpoint::replace_file;
use std::path::Path;
use std::process::{Command, Stdio};

/// Starts this program as an engine that computes in `dtype`.
pub fn ours(target: &Target, weights: &Path, dtype: Dtype) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["bench", &target.name, "--serve", "--threads", &target.threads.to_string()]);
    command.args(["--dtype", dtype.name(), "--weights"]).arg(weights);
    Ok(command)
}

/// The other engines, running the target's network with the same weights.
pub struct Peers<'a> {
    python: &'a Path,
    target: &'a Target,
    weights: &'a Path,
}

impl<'a> Peers<'a> {
    /// # Errors
    /// If the peers cannot build the network.
    pub fn new(python: &'a Path, target: &'a Target, weights: &'a Path) -> Result<Self> {
        let planes = target.network.config().map_or(64, |config| config.planes);
        ensure!(planes == 64, "--peers needs a network with 64 planes, {} has {planes}", target.name);
        Ok(Peers { python, target, weights })
    }

    /// Whether torchvision's ResNet builds the network, which PyTorch runs then. timm's relatives, Inceptions and
    /// VGG reach the other engines by our own ONNX file.
    pub fn torchvision_has_it(&self) -> bool {
        let Ok(config) = self.target.network.config() else { return false };
        let &Config { stem_convs, stem_channels, shortcut, attention, anti_alias, .. } = config;
        let plain_stem = (stem_convs, stem_channels) == (StemConvs::Single, None);
        plain_stem
            && shortcut != Shortcut::Pooled
            && (attention, anti_alias) == (Attention::None, AntiAlias::None)
    }

    /// Writes the network as ONNX, for [`serve_onnx`](Self::serve_onnx).
    pub fn write_onnx(&self, onnx: &Path) -> Result<()> {
        if !self.torchvision_has_it() {
            let export = Export::of(&Weights::open(self.weights)?, &self.target.network)?;
            replace_file(onnx, &export.onnx(&self.target.name, DType::F32)?)?;
            return Ok(());
        }
        let mut command = self.command("prepare");
        self.describe_network(&mut command)?;
        self.finish("prepare", command.arg("--onnx").arg(onnx))
    }

    /// Writes the network of an ONNX file in int8, for [`serve_onnx`](Self::serve_onnx).
    pub fn quantize_onnx(&self, onnx: &Path, int8: &Path) -> Result<()> {
        let mut command = self.command("quantize");
        command.arg("--onnx").arg(onnx).arg("--int8").arg(int8);
        self.finish("quantize", command.args(["--size", &self.target.size.to_string()]))
    }

    fn finish(&self, what: &str, command: &mut Command) -> Result<()> {
        let done = command.stdout(Stdio::null()).output().with_context(|| {
            format!(
                "cannot run {}; --python names an interpreter with bench/peers/requirements.txt",
                self.python.display()
            )
        })?;
        let stderr = String::from_utf8_lossy(&done.stderr);
        let last_line = stderr.lines().last().unwrap_or_default();
        ensure!(done.status.success(), "peers.py {what} failed: {last_line}");
        Ok(())
    }

    /// Starts an engine that builds the network with PyTorch.
    ///
    /// # Errors
    /// If the network is no ResNet or ResNeXt.
    pub fn serve_pytorch(&self, engine: &str) -> Result<Command> {
        let mut command = self.serve(engine);
        self.describe_network(&mut command)?;
        Ok(command)
    }

    /// Starts an engine that reads the network from an ONNX file.
    pub fn serve_onnx(&self, engine: &str, onnx: &Path) -> Command {
        let mut command = self.serve(engine);
        command.arg("--onnx").arg(onnx);
        command
    }

    fn serve(&self, engine: &str) -> Command {
        let mut command = self.command("serve");
        command.args(["--engine", engine, "--threads", &self.target.threads.to_string()]);
        command
    }

    fn command(&self, subcommand: &str) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench/peers/peers.py");
        let mut command = Command::new(self.python);
        command.arg(script).arg(subcommand);
        command
    }

    fn describe_network(&self, command: &mut Command) -> Result<()> {
        let config = self.target.network.config()?;
        let depths: Vec<String> = config.depths.iter().map(ToString::to_string).collect();
        command.arg("--weights").arg(self.weights);
        command.args(["--stem", if self.target.is_cifar() { "cifar" } else { "imagenet" }]);
        command.args(["--depths", &depths.join(",")]);
        command.args(["--groups", &config.cardinality.to_string()]);
        command.args(["--width", &config.base_width.to_string()]);
        command.args(["--classes", &config.classes.to_string()]);
        Ok(())
    }
}
