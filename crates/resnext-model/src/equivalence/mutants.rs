//! Random mutants: blocks and convolutions with a mistake in them. The checks must catch each, unless it computes the same
//! function all the same, which is decided without them.

use super::distance::values;
use super::identity::{Kind, primes};
use super::kernels::{Definition, Integers, Product, Sums, differs, range};
use super::stack::{Stack, generator, tensor};
use super::tally::Tally;
use crate::config::{Config, Form};
use crate::convert::{self, Tensors};
use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use resnext_ops::Conv2dConfig;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The score of one kind of mutants.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MutantScore {
    /// The kind of mistake.
    pub kind: String,
    /// The number of mutants that a check caught.
    pub caught: usize,
    /// The number of mutants that compute the same function, which no check can catch.
    pub same: usize,
    /// The mutants that compute another function and passed.
    pub missed: Vec<String>,
    /// The mutants that compute the same function and did not pass: the check itself is wrong.
    pub false_alarms: Vec<String>,
}

/// Makes `count` random mutants, half of them of blocks and half of convolutions, and checks each as the proof checks the
/// code itself. Returns the score of each kind of mistake.
///
/// Mutants of a block have other weights in one of its forms. Mutants of a convolution read another weight or another
/// pixel than its definition says, as a wrong kernel would, and are compared with this machine's kernels in the way of
/// [`kernels`](fn@super::kernels).
///
/// # Errors
/// If an operation fails.
pub fn mutants(count: usize, seed: u64) -> Result<Vec<MutantScore>> {
    let config = Config::by_name("resnext11_4x3d")?;
    let blocks = Blocks::new(&Stack::distinct_blocks(&config)[1], seed)?;
    let mut rng = generator(seed);
    let mut scores = BTreeMap::<&'static str, MutantScore>::new();
    for i in 0..count {
        let (kind, mutant) = match i % 2 {
            0 => blocks.mutant(&mut rng, &|expected, got| expected.differs(got))?,
            _ => convolution_mutant(&mut rng, &differs)?,
        };
        scores.entry(kind).or_default().add(mutant);
    }
    let named = |(kind, score): (&str, MutantScore)| MutantScore { kind: kind.into(), ..score };
    Ok(scores.into_iter().map(named).collect())
}

impl MutantScore {
    fn add(&mut self, Mutant { description, same, caught }: Mutant) {
        match (same, caught) {
            (false, true) => self.caught += 1,
            (true, false) => self.same += 1,
            (false, false) => self.missed.push(description),
            (true, true) => self.false_alarms.push(description),
        }
    }

    /// Adds the score of another run.
    pub fn merge(&mut self, other: MutantScore) {
        self.caught += other.caught;
        self.same += other.same;
        self.missed.extend(other.missed);
        self.false_alarms.extend(other.false_alarms);
    }

    /// Whether every mutant was caught or computes the same function.
    pub fn is_clean(&self) -> bool {
        self.missed.is_empty() && self.false_alarms.is_empty()
    }
}

/// One mutant, and what was found.
struct Mutant {
    description: String,
    /// Whether it computes the same function.
    same: bool,
    /// Whether the check says that it does not.
    caught: bool,
}

/// Weights that do not depend on the order of paths: the bits of each path's, sorted, and those of the other layers.
type Canonical = (Vec<Vec<u64>>, BTreeMap<String, Vec<u64>>);

/// A block with weights at a random point, of which mutants are made.
struct Blocks {
    stack: Stack,
    weights: Tensors,
    x: Tensor,
    g: Tensor,
    mode: crate::mode::Mode,
    expected: Outputs,
}

/// The tensors that are compared for a mutant of a block: the output and the input's gradient. Gradients of weights change
/// their places with the weights.
struct Outputs(Vec<Tensor>);

impl Outputs {
    fn differs(&self, other: &Self) -> Result<bool> {
        let mut tally = Tally::default();
        for (expected, got) in self.0.iter().zip(&other.0) {
            tally.compare(|| "a mutant".into(), expected, got)?;
        }
        Ok(tally.bits > 0)
    }
}

