//! A check that all values of a tensor are finite.

use candle_core::DType;

/// Counts the values, little-endian and of a floating type, that are infinite or NaN; or, if all have to be
/// non-negative, negative.
pub(super) fn count_invalid(bytes: &[u8], dtype: DType, non_negative: bool) -> usize {
    // A value is infinite or NaN if all bits of its exponent are ones; its first bit is its sign.
    macro_rules! count {
        ($bits:ty, $exponent:expr) => {{
            let sign: $bits = 1 << (<$bits>::BITS - 1);
            let invalid = |value: &[u8; size_of::<$bits>()]| {
                let bits = <$bits>::from_le_bytes(*value);
                let negative = non_negative & (bits > sign);
                usize::from((bits & $exponent == $exponent) | negative)
            };
            // A sum rather than a search, because it is vectorised: this reads each byte of a file.
            bytes.as_chunks().0.iter().map(invalid).sum()
        }};
    }
    match dtype {
        DType::F16 => count!(u16, 0x7c00),
        DType::BF16 => count!(u16, 0x7f80),
        DType::F64 => count!(u64, 0x7ff0 << 48),
        _ => count!(u32, 0x7f80 << 16),
    }
}
