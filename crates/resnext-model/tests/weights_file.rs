//! Weights read one by one from a file, and what a broken file gets.

use candle_core::{DType, Device, Tensor};
use resnext_model::{Config, Fused, ResNext, Variables, weights_file};

const CPU: Device = Device::Cpu;

#[test]
fn a_network_is_read_from_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let config = Config::by_name("resnext11_8x4d").unwrap();
    let variables = Variables::new(4, DType::F32, &CPU);
    let network = ResNext::new(&config, variables.builder()).unwrap();
    let tensors = variables.all().into_iter().map(|(name, var)| (name, var.as_detached_tensor()));
    candle_core::safetensors::save(&tensors.collect(), &path).unwrap();
    let fused = Fused::new(&config, weights_file(&path, DType::F32, &CPU).unwrap(), DType::F32).unwrap();
    let x = Tensor::ones((1, 3, 9, 9), DType::F32, &CPU).unwrap();
    let logits = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let expected = logits(network.fuse().unwrap().forward(&x).unwrap());
    assert_eq!(logits(fused.forward(&x).unwrap()), expected);

    let other = Config { classes: 7, ..config };
    let fails = |config: &Config| {
        weights_file(&path, DType::F32, &CPU)
            .and_then(|vb| Fused::new(config, vb, DType::F32))
            .unwrap_err()
            .to_string()
    };
    assert!(fails(&other).contains("expected shape [7, 256], file has [10, 256]: fc.weight"));
    let bytes = std::fs::read(&path).unwrap();
    for len in [0, 7, 8, 100, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..len]).unwrap();
        assert!(fails(&other).contains("not a whole safetensors file"), "{len} bytes");
    }
    let mut lies = bytes.clone();
    lies[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    std::fs::write(&path, &lies).unwrap();
    assert!(fails(&other).contains("its header says"));
}
