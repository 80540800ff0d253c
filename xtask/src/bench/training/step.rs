//! The training step that every engine runs.

/// The learning rate: that of a warm-up's first steps, small enough that rounding is not amplified. For
/// ResNeXt-50's third loss at 1e-4, PyTorch in f32 and PyTorch in f64 differ by 1.4e-3; PyTorch's two memory
/// formats differ by 2.4e-4 at 1e-5, and by 8e-6 at 1e-6.
pub const RATE: f64 = 1e-6;
pub const MOMENTUM: f64 = 0.9;
/// The first steps, whose losses are compared.
pub const COMPARED: usize = 3;
/// The parts of a step that are timed, in milliseconds. `wait_ms` is the time until the loader's next batch.
pub const PARTS: [&str; 4] = ["forward_ms", "backward_ms", "optimizer_ms", "wait_ms"];
