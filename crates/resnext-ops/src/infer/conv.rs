//! Convolutions packed for inference: bias, residual and ReLU in one pass, on reused buffers.

use crate::error::{Error, Result};
use crate::infer::feature_map::FeatureMap;
use crate::infer::input::{InputFormat, InputImages};
use crate::infer::int8::quantize_weights;
use crate::infer::map_view::MapView;
use crate::layout::row_major;
use crate::shape::{check_weight, conv_sizes};
use candle_core::{DType, Device, Storage, Tensor};
use resnext_kernels::{
    Conv2dConfig, ConvJob, ConvKernel, ConvShape, Epilogue, Filter, Isa, MapType, Packed, Precision,
    Quantization, RowLayout, SourceTable, Sources, ThreadTeam, Tiling, bf16_bits,
};
use std::borrow::Cow;
use std::mem::discriminant;
use std::sync::{Arc, Mutex, PoisonError};

/// The operation's name in error messages.
const OP: &str = "fused convolution";

/// A convolution with a bias, whose weights are packed for this machine's instruction set. A residual and
/// ReLU go into the same pass where a [`Fusion`] says so.
#[derive(Debug)]
pub struct FusedConv {
    packed: Packed,
    /// The type of the maps it reads.
    pub(crate) reads: MapType,
    /// The type of the maps it writes.
    pub(crate) writes: MapType,
    config: Conv2dConfig,
    /// Cout, Cin/groups, kh and kw.
    weight: [usize; 4],
    access: Access,
    /// The source pixels of output pixels, for the last input's sizes.
    plan: Mutex<Option<(PlanKey, Arc<Plan>)>>,
}

/// How source pixels are read.
#[derive(Debug, Clone, Copy)]
struct Access {
    /// Whether a kernel row is read as one run of words, across its pixels.
    row_runs: bool,
    /// Channels from one pixel of such a run, or of an [`InputImages`] buffer, to the next.
    pixel_stride: usize,
    /// Whether a source pixel is loaded once for all output pixels of a row that it contributes to.
    neighbours: bool,
}

impl Access {
    /// The access for weights of sizes `weight`; `of_images` if pixels may follow each other without gaps.
    fn new(precision: Precision, weight: [usize; 4], config: &Conv2dConfig, of_images: bool) -> Self {
        let [_, group_in, _, kernel_w] = weight;
        let Conv2dConfig { stride, padding, dilation, groups } = *config;
        // Few channels, as an image has, would leave most of a vector of words unused.
        let row_runs = groups == 1 && kernel_w > 1 && padding == 0 && dilation == 1 && group_in <= 16;
        let narrow = groups > 1 && (3..=32).contains(&group_in);
        // Mixed input and output types exist only for the classifier, which is 1×1.
        let one_type = precision.written() == precision.channels();
        let neighbours = one_type && narrow && kernel_w == 3 && dilation == 1 && stride <= 2;
        let padded = (group_in * groups).next_multiple_of(precision.channels());
        let pixel_stride = match row_runs {
            // Pack densely when every run starts on a word boundary.
            true if of_images && (stride * group_in).is_multiple_of(precision.channels()) => group_in,
            _ => padded,
        };
        Access { row_runs, pixel_stride, neighbours }
    }
}

/// Everything that a plan depends on: N, H and W of the input, words per row, and channels per pixel.
type PlanKey = [usize; 5];

/// The source pixels of all output pixels.
#[derive(Debug)]
enum Plan {
    Table(SourceTable),
    Tiles(Tiling),
}

/// Operations fused with a convolution, after its sums and bias; none by default.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fusion<'a> {
    /// Feature maps (N, H', W', Cout), of the output's type, that are added to the output.
    pub residual: Option<&'a FeatureMap>,
    /// Whether ReLU is applied last.
    pub relu: bool,
    /// The convolutions that run next, in order. Their weights are prefetched while this one computes.
    pub ahead: &'a [&'a FusedConv],
}

/// Whether [`FusedConv`] in bf16 multiplies bf16 by the CPU's own instructions, which are those of AVX-512 BF16. Elsewhere,
/// only the weights are bf16, which halves their memory: maps are f32, and so is all arithmetic.
pub fn bf16_is_native() -> bool {
    Precision::bf16(Isa::current()).is_some()
}

