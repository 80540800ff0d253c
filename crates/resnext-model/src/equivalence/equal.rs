//! The proof that two candle functions are equal.

use super::functions::{Call, Functions, Oracle, line_point, moved};
use super::identity::is_prime;
use super::stack::generator;
use crate::random_function::{Key, collision};
use candle_core::{Device, Tensor};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use std::collections::{HashMap, HashSet};

/// The result of a proof.
#[derive(Debug, Clone, PartialEq)]
pub struct Equality {
    /// The number of random points at which both functions were evaluated.
    pub trials: usize,
    /// The degree of the functions as polynomials of their inputs and of the values of [`Functions`].
    pub degree: usize,
    /// The smallest prime that was used.
    pub smallest_set: u32,
    /// The upper bound on the probability that different functions agree at all points.
    pub bound: f64,
    /// The number of values compared.
    pub numbers: u64,
}

/// Why two functions are not proved equal.
#[derive(Debug, thiserror::Error)]
pub enum NotEqual {
    /// They are not equal.
    #[error("the functions differ: {0}")]
    Different(Place),
    /// Their outputs have different shapes.
    #[error("the functions give different shapes: {0:?} and {1:?}")]
    Shapes(Vec<usize>, Vec<usize>),
    /// One of them is not a polynomial, or its sums are too long to be exact in f64.
    #[error(
        "the {side} function does not consist of sums and products of integers below 2^52 between calls of `Functions`: \
         let activations and scaling by fractions be such calls, or try smaller shapes"
    )]
    Inexact {
        /// `first` or `second`.
        side: &'static str,
    },
    /// No prime is large enough for a useful bound.
    #[error("a trial would miss a difference with a probability of {0:.2}: try smaller shapes")]
    Weak(f64),
    /// One of the functions failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// The first place where two functions differ.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// A call of one of [`Functions`] whose argument the other side never passes to that function.
    pub call: Option<String>,
    /// The index in the output.
    pub index: Vec<usize>,
    /// The value of the first function, modulo the prime.
    pub first: i64,
    /// The value of the second function, modulo the prime.
    pub second: i64,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Place { call, index, first, second } = self;
        write!(f, "at {index:?} of the output, {first} is not {second}")?;
        match call {
            Some(call) => write!(f, "; {call}"),
            None => Ok(()),
        }
    }
}

/// A function of tensors, built of sums, products and [`Functions`].
trait Subject: Fn(&Functions, &[Tensor]) -> candle_core::Result<Tensor> {}

impl<F: Fn(&Functions, &[Tensor]) -> candle_core::Result<Tensor>> Subject for F {}

