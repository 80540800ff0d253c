//! The source rows that rows of output pixels read, each found once.

use std::ops::Range;

/// The source rows of a kernel with three columns, in the order in which the output rows read them.
#[derive(Debug)]
pub struct SourceRows {
    /// Offsets of the source pixels, `[source row][place]`.
    offsets: Vec<u32>,
    /// Pixels per source row: those that the kernels of one output row reach.
    places: usize,
    /// The source row that each kernel row of each output row reads, `[output row][kernel row]`.
    reads: Vec<usize>,
    /// Rows of a kernel.
    kernel_rows: usize,
    /// The largest offset.
    farthest: usize,
}

impl SourceRows {
    /// Finds the source rows of output rows of `width` pixels, `stride` source pixels apart, from `table`, `[output row]
    /// [output pixel][kernel row][column]`.
    pub fn new(table: &[u32], width: usize, stride: usize, kernel_rows: usize) -> Self {
        let places = (width - 1) * stride + 3;
        let (mut offsets, mut reads) = (Vec::<u32>::new(), Vec::new());
        let mut row = Vec::with_capacity(places);
        for pixels in table.chunks_exact(width * kernel_rows * 3) {
            for kernel_row in 0..kernel_rows {
                row.clear();
                row.extend((0..places).map(|place| {
                    let x = (place / stride).min(width - 1);
                    pixels[(x * kernel_rows + kernel_row) * 3 + place - x * stride]
                }));
                // The rows that the output row above reads were the last to be found.
                let known =
                    offsets.chunks_exact(places).rev().take(kernel_rows).position(|known| known == row);
                let found = offsets.len() / places;
                reads.push(known.map_or(found, |back| found - 1 - back));
                if known.is_none() {
                    offsets.extend(&row);
                }
            }
        }
        let farthest = offsets.iter().copied().max().unwrap_or(0) as usize;
        SourceRows { offsets, places, reads, kernel_rows, farthest }
    }

    /// The numbers of output rows, of kernel rows, and of pixels per source row.
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.reads.len() / self.kernel_rows, self.kernel_rows, self.places)
    }

    /// The largest offset.
    pub fn farthest(&self) -> usize {
        self.farthest
    }

    /// Pixels per source row.
    pub fn places(&self) -> usize {
        self.places
    }

    /// The source row that each kernel row of output row `row` reads.
    pub fn reads(&self, row: usize) -> &[usize] {
        &self.reads[row * self.kernel_rows..(row + 1) * self.kernel_rows]
    }

    /// The range of source rows that output rows `rows` read.
    pub fn range(&self, rows: &Range<usize>) -> Range<usize> {
        let reads = &self.reads[rows.start * self.kernel_rows..rows.end * self.kernel_rows];
        let last = reads.iter().max().map_or(0, |last| last + 1);
        reads.iter().min().map_or(0, |first| *first)..last
    }

    /// The offsets of the pixels of some source rows, one row after the other.
    pub fn offsets(&self, rows: &Range<usize>) -> &[u32] {
        &self.offsets[rows.start * self.places..rows.end * self.places]
    }
}