impl FusedConv {
    /// Packs `weight` (Cout, Cin/groups, kh, kw) and `bias` (Cout), both f32, to compute in `dtype`, f32 or
    /// bf16. Sums are f32 either way. In bf16, weights are rounded to it, and subnormal numbers (below 1e-38) may
    /// count as zero. Maps are bf16, too, if [`bf16_is_native`]; otherwise they are f32, and the result is, to the bit,
    /// that of f32 with the rounded weights.
    ///
    /// # Errors
    /// If shapes and groups do not fit each other, or a type is not as above.
    pub fn new(weight: &Tensor, bias: &Tensor, config: &Conv2dConfig, dtype: DType) -> Result<Self> {
        Self::on(Isa::current(), weight, bias, config, dtype, false)
    }

    /// Packs `weight` and `bias` as [`new`](Self::new) does, for a convolution that reads [`InputImages`]. Their pixels
    /// then follow each other without gaps where the kernel can read them so.
    ///
    /// # Errors
    /// The same as [`new`](Self::new).
    pub fn of_images(weight: &Tensor, bias: &Tensor, config: &Conv2dConfig, dtype: DType) -> Result<Self> {
        Self::on(Isa::current(), weight, bias, config, dtype, true)
    }

    /// Packs `weight` and `bias` as [`new`](Self::new) does, for a convolution that writes f32 whatever type it reads:
    /// logits, which are compared, should not be rounded. It makes grouped 3×3 convolutions in bf16 slower.
    ///
    /// # Errors
    /// The same as [`new`](Self::new).
    pub fn writing_f32(weight: &Tensor, bias: &Tensor, config: &Conv2dConfig, dtype: DType) -> Result<Self> {
        let types = Types::floats(Isa::current(), dtype)?;
        let precision = types.precision.writing_f32();
        Self::pack(Types { precision, writes: MapType::F32, ..types }, weight, bias, config, false)
    }

    /// Packs `weight` and `bias` as [`new`](Self::new) does, for int8 maps: the convolution reads maps
    /// quantized by `input`, whose zero point must be 0, and writes maps quantized by `output`. Each output
    /// channel's weights are rounded to multiples of 1/127 of the largest sum of the magnitudes of two neighbouring ones,
    /// so that AVX2 can add their products in 16 bits. Sums are 32-bit integers, the same on every machine.
    ///
    /// # Errors
    /// The same as [`new`](Self::new); also if `input`'s zero point is not 0, a weight or bias is not finite, or an output is
    /// a sum of more than 65536 products.
    pub fn quantized(
        weight: &Tensor,
        bias: &Tensor,
        config: &Conv2dConfig,
        input: Quantization,
        output: Quantization,
    ) -> Result<Self> {
        Self::quantized_on(Isa::current(), weight, bias, config, (input, output))
    }

    pub(crate) fn quantized_on(
        isa: Isa,
        weight: &Tensor,
        bias: &Tensor,
        config: &Conv2dConfig,
        (input, output): (Quantization, Quantization),
    ) -> Result<Self> {
        if input.zero() != 0 {
            let message = format!("expected an input whose zero is 0, got {input:?}");
            return Err(Error::Config { op: OP, message });
        }
        let (reads, writes) = (MapType::U8(input), MapType::U8(output));
        let types = Types { precision: Precision::int8(isa), bf16_weights: false, reads, writes };
        Self::pack(types, weight, bias, config, false)
    }

    pub(crate) fn on(
        isa: Isa,
        weight: &Tensor,
        bias: &Tensor,
        config: &Conv2dConfig,
        dtype: DType,
        of_images: bool,
    ) -> Result<Self> {
        Self::pack(Types::floats(isa, dtype)?, weight, bias, config, of_images)
    }

