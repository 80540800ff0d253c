//! Convolutions made ready for inference.

use crate::element::{map_type_of, precision_of};
use crate::error::{Error, Result};
use crate::infer::feature_map::Activations;
use crate::infer::input::Images;
use crate::infer::int8::{OP, whole_numbers};
use crate::infer::rows::row_words;
use crate::layout::row_major;
use candle_core::{DType, Device, Storage, Tensor};
use resnext_kernels::{
    Conv2dConfig, Epilogue, Filter, Isa, Job, MapType, Packed, Pixels, Precision, Quantization, Row,
    SourceTable, Sources, ThreadTeam, Tiling,
};
use std::borrow::Cow;
use std::mem::discriminant;
use std::sync::{Arc, Mutex, PoisonError};

/// A convolution whose weights are packed for this machine's instruction set, with a bias, and with a
/// residual and ReLU in the same pass where asked for.
#[derive(Debug)]
pub struct FusedConv {
    pub(crate) packed: Packed,
    /// Of the maps it reads and of those it writes.
    pub(crate) maps: (MapType, MapType),
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

/// What a convolution reads.
struct Source<'a> {
    data: &'a [f32],
    size: [usize; 4],
    words: MapType,
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
    precision_of(dtype, Isa::current()).is_some()
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
        Self::pack(words.writing_f32(), (maps, MapType::F32), weight, bias, config, false)
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
        let words = precision_of(DType::U8, isa).ok_or_else(|| Error::Config {
            op: OP,
            message: format!("8 bits need a CPU with AVX-512 VNNI, this one runs {}; use f32", isa.name()),
        })?;
        if input.zero() != 0 {
            let message = format!("expected an input whose zero is 0, got {input:?}");
            return Err(Error::Config { op: OP, message });
        }
        Self::pack(words, (MapType::U8(input), MapType::U8(output)), weight, bias, config, false)
    }

    pub(crate) fn on(
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
        words: Precision,
        maps: (MapType, MapType),
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
        if let (MapType::U8(input), MapType::U8(output)) = maps {
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
    pub(crate) fn reads(&self) -> MapType {
        self.maps.0
    }

    /// `out = conv(x) + bias`, and what `fusion` says.
    ///
    /// # Errors
    /// If `x` is of another type or has other channels than the weight, or is smaller than the kernel, or
    /// the residual does not have the output's sizes.
    pub fn forward(
        &self,
        team: &ThreadTeam,
        x: &Activations,
        fusion: Fusion,
        out: &mut Activations,
    ) -> Result<()> {
        let Activations { size, words, stride, .. } = *x;
        let source = Source { data: &x.data, size, words, apart: stride * words.channels() };
        self.convolve(team, source, fusion, out)
    }

    /// [`forward`](Self::forward), of images.
    ///
    /// # Errors
    /// As `forward`, and if they were loaded for another convolution.
    pub fn forward_images(
        &self,
        team: &ThreadTeam,
        x: &Images,
        fusion: Fusion,
        out: &mut Activations,
    ) -> Result<()> {
        let Images { ref data, size, words, apart } = *x;
        if apart != self.apart {
            let message = format!("expected images with pixels {} channels apart, got {apart}", self.apart);
            return Err(Error::Config { op: OP, message });
        }
        self.convolve(team, Source { data, size, words, apart }, fusion, out)
    }

    fn convolve(&self, team: &ThreadTeam, x: Source, fusion: Fusion, out: &mut Activations) -> Result<()> {
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
            self.packed.convolve(team, Sources::Same, job);
            return Ok(());
        }
        match &*self.plan(&x, &size) {
            Plan::Table(table) => self.packed.convolve(team, Sources::Table(table), job),
            Plan::Tiles(tiling) => self.packed.convolve(team, Sources::Tiles(tiling), job),
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
        let plan = if self.packed.is_winograd() {
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
fn floats(isa: Isa, dtype: DType) -> Result<(Precision, MapType)> {
    let Some(maps) = map_type_of(dtype) else {
        return Err(Error::DType { op: OP, input: "maps", expected: "F32 or BF16".into(), got: dtype });
    };
    let words = precision_of(dtype, isa).ok_or_else(|| Error::Config {
        op: OP,
        message: format!("bf16 needs a CPU with AVX-512 BF16, this one runs {}; use f32", isa.name()),
    })?;
    Ok((words, maps))
}

fn epilogue(written: MapType, residual: Option<MapType>, relu: bool) -> Epilogue {
    // What there is at least, what stands for zero, and what a step is worth.
    let units = |words| match words {
        MapType::U8(quantization) => (0.0, f32::from(quantization.zero()), quantization.step()),
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
