//! Vectors of every instruction set behind one vocabulary.

pub(crate) mod dispatch;
mod intrinsics;
mod portable;
pub(crate) mod storage;
pub(crate) mod traits;
