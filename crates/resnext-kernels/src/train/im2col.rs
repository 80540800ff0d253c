//! Rows for a matrix product: the pixels that a stride reads, and the patch that each output pixel reads (im2col).

use super::packing::PixelRun;
use crate::shape::{Conv2dConfig, ConvShape};
use crate::simd::traits::{Element, Kernel, Simd, Storage};

/// The runs of `count` pixels from `first` on, of those that a stride reads in maps of the given height and width.
pub fn pixel_runs((h, w): (usize, usize), stride: usize, first: usize, count: usize) -> Vec<PixelRun> {
    if stride == 1 {
        return vec![PixelRun { to: 0, count, to_step: 1, from: Some((first, 1)) }];
    }
    let (rows, columns) = (h.div_ceil(stride), w.div_ceil(stride));
    let mut runs = Vec::new();
    let mut at = first;
    while at < first + count {
        let (n, y, x) = (at / columns / rows, at / columns % rows, at % columns);
        let len = (columns - x).min(first + count - at);
        let pixel = (n * h + y * stride) * w + x * stride;
        runs.push(PixelRun { to: at - first, count: len, to_step: 1, from: Some((pixel, stride)) });
        at += len;
    }
    runs
}

/// Packs the patches of `count` output pixels from `first` on into planes, with zeros after their channels.
pub struct Patches<'a, D: Storage> {
    pub x: &'a [D],
    pub shape: &'a ConvShape,
    pub first: usize,
    pub count: usize,
    pub planes: &'a mut [D::Compute],
    pub plane: usize,
}

impl<D: Storage> Kernel<D::Compute> for Patches<'_, D> {
    #[inline(always)]
    unsafe fn with_simd<S: Simd<T = D::Compute>>(self) {
        let Patches { x, shape, first, count, planes, plane } = self;
        let ConvShape { in_channels: channels, in_h, in_w, out_h, out_w, kernel_h, kernel_w, .. } = *shape;
        let Conv2dConfig { stride, padding, .. } = shape.config;
        let run = kernel_w * channels;
        let vectors = (kernel_h * run).div_ceil(S::LANES);
        let copies = run.div_ceil(S::LANES);
        assert!(count * S::LANES <= plane && vectors * plane <= planes.len() && shape.config.dilation == 1);
        let mut patch = vec![D::Compute::ZERO; kernel_h * run + (copies + 1) * S::LANES];
        for i in 0..count {
            let pixel = first + i;
            let (n, oy, ox) = (pixel / out_w / out_h, pixel / out_w % out_h, pixel % out_w);
            for ky in 0..kernel_h {
                let at = ky * run;
                let (y, left) = (oy * stride + ky, ox * stride);
                if y < padding || y - padding >= in_h {
                    patch[at..at + run].fill(D::Compute::ZERO);
                    continue;
                }
                let row = (n * in_h + y - padding) * in_w;
                if left >= padding && left - padding + kernel_w <= in_w {
                    let start = (row + left - padding) * channels;
                    if start + copies * S::LANES <= x.len() {
                        for v in 0..copies {
                            // SAFETY: the CPU has S's instructions; both ends were checked. What is copied beyond the run is
                            // overwritten by the next run or by the zeros below.
                            unsafe {
                                let from = x.as_ptr().add(start + v * S::LANES);
                                S::store(patch.as_mut_ptr().add(at + v * S::LANES), D::load::<S>(from));
                            }
                        }
                        continue;
                    }
                }
                for kx in 0..kernel_w {
                    let patch = &mut patch[at + kx * channels..][..channels];
                    match (left + kx).checked_sub(padding).filter(|&x| x < in_w) {
                        None => patch.fill(D::Compute::ZERO),
                        Some(column) => {
                            let pixel = &x[(row + column) * channels..][..channels];
                            patch.iter_mut().zip(pixel).for_each(|(to, from)| *to = from.widen());
                        }
                    }
                }
            }
            patch[kernel_h * run..].fill(D::Compute::ZERO);
            for k in 0..vectors {
                // SAFETY: the planes hold the vectors, as asserted; the patch is longer than they are.
                unsafe {
                    let to = planes.as_mut_ptr().add(k * plane + i * S::LANES);
                    S::store(to, S::load(patch.as_ptr().add(k * S::LANES)));
                }
            }
        }
    }
}
