//! The parts of channel attention: a convolution along the channels, the sigmoid, and the product of maps with one
//! factor per image and channel.

use crate::devices::{Backend, has_kernel};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::layout::{channels_last, from_nhwc, row_major, to_nhwc};
use crate::shape::check_rank;
use crate::train::tape::{Output, apply2, needs_gradient, record, recording};
use crate::train::upcast::with_upcast;
use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};
use rayon::prelude::*;

/// 1 / (1 + exp(-x)), of any shape.
///
/// # Errors
/// If candle fails.
pub fn sigmoid(x: &Tensor) -> Result<Tensor> {
    let of = |x: &Tensor| -> candle_core::Result<Tensor> { (x.neg()?.exp()? + 1.0)?.recip() };
    if !(recording() && has_kernel(x)) {
        return Ok(of(x)?);
    }
    let y = of(&x.detach())?;
    if needs_gradient("sigmoid", x)? {
        let (x, s) = (x.clone(), y.detach());
        record(&y, move |g| Ok(vec![(x.clone(), Some((g * (&s * (1.0 - &s)?)?)?))]));
    }
    Ok(y)
}

/// Convolves the channels of `x` (N, C), in their order, with `weight` (1, 1, k), where k is odd; beyond the
/// first and the last channel are zeros. Returns (N, C). Efficient channel attention (Wang et al.,
/// arXiv 1910.03151, section 3.2) consists of this.
///
/// # Errors
/// If `x` does not have two dimensions, or `weight` is not (1, 1, k) with an odd k.
pub fn conv1d_channels(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let wrong = |input, expected: &str, t: &Tensor| Error::Shape {
        op: "conv1d_channels",
        input,
        expected: expected.into(),
        got: t.shape().clone(),
    };
    let (_, channels) = x.dims2().map_err(|_| wrong("x", "(N, C)", x))?;
    let kernel = match weight.dims() {
        &[1, 1, kernel] if kernel % 2 == 1 => kernel,
        _ => return Err(wrong("weight", "[1, 1, k] with an odd k", weight)),
    };
    let taped = recording() && has_kernel(x);
    let own = |t: &Tensor| if taped { t.detach() } else { t.clone() };
    let padded = own(x).pad_with_zeros(1, kernel / 2, kernel / 2)?;
    let weights = own(weight).flatten_all()?;
    let y = correlated(&padded, &weights, channels)?;
    if taped && needs_gradient("conv1d_channels", x)? | needs_gradient("conv1d_channels", weight)? {
        let (x, weight) = (x.clone(), weight.clone());
        record(&y, move |g| {
            let reversed: Vec<Tensor> =
                (0..kernel).rev().map(|j| weights.narrow(0, j, 1)).collect::<candle_core::Result<_>>()?;
            let around = g.pad_with_zeros(1, kernel / 2, kernel / 2)?;
            let of_x = correlated(&around, &Tensor::cat(&reversed, 0)?, channels)?;
            let product = |j| (g * padded.narrow(1, j, channels)?)?.sum_all()?.reshape((1,));
            let of_weight: Vec<Tensor> = (0..kernel).map(product).collect::<candle_core::Result<_>>()?;
            let of_weight = Tensor::cat(&of_weight, 0)?.reshape(weight.shape())?;
            Ok(vec![(x.clone(), Some(of_x)), (weight.clone(), Some(of_weight))])
        });
    }
    Ok(y)
}

/// Σ_j weights[j] · padded[n, c + j], for `channels` values of c.
fn correlated(padded: &Tensor, weights: &Tensor, channels: usize) -> candle_core::Result<Tensor> {
    let part = |j: usize| padded.narrow(1, j, channels)?.broadcast_mul(&weights.narrow(0, j, 1)?);
    (1..weights.dim(0)?).try_fold(part(0)?, |sum, j| sum + part(j)?)
}

/// Multiplies each channel of each image of `x` (N, C, H, W) by its factor, of `factors` (N, C). Both get
/// gradients.
///
/// # Errors
/// If `x` does not have four dimensions, or `factors` are not (N, C) of x's type.
pub fn gate_channels(x: &Tensor, factors: &Tensor) -> Result<Tensor> {
    const OP: &str = "gate_channels";
    check_rank(OP, x)?;
    let (n, c, ..) = x.dims4()?;
    if factors.dims() != [n, c] {
        let expected = format!("[{n}, {c}], one factor per image and channel");
        return Err(Error::Shape { op: OP, input: "factors", expected, got: factors.shape().clone() });
    }
    if factors.dtype() != x.dtype() {
        let expected = format!("{:?}, the type of x", x.dtype());
        return Err(Error::DType { op: OP, input: "factors", expected, got: factors.dtype() });
    }
    if Backend::of(x) == Backend::Cpu {
        return apply2(x, factors, Gate, Output::ChannelsLast);
    }
    let taped = recording() && has_kernel(x);
    let own = |t: &Tensor| if taped { t.detach() } else { t.clone() };
    let (maps, wide) = (to_nhwc(&own(x))?, own(factors).reshape((n, 1, 1, c))?);
    let y = from_nhwc(&maps.broadcast_mul(&wide)?)?;
    if taped && needs_gradient(OP, x)? | needs_gradient(OP, factors)? {
        let (x, factors) = (x.clone(), factors.clone());
        record(&y, move |g| {
            let g = to_nhwc(g)?;
            let of_factors = (&g * &maps)?.sum((1, 2))?;
            Ok(vec![
                (x.clone(), Some(from_nhwc(&g.broadcast_mul(&wide)?)?)),
                (factors.clone(), Some(of_factors)),
            ])
        });
    }
    Ok(y)
}

