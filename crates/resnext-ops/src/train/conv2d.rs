//! Grouped 2-D convolution as one operation with gradients.

#[cfg(feature = "cuda")]
use crate::devices::cuda::{conv as cuda_conv, memory as cuda_memory};
#[cfg(feature = "metal")]
use crate::devices::metal::launch as metal;
use crate::devices::{Backend, is_master};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::layout::{channels_last, contiguous, from_nhwc, row_major, to_nhwc};
use crate::shape::conv_shape;
use crate::train::cast::cast;
use crate::train::fallback;
use crate::train::tape::{Output, apply2, apply3, needs_gradient};
use crate::train::upcast::with_upcast;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, DType, Layout, Shape, Tensor};
use resnext_kernels::{BlockSink, Conv2dConfig, ConvKernel, ConvShape, Isa, Operand, TrainKernels};

/// The operation's name in error messages.
const OP: &str = "conv2d";

/// Convolves `x` (N, Cin, H, W) with `weight` (Cout, Cin/groups, kh, kw). Returns (N, Cout, H', W').
///
/// `x` may have any strides; the result is channels-last. f32, f64 and bf16 on the CPU, and f32, bf16 and f16
/// on CUDA, run through this project's kernels, in one pass whatever the number of groups; bf16 and f16 are
/// summed in f32 and rounded once. Other types and devices take a composite of candle's operations, whose
/// number does not grow with the groups either. Both inputs get gradients.
///
/// On the CPU, 3×3 convolutions of stride 1, dilation 1 and padding 1 are computed by Winograd's algorithm
/// F(2×2, 3×3), and so is the gradient of their input, where groups have as many channels in as out, which
/// fill whole vectors and are at most 128. Rounding errors are of the same order as those of plain sums;
/// small integers come out exactly. A NaN or infinite pixel makes all results up to one pixel away NaN, and
/// possibly some that are two away.
///
/// In mixed precision, `x` is bf16 or f16 and the weight may be f32. The weight is rounded to x's type for
/// the computation, and its gradient is f32.
///
/// # Errors
/// If ranks, channels, groups and types do not fit each other, the stride, dilation or groups are
/// zero, or the kernel is larger than the padded input.
pub fn conv2d(x: &Tensor, weight: &Tensor, config: &Conv2dConfig) -> Result<Tensor> {
    let shape = conv_shape(OP, x.shape(), weight.shape(), config)?;
    let weight = &of_type("weight", weight, x)?;
    match Backend::of_conv(x, &shape) {
        Backend::Cpu | Backend::Cuda => {
            let op = Conv { shape, input_gradient: needs_gradient(OP, x)? };
            apply2(x, weight, op, Output::ChannelsLast)
        }
        Backend::Metal => {
            // The operations around it are candle's, so it goes into candle's graph too.
            let op = Conv { shape, input_gradient: x.track_op() };
            Ok(from_nhwc(&from_nhwc(&to_nhwc(x)?)?.apply_op2(&weight.contiguous()?, op)?)?)
        }
        Backend::Candle => fallback::conv2d(x, weight, &shape),
    }
}

/// The gradients of [`conv2d`]'s `x` and `weight` from the gradient (N, Cout, H', W') of its result, for
/// callers with a backward pass of their own.
///
/// # Errors
/// The errors of [`conv2d`]; also if the gradient does not have the result's shape, or no kernel computes the
/// convolution.
pub fn conv2d_gradients(
    x: &Tensor,
    weight: &Tensor,
    gradient: &Tensor,
    config: &Conv2dConfig,
) -> Result<(Tensor, Tensor)> {
    let shape = conv_shape(OP, x.shape(), weight.shape(), config)?;
    check_types(x, &[("weight", weight), ("gradient", gradient)])?;
    let output = [shape.batch, shape.out_channels, shape.out_h, shape.out_w];
    if gradient.dims() != output {
        let (expected, got) = (format!("{output:?}, the shape of the result"), gradient.shape().clone());
        return Err(Error::Shape { op: OP, input: "gradient", expected, got });
    }
    if Backend::of_conv(x, &shape) == Backend::Candle {
        let expected = "F32, F64 or BF16 on the CPU, or F32, BF16 or F16 on CUDA".to_string();
        return Err(Error::DType { op: OP, input: "x", expected, got: x.dtype() });
    }
    // The CPU's kernels read any strides, others channels-last.
    let x = if x.device().is_cpu() { x } else { &from_nhwc(&to_nhwc(x)?)? };
    let op = Conv { shape, input_gradient: true };
    let (grad_x, grad_weight) = CustomOp2::bwd(&op, x, weight, gradient, &to_nhwc(gradient)?)?;
    match (grad_x, grad_weight) {
        (Some(grad_x), Some(grad_weight)) => Ok((grad_x, grad_weight)),
        _ => unreachable!("`input_gradient` is set"),
    }
}

