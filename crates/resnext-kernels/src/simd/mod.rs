//! Vectors of every instruction set under one vocabulary: the traits kernels are written against, their
//! implementations, and the dispatch at run time.

pub(crate) mod amx;
pub(crate) mod dispatch;
mod intrinsics;
pub(crate) mod portable;
pub(crate) mod storage;
pub(crate) mod traits;
