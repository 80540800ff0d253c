//! `conv2d` against its definition in f64; its gradients against the adjoint identity and central
//! differences.

mod common;

use candle_core::{DType, Device, Tensor, Var};
use common::{cases, error, fill, in_layout, reference_conv, values};
use proptest::prelude::*;
use resnext_ops::{Conv2dConfig, conv2d, conv2d_with_bias, is_channels_last, linear, value_and_gradients};

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, rng_seed: proptest::test_runner::RngSeed::Fixed(1), failure_persistence: None, ..Default::default() })]

    #[test]
    fn forward_is_the_definition(case in cases()) {
        let (x, weight) = (in_layout(&fill(&case.x, 1), case.layout), fill(&case.weight, 2));
        let (shape, want) = reference_conv(&x, &weight, &case.config);
        let y = conv2d(&x, &weight, &case.config).unwrap();
        prop_assert_eq!(y.dims(), &shape[..]);
        prop_assert!(is_channels_last(&y));
        prop_assert!(error(&y, &want) < 1e-13);
        let (x32, w32) = (x.to_dtype(DType::F32).unwrap(), weight.to_dtype(DType::F32).unwrap());
        let (_, want32) = reference_conv(&x32, &w32, &case.config);
        prop_assert!(error(&conv2d(&x32, &w32, &case.config).unwrap(), &want32) < 2e-6);
    }

    /// The gradients of a bilinear map are its adjoints: `<g, conv(x, w)>` must be `<dx, x>` and
    /// `<dw, w>`; for values independent of those the gradient was taken at, that pins every element.
    #[test]
    fn gradients_are_adjoints(case in cases()) {
        let x = Var::from_tensor(&fill(&case.x, 1)).unwrap();
        let weight = Var::from_tensor(&fill(&case.weight, 2)).unwrap();
        let g = fill(&reference_conv(&x, &weight, &case.config).0, 3);
        let y = conv2d(&in_layout(&x, case.layout), &weight, &case.config).unwrap();
        let grads = (y * &g).unwrap().sum_all().unwrap().backward().unwrap();
        let (dx, dw) = (values(grads.get(&x).unwrap()), values(grads.get(&weight).unwrap()));
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let (x2, w2) = (fill(&case.x, 11), fill(&case.weight, 12));
        let by_x = dot(&values(&g), &reference_conv(&x2, &weight, &case.config).1);
        let by_w = dot(&values(&g), &reference_conv(&x, &w2, &case.config).1);
        prop_assert!((dot(&dx, &values(&x2)) - by_x).abs() < 1e-9 * (1.0 + by_x.abs()));
        prop_assert!((dot(&dw, &values(&w2)) - by_w).abs() < 1e-9 * (1.0 + by_w.abs()));
    }
}

#[test]
fn gradients_match_central_differences() {
    let config = Conv2dConfig { stride: 2, padding: 1, dilation: 1, groups: 4 };
    let (x, weight, bias) = (fill(&[2, 16, 5, 4], 1), fill(&[16, 4, 3, 3], 2), fill(&[16], 3));
    let loss = |x: &Tensor, w: &Tensor, b: &Tensor| -> f64 {
        let y = conv2d_with_bias(x, w, b, &config).unwrap();
        (y.sqr().unwrap() * 0.5).unwrap().sum_all().unwrap().to_scalar().unwrap()
    };
    let vars: Vec<Var> = [&x, &weight, &bias].map(|t| Var::from_tensor(t).unwrap()).into();
    let y = conv2d_with_bias(&vars[0], &vars[1], &vars[2], &config).unwrap();
    let grads = (y.sqr().unwrap() * 0.5).unwrap().sum_all().unwrap().backward().unwrap();
    for (which, var) in vars.iter().enumerate() {
        let got = values(grads.get(var).unwrap());
        for i in (0..got.len()).step_by(7) {
            let mut sides = [0.0; 2];
            for (side, h) in sides.iter_mut().zip([1e-5, -1e-5]) {
                let mut moved = values(var);
                moved[i] += h;
                let moved = Tensor::from_vec(moved, var.shape(), &Device::Cpu).unwrap();
                let args: Vec<&Tensor> =
                    (0..3).map(|k| if k == which { &moved } else { vars[k].as_tensor() }).collect();
                *side = loss(args[0], args[1], args[2]);
            }
            let want = (sides[0] - sides[1]) / 2e-5;
            assert!(
                (got[i] - want).abs() < 1e-6 * (1.0 + want.abs()),
                "input {which} element {i}: {} {want}",
                got[i]
            );
        }
    }
}