/// Proves that two functions of tensors are equal, or finds where they differ.
///
/// `shapes` are those of the inputs, parameters included, which are f64 tensors on the CPU. Both functions must consist of
/// sums and products (convolutions, matrix products, anything that moves or copies elements) and of calls of
/// [`Functions`], which stand for everything else. They are evaluated at random points modulo primes, where every sum is
/// an integer that f64 holds exactly, until different functions would agree with a probability of at most `bound`.
/// Functions that pass are equal whatever the functions of [`Functions`] are, at these shapes. Gradients are not
/// compared: those of equal functions are equal, but not necessarily the code that computes them.
///
/// A function that is something else than sums and products of its inputs is refused if that shows at random points, as ReLU,
/// rounding, division and casts to integers do. What small numbers do not show is not seen: a cast to f32, or a branch that
/// random points never take, such as `x == 0`.
///
/// Degrees are measured, by finite differences along random lines; section 6 of `docs/equivalence.md` derives the bound.
///
/// A grouped convolution is a dense one with a block-diagonal kernel:
///
/// ```
/// use candle_core::{Result, Tensor};
/// use resnext_model::equivalence::{Functions, prove_equal};
///
/// fn grouped(_: &Functions, t: &[Tensor]) -> Result<Tensor> {
///     t[0].conv2d(&t[1], 1, 1, 1, 2)
/// }
///
/// /// Each group's kernels, with zeros for the channels of the other group.
/// fn dense(t: &[Tensor], order: [usize; 2]) -> Result<Tensor> {
///     let block = |i: usize, before: usize| t[1].narrow(0, 2 * i, 2)?.pad_with_zeros(1, 2 * before, 2 - 2 * before);
///     let weight = Tensor::cat(&[block(0, order[0])?, block(1, order[1])?], 0)?;
///     t[0].conv2d(&weight, 1, 1, 1, 1)
/// }
///
/// // The input (N, C, H, W), and the weight of two groups of two channels.
/// let shapes = [&[1, 4, 5, 6][..], &[4, 2, 3, 3]];
/// let proof = prove_equal(grouped, |_, t| dense(t, [0, 1]), &shapes, 1e-15)?;
/// assert!(proof.bound <= 1e-15 && proof.degree == 2);
///
/// // With the blocks beside the diagonal, it is another function.
/// let wrong = prove_equal(grouped, |_, t| dense(t, [1, 0]), &shapes, 1e-15).unwrap_err();
/// assert!(wrong.to_string().contains("the functions differ: at [0, 0, 0, 0] of the output"));
/// # Ok::<(), resnext_model::equivalence::NotEqual>(())
/// ```
///
/// Attention whose heads are projected by one matrix, against a projection for each head. The softmax, with the scaling in
/// front of it, is a function of the rows of the scores:
///
/// ```
/// use candle_core::{D, Result, Tensor};
/// use resnext_model::equivalence::{Functions, prove_equal};
///
/// const HEADS: usize = 2;
///
/// /// Rows q, k and v (N, tokens, width) of one head.
/// fn head(f: &Functions, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
///     let scores = q.matmul(&k.t()?)?;
///     f.each("softmax", &scores, &[scores.rank() - 1])?.matmul(v)
/// }
///
/// /// x (N, tokens, width), the three projections and that of the output (width, width).
/// fn apart(f: &Functions, t: &[Tensor]) -> Result<Tensor> {
///     let (x, width) = (&t[0], t[1].dim(1)? / HEADS);
///     let of_head = |i: usize| {
///         let part = |w: &Tensor| x.broadcast_matmul(&w.narrow(1, i * width, width)?.contiguous()?);
///         head(f, &part(&t[1])?, &part(&t[2])?, &part(&t[3])?)
///     };
///     let heads = (0..HEADS).map(of_head).collect::<Result<Vec<_>>>()?;
///     Tensor::cat(&heads, D::Minus1)?.broadcast_matmul(&t[4])
/// }
///
/// fn together(f: &Functions, t: &[Tensor]) -> Result<Tensor> {
///     let (n, tokens, width) = t[0].dims3()?;
///     let qkv = t[0].broadcast_matmul(&Tensor::cat(&t[1..4], 1)?)?;
///     let qkv = qkv.reshape((n, tokens, 3, HEADS, width / HEADS))?.permute((2, 0, 3, 1, 4))?.contiguous()?;
///     let y = head(f, &qkv.get(0)?, &qkv.get(1)?, &qkv.get(2)?)?;
///     y.transpose(1, 2)?.reshape((n, tokens, width))?.broadcast_matmul(&t[4])
/// }
///
/// let (x, weight) = (&[2, 3, 4][..], &[4, 4][..]);
/// let proof = prove_equal(apart, together, &[x, weight, weight, weight, weight], 1e-15)?;
/// assert!(proof.bound <= 1e-15);
///
/// // With the weights of queries and keys exchanged, the scores are transposed.
/// let exchanged = |f: &Functions, t: &[Tensor]| {
///     together(f, &[t[0].clone(), t[2].clone(), t[1].clone(), t[3].clone(), t[4].clone()])
/// };
/// let wrong = prove_equal(apart, exchanged, &[x, weight, weight, weight, weight], 1e-15).unwrap_err();
/// assert!(wrong.to_string().contains("softmax"), "{wrong}");
/// # Ok::<(), resnext_model::equivalence::NotEqual>(())
/// ```
///
/// # Errors
/// [`NotEqual`], which says where the functions differ or why that is not decided.
pub fn prove_equal(
    f: impl Fn(&Functions, &[Tensor]) -> candle_core::Result<Tensor>,
    g: impl Fn(&Functions, &[Tensor]) -> candle_core::Result<Tensor>,
    shapes: &[&[usize]],
    bound: f64,
) -> Result<Equality, NotEqual> {
    let mut rng = generator(2016);
    let (modulus, structure) = field(&f, &g, shapes, &mut rng)?;
    let mut verdict =
        Equality { trials: 0, degree: structure.degree, smallest_set: modulus, bound: 1.0, numbers: 0 };
    let mut primes = primes_from(modulus);
    while verdict.bound > bound {
        let Some(modulus) = primes.next().filter(|&p| structure.miss(p) < WEAK) else {
            return Err(NotEqual::Weak(structure.miss(verdict.smallest_set)));
        };
        verdict.trials += 1;
        let inputs = draw(shapes, modulus, &mut rng);
        let trial = verdict.trials as i32;
        let (of_f, of_g) = (
            exactly(&f, "first", &inputs, shapes, (modulus, trial), &mut rng)?,
            exactly(&g, "second", &inputs, shapes, (modulus, trial), &mut rng)?,
        );
        if let Some(place) = of_f.difference(&of_g) {
            return Err(NotEqual::Different(place));
        }
        verdict.bound *= structure.miss(modulus);
        verdict.smallest_set = modulus;
        verdict.numbers += of_f.values.len() as u64;
    }
    Ok(verdict)
}

