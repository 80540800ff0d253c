//! Every operation of a training step on the device, forward and backward, compared with the CPU in f64.

use super::check::Check;
use super::gpu;
use crate::inputs::spread;
use anyhow::Result;
use candle_core::{DType, Device, Tensor, Var};
use resnext_ops::{
    BatchNormConfig, Conv2dConfig, Pool2dConfig, RunningStats, add_relu, batch_norm_train, cast, conv2d,
    cross_entropy, global_avg_pool, linear, max_pool2d, relu, vjp,
};
use resnext_train::{Sgd, SgdConfig};

/// The largest relative error that a type may have: that of one rounding, times the few roundings between
/// operands and result. Sums are accumulated in f32 or wider in every type.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => 1.0 / 128.0,
        DType::F16 => 1.0 / 1024.0,
        DType::F32 => 2e-5,
        _ => 1e-11,
    }
}

/// The types that the device computes in.
fn dtypes(device: &Device) -> Vec<DType> {
    match device {
        Device::Cpu => vec![DType::F32, DType::BF16],
        _ => vec![DType::F32, DType::BF16, DType::F16],
    }
}

/// A tensor of f64 in [-1, 1) on the CPU; another one for each `salt`.
fn fill(dims: &[usize], salt: u32) -> Result<Tensor> {
    let values: Vec<f64> = (0..dims.iter().product()).map(|i| spread(i, salt)).collect();
    Ok(Tensor::from_vec(values, dims, &Device::Cpu)?)
}

fn values(t: &Tensor) -> Result<Vec<f64>> {
    Ok(t.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

/// The largest difference, relative to the largest expected value, or to 1 if that is larger.
fn error(got: &Tensor, want: &Tensor) -> Result<f64> {
    let (got, want) = (values(got)?, values(want)?);
    let scale = want.iter().fold(1f64, |most, v| most.max(v.abs()));
    let differences =
        got.iter().zip(&want).map(|(g, w)| if g.is_nan() { f64::INFINITY } else { (g - w).abs() });
    Ok(if got.len() == want.len() { differences.fold(0.0, f64::max) / scale } else { f64::INFINITY })
}

/// An operation with its inputs, which are f64 on the CPU. The check converts them to its type, except the
/// last `masters` of them, which stay f32 beside a 16-bit type.
struct Case<'a> {
    op: &'a str,
    what: String,
    inputs: Vec<Tensor>,
    masters: usize,
    run: &'a dyn Fn(&[Var]) -> resnext_ops::Result<Tensor>,
}

impl Case<'_> {
    /// Compares result and gradients on `device` in `dtype` with those on the CPU in f64, of the same rounded
    /// inputs.
    fn check(&self, dtype: DType, device: &Device, tolerance: f64) -> Result<Check> {
        let first_master = self.inputs.len() - self.masters;
        let own = |i: usize| if i >= first_master && dtype != DType::F64 { DType::F32 } else { dtype };
        let rounded = self
            .inputs
            .iter()
            .enumerate()
            .map(|(i, t)| t.to_dtype(DType::F32)?.to_dtype(dtype)?.to_dtype(own(i)))
            .collect::<candle_core::Result<Vec<_>>>()?;
        let narrow = rounded
            .iter()
            .map(|t| Var::from_tensor(&t.to_device(device)?))
            .collect::<candle_core::Result<Vec<_>>>()?;
        let wide = rounded
            .iter()
            .map(|t| Var::from_tensor(&t.to_dtype(DType::F64)?))
            .collect::<candle_core::Result<Vec<_>>>()?;
        let cotangent = {
            let y = (self.run)(&wide)?;
            fill(y.dims(), 99)?.to_dtype(dtype)?
        };
        let (want, want_gradients) = vjp(|| (self.run)(&wide), &cotangent.to_dtype(DType::F64)?)?;
        let y_type = (self.run)(&narrow)?.dtype();
        let (got, got_gradients) =
            vjp(|| (self.run)(&narrow), &cotangent.to_dtype(y_type)?.to_device(device)?)?;
        let mut worst = error(&got, &want)?;
        for (narrow, wide) in narrow.iter().zip(&wide) {
            worst = match (got_gradients.get(narrow), want_gradients.get(wide)) {
                (Some(got), Some(want)) => worst.max(error(got, want)?),
                (None, None) => worst,
                _ => f64::INFINITY,
            };
        }
        Ok(Check::at_most(self.op, &self.what, dtype, worst, tolerance))
    }
}

/// Checks every operation in every type and by every route of the device, and the optimizer.
pub fn checks(device: &Device) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    for dtype in dtypes(device) {
        for route in gpu::routes(device, dtype) {
            checks.extend(gpu::by_route(route, || convolutions(route, dtype, device))?);
        }
        checks.extend(others(dtype, device)?);
    }
    checks.push(optimizer(device)?);
    Ok(checks)
}

