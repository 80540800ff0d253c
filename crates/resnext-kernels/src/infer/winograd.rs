//! Winograd's 3×3 convolutions in inference: packed weights, and bias, residual and ReLU as the tiles are stored.

use super::job::{ConvJob, PixelView};
use super::packed::{Filter, PackedPanels, Panel};
use super::precision::Precision;
use super::prefetch_plan::{Outputs, PrefetchPlan};
use crate::memory::prefetch::CacheLevel;
use crate::simd::traits::Simd;
use crate::threads::shared_slice::SharedSlice;
use crate::threads::split::Split;
use crate::threads::team::ThreadTeam;
use crate::winograd::{
    self, LARGEST, POSITIONS, TileSink, Tiling, WinogradTiles, transform_kernels, vectors_per_group,
};

/// Neighbouring tiles that stay in one task.
const UNIT: usize = 14;

/// Whether this kernel supports a convolution.
pub fn supports(precision: Precision, filter: &Filter) -> bool {
    let Filter { tiled, groups, group_in, group_out, .. } = *filter;
    let (lanes, _) = precision.tile();
    let whole = group_in == group_out && (groups * group_in).is_multiple_of(lanes);
    tiled && matches!(precision, Precision::F32(_)) && whole && winograd::supports(lanes, group_in)
}

/// Packs a filter.
pub fn pack(precision: Precision, filter: &Filter) -> PackedPanels {
    let list = panels(precision, filter);
    PackedPanels::pack(precision, filter, list, |panel, values, _| fill(precision, panel, values, filter))
}

/// One panel per vector of output channels.
fn panels(precision: Precision, filter: &Filter) -> Vec<Panel> {
    let (lanes, _) = precision.tile();
    let (depth, size) = (filter.group_in, POSITIONS * filter.group_in * lanes);
    (0..filter.groups * filter.group_out / lanes)
        .map(|i| Panel {
            weights: i * size..(i + 1) * size,
            bias: i * lanes..(i + 1) * lanes,
            src_word: 0,
            dst_channel: i * lanes,
            width: lanes,
            vectors: 1,
            depth,
            spanning: false,
        })
        .collect()
}

/// Writes a panel's weights.
fn fill(precision: Precision, panel: &Panel, values: &mut [f32], filter: &Filter) {
    let Precision::F32(isa) = precision else { unreachable!("tiles are of f32") };
    transform_kernels(isa, filter.group_out, values, |channel, c| {
        let kernel = &filter.channel(panel.dst_channel + channel)[9 * c..9 * (c + 1)];
        std::array::from_fn(|tap| kernel[tap])
    });
}

/// Computes all output pixels of a job.
pub fn convolve(packed: &PackedPanels, team: &ThreadTeam, tiling: &Tiling, job: ConvJob) {
    packed.check(&job);
    let ConvJob { src, residual, epilogue, count, out, out_stride, ahead, .. } = job;
    let Precision::F32(isa) = packed.precision else { unreachable!("tiles are of f32") };
    assert_eq!(tiling.pixels(), count);
    let (lanes, _) = packed.precision.tile();
    let group = packed.list.first().map_or(lanes, |panel| panel.depth);
    let vectors = vectors_per_group(lanes, group);
    let out = &SharedSlice::new(out);
    let split = Split::between(tiling.len(), UNIT, packed.list.len() / vectors, team.threads());
    team.for_each(split.tasks(), |task| {
        let (tiles, units) = split.get(task);
        let panels = |task: usize| {
            let (_, units) = split.get(task);
            units.start * vectors..units.end * vectors
        };
        let steps = POSITIONS * tiles.len().div_ceil(LARGEST);
        let plan = packed.prefetch_plan((task, split.tasks()), panels, steps, ahead);
        let sink = Finish { bias: &packed.bias, residual, least: epilogue.least, out, out_stride, plan };
        let (maps, weights) = (src.data, &packed.weights[..]);
        WinogradTiles { tiling, tiles, maps, pitch: lanes, group, units, weights, sink }.compute(isa);
    });
}

/// Receives the sums of the tiles, adds bias and residual, applies ReLU and stores.
struct Finish<'a> {
    bias: &'a [f32],
    residual: Option<PixelView<'a>>,
    least: f32,
    out: &'a SharedSlice<'a, f32>,
    out_stride: usize,
    plan: PrefetchPlan,
}

impl TileSink<f32> for Finish<'_> {
    const NARROW_GROUPS: bool = true;

    #[inline(always)]
    fn meanwhile(&self) -> impl FnMut() {
        let mut fetch = self.plan.take(POSITIONS);
        move || fetch.step(1, CacheLevel::Second)
    }

    #[inline(always)]
    fn expect<S: Simd<T = f32>>(&self, pixel: usize, vector: usize) {
        let out = (self.out.as_ptr(), self.out_stride);
        Outputs::new(out, self.residual, (pixel, vector * S::LANES), 1).prefetch(1, S::LANES);
    }

    #[inline(always)]
    unsafe fn put<S: Simd<T = f32>>(&self, pixel: usize, vector: usize, sum: S::V) {
        let channel = vector * S::LANES;
        // SAFETY: the CPU has S's instructions; `PackedPanels::check` asserted that the residual has every pixel.
        unsafe {
            let mut sum = S::add(sum, S::load(self.bias[channel..channel + S::LANES].as_ptr()));
            if let Some(PixelView { data, stride }) = self.residual {
                sum = S::add(sum, S::load(data.as_ptr().add(pixel * stride + channel)));
            }
            let least = S::splat(&self.least);
            let out = self.out.pointer(pixel * self.out_stride + channel, S::LANES);
            S::store(out, S::max(sum, least));
        }
    }
}
