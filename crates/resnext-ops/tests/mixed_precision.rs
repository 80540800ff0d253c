//! bf16 beside f32 parameters: which values are rounded, which are not, and the types of gradients.

mod common;

use candle_core::{DType, Device, Tensor, Var};
use common::{error, fill, reference_conv, values};
use resnext_ops::*;

/// Half the distance from 1 to the next bf16: the largest relative error of one rounding.
const ROUNDING: f64 = 1.0 / 256.0;

/// Converts through f32: from f64 directly, bf16 is now and then rounded differently.
fn of(t: &Tensor, dtype: DType) -> Tensor {
    match dtype {
        DType::F64 => t.to_dtype(dtype).unwrap(),
        _ => t.to_dtype(DType::F32).unwrap().to_dtype(dtype).unwrap(),
    }
}

fn var(t: &Tensor, dtype: DType) -> Var {
    Var::from_tensor(&of(t, dtype)).unwrap()
}

/// Gradients of `<y, g>` on the tape or in candle's graph, each in its variable's type.
fn gradients(
    f: impl Fn() -> Result<Tensor>,
    g: &Tensor,
    vars: &[&Var],
    on_tape: bool,
) -> (Tensor, Vec<Tensor>) {
    let (y, all) = match on_tape {
        true => {
            let (y, gradients) = vjp(&f, g).unwrap();
            (y, vars.iter().map(|v| gradients.get(v).cloned().unwrap()).collect::<Vec<_>>())
        }
        false => {
            let y = f().unwrap();
            let store = (&y * g).unwrap().sum_all().unwrap().backward().unwrap();
            (y, vars.iter().map(|v| store.get(v).cloned().unwrap()).collect())
        }
    };
    vars.iter().zip(&all).for_each(|(var, gradient)| assert_eq!(var.dtype(), gradient.dtype()));
    (y, all)
}

#[test]
fn a_convolution_rounds_its_operands_and_its_result_once() {
    // Sums of 9·64 products: if they were bf16 themselves, the error would be tens of roundings.
    let config = Conv2dConfig { padding: 1, ..Default::default() };
    let (x, weight) = (of(&fill(&[2, 64, 6, 5], 1), DType::BF16), fill(&[8, 64, 3, 3], 2));
    let (shape, want) = reference_conv(&x, &of(&weight, DType::BF16), &config);
    let (x, weight) = (Var::from_tensor(&x).unwrap(), var(&weight, DType::F32));
    let g = of(&fill(&shape, 3), DType::BF16);
    for on_tape in [true, false] {
        let (y, all) = gradients(|| conv2d(&x, &weight, &config), &g, &[&x, &weight], on_tape);
        assert_eq!(y.dtype(), DType::BF16);
        assert!(is_channels_last(&y));
        for (got, want) in values(&y).iter().zip(&want) {
            assert!((got - want).abs() <= 1.01 * ROUNDING * want.abs() + 1e-4, "{got} {want}");
        }
        // The gradients in f64 from the same rounded operands.
        let (x64, w64) = (var(&x, DType::F64), var(&of(&weight, DType::BF16), DType::F64));
        let (_, wide) = gradients(|| conv2d(&x64, &w64, &config), &of(&g, DType::F64), &[&x64, &w64], true);
        for (got, want) in all.iter().zip(&wide) {
            assert!(error(got, &values(want)) <= 1.01 * ROUNDING, "{}", error(got, &values(want)));
        }
    }
}

