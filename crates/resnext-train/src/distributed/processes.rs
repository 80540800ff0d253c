//! The processes of a run, as each of them sees them.

#[cfg(feature = "nccl")]
use crate::distributed::nccl::{self, DeviceSum, Nccl};
use crate::distributed::sums::{Scratch, Wire, gather, sum_f32, sum_f64};
use crate::distributed::threads::Threads;
use crate::distributed::transport::Transport;
use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The processes that train one network together: this one's rank, their number, and what they exchange.
///
/// A thread of its own does all communication, one exchange after the other, while the caller computes. Every
/// process must ask for the same exchanges in the same order.
pub struct Processes {
    rank: usize,
    size: usize,
    /// `None` for a single process.
    worker: Option<Worker>,
    /// Whether tensors are added up on their GPUs.
    on_gpus: AtomicBool,
}

struct Worker {
    /// Closed to end the thread.
    jobs: Mutex<Option<Sender<Job>>>,
    thread: Option<JoinHandle<()>>,
    abandoned: Arc<AtomicBool>,
}

/// The state of the communication thread.
struct Engine {
    transport: Box<dyn Transport>,
    scratch: Scratch,
    /// Made and dropped on this thread.
    #[cfg(feature = "nccl")]
    nccl: Option<Nccl>,
}

type Job = Box<dyn FnOnce(&mut Engine) + Send>;

/// When a sum was requested, and when it was computed.
#[derive(Debug, Clone, Copy)]
pub struct SumTime {
    /// Bytes of the sum on the wire.
    pub bytes: usize,
    /// When it was requested.
    pub submitted: Instant,
    /// When its exchange began, and when the sum was complete.
    pub exchange: [Instant; 2],
}

/// A sum that is being computed.
#[derive(Debug)]
pub struct Pending(Receiver<Result<(Vec<f32>, SumTime)>>);

impl Pending {
    /// Waits for the sum.
    ///
    /// # Errors
    /// [`Error::Processes`] if a process does not take part in time.
    pub fn wait(self) -> Result<(Vec<f32>, SumTime)> {
        self.0.recv().unwrap_or_else(|_| Err(ended()))
    }
}

/// A sum of tensors that is being computed.
#[derive(Debug)]
pub(crate) struct PendingTensor(Receiver<Result<(Tensor, SumTime)>>);

impl PendingTensor {
    /// Waits for the sum.
    ///
    /// # Errors
    /// [`Error::Processes`] if a process does not take part in time.
    pub(crate) fn wait(self) -> Result<(Tensor, SumTime)> {
        self.0.recv().unwrap_or_else(|_| Err(ended()))
    }
}

fn ended() -> Error {
    Error::Processes("the thread that exchanges data with other processes has ended".into())
}

impl Processes {
    /// A single process, which is all there is: sums are what they are sums of.
    pub fn single() -> Self {
        Processes { rank: 0, size: 1, worker: None, on_gpus: AtomicBool::new(false) }
    }

