//! The fused training blocks against the single operations that they stand for, in f64.

mod common;

use candle_core::{DType, Device, Tensor, Var};
use common::{error, fill, values};
use resnext_ops::*;

/// Settings that no default has.
const NORM: BatchNormConfig = BatchNormConfig { eps: 0.3, momentum: 0.7, relu: false };

/// A convolution with its batch norm, whose running statistics begin at 0 and 1.
fn layer(input: usize, output: usize, kernel: usize, groups: usize, salt: u64) -> ConvBn {
    let var = |shape: &[usize], salt| Var::from_tensor(&fill(shape, salt)).unwrap().into_inner();
    let running = RunningStats {
        mean: Var::zeros(output, DType::F64, &Device::Cpu).unwrap(),
        var: Var::ones(output, DType::F64, &Device::Cpu).unwrap(),
    };
    ConvBn {
        weight: var(&[output, input / groups, kernel, kernel], salt),
        conv: Conv2dConfig { padding: kernel / 2, groups, ..Default::default() },
        scale_shift: (var(&[output], salt + 1), var(&[output], salt + 2)),
        running,
        norm: NORM,
    }
}

/// A copy that shares parameters, with running statistics of its own.
fn with_own_statistics(layer: &ConvBn) -> ConvBn {
    let copy = |var: &Var| Var::from_tensor(&var.copy().unwrap()).unwrap();
    let running = RunningStats { mean: copy(&layer.running.mean), var: copy(&layer.running.var) };
    ConvBn { running, ..layer.clone() }
}

/// The layer by single operations.
fn apart(layer: &ConvBn, x: &Tensor, relu: bool) -> Result<Tensor> {
    let config = BatchNormConfig { relu, ..layer.norm };
    let (weight, bias) = &layer.scale_shift;
    batch_norm_train(&conv2d(x, &layer.weight, &layer.conv)?, weight, bias, &layer.running, &config)
}

/// Asserts that both compute the same: values, gradients and running statistics.
fn same(
    fused: impl Fn() -> Result<Tensor>,
    single: impl Fn() -> Result<Tensor>,
    layers: &[(&ConvBn, &ConvBn)],
    x: &Var,
) {
    let g = fill(single().unwrap().dims(), 99);
    // Statistics have moved in the call above.
    for (_, of_single) in layers {
        of_single.running.mean.set(&of_single.running.mean.zeros_like().unwrap()).unwrap();
        of_single.running.var.set(&of_single.running.var.ones_like().unwrap()).unwrap();
    }
    let ((got, got_gradients), (want, want_gradients)) = (vjp(fused, &g).unwrap(), vjp(single, &g).unwrap());
    assert!(error(&got, &values(&want)) < 1e-12);
    let parameters =
        |layer: &ConvBn| [layer.weight.clone(), layer.scale_shift.0.clone(), layer.scale_shift.1.clone()];
    let mut variables: Vec<Tensor> = layers.iter().flat_map(|(fused, _)| parameters(fused)).collect();
    if want_gradients.get(x).is_some() {
        variables.push(x.as_tensor().clone());
    }
    for variable in &variables {
        let (got, want) = (got_gradients.get(variable).unwrap(), want_gradients.get(variable).unwrap());
        assert!(error(got, &values(want)) < 1e-11, "{:?}", variable.shape());
    }
    for (of_fused, of_single) in layers {
        assert!(error(&of_fused.running.mean, &values(&of_single.running.mean)) < 1e-12);
        assert!(error(&of_fused.running.var, &values(&of_single.running.var)) < 1e-12);
    }
}

#[test]
fn a_stem_normalises_by_the_settings_it_is_given() {
    let x = Var::from_tensor(&fill(&[3, 3, 9, 8], 1)).unwrap();
    let image = x.as_detached_tensor();
    let conv = layer(3, 32, 3, 1, 10);
    for pool in [None, Some(Pool2dConfig { kernel: 3, stride: 2, padding: 1 })] {
        let single = with_own_statistics(&conv);
        let stem = Stem { conv: with_own_statistics(&conv), pool };
        let fused = || {
            assert!(stem.supports(&image));
            stem.forward_train(&image)
        };
        let by_single = || {
            let y = apart(&single, &image, true)?;
            pool.map_or(Ok(y.clone()), |pool| max_pool2d(&y, &pool))
        };
        same(fused, by_single, &[(&stem.conv, &single)], &x);
    }
}

#[test]
fn a_bottleneck_normalises_by_the_settings_it_is_given() {
    let x = Var::from_tensor(&fill(&[2, 32, 6, 5], 1)).unwrap();
    let convs = [layer(32, 32, 1, 1, 10), layer(32, 32, 3, 8, 20), layer(32, 64, 1, 1, 30)];
    let projection = layer(32, 64, 1, 1, 40);
    let single = convs.each_ref().map(with_own_statistics);
    let single_projection = with_own_statistics(&projection);
    for recompute in [false, true] {
        let block = Bottleneck {
            convs: convs.each_ref().map(with_own_statistics),
            projection: Some(with_own_statistics(&projection)),
            recompute,
        };
        let fused = || {
            assert!(block.supports(&x));
            block.forward_train(&x)
        };
        let by_single = || {
            let y = apart(&single[1], &apart(&single[0], &x, true)?, true)?;
            add_relu(&apart(&single[2], &y, false)?, &apart(&single_projection, &x, false)?)
        };
        let mut layers: Vec<_> = block.convs.iter().zip(&single).collect();
        layers.extend(block.projection.iter().map(|layer| (layer, &single_projection)));
        same(fused, by_single, &layers, &x);
    }
}
