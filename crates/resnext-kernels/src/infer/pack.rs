//! Packing: which form a convolution's weights take, chosen once.

use super::direct;
use super::inner_product;
use super::packed::{Filter, Form, Packed, Panel};
use super::precision::Precision;
use super::winograd;
use crate::memory::aligned::AlignedBuffer;
use crate::threads::shared_slice::SharedSlice;
use rayon::prelude::*;
use std::ops::Range;

impl Packed {
    pub fn new(precision: Precision, filter: &Filter) -> Self {
        let (form, panels) = if inner_product::suits(precision, filter) {
            (Form::Paired, inner_product::panels(precision, filter))
        } else if winograd::suits(precision, filter) {
            (Form::Tiles, winograd::panels(precision, filter))
        } else {
            (Form::Direct, direct::panels(precision, filter))
        };
        let Filter { groups, group_in, group_out, taps, columns, .. } = *filter;
        let ((lanes, _), channels) = (precision.tile(), precision.channels());
        let spanned = match panels.first() {
            Some(Panel { spanning: true, depth, .. }) => *depth,
            _ => 0,
        };
        let word = |lane: usize, c: usize| (lane % lanes / group_in * group_in / channels + c) as u8;
        let lane_words = (0..spanned).map(|c| std::array::from_fn(|lane| word(lane, c))).collect();
        let end = |of: fn(&Panel) -> &Range<usize>| panels.last().map_or(0, |last| of(last).end);
        let mut packed = Packed {
            precision,
            taps,
            columns,
            out_channels: groups * group_out,
            weights: AlignedBuffer::zeros_parallel(end(|panel| &panel.weights)),
            bias: AlignedBuffer::zeros(end(|panel| &panel.bias)),
            panels,
            lane_words,
            form,
        };
        let (out, constants) = (SharedSlice::new(&mut packed.weights), SharedSlice::new(&mut packed.bias));
        packed.panels.par_iter().for_each(|panel| {
            // SAFETY: panels' weights do not overlap, nor do their biases.
            let (values, constants) = unsafe {
                let Panel { weights, bias, .. } = panel;
                (out.slice(weights.start, weights.len()), constants.slice(bias.start, bias.len()))
            };
            let bias = &filter.bias[panel.dst_channel..][..panel.width];
            constants[..panel.width].copy_from_slice(bias);
            match form {
                Form::Paired => inner_product::fill(panel, values, constants, filter),
                Form::Tiles => winograd::fill(precision, panel, values, filter),
                Form::Direct => {
                    if !filter.scales.is_empty() {
                        let scales = &filter.scales[panel.dst_channel..][..panel.width];
                        constants[panel.vectors * lanes..][..panel.width].copy_from_slice(scales);
                    }
                    panel.fill(values, filter, panel.vectors * lanes, channels, &packed.lane_words);
                }
            }
        });
        packed
    }
}