type BlockCheck<'a> = &'a dyn Fn(&Outputs, &Outputs) -> Result<bool>;

impl Blocks {
    fn new(stack: &Stack, seed: u64) -> Result<Self> {
        let mut rng = generator(seed);
        let modulus = primes(stack, DType::F64)?.next().unwrap_or(3);
        let half = i64::from(modulus / 2);
        let mut draw = |count: usize| (0..count).map(|_| rng.random_range(-half..=half) as f64).collect();
        let weights = stack.draw(DType::F64, &Device::Cpu, |_, count| draw(count))?;
        let shape = stack.input(1)?;
        let x = tensor(draw(shape.elem_count()), &shape, DType::F64, &Device::Cpu)?;
        let shape = stack.output(&shape)?;
        let g = tensor(draw(shape.elem_count()), shape, DType::F64, &Device::Cpu)?;
        let (mode, expected) = (Kind::Functions.mode(modulus), Outputs(Vec::new()));
        let mut blocks = Blocks { stack: stack.clone(), weights, x, g, mode, expected };
        blocks.expected = blocks.outputs(Form::C, &blocks.weights)?;
        Ok(blocks)
    }

    fn outputs(&self, form: Form, weights: &Tensors) -> Result<Outputs> {
        let evaluation = self.stack.evaluate(form, weights, &self.x, &self.g, self.mode)?;
        let missing = || Error::Config("the input has no gradient".into());
        let of_input = evaluation.gradients.get("the input").ok_or_else(missing)?;
        Ok(Outputs(vec![evaluation.output, of_input.clone()]))
    }

    /// A block with a mistake in the weights of one form, or with two whole paths exchanged, which is none.
    fn mutant(&self, rng: &mut ChaCha8Rng, check: BlockCheck) -> Result<(&'static str, Mutant)> {
        let form = *[Form::A, Form::B, Form::C].choose(rng).unwrap_or(&Form::A);
        let c = self.stack.config(Form::C);
        let mut weights = convert::network(&self.weights, &c, form)?;
        let names: Vec<String> = weights.keys().cloned().collect();
        let name = names.choose(rng).cloned().unwrap_or_default();
        let kinds = [
            "weights: an index",
            "weights: two exchanged",
            "weights: a sign",
            "weights: channels off by one",
        ];
        let kinds = kinds.iter().chain(&["weights: a kernel turned", "weights: two paths exchanged"]);
        let kinds: Vec<&'static str> = kinds.copied().collect();
        let kind = *kinds.choose(rng).unwrap_or(&kinds[0]);
        let description = format!("{kind}: {name} of form ({form})");
        if kind == "weights: two paths exchanged" {
            weights = self.with_paths_exchanged(form, rng)?;
        } else if let Some(weight) = weights.get_mut(&name) {
            let mut all = values(weight)?;
            let (a, b) = (rng.random_range(0..all.len()), rng.random_range(0..all.len()));
            match kind {
                "weights: an index" => all[a] = all[b],
                "weights: two exchanged" => all.swap(a, b),
                "weights: a sign" => all[a] = -all[a],
                "weights: channels off by one" => {
                    let row = all.len() / weight.dims()[0];
                    all.rotate_right(row);
                }
                // Every kernel of the weight, turned by 180°; 1×1 kernels stay as they are.
                _ => {
                    let taps: usize = weight.dims().iter().skip(2).product();
                    all.chunks_mut(taps).for_each(<[f64]>::reverse);
                }
            }
            *weight = tensor(all, weight.shape(), DType::F64, &Device::Cpu)?;
        }
        let back = convert::network(&weights, &self.stack.config(form), Form::C)?;
        let same = self.canonical(&back)? == self.canonical(&self.weights)?;
        let caught = check(&self.expected, &self.outputs(form, &weights)?)?;
        Ok((kind, Mutant { description, same, caught }))
    }

