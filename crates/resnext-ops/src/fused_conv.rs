//! Convolutions made ready for inference.

use crate::activations::Activations;
use crate::conv2d::Conv2dConfig;
use crate::images::{Images, row_words};
use crate::kernels::{
    Crew, Epilogue, Filter, Isa, Job, Packed, Pixels, Quantization, Row, SourceTable, Sources, Tiling,
    WordType, Words, word_type_of, words_of,
};
use crate::layout::row_major;
use crate::{Error, Result};
use candle_core::{DType, Device, Storage, Tensor};
use std::borrow::Cow;
use std::mem::discriminant;
use std::sync::{Arc, Mutex, PoisonError};

/// A convolution whose weights are packed for this machine's instruction set, with a bias, and with a
/// residual and ReLU in the same pass where asked for.
#[derive(Debug)]
pub struct FusedConv {
    packed: Packed,
    /// Of the maps it reads and of those it writes.
    maps: (WordType, WordType),
    config: Conv2dConfig,
    channels: (usize, usize),
    kernel: (usize, usize),
    /// Whether a kernel row is read as one run of neighbouring words.
    row_runs: bool,
    /// Channels from one pixel of such a run, or of [`Images`], to the next.
    pub(crate) apart: usize,
    /// Whether what is read of a source pixel is used for all the output pixels in a row that it reaches.
    neighbours: bool,
    /// For the last input's N, H and W, words a row, and channels from one pixel to the next.
    plan: Mutex<Option<([usize; 5], Arc<Plan>)>>,
}

/// What output pixels read.
#[derive(Debug)]
enum Plan {
    Table(SourceTable),
    Tiles(Tiling),
}

const OP: &str = "fused convolution";

/// What a convolution reads.
struct Source<'a> {
    data: &'a [f32],
    size: [usize; 4],
    words: WordType,
    /// Channels from one pixel of a row to the next.
    apart: usize,
}

/// What a convolution does besides: nothing, if default.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fusion<'a> {
    /// Added to the output.
    pub residual: Option<&'a Activations>,
    /// Whether ReLU comes last.
    pub relu: bool,
    /// The convolutions whose weights are wanted next: they are fetched from memory meanwhile.
    pub ahead: &'a [&'a FusedConv],
}

/// Whether this machine runs [`FusedConv`] on maps of `dtype`: f32 always; bf16 where the CPU has AVX-512 BF16, and u8,
/// of [`FusedConv::quantized`], where it has AVX-512 VNNI, and the instruction set in use is AVX-512.
pub fn fused_dtype_is_supported(dtype: DType) -> bool {
    words_of(dtype, Isa::current()).is_some()
}

impl FusedConv {
    /// Packs `weight` (Cout, Cin/groups, kh, kw) and `bias` (Cout), both f32, for maps of `dtype`, f32 or bf16.
    /// Sums are f32 either way. In bf16, what is below the normal numbers (1e-38) may count as zero.
    ///
    /// # Errors
    /// If shapes and groups do not fit each other, a type is not as above, or this machine has no
    /// instructions for `dtype`.
    pub fn new(weight: &Tensor, bias: &Tensor, config: &Conv2dConfig, dtype: DType) -> Result<Self> {
        Self::on(Isa::current(), weight, bias, config, dtype, false)
    }

    /// As [`new`](Self::new), to read [`Images`]: of few channels, without gaps between pixels where that can be.
    ///
    /// # Errors
    /// As `new`.
    pub fn of_images(weight: &Tensor, bias: &Tensor, config: &Conv2dConfig, dtype: DType) -> Result<Self> {
        Self::on(Isa::current(), weight, bias, config, dtype, true)
    }

    /// As [`new`](Self::new), to write f32 whatever it reads: for logits, which should not be rounded to be compared. In bf16,
    /// grouped 3×3 convolutions are slower for it.
    ///
    /// # Errors
    /// As `new`.
    pub fn writing_f32(weight: &Tensor, bias: &Tensor, config: &Conv2dConfig, dtype: DType) -> Result<Self> {
        let (words, maps) = floats(Isa::current(), dtype)?;
        Self::pack(words.writing_f32(), (maps, WordType::F32), weight, bias, config, false)
    }