/// `x · factors`, channel by channel.
struct Gate;

impl CustomOp2 for Gate {
    fn name(&self) -> &'static str {
        "gate_channels"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        fn inner<T: Element>(
            s1: &CpuStorage,
            l1: &Layout,
            s2: &CpuStorage,
            l2: &Layout,
        ) -> candle_core::Result<(CpuStorage, Shape)> {
            let (x, factors) = (channels_last::<T>(s1, l1)?, row_major::<T>(s2, l2)?);
            let (n, c, h, w) = l1.shape().dims4()?;
            let mut y = vec![T::ZERO; n * h * w * c];
            // A task is a row of pixels.
            let rows = y.par_chunks_mut((w * c).max(1)).zip(x.par_chunks((w * c).max(1)));
            rows.enumerate().for_each(|(row, (y, x))| {
                let factors = &factors[row / h * c..][..c];
                for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                    for ((y, &x), &factor) in y.iter_mut().zip(x).zip(factors) {
                        *y = x * factor;
                    }
                }
            });
            Ok((T::to_cpu_storage_owned(y), (n, h, w, c).into()))
        }
        with_upcast!([s1, s2], inner(s1, l1, s2, l2))
    }

    fn bwd(
        &self,
        x: &Tensor,
        factors: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = from_nhwc(grad)?;
        let of_x = from_nhwc(&grad.apply_op2_no_bwd(factors, &Gate)?)?;
        Ok((Some(of_x), Some(x.apply_op2_no_bwd(&grad, &ChannelProducts)?)))
    }
}

/// The sum over each image's pixels of the products of two maps (N, C, H, W): (N, C).
struct ChannelProducts;

impl CustomOp2 for ChannelProducts {
    fn name(&self) -> &'static str {
        "gate_channels-gradient"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        fn inner<T: Element>(
            s1: &CpuStorage,
            l1: &Layout,
            s2: &CpuStorage,
            l2: &Layout,
        ) -> candle_core::Result<(CpuStorage, Shape)> {
            let (a, b) = (channels_last::<T>(s1, l1)?, channels_last::<T>(s2, l2)?);
            let (n, c, h, w) = l1.shape().dims4()?;
            let image = (h * w * c).max(1);
            let mut sums = vec![T::ZERO; n * c];
            let images = a.par_chunks(image).zip(b.par_chunks(image));
            sums.par_chunks_mut(c.max(1)).zip(images).for_each(|(sums, (a, b))| {
                for (a, b) in a.chunks_exact(c).zip(b.chunks_exact(c)) {
                    for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
                        *sum += a * b;
                    }
                }
            });
            Ok((T::to_cpu_storage_owned(sums), (n, c).into()))
        }
        with_upcast!([s1, s2], inner(s1, l1, s2, l2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::tape::vjp;
    use candle_core::{DType, Device, Var};

    fn waves(shape: &[usize], step: f64) -> Tensor {
        let count: usize = shape.iter().product();
        let values = (0..count).map(|i| (i as f64 * step).sin()).collect::<Vec<_>>();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn values(x: &Tensor) -> Vec<f64> {
        x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    /// The attention of a block, by the tape and by candle's own operations and graph.
    #[test]
    fn values_and_gradients_are_those_of_candles_operations() {
        let x = Var::from_tensor(&waves(&[2, 5, 3, 4], 0.7)).unwrap();
        let means = Var::from_tensor(&waves(&[2, 5], 1.3)).unwrap();
        let weight = Var::from_tensor(&waves(&[1, 1, 3], 2.1)).unwrap();
        let g = waves(&[2, 5, 3, 4], 0.3);
        let ours = || gate_channels(&x, &sigmoid(&conv1d_channels(&means, &weight)?)?);
        let (y, gradients) = vjp(ours, &g).unwrap();

        let padded = means.pad_with_zeros(1, 1, 1).unwrap().reshape((2, 1, 7)).unwrap();
        let logits = padded.conv1d(&weight, 0, 1, 1, 1).unwrap().reshape((2, 5, 1, 1)).unwrap();
        let factors = (logits.neg().unwrap().exp().unwrap() + 1.0).unwrap().recip().unwrap();
        let want = x.broadcast_mul(&factors).unwrap();
        let graph = (&want * &g).unwrap().sum_all().unwrap().backward().unwrap();
        let outside_a_tape = ours().unwrap();
        let own_graph = (&outside_a_tape * &g).unwrap().sum_all().unwrap().backward().unwrap();
        let close = |a: &Tensor, b: &Tensor| {
            assert_eq!(a.dims(), b.dims());
            assert!(values(a).iter().zip(values(b)).all(|(a, b)| (a - b).abs() < 1e-12), "{a} {b}");
        };
        close(&y, &want);
        for var in [&x, &means, &weight] {
            close(gradients.get(var).unwrap(), graph.get(var).unwrap());
            close(own_graph.get(var).unwrap(), graph.get(var).unwrap());
        }
        let error = gate_channels(&x, &means.t().unwrap()).unwrap_err().to_string();
        assert!(error.contains("one factor per image and channel"), "{error}");
        let error = conv1d_channels(&means, &waves(&[1, 1, 2], 1.0)).unwrap_err().to_string();
        assert!(error.contains("with an odd k"), "{error}");
    }
}