    /// `size` threads of this process in the place of processes, by rank, for tests: each thread uses one of them. A
    /// thread waits for the others for `timeout` at most.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn in_threads(size: usize, timeout: Duration) -> Result<Vec<Self>> {
        let transports = Threads::new(size, timeout).into_iter();
        transports.map(|own| Self::start(move |_| Ok(Box::new(own) as Box<dyn Transport>))).collect()
    }

    /// The processes that an MPI launcher, such as `mpirun` or `srun`, has started. To be called once in a process,
    /// with no MPI use besides.
    ///
    /// A process that waits in an exchange for longer than `timeout` says so on standard error and ends all of them
    /// with `MPI_Abort`, because MPI cannot go on without one.
    ///
    /// # Errors
    /// If MPI cannot be initialised.
    #[cfg(feature = "mpi")]
    pub fn mpi(timeout: Duration) -> Result<Self> {
        Self::start(move |abandoned| {
            Ok(Box::new(crate::distributed::mpi::Mpi::new(timeout, abandoned)?) as Box<dyn Transport>)
        })
    }

    /// Starts the communication thread, on which `create` makes the transport. Exchanges should end soon after the
    /// flag that it is given is set.
    fn start(
        create: impl FnOnce(Arc<AtomicBool>) -> Result<Box<dyn Transport>> + Send + 'static,
    ) -> Result<Self> {
        let abandoned = Arc::new(AtomicBool::new(false));
        let (jobs, queue) = channel::<Job>();
        let (started, ready) = channel();
        let flag = Arc::clone(&abandoned);
        let serve = move || match create(flag) {
            Err(error) => drop(started.send(Err(error))),
            Ok(transport) => {
                let _ = started.send(Ok((transport.rank(), transport.size())));
                let mut engine = Engine {
                    transport,
                    scratch: Scratch::default(),
                    #[cfg(feature = "nccl")]
                    nccl: None,
                };
                queue.iter().for_each(|job| job(&mut engine));
            }
        };
        let thread = std::thread::Builder::new().name("processes".into()).spawn(serve);
        let thread = thread
            .map_err(|error| Error::Processes(format!("cannot start the communication thread: {error}")))?;
        let (rank, size) = ready.recv().map_err(|_| ended())??;
        let worker = Worker { jobs: Mutex::new(Some(jobs)), thread: Some(thread), abandoned };
        Ok(Processes { rank, size, worker: Some(worker), on_gpus: AtomicBool::new(false) })
    }

    /// This process's number, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The number of processes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Starts to add `values` up over all processes, in the order of their ranks. All get the same bits.
    pub fn sum(&self, values: Vec<f32>, wire: Wire) -> Pending {
        let bytes = values.len() * wire.bytes();
        self.pending(values, bytes, move |engine, values| {
            sum_f32(&mut *engine.transport, values, wire, &mut engine.scratch)
        })
    }

    /// Starts to add `values` up in f32 by MPI's own sum, to measure it beside [`sum`](Self::sum): `MPI_Iallreduce`, or
    /// `MPI_Allreduce` if `blocking`. In which order it adds up is MPI's affair. Processes that are not MPI's have no
    /// such sum, which waiting for it says.
    pub fn sum_by_library(&self, values: Vec<f32>, blocking: bool) -> Pending {
        let bytes = size_of_val(&values[..]);
        self.pending(values, bytes, move |engine, values| {
            let received = engine.scratch.wide(values.len());
            engine.transport.library_sum(values, received, blocking)?;
            values.copy_from_slice(received);
            Ok(())
        })
    }

    /// Has the communication thread replace `values`, of which `bytes` travel, by their sum.
    fn pending(
        &self,
        mut values: Vec<f32>,
        bytes: usize,
        sum: impl FnOnce(&mut Engine, &mut Vec<f32>) -> Result<()> + Send + 'static,
    ) -> Pending {
        let submitted = Instant::now();
        let (reply, receiver) = channel();
        if self.worker.is_none() {
            let time = SumTime { bytes: 0, submitted, exchange: [submitted; 2] };
            let _ = reply.send(Ok((values, time)));
            return Pending(receiver);
        }
        self.submit(move |engine| {
            let begun = Instant::now();
            let done = sum(engine, &mut values);
            let time = SumTime { bytes, submitted, exchange: [begun, Instant::now()] };
            let _ = reply.send(done.map(|()| (values, time)));
        });
        Pending(receiver)
    }

    /// Has tensors on `device` added up on GPUs from now on, by NCCL. To be called by all processes; returns in all alike
    /// whether it is so: the program is built with the feature `nccl`, and each process has a GPU that no other one has.
    ///
    /// # Errors
    /// If NCCL cannot bring the processes together, or one does not take part in time.
    pub fn connect(&self, device: &Device) -> Result<bool> {
        #[cfg(feature = "nccl")]
        if self.size > 1 {
            let own = nccl::identity(device)?.unwrap_or_default();
            let gpus = self.gather(&own, "finding the GPUs")?;
            let alone = |(rank, gpu): (usize, &Vec<u8>)| !gpu.is_empty() && !gpus[..rank].contains(gpu);
            if let (true, Device::Cuda(cuda)) = (gpus.iter().enumerate().all(alone), device) {
                let id = if self.rank == 0 { nccl::new_id()? } else { Vec::new() };
                let id = self.gather(&id, "starting NCCL")?.swap_remove(0);
                let (place, cuda) = ((self.rank, self.size), cuda.clone());
                let joined = self.ask(move |engine| {
                    engine.nccl = Some(Nccl::join(&cuda, place, &id)?);
                    Ok(())
                });
                joined.unwrap_or(Ok(()))?;
                self.on_gpus.store(true, Ordering::Relaxed);
            }
        }
        let _ = device;
        Ok(self.on_gpus.load(Ordering::Relaxed))
    }

    /// Starts to add up a tensor of rank 1 of the type that `wire` names: on GPUs by NCCL, in an order of its own, or
    /// else in the order of ranks by way of the host.
    ///
    /// # Errors
    /// If there is no memory for the sum.
    pub(crate) fn sum_tensor(&self, tensor: Tensor, wire: Wire) -> Result<PendingTensor> {
        let submitted = Instant::now();
        let bytes = tensor.elem_count() * wire.bytes();
        let (reply, receiver) = channel();
        let timed = move |begun: Instant, sum: Result<Tensor>| {
            let time = SumTime { bytes, submitted, exchange: [begun, Instant::now()] };
            let _ = reply.send(sum.map(|sum| (sum, time)));
        };
        #[cfg(feature = "nccl")]
        if self.on_gpus.load(Ordering::Relaxed) {
            let sum = DeviceSum::new(tensor)?;
            self.submit(move |engine| timed(Instant::now(), engine.sum_on_gpus(sum)));
            return Ok(PendingTensor(receiver));
        }
        self.submit(move |engine| timed(Instant::now(), engine.sum_on_hosts(&tensor, wire)));
        Ok(PendingTensor(receiver))
    }

    /// Replaces `values` by their sums over all processes, in the order of their ranks.
    ///
    /// # Errors
    /// [`Error::Processes`] if a process does not take part in time.
    pub fn sum_f64(&self, values: &mut [f64], purpose: &'static str) -> Result<()> {
        let mut own = values.to_vec();
        let sums = self.ask(move |engine| {
            sum_f64(&mut *engine.transport, &mut own, purpose)?;
            Ok(own)
        });
        if let Some(sums) = sums {
            values.copy_from_slice(&sums?);
        }
        Ok(())
    }

    /// The bytes of every process, by rank, which may be of different lengths.
    ///
    /// # Errors
    /// [`Error::Processes`] if a process does not take part in time.
    pub fn gather(&self, bytes: &[u8], purpose: &'static str) -> Result<Vec<Vec<u8>>> {
        let own = bytes.to_vec();
        let all = self.ask(move |engine| gather(&mut *engine.transport, &own, purpose));
        all.unwrap_or_else(|| Ok(vec![bytes.to_vec()]))
    }

    /// Whether `flag` is set in any process.
    ///
    /// # Errors
    /// [`Error::Processes`] if a process does not take part in time.
    pub fn any(&self, flag: bool) -> Result<bool> {
        let mut flags = [f64::from(u8::from(flag))];
        self.sum_f64(&mut flags, "agreeing whether to stop")?;
        Ok(flags[0] > 0.0)
    }

    /// Checks that named facts, such as the hash of a data set, are the same in all processes.
    ///
    /// # Errors
    /// [`Error::AllProcesses`] in all processes alike, which names the first fact that differs, the first rank in which
    /// it does, and both values.
    pub fn check_same(&self, facts: &[(&str, String)]) -> Result<()> {
        for (name, own) in facts {
            let all = self.gather(own.as_bytes(), "comparing processes")?;
            let other = all.iter().enumerate().find(|(_, other)| **other != all[0]);
            if let Some((rank, other)) = other {
                let [first, other] = excerpts(&all[0], other);
                return Err(Error::AllProcesses(format!(
                    "rank {rank} has another {name} than rank 0: {other}, not {first}"
                )));
            }
        }
        Ok(())
    }

    /// Ends all processes of the run at once, this one with exit status 1, because of an error that only this one
    /// knows of. An exchange that is under way is not waited for.
    pub fn abort(&self) -> ! {
        if let Some(worker) = &self.worker {
            worker.abandoned.store(true, Ordering::Relaxed);
            worker.submit(|engine| engine.transport.abort());
            // MPI_Abort ends this process, too. The launcher ends the others when this one exits without it.
            std::thread::sleep(Duration::from_secs(2));
        }
        std::process::exit(1)
    }

    /// Has the communication thread do something, and waits for it; `None` for a single process.
    fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Engine) -> Result<T> + Send + 'static,
    ) -> Option<Result<T>> {
        self.worker.as_ref()?;
        let (reply, receiver) = channel();
        self.submit(move |engine| drop(reply.send(job(engine))));
        Some(receiver.recv().unwrap_or_else(|_| Err(ended())))
    }

    /// A thread that has ended drops the job, and with it the sender of its reply, which whoever waits sees.
    fn submit(&self, job: impl FnOnce(&mut Engine) + Send + 'static) {
        if let Some(worker) = &self.worker {
            worker.submit(job);
        }
    }
}

