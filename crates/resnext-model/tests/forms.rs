//! The three forms of figure 3 compute the same function, and their gradients reach all variables.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use resnext_model::convert::{self, Tensors};
use resnext_model::{Config, Form, ResNext, Shortcut, Variables};
use resnext_ops::{cross_entropy, value_and_gradients};

fn config(form: Form) -> Config {
    Config { form, ..Config::by_name("resnext11_4x4d").unwrap() }
}

fn images() -> Tensor {
    let waves = (0..2 * 3 * 12 * 10).map(|i| (i as f64 * 0.7).sin()).collect::<Vec<_>>();
    Tensor::from_vec(waves, (2, 3, 12, 10), &Device::Cpu).unwrap()
}

/// Variables whose batch norms are not the identity, so that a wrong one shows.
fn uneven_variables() -> Variables {
    let variables = Variables::new(3, DType::F64, &Device::Cpu);
    ResNext::new(&config(Form::C), variables.builder()).unwrap();
    for (name, var) in variables.all() {
        if let &[n] = var.dims() {
            let uneven = (0..n).map(|i| 1.0 + 0.3 * ((i + name.len()) as f64).sin()).collect::<Vec<_>>();
            var.set(&Tensor::new(uneven, &Device::Cpu).unwrap()).unwrap();
        }
    }
    variables
}

#[test]
fn the_forms_are_equivalent() {
    for train in [false, true] {
        // Copies, because training updates the running statistics.
        let grouped: Tensors = uneven_variables()
            .all()
            .into_iter()
            .map(|(name, var)| (name, var.as_detached_tensor()))
            .collect();
        let logits = |form: Form| {
            let weights = convert::network(&grouped, &config(Form::C), form).unwrap();
            let vb = VarBuilder::from_tensors(weights.into_iter().collect(), DType::F64, &Device::Cpu);
            let y = ResNext::new(&config(form), vb).unwrap().forward(&images(), train).unwrap();
            y.flatten_all().unwrap().to_vec1::<f64>().unwrap()
        };
        let expected = logits(Form::C);
        assert!(expected.windows(2).any(|pair| (pair[0] - pair[1]).abs() > 1e-3), "{expected:?}");
        for form in [Form::A, Form::B] {
            for (got, want) in logits(form).iter().zip(&expected) {
                assert!((got - want).abs() < 1e-9, "form {form}, train {train}: {got}, not {want}");
            }
        }
    }
}

#[test]
fn gradients_reach_every_trainable_variable() {
    let labels = Tensor::new(&[1u32, 7], &Device::Cpu).unwrap();
    for form in [Form::A, Form::B, Form::C] {
        for shortcut in [Shortcut::Projection, Shortcut::Identity, Shortcut::None] {
            let variables = Variables::new(5, DType::F64, &Device::Cpu);
            let config = Config { shortcut, ..config(form) };
            let network = ResNext::new(&config, variables.builder()).unwrap();
            let loss = || -> resnext_model::Result<_> {
                Ok(cross_entropy(&network.forward(&images(), true)?, &labels, 0.0)?)
            };
            let (_, gradients) = value_and_gradients(loss).unwrap();
            for (name, var) in variables.trainable() {
                let gradient = gradients.get(&var).unwrap_or_else(|| panic!("no gradient for {name}"));
                let size = gradient.abs().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap();
                assert!(size.is_finite() && size > 0.0, "{name}: {size}, form {form}, {shortcut:?}");
            }
        }
    }
}

/// f16 has no kernels in this project: candle's operations and gradients reach all variables too.
#[test]
fn f16_has_gradients_too() {
    let variables = Variables::new(5, DType::F16, &Device::Cpu);
    let network = ResNext::new(&config(Form::B), variables.builder()).unwrap();
    let (labels, images) =
        (Tensor::new(&[1u32, 7], &Device::Cpu).unwrap(), images().to_dtype(DType::F16).unwrap());
    let loss =
        || -> resnext_model::Result<_> { Ok(cross_entropy(&network.forward(&images, true)?, &labels, 0.0)?) };
    let (_, gradients) = value_and_gradients(loss).unwrap();
    for (name, var) in variables.trainable() {
        assert!(gradients.get(&var).is_some(), "no gradient for {name}");
    }
}

#[test]
fn training_moves_the_running_statistics_that_a_checkpoint_saves() {
    let variables = Variables::new(5, DType::F64, &Device::Cpu);
    let network = ResNext::new(&config(Form::C), variables.builder()).unwrap();
    let sum = |name: &str| {
        let (_, var) = variables.all().into_iter().find(|(n, _)| n == name).unwrap();
        var.abs().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap()
    };
    network.forward(&images(), false).unwrap();
    assert_eq!(sum("layer1.0.bn2.running_mean"), 0.0);
    network.forward(&images(), true).unwrap();
    assert!(sum("layer1.0.bn2.running_mean") > 0.0);
}

/// With the last batch norm at scale 0 nothing is left of a block that has no shortcut.
#[test]
fn a_zero_initialised_block_without_a_shortcut_is_zero() {
    for form in [Form::A, Form::B, Form::C] {
        let config = Config { zero_init_last: true, shortcut: Shortcut::None, ..config(form) };
        let variables = Variables::new(5, DType::F64, &Device::Cpu);
        let network = ResNext::new(&config, variables.builder()).unwrap();
        assert!(!variables.all().iter().any(|(name, _)| name.contains("downsample")));
        for train in [false, true] {
            let map = network.stage_maps(&images(), train).unwrap().remove(0);
            assert!(map.flatten_all().unwrap().to_vec1::<f64>().unwrap().iter().all(|&value| value == 0.0));
        }
    }
}

/// With the last batch norm at scale 0 a block is relu(shortcut(x)), which shows the shortcut alone.
#[test]
fn a_zero_initialised_block_is_its_shortcut() {
    for form in [Form::A, Form::B, Form::C] {
        let config = Config { zero_init_last: true, shortcut: Shortcut::Identity, ..config(form) };
        let variables = Variables::new(5, DType::F64, &Device::Cpu);
        let network = ResNext::new(&config, variables.builder()).unwrap();
        let maps = network.stage_maps(&images(), false).unwrap();
        let [wide, narrow] = [&maps[0], &maps[1]];
        // Option A: every other pixel of the first channels, then zeros.
        assert_eq!((wide.dims(), narrow.dims()), (&[2, 64, 12, 10][..], &[2, 128, 6, 5][..]));
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let even = |n: u32| Tensor::arange_step(0u32, n, 2, &Device::Cpu).unwrap();
        let subsampled = wide.contiguous().unwrap().index_select(&even(12), 2).unwrap();
        let subsampled = subsampled.index_select(&even(10), 3).unwrap();
        assert_eq!(values(&narrow.narrow(1, 0, 64).unwrap()), values(&subsampled));
        assert!(values(&narrow.narrow(1, 64, 64).unwrap()).iter().all(|&v| v == 0.0));
        assert!(values(wide).iter().any(|&v| v > 0.0));
    }
}