    fn pack(
        types: Types,
        weight: &Tensor,
        bias: &Tensor,
        config: &Conv2dConfig,
        of_images: bool,
    ) -> Result<Self> {
        let Types { precision, bf16_weights, reads, writes } = types;
        let sizes = check_weight(OP, weight.shape(), config)?;
        for (input, t) in [("weight", weight), ("bias", bias)] {
            if t.dtype() != DType::F32 {
                return Err(Error::DType { op: OP, input, expected: "F32".into(), got: t.dtype() });
            }
        }
        let ([out_channels, group_in, kh, kw], groups) = (sizes, config.groups);
        if bias.dims() != [out_channels] {
            let expected = format!("[{out_channels}], one per output channel");
            return Err(Error::Shape { op: OP, input: "bias", expected, got: bias.shape().clone() });
        }
        let weight = weight.to_device(&Device::Cpu)?;
        let (storage, layout) = weight.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { unreachable!("on the CPU") };
        let mut values = row_major::<f32>(storage, layout)?;
        let (mut biases, mut scales) = (bias.to_vec1::<f32>()?, Vec::new());
        if bf16_weights {
            let round = |w: &mut f32| *w = f32::from_bits(u32::from(bf16_bits(*w)) << 16);
            values.to_mut().iter_mut().for_each(round);
        }
        let access = Access::new(precision, sizes, config, of_images);
        if access.row_runs {
            values = Cow::Owned(as_row_runs(&values, sizes, access.pixel_stride));
        }
        let (group_in, taps) =
            if access.row_runs { (access.pixel_stride * kw, kh) } else { (group_in, kh * kw) };
        let group_out = out_channels / groups;
        if let (MapType::U8(input), MapType::U8(output)) = (reads, writes) {
            let group = (group_in, group_out);
            scales = quantize_weights(OP, values.to_mut(), &mut biases, group, input, output)?;
        }
        let filter = Filter {
            groups,
            group_in,
            group_out,
            taps,
            columns: if access.neighbours { 3 } else { 1 },
            tiled: !access.row_runs && (kh, kw) == (3, 3) && config.stride == 1 && config.dilation == 1,
            weight: &values,
            bias: &biases,
            scales: &scales,
        };
        let packed = Packed::new(precision, &filter);
        let packed = if bf16_weights { packed.with_bf16_weights() } else { packed };
        Ok(FusedConv {
            packed,
            reads,
            writes,
            config: *config,
            weight: sizes,
            access,
            plan: Mutex::default(),
        })
    }

    /// The number of channels that the convolution reads, Cin.
    pub fn channels(&self) -> usize {
        self.weight[1] * self.config.groups
    }

    /// The kernel that computes the convolution.
    pub fn kernel(&self) -> ConvKernel {
        self.packed.kernel()
    }

    /// The type of the maps that the convolution reads: F32, BF16, or U8 for int8.
    pub fn map_dtype(&self) -> DType {
        match self.reads {
            MapType::F32 => DType::F32,
            MapType::Bf16 => DType::BF16,
            MapType::U8(_) => DType::U8,
        }
    }

    /// The size of the packed weights, in bytes.
    pub fn bytes(&self) -> usize {
        self.packed.bytes()
    }

    /// The format in which [`InputImages`] must be loaded for this convolution.
    pub fn input_format(&self) -> InputFormat {
        InputFormat {
            channels: self.channels(),
            map_type: self.reads,
            pixel_stride: self.access.pixel_stride,
        }
    }

    /// Whether Winograd's algorithm computes the convolution.
    #[cfg(test)]
    pub(crate) fn tiled(&self) -> bool {
        self.packed.is_winograd()
    }

    /// Computes `out = conv(x) + bias`, with the residual and ReLU of `fusion`, from (N, H, W, Cin) to
    /// (N, H', W', Cout). `out` is resized to the output's sizes.
    ///
    /// # Errors
    /// If `x` has another type or other channels than the weight, or is smaller than the kernel, or the
    /// residual does not have the output's sizes and type.
    pub fn forward(
        &self,
        team: &ThreadTeam,
        x: &FeatureMap,
        fusion: Fusion,
        out: &mut FeatureMap,
    ) -> Result<()> {
        self.convolve(team, x.view(), fusion, out)
    }

