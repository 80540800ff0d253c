//! Convolution for inference, over packed weights: which kernel computes it.

use super::direct;
use super::grouped_rows;
use super::inner_product;
use super::job::{ConvJob, PixelSources, Sources};
use super::matrix_tiles;
use super::packed::Packed;
use super::pointwise;
use super::winograd;
use crate::threads::team::ThreadTeam;

impl Packed {
    /// Computes all output pixels of a job.
    ///
    /// # Panics
    /// If slices are too short for the job, or `sources` are not what the weights' form reads: see
    /// [`Self::is_winograd`].
    pub fn convolve(&self, team: &ThreadTeam, sources: Sources, job: ConvJob) {
        let pixels = match sources {
            Sources::Same => PixelSources::Same,
            Sources::Table(table) => PixelSources::Table(table),
            Sources::Tiles(tiling) => {
                let Packed::Winograd(panels) = self else { panic!("only Winograd's kernel reads tiles") };
                return winograd::convolve(panels, team, tiling, job);
            }
        };
        match self {
            Packed::Direct(weights) => direct::convolve(weights, team, pixels, job),
            Packed::GroupedRows(weights) => grouped_rows::convolve(weights, team, pixels, job),
            Packed::InnerProduct(panels) => inner_product::convolve(panels, team, pixels, job),
            Packed::MatrixTiles(weights) => matrix_tiles::convolve(weights, team, pixels, job),
            Packed::Pointwise(panels) => pointwise::convolve(panels, team, pixels, job),
            Packed::Winograd(_) => panic!("Winograd's kernel reads tiles"),
        }
    }
}