/// The largest probability of a miss with which trials are worth their time.
const WEAK: f64 = 0.5;

/// The size of the largest primes that are tried.
const LARGEST_PRIME: u32 = 1 << 25;

/// The largest degree that is looked for.
const LARGEST_DEGREE: usize = 40;

/// Primes from `largest` on downwards.
fn primes_from(largest: u32) -> impl Iterator<Item = u32> {
    (3..=largest).rev().filter(|&n| is_prime(n))
}

/// One evaluation: the output and the calls of functions, modulo the prime.
struct Evaluation {
    dims: Vec<usize>,
    values: Vec<i64>,
    calls: Vec<Call>,
    exact: bool,
}

impl Evaluation {
    fn new(
        f: &impl Subject,
        inputs: &[Vec<i64>],
        shapes: &[&[usize]],
        (modulus, trial): (u32, i32),
        oracle: Oracle,
    ) -> candle_core::Result<Self> {
        let inputs: Vec<Vec<f64>> = inputs.iter().map(|x| x.iter().map(|&v| v as f64).collect()).collect();
        Self::at(f, inputs, shapes, Functions::new(modulus, trial, oracle, false))
    }

    /// The evaluation at inputs that are not integers, perhaps.
    fn at(
        f: &impl Subject,
        inputs: Vec<Vec<f64>>,
        shapes: &[&[usize]],
        functions: Functions,
    ) -> candle_core::Result<Self> {
        let tensor = |(values, &shape): (Vec<f64>, &&[usize])| Tensor::from_vec(values, shape, &Device::Cpu);
        let tensors = inputs.into_iter().zip(shapes).map(tensor).collect::<candle_core::Result<Vec<_>>>()?;
        let y = f(&functions, &tensors)?;
        let (values, exact, calls) = functions.end(&y)?;
        Ok(Evaluation { dims: y.dims().to_vec(), values, calls, exact })
    }

    /// The arguments of each call in turn, and then the output.
    fn sequences(&self) -> impl Iterator<Item = Vec<i64>> {
        let argument = |call: &Call| call.slices.iter().flat_map(|(_, slice)| slice.clone()).collect();
        self.calls.iter().map(argument).chain([self.values.clone()])
    }

    /// The first place where two evaluations differ.
    fn difference(&self, other: &Self) -> Option<Place> {
        let at = self.values.iter().zip(&other.values).position(|(a, b)| a != b)?;
        let mut index = Vec::with_capacity(self.dims.len());
        let mut rest = at;
        for &dim in self.dims.iter().rev() {
            index.insert(0, rest % dim);
            rest /= dim;
        }
        let call = odd_call(&other.calls, &self.calls, "second")
            .or_else(|| odd_call(&self.calls, &other.calls, "first"));
        Some(Place { call, index, first: self.values[at], second: other.values[at] })
    }
}