#[test]
fn batch_norm_keeps_its_statistics_in_f32() {
    // Each channel's mean is 16 times its spread: sums in bf16 would lose the variance altogether.
    let x = of(&(fill(&[4, 16, 9, 9], 1) + 16.0).unwrap(), DType::BF16);
    let f32 = |t: Tensor| var(&t, DType::F32);
    let (weight, bias) = (f32((fill(&[16], 2) + 2.0).unwrap()), f32(fill(&[16], 3)));
    let running = |dtype| RunningStats {
        mean: var(&Tensor::zeros(16, DType::F64, &Device::Cpu).unwrap(), dtype),
        var: var(&Tensor::ones(16, DType::F64, &Device::Cpu).unwrap(), dtype),
    };
    let g = of(&fill(&[4, 16, 9, 9], 4), DType::BF16);
    let config = BatchNormConfig { relu: true, ..Default::default() };

    let (x64, w64, b64) = (var(&x, DType::F64), var(&weight, DType::F64), var(&bias, DType::F64));
    let want_stats = running(DType::F64);
    let f = || batch_norm_train(&x64, &w64, &b64, &want_stats, &config);
    let (want_y, want) = gradients(f, &of(&g, DType::F64), &[&x64, &w64, &b64], true);
    for on_tape in [true, false] {
        let (x, stats) = (Var::from_tensor(&x).unwrap(), running(DType::F32));
        let f = || batch_norm_train(&x, &weight, &bias, &stats, &config);
        let (y, all) = gradients(f, &g, &[&x, &weight, &bias], on_tape);
        assert!(y.dtype() == DType::BF16 && error(&y, &values(&want_y)) <= 1.01 * ROUNDING);
        for (got, want) in [(&stats.mean, &want_stats.mean), (&stats.var, &want_stats.var)] {
            assert!(error(got, &values(want)) < 1e-6);
        }
        for (i, (got, want)) in all.iter().zip(&want).enumerate() {
            // A pixel whose result rounds to 0 has no gradient; parameters' gradients are sums in f64.
            let tolerance = if i == 0 { 1.01 * ROUNDING } else { 1e-4 };
            assert!(error(got, &values(want)) < tolerance, "{i}: {}", error(got, &values(want)));
        }
        let y = batch_norm_eval(&x, &weight, &bias, &stats.mean, &stats.var, &config).unwrap();
        assert_eq!(y.dtype(), DType::BF16);
    }
}

#[test]
fn the_rest_of_a_step_follows_the_type_of_its_input() {
    let x = var(&fill(&[2, 8, 7, 6], 1), DType::BF16);
    let x64 = var(&x, DType::F64);
    let labels = Tensor::new(&[3u32, 7], &Device::Cpu).unwrap();
    let pool = Pool2dConfig { kernel: 3, stride: 2, padding: 1 };
    let loss = |x: &Tensor| -> Result<Tensor> {
        let y = max_pool2d(&add_relu(x, &relu(x)?)?, &pool)?;
        let wide = if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        cross_entropy(&cast(&global_avg_pool(&add(&y, &y)?)?, wide)?, &labels, 0.1)
    };
    let (want, want_gradients) = value_and_gradients::<Error>(|| loss(&x64)).unwrap();
    let (got, gradients) = value_and_gradients::<Error>(|| loss(&x)).unwrap();
    assert_eq!(got.dtype(), DType::F32);
    assert!(error(&got, &values(&want)) < 2.0 * ROUNDING);
    let (got, want) = (gradients.get(&x).unwrap(), values(want_gradients.get(&x64).unwrap()));
    assert_eq!(got.dtype(), DType::BF16);
    let largest = want.iter().fold(0f64, |m, v| m.max(v.abs()));
    for (got, want) in values(got).iter().zip(&want) {
        assert!((got - want).abs() < 8.0 * ROUNDING * largest, "{got} {want}");
    }
    let logits = of(&fill(&[2, 8], 5), DType::BF16);
    assert_eq!(cross_entropy(&logits, &labels, 0.0).unwrap().dtype(), DType::F32);
}

#[test]
fn a_narrow_parameter_beside_a_wide_input_is_refused() {
    let (x, weight) = (fill(&[1, 4, 3, 3], 1), fill(&[4, 4, 1, 1], 2));
    let error = conv2d(&of(&x, DType::F32), &of(&weight, DType::BF16), &Default::default()).unwrap_err();
    assert!(error.to_string().contains("expected F32, the type of x, got BF16 for weight"), "{error}");
    let error = conv2d(&of(&x, DType::BF16), &weight, &Default::default()).unwrap_err();
    assert!(error.to_string().contains("expected BF16, the type of x, got F64 for weight"), "{error}");
}