impl Engine {
    fn sum_on_hosts(&mut self, tensor: &Tensor, wire: Wire) -> Result<Tensor> {
        let mut values = tensor.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        sum_f32(&mut *self.transport, &mut values, wire, &mut self.scratch)?;
        Ok(Tensor::from_vec(values, tensor.elem_count(), tensor.device())?.to_dtype(tensor.dtype())?)
    }

    #[cfg(feature = "nccl")]
    fn sum_on_gpus(&mut self, mut sum: DeviceSum) -> Result<Tensor> {
        let Some(nccl) = &self.nccl else { return Err(ended()) };
        let done = nccl.start(&mut sum)?;
        let mut problem = None;
        let mut is_done = || {
            done.try_is_complete().unwrap_or_else(|error| {
                problem = Some(error);
                true
            })
        };
        self.transport.wait(&mut is_done, "adding up gradients on the GPUs")?;
        problem.map_or_else(|| sum.into_tensor(), |error| Err(nccl::driver(error)))
    }
}

impl Worker {
    fn submit(&self, job: impl FnOnce(&mut Engine) + Send + 'static) {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = jobs.as_ref().map(|jobs| jobs.send(Box::new(job)));
    }
}

/// Two texts from shortly before they differ, so that a message about long ones stays one line.
fn excerpts(a: &[u8], b: &[u8]) -> [String; 2] {
    let [a, b] = [a, b].map(String::from_utf8_lossy);
    let same = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count();
    let from = if a.chars().count().max(b.chars().count()) <= 80 { 0 } else { same.saturating_sub(30) };
    let cut = |text: &str| {
        let rest: Vec<char> = text.chars().skip(from).collect();
        let [before, behind] = [from > 0, rest.len() > 80].map(|cut| if cut { "…" } else { "" });
        format!("`{before}{}{behind}`", rest.into_iter().take(80).collect::<String>())
    };
    [cut(&a), cut(&b)]
}

impl fmt::Debug for Processes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Processes").field("rank", &self.rank).field("size", &self.size).finish()
    }
}

impl Drop for Worker {
    /// After a panic the others would wait for this process until their time is over, so they are ended.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.abandoned.store(true, Ordering::Relaxed);
            self.submit(|engine| engine.transport.abort());
        }
        *self.jobs.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported.
            let _ = thread.join();
        }
    }
}