    /// All weights of two random paths exchanged, in every layer.
    fn with_paths_exchanged(&self, form: Form, rng: &mut ChaCha8Rng) -> Result<Tensors> {
        let paths = self.stack.first()?.cardinality;
        let (a, b) = (rng.random_range(0..paths), rng.random_range(0..paths));
        let of_a = convert::network(&self.weights, &self.stack.config(Form::C), Form::A)?;
        let (a, b) = (format!(".paths.{a}."), format!(".paths.{b}."));
        let exchanged = |(name, t): (String, Tensor)| match (name.contains(&a), name.contains(&b)) {
            (true, _) => (name.replace(&a, &b), t),
            (_, true) => (name.replace(&b, &a), t),
            _ => (name, t),
        };
        let of_a = of_a.into_iter().map(exchanged).collect();
        convert::network(&of_a, &self.stack.config(Form::A), form)
    }

    /// The weights with the paths in the order of their numbers. Weights that agree in this give the same function, as a
    /// sum does not depend on the order of its paths; and at random weights, others do not.
    fn canonical(&self, weights: &Tensors) -> Result<Canonical> {
        let of_a = convert::network(weights, &self.stack.config(Form::C), Form::A)?;
        let mut paths = BTreeMap::<String, Vec<u64>>::new();
        let mut rest = BTreeMap::new();
        for (name, t) in of_a {
            // 0 and -0 are one number.
            let bits = values(&t)?.into_iter().map(|v| (v + 0.0).to_bits());
            match name.split_once("paths.").and_then(|(_, path)| path.split_once('.')) {
                Some((path, _)) => paths.entry(path.to_string()).or_default().extend(bits),
                None => drop(rest.insert(name, bits.collect())),
            }
        }
        let mut paths: Vec<_> = paths.into_values().collect();
        paths.sort();
        Ok((paths, rest))
    }
}

/// The results that mutants of a convolution get wrong: one of them alone, or all.
const RESULTS: [&str; 4] =
    ["the output", "the gradient of the input", "the gradient of the weight", "every result"];

/// The mistakes of a convolution.
const MISTAKES: [&str; 10] = [
    "gather: the pixel of a neighbour",
    "gather: a kernel transposed",
    "gather: a stride",
    "gather: the edge in place of padding",
    "gather: another image",
    "packing: a weight of another index",
    "packing: two weights exchanged",
    "packing: a sign",
    "packing: a group's neighbour",
    "packing: a tail lane left out",
];

/// A convolution with a mistake.
struct WrongConvolution {
    definition: Definition,
    kind: &'static str,
    /// Two weights.
    weights: (usize, usize),
    /// The first output channel, column or input channel that the mistake applies to.
    from: usize,
}

/// A product as it is computed: the output, the pixel, the weight and the sign.
type Term = (usize, usize, usize, i32);

impl WrongConvolution {
    fn right(&self, p: Product) -> Option<Term> {
        let definition = &self.definition;
        Some((definition.output_of(p), definition.pixel(p)?, definition.weight_of(p), 1))
    }

    fn wrong(&self, p: Product) -> Option<Term> {
        let definition = &self.definition;
        let mut from = p;
        let mut weight = definition.weight_of(p);
        let (a, b) = self.weights;
        let mut sign = 1;
        match self.kind {
            "gather: the pixel of a neighbour" if p.at.1 >= self.from => from.tap.1 += 1,
            "gather: a kernel transposed" if p.source >= self.from => from.tap = (p.tap.1, p.tap.0),
            "gather: a stride" if p.at.1 >= self.from => {
                let config = Conv2dConfig { stride: 3 - definition.config.stride, ..definition.config };
                let pixel = Definition { config, ..*definition }.pixel(p)?;
                return Some((definition.output_of(p), pixel, weight, 1));
            }
            "gather: the edge in place of padding" => return self.at_edge(p),
            "gather: another image" => from.image = 0,
            "packing: a weight of another index" if weight == a => weight = b,
            "packing: two weights exchanged" if weight == a => weight = b,
            "packing: two weights exchanged" if weight == b => weight = a,
            "packing: a sign" if weight == a => sign = -1,
            "packing: a group's neighbour" if p.channel >= self.from => {
                from.channel = (p.channel + definition.group_out()) % definition.output;
            }
            "packing: a tail lane left out"
                if p.source + 1 == definition.group_in() && p.channel >= self.from =>
            {
                return None;
            }
            _ => {}
        }
        Some((definition.output_of(p), definition.pixel(from)?, weight, sign))
    }

