//! Unknown functions of slices of tensors, for proofs about candle functions.

use crate::random_function::{Key, RandomFunction, centred, residue};
use candle_core::{DType, Device, Result, Tensor};
use std::cell::RefCell;

/// Stands for every function in a user's code that is not a sum of products: activations, normalisations, softmax. Each
/// becomes a random function modulo a prime, which [`prove_equal`](super::prove_equal) hands to both sides.
///
/// A function is known by its name: both sides must use the same name for the same function. What belongs to a function
/// may include scaling by fractions, such as attention's `1/√d` in front of the softmax.
pub struct Functions {
    modulus: u32,
    trial: i32,
    oracle: Oracle,
    /// Whether every second value is moved by half of the modulus, which is 0 modulo it.
    moved: bool,
    calls: RefCell<Vec<Call>>,
}

/// Where a function's values come from.
#[derive(Clone, Copy)]
pub(super) enum Oracle {
    /// From its name and argument.
    Argument,
    /// From the number of the call alone: points on a random line, `t` steps along it. A call that is `moved` gets another
    /// line.
    Line { t: i64, moved: Option<usize> },
}

/// One call of a function: for each slice, which function it is and its argument modulo the prime.
pub(super) struct Call {
    pub(super) name: String,
    pub(super) slices: Vec<(Key, Vec<i64>)>,
    /// Whether all numbers were integers that f64 holds exactly.
    pub(super) exact: bool,
}

impl Functions {
    pub(super) fn new(modulus: u32, trial: i32, oracle: Oracle, moved: bool) -> Self {
        Functions { modulus, trial, oracle, moved, calls: RefCell::default() }
    }

    /// The function `name` of every slice of `x` along the dimensions `along`; the same function for each slice. For
    /// example, `&[]` for an activation, the last dimension for a softmax.
    ///
    /// # Errors
    /// If `x` has no such dimension, or is not on the CPU.
    pub fn each(&self, name: &str, x: &Tensor, along: &[usize]) -> Result<Tensor> {
        self.call(name, x, along, |_| 0)
    }

    /// A function of every channel of `x` (N, C, …) as a whole, another one for each channel: batch norm, in training or
    /// evaluation, with or without an activation after it. `first` is the number of the first channel, for a part of the
    /// channels.
    ///
    /// # Errors
    /// If `x` has fewer than two dimensions, or is not on the CPU.
    pub fn per_channel(&self, name: &str, first: usize, x: &Tensor) -> Result<Tensor> {
        let along: Vec<usize> = (0..x.rank()).filter(|&dim| dim != 1).collect();
        self.call(name, x, &along, |channel| (first + channel) as i32 + 1)
    }

    /// Calls a function per slice; `which` gives a number to the function of each.
    fn call(&self, name: &str, x: &Tensor, along: &[usize], which: impl Fn(usize) -> i32) -> Result<Tensor> {
        if let Some(dim) = along.iter().find(|&&dim| dim >= x.rank()) {
            candle_core::bail!("{name}: expected a dimension below {}, got {dim}", x.rank());
        }
        let mut order: Vec<usize> = (0..x.rank()).filter(|dim| !along.contains(dim)).collect();
        order.extend_from_slice(along);
        let permuted = x.detach().permute(order.clone())?;
        let length: usize = along.iter().map(|&dim| x.dims()[dim]).product();
        let (values, exact) = residues(&permuted, self.modulus, self.moved)?;
        let number = self.calls.borrow().len();
        let [low, high] = name_key(name);
        let slices = values.chunks(length.max(1)).enumerate();
        let slices: Vec<(Key, Vec<i64>)> =
            slices.map(|(i, slice)| ([low, high, which(i), self.trial, -1], slice.to_vec())).collect();
        let value = |(i, (key, argument)): (usize, &(Key, Vec<i64>))| -> Vec<i64> {
            match self.oracle {
                Oracle::Argument => RandomFunction { modulus: self.modulus, key: *key }.value(argument),
                Oracle::Line { t, moved } => {
                    let key = [number as i32, i as i32, i32::from(moved == Some(number)), self.trial, -2];
                    let line = RandomFunction { modulus: self.modulus, key };
                    line_point(&line.value(&vec![0; length]), &line.value(&vec![1; length]), t, self.modulus)
                }
            }
        };
        let mut results: Vec<f64> = slices.iter().enumerate().flat_map(value).map(|v| v as f64).collect();
        if self.moved {
            results.iter_mut().step_by(2).for_each(|v| *v = moved(*v, self.modulus));
        }
        self.calls.borrow_mut().push(Call { name: name.into(), slices, exact });
        let mut back = vec![0; order.len()];
        order.iter().enumerate().for_each(|(i, &dim)| back[dim] = i);
        Tensor::from_vec(results, permuted.shape(), &Device::Cpu)?.permute(back)?.contiguous()
    }

    /// The elements of the output `y` modulo the prime, whether all are sure to be exact, and the calls before it.
    pub(super) fn end(self, y: &Tensor) -> Result<(Vec<i64>, bool, Vec<Call>)> {
        let (values, exact) = residues(y, self.modulus, self.moved)?;
        let calls = self.calls.into_inner();
        let exact = exact && calls.iter().all(|call| call.exact);
        Ok((values, exact, calls))
    }
}

/// The point `t` steps along a line, modulo the prime.
pub(super) fn line_point(from: &[i64], step: &[i64], t: i64, modulus: u32) -> Vec<i64> {
    let at = |(&a, &b): (&i64, &i64)| centred(i128::from(a) + i128::from(b) * i128::from(t), modulus);
    from.iter().zip(step).map(at).collect()
}

/// `value` moved by half of an odd modulus towards 0 and beyond, so that numbers do not grow. Halves are numbers modulo the
/// modulus, and half of it is 0.
pub(super) fn moved(value: f64, modulus: u32) -> f64 {
    value - f64::from(modulus) / 2.0 * value.signum()
}

/// The largest integer of which, and of sums below it, f64 loses nothing when it is divided by a prime.
const LARGEST: f64 = (1u64 << 52) as f64;

/// The elements of a tensor, row by row, modulo the prime, and whether all are sure to be exact: integers, or with `halves`
/// integers over powers of two, which polynomials of halves are.
fn residues(x: &Tensor, modulus: u32, halves: bool) -> Result<(Vec<i64>, bool)> {
    let values = x.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    let mut exact = true;
    let mut one = |mut value: f64| {
        let mut halvings = 0;
        while halves && value.fract() != 0.0 && value.abs() <= LARGEST {
            value *= 2.0;
            halvings += 1;
        }
        exact &= value.fract() == 0.0 && value.abs() <= LARGEST;
        // The inverse of 2 is (p + 1)/2.
        let half = i128::from(modulus / 2 + 1);
        (0..halvings).fold(residue(value, modulus), |r, _| centred(i128::from(r) * half, modulus))
    };
    let residues = values.into_iter().map(&mut one).collect();
    Ok((residues, exact))
}

/// A key of a name: FNV-1a, whose collisions for names that people write are not a concern.
fn name_key(name: &str) -> [i32; 2] {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    [hash as i32, (hash >> 32) as i32]
}