    /// Packs `weight` and `bias` as [`new`](Self::new) does, for maps in 8 bits: it reads those of `input`, whose zero is 0,
    /// and writes those of `output`. Each output channel's weights are rounded to multiples of a 127th of the largest.
    /// Sums are whole numbers of 32 bits, the same on every machine.
    ///
    /// # Errors
    /// As `new`; also if `input`'s zero is not 0, a weight or bias is not finite, or an output is a sum of more than 65536
    /// products.
    pub fn quantized(
        weight: &Tensor,
        bias: &Tensor,
        config: &Conv2dConfig,
        input: Quantization,
        output: Quantization,
    ) -> Result<Self> {
        let isa = Isa::current();
        let words = words_of(DType::U8, isa).ok_or_else(|| Error::Config {
            op: OP,
            message: format!("8 bits need a CPU with AVX-512 VNNI, this one runs {}; use f32", isa.name()),
        })?;
        if input.zero() != 0 {
            let message = format!("expected an input whose zero is 0, got {input:?}");
            return Err(Error::Config { op: OP, message });
        }
        Self::pack(words, (WordType::U8(input), WordType::U8(output)), weight, bias, config, false)
    }

    fn on(
        isa: Isa,
        weight: &Tensor,
        bias: &Tensor,
        config: &Conv2dConfig,
        dtype: DType,
        images: bool,
    ) -> Result<Self> {
        let (words, maps) = floats(isa, dtype)?;
        Self::pack(words, (maps, maps), weight, bias, config, images)
    }

    fn pack(
        words: Words,
        maps: (WordType, WordType),
        weight: &Tensor,
        bias: &Tensor,
        config: &Conv2dConfig,
        images: bool,
    ) -> Result<Self> {
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
        let weight = weight.to_device(&Device::Cpu)?;
        let (storage, layout) = weight.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { unreachable!("on the CPU") };
        let mut values = row_major::<f32>(storage, layout)?;
        let (mut biases, mut scales) = (bias.to_vec1::<f32>()?, Vec::new());
        if let (WordType::U8(input), WordType::U8(output)) = maps {
            scales = whole_numbers(values.to_mut(), &mut biases, (input, output))?;
        }
        let group_out = out_channels / groups;
        // A few channels, as an image has, would leave most of a row of words unused.
        let row_runs = groups == 1 && kw > 1 && config.padding == 0 && config.dilation == 1 && group_in <= 16;
        let narrow = groups > 1 && (3..=32).contains(&group_in);
        // Not compiled for words that are written as others: those are for a last layer, which is 1×1.
        let neighbours = words.written() == words.channels()
            && narrow
            && kw == 3
            && config.dilation == 1
            && config.stride <= 2;
        // Without gaps, if every run then begins with a word.
        let gapless = images && (config.stride * group_in).is_multiple_of(words.channels());
        let whole = if gapless { group_in } else { group_in.next_multiple_of(words.channels()) };
        if row_runs {
            let mut runs = vec![0.0; out_channels * kw * whole * kh];
            for (i, &value) in values.iter().enumerate() {
                let (k, c, y, x) = (i / (group_in * kh * kw), i / (kh * kw) % group_in, i / kw % kh, i % kw);
                runs[((k * kw + x) * whole + c) * kh + y] = value;
            }
            values = Cow::Owned(runs);
        }
        let packed = Packed::new(
            words,
            &Filter {
                groups,
                group_in: if row_runs { whole * kw } else { group_in },
                group_out,
                taps: if row_runs { kh } else { kh * kw },
                columns: if neighbours { 3 } else { 1 },
                tiled: !row_runs && (kh, kw) == (3, 3) && config.stride == 1 && config.dilation == 1,
                weight: &values,
                bias: &biases,
                scales: &scales,
            },
        );
        Ok(FusedConv {
            packed,
            maps,
            config: *config,
            channels: (group_in * groups, out_channels),
            kernel: (kh, kw),
            row_runs,
            apart: if row_runs { whole } else { (group_in * groups).next_multiple_of(words.channels()) },
            neighbours,
            plan: Mutex::default(),
        })
    }

    /// Channels it reads.
    pub fn channels(&self) -> usize {
        self.channels.0
    }

    /// Bytes the packed weights take.
    pub fn bytes(&self) -> usize {
        self.packed.bytes()
    }

    /// The kind of maps it reads.
    pub(crate) fn reads(&self) -> WordType {
        self.maps.0
    }

    /// `out = conv(x) + bias`, and what `fusion` says.
    ///
    /// # Errors
    /// If `x` is of another type or has other channels than the weight, or is smaller than the kernel, or
    /// the residual does not have the output's sizes.
    pub fn forward(&self, crew: &Crew, x: &Activations, fusion: Fusion, out: &mut Activations) -> Result<()> {
        let Activations { size, words, stride, .. } = *x;
        let source = Source { data: &x.data, size, words, apart: stride * words.channels() };
        self.convolve(crew, source, fusion, out)
    }

    /// [`forward`](Self::forward), of images.
    ///
    /// # Errors
    /// As `forward`, and if they were loaded for another convolution.
    pub fn forward_images(
        &self,
        crew: &Crew,
        x: &Images,
        fusion: Fusion,
        out: &mut Activations,
    ) -> Result<()> {
        let Images { ref data, size, words, apart } = *x;
        if apart != self.apart {
            let message = format!("expected images with pixels {} channels apart, got {apart}", self.apart);
            return Err(Error::Config { op: OP, message });
        }
        self.convolve(crew, Source { data, size, words, apart }, fusion, out)
    }

