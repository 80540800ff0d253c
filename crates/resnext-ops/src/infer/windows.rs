//! Windows that are summed with fixed weights in inference: average pools, blurs, padding.

use crate::config::{AvgPool2dConfig, adaptive_taps, blur_taps, padding_taps};
use crate::error::{Error, Result};
use crate::infer::feature_map::FeatureMap;
use crate::infer::rows::OP;
use crate::taps::AxisTaps;
use resnext_kernels::{MapType, PixelView, SharedSlice, ThreadTeam, bf16_bits, unpair};

impl FeatureMap {
    /// Averages the windows of the maps into `out`, (N, H', W', C) of the same type.
    ///
    /// # Errors
    /// If the settings are not valid, the window does not fit the padded map, or the maps are int8.
    pub fn avg_pool(&self, team: &ThreadTeam, config: &AvgPool2dConfig, out: &mut FeatureMap) -> Result<()> {
        let [_, h, w, _] = self.size();
        self.window_sum(team, (&config.taps(h)?, &config.taps(w)?), out)
    }

    /// Blurs the maps and takes every `stride`th pixel, as [`blur_pool2d`](crate::blur_pool2d) does.
    ///
    /// # Errors
    /// If a side has less than two pixels, `stride` is zero, or the maps are int8.
    pub fn blur_pool(&self, team: &ThreadTeam, stride: usize, out: &mut FeatureMap) -> Result<()> {
        let [_, h, w, _] = self.size();
        self.window_sum(team, (&blur_taps(h, stride)?, &blur_taps(w, stride)?), out)
    }

    /// Averages a grid of `cells`×`cells` over the maps, as
    /// [`adaptive_avg_pool2d`](crate::adaptive_avg_pool2d) does.
    ///
    /// # Errors
    /// If the maps have no pixels, `cells` is zero, or the maps are int8.
    pub fn adaptive_avg_pool(&self, team: &ThreadTeam, cells: usize, out: &mut FeatureMap) -> Result<()> {
        let [_, h, w, _] = self.size();
        self.window_sum(team, (&adaptive_taps(h, cells)?, &adaptive_taps(w, cells)?), out)
    }

    /// Puts zeros around the maps: `rows` above and below, `columns` to the left and right.
    ///
    /// # Errors
    /// If the maps are int8.
    pub fn pad(&self, team: &ThreadTeam, rows: usize, columns: usize, out: &mut FeatureMap) -> Result<()> {
        let [_, h, w, _] = self.size();
        self.window_sum(team, (&padding_taps(h, rows), &padding_taps(w, columns)), out)
    }

    fn window_sum(
        &self,
        team: &ThreadTeam,
        (rows, columns): (&AxisTaps, &AxisTaps),
        out: &mut FeatureMap,
    ) -> Result<()> {
        let ([n, _, _, c], view) = (self.size(), self.view());
        if let MapType::U8(_) = view.map_type {
            let message = "expected maps in f32 or bf16 to average, got int8".into();
            return Err(Error::Config { op: OP, message });
        }
        out.resize([n, rows.outputs(), columns.outputs(), c], view.map_type, true);
        let out_stride = out.stride;
        window_sum_rows(
            team,
            view.map_type,
            (view.pixels(), c),
            (rows, columns),
            (&mut out.data, out_stride, n),
        );
        Ok(())
    }
}

/// Sums the windows of maps (N, H, W, C) of type `map_type`, f32 or bf16, into (N, H', W', C). Sums are f32, in the
/// order of the taps.
///
/// The tuples are (source, C), the taps along (H, W), and (output, words from one of its pixels to the next, N).
fn window_sum_rows(
    team: &ThreadTeam,
    map_type: MapType,
    (src, c): (PixelView, usize),
    (rows, columns): (&AxisTaps, &AxisTaps),
    (out, out_stride, images): (&mut [f32], usize, usize),
) {
    let (h, w) = (rows.sources(), columns.sources());
    let (out_h, out_w) = (rows.outputs(), columns.outputs());
    let width = c.div_ceil(map_type.channels());
    let out = SharedSlice::new(out);
    team.for_each(images * out_h, |row| {
        let (image, y) = (row / out_h, row % out_h);
        // SAFETY: each task has a row of its own.
        let out = unsafe { out.slice(row * out_w * out_stride, out_w * out_stride) };
        let mut sums = vec![0f32; width * map_type.channels()];
        for (j, out) in out.chunks_exact_mut(out_stride).enumerate() {
            sums.fill(0.0);
            for &(y, row_weight) in rows.of(y) {
                for &(x, column_weight) in columns.of(j) {
                    let pixel = (image * h + y) * w + x;
                    let words = &src.data[pixel * src.stride..][..width];
                    add_scaled(&mut sums, words, (row_weight * column_weight) as f32, map_type);
                }
            }
            store(&mut out[..width], &sums, map_type);
        }
    });
}

/// Adds `weight` times a pixel's channels to `sums`, which has as many as fit the pixel's words.
fn add_scaled(sums: &mut [f32], words: &[f32], weight: f32, map_type: MapType) {
    match map_type {
        MapType::Bf16 => sums.chunks_exact_mut(2).zip(words).for_each(|(sums, &word)| {
            sums.iter_mut().zip(unpair(word)).for_each(|(sum, x)| *sum += weight * x);
        }),
        _ => sums.iter_mut().zip(words).for_each(|(sum, &x)| *sum += weight * x),
    }
}

/// Writes a pixel's channels as words of `map_type`, f32 or bf16.
pub(super) fn store(words: &mut [f32], values: &[f32], map_type: MapType) {
    match map_type {
        MapType::Bf16 => words.iter_mut().zip(values.chunks_exact(2)).for_each(|(word, values)| {
            let [low, high] = [values[0], values[1]].map(|value| u32::from(bf16_bits(value)));
            *word = f32::from_bits(high << 16 | low);
        }),
        _ => words.copy_from_slice(values),
    }
}
