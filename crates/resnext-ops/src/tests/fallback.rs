//! Convolution by candle's operations against the CPU kernels and the definition.

use crate::shape::conv_shape;
use crate::tests::common::{cases, error, fill, in_layout, reference_conv, values};
use crate::train::conv2d::conv2d;
use crate::train::fallback;
use candle_core::{Tensor, Var};
use proptest::prelude::*;
use resnext_kernels::Conv2dConfig;

pub(super) fn fallback_conv2d(x: &Tensor, weight: &Tensor, config: &Conv2dConfig) -> Tensor {
    let shape = conv_shape("conv2d", x.shape(), weight.shape(), config).unwrap();
    fallback::conv2d(x, weight, &shape).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, rng_seed: proptest::test_runner::RngSeed::Fixed(1), failure_persistence: None, ..Default::default() })]

    #[test]
    fn forward_is_the_definition(case in cases()) {
        let (x, weight) = (in_layout(&fill(&case.x, 1), case.layout), fill(&case.weight, 2));
        let (shape, want) = reference_conv(&x, &weight, &case.config);
        let y = fallback_conv2d(&x, &weight, &case.config);
        prop_assert_eq!(y.dims(), &shape[..]);
        prop_assert!(error(&y, &want) < 1e-13);
    }

    /// Their gradients are adjoint to the forward pass, and those of the kernels.
    #[test]
    fn gradients_are_adjoints_and_those_of_the_kernels(case in cases()) {
        let x = Var::from_tensor(&fill(&case.x, 1)).unwrap();
        let weight = Var::from_tensor(&fill(&case.weight, 2)).unwrap();
        let g = fill(&reference_conv(&x, &weight, &case.config).0, 3);
        let gradients = |y: Tensor| {
            let grads = (y * &g).unwrap().sum_all().unwrap().backward().unwrap();
            (values(grads.get(&x).unwrap()), values(grads.get(&weight).unwrap()))
        };
        let (dx, dw) = gradients(fallback_conv2d(&in_layout(&x, case.layout), &weight, &case.config));
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let (x2, w2) = (fill(&case.x, 11), fill(&case.weight, 12));
        let by_x = dot(&values(&g), &reference_conv(&x2, &weight, &case.config).1);
        let by_w = dot(&values(&g), &reference_conv(&x, &w2, &case.config).1);
        prop_assert!((dot(&dx, &values(&x2)) - by_x).abs() < 1e-9 * (1.0 + by_x.abs()));
        prop_assert!((dot(&dw, &values(&w2)) - by_w).abs() < 1e-9 * (1.0 + by_w.abs()));
        let kernels = gradients(conv2d(&in_layout(&x, case.layout), &weight, &case.config).unwrap());
        let same = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-10 * (1.0 + b.abs()));
        prop_assert!(same(&kernels.0, &dx) && same(&kernels.1, &dw));
    }
}
