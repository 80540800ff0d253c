//! Average pools and blurs of inference against those of training.

use crate::config::AvgPool2dConfig;
use crate::infer::feature_map::FeatureMap;
use crate::train::{avg_pool2d, blur_pool2d};
use candle_core::{DType, Device, Tensor};
use resnext_kernels::ThreadTeam;

/// In f32 and bf16, with channels that fill words and that do not.
#[test]
fn windows_are_those_of_training() {
    let pool = AvgPool2dConfig { kernel: 2, stride: 2, padding: 0, ceil: true, count_padding: false };
    for (c, dtype, tolerance) in [(8, DType::F32, 1e-6), (5, DType::F32, 1e-6), (5, DType::BF16, 1e-2)] {
        let values = (0..2 * c * 7 * 6).map(|i| (i as f32 * 0.7).sin()).collect::<Vec<_>>();
        let x = Tensor::from_vec(values, (2, c, 7, 6), &Device::Cpu).unwrap();
        let [mut loaded, mut pooled, mut blurred] = std::array::from_fn(|_| FeatureMap::new());
        ThreadTeam::scope(|team| {
            loaded.load(team, &x, dtype).unwrap();
            loaded.avg_pool(team, &pool, &mut pooled).unwrap();
            loaded.blur_pool(team, 2, &mut blurred).unwrap();
        });
        for (got, want) in [(pooled, avg_pool2d(&x, &pool)), (blurred, blur_pool2d(&x, 2))] {
            let (got, want) = (got.to_tensor().unwrap(), want.unwrap());
            assert_eq!(got.dims(), want.dims());
            let difference = (got - want).unwrap().abs().unwrap().max_all().unwrap();
            assert!(difference.to_scalar::<f32>().unwrap() < tolerance, "{dtype:?}, {c} channels");
        }
    }
}
