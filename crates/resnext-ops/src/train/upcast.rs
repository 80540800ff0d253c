//! Single operations in bf16 on the CPU, outside the fused blocks: operands are converted to f32 for a
//! kernel, and its result is rounded once.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, DType};
use half::bf16;
use resnext_kernels::Storage;
use std::borrow::Cow;

/// The storage in the type that kernels compute in: bf16 is converted to f32, other types are borrowed.
pub(crate) fn upcast(storage: &CpuStorage) -> Cow<'_, CpuStorage> {
    match storage {
        CpuStorage::BF16(values) => Cow::Owned(CpuStorage::F32(bf16::widen_all(values).into_owned())),
        other => Cow::Borrowed(other),
    }
}

/// A kernel's result in `dtype`, the type that its operands had before [`upcast`].
pub(crate) fn rounded(storage: CpuStorage, dtype: DType) -> CpuStorage {
    match (storage, dtype) {
        (CpuStorage::F32(values), DType::BF16) => CpuStorage::BF16(bf16::narrow_all(values)),
        (other, _) => other,
    }
}

/// The type of a storage's elements; the macros below use it.
pub(crate) fn dtype_of(storage: &CpuStorage) -> DType {
    storage.dtype()
}

/// Calls `$f::<T>` for the float type of `$storage`.
macro_rules! with_float {
    ($storage:expr, $f:ident ( $($arg:expr),* )) => {
        match $storage {
            candle_core::CpuStorage::F32(_) => $f::<f32>($($arg),*),
            candle_core::CpuStorage::F64(_) => $f::<f64>($($arg),*),
            other => {
                let dtype = $crate::train::upcast::dtype_of(other);
                Err(candle_core::Error::Msg(format!("expected f32 or f64, got {dtype:?}")))
            }
        }
    };
}
pub(crate) use with_float;

/// Calls `$f::<T>`, which returns a storage and its shape, with the named storages converted by [`upcast`],
/// and rounds the storage that it returns to the type of the first.
macro_rules! with_upcast {
    ([$first:ident $(, $rest:ident)*], $f:ident ( $($arg:expr),* )) => {{
        let dtype = $crate::train::upcast::dtype_of($first);
        let $first = $crate::train::upcast::upcast($first);
        let $first: &candle_core::CpuStorage = &$first;
        $(
            let $rest = $crate::train::upcast::upcast($rest);
            let $rest: &candle_core::CpuStorage = &$rest;
        )*
        $crate::train::upcast::with_float!($first, $f($($arg),*))
            .map(|(storage, shape)| ($crate::train::upcast::rounded(storage, dtype), shape))
    }};
}
pub(crate) use with_upcast;
