//! Batch norm, pooling, residual sums and the loss: against PyTorch's numbers, and their gradients on
//! the tape against candle's graph and central differences.

mod common;

use candle_core::{DType, Device, Tensor, Var};
use common::{error, fill, values};
use resnext_ops::*;
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    conv: Vec<ConvCase>,
    batch_norm: Vec<NormCase>,
    max_pool: PoolCase,
    cross_entropy: Vec<LossCase>,
}

#[derive(Deserialize)]
struct ConvCase {
    x: Vec<usize>,
    weight: Vec<usize>,
    stride: usize,
    padding: usize,
    dilation: usize,
    groups: usize,
    y: Vec<f64>,
    grad_x: Vec<f64>,
    grad_weight: Vec<f64>,
    grad_bias: Vec<f64>,
}

#[derive(Deserialize)]
struct NormCase {
    train: bool,
    relu: bool,
    y: Vec<f64>,
    running_mean: Vec<f64>,
    running_var: Vec<f64>,
    grad_x: Vec<f64>,
    grad_weight: Vec<f64>,
    grad_bias: Vec<f64>,
}

#[derive(Deserialize)]
struct PoolCase {
    y: Vec<f64>,
    grad_x: Vec<f64>,
}

#[derive(Deserialize)]
struct LossCase {
    smoothing: f64,
    loss: f64,
    grad: Vec<f64>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/ops.json")).unwrap()
}

fn var(shape: &[usize], salt: u64, offset: f64) -> Var {
    Var::from_tensor(&(fill(shape, salt) + offset).unwrap()).unwrap()
}

/// Gradients of `<y, g>` for the g of the golden script.
fn gradients(y: &Tensor, of: &[&Var]) -> Vec<Tensor> {
    let g = fill(y.dims(), 99);
    let grads = (y * g).unwrap().sum_all().unwrap().backward().unwrap();
    of.iter().map(|var| grads.get(var).unwrap().clone()).collect()
}

const CLOSE: f64 = 1e-10;

#[test]
fn conv2d_is_pytorchs() {
    for case in golden().conv {
        let (x, w, b) = (var(&case.x, 1, 0.0), var(&case.weight, 2, 0.0), var(&case.weight[..1], 3, 0.0));
        let ConvCase { stride, padding, dilation, groups, .. } = case;
        let y = conv2d_with_bias(&x, &w, &b, &Conv2dConfig { stride, padding, dilation, groups }).unwrap();
        assert!(error(&y, &case.y) < CLOSE);
        let grads = gradients(&y, &[&x, &w, &b]);
        for (grad, want) in grads.iter().zip([&case.grad_x, &case.grad_weight, &case.grad_bias]) {
            assert!(error(grad, want) < CLOSE);
        }
    }
}

#[test]
fn batch_norm_is_pytorchs() {
    for case in golden().batch_norm {
        let (x, w, b) = (var(&[3, 5, 4, 3], 1, 0.0), var(&[5], 2, 1.5), var(&[5], 3, 0.0));
        let running = match case.train {
            true => RunningStats {
                mean: Var::zeros(5, DType::F64, &Device::Cpu).unwrap(),
                var: Var::ones(5, DType::F64, &Device::Cpu).unwrap(),
            },
            false => RunningStats { mean: var(&[5], 4, 0.0), var: var(&[5], 5, 1.5) },
        };
        let config = BatchNormConfig { relu: case.relu, ..Default::default() };
        let y = match case.train {
            true => batch_norm_train(&x, &w, &b, &running, &config).unwrap(),
            false => batch_norm_eval(&x, &w, &b, &running.mean, &running.var, &config).unwrap(),
        };
        assert!(error(&y, &case.y) < CLOSE);
        assert!(error(&running.mean, &case.running_mean) < CLOSE);
        assert!(error(&running.var, &case.running_var) < CLOSE);
        let grads = gradients(&y, &[&x, &w, &b]);
        for (grad, want) in grads.iter().zip([&case.grad_x, &case.grad_weight, &case.grad_bias]) {
            assert!(error(grad, want) < CLOSE);
        }
    }
}

#[test]
fn max_pool_and_loss_are_pytorchs() {
    let golden = golden();
    let x = var(&[2, 3, 7, 8], 1, 0.0);
    let y = max_pool2d(&x, &Pool2dConfig { kernel: 3, stride: 2, padding: 1 }).unwrap();
    assert!(is_channels_last(&y));
    assert!(error(&y, &golden.max_pool.y) < CLOSE);
    assert!(error(&gradients(&y, &[&x])[0], &golden.max_pool.grad_x) < CLOSE);
    for case in golden.cross_entropy {
        let logits = Var::from_tensor(&(fill(&[4, 7], 1) * 3.0).unwrap()).unwrap();
        let labels = Tensor::new(&[0u32, 3, 6, 2], &Device::Cpu).unwrap();
        let loss = cross_entropy(&logits, &labels, case.smoothing).unwrap();
        assert!((loss.to_scalar::<f64>().unwrap() - case.loss).abs() < CLOSE);
        assert!(error(loss.backward().unwrap().get(&logits).unwrap(), &case.grad) < CLOSE);
    }
}