    /// Computes the convolution of input images, like [`forward`](Self::forward).
    ///
    /// # Errors
    /// The same as [`forward`](Self::forward); also if the images were loaded in another format than
    /// [`input_format`](Self::input_format).
    pub fn forward_images(
        &self,
        team: &ThreadTeam,
        x: &InputImages,
        fusion: Fusion,
        out: &mut FeatureMap,
    ) -> Result<()> {
        let (view, expected) = (x.view(), self.access.pixel_stride);
        if view.pixel_stride != expected {
            let message =
                format!("expected images with pixels {expected} channels apart, got {}", view.pixel_stride);
            return Err(Error::Config { op: OP, message });
        }
        self.convolve(team, view, fusion, out)
    }

    fn convolve(&self, team: &ThreadTeam, x: MapView, fusion: Fusion, out: &mut FeatureMap) -> Result<()> {
        let shape = self.check(&x)?;
        let size = [shape.batch, shape.out_h, shape.out_w, shape.out_channels];
        if let Some(residual) = fusion.residual {
            let residual = residual.view();
            if residual.size != size || discriminant(&residual.map_type) != discriminant(&self.writes) {
                let message = format!(
                    "expected a residual of {size:?} in {:?}, got {:?} in {:?}",
                    self.writes, residual.size, residual.map_type
                );
                return Err(Error::Config { op: OP, message });
            }
        }
        out.resize(size, self.writes, true);
        let ahead: Vec<&Packed> = fusion.ahead.iter().map(|conv| &conv.packed).collect();
        let residual = fusion.residual.map(FeatureMap::view);
        let job = ConvJob {
            src: x.pixels(),
            residual: residual.map(|residual| residual.pixels()),
            epilogue: epilogue(self.writes, residual.map(|residual| residual.map_type), fusion.relu),
            count: out.pixels(),
            out_stride: out.stride,
            out: &mut out.data,
            ahead: &ahead,
        };
        if reads_in_place(&shape) {
            self.packed.convolve(team, Sources::Same, job);
            return Ok(());
        }
        match &*self.plan(&x, &shape) {
            Plan::Table(table) => self.packed.convolve(team, Sources::Table(table), job),
            Plan::Tiles(tiling) => self.packed.convolve(team, Sources::Tiles(tiling), job),
        }
        Ok(())
    }

    /// The sizes of the convolution of `x`, which must have the type, channels and distances that it reads.
    fn check(&self, x: &MapView) -> Result<ConvShape> {
        let wrong = |message| Err(Error::Config { op: OP, message });
        let ([n, h, w, c], channels, read) = (x.size, self.channels(), self.reads);
        if c != channels || x.map_type != read {
            let got = x.map_type;
            return wrong(format!("expected {channels} channels of {read:?}, got {c} of {got:?}"));
        }
        let (expected, got) = (self.access.pixel_stride, x.pixel_stride);
        if self.access.row_runs && got != expected {
            return wrong(format!(
                "expected pixels {expected} channels apart, got {got}; such a convolution reads InputImages"
            ));
        }
        let shape = conv_sizes(OP, [n, c, h, w], self.weight, &self.config)?;
        if x.data.len().max(n * shape.out_h * shape.out_w) > u32::MAX as usize {
            return wrong(format!("{n} maps of {h}×{w}×{c} are too many for one batch"));
        }
        Ok(shape)
    }

