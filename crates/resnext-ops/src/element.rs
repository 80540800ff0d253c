//! candle's element types, as kernels take them.

use candle_core::{DType, WithDType};
use resnext_kernels::{BatchNormKernels, Isa, MapType, Precision, TrainKernels};

/// Elements that maps are stored as, here and in candle's storages.
pub(crate) trait Stored: TrainKernels<Compute: Element> + WithDType {}

impl<T: TrainKernels<Compute: Element> + WithDType> Stored for T {}

/// Elements that kernels compute in, here and in candle's storages.
pub(crate) trait Element: BatchNormKernels + TrainKernels + WithDType {}

impl<T: BatchNormKernels + TrainKernels + WithDType> Element for T {}

/// How maps of `dtype` are read and written on `isa`; `None` if this machine has no instructions for it.
pub(crate) fn precision_of(dtype: DType, isa: Isa) -> Option<Precision> {
    match dtype {
        DType::F32 => Some(Precision::F32(isa)),
        DType::BF16 => Precision::bf16(isa),
        DType::U8 => Precision::int8(isa),
        _ => None,
    }
}

/// How maps of `dtype` lie in memory, if it says all about them.
pub(crate) fn map_type_of(dtype: DType) -> Option<MapType> {
    match dtype {
        DType::F32 => Some(MapType::F32),
        DType::BF16 => Some(MapType::Bf16),
        _ => None,
    }
}