/// A small network of every operation, in f64.
fn network(vars: &[Var], running: &RunningStats) -> Result<Tensor> {
    let image = fill(&[3, 4, 9, 8], 1);
    let x = conv2d(&image, &vars[0], &Conv2dConfig { padding: 1, ..Default::default() })?;
    let x = max_pool2d(&x, &Pool2dConfig { kernel: 3, stride: 2, padding: 1 })?;
    let y = batch_norm_train(
        &x,
        &vars[1],
        &vars[2],
        running,
        &BatchNormConfig { relu: true, ..Default::default() },
    )?;
    let y = conv2d(&y, &vars[3], &Conv2dConfig { padding: 1, groups: 4, ..Default::default() })?;
    let y = relu(&add_relu(&x, &y)?)?;
    let y = sum(&[cat_channels(&[y.clone(), x.clone()])?, cat_channels(&[x, y])?])?;
    let logits = linear(&global_avg_pool(&y)?, &vars[4], Some(&vars[5]))?;
    cross_entropy(&logits, &Tensor::new(&[0u32, 4, 2], &Device::Cpu)?, 0.1)
}

fn network_parts() -> (Vec<Var>, RunningStats) {
    let shapes: [&[usize]; 6] = [&[16, 4, 3, 3], &[16], &[16], &[16, 4, 3, 3], &[5, 32], &[5]];
    let vars = shapes.iter().enumerate().map(|(i, s)| var(s, 20 + i as u64, 0.3)).collect();
    let fresh = |v: f64| Var::from_tensor(&Tensor::full(v, 16, &Device::Cpu).unwrap()).unwrap();
    (vars, RunningStats { mean: fresh(0.0), var: fresh(1.0) })
}

#[test]
fn tape_graph_and_central_differences_agree_on_a_network() {
    let (vars, running) = network_parts();
    let want = network(&vars, &running).unwrap().backward().unwrap();
    let (_, got) = value_and_gradients(|| network(&vars, &running)).unwrap();
    for (which, v) in vars.iter().enumerate() {
        let grad = values(got.get(v).unwrap());
        assert!(error(want.get(v).unwrap(), &grad) < 1e-13, "input {which}");
        let original = v.as_tensor().copy().unwrap();
        for i in (0..grad.len()).step_by(1 + grad.len() / 12) {
            let at = |h: f64| {
                let mut moved = values(&original);
                moved[i] += h;
                v.set(&Tensor::from_vec(moved, v.shape(), &Device::Cpu).unwrap()).unwrap();
                network(&vars, &running).unwrap().to_scalar::<f64>().unwrap()
            };
            let slope = (at(1e-6) - at(-1e-6)) / 2e-6;
            assert!(
                (grad[i] - slope).abs() < 1e-6 * (1.0 + slope.abs()),
                "input {which}, element {i}: {} {slope}",
                grad[i]
            );
        }
        v.set(&original).unwrap();
    }
}

#[test]
fn results_are_the_same_bits_for_any_number_of_threads() {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (vars, running) = network_parts();
            let vars: Vec<Var> =
                vars.iter().map(|v| Var::from_tensor(&v.to_dtype(DType::F64).unwrap()).unwrap()).collect();
            let (loss, grads) = value_and_gradients(|| network(&vars, &running)).unwrap();
            let grads: Vec<Vec<f64>> = vars.iter().map(|v| values(grads.get(v).unwrap())).collect();
            (values(&loss), grads)
        })
    };
    assert_eq!(run(1), run(2));
    assert_eq!(run(1), run(7));
}

#[test]
fn nan_is_not_hidden() {
    let x = Tensor::new(&[f32::NAN, 1.0, -1.0, 2.0], &Device::Cpu).unwrap().reshape((1, 1, 2, 2)).unwrap();
    let first = |y: Tensor| values(&y)[0];
    assert!(first(relu(&x).unwrap()).is_nan());
    assert!(first(max_pool2d(&x, &Pool2dConfig { kernel: 2, stride: 2, padding: 0 }).unwrap()).is_nan());
    assert!(first(global_avg_pool(&x).unwrap()).is_nan());
}

#[test]
fn wrong_inputs_get_errors() {
    let x = fill(&[2, 4, 3, 3], 1);
    let text = |error: Error| error.to_string();
    let pool = |kernel, stride, padding| {
        text(max_pool2d(&x, &Pool2dConfig { kernel, stride, padding }).unwrap_err())
    };
    assert!(pool(3, 0, 1).contains("at least 1"));
    assert!(pool(3, 1, 2).contains("at most half the kernel"));
    assert!(pool(4, 1, 0).contains("does not fit a side of 3"));
    let labels = Tensor::new(&[0u32, 9], &Device::Cpu).unwrap();
    assert!(
        text(cross_entropy(&fill(&[2, 5], 1), &labels, 0.0).unwrap_err())
            .contains("label 9 of example 1 is not below 5")
    );
    assert!(text(add(&x, &fill(&[2, 4, 3, 2], 1)).unwrap_err()).contains("[2, 4, 3, 3]"));
    assert!(text(sum(&[]).unwrap_err()).contains("at least one"));
    let one = Var::from_tensor(&fill(&[4], 1)).unwrap();
    let running = RunningStats { mean: one.clone(), var: one.clone() };
    let single = fill(&[1, 4, 1, 1], 1);
    let error = batch_norm_train(&single, &one, &one, &running, &BatchNormConfig::default()).unwrap_err();
    assert!(text(error).contains("more than one value per channel"));
}
