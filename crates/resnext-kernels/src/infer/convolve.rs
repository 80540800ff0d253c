//! Convolution for inference, over packed weights: which kernel computes it, and on which threads.

use super::inner_product;
use super::job::{Job, SourceTable, Sources};
use super::packed::{Form, Packed};
use super::precision::bytes_mut;
use super::split::{STEP, Split, TILE};
use super::tiles::Task;
use super::winograd;
use crate::threads::shared_slice::SharedSlice;
use crate::threads::team::ThreadTeam;
use crate::winograd::Tiling;

impl Packed {
    /// Computes all output pixels of a job.
    pub fn convolve(&self, team: &ThreadTeam, sources: Sources, job: Job) {
        self.check(&job);
        let Job { src, residual, count, out_stride, .. } = job;
        let row = match sources {
            Sources::Table(SourceTable { row: Some(row), .. }) if self.columns > 1 => Some(*row),
            _ => None,
        };
        assert_eq!(row.is_some(), self.columns > 1);
        assert!(row.is_none_or(|row| row.width > 0
            && matches!(row.stride, 1 | 2)
            && count.is_multiple_of(row.width)));
        let last = match sources {
            Sources::Same => count.saturating_sub(1) * src.stride,
            Sources::Table(table) => {
                assert_eq!(table.offsets.len(), count * self.taps);
                table.farthest
            }
        };
        assert!(self.form != Form::Tiles && (count == 0 || src.data.len() >= last + self.reach()));
        if self.form == Form::Paired {
            return inner_product::convolve(self, team, sources, job);
        }
        let Job { epilogue, out, ahead, .. } = job;
        let out = &SharedSlice::new(bytes_mut(out));
        let split = Split {
            panels_first: self.out_channels > count,
            ..Split::new(count, row.map_or(1, |row| row.width), self.panels.len(), team.threads())
        };
        team.for_each(split.tasks(), |task| {
            let (pixels, panels) = split.get(task);
            let panels = &self.panels[panels];
            let steps = pixels.len().div_ceil(TILE) * self.taps * panels[0].depth.div_ceil(STEP);
            let plan = self.plan((task, split.tasks()), |task| split.get(task).1, steps, ahead);
            Task {
                packed: self,
                src,
                sources,
                row,
                residual,
                epilogue,
                pixels,
                panels,
                out,
                out_stride,
                plan,
            }
            .compute();
        });
    }

    /// The same for weights that are packed for tiles.
    pub fn run_tiles(&self, team: &ThreadTeam, tiling: &Tiling, job: Job) {
        winograd::convolve(self, team, tiling, job);
    }
}
