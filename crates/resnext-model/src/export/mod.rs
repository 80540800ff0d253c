//! Weights for other programs: safetensors under torchvision's names, and ONNX.

mod onnx;
mod protobuf;
mod tensors;

pub use onnx::OPSET;
pub use tensors::Export;