#[test]
fn tape_and_graph_agree() {
    let config = Conv2dConfig { padding: 1, groups: 4, ..Default::default() };
    let image = fill(&[2, 16, 6, 6], 1);
    let vars: Vec<Var> = [(vec![16, 4, 3, 3], 2), (vec![10, 16], 3), (vec![10], 4)]
        .iter()
        .map(|(s, salt)| Var::from_tensor(&fill(s, *salt)).unwrap())
        .collect();
    let labels = Tensor::new(&[3u32, 9], &Device::Cpu).unwrap();
    let loss = || {
        let y = conv2d(&image, &vars[0], &config)?;
        // The same tensor used twice: its gradients must add up.
        let y = resnext_ops::add_relu(&y, &conv2d(&y, &vars[0], &config)?)?;
        let y = resnext_ops::cat_channels(std::slice::from_ref(&y))?;
        let logits = linear(&resnext_ops::global_avg_pool(&y)?, &vars[1], Some(&vars[2]))?;
        resnext_ops::cross_entropy(&logits, &labels, 0.1)
    };
    let graph = loss().unwrap();
    let want = graph.backward().unwrap();
    let (value, got) = value_and_gradients(loss).unwrap();
    assert_eq!(values(&value), values(&graph));
    for var in &vars {
        assert!(error(got.get(var).unwrap(), &values(want.get(var).unwrap())) < 1e-14);
    }
}

#[test]
fn tape_refuses_gradients_it_cannot_follow() {
    let weight = Var::from_tensor(&fill(&[4, 4, 1, 1], 1)).unwrap();
    let x = fill(&[1, 4, 2, 2], 2);
    let result = value_and_gradients(|| {
        let doubled = (weight.as_tensor() * 2.0)?;
        conv2d(&x, &doubled, &Conv2dConfig::default())
    });
    assert!(matches!(result, Err(resnext_ops::Error::Untaped { .. })));
}

#[test]
fn wrong_inputs_get_an_error_that_says_what_is_right() {
    let x = fill(&[1, 6, 4, 4], 1);
    let message = |x: &Tensor, weight: &[usize], config: Conv2dConfig| {
        conv2d(x, &fill(weight, 2), &config).unwrap_err().to_string()
    };
    let default = Conv2dConfig::default();
    assert!(
        message(&x, &[8, 1, 3, 3], Conv2dConfig { groups: 4, ..default })
            .contains("6 input and 8 output channels are not divisible by 4 groups")
    );
    assert!(
        message(&x, &[8, 6, 5, 5], default)
            .contains("a kernel of 5 with dilation 1 does not fit the height 4")
    );
    assert!(message(&x, &[8, 3, 3, 3], default).contains("expected [8, 6, kh, kw]"));
    assert!(message(&x, &[8, 6, 3, 3], Conv2dConfig { stride: 0, ..default }).contains("must be at least 1"));
    assert!(
        message(&x, &[8, 6, 3, 3], Conv2dConfig { padding: usize::MAX, ..default }).contains("does not fit")
    );
    assert!(message(&fill(&[6, 4, 4], 1), &[8, 6, 3, 3], default).contains("(N, C, H, W)"));
    let f32 = fill(&[8, 6, 3, 3], 2).to_dtype(DType::F32).unwrap();
    assert!(conv2d(&x, &f32, &default).unwrap_err().to_string().contains("F64, the type of x"));
    assert_eq!(
        conv2d(&fill(&[0, 6, 4, 4], 1), &fill(&[8, 6, 3, 3], 2), &default).unwrap().dims(),
        [0, 8, 2, 2]
    );
}

#[test]
fn other_types_take_the_composite_route() {
    let (x, weight) = (fill(&[1, 8, 5, 5], 1), fill(&[8, 2, 3, 3], 2));
    let config = Conv2dConfig { padding: 1, groups: 4, ..Default::default() };
    let half = |t: &Tensor| t.to_dtype(DType::F16).unwrap();
    let (_, want) = reference_conv(&half(&x), &half(&weight), &config);
    assert!(error(&conv2d(&half(&x), &half(&weight), &config).unwrap(), &want) < 0.003);
}