/// The kernels that compute [`conv2d`] on a CPU: of the forward pass, of the gradient of `x` and of the weight's.
///
/// # Errors
/// The errors of [`conv2d`]; also if no kernel of the CPU computes the convolution.
pub fn conv2d_kernels(x: &Tensor, weight: &Tensor, config: &Conv2dConfig) -> Result<[ConvKernel; 3]> {
    let shape = conv_shape(OP, x.shape(), weight.shape(), config)?;
    let isa = Isa::current();
    match (Backend::of_conv(x, &shape), x.dtype()) {
        (Backend::Cpu, DType::F64) => Ok(f64::conv_kernels(isa, &shape)),
        // bf16 is computed in f32.
        (Backend::Cpu, _) => Ok(f32::conv_kernels(isa, &shape)),
        (_, got) => {
            Err(Error::DType { op: OP, input: "x", expected: "F32, F64 or BF16 on the CPU".into(), got })
        }
    }
}

/// [`conv2d`] with a bias (Cout) added to every pixel.
///
/// # Errors
/// The errors of [`conv2d`], and if the bias is not (Cout).
pub fn conv2d_with_bias(x: &Tensor, weight: &Tensor, bias: &Tensor, config: &Conv2dConfig) -> Result<Tensor> {
    let shape = conv_shape(OP, x.shape(), weight.shape(), config)?;
    let (weight, bias) = (&of_type("weight", weight, x)?, &of_type("bias", bias, x)?);
    if bias.dims() != [shape.out_channels] {
        let expected = format!("[{}], one per output channel", shape.out_channels);
        return Err(Error::Shape { op: OP, input: "bias", expected, got: bias.shape().clone() });
    }
    match Backend::of_conv(x, &shape) {
        Backend::Cpu | Backend::Cuda => {
            let op = Conv { shape, input_gradient: needs_gradient(OP, x)? };
            apply3(x, weight, bias, op, Output::ChannelsLast)
        }
        Backend::Metal | Backend::Candle => {
            let y = conv2d(x, weight, config)?;
            Ok(y.broadcast_add(&bias.reshape((1, (), 1, 1))?)?)
        }
    }
}

/// The parameter in x's type, which it must have already unless it is an f32 master copy. CUDA's kernels take
/// a master copy as it is and round it while they read.
fn of_type(input: &'static str, parameter: &Tensor, x: &Tensor) -> Result<Tensor> {
    if is_master(parameter.dtype(), x) {
        if Backend::of(x) == Backend::Cuda {
            return Ok(parameter.clone());
        }
        return cast(parameter, x.dtype());
    }
    check_types(x, &[(input, parameter)])?;
    Ok(parameter.clone())
}

