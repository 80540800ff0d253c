//! The transport of bytes between processes.

use crate::error::{Error, Result};

/// Moves bytes between the processes of a run. Every process calls the same methods in the same order with buffers of
/// the same sizes; a call returns when this process's part is done. Only one thread uses it.
///
/// All sums of training are made from two exchanges (see [`Processes`](crate::distributed::Processes)), so that an
/// implementation has no arithmetic and no order of its own.
pub(crate) trait Transport {
    /// This process's number, from 0 to below [`size`](Self::size).
    fn rank(&self) -> usize;
    /// The number of processes.
    fn size(&self) -> usize;
    /// Sends part r of `send` to rank r, for each r, and receives part r of `receive` from rank r. Both consist of
    /// `size` parts of equal length. `purpose` completes "while …" in messages.
    ///
    /// # Errors
    /// If a process does not take part in time.
    fn all_to_all(&mut self, send: &[u8], receive: &mut [u8], purpose: &'static str) -> Result<()>;
    /// Sends `send` to all, and receives that of rank r as part r of `receive`.
    ///
    /// # Errors
    /// If a process does not take part in time.
    fn all_gather(&mut self, send: &[u8], receive: &mut [u8], purpose: &'static str) -> Result<()>;
    /// Waits until `done`, which takes part of every process.
    ///
    /// # Errors
    /// If that is not so in time.
    #[cfg(feature = "nccl")]
    fn wait(&mut self, done: &mut dyn FnMut() -> bool, purpose: &'static str) -> Result<()>;
    /// Adds `values` up by an all-reduce of the library's own, whose order of additions is the library's, with
    /// `received` as its second buffer of the same length. `blocking`: by the call that returns when it is done, which
    /// cannot time out. To measure it beside [`sum_f32`](crate::distributed::sums::sum_f32).
    ///
    /// # Errors
    /// If there is none.
    fn library_sum(&mut self, values: &[f32], received: &mut [f32], blocking: bool) -> Result<()> {
        let (_, _, _) = (values, received, blocking);
        Err(Error::Processes("these processes have no library with a sum of its own".into()))
    }
    /// Ends all processes of the run if the launcher has a way to, without waiting for any.
    fn abort(&mut self);
}