    fn convolve(&self, crew: &Crew, x: Source, fusion: Fusion, out: &mut Activations) -> Result<()> {
        let [n, h, w, c] = x.size;
        let Conv2dConfig { stride, padding, dilation, .. } = self.config;
        let wrong = |message| Err(Error::Config { op: OP, message });
        let (read, written) = self.maps;
        if c != self.channels.0 || x.words != read {
            let (expected, got) = (self.channels.0, x.words);
            return wrong(format!("expected {expected} channels of {read:?}, got {c} of {got:?}"));
        }
        if self.row_runs && x.apart != self.apart {
            let expected = self.apart;
            return wrong(format!(
                "expected pixels {expected} channels apart, got {}; a convolution of images reads Images",
                x.apart
            ));
        }
        let reach = [self.kernel.0, self.kernel.1].map(|k| (k - 1) * dilation + 1);
        if h + 2 * padding < reach[0] || w + 2 * padding < reach[1] {
            return wrong(format!("a kernel of {:?} does not fit a map of {h}×{w}", self.kernel));
        }
        let sides =
            [(h, reach[0]), (w, reach[1])].map(|(side, reach)| (side + 2 * padding - reach) / stride + 1);
        let size = [n, sides[0], sides[1], self.channels.1];
        let fits = |r: &Activations| r.size == size && discriminant(&r.words) == discriminant(&written);
        if let Some(residual) = fusion.residual.filter(|residual| !fits(residual)) {
            return wrong(format!(
                "expected a residual of {size:?} in {written:?}, got {:?} in {:?}",
                residual.size, residual.words
            ));
        }
        if x.data.len().max(n * sides[0] * sides[1]) > u32::MAX as usize {
            return wrong(format!("{n} maps of {h}×{w}×{c} are too many for one batch"));
        }
        out.resize(size, written, true);
        let ahead: Vec<&Packed> = fusion.ahead.iter().map(|conv| &conv.packed).collect();
        let job = Job {
            src: Pixels { data: x.data, stride: x.apart / read.channels() },
            residual: fusion.residual.map(Activations::view),
            epilogue: epilogue(written, fusion.residual.map(|r| r.words), fusion.relu),
            count: out.pixels(),
            out_stride: out.stride,
            out: &mut out.data,
            ahead: &ahead,
        };
        if in_place(self.kernel, &self.config) {
            self.packed.run(crew, Sources::Same, job);
            return Ok(());
        }
        match &*self.plan(&x, &size) {
            Plan::Table(table) => self.packed.run(crew, Sources::Table(table), job),
            Plan::Tiles(tiling) => self.packed.run_tiles(crew, tiling, job),
        }
        Ok(())
    }

    fn plan(&self, x: &Source, out: &[usize; 4]) -> Arc<Plan> {
        let ([n, h, w, _], channels) = (x.size, x.words.channels());
        let row = row_words(w, x.apart, x.words);
        let key = [n, h, w, row, x.apart];
        let mut cached = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, plan)) = cached.as_ref().filter(|(of, _)| *of == key) {
            return plan.clone();
        }
        let (padding, apart) = (self.config.padding, x.apart);
        // Where the pixel at (y, x) of a padded image begins; in the padding, that of zeros behind the last.
        let place = |image: usize, y: usize, x: usize| {
            let inside = y >= padding && x >= padding && y - padding < h && x - padding < w;
            match inside {
                true => (image * h + y - padding) * row + (x - padding) * apart / channels,
                false => n * h * row,
            }
        };
        let plan = if self.packed.tiled() {
            let mut tiling = Tiling::default();
            (0..n).for_each(|image| tiling.add((out[1], out[2]), |y, x| place(image, y, x)));
            Plan::Tiles(tiling)
        } else {
            Plan::Table(self.table(out, place))
        };
        let plan = Arc::new(plan);
        *cached = Some((key, plan.clone()));
        plan
    }

    fn table(&self, out: &[usize; 4], place: impl Fn(usize, usize, usize) -> usize) -> SourceTable {
        let (Conv2dConfig { stride, dilation, .. }, n) = (self.config, out[0]);
        let columns = if self.row_runs { 1 } else { self.kernel.1 };
        let mut table = Vec::with_capacity(n * out[1] * out[2] * self.kernel.0 * columns);
        for (image, y, x0) in (0..n * out[1] * out[2])
            .map(|i| (i / (out[1] * out[2]), i / out[2] % out[1] * stride, i % out[2] * stride))
        {
            for ky in 0..self.kernel.0 {
                for kx in 0..columns {
                    table.push(place(image, y + ky * dilation, x0 + kx * dilation) as u32);
                }
            }
        }
        let row = self.neighbours.then_some(Row { width: out[2], stride });
        SourceTable::new(table, row)
    }
}

