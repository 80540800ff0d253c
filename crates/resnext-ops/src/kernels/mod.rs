//! CPU kernels on channels-last slices, each behind one safe function.

mod channels;
mod gather_conv;
mod geometry;
mod lines;
mod max_pool;
mod packed;
mod packed_conv;
mod peak;
mod shared;
mod simd;
mod tiles;
mod weight_gradient;
mod words;

pub use simd::Isa;

pub(crate) use channels::{channel_sums, mean_and_variance, per_channel};
pub(crate) use gather_conv::{forward as conv_forward, input_gradient as conv_input_gradient};
pub(crate) use geometry::ConvShape;
pub(crate) use lines::Lines;
pub(crate) use max_pool::max_pool_rows;
pub(crate) use packed::{Filter, Packed};
pub(crate) use packed_conv::{Job, Pixels, Row, SourceTable, Sources};
pub(crate) use peak::fma_chains;
pub(crate) use shared::SharedMut;
pub(crate) use simd::Element;
pub(crate) use weight_gradient::weight_gradient as conv_weight_gradient;
pub(crate) use words::{MAX_LANES, WordType, Words, pair};

/// Every instruction set this machine has against the portable one.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::Conv2dConfig;

    fn fill<T: Element>(len: usize, salt: u64) -> Vec<T> {
        (0..len as u64)
            .map(|i| T::of_f64((i * 2654435761 + salt * 40503) as u32 as f64 / 2147483648.0 - 1.0))
            .collect()
    }

    fn close<T: Element>(a: &[T], b: &[T], tolerance: f64) {
        assert_eq!(a.len(), b.len());
        for (i, (a, b)) in a.iter().zip(b).enumerate() {
            assert!((a.as_f64() - b.as_f64()).abs() < tolerance, "element {i}: {a:?} {b:?}");
        }
    }

    fn compare<T: Element>(tolerance: f64) {
        // (channels in and out a group, groups): spanning, dense, wide, and awkward widths.
        for (group_in, group_out, groups) in [
            (4, 4, 32),
            (8, 8, 8),
            (1, 1, 16),
            (2, 2, 8),
            (4, 4, 3),
            (16, 16, 2),
            (3, 5, 2),
            (40, 70, 1),
            (14, 14, 8),
        ] {
            for (stride, dilation) in [(1, 1), (2, 1), (3, 2)] {
                let (kernel, side, padding) = (3, 9, 1);
                let out = (side + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
                let shape = ConvShape {
                    batch: 2,
                    in_channels: group_in * groups,
                    in_h: side,
                    in_w: side,
                    out_channels: group_out * groups,
                    out_h: out,
                    out_w: out,
                    kernel_h: kernel,
                    kernel_w: kernel,
                    config: Conv2dConfig { stride, padding, dilation, groups },
                };
                let (x, grad) = (fill::<T>(shape.input_len(), 1), fill::<T>(shape.output_len(), 2));
                let (weight, bias) = (fill::<T>(shape.weight_len(), 3), fill::<T>(shape.out_channels, 4));
                let all = |isa| {
                    (
                        conv_forward(isa, &shape, &x, &weight, Some(&bias)),
                        conv_input_gradient(isa, &shape, &grad, &weight),
                        conv_weight_gradient(isa, &shape, &x, &grad),
                    )
                };
                let want = all(Isa::Portable);
                for isa in Isa::available() {
                    let got = all(isa);
                    close(&got.0, &want.0, tolerance);
                    close(&got.1, &want.1, tolerance);
                    close(&got.2, &want.2, tolerance);
                }
            }
        }
    }

    #[test]
    fn every_instruction_set_computes_the_same() {
        eprintln!("instruction sets: {:?}", Isa::available());
        compare::<f32>(2e-4);
        compare::<f64>(1e-12);
    }

    #[test]
    fn statistics_do_not_cancel() {
        // A mean a thousand times the spread: naive sums of squares in f32 lose the variance.
        let x: Vec<f32> = fill::<f32>(40_000, 1).iter().map(|v| 1000.0 + v).collect();
        for isa in Isa::available() {
            let (mean, var) = mean_and_variance(isa, &x, 4);
            for k in 0..4 {
                let own: Vec<f64> = x.iter().skip(k).step_by(4).map(|&v| v as f64).collect();
                let want = own.iter().sum::<f64>() / 1e4;
                let spread = own.iter().map(|v| (v - want).powi(2)).sum::<f64>() / 1e4;
                assert!((mean[k] - want).abs() < 1e-3 && (var[k] / spread - 1.0).abs() < 1e-3, "{isa:?}");
            }
        }
    }
}
