//! Sums of gradients over processes, in buckets, while the backward pass computes further ones.

use crate::distributed::config::DistributedConfig;
use crate::distributed::processes::{Pending, Processes, SumTime};
use crate::distributed::sums::Wire;
use crate::elements::elements;
use crate::error::{Error, Result};
use candle_core::{DType, Tensor, TensorId, Var};
use rayon::prelude::*;
use resnext_ops::Gradients;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The weighted sum of all processes' gradients of a step.
///
/// A step calls [`begin`](Self::begin); then, in the backward pass of its last batch, [`arrived`](Self::arrived) with
/// each gradient, and [`finish`](Self::finish) after it. A bucket's sum starts as soon as its last gradient is there.
/// In the first step all sums start after the backward pass: it shows in which order gradients arrive, by which
/// buckets are then filled. Sums are by element, so buckets change none.
#[derive(Debug)]
pub(crate) struct GradientSums {
    processes: Arc<Processes>,
    wire: Wire,
    bucket_bytes: usize,
    variables: Vec<Variable>,
    places: HashMap<TensorId, usize>,
    /// The variables of each bucket, by index, and the number of its elements.
    buckets: Vec<(Vec<usize>, usize)>,
    /// Whether the order of arrival is known.
    learned: bool,
    step: Step,
    times: ExchangeTimes,
}

/// The time that a run has spent on sums of gradients.
#[derive(Debug, Clone, Default)]
pub struct ExchangeTimes {
    /// Steps.
    pub steps: usize,
    /// Bytes of all sums on the wire, counted once whatever the number of processes.
    pub bytes: usize,
    /// The time in which sums were computed, on the communication thread.
    pub busy: Duration,
    /// The part of it that was not hidden: the time that steps waited after their backward pass.
    pub waited: Duration,
    /// The sums of the last step, a bucket each.
    pub last: Vec<SumTime>,
    /// When the last step began to wait for its sums, after its backward pass.
    pub waited_from: Option<Instant>,
}

#[derive(Debug)]
struct Variable {
    name: String,
    value: Var,
    bucket: usize,
    /// Where its gradient begins in the bucket.
    offset: usize,
    /// The place of the number of processes that have a gradient of it.
    presence: usize,
    /// How often a gradient of it arrives in a backward pass.
    uses: usize,
}

/// The state of a step in progress.
#[derive(Debug, Default)]
struct Step {
    /// By bucket; `None` while it is being summed.
    buffers: Vec<Option<Vec<f32>>>,
    pending: Vec<Option<Pending>>,
    /// By bucket: variables whose last gradient has not arrived.
    missing: Vec<usize>,
    /// By variable: arrivals in the backward pass of the last batch.
    arrivals: Vec<usize>,
    complete: Vec<bool>,
    /// Variables by index in the order of their arrival.
    order: Vec<usize>,
    /// The first bucket that is not being summed yet. All processes sum them in this order.
    next: usize,
}

impl GradientSums {
    /// Sums for the named `variables`.
    pub(crate) fn new(
        processes: Arc<Processes>,
        variables: Vec<(String, Var)>,
        config: &DistributedConfig,
    ) -> Self {
        let variable = |(name, value)| Variable { name, value, bucket: 0, offset: 0, presence: 0, uses: 0 };
        let variables: Vec<Variable> = variables.into_iter().map(variable).collect();
        let places = variables.iter().enumerate().map(|(index, v)| (v.value.id(), index)).collect();
        let mut sums = GradientSums {
            processes,
            wire: config.wire,
            bucket_bytes: config.bucket_bytes,
            places,
            buckets: Vec::new(),
            learned: false,
            step: Step::default(),
            times: ExchangeTimes::default(),
            variables,
        };
        sums.fill_buckets((0..sums.variables.len()).collect());
        sums
    }

