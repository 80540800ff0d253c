//! Arithmetic modulo a prime, and vector-Jacobian products, with which proofs differentiate.

use candle_core::{DType, Device, Tensor, Var};
use resnext_ops::{Error, add, custom, modulo, value_and_gradients, vjp};

fn tensor(values: &[f64], dtype: DType) -> Tensor {
    Tensor::from_slice(values, (1, values.len(), 1, 1), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

fn values(t: &Tensor) -> Vec<f64> {
    t.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

#[test]
fn residues_are_centred_and_so_are_their_gradients() {
    // f16 goes through candle's operations, the others through our kernels.
    for dtype in [DType::F64, DType::F32, DType::BF16, DType::F16] {
        let x = Var::from_tensor(&tensor(&[-8.0, -4.0, -3.0, 0.0, 3.0, 4.0, 13.0], dtype)).unwrap();
        let g = tensor(&[1.0, 9.0, 0.0, -4.0, 7.0, 3.0, 4.0], dtype);
        let f = || modulo(x.as_tensor(), 7);
        let (y, gradients) = vjp::<Error>(f, &g).unwrap();
        assert_eq!(values(&y), [-1.0, 3.0, -3.0, 0.0, 3.0, -3.0, -1.0], "{dtype:?}");
        assert_eq!(values(gradients.get(&x).unwrap()), [1.0, 2.0, 0.0, 3.0, 0.0, 3.0, -3.0], "{dtype:?}");
    }
    assert!(modulo(&tensor(&[1.0], DType::F32), 6).unwrap_err().to_string().contains("odd, got 6"));
}

#[test]
fn vjp_weighs_the_outputs_by_the_cotangent() {
    let x = Var::from_tensor(&tensor(&[1.0, 2.0], DType::F64)).unwrap();
    let twice = || add(x.as_tensor(), x.as_tensor());
    let (y, gradients) = vjp::<Error>(twice, &tensor(&[3.0, -5.0], DType::F64)).unwrap();
    assert_eq!(values(&y), [2.0, 4.0]);
    assert_eq!(values(gradients.get(&x).unwrap()), [6.0, -10.0]);
    assert!(vjp::<Error>(twice, &tensor(&[1.0], DType::F64)).unwrap_err().to_string().contains("cotangent"));
    assert!(value_and_gradients::<Error>(twice).unwrap_err().to_string().contains("a scalar"));
}

#[test]
fn custom_operations_are_on_the_tape() {
    let x = Var::from_tensor(&tensor(&[1.0, 2.0, -3.0], DType::F64)).unwrap();
    // The square, by candle's own operation, between two operations of this crate.
    let square = |x: &Tensor| {
        let twice = (x.detach() * 2.0)?;
        custom(x, |x| x.sqr(), move |g| &twice * g)
    };
    let f = || add(&square(&add(x.as_tensor(), x.as_tensor())?)?, x.as_tensor());
    let (y, gradients) = vjp::<Error>(f, &tensor(&[1.0, 10.0, 100.0], DType::F64)).unwrap();
    assert_eq!(values(&y), [5.0, 18.0, 33.0]);
    assert_eq!(values(gradients.get(&x).unwrap()), [9.0, 170.0, -2300.0]);
    // Without a tape, the gradient would be lost.
    assert!(square(x.as_tensor()).unwrap_err().to_string().contains("needs the tape"));
    assert_eq!(values(&square(&x.as_detached_tensor()).unwrap()), [1.0, 4.0, 9.0]);
    let unchanged = || custom(x.as_tensor(), |x| Ok(x.clone()), |g| Ok(g.clone()));
    let (_, gradients) = vjp::<Error>(unchanged, &tensor(&[1.0, 2.0, 3.0], DType::F64)).unwrap();
    assert_eq!(values(gradients.get(&x).unwrap()), [1.0, 2.0, 3.0]);
}