    /// A product whose pixel in the padding is the nearest of the map.
    fn at_edge(&self, p: Product) -> Option<Term> {
        let definition = &self.definition;
        let Conv2dConfig { stride, padding, dilation, .. } = definition.config;
        let nearest = |at: usize, tap: usize, len: usize| {
            (at * stride + tap * dilation).saturating_sub(padding).min(len - 1)
        };
        let y = nearest(p.at.0, p.tap.0, definition.map.0);
        let x = nearest(p.at.1, p.tap.1, definition.map.1);
        let channel = p.channel / definition.group_out() * definition.group_in() + p.source;
        let pixel = ((p.image * definition.input + channel) * definition.map.0 + y) * definition.map.1 + x;
        Some((definition.output_of(p), pixel, definition.weight_of(p), 1))
    }

    /// All products, and whether they are those of the definition: the coefficients of the polynomials that the outputs
    /// are.
    fn terms(&self) -> (Vec<Term>, bool) {
        let (mut all, mut changes) = (Vec::new(), BTreeMap::<(usize, usize, usize), i32>::new());
        self.definition.all_products(|p| {
            let (right, wrong) = (self.right(p), self.wrong(p));
            all.extend(wrong);
            if right != wrong {
                for ((output, pixel, weight, sign), by) in
                    wrong.map(|t| (t, 1)).into_iter().chain(right.map(|t| (t, -1)))
                {
                    *changes.entry((output, pixel, weight)).or_default() += by * sign;
                }
            }
        });
        (all, changes.values().all(|&coefficient| coefficient == 0))
    }
}

/// The results of a convolution and of both gradients, as sums of these products.
fn sums(definition: &Definition, terms: &[Term], integers: &Integers) -> Sums {
    let Integers { x, weight, gradient, .. } = integers;
    let mut y = vec![0; definition.y().elem_count()];
    let mut of_x = vec![0; definition.x().elem_count()];
    let mut of_weight = vec![0; definition.weight().elem_count()];
    for &(output, pixel, w, sign) in terms {
        y[output] += sign * x[pixel] * weight[w];
        of_x[pixel] += sign * gradient[output] * weight[w];
        of_weight[w] += sign * gradient[output] * x[pixel];
    }
    Sums { y, of_x, of_weight }
}

type ConvolutionCheck<'a> = &'a dyn Fn(&Definition, &Integers, &Sums) -> Result<bool>;

/// The number of points at which a mutant of a convolution is tried. Each misses a mistake with a probability below 1/10:
/// operands have at least 20 values in the range that is exact in every kernel.
const POINTS: usize = 6;

