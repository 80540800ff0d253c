//! The end of a residual block with channel attention.

use crate::error::{Error, Result};
use crate::infer::feature_map::FeatureMap;
use crate::infer::rows::OP;
use crate::infer::windows::store;
use resnext_kernels::{MapType, PixelView, SharedSlice, ThreadTeam, unpair};

impl FeatureMap {
    /// Replaces these maps by `max(self · factors + residual, 0)`, with one of `factors` (N, C) per image and
    /// channel.
    ///
    /// # Errors
    /// If the residual has another size or type, the factors are not N·C, or the maps are int8.
    pub fn gate_add_relu(&mut self, team: &ThreadTeam, factors: &[f32], residual: &FeatureMap) -> Result<()> {
        let ([n, h, w, c], map_type) = (self.size(), self.view().map_type);
        let wrong = |message: String| Err(Error::Config { op: OP, message });
        if let MapType::U8(_) = map_type {
            return wrong("expected maps in f32 or bf16 to multiply by factors, got int8".into());
        }
        if residual.size() != self.size() || residual.view().map_type != map_type {
            return wrong(format!("expected a residual of {:?}, got {:?}", self.size(), residual.size()));
        }
        if factors.len() != n * c {
            return wrong(format!("expected {n}·{c} factors, got {}", factors.len()));
        }
        let stride = self.stride;
        let residual = residual.view().pixels();
        gate_rows(team, map_type, (&mut self.data, stride, c), (n * h, w, h.max(1)), factors, residual);
        Ok(())
    }
}

/// `max(map · factor + residual, 0)` of maps (N, H, W, C) of type `map_type`, f32 or bf16, in place.
///
/// The tuples are (map, words from one of its pixels to the next, C) and (rows of all maps, pixels per row, rows per
/// image). `factors` are (N, C); the residual has the map's sizes and type.
fn gate_rows(
    team: &ThreadTeam,
    map_type: MapType,
    (map, stride, c): (&mut [f32], usize, usize),
    (rows, row_pixels, image_rows): (usize, usize, usize),
    factors: &[f32],
    residual: PixelView,
) {
    let map = SharedSlice::new(map);
    team.for_each(rows, |row| {
        // SAFETY: each task has a row of its own.
        let map = unsafe { map.slice(row * row_pixels * stride, row_pixels * stride) };
        let factors = &factors[row / image_rows * c..][..c];
        for (i, pixel) in map.chunks_exact_mut(stride).enumerate() {
            let residual = &residual.data[(row * row_pixels + i) * residual.stride..];
            match map_type {
                MapType::Bf16 => {
                    for ((word, &added), factors) in pixel.iter_mut().zip(residual).zip(factors.chunks(2)) {
                        let ([a, b], [c, d]) = (unpair(*word), unpair(added));
                        let last = factors.get(1).copied().unwrap_or(0.0);
                        let values = [gated(a, factors[0], c), gated(b, last, d)];
                        store(std::slice::from_mut(word), &values, map_type);
                    }
                }
                _ => {
                    for ((x, &added), &factor) in pixel.iter_mut().zip(residual).zip(factors) {
                        *x = gated(*x, factor, added);
                    }
                }
            }
        }
    });
}

#[inline(always)]
fn gated(x: f32, factor: f32, residual: f32) -> f32 {
    let y = x * factor + residual;
    // Written so that NaN stays NaN.
    if y < 0.0 { 0.0 } else { y }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Tensor};

    /// Compared with the definition, in f32 and bf16, with channels that fill words and that do not.
    #[test]
    fn maps_are_scaled_and_added_to_the_residual() {
        for (c, dtype, tolerance) in [(8, DType::F32, 1e-6), (5, DType::F32, 1e-6), (5, DType::BF16, 2e-2)] {
            let waves =
                |step: f32, count: usize| (0..count).map(|i| (i as f32 * step).sin()).collect::<Vec<_>>();
            let tensor =
                |step| Tensor::from_vec(waves(step, 2 * c * 12), (2, c, 3, 4), &Device::Cpu).unwrap();
            let (x, r, factors) = (tensor(0.7), tensor(0.3), waves(1.9, 2 * c));
            let [mut maps, mut residual] = std::array::from_fn(|_| FeatureMap::new());
            ThreadTeam::scope(|team| {
                maps.load(team, &x, dtype).unwrap();
                residual.load(team, &r, dtype).unwrap();
                maps.gate_add_relu(team, &factors, &residual).unwrap();
                assert!(maps.gate_add_relu(team, &factors[1..], &residual).is_err());
            });
            let factors = Tensor::from_vec(factors, (2, c, 1, 1), &Device::Cpu).unwrap();
            let want = (x.broadcast_mul(&factors).unwrap() + r).unwrap().relu().unwrap();
            let difference = (maps.to_tensor().unwrap() - want).unwrap().abs().unwrap().max_all().unwrap();
            assert!(difference.to_scalar::<f32>().unwrap() < tolerance, "{dtype:?}, {c} channels");
        }
    }
}
