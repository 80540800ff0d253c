//! Weights for other programs: safetensors files for torchvision and timm, and ONNX files.
//!
//! ```no_run
//! use candle_core::DType;
//! use resnext_model::{Weights, export::Export};
//!
//! let export = Export::new(&Weights::open("checkpoint.safetensors".as_ref())?)?;
//! std::fs::write("weights.safetensors", export.safetensors(DType::F16)?)?;
//! std::fs::write("network.onnx", export.onnx("network", DType::F32)?)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod baseline;
mod graph;
mod onnx;
mod protobuf;
mod tensors;

pub use graph::OPSET;
pub use tensors::Export;