/// The words, and the maps, of f32 or bf16.
fn floats(isa: Isa, dtype: DType) -> Result<(Words, WordType)> {
    let Some(maps) = word_type_of(dtype) else {
        return Err(Error::DType { op: OP, input: "maps", expected: "F32 or BF16".into(), got: dtype });
    };
    let words = words_of(dtype, isa).ok_or_else(|| Error::Config {
        op: OP,
        message: format!("bf16 needs a CPU with AVX-512 BF16, this one runs {}; use f32", isa.name()),
    })?;
    Ok((words, maps))
}

/// Rounds each output channel's weights to whole numbers of 8 bits, brings its bias into the output's units, and says what
/// a whole number of the sums is worth in these.
fn whole_numbers(
    values: &mut [f32],
    biases: &mut [f32],
    (input, output): (Quantization, Quantization),
) -> Result<Vec<f32>> {
    let wrong = |message: String| Err(Error::Value { op: OP, message });
    if !values.iter().chain(biases.iter()).all(|v| v.is_finite()) {
        return wrong("a weight or bias is not finite, which 8 bits can't say".into());
    }
    let products = values.len() / biases.len();
    if products > MOST_PRODUCTS {
        return wrong(format!(
            "sums of {products} products in 8 bits may not fit 32; at most {MOST_PRODUCTS} do"
        ));
    }
    let channels = values.chunks_exact_mut(products).zip(biases.iter_mut());
    let scales: Vec<f32> = channels
        .map(|(weights, bias)| {
            let largest = weights.iter().fold(0f32, |most, w| most.max(w.abs()));
            let step = if largest < 1e-30 { 1.0 } else { largest / 127.0 };
            weights.iter_mut().for_each(|w| *w = (*w / step).round());
            *bias = *bias / output.step() + f32::from(output.zero());
            step * (input.step() / output.step())
        })
        .collect();
    if !scales.iter().chain(biases.iter()).all(|v| v.is_finite()) {
        return wrong(format!("weights or biases are too large for an output of {output:?}"));
    }
    Ok(scales)
}

/// Products of u8 and i8 that 32 bits hold the sum of.
const MOST_PRODUCTS: usize = 1 << 16;

fn epilogue(written: WordType, residual: Option<WordType>, relu: bool) -> Epilogue {
    // What there is at least, what stands for zero, and what a step is worth.
    let units = |words| match words {
        WordType::U8(quantization) => (0.0, f32::from(quantization.zero()), quantization.step()),
        _ => (f32::NEG_INFINITY, 0.0, 1.0),
    };
    let (least, zero, step) = units(written);
    let (_, residual_zero, residual_step) = residual.map_or((least, 0.0, step), units);
    let residual_step = residual_step / step;
    Epilogue { least: if relu { zero } else { least }, residual_step, offset: -residual_zero * residual_step }
}

