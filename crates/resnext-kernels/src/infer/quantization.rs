//! int8 quantization.

/// The error of a range that maps cannot be quantized over.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("quantization: expected a largest value that is finite and at least 0, got {largest}")]
pub struct QuantizationError {
    /// The largest value of the range.
    pub largest: f32,
}

/// The quantization of a map to u8: q, from 0 to 255, represents `(q - zero) · step`. Values beyond the range saturate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantization {
    step: f32,
    zero: u8,
}

impl Quantization {
    /// The range from zero to `largest`, for ReLU's outputs.
    ///
    /// # Errors
    /// If `largest` is negative or not finite.
    pub fn positive(largest: f32) -> Result<Self, QuantizationError> {
        Self::new(largest, 255.0, 0)
    }

    /// The range from about `-largest` to `largest`.
    ///
    /// # Errors
    /// If `largest` is negative or not finite.
    pub fn signed(largest: f32) -> Result<Self, QuantizationError> {
        Self::new(largest, 127.0, 128)
    }

    fn new(largest: f32, steps: f32, zero: u8) -> Result<Self, QuantizationError> {
        if !(0.0..=f32::MAX).contains(&largest) {
            return Err(QuantizationError { largest });
        }
        // An all-zero range may use any step; avoid one too small to invert.
        let largest = if largest < 1e-30 { 1.0 } else { largest };
        Ok(Quantization { step: largest / steps, zero })
    }

    /// The step size.
    pub fn step(self) -> f32 {
        self.step
    }

    /// The zero point.
    pub fn zero(self) -> u8 {
        self.zero
    }

    /// Quantizes a value to the nearest, ties to even, saturated; NaN becomes 255.
    #[inline(always)]
    pub fn nearest(self, value: f32) -> u8 {
        let q = value * (1.0 / self.step) + f32::from(self.zero);
        // Adding 2^23 rounds, and leaves integers in the lowest bits. Compilers make vectors of this, not of `as`.
        let q = if q < 255.0 { q.max(0.0) } else { 255.0 };
        (q + 8388608.0).to_bits() as u8
    }

    /// The value that `q` represents.
    pub fn value(self, q: u8) -> f32 {
        (f32::from(q) - f32::from(self.zero)) * self.step
    }
}