    /// Assigns the variables to buckets in this order.
    fn fill_buckets(&mut self, order: Vec<usize>) {
        let limit = self.bucket_bytes / size_of::<f32>();
        let mut buckets: Vec<(Vec<usize>, usize)> = Vec::new();
        for index in order {
            let elements = self.variables[index].value.elem_count();
            match buckets.last_mut() {
                Some((members, len)) if *len + elements <= limit => {
                    members.push(index);
                    *len += elements;
                }
                _ => buckets.push((vec![index], elements)),
            }
        }
        for (bucket, (members, len)) in buckets.iter_mut().enumerate() {
            let mut offset = 0;
            for (number, &index) in members.iter().enumerate() {
                let variable = &mut self.variables[index];
                (variable.bucket, variable.offset, variable.presence) = (bucket, offset, *len + number);
                offset += variable.value.elem_count();
            }
            *len += members.len();
        }
        self.buckets = buckets;
        self.step.buffers.clear();
    }

    /// Begins a step.
    pub(crate) fn begin(&mut self) {
        let step = &mut self.step;
        step.buffers.resize(self.buckets.len(), None);
        for (buffer, (_, len)) in step.buffers.iter_mut().zip(&self.buckets) {
            let buffer = buffer.get_or_insert_default();
            buffer.clear();
            buffer.resize(*len, 0.0);
        }
        step.pending = self.buckets.iter().map(|_| None).collect();
        step.missing = self.buckets.iter().map(|(members, _)| members.len()).collect();
        step.arrivals = vec![0; self.variables.len()];
        step.complete = vec![false; self.variables.len()];
        step.order.clear();
        step.next = 0;
    }

    /// Adds `weight` times the gradients of a batch that is not the step's last one.
    ///
    /// # Errors
    /// If a gradient cannot be read.
    pub(crate) fn accumulate(&mut self, gradients: &Gradients, weight: f64) -> Result<()> {
        for index in 0..self.variables.len() {
            if let Some(gradient) = gradients.get(&self.variables[index].value) {
                self.add(index, gradient, weight)?;
            }
        }
        Ok(())
    }

    /// Takes a gradient in the backward pass of the step's last batch; it counts `weight` times. Gradients of other
    /// variables are ignored.
    ///
    /// # Errors
    /// If the gradient cannot be read, or arrives more often than in the first step.
    pub(crate) fn arrived(&mut self, variable: &Tensor, gradient: &Tensor, weight: f64) -> Result<()> {
        let Some(&index) = self.places.get(&variable.id()) else { return Ok(()) };
        self.step.arrivals[index] += 1;
        if !self.learned {
            self.step.order.push(index);
            return Ok(());
        }
        let Variable { name, uses, .. } = &self.variables[index];
        match self.step.arrivals[index].cmp(uses) {
            std::cmp::Ordering::Less => Ok(()),
            std::cmp::Ordering::Equal => self.add_last(index, Some(gradient), weight),
            std::cmp::Ordering::Greater => Err(Error::Processes(format!(
                "the gradient of {name} has more terms than in the first step, and part of it is summed already"
            ))),
        }
    }