fn check_types(x: &Tensor, others: &[(&'static str, &Tensor)]) -> Result<()> {
    for &(input, other) in others {
        if other.dtype() != x.dtype() {
            let expected = format!("{:?}, the type of x", x.dtype());
            return Err(Error::DType { op: OP, input, expected, got: other.dtype() });
        }
    }
    Ok(())
}

/// The convolution as a custom op of input, weight and, as the third input, bias.
struct Conv {
    shape: ConvShape,
    /// Whether the gradient of the input is needed; that of an image is not.
    input_gradient: bool,
}

type Output4 = candle_core::Result<(CpuStorage, Shape)>;
#[cfg(feature = "cuda")]
type CudaOutput = candle_core::Result<(candle_core::CudaStorage, Shape)>;
#[cfg(feature = "metal")]
type MetalOutput = candle_core::Result<(candle_core::MetalStorage, Shape)>;

fn forward<T: Element>(
    shape: &ConvShape,
    x: (&CpuStorage, &Layout),
    weight: (&CpuStorage, &Layout),
    bias: Option<(&CpuStorage, &Layout)>,
) -> Output4 {
    let (x, weight) = (channels_last::<T>(x.0, x.1)?, row_major::<T>(weight.0, weight.1)?);
    let bias = bias.map(|(storage, layout)| row_major::<T>(storage, layout)).transpose()?;
    let sink = bias.as_ref().map_or(BlockSink::Output, |bias| BlockSink::Bias(bias));
    let (y, _) = T::conv_forward(Isa::current(), shape, Operand::Plain(&x), &weight, sink);
    Ok((T::to_cpu_storage_owned(y), (shape.batch, shape.out_h, shape.out_w, shape.out_channels).into()))
}

impl CustomOp2 for Conv {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Output4 {
        with_upcast!([s1, s2], forward(&self.shape, (s1, l1), (s2, l2), None))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s1: &candle_core::CudaStorage,
        l1: &Layout,
        s2: &candle_core::CudaStorage,
        l2: &Layout,
    ) -> CudaOutput {
        let shape = &self.shape;
        let y = cuda_conv::forward(shape, (s1, l1), (s2, l2))?;
        Ok((y, (shape.batch, shape.out_h, shape.out_w, shape.out_channels).into()))
    }

    #[cfg(feature = "metal")]
    fn metal_fwd(
        &self,
        s1: &candle_core::MetalStorage,
        l1: &Layout,
        s2: &candle_core::MetalStorage,
        l2: &Layout,
    ) -> MetalOutput {
        let shape = &self.shape;
        metal::forward(shape, (s1, &l1.permute(&[0, 2, 3, 1])?), (s2, l2))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let shape = self.shape;
        let grad = &contiguous(grad)?;
        let grad_x = self
            .input_gradient
            .then(|| from_nhwc(&grad.apply_op2_no_bwd(weight, &InputGradient(shape))?))
            .transpose()?;
        let op = WeightGradient {
            shape,
            #[cfg(feature = "cuda")]
            dtype: weight.dtype(),
        };
        let grad_weight = x.apply_op2_no_bwd(grad, &op)?;
        Ok((grad_x, Some(grad_weight)))
    }
}

impl CustomOp3 for Conv {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Output4 {
        with_upcast!([s1, s2, s3], forward(&self.shape, (s1, l1), (s2, l2), Some((s3, l3))))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s1: &candle_core::CudaStorage,
        l1: &Layout,
        s2: &candle_core::CudaStorage,
        l2: &Layout,
        s3: &candle_core::CudaStorage,
        l3: &Layout,
    ) -> CudaOutput {
        let (y, shape) = CustomOp2::cuda_fwd(self, s1, l1, s2, l2)?;
        cuda_conv::add_bias(&y, shape.elem_count(), shape.dims4()?.3, (s3, l3))?;
        Ok((y, shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (grad_x, grad_weight) = CustomOp2::bwd(self, x, weight, y, grad)?;
        let grad_bias = to_channel_sums(grad, bias.dtype())?;
        Ok((grad_x, grad_weight, Some(grad_bias)))
    }
}

/// The sum of each channel over all pixels of a tensor (N, H, W, C).
fn to_channel_sums(x: &Tensor, dtype: DType) -> candle_core::Result<Tensor> {
    #[cfg(feature = "cuda")]
    if Backend::of(x) == Backend::Cuda {
        let channels = x.dims4()?.3;
        let (storage, layout) = x.storage_and_layout();
        let sums = cuda_conv::bias_gradient((cuda_memory::cuda(&storage)?, layout), channels, dtype)?;
        return Ok(cuda_memory::tensor(sums, channels));
    }
    let wide = if x.dtype() == DType::BF16 { DType::F32 } else { x.dtype() };
    x.contiguous()?.flatten_to(2)?.to_dtype(wide)?.sum(0)?.to_dtype(dtype)
}

/// The gradient (N, H, W, Cin) of the input, from the output's (N, H', W', Cout) and the weight.
struct InputGradient(ConvShape);

impl CustomOp2 for InputGradient {
    fn name(&self) -> &'static str {
        "conv2d-input-gradient"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Output4 {
        fn inner<T: Element>(
            shape: &ConvShape,
            grad: (&CpuStorage, &Layout),
            weight: (&CpuStorage, &Layout),
        ) -> Output4 {
            let (grad, weight) = (row_major::<T>(grad.0, grad.1)?, row_major::<T>(weight.0, weight.1)?);
            let out = T::conv_input_gradient(
                Isa::current(),
                shape,
                Operand::Plain(&grad),
                &weight,
                BlockSink::Output,
            )
            .0;
            Ok((
                T::to_cpu_storage_owned(out),
                (shape.batch, shape.in_h, shape.in_w, shape.in_channels).into(),
            ))
        }
        with_upcast!([s1, s2], inner(&self.0, (s1, l1), (s2, l2)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s1: &candle_core::CudaStorage,
        l1: &Layout,
        s2: &candle_core::CudaStorage,
        l2: &Layout,
    ) -> CudaOutput {
        let shape = &self.0;
        let gradient = cuda_conv::input_gradient(shape, (s1, l1), (s2, l2))?;
        Ok((gradient, (shape.batch, shape.in_h, shape.in_w, shape.in_channels).into()))
    }

    #[cfg(feature = "metal")]
    fn metal_fwd(
        &self,
        s1: &candle_core::MetalStorage,
        l1: &Layout,
        s2: &candle_core::MetalStorage,
        l2: &Layout,
    ) -> MetalOutput {
        metal::input_gradient(&self.0, (s1, l1), (s2, l2))
    }
}

/// The gradient of the weight, from the input (N, Cin, H, W) and the output's gradient (N, H', W', Cout).
struct WeightGradient {
    shape: ConvShape,
    /// The weight's type, which on CUDA may differ from the input's.
    #[cfg(feature = "cuda")]
    dtype: DType,
}

impl CustomOp2 for WeightGradient {
    fn name(&self) -> &'static str {
        "conv2d-weight-gradient"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Output4 {
        fn inner<T: Element>(
            shape: &ConvShape,
            x: (&CpuStorage, &Layout),
            grad: (&CpuStorage, &Layout),
        ) -> Output4 {
            let (x, grad) = (channels_last::<T>(x.0, x.1)?, row_major::<T>(grad.0, grad.1)?);
            let out =
                T::conv_weight_gradient(Isa::current(), shape, Operand::Plain(&x), Operand::Plain(&grad));
            Ok((T::to_cpu_storage_owned(out), weight_size(shape).into()))
        }
        with_upcast!([s1, s2], inner(&self.shape, (s1, l1), (s2, l2)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s1: &candle_core::CudaStorage,
        l1: &Layout,
        s2: &candle_core::CudaStorage,
        l2: &Layout,
    ) -> CudaOutput {
        let gradient = cuda_conv::weight_gradient(&self.shape, (s1, l1), (s2, l2), self.dtype)?;
        Ok((gradient, weight_size(&self.shape).into()))
    }

    #[cfg(feature = "metal")]
    fn metal_fwd(
        &self,
        s1: &candle_core::MetalStorage,
        l1: &Layout,
        s2: &candle_core::MetalStorage,
        l2: &Layout,
    ) -> MetalOutput {
        metal::weight_gradient(&self.shape, (s1, &l1.permute(&[0, 2, 3, 1])?), (s2, l2))
    }
}

fn weight_size(shape: &ConvShape) -> (usize, usize, usize, usize) {
    (shape.out_channels, shape.group_in(), shape.kernel_h, shape.kernel_w)
}