fn convolutions(route: &str, dtype: DType, device: &Device) -> Result<Vec<Check>> {
    // TF32 has as many mantissa bits as f16.
    let tolerance = tolerance(if route == gpu::TF32 { DType::F16 } else { dtype });
    let mut checks = Vec::new();
    // (input and output channels per group, groups, kernel, stride, padding, height, width)
    for (group_in, group_out, groups, kernel, stride, padding, h, w) in [
        (4, 4, 32, 3, 1, 1, 9, 11),
        (4, 4, 32, 3, 2, 1, 12, 9),
        (8, 8, 32, 3, 1, 1, 7, 10),
        (8, 8, 32, 3, 2, 1, 9, 9),
        (16, 16, 8, 3, 1, 1, 8, 5),
        (16, 16, 8, 3, 2, 1, 7, 7),
        (32, 32, 4, 3, 1, 1, 7, 7),
        (32, 32, 4, 3, 2, 1, 6, 11),
        (3, 5, 7, 3, 2, 1, 5, 6),
        (1, 1, 24, 3, 1, 1, 6, 6),
        (64, 48, 1, 1, 1, 0, 5, 7),
        (32, 64, 1, 1, 2, 0, 8, 7),
        (3, 16, 1, 7, 2, 3, 17, 19),
        (16, 16, 1, 3, 1, 1, 6, 9),
    ] {
        let config = Conv2dConfig { stride, padding, dilation: 1, groups };
        let run = |inputs: &[Var]| conv2d(&inputs[0], &inputs[1], &config);
        let scale = 1.0 / (group_in as f64 * (kernel * kernel) as f64).sqrt();
        let case = Case {
            op: "conv2d",
            what: format!(
                "{route}: {kernel}×{kernel}, {groups} groups of {group_in} to {group_out}, /{stride}, {h}×{w}"
            ),
            inputs: vec![
                fill(&[2, group_in * groups, h, w], 1)?,
                (fill(&[group_out * groups, group_in, kernel, kernel], 2)? * scale)?,
            ],
            masters: usize::from(matches!(dtype, DType::BF16 | DType::F16)),
            run: &run,
        };
        checks.push(case.check(dtype, device, tolerance)?);
    }
    Ok(checks)
}

fn others(dtype: DType, device: &Device) -> Result<Vec<Check>> {
    let map = [2, 32, 9, 10];
    let ones = |vars: &[Var]| -> resnext_ops::Result<RunningStats> {
        let like = vars[1].as_detached_tensor();
        Ok(RunningStats {
            mean: Var::from_tensor(&like.zeros_like()?)?,
            var: Var::from_tensor(&like.ones_like()?)?,
        })
    };
    let norm = |relu: bool| {
        move |v: &[Var]| {
            let config = BatchNormConfig { relu, ..Default::default() };
            batch_norm_train(&v[0], &v[1], &v[2], &ones(v)?, &config)
        }
    };
    let (plain, with_relu) = (norm(false), norm(true));
    let pool = Pool2dConfig { kernel: 3, stride: 2, padding: 1 };
    let pooled = |v: &[Var]| max_pool2d(&v[0], &pool);
    let labels: Vec<u32> = (0..6).map(|i| i * 5 % 17).collect();
    let loss = |v: &[Var]| {
        let labels = Tensor::from_slice(&labels, labels.len(), v[0].device())?;
        let wide = if v[0].dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        cross_entropy(&cast(&v[0], wide)?, &labels, 0.1)
    };
    let norm_inputs =
        || -> Result<Vec<Tensor>> { Ok(vec![fill(&map, 1)?, (fill(&[32], 2)? + 1.5)?, fill(&[32], 3)?]) };
    type Op<'a> = &'a dyn Fn(&[Var]) -> resnext_ops::Result<Tensor>;
    let cases: Vec<(&str, Vec<Tensor>, usize, Op)> = vec![
        ("batch_norm", norm_inputs()?, 2, &plain),
        ("batch_norm + relu", norm_inputs()?, 2, &with_relu),
        ("relu", vec![fill(&map, 1)?], 0, &|v| relu(&v[0])),
        ("add_relu", vec![fill(&map, 1)?, fill(&map, 2)?], 0, &|v| add_relu(&v[0], &v[1])),
        ("max_pool2d", vec![fill(&map, 1)?], 0, &pooled),
        ("global_avg_pool", vec![fill(&map, 1)?], 0, &|v| global_avg_pool(&v[0])),
        ("linear", vec![fill(&[6, 32], 1)?, (fill(&[17, 32], 2)? * 0.2)?, fill(&[17], 3)?], 0, &|v| {
            linear(&v[0], &v[1], Some(&v[2]))
        }),
        ("cross_entropy", vec![fill(&[6, 17], 1)?], 0, &loss),
    ];
    let half = matches!(dtype, DType::BF16 | DType::F16);
    let check = |(op, inputs, masters, run): (&str, Vec<Tensor>, usize, Op)| {
        let what = format!("{:?}", inputs[0].dims());
        Case { op, what, inputs, masters: if half { masters } else { 0 }, run }.check(
            dtype,
            device,
            tolerance(dtype),
        )
    };
    cases.into_iter().map(check).collect()
}

/// Checks some steps of the optimizer, with its moving average.
fn optimizer(device: &Device) -> Result<Check> {
    let end = |device: &Device, dtype: DType| -> Result<(Tensor, Tensor)> {
        let on =
            |t: Tensor| -> Result<Tensor> { Ok(t.to_dtype(DType::F32)?.to_dtype(dtype)?.to_device(device)?) };
        let value = Var::from_tensor(&on(fill(&[16, 9], 1)?)?)?;
        let mut sgd =
            Sgd::new(vec![("w".into(), value.clone())], SgdConfig::default())?.with_average(0.9, vec![])?;
        for step in 0..5 {
            let gradient = on(fill(&[16, 9], 2 + step)?)?;
            sgd.step(0.1, |_| Some(&gradient))?;
        }
        Ok((value.as_detached_tensor(), sgd.averages()[0].1.as_detached_tensor()))
    };
    let (got, want) = (end(device, DType::F32)?, end(&Device::Cpu, DType::F64)?);
    let worst = error(&got.0, &want.0)?.max(error(&got.1, &want.1)?);
    Ok(Check::at_most("sgd", "5 steps with momentum, decay and average", DType::F32, worst, 1e-5))
}
