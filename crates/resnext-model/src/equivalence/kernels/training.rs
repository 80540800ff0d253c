//! Training's kernels: a convolution and both of its gradients.

use super::definition::{Definition, Sums};
use super::integers::{Integers, of_integers};
use super::proofs::{Proofs, Run};
use crate::error::Result;
use candle_core::{DType, Device, Shape, Tensor};
use resnext_ops::{ConvKernel, conv2d, conv2d_gradients, conv2d_kernels};

/// The types that training computes in.
const TYPES: [DType; 3] = [DType::F64, DType::F32, DType::BF16];

/// The kernels of the forward pass and of both gradients, in every type.
pub(super) fn kernels(definition: &Definition) -> Result<Vec<ConvKernel>> {
    let mut all = Vec::new();
    for dtype in TYPES {
        let zeros = |shape: Shape| Tensor::zeros(shape, dtype, &Device::Cpu);
        all.extend(conv2d_kernels(
            &zeros(definition.x())?,
            &zeros(definition.weight())?,
            &definition.config,
        )?);
    }
    Ok(all)
}

/// Compares one trial's convolution and gradients with the sums that are expected of them.
pub(super) fn compare(
    definition: &Definition,
    integers: &Integers,
    expected: &Sums,
    proofs: &mut Proofs,
) -> Result<()> {
    let Integers { x, weight, gradient, .. } = integers;
    for dtype in TYPES {
        let x = of_integers(x, definition.x(), dtype)?;
        let weight = of_integers(weight, definition.weight(), dtype)?;
        let kernels = conv2d_kernels(&x, &weight, &definition.config)?;
        let gradient = of_integers(gradient, definition.y(), dtype)?;
        let y = conv2d(&x, &weight, &definition.config)?;
        let (of_x, of_weight) = conv2d_gradients(&x, &weight, &gradient, &definition.config)?;
        let passes =
            ["training, forward", "training, gradient of the input", "training, gradient of the weight"];
        for (i, (got, sums)) in [y, of_x, of_weight].iter().zip(expected.each()).enumerate() {
            let expected = of_integers(sums, got.dims(), dtype)?;
            let run =
                Run { operation: passes[i], dtype, kernel: kernels[i], shows_all: dtype != DType::BF16 };
            proofs.compare(run, definition, &expected, got)?;
        }
    }
    Ok(())
}
