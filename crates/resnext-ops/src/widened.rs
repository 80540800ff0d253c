//! bf16 on the CPU: operands are widened to f32 for a kernel, and its result is rounded once.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, DType};
use half::bf16;
use rayon::prelude::*;
use std::borrow::Cow;

/// Elements a task.
const CHUNK: usize = 1 << 14;

/// A storage in the type that kernels compute in: f32 for bf16, otherwise as it is.
pub(crate) fn widened(storage: &CpuStorage) -> Cow<'_, CpuStorage> {
    match storage {
        CpuStorage::BF16(values) => Cow::Owned(CpuStorage::F32(converted(values, |&x| x.to_f32()))),
        other => Cow::Borrowed(other),
    }
}

/// A kernel's result in `dtype`, that of its operands before they were widened.
pub(crate) fn rounded(storage: CpuStorage, dtype: DType) -> CpuStorage {
    match (storage, dtype) {
        (CpuStorage::F32(values), DType::BF16) => {
            CpuStorage::BF16(converted(&values, |&x| bf16::from_f32(x)))
        }
        (other, _) => other,
    }
}

fn converted<A: Sync, B: Send>(values: &[A], f: impl Fn(&A) -> B + Send + Sync) -> Vec<B> {
    values.par_iter().with_min_len(CHUNK).map(f).collect()
}

/// The type of a storage's elements.
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
                let dtype = $crate::widened::dtype_of(other);
                Err(candle_core::Error::Msg(format!("expected f32 or f64, got {dtype:?}")))
            }
        }
    };
}
pub(crate) use with_float;

/// Calls `$f::<T>`, which gives a storage and its shape, with the named storages widened, and rounds what it gives to
/// the type of the first.
macro_rules! with_widened {
    ([$first:ident $(, $rest:ident)*], $f:ident ( $($arg:expr),* )) => {{
        let dtype = $crate::widened::dtype_of($first);
        let $first = $crate::widened::widened($first);
        let $first: &candle_core::CpuStorage = &$first;
        $(
            let $rest = $crate::widened::widened($rest);
            let $rest: &candle_core::CpuStorage = &$rest;
        )*
        $crate::widened::with_float!($first, $f($($arg),*))
            .map(|(storage, shape)| ($crate::widened::rounded(storage, dtype), shape))
    }};
}
pub(crate) use with_widened;
