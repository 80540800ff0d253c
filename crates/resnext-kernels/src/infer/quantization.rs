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
        // Adding 2^23 rounds, and leaves whole numbers in the lowest bits. Compilers make vectors of this, not of `as`.
        let q = if q < 255.0 { q.max(0.0) } else { 255.0 };
        (q + 8388608.0).to_bits() as u8
    }

    /// The value that `q` represents.
    pub fn value(self, q: u8) -> f32 {
        (f32::from(q) - f32::from(self.zero)) * self.step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_the_nearest_there_are() {
        let positive = Quantization::positive(255.0).unwrap();
        let cases = [
            (-1.0, 0),
            (0.5, 0),
            (1.5, 2),
            (2.5, 2),
            (2.6, 3),
            (254.4, 254),
            (255.0, 255),
            (1e30, 255),
            (f32::INFINITY, 255),
            (f32::NEG_INFINITY, 0),
            (f32::NAN, 255),
        ];
        for (value, q) in cases {
            assert_eq!(positive.nearest(value), q, "{value}");
        }
        let signed = Quantization::signed(127.0).unwrap();
        for (value, q) in [(0.0, 128), (-127.0, 1), (-1000.0, 0), (127.0, 255), (-0.6, 127)] {
            assert_eq!(signed.nearest(value), q, "{value}");
            assert!((signed.value(q) - value).abs() < 0.5 || value < -128.0);
        }
        assert_eq!(Quantization::positive(0.0).unwrap().nearest(0.0), 0);
        for wrong in [-1.0, f32::NAN, f32::INFINITY] {
            assert!(Quantization::signed(wrong).unwrap_err().to_string().contains("at least 0"));
        }
    }
}