fn convolution_mutant(rng: &mut ChaCha8Rng, check: ConvolutionCheck) -> Result<(&'static str, Mutant)> {
    let groups = *[1, 1, 2, 4].choose(rng).unwrap_or(&1);
    // Whole vectors, and vectors with a tail.
    let width = *[1, 3, 4, 5, 8, 12].choose(rng).unwrap_or(&4);
    let kernel = *[1, 3, 3].choose(rng).unwrap_or(&3);
    let stride = rng.random_range(1..=2);
    let config = Conv2dConfig { stride, padding: kernel / 2, dilation: 1, groups };
    let group_out = if rng.random() { width } else { rng.random_range(1..=12) };
    let map = (rng.random_range(2..=5), rng.random_range(2..=9));
    let definition =
        Definition { batch: 2, input: width * groups, output: group_out * groups, map, kernel, config };
    let all = definition.weight().elem_count();
    let kind = *MISTAKES.choose(rng).unwrap_or(&MISTAKES[0]);
    let from = match kind {
        "gather: the pixel of a neighbour" | "gather: a stride" => rng.random_range(0..definition.out().1),
        "gather: a kernel transposed" => rng.random_range(0..width),
        _ => rng.random_range(0..definition.output),
    };
    let weights = (rng.random_range(0..all), rng.random_range(0..all));
    let mutant = WrongConvolution { definition, kind, weights, from };
    let (terms, same) = mutant.terms();
    let range = range(&definition)?;
    let result = *RESULTS.choose(rng).unwrap_or(&RESULTS[3]);
    let mut caught = false;
    for _ in 0..POINTS {
        let integers = Integers::draw(&definition, range, rng);
        let wrong = sums(&definition, &terms, &integers);
        let right = Sums::new(&definition, &integers);
        let expected = match result {
            "the output" => Sums { y: wrong.y, ..right },
            "the gradient of the input" => Sums { of_x: wrong.of_x, ..right },
            "the gradient of the weight" => Sums { of_weight: wrong.of_weight, ..right },
            _ => wrong,
        };
        caught = check(&definition, &integers, &expected)?;
        if caught {
            break;
        }
    }
    let description = format!("{kind}: {definition}, weights {weights:?}, from {from}, in {result}");
    Ok((kind, Mutant { description, same, caught }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block() -> Blocks {
        let config = Config::by_name("resnext11_4x3d").unwrap();
        Blocks::new(&Stack::distinct_blocks(&config)[1], 1).unwrap()
    }

    #[test]
    fn every_mutant_is_caught_or_is_the_same_function() {
        let scores = mutants(500, 1).unwrap();
        let total = |of: fn(&MutantScore) -> usize| scores.iter().map(of).sum::<usize>();
        assert!(scores.iter().all(MutantScore::is_clean), "{scores:?}");
        assert_eq!(total(|s| s.caught) + total(|s| s.same), 500);
        // Every kind of mistake was made, and a few mistakes are none.
        assert_eq!(scores.len(), 6 + MISTAKES.len());
        assert!(scores.iter().all(|s| s.caught > 0 || s.kind.contains("paths")), "{scores:?}");
        assert!(total(|s| s.same) > 20, "{scores:?}");
    }

    /// A check that is broken is found by its mutants: one that passes everything, one that looks at the first number
    /// only, and one that finds fault with everything.
    #[test]
    fn broken_checks_miss_mutants() {
        let block = block();
        let first =
            |a: &Outputs, b: &Outputs| -> Result<bool> { Ok(values(&a.0[0])?[0] != values(&b.0[0])?[0]) };
        let blocks: [(&str, BlockCheck); 3] =
            [("passes all", &|_, _| Ok(false)), ("first number", &first), ("fails all", &|_, _| Ok(true))];
        for (name, check) in blocks {
            let (mut score, mut rng) = (MutantScore::default(), generator(2));
            (0..60).for_each(|_| score.add(block.mutant(&mut rng, check).unwrap().1));
            assert!(!score.is_clean(), "{name}");
        }
        let first = |definition: &Definition, integers: &Integers, expected: &Sums| {
            Ok(definition.forward(&integers.x, &integers.weight)[0] != expected.y[0])
        };
        let convolutions: [(&str, ConvolutionCheck); 3] = [
            ("passes all", &|_, _, _| Ok(false)),
            ("first number", &first),
            ("fails all", &|_, _, _| Ok(true)),
        ];
        for (name, check) in convolutions {
            let (mut score, mut rng) = (MutantScore::default(), generator(2));
            (0..60).for_each(|_| score.add(convolution_mutant(&mut rng, check).unwrap().1));
            assert!(!score.is_clean(), "{name}");
        }
    }
}
