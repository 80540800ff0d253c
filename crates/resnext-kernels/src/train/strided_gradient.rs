//! Adds the gradient of the pixels that a strided 1×1 convolution reads to that of its whole input.

use crate::shape::ConvShape;
use crate::simd::dispatch::{Isa, dispatch};
use crate::simd::traits::{Kernel, Simd, Storage};

/// The gradient of the pixels that a strided 1×1 convolution reads, to be added to that of its whole input.
#[derive(Debug, Clone, Copy)]
pub struct StridedGradient<'a, D> {
    /// The gradient of the pixels read, (N, H', W', Cin).
    pub values: &'a [D],
    /// The sizes of the convolution.
    pub shape: &'a ConvShape,
}

impl<D: Storage> StridedGradient<'_, D> {
    /// Adds it to `out`, the pixels from `first` on of the gradient of the whole input (N, H, W, Cin).
    pub fn add(&self, isa: Isa, first: usize, out: &mut [D]) {
        let StridedGradient { values, shape } = *self;
        let ConvShape { in_h, in_w, in_channels, out_h, out_w, config, .. } = *shape;
        if config.stride == 1 {
            return add(isa, out, &values[first * in_channels..][..out.len()]);
        }
        for (i, out) in out.chunks_exact_mut(in_channels).enumerate() {
            let pixel = first + i;
            let (n, y, x) = (pixel / in_w / in_h, pixel / in_w % in_h, pixel % in_w);
            if y % config.stride == 0 && x % config.stride == 0 {
                let at = (n * out_h + y / config.stride) * out_w + x / config.stride;
                add(isa, out, &values[at * in_channels..(at + 1) * in_channels]);
            }
        }
    }
}

/// `sums += values`, element by element.
fn add<D: Storage>(isa: Isa, sums: &mut [D], values: &[D]) {
    struct Add<'a, D>(&'a mut [D], &'a [D]);
    impl<D: Storage> Kernel<D::Compute> for Add<'_, D> {
        #[inline(always)]
        unsafe fn with_simd<S: Simd<T = D::Compute>>(self) {
            let Add(sums, values) = self;
            let whole = sums.len() / S::LANES * S::LANES;
            for i in (0..whole).step_by(S::LANES) {
                // SAFETY: the CPU has S's instructions; the vector is whole in both.
                unsafe {
                    let (sums, values) = (sums.as_mut_ptr().add(i), values.as_ptr().add(i));
                    D::store::<S>(sums, S::add(D::load::<S>(sums), D::load::<S>(values)));
                }
            }
            for (sum, value) in sums[whole..].iter_mut().zip(&values[whole..]) {
                let mut wide = sum.widen();
                wide += value.widen();
                *sum = D::narrow(wide);
            }
        }
    }
    assert_eq!(sums.len(), values.len());
    dispatch(isa, Add(sums, values));
}
