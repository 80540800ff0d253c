//! The kernels' sources, and modules compiled from them with constants.

use candle_core::DType;
use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};

/// A source file of kernels, headers included.
#[derive(Debug)]
pub(crate) struct Source {
    pub(super) name: &'static str,
    text: &'static str,
}

macro_rules! source {
    ($name:literal $(, $before:literal)*) => {
        Source {
            name: $name,
            text: concat!(
                include_str!("kernels/device.cuh"),
                include_str!("kernels/common.cuh"),
                $(include_str!(concat!("kernels/", $before, ".cuh")),)*
                include_str!(concat!("kernels/", $name, ".cu")),
            ),
        }
    };
}

pub(super) static GROUPED: Source = source!("grouped3x3", "window", "grouped3x3");
pub(super) static GROUPED_WEIGHT: Source = source!("grouped3x3_weight", "window", "grouped3x3_weight");
pub(super) static GROUPED_F32: Source = source!("grouped3x3_f32", "window", "grouped3x3");
pub(super) static GROUPED_WEIGHT_F32: Source =
    source!("grouped3x3_weight_f32", "window", "grouped3x3_weight");
pub(super) static CONV: Source = source!("conv");
pub(super) static SUM_PARTS: Source = source!("sum_parts");
pub(super) static WEIGHTS: Source = source!("weights");
pub(super) static BATCH_NORM: Source = source!("batch_norm");
pub(super) static POINTWISE: Source = source!("pointwise");
pub(super) static POOL: Source = source!("pool");
pub(super) static CROSS_ENTROPY: Source = source!("cross_entropy");
pub(super) static SGD: Source = source!("sgd");

/// A source with macro definitions, which is compiled as one module.
#[derive(Debug)]
pub(crate) struct Module {
    pub(super) source: &'static Source,
    defines: Vec<(&'static str, String)>,
}

/// The name of an element type in the sources: `float`, `bf16` or `f16`.
pub(super) fn element(dtype: DType) -> candle_core::Result<&'static str> {
    match dtype {
        DType::F32 => Ok("float"),
        DType::BF16 => Ok("bf16"),
        DType::F16 => Ok("f16"),
        other => candle_core::bail!("kernels for CUDA take F32, BF16 and F16, got {other:?}"),
    }
}

impl Module {
    pub(super) fn new(source: &'static Source) -> Self {
        Module { source, defines: Vec::new() }
    }

    pub(super) fn define(mut self, name: &'static str, value: impl ToString) -> Self {
        self.defines.push((name, value.to_string()));
        self
    }

    pub(super) fn define_type(self, name: &'static str, dtype: DType) -> candle_core::Result<Self> {
        Ok(self.define(name, element(dtype)?))
    }

    /// A name that is unique among modules.
    pub(super) fn name(&self) -> String {
        let defines = self.defines.iter().map(|(name, value)| format!("-{name}={value}"));
        std::iter::once(format!("resnext-{}", self.source.name)).chain(defines).collect()
    }

    /// The PTX for a compute capability.
    ///
    /// # Errors
    /// The errors of the compiler, and if the capability is below 8.0.
    pub(super) fn ptx(&self, capability: (u32, u32)) -> candle_core::Result<String> {
        let (major, minor) = capability;
        if capability < (8, 0) {
            candle_core::bail!(
                "the kernels for CUDA need compute capability 8.0 (Ampere) or more, this device has {major}.{minor}"
            );
        }
        let mut options =
            vec![format!("--gpu-architecture=compute_{major}{minor}"), "--std=c++17".to_string()];
        // For lambdas, which have no `__device__` of their own, as arguments of device functions.
        options.push("--device-as-default-execution-space".to_string());
        options.extend(self.defines.iter().map(|(name, value)| format!("-D{name}={value}")));
        let options =
            CompileOptions { options, name: Some(format!("{}.cu", self.source.name)), ..Default::default() };
        let ptx = compile_ptx_with_opts(self.source.text, options);
        Ok(ptx.map_err(|error| candle_core::Error::msg(format!("{}: {error}", self.name())))?.to_src())
    }
}
