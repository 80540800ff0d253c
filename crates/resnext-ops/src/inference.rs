//! Convolutions made ready for inference, and the buffers they run between.

use crate::conv2d::Conv2dConfig;
use crate::kernels::{Isa, Job, Lines, Packed, Pixels, Row, SourceTable, Sources, max_pool_rows};
use crate::pool::Pool2dConfig;
use crate::{Error, Result};
use candle_core::{DType, Tensor};
use std::sync::{Arc, Mutex, PoisonError};

/// Feature maps (N, H, W, C) in f32, in a buffer that is kept from one use to the next.
///
/// Behind the last pixel lies one of zeros, which is what a convolution's padding reads. Pixels are a few
/// elements further apart than C where they would otherwise all share one set of the cache.
#[derive(Debug, Clone, Default)]
pub struct Activations {
    data: Lines,
    size: [usize; 4],
    stride: usize,
}

impl Activations {
    /// Empty ones, to be written by an operation.
    pub fn new() -> Self {
        Self::default()
    }

    /// The sizes [N, H, W, C].
    pub fn size(&self) -> [usize; 4] {
        self.size
    }

    fn pixels(&self) -> usize {
        self.size[0] * self.size[1] * self.size[2]
    }

    /// Makes room for other sizes; the contents are then anything, but for the zeros behind them.
    fn resize(&mut self, size: [usize; 4], stride: usize) {
        (self.size, self.stride) = (size, stride);
        let end = self.pixels() * stride;
        let len = end + stride;
        if self.data.len() < len {
            self.data = Lines::zeros(len);
        }
        self.data[end..len].fill(0.0);
    }

    /// Takes in a tensor (N, C, H, W) of f32, with a border of zeros on all sides.
    ///
    /// # Errors
    /// If it is not of four dimensions, or not f32.
    pub fn load(&mut self, x: &Tensor, border: usize) -> Result<()> {
        const OP: &str = "activations";
        let (n, c, h, w) = x.dims4().map_err(|_| Error::Shape {
            op: OP,
            input: "x",
            expected: "(N, C, H, W)".into(),
            got: x.shape().clone(),
        })?;
        if x.dtype() != DType::F32 {
            return Err(Error::DType { op: OP, input: "x", expected: "F32".into(), got: x.dtype() });
        }
        let values = x.flatten_all()?.to_vec1::<f32>()?;
        let (height, width) = (h + 2 * border, w + 2 * border);
        self.resize([n, height, width, c], c);
        self.data.fill(0.0);
        for (i, row) in values.chunks_exact(w.max(1)).enumerate() {
            let (n, k, y) = (i / h / c, i / h % c, i % h);
            let start = ((n * height + y + border) * width + border) * c + k;
            for (x, &value) in row.iter().enumerate() {
                self.data[start + x * c] = value;
            }
        }
        Ok(())
    }

    /// The maps as a tensor (N, C, H, W), channels-last in memory.
    ///
    /// # Errors
    /// If candle fails.
    pub fn to_tensor(&self) -> Result<Tensor> {
        let [n, h, w, c] = self.size;
        let rows = self.data.chunks_exact(self.stride.max(1)).take(self.pixels());
        let values: Vec<f32> = rows.flat_map(|row| row[..c].iter().copied()).collect();
        Ok(Tensor::from_vec(values, (n, h, w, c), &candle_core::Device::Cpu)?.permute((0, 3, 1, 2))?)
    }

    /// Max-pooling into `out`; padding never wins.
    ///
    /// # Errors
    /// If the window does not fit the padded map.
    pub fn max_pool(&self, config: &Pool2dConfig, out: &mut Activations) -> Result<()> {
        let [n, h, w, c] = self.size;
        let Pool2dConfig { kernel, stride, padding } = *config;
        if kernel == 0 || stride == 0 || 2 * padding > kernel || h.min(w) + 2 * padding < kernel {
            let message = format!("{config:?} does not fit a map of {h}×{w}");
            return Err(Error::Config { op: "max_pool", message });
        }
        let sides = [h, w].map(|side| (side + 2 * padding - kernel) / stride + 1);
        out.resize([n, sides[0], sides[1], c], spread(c));
        let (width, out_stride) = (sides[1], out.stride);
        max_pool_rows(
            Isa::current(),
            (self.view(), h, w, c),
            (kernel, stride, padding),
            (&mut out.data, out_stride, n * sides[0], width),
        );
        Ok(())
    }

    /// The mean over each map's pixels, as maps of one pixel.
    pub fn global_avg_pool(&self, out: &mut Activations) {
        let [n, h, w, c] = self.size;
        out.resize([n, 1, 1, c], c);
        for (i, sums) in out.data.chunks_exact_mut(c.max(1)).take(n).enumerate() {
            sums.fill(0.0);
            for pixel in self.data[i * h * w * self.stride..].chunks_exact(self.stride).take(h * w) {
                sums.iter_mut().zip(pixel).for_each(|(sum, x)| *sum += x);
            }
            sums.iter_mut().for_each(|sum| *sum /= (h * w).max(1) as f32);
        }
    }

