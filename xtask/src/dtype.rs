//! `--dtype`: what inference, or a bench's training, computes in.

use candle_core::DType;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Dtype {
    /// Single precision
    F32,
    /// bf16 with sums in f32; inference needs a CPU with AVX-512 BF16, training any
    Bf16,
}

impl Dtype {
    /// Those this machine computes in.
    pub fn supported() -> Vec<Dtype> {
        let all = [Dtype::F32, Dtype::Bf16];
        all.into_iter().filter(|&dtype| resnext_ops::fused_dtype_is_supported(dtype.into())).collect()
    }

    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::Bf16 => "bf16",
        }
    }
}

impl From<Dtype> for DType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => DType::F32,
            Dtype::Bf16 => DType::BF16,
        }
    }
}