    /// The source pixels of output pixels: the last input's plan, if this one has its sizes.
    fn plan(&self, x: &MapView, shape: &ConvShape) -> Arc<Plan> {
        let ([n, h, w, _], channels) = (x.size, x.map_type.channels());
        let (row, pixel_stride) = (x.row_stride(), x.pixel_stride);
        let key = [n, h, w, row, pixel_stride];
        let mut cached = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, plan)) = cached.as_ref().filter(|(of, _)| *of == key) {
            return plan.clone();
        }
        let padding = self.config.padding;
        // Where the pixel at (y, x) of a padded image begins; for padding, the pixel of zeros after the
        // last.
        let place = |image: usize, y: usize, x: usize| {
            let inside = y >= padding && x >= padding && y - padding < h && x - padding < w;
            match inside {
                true => (image * h + y - padding) * row + (x - padding) * pixel_stride / channels,
                false => n * h * row,
            }
        };
        let plan = if self.packed.is_winograd() {
            let mut tiling = Tiling::default();
            (0..n).for_each(|image| tiling.add((shape.out_h, shape.out_w), |y, x| place(image, y, x)));
            Plan::Tiles(tiling)
        } else {
            Plan::Table(self.table(shape, place))
        };
        let plan = Arc::new(plan);
        *cached = Some((key, plan.clone()));
        plan
    }

    /// Where each output pixel's source pixels begin, in the order of kernel positions.
    fn table(&self, shape: &ConvShape, place: impl Fn(usize, usize, usize) -> usize) -> SourceTable {
        let Conv2dConfig { stride, dilation, .. } = self.config;
        let ConvShape { batch, out_h, out_w, kernel_h, kernel_w, .. } = *shape;
        let columns = if self.access.row_runs { 1 } else { kernel_w };
        let mut table = Vec::with_capacity(batch * out_h * out_w * kernel_h * columns);
        for (image, y, x0) in (0..batch * out_h * out_w)
            .map(|i| (i / (out_h * out_w), i / out_w % out_h * stride, i % out_w * stride))
        {
            for ky in 0..kernel_h {
                for kx in 0..columns {
                    table.push(place(image, y + ky * dilation, x0 + kx * dilation) as u32);
                }
            }
        }
        let row = self.access.neighbours.then_some(RowLayout { width: out_w, stride });
        SourceTable::new(table, row)
    }
}

/// The types of a convolution: how kernels compute, and the maps they read and write.
struct Types {
    precision: Precision,
    /// Whether f32 kernels keep their weights in bf16.
    bf16_weights: bool,
    reads: MapType,
    writes: MapType,
}

impl Types {
    /// How kernels compute in f32 or bf16.
    fn floats(isa: Isa, dtype: DType) -> Result<Self> {
        let (native, bf16_weights) = match dtype {
            DType::F32 => (None, false),
            DType::BF16 => (Precision::bf16(isa), true),
            _ => {
                let expected = "F32 or BF16".into();
                return Err(Error::DType { op: OP, input: "maps", expected, got: dtype });
            }
        };
        Ok(match native {
            Some(precision) => {
                let maps = MapType::Bf16;
                Types { precision, bf16_weights: false, reads: maps, writes: maps }
            }
            None => {
                let maps = MapType::F32;
                Types { precision: Precision::F32(isa), bf16_weights, reads: maps, writes: maps }
            }
        })
    }
}

/// Weights (Cout, Cin, kh, kw) in the order (Cout, kw, `pixel_stride`, kh): the pixels of a kernel row become
/// one run of channels, padded with zeros from one pixel to the next.
fn as_row_runs(values: &[f32], [out_channels, cin, kh, kw]: [usize; 4], pixel_stride: usize) -> Vec<f32> {
    let mut runs = vec![0.0; out_channels * kw * pixel_stride * kh];
    for (i, &value) in values.iter().enumerate() {
        let (k, c, y, x) = (i / (cin * kh * kw), i / (kh * kw) % cin, i / kw % kh, i % kw);
        runs[((k * kw + x) * pixel_stride + c) * kh + y] = value;
    }
    runs
}

/// The last step of each sum, for maps of type `written` and a residual, if there is one, of type `residual`.
fn epilogue(written: MapType, residual: Option<MapType>, relu: bool) -> Epilogue {
    // Lower bound, zero point and step size.
    let units = |map_type| match map_type {
        MapType::U8(quantization) => (0.0, f32::from(quantization.zero()), quantization.step()),
        _ => (f32::NEG_INFINITY, 0.0, 1.0),
    };
    let (least, zero, step) = units(written);
    let (_, residual_zero, residual_step) = residual.map_or((least, 0.0, step), units);
    let residual_step = residual_step / step;
    Epilogue { least: if relu { zero } else { least }, residual_step, offset: -residual_zero * residual_step }
}

/// Whether each output pixel reads the input pixel of the same index, and no other.
fn reads_in_place(shape: &ConvShape) -> bool {
    shape.kernel_positions() == 1 && shape.config.stride == 1 && shape.config.padding == 0
}