    fn view(&self) -> Pixels<'_> {
        Pixels { data: &self.data, stride: self.stride }
    }
}

/// The distance between pixels of `c` channels: multiples of 2 KiB would share sets of the cache.
fn spread(c: usize) -> usize {
    if c.is_multiple_of(128) { c + 16 } else { c }
}

/// A convolution whose weights are packed for this machine's instruction set, with a bias, and with a
/// residual and ReLU in the same pass where asked for.
#[derive(Debug)]
pub struct FusedConv {
    packed: Packed,
    config: Conv2dConfig,
    channels: (usize, usize),
    kernel: (usize, usize),
    /// Whether a kernel row is read as one run of `kernel width · channels` neighbouring elements.
    row_runs: bool,
    /// Whether what is read of a source pixel is used for all the output pixels in a row that it reaches.
    neighbours: bool,
    /// The table for the size of the last input.
    table: Mutex<Option<Table>>,
}

/// What output pixels read, for one size [N, H, W, stride] of the input.
type Table = ([usize; 4], Arc<SourceTable>);

impl FusedConv {
    /// Packs `weight` (Cout, Cin/groups, kh, kw) and `bias` (Cout).
    ///
    /// # Errors
    /// If shapes and groups do not fit each other, or the type is not f32.
    pub fn new(weight: &Tensor, bias: &Tensor, config: &Conv2dConfig) -> Result<Self> {
        Self::on(Isa::current(), weight, bias, config)
    }

    fn on(isa: Isa, weight: &Tensor, bias: &Tensor, config: &Conv2dConfig) -> Result<Self> {
        const OP: &str = "fused convolution";
        let (out_channels, group_in, kh, kw) = weight.dims4().map_err(|_| Error::Shape {
            op: OP,
            input: "weight",
            expected: "(Cout, Cin/groups, kh, kw)".into(),
            got: weight.shape().clone(),
        })?;
        for (input, t) in [("weight", weight), ("bias", bias)] {
            if t.dtype() != DType::F32 {
                return Err(Error::DType { op: OP, input, expected: "F32".into(), got: t.dtype() });
            }
        }
        let groups = config.groups;
        let empty = weight.elem_count() == 0 || config.stride == 0 || config.dilation == 0;
        if groups == 0 || empty || !out_channels.is_multiple_of(groups) {
            let message = format!("a weight of {:?} does not fit {config:?}", weight.dims());
            return Err(Error::Config { op: OP, message });
        }
        if bias.dims() != [out_channels] {
            let expected = format!("[{out_channels}], one a channel of the output");
            return Err(Error::Shape { op: OP, input: "bias", expected, got: bias.shape().clone() });
        }
        let values = weight.flatten_all()?.to_vec1::<f32>()?;
        let group_out = out_channels / groups;
        let row_runs = groups == 1
            && kw > 1
            && config.padding == 0
            && config.dilation == 1
            && spread(group_in) == group_in;
        let narrow = groups > 1 && (3..=32).contains(&group_in);
        let neighbours = narrow && kw == 3 && config.dilation == 1 && config.stride <= 2;
        let at = |g: usize, k: usize, c: usize, y: usize, x: usize| {
            values[(((g * group_out + k) * group_in + c) * kh + y) * kw + x]
        };
        let bias = bias.to_vec1::<f32>()?;
        let packed = match row_runs {
            true => {
                let weight = |g: usize, k: usize, c: usize, y: usize| at(g, k, c % group_in, y, c / group_in);
                Packed::new(isa, groups, (group_in * kw, group_out), (kh, 1), &weight, &bias)
            }
            false => {
                let weight = |g: usize, k: usize, c: usize, tap: usize| at(g, k, c, tap / kw, tap % kw);
                let columns = if neighbours { 3 } else { 1 };
                Packed::new(isa, groups, (group_in, group_out), (kh * kw, columns), &weight, &bias)
            }
        };
        let channels = (group_in * groups, out_channels);
        Ok(FusedConv {
            packed,
            config: *config,
            channels,
            kernel: (kh, kw),
            row_runs,
            neighbours,
            table: Mutex::default(),
        })
    }

    /// Bytes the packed weights take.
    pub fn bytes(&self) -> usize {
        self.packed.bytes()
    }

