//! Tests that hold one part of the crate to another.

mod infer_conv;
mod metal;