    /// Waits for the sums: by variable, the sum over processes of its weighted gradients. `gradients` are those of the
    /// step's last batch. A variable without a gradient in any process has no sum.
    ///
    /// # Errors
    /// [`Error::Processes`] if a process does not take part in time, or computes in another order.
    pub(crate) fn finish(&mut self, gradients: &Gradients, weight: f64) -> Result<HashMap<TensorId, Tensor>> {
        for (members, _) in self.buckets.clone() {
            for index in members {
                if !self.step.complete[index] {
                    let gradient = gradients.get(&self.variables[index].value).cloned();
                    self.add_last(index, gradient.as_ref(), weight)?;
                }
            }
        }
        let waiting = Instant::now();
        self.times.last.clear();
        for (pending, buffer) in self.step.pending.iter_mut().zip(&mut self.step.buffers) {
            if let Some(pending) = pending.take() {
                let (sums, time) = pending.wait()?;
                self.times.bytes += time.bytes;
                self.times.busy += time.exchange[1] - time.exchange[0];
                self.times.last.push(time);
                *buffer = Some(sums);
            }
        }
        self.times.steps += 1;
        self.times.waited += waiting.elapsed();
        self.times.waited_from = Some(waiting);
        let mut sums = HashMap::new();
        for Variable { value, bucket, offset, presence, .. } in &self.variables {
            let Some(buffer) = &self.step.buffers[*bucket] else { continue };
            if buffer[*presence] > 0.0 {
                let elements = buffer[*offset..offset + value.elem_count()].to_vec();
                sums.insert(value.id(), Tensor::from_vec(elements, value.shape(), value.device())?);
            }
        }
        if !self.learned {
            self.learn()?;
        }
        Ok(sums)
    }

    /// The time that the sums have taken so far.
    pub(crate) fn times(&self) -> &ExchangeTimes {
        &self.times
    }

    /// Assigns variables to buckets in the order in which their gradients arrived.
    fn learn(&mut self) -> Result<()> {
        self.learned = true;
        for (variable, arrivals) in self.variables.iter_mut().zip(&self.step.arrivals) {
            variable.uses = *arrivals;
        }
        // The last arrival counts. Variables without any come last, or no bucket after theirs would start early.
        let mut seen = vec![false; self.variables.len()];
        let mut order: Vec<usize> = self
            .step
            .order
            .iter()
            .rev()
            .copied()
            .filter(|&index| !std::mem::replace(&mut seen[index], true))
            .collect();
        order.reverse();
        order.extend((0..seen.len()).filter(|&index| !seen[index]));
        let names: Vec<&str> = order.iter().map(|&index| self.variables[index].name.as_str()).collect();
        self.processes.check_same(&[("order of gradients", names.join(" "))])?;
        self.fill_buckets(order);
        Ok(())
    }

    /// Adds the last gradient of a variable in this step, and starts the sums of buckets that it completes.
    fn add_last(&mut self, index: usize, gradient: Option<&Tensor>, weight: f64) -> Result<()> {
        if let Some(gradient) = gradient {
            self.add(index, gradient, weight)?;
        }
        let step = &mut self.step;
        step.complete[index] = true;
        step.missing[self.variables[index].bucket] -= 1;
        while step.missing.get(step.next) == Some(&0) {
            if let Some(buffer) = step.buffers[step.next].take() {
                step.pending[step.next] = Some(self.processes.sum(buffer, self.wire));
            }
            step.next += 1;
        }
        Ok(())
    }

    fn add(&mut self, index: usize, gradient: &Tensor, weight: f64) -> Result<()> {
        let Variable { name, value, bucket, offset, presence, .. } = &self.variables[index];
        if gradient.dims() != value.dims() {
            let (expected, got) = (value.dims(), gradient.dims());
            return Err(Error::Config(format!(
                "gradient of {name}: expected shape {expected:?}, got {got:?}"
            )));
        }
        let Some(buffer) = &mut self.step.buffers[*bucket] else {
            return Err(Error::Processes(format!("the gradient of {name} came outside of a step")));
        };
        buffer[*presence] = 1.0;
        let (own, weight) = (&mut buffer[*offset..offset + value.elem_count()], weight as f32);
        let mut add = |values: &[f32]| {
            let chunks = own.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK));
            chunks
                .for_each(|(own, values)| own.iter_mut().zip(values).for_each(|(own, v)| *own += weight * v));
        };
        if gradient.device().is_cpu() && gradient.dtype() == DType::F32 && gradient.is_contiguous() {
            elements(gradient, |values| {
                add(values);
                Ok(())
            })?;
        } else {
            add(&gradient.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(())
    }
}

/// Elements per task of the thread pool.
const CHUNK: usize = 1 << 16;