    /// `out = conv(x) + bias`, plus `residual`, then ReLU, where asked for.
    ///
    /// # Errors
    /// If `x` has other channels than the weight or is smaller than the kernel, or the residual does not
    /// have the output's sizes.
    pub fn forward(
        &self,
        x: &Activations,
        residual: Option<&Activations>,
        relu: bool,
        out: &mut Activations,
    ) -> Result<()> {
        const OP: &str = "fused convolution";
        let [n, h, w, c] = x.size;
        let Conv2dConfig { stride, padding, dilation, .. } = self.config;
        let wrong = |message| Err(Error::Config { op: OP, message });
        if c != self.channels.0 {
            return wrong(format!("expected {} channels, got {c}", self.channels.0));
        }
        let reach = [self.kernel.0, self.kernel.1].map(|k| (k - 1) * dilation + 1);
        if h + 2 * padding < reach[0] || w + 2 * padding < reach[1] {
            return wrong(format!("a kernel of {:?} does not fit a map of {h}×{w}", self.kernel));
        }
        let sides =
            [(h, reach[0]), (w, reach[1])].map(|(side, reach)| (side + 2 * padding - reach) / stride + 1);
        let size = [n, sides[0], sides[1], self.channels.1];
        if let Some(residual) = residual.filter(|residual| residual.size != size) {
            return wrong(format!("expected a residual of {size:?}, got {:?}", residual.size));
        }
        if (x.pixels() + 1) * x.stride > u32::MAX as usize {
            return wrong(format!("{n} maps of {h}×{w}×{c} are too many for one batch"));
        }
        out.resize(size, spread(self.channels.1));
        let direct = self.kernel == (1, 1) && stride == 1 && padding == 0;
        let table = if direct { None } else { Some(self.table(x, &size)) };
        self.packed.run(Job {
            src: x.view(),
            sources: table.as_ref().map_or(Sources::Same, |table| Sources::Table(table)),
            residual: residual.map(Activations::view),
            relu,
            count: out.pixels(),
            out_stride: out.stride,
            out: &mut out.data,
        });
        Ok(())
    }

    fn table(&self, x: &Activations, out: &[usize; 4]) -> Arc<SourceTable> {
        let [n, h, w, _] = x.size;
        let key = [n, h, w, x.stride];
        let mut cached = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, table)) = cached.as_ref().filter(|(of, _)| *of == key) {
            return table.clone();
        }
        let Conv2dConfig { stride, padding, dilation, .. } = self.config;
        let outside = n * h * w;
        let columns = if self.row_runs { 1 } else { self.kernel.1 };
        let mut table = Vec::with_capacity(n * out[1] * out[2] * self.kernel.0 * columns);
        for (image, y, x0) in (0..n * out[1] * out[2])
            .map(|i| (i / (out[1] * out[2]), i / out[2] % out[1] * stride, i % out[2] * stride))
        {
            for ky in 0..self.kernel.0 {
                for kx in 0..columns {
                    let (y, x) = (y + ky * dilation, x0 + kx * dilation);
                    let inside = y >= padding && x >= padding && y - padding < h && x - padding < w;
                    let pixel = if inside { (image * h + y - padding) * w + x - padding } else { outside };
                    table.push((pixel * key[3]) as u32);
                }
            }
        }
        let row = self.neighbours.then_some(Row { width: out[2], stride });
        let table = Arc::new(SourceTable::new(table, row));
        *cached = Some((key, table.clone()));
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv2d;
    use candle_core::Device;
    use proptest::prelude::*;

    fn values(dims: &[usize], seed: u32) -> Tensor {
        let value = |i: u32| (i.wrapping_mul(2654435761).wrapping_add(seed * 40503) >> 8) as f32;
        let values: Vec<f32> =
            (0..dims.iter().product::<usize>() as u32).map(|i| value(i) / 8388608.0 - 1.0).collect();
        Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
        /// Every instruction set, on shapes that reach every kind of tile, against the unfused convolution.
        #[test]
        fn every_instruction_set_agrees_with_conv2d(
            (group_in, group_out, groups) in prop_oneof![
                (1usize..70, 1usize..70, Just(1usize)),
                prop_oneof![Just(1usize), Just(2), Just(4), Just(8), Just(16), Just(32)]
                    .prop_flat_map(|d| (Just(d), Just(d), prop_oneof![Just(16usize), Just(32)])),
                (1usize..10, 1usize..10, 2usize..5),
            ],
            kernel in prop_oneof![Just(1usize), Just(3), Just(7)],
            (stride, dilation, padding) in (1usize..4, 1usize..3, 0usize..3),
            (h, w) in (1usize..20, 1usize..20),
            (with_residual, relu) in any::<(bool, bool)>(),
        ) {
            prop_assume!(h.min(w) + 2 * padding > (kernel - 1) * dilation);
            let config = Conv2dConfig { stride, padding, dilation, groups };
            let x = values(&[2, group_in * groups, h, w], 1);
            let weight = values(&[group_out * groups, group_in, kernel, kernel], 2);
            let bias = values(&[group_out * groups], 3);
            let mut want = conv2d(&x, &weight, &config).unwrap();
            want = want.broadcast_add(&bias.reshape((1, (), 1, 1)).unwrap()).unwrap();
            let residual = values(want.dims(), 4);
            if with_residual {
                want = (want + &residual).unwrap();
            }
            if relu {
                want = want.relu().unwrap();
            }
            let (mut input, mut added, mut out) = Default::default();
            Activations::load(&mut input, &x, 0).unwrap();
            Activations::load(&mut added, &residual, 0).unwrap();
            for isa in Isa::available() {
                let conv = FusedConv::on(isa, &weight, &bias, &config).unwrap();
                conv.forward(&input, with_residual.then_some(&added), relu, &mut out).unwrap();
                let difference = (out.to_tensor().unwrap() - &want).unwrap().abs().unwrap();
                let largest = difference.flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
                prop_assert!(largest < 2e-4, "{isa:?}: {largest}");
            }
        }
    }
}
