//! int8 weights for the AVX2 kernels that widen them: pairs of channels, as i8 in memory and as i16 in registers.

use super::direct;
use super::packed::{DirectWeights, Filter, PackedPanels, Panel, Stored};
use super::precision::Precision;

/// Kernel words, of two channels, per source word.
pub const PAIRS: usize = 2;

/// Packs a filter whose groups have a multiple of four channels, in the order of the direct kernel but for the pairs:
/// `[kernel row][pair of channels][column][vectors · LANES]`.
pub fn pack(precision: Precision, filter: &Filter) -> DirectWeights {
    let Filter { taps, columns, .. } = *filter;
    let (lanes, _) = precision.tile();
    let in_pairs =
        |panel: Panel| Panel { weights: panel.weights.start * PAIRS..panel.weights.end * PAIRS, ..panel };
    let list = direct::panels(precision, filter).into_iter().map(in_pairs).collect();
    let panels = PackedPanels::pack(precision, filter, list, |panel, values, constants| {
        panel.fill_scales(constants, filter, lanes);
        fill(panel, values, filter, lanes);
    });
    DirectWeights { panels: panels.narrowed(Stored::I8), taps, columns, lane_words: Vec::new() }
}

/// Writes a panel's weights, integers, as pairs of i16.
fn fill(panel: &Panel, values: &mut [f32], filter: &Filter, lanes: usize) {
    let Filter { columns, taps, .. } = *filter;
    let pairs = panel.depth * PAIRS;
    for (row, values) in values.chunks_exact_mut(panel.vectors * lanes).enumerate() {
        let (pair, column) = (row / columns % pairs, row % columns);
        let tap = row / columns / pairs * columns + column;
        for (l, value) in values[..panel.width].iter_mut().enumerate() {
            let weights = filter.channel(panel.dst_channel + l);
            let of = |channel: usize| u32::from(weights[channel * taps + tap] as i16 as u16);
            *value = f32::from_bits(of(2 * pair + 1) << 16 | of(2 * pair));
        }
    }
}
