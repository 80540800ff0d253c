//! Sums of gradients over processes, in buckets, while the backward pass computes further ones.

use crate::distributed::config::DistributedConfig;
use crate::distributed::processes::{Pending, PendingTensor, Processes, SumTime};
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
    /// Whether gradients are added up as tensors, from the second step on.
    as_tensors: bool,
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

/// The sum of a bucket on its way.
#[derive(Debug)]
enum Sum {
    Host(Pending),
    Tensor(PendingTensor),
}

/// The state of a step in progress.
#[derive(Debug, Default)]
struct Step {
    /// By bucket; `None` while it is being summed.
    buffers: Vec<Option<Vec<f32>>>,
    pending: Vec<Option<Sum>>,
    /// By variable, its gradient so far, if gradients are added up as tensors.
    tensors: Option<Vec<Option<Tensor>>>,
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
            as_tensors: false,
            step: Step::default(),
            times: ExchangeTimes::default(),
            variables,
        };
        sums.fill_buckets((0..sums.variables.len()).collect());
        sums
    }

    /// Whether gradients stay tensors on their device, as sums by NCCL take them.
    pub(crate) fn set_as_tensors(&mut self, as_tensors: bool) {
        self.as_tensors = as_tensors;
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
        step.tensors = (self.as_tensors && self.learned).then(|| vec![None; self.variables.len()]);
        match step.tensors {
            Some(_) => step.buffers = vec![None; self.buckets.len()],
            None => {
                step.buffers.resize(self.buckets.len(), None);
                for (buffer, (_, len)) in step.buffers.iter_mut().zip(&self.buckets) {
                    let buffer = buffer.get_or_insert_default();
                    buffer.clear();
                    buffer.resize(*len, 0.0);
                }
            }
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
        let mut tensors = vec![None; self.buckets.len()];
        for (bucket, pending) in self.step.pending.iter_mut().enumerate() {
            let time = match pending.take() {
                None => continue,
                Some(Sum::Host(pending)) => {
                    let (sums, time) = pending.wait()?;
                    self.step.buffers[bucket] = Some(sums);
                    time
                }
                Some(Sum::Tensor(pending)) => {
                    let (sums, time) = pending.wait()?;
                    tensors[bucket] = Some(sums);
                    time
                }
            };
            self.times.bytes += time.bytes;
            self.times.busy += time.exchange[1] - time.exchange[0];
            self.times.last.push(time);
        }
        self.times.steps += 1;
        self.times.waited += waiting.elapsed();
        self.times.waited_from = Some(waiting);
        let mut sums = HashMap::new();
        for (tensor, (members, len)) in tensors.iter().zip(&self.buckets) {
            let Some(tensor) = tensor else { continue };
            let first = len - members.len();
            let present = tensor.narrow(0, first, members.len())?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
            for (&index, present) in members.iter().zip(present) {
                let Variable { value, offset, .. } = &self.variables[index];
                if present > 0.0 {
                    let sum = tensor.narrow(0, *offset, value.elem_count())?.to_dtype(DType::F32)?;
                    sums.insert(value.id(), sum.reshape(value.shape())?);
                }
            }
        }
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
        while self.step.missing.get(self.step.next) == Some(&0) {
            let bucket = self.step.next;
            self.step.pending[bucket] = self.start(bucket)?;
            self.step.next += 1;
        }
        Ok(())
    }

    /// Starts the sum of a bucket.
    fn start(&mut self, bucket: usize) -> Result<Option<Sum>> {
        let Some(gradients) = &mut self.step.tensors else {
            let buffer = self.step.buffers[bucket].take();
            return Ok(buffer.map(|buffer| Sum::Host(self.processes.sum(buffer, self.wire))));
        };
        let (mut parts, mut present) = (Vec::new(), Vec::new());
        for &index in &self.buckets[bucket].0 {
            let variable = &self.variables[index].value;
            let gradient = gradients[index].take();
            present.push(if gradient.is_some() { 1f32 } else { 0.0 });
            parts.push(match gradient {
                Some(gradient) => gradient.flatten_all()?,
                None => Tensor::zeros(variable.elem_count(), DType::F32, variable.device())?,
            });
        }
        let device = parts[0].device().clone();
        parts.push(Tensor::new(present, &device)?);
        let wire = match self.wire {
            Wire::F32 => DType::F32,
            Wire::Bf16 => DType::BF16,
        };
        let all = Tensor::cat(&parts, 0)?.to_dtype(wire)?;
        Ok(Some(Sum::Tensor(self.processes.sum_tensor(all, self.wire)?)))
    }

    fn add(&mut self, index: usize, gradient: &Tensor, weight: f64) -> Result<()> {
        let Variable { name, value, bucket, offset, presence, .. } = &self.variables[index];
        if gradient.dims() != value.dims() {
            let (expected, got) = (value.dims(), gradient.dims());
            return Err(Error::Config(format!(
                "gradient of {name}: expected shape {expected:?}, got {got:?}"
            )));
        }
        if let Some(tensors) = &mut self.step.tensors {
            let gradient = (gradient.to_dtype(DType::F32)? * weight)?;
            let sum = match tensors[index].take() {
                Some(sum) => (sum + gradient)?,
                None => gradient,
            };
            tensors[index] = Some(sum);
            return Ok(());
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

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use resnext_ops::value_and_gradients;
    use std::time::Duration;

    /// Three steps of two batches by two threads, of which the second has no gradient of one variable: gradients that are
    /// added up as tensors have the sums of those in buffers, bit for bit, in f32 and in bf16.
    #[test]
    fn gradients_have_the_same_sums_as_tensors() {
        for wire in [Wire::F32, Wire::Bf16] {
            let run = |as_tensors: bool| -> Vec<Vec<Vec<u32>>> {
                let config = DistributedConfig { wire, bucket_bytes: 40, sync_norms: false };
                let one = |processes: Processes| {
                    let rank = processes.rank();
                    let variable = |len: usize| {
                        let values: Vec<f32> = (0..len).map(|i| 0.1 + i as f32).collect();
                        Var::from_vec(values, len, &Device::Cpu).unwrap()
                    };
                    let variables: Vec<Var> = [3, 5, 7, 4].into_iter().map(variable).collect();
                    let named = variables.iter().enumerate().map(|(i, var)| (i.to_string(), var.clone()));
                    let mut sums = GradientSums::new(Arc::new(processes), named.collect(), &config);
                    sums.set_as_tensors(as_tensors);
                    let mut steps = Vec::new();
                    for step in 0..3 {
                        let gradients = |batch: usize| {
                            let factor = 1.0 / (3 + step + 2 * batch + 5 * rank) as f64;
                            let loss = || -> Result<Tensor> {
                                let mut loss = Tensor::new(0f32, &Device::Cpu)?;
                                for var in &variables[..if rank == 1 { 3 } else { 4 }] {
                                    loss = (loss + ((var.as_tensor().sqr()? * factor)?.sum_all()?))?;
                                }
                                Ok(loss)
                            };
                            value_and_gradients(loss).unwrap().1
                        };
                        sums.begin();
                        sums.accumulate(&gradients(0), 0.3).unwrap();
                        let last = gradients(1);
                        for var in &variables {
                            if let Some(gradient) = last.get(var) {
                                sums.arrived(var.as_tensor(), gradient, 0.7).unwrap();
                            }
                        }
                        let all = sums.finish(&last, 0.7).unwrap();
                        assert_eq!(all.len(), 4);
                        let bits = |var: &Var| -> Vec<u32> {
                            let sum = all[&var.id()].to_vec1::<f32>().unwrap();
                            sum.into_iter().map(f32::to_bits).collect()
                        };
                        steps.push(variables.iter().flat_map(bits).collect());
                    }
                    steps
                };
                std::thread::scope(|scope| {
                    let all = Processes::in_threads(2, Duration::from_secs(60)).unwrap();
                    let threads: Vec<_> = all.into_iter().map(|own| scope.spawn(|| one(own))).collect();
                    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
                })
            };
            let (buffers, tensors) = (run(false), run(true));
            assert_eq!(buffers[0], buffers[1]);
            assert_eq!(tensors, buffers, "{wire}");
        }
    }
}