/// The first argument among `calls` that `others` never pass to the same function.
fn odd_call(calls: &[Call], others: &[Call], side: &str) -> Option<String> {
    let known: HashSet<&(Key, Vec<i64>)> = others.iter().flat_map(|call| &call.slices).collect();
    calls.iter().enumerate().find_map(|(i, call)| {
        let slice = call.slices.iter().position(|slice| !known.contains(slice))?;
        let name = &call.name;
        Some(format!("in call {i}, the {side} function passes `{name}` an argument that the other never does, slice {slice}"))
    })
}

/// Evaluates a function at `inputs`, and makes sure that it was exact: at inputs of which some are moved by half of the
/// prime, a polynomial with integer coefficients is the same modulo the prime. A function of the sign or the fraction of a
/// number, such as ReLU or `floor`, is not, nor is a rounded one.
fn exactly(
    f: &impl Subject,
    side: &'static str,
    inputs: &[Vec<i64>],
    shapes: &[&[usize]],
    (modulus, trial): (u32, i32),
    rng: &mut ChaCha8Rng,
) -> Result<Evaluation, NotEqual> {
    let here = Evaluation::new(f, inputs, shapes, (modulus, trial), Oracle::Argument)?;
    let mut move_some = |&x: &i64| if rng.random() { moved(x as f64, modulus) } else { x as f64 };
    let inputs = inputs.iter().map(|x| x.iter().map(&mut move_some).collect()).collect();
    let there = Evaluation::at(f, inputs, shapes, Functions::new(modulus, trial, Oracle::Argument, true))?;
    match here.exact && there.exact && here.sequences().eq(there.sequences()) {
        true => Ok(here),
        false => Err(NotEqual::Inexact { side }),
    }
}

fn draw(shapes: &[&[usize]], modulus: u32, rng: &mut ChaCha8Rng) -> Vec<Vec<i64>> {
    let half = i64::from(modulus / 2);
    let one = |shape: &&[usize]| {
        (0..shape.iter().product::<usize>()).map(|_| rng.random_range(-half..=half)).collect()
    };
    shapes.iter().map(one).collect()
}

/// The numbers that the bound depends on.
struct Structure {
    /// The degree of the outputs.
    degree: usize,
    /// The largest degree of an argument.
    argument_degree: usize,
    /// How often each function is applied, by both sides together.
    applications: Vec<usize>,
    /// The longest chain of calls in which each needs the one before.
    depth: usize,
    /// The length of the longest argument.
    length: usize,
}

impl Structure {
    /// The probability with which a trial misses a difference, at most.
    fn miss(&self, modulus: u32) -> f64 {
        let p = f64::from(modulus);
        let (degree, argument) =
            (self.degree as f64, self.argument_degree as f64 / p + collision(self.length));
        // Either no two arguments of one function collide, of all that there are;
        let pairs: f64 = self.applications.iter().map(|&n| n as f64 * (n as f64 - 1.0) / 2.0).sum();
        let none = degree / p + pairs * argument;
        // or those that one monomial needs do not collide with another, layer by layer.
        let others = self.applications.iter().max().map_or(0.0, |&most| most as f64 - 1.0);
        let mut collides = 0.0;
        for _ in 0..self.depth {
            collides = argument + self.argument_degree as f64 * others * collides;
        }
        none.min(degree / p + degree * others * collides)
    }
}

