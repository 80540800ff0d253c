//! The transport of bytes between processes.

use crate::error::Result;

/// Moves bytes between the processes of a run. Every process calls the same methods in the same order with buffers of
/// the same sizes; a call returns when this process's part is done. Only one thread uses it.
///
/// All sums are made from these two exchanges (see [`Processes`](crate::distributed::Processes)), so that an
/// implementation has no arithmetic and no order of its own.
pub trait Transport {
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
    /// Ends all processes of the run if the launcher has a way to, without waiting for any.
    fn abort(&mut self);
}
