//! Tests that hold one part of the crate to another.

#[path = "../../tests/common/mod.rs"]
mod common;
mod fallback;
mod infer_conv;
mod metal;
mod windows;
