//! `--dtype`: the type that inference, or a benchmark's training, computes in.

use anyhow::{Context, Result, ensure};
use candle_core::DType;
use resnext_model::Ranges;
use std::path::Path;

/// The help text of `--ranges`.
pub const RANGES_HELP: &str =
    "With --dtype int8, the file that `cargo xtask calibrate` wrote for these weights";

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Dtype {
    /// f32, single precision
    F32,
    /// bf16, accumulated in f32. For inference, a CPU without AVX-512 BF16 keeps weights in bf16 and computes in f32
    Bf16,
    /// int8, accumulated in i32, for inference only; needs --ranges
    Int8,
}

impl Dtype {
    pub const ALL: [Dtype; 3] = [Dtype::F32, Dtype::Bf16, Dtype::Int8];

    /// The types that inference computes in on this machine, each by instructions of its own.
    pub fn native() -> Vec<Dtype> {
        let native = |&dtype: &Dtype| dtype != Dtype::Bf16 || resnext_ops::bf16_is_native();
        Self::ALL.into_iter().filter(native).collect()
    }

    /// How inference in this type runs on this machine, where it is not by instructions of its own.
    pub fn how(self) -> Option<&'static str> {
        (!Self::native().contains(&self)).then_some(
            "this CPU has no instructions for bf16: weights are kept in bf16, feature maps and arithmetic are f32",
        )
    }

    /// Says on standard error what [`how`](Self::how) says.
    pub fn say_how(self) {
        if let Some(how) = self.how() {
            eprintln!("note: {how}");
        }
    }

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::Bf16 => "bf16",
            Dtype::Int8 => "int8",
        }
    }

    /// The type that a layer of the network computes in: with int8, the first and the last layer use a wider
    /// one.
    pub fn of_layer(self, name: &str) -> Dtype {
        let wide = if resnext_ops::bf16_is_native() { Dtype::Bf16 } else { Dtype::F32 };
        if self == Dtype::Int8 && matches!(name, "conv1" | "fc") { wide } else { self }
    }

    /// Bytes per weight.
    pub fn bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::Bf16 => 2,
            Dtype::Int8 => 1,
        }
    }

    /// Reads the ranges of feature maps from their file, if this type needs them.
    ///
    /// # Errors
    /// If there is a file and the type needs none, or the other way round, or the file cannot be read.
    pub fn ranges(self, path: Option<&Path>) -> Result<Option<Ranges>> {
        if self != Dtype::Int8 {
            ensure!(path.is_none(), "--ranges is for --dtype int8");
            return Ok(None);
        }
        let path = path.context("--dtype int8 needs --ranges, a file that `cargo xtask calibrate` writes")?;
        let file = || file_of(Some(path));
        let text = std::fs::read_to_string(path).with_context(file)?;
        Ok(Some(serde_json::from_str(&text).with_context(file)?))
    }
}

/// The name of the file of ranges in errors.
pub fn file_of(ranges: Option<&Path>) -> String {
    format!("the ranges in {}", ranges.unwrap_or(Path::new("")).display())
}

impl From<Dtype> for DType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => DType::F32,
            Dtype::Bf16 => DType::BF16,
            // The type of feature maps; weights are i8.
            Dtype::Int8 => DType::U8,
        }
    }
}