/// The largest prime with which both functions are exact, and the structure of both.
fn field(
    f: &impl Subject,
    g: &impl Subject,
    shapes: &[&[usize]],
    rng: &mut ChaCha8Rng,
) -> Result<(u32, Structure), NotEqual> {
    let mut largest = LARGEST_PRIME;
    loop {
        let modulus = primes_from(largest).next().unwrap_or(3);
        let inputs = draw(shapes, modulus, rng);
        let exact = exactly(f, "first", &inputs, shapes, (modulus, 0), rng)
            .and_then(|of_f| Ok((of_f, exactly(g, "second", &inputs, shapes, (modulus, 0), rng)?)));
        let (of_f, of_g) = match exact {
            Ok(both) => both,
            Err(NotEqual::Inexact { .. }) if largest > 1 << 5 => {
                largest /= 2;
                continue;
            }
            Err(error) => return Err(error),
        };
        if of_f.dims != of_g.dims {
            return Err(NotEqual::Shapes(of_f.dims, of_g.dims));
        }
        let mut structure =
            Structure { degree: 0, argument_degree: 0, applications: Vec::new(), depth: 0, length: 0 };
        let mut applications = HashMap::<Key, usize>::new();
        for (key, slice) in of_f.calls.iter().chain(&of_g.calls).flat_map(|call| &call.slices) {
            *applications.entry(*key).or_default() += 1;
            structure.length = structure.length.max(slice.len());
        }
        structure.applications = applications.into_values().collect();
        for (side, calls) in [("first", of_f.calls.len()), ("second", of_g.calls.len())] {
            let (degrees, depth) = match side {
                "first" => (degrees(f, side, shapes, modulus, rng)?, depth(f, calls, shapes, modulus, rng)?),
                _ => (degrees(g, side, shapes, modulus, rng)?, depth(g, calls, shapes, modulus, rng)?),
            };
            let (output, arguments) = degrees.split_last().map_or((0, &[][..]), |(last, rest)| (*last, rest));
            structure.degree = structure.degree.max(output).max(1);
            let argument = arguments.iter().copied().max().unwrap_or(0);
            structure.argument_degree = structure.argument_degree.max(argument);
            structure.depth = structure.depth.max(depth);
        }
        return Ok((modulus, structure));
    }
}

/// The degrees of all arguments of calls and, last, of the output, as polynomials of the inputs and the functions' values:
/// those along a random line, of which a finite difference of the next higher order is zero.
fn degrees(
    f: &impl Subject,
    side: &'static str,
    shapes: &[&[usize]],
    modulus: u32,
    rng: &mut ChaCha8Rng,
) -> Result<Vec<usize>, NotEqual> {
    let (from, step) = (draw(shapes, modulus, rng), draw(shapes, modulus, rng));
    // For each sequence the newest finite differences, of order 0, 1 and so on.
    let mut differences: Vec<Vec<Vec<i64>>> = Vec::new();
    for t in 0..=LARGEST_DEGREE as i64 + 1 {
        let inputs: Vec<_> =
            from.iter().zip(&step).map(|(from, step)| line_point(from, step, t, modulus)).collect();
        let here = Evaluation::new(f, &inputs, shapes, (modulus, 0), Oracle::Line { t, moved: None })?;
        let mut zero = Vec::new();
        for (i, values) in here.sequences().enumerate() {
            if t == 0 {
                differences.push(Vec::new());
            }
            let newest = differences.get_mut(i).ok_or(NotEqual::Inexact { side })?;
            let mut next = values;
            for older in newest.iter_mut() {
                let difference = line_point(&next, older, -1, modulus);
                *older = std::mem::replace(&mut next, difference);
            }
            newest.push(next);
            // All values of the order before were equal, so this one and all later ones are zero.
            zero.push(newest.iter().position(|order| order.iter().all(|&v| v == 0)));
        }
        if t > 0 && zero.iter().all(|order| order.is_some_and(|order| (order as i64) <= t)) {
            return Ok(zero.into_iter().flatten().map(|order| order.saturating_sub(1)).collect());
        }
    }
    Err(NotEqual::Inexact { side })
}

/// The longest chain of calls in which the argument of each depends on the value of the one before.
fn depth(
    f: &impl Subject,
    calls: usize,
    shapes: &[&[usize]],
    modulus: u32,
    rng: &mut ChaCha8Rng,
) -> candle_core::Result<usize> {
    let inputs = draw(shapes, modulus, rng);
    let evaluate = |moved| Evaluation::new(f, &inputs, shapes, (modulus, 0), Oracle::Line { t: 0, moved });
    let plain: Vec<_> = evaluate(None)?.sequences().collect();
    let mut levels = vec![1; calls];
    for i in 0..calls {
        let moved = evaluate(Some(i))?;
        for (j, sequence) in moved.sequences().take(calls).enumerate().skip(i + 1) {
            if plain.get(j) != Some(&sequence) {
                levels[j] = levels[j].max(levels[i] + 1);
            }
        }
    }
    Ok(levels.into_iter().max().unwrap_or(0))
}