/// Whether every output pixel reads the input's pixel of the same number, and no other.
fn in_place(kernel: (usize, usize), config: &Conv2dConfig) -> bool {
    kernel == (1, 1) && config.stride == 1 && config.padding == 0
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

    fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
        let difference = (a - b).unwrap().abs().unwrap();
        difference.flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
    }

    /// `conv(x)` in f32, with a residual and ReLU where asked for.
    fn fused(conv: &FusedConv, x: &Tensor, residual: Option<&Tensor>, relu: bool) -> Tensor {
        let (mut input, mut added, mut out) = <(Activations, Activations, Activations)>::default();
        let dtype = |maps| if maps == WordType::Bf16 { DType::BF16 } else { DType::F32 };
        Crew::run(|crew| {
            input.load(crew, x, dtype(conv.maps.0)).unwrap();
            if let Some(residual) = residual {
                added.load(crew, residual, dtype(conv.maps.1)).unwrap();
            }
            let fusion = Fusion { residual: residual.map(|_| &added), relu, ahead: &[conv] };
            conv.forward(crew, &input, fusion, &mut out).unwrap();
        });
        out.to_tensor().unwrap()
    }

    /// Inner products in pairs, where the CPU has adders: tiles of every size, in several tasks, of blocks of channels whole
    /// and not.
    #[test]
    fn wide_convolutions_agree_with_conv2d_and_keep_images_apart() {
        for (n, cin, cout, h, w) in [
            (0, 256, 64, 3, 3),
            (3, 256, 64, 1, 1),
            (2, 320, 128, 7, 7),
            (2, 64, 192, 9, 11),
            (2, 512, 64, 14, 17),
        ] {
            let (x, weight) = (values(&[n, cin, h, w], 1), values(&[cout, cin, 1, 1], 2));
            let (bias, residual) = (values(&[cout], 3), values(&[n, cout, h, w], 4));
            let config = Conv2dConfig::default();
            let want = conv2d(&x, &weight, &config).unwrap();
            let want = want.broadcast_add(&bias.reshape((1, (), 1, 1)).unwrap()).unwrap();
            for isa in Isa::available() {
                let conv = FusedConv::on(isa, &weight, &bias, &config, DType::F32, false).unwrap();
                assert_eq!(conv.bytes() > 4 * (cin + 1) * cout, isa.has_adders(), "not in pairs");
                let run = |x: &Tensor, residual: Option<&Tensor>, relu| fused(&conv, x, residual, relu);
                let flat = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let same = |got: Tensor, want: Tensor| {
                    for (got, want) in flat(got).into_iter().zip(flat(want)) {
                        assert!((got - want).abs() < 3e-4, "{isa:?} {n}×{cin}×{h}×{w}: {got}, not {want}");
                    }
                };
                same(run(&x, None, false), want.clone());
                same(run(&x, Some(&residual), true), (&want + &residual).unwrap().relu().unwrap());
                let together = run(&x, None, true);
                let image = |t: &Tensor, i: usize| flat(t.narrow(0, i, 1).unwrap());
                for i in 0..n {
                    let others = (0..n).map(|j| match j == i {
                        true => x.narrow(0, i, 1).unwrap(),
                        false => (x.narrow(0, j, 1).unwrap() * f64::NAN).unwrap(),
                    });
                    let spoilt = run(&Tensor::cat(&others.collect::<Vec<_>>(), 0).unwrap(), None, true);
                    let (got, alone) = (image(&spoilt, i), run(&x.narrow(0, i, 1).unwrap(), None, true));
                    assert_eq!(got, image(&together, i), "an image's result depends on the others");
                    assert_eq!(got, flat(alone), "an image's result depends on the batch");
                    let spoilt =
                        (0..n).filter(|&j| j != i).all(|j| image(&spoilt, j).iter().all(|y| y.is_nan()));
                    assert!(spoilt, "NaN is lost");
                }
                for threads in [1, 5] {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    let got = pool.install(|| run(&x, None, true));
                    assert_eq!(flat(got), flat(together.clone()), "{threads} threads");
                }
            }
        }
    }

    /// The error of a wide convolution is that of plain sums, but for a small factor, however large pixels are beside
    /// weights, and one pixel or output channel beside another; ReLU's outputs, which are never negative, are no worse.
    #[test]
    fn wide_convolutions_keep_their_precision_at_any_scale() {
        let (pixels, cin, cout) = (30, 1024, 32);
        for (x_scale, weight_scale, relu) in [
            (1.0, 0.03, true),
            (1e5, 1e-4, false),
            (1e-5, 1e3, true),
            (1e10, 1e-12, false),
            (1e-15, 1e10, true),
        ] {
            // By seven orders of magnitude from one pixel to the next, and by three from one channel's weights to the next.
            let apart =
                |len: usize, by: f32| -> Vec<f32> { (0..len).map(|i| by.powi((i % 2) as i32)).collect() };
            let scales = Tensor::from_vec(apart(pixels, 1e7), (1, 1, 1, pixels), &Device::Cpu).unwrap();
            let x = (values(&[1, cin, 1, pixels], 1) * x_scale).unwrap().broadcast_mul(&scales).unwrap();
            let x = if relu { x.relu().unwrap() } else { x };
            let scales = Tensor::from_vec(apart(cout, 1e3), (cout, 1, 1, 1), &Device::Cpu).unwrap();
            let weight = (values(&[cout, cin, 1, 1], 2) * weight_scale).unwrap();
            let weight = weight.broadcast_mul(&scales).unwrap();
            let bias = Tensor::zeros(cout, DType::F32, &Device::Cpu).unwrap();
            let config = Conv2dConfig::default();
            let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
            let want = conv2d(&wide(&x), &wide(&weight), &config).unwrap();
            let norms = |t: &Tensor, dims: [usize; 3]| {
                wide(t).sqr().unwrap().sum_keepdim(dims.as_slice()).unwrap().sqrt().unwrap()
            };
            let norms = norms(&weight, [1, 2, 3])
                .reshape((1, cout, 1, 1))
                .unwrap()
                .broadcast_mul(&wide(&x).sqr().unwrap().sum_keepdim(1).unwrap().sqrt().unwrap())
                .unwrap();
            for isa in Isa::available() {
                let conv = FusedConv::on(isa, &weight, &bias, &config, DType::F32, false).unwrap();
                let error = (wide(&fused(&conv, &x, None, false)) - &want).unwrap().abs().unwrap();
                let error = error.broadcast_div(&norms).unwrap().flatten_all().unwrap();
                let error = error.max(0).unwrap().to_scalar::<f64>().unwrap();
                assert!(error < 2e-7, "{isa:?}, {x_scale} by {weight_scale}: {error:e} of the norms");
            }
        }
    }

    /// Whole numbers that bf16 has, whose sums it has not, come out exactly, whatever the kernel, and with a residual of f32.
    #[test]
    fn sums_that_are_written_in_f32_are_not_rounded() {
        let whole = |dims: &[usize], seed| (values(dims, seed) * 40.0).unwrap().round().unwrap();
        let flat = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let pad = Conv2dConfig { padding: 1, ..Default::default() };
        for (c, k, kernel, groups, config) in [
            (200, 37, 1, 1, Conv2dConfig::default()),
            (31, 64, 1, 1, Conv2dConfig::default()),
            (32, 32, 3, 8, pad),
            (64, 64, 3, 2, pad),
            (6, 20, 3, 1, pad),
        ] {
            let config = Conv2dConfig { groups, ..config };
            let (x, weight) = (whole(&[2, c, 5, 6], 1), whole(&[k, c / groups, kernel, kernel], 2));
            let (bias, residual) = (whole(&[k], 3), whole(&[2, k, 5, 6], 4));
            let want = crate::conv2d_with_bias(&x, &weight, &bias, &config).unwrap() + &residual;
            let want = flat(want.unwrap());
            assert!(want.iter().any(|&v| half::bf16::from_f32(v).to_f32() != v));
            for dtype in [DType::F32, DType::BF16].into_iter().filter(|&t| fused_dtype_is_supported(t)) {
                let conv = FusedConv::writing_f32(&weight, &bias, &config, dtype).unwrap();
                let got = fused(&conv, &x, Some(&residual), false);
                assert_eq!(flat(got), want, "{dtype:?} {c} to {k}, {kernel}×{kernel}");
            }
        }
        let (weight, bias) = (values(&[4, 4, 1, 1], 1), values(&[4], 2));
        assert!(FusedConv::writing_f32(&weight, &bias, &Conv2dConfig::default(), DType::U8).is_err());
    }

    /// A residual's channels come through as they are, also those that are no number, and none disturbs its neighbours.
    #[test]
    fn residuals_of_any_kind_are_added() {
        let channels = 32 + 21;
        let bias = Tensor::ones(channels, DType::F32, &Device::Cpu).unwrap();
        let weight = Tensor::zeros((channels, 4, 1, 1), DType::F32, &Device::Cpu).unwrap();
        let kinds = [f32::NAN, 0.5, f32::INFINITY, -2.0, f32::NEG_INFINITY, 1e30, -0.0];
        let residual: Vec<f32> = (0..channels).map(|i| kinds[i % kinds.len()]).collect();
        let want: Vec<f32> = residual.iter().map(|x| x + 1.0).collect();
        let residual = Tensor::from_vec(residual, (1, channels, 1, 1), &Device::Cpu).unwrap();
        for dtype in [DType::F32, DType::BF16].into_iter().filter(|&t| fused_dtype_is_supported(t)) {
            let conv = FusedConv::new(&weight, &bias, &Conv2dConfig::default(), dtype).unwrap();
            let got = fused(&conv, &values(&[1, 4, 1, 1], 3), Some(&residual), false);
            let got = got.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (i, (got, &want)) in got.into_iter().zip(&want).enumerate() {
                let close =
                    got == want || (got.is_nan() && want.is_nan()) || (got / want - 1.0).abs() < 0.004;
                assert!(close, "{dtype:?} channel {i}: {got}, expected {want}");
            }
        }
    }

    /// Images whose pixels share words, or don't, with a border, against padding; and none of another convolution's.
    #[test]
    fn a_first_convolution_reads_images() {
        for (n, c, kernel, stride, h, w) in [
            (2, 3, 7, 2, 20, 24),
            (1, 3, 7, 2, 9, 11),
            (2, 3, 3, 1, 8, 7),
            (1, 5, 4, 2, 6, 9),
            (1, 2, 3, 3, 7, 8),
        ] {
            let (x, weight) = (values(&[n, c, h, w], 1), values(&[24, c, kernel, kernel], 2));
            let bias = values(&[24], 3);
            let border = kernel / 2;
            let padded = Conv2dConfig { stride, padding: border, ..Default::default() };
            let want = crate::conv2d_with_bias(&x, &weight, &bias, &padded).unwrap();
            let config = Conv2dConfig { padding: 0, ..padded };
            for (isa, dtype, tolerance) in Isa::available()
                .into_iter()
                .flat_map(|isa| [(isa, DType::F32, 1e-4), (isa, DType::BF16, 0.1)])
                .filter(|&(isa, dtype, _)| words_of(dtype, isa).is_some())
            {
                let conv = FusedConv::on(isa, &weight, &bias, &config, dtype, true).unwrap();
                let (mut images, mut out) = (Images::new(), Activations::new());
                for x in [
                    &x,
                    &x.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap().permute((0, 3, 1, 2)).unwrap(),
                ] {
                    Crew::run(|crew| {
                        images.load(crew, x, &conv, border).unwrap();
                        conv.forward_images(crew, &images, Fusion::default(), &mut out).unwrap();
                    });
                    let largest = largest_difference(&out.to_tensor().unwrap(), &want);
                    assert!(largest < tolerance, "{isa:?} {dtype:?} {c}×{kernel}: {largest}");
                }
                let other = FusedConv::on(isa, &weight, &bias, &config, dtype, false).unwrap();
                let wide = values(&[n, c + 1, h, w], 1);
                let result = Crew::run(|crew| Images::new().load(crew, &wide, &conv, border));
                assert!(result.unwrap_err().to_string().contains("channels, got"));
                if conv.apart != other.apart {
                    let result =
                        Crew::run(|crew| other.forward_images(crew, &images, Fusion::default(), &mut out));
                    assert!(result.unwrap_err().to_string().contains("channels apart"));
                }
            }
        }
    }

    /// Rows of words are not tiles, though they look like groups with as many channels in as out.
    #[test]
    fn few_channels_become_three_times_as_many() {
        for channels in [8, 16] {
            let (x, weight) = (values(&[1, channels, 6, 7], 1), values(&[3 * channels, channels, 3, 3], 2));
            let (config, bias) = (Conv2dConfig::default(), values(&[3 * channels], 3));
            let want = crate::conv2d_with_bias(&x, &weight, &bias, &config).unwrap();
            for isa in Isa::available() {
                let conv = FusedConv::on(isa, &weight, &bias, &config, DType::F32, false).unwrap();
                let largest = largest_difference(&fused(&conv, &x, None, false), &want);
                assert!(largest < 1e-4, "{isa:?}: {largest}");
            }
        }
    }

    /// Winograd's tiles: whole numbers come out exactly as candle's own operations give them, whatever the border, the
    /// sides and the width of a group.
    #[test]
    fn tiles_are_exact_on_whole_numbers_and_keep_images_apart() {
        for (n, d, groups, h, w, padding) in [
            (0, 16, 2, 5, 5, 1),
            (1, 8, 4, 1, 1, 1),
            (2, 8, 2, 6, 5, 2),
            (2, 8, 4, 5, 5, 1),
            (1, 8, 2, 2, 5, 1),
            (2, 16, 2, 23, 21, 1),
            (2, 16, 2, 2, 3, 1),
            (3, 16, 1, 7, 7, 1),
            (2, 32, 2, 9, 6, 0),
            (1, 64, 2, 14, 15, 1),
            (1, 128, 1, 3, 4, 1),
        ] {
            let whole = |dims: &[usize], seed| (values(dims, seed) * 4.0).unwrap().round().unwrap();
            let (x, weight) = (whole(&[n, d * groups, h, w], 1), whole(&[d * groups, d, 3, 3], 2));
            let bias = whole(&[d * groups], 3);
            let config = Conv2dConfig { stride: 1, padding, dilation: 1, groups };
            let want = match n {
                0 => values(&[0, d * groups, h, w], 0),
                _ => crate::conv2d_composite(&x, &weight, &config).unwrap(),
            };
            let want = want.broadcast_add(&bias.reshape((1, (), 1, 1)).unwrap()).unwrap();
            let residual = whole(want.dims(), 4);
            let with_residual = (&want + &residual).unwrap().relu().unwrap();
            let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for isa in Isa::available() {
                let conv = FusedConv::on(isa, &weight, &bias, &config, DType::F32, false).unwrap();
                assert!(conv.packed.tiled(), "{isa:?} {d}");
                let run =
                    |x: &Tensor, residual: Option<&Tensor>| fused(&conv, x, residual, residual.is_some());
                for threads in [1, 5] {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    let (plain, added) = pool.install(|| (run(&x, None), run(&x, Some(&residual))));
                    assert_eq!(flat(&plain), flat(&want), "{isa:?} {n}×{d}×{groups}, {h}×{w}");
                    assert_eq!(flat(&added), flat(&with_residual), "{isa:?} {n}×{d}×{groups}, {h}×{w}");
                }
                let fractions = values(x.dims(), 5);
                let together = run(&fractions, None);
                let pool = rayon::ThreadPoolBuilder::new().num_threads(5).build().unwrap();
                assert_eq!(flat(&pool.install(|| run(&fractions, None))), flat(&together), "5 threads");
                for i in 0..n {
                    let alone = run(&fractions.narrow(0, i, 1).unwrap(), None);
                    assert_eq!(flat(&alone), flat(&together.narrow(0, i, 1).unwrap()), "image {i} alone");
                }
                if n > 1 {
                    let nan = (x.narrow(0, 0, 1).unwrap() * f64::NAN).unwrap();
                    let got = run(&Tensor::cat(&[nan, x.narrow(0, 1, n - 1).unwrap()], 0).unwrap(), None);
                    let rest = |t: &Tensor| flat(&t.narrow(0, 1, n - 1).unwrap());
                    assert_eq!(rest(&got), rest(&want), "NaN reached another image");
                    assert!(flat(&got.narrow(0, 0, 1).unwrap()).iter().all(|y| y.is_nan()));
                }
            }
        }
    }

    /// How far 8-bit outputs are from sums of f64, in steps of the output, where weights are multiples of a 127th of the
    /// largest: half of one, as sums are exact, unless they are beyond the ends.
    fn quantized_error(
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        config: &Conv2dConfig,
        residual: Option<&Tensor>,
        relu: bool,
    ) -> f64 {
        let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
        let ((cout, rest), dims) =
            ((weight.dims()[0], weight.dims()[1..].iter().product::<usize>()), weight.dims());
        let whole = (weight * 127.0).unwrap().round().unwrap().reshape((cout, rest)).unwrap();
        let first = Tensor::full(-127f32, (cout, 1), &Device::Cpu).unwrap();
        let whole = Tensor::cat(&[&first, &whole.narrow(1, 1, rest - 1).unwrap()], 1).unwrap();
        let weight = (whole.reshape(dims).unwrap() / 127.0).unwrap();
        let input = Quantization::positive(1.0).unwrap();
        let output = if relu { Quantization::positive(3.0) } else { Quantization::signed(3.0) }.unwrap();
        let conv = FusedConv::quantized(&weight, bias, config, input, output).unwrap();
        let maps = |t: &Tensor, quantization| {
            let (mut loaded, mut maps) = <(Activations, Activations)>::default();
            Crew::run(|crew| {
                loaded.load(crew, t, DType::F32).unwrap();
                assert!(maps.quantize(crew, &loaded, quantization).unwrap());
            });
            maps
        };
        let x = maps(&x.abs().unwrap(), input);
        let residual = residual.map(|r| maps(r, Quantization::signed(1.2).unwrap()));
        let mut out = Activations::new();
        let fusion = Fusion { residual: residual.as_ref(), relu, ahead: &[&conv] };
        Crew::run(|crew| conv.forward(crew, &x, fusion, &mut out)).unwrap();
        let mut want = conv2d(&wide(&x.to_tensor().unwrap()), &wide(&weight), config).unwrap();
        want = want.broadcast_add(&wide(bias).reshape((1, (), 1, 1)).unwrap()).unwrap();
        if let Some(residual) = residual {
            want = (want + wide(&residual.to_tensor().unwrap())).unwrap();
        }
        let (step, zero) = (f64::from(output.step()), f64::from(output.zero()));
        let steps = |t: &Tensor| ((wide(t) / step).unwrap() + zero).unwrap();
        let want = steps(&want).clamp(0.0, 255.0).unwrap();
        let error = (steps(&out.to_tensor().unwrap()) - want).unwrap().abs().unwrap();
        error.flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
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
            let greatest = want.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
            let (mut input, mut added, mut out) = <(Activations, Activations, Activations)>::default();
            for (isa, dtype) in Isa::available().into_iter().flat_map(|isa| [(isa, DType::F32), (isa, DType::BF16)]) {
                if words_of(dtype, isa).is_none() {
                    continue;
                }
                let conv = FusedConv::on(isa, &weight, &bias, &config, dtype, false).unwrap();
                Crew::run(|crew| {
                    input.load(crew, &x, dtype).unwrap();
                    added.load(crew, &residual, dtype).unwrap();
                    let fusion = Fusion { residual: with_residual.then_some(&added), relu, ahead: &[&conv] };
                    conv.forward(crew, &input, fusion, &mut out).unwrap();
                });
                let largest = largest_difference(&out.to_tensor().unwrap(), &want);
                // bf16: inputs, weights and result are rounded to 8 bits each.
                let terms = (group_in * kernel * kernel) as f32;
                let tolerance = match dtype {
                    DType::F32 => 2e-4,
                    _ => 2f32.powi(-8) * (3.0 * terms.sqrt() + 4.0 + greatest),
                };
                prop_assert!(largest < tolerance, "{isa:?} {dtype:?}: {largest}");
            }
            if fused_dtype_is_supported(DType::U8) {
                let residual = with_residual.then_some(&residual);
                let error = quantized_error(&x, &weight, &bias, &config, residual, relu);
                prop_assert!(error < 0.501, "{error} steps");
            }
        }
    }
}
