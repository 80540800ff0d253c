//! Packing: the form of a convolution's weights, chosen once.

use super::direct;
use super::grouped_rows;
use super::inner_product;
use super::matrix_tiles;
use super::packed::{Filter, Packed};
use super::pointwise;
use super::precision::Precision;
use super::winograd;

impl Packed {
    /// Packs a filter for the kernel that computes its convolution fastest.
    pub fn new(precision: Precision, filter: &Filter) -> Self {
        debug_assert!(!matches!(precision, Precision::Int8(_)) || filter.fits_int8());
        if matrix_tiles::supports(precision, filter) {
            Packed::MatrixTiles(matrix_tiles::pack(precision, filter))
        } else if inner_product::supports(precision, filter) {
            Packed::InnerProduct(inner_product::pack(precision, filter))
        } else if pointwise::supports(precision, filter) {
            Packed::Pointwise(pointwise::pack(precision, filter))
        } else if grouped_rows::supports(precision, filter) {
            Packed::GroupedRows(grouped_rows::pack(precision, filter))
        } else if winograd::supports(precision, filter) {
            Packed::Winograd(winograd::pack(precision, filter))
        } else {
            Packed::Direct(direct::pack(precision, filter))
        }
    }
}
