//! Maps side by side.

use crate::error::{Error, Result};
use crate::infer::feature_map::FeatureMap;
use crate::infer::rows::OP;
use resnext_kernels::{SharedSlice, ThreadTeam};

impl FeatureMap {
    /// Concatenates the channels of `parts`, maps (N, H, W, Ci) of one type, into this map (N, H, W, ΣCi).
    ///
    /// # Errors
    /// If there are no parts, their sizes or types differ, or channels do not fill whole words: two channels in
    /// bf16, four in int8.
    pub fn concat(&mut self, team: &ThreadTeam, parts: &[&FeatureMap]) -> Result<()> {
        let wrong = |message: String| Err(Error::Config { op: OP, message });
        let Some(first) = parts.first() else {
            return wrong("expected at least one map to concatenate, got none".into());
        };
        let ([n, h, w, _], map_type) = (first.size(), first.view().map_type);
        let per_word = map_type.channels();
        let mut channels = 0;
        for part in parts {
            let [other_n, other_h, other_w, c] = part.size();
            if [other_n, other_h, other_w] != [n, h, w] || part.view().map_type != map_type {
                return wrong(format!("{:?} does not go beside {:?}", part.size(), first.size()));
            }
            if !c.is_multiple_of(per_word) {
                return wrong(format!("expected channels in multiples of {per_word}, got {c}"));
            }
            channels += c;
        }
        self.resize([n, h, w, channels], map_type, true);
        let stride = self.stride;
        let rows = SharedSlice::new(&mut self.data);
        team.for_each(n * h, |y| {
            // SAFETY: each task has a row of its own.
            let out = unsafe { rows.slice(y * w * stride, w * stride) };
            for (x, pixel) in out.chunks_exact_mut(stride).enumerate() {
                let mut rest = pixel;
                for part in parts {
                    let (own, after) = rest.split_at_mut(part.size()[3] / per_word);
                    own.copy_from_slice(&part.data[(y * w + x) * part.stride..][..own.len()]);
                    rest = after;
                }
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Tensor};

    #[test]
    fn channels_lie_side_by_side() {
        let tensor = |c: usize, step: f32| {
            let values = (0..2 * c * 6).map(|i| (i as f32 * step).sin()).collect::<Vec<_>>();
            Tensor::from_vec(values, (2, c, 3, 2), &Device::Cpu).unwrap()
        };
        let (a, b) = (tensor(4, 0.7), tensor(6, 0.3));
        for (dtype, tolerance) in [(DType::F32, 0.0), (DType::BF16, 1e-2)] {
            let [mut left, mut right, mut both] = std::array::from_fn(|_| FeatureMap::new());
            ThreadTeam::scope(|team| {
                left.load(team, &a, dtype).unwrap();
                right.load(team, &b, dtype).unwrap();
                both.concat(team, &[&left, &right]).unwrap();
                assert!(both.concat(team, &[]).is_err());
            });
            let want = Tensor::cat(&[&a, &b], 1).unwrap();
            let difference = (both.to_tensor().unwrap() - want).unwrap().abs().unwrap().max_all().unwrap();
            assert!(difference.to_scalar::<f32>().unwrap() <= tolerance, "{dtype:?}");
        }
    }
}
