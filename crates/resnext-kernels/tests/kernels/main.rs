//! The kernels against the definitions of what they compute, on every instruction set of this machine, and the threads and
//! memory below them.
//!
//! All of this is one program beside the library, not unit tests within it, for which the compiler would make all vector
//! code a second time. For the same reason kernels are reached through the methods of `TrainKernels` and `BatchNormKernels`:
//! a generic function would be compiled here again. What has no public name comes from `resnext_kernels::internals`.

mod amx;
mod bf16_vectors;
mod buffers;
mod definition;
mod grouped3x3;
mod max_pool;
mod packed;
mod packing;
mod panels;
mod quantization;
mod source_rows;
mod standby;
mod team;
mod training;
