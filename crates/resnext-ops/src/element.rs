//! The element types that both candle's tensors and the CPU kernels have.

use candle_core::{DType, WithDType};
use resnext_kernels::{BatchNormKernels, MapType, TrainKernels};

/// A type that feature maps are stored as, in kernels and in candle's storages.
pub(crate) trait Stored: TrainKernels<Compute: Element> + WithDType {}

impl<T: TrainKernels<Compute: Element> + WithDType> Stored for T {}

/// A type that kernels compute in, and candle's storages can hold.
pub(crate) trait Element: BatchNormKernels + TrainKernels + WithDType {}

impl<T: BatchNormKernels + TrainKernels + WithDType> Element for T {}

/// How maps of `dtype`, f32 or bf16, are stored; `None` for other types. int8 maps need a quantization as
/// well.
pub(crate) fn map_type_of(dtype: DType) -> Option<MapType> {
    match dtype {
        DType::F32 => Some(MapType::F32),
        DType::BF16 => Some(MapType::Bf16),
        _ => None,
    }
}
