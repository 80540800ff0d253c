//! Parallel loops over short lists of tasks.

use super::shared_slice::{SharedSlice, write_vec};
use super::team::ThreadTeam;
use crate::simd::traits::Storage;

/// Returns a vector of `count` chunks of `len` elements, which `write` fills in parallel. It is called with the index
/// of each chunk and the chunk, zeroed. Each chunk is zeroed by the thread that writes it, so its cache lines stay
/// local.
pub fn write_chunks<D: Storage>(count: usize, len: usize, write: impl Fn(usize, &mut [D]) + Sync) -> Vec<D> {
    let task = |out: &SharedSlice<D>, i: usize| {
        let chunk = out.pointer(i * len, len);
        // SAFETY: chunks do not overlap, and are initialised once they are zeroed.
        write(i, unsafe {
            (0..len).for_each(|k| chunk.add(k).write(D::default()));
            out.slice(i * len, len)
        });
    };
    // SAFETY: every chunk is zeroed.
    unsafe { write_vec(count * len, |out| map(count, |i| task(out, i))).0 }
}

/// Calls `task` with every index below `count` on the threads of the current rayon pool, and returns the results in order.
pub fn map<R: Send>(count: usize, task: impl Fn(usize) -> R + Sync) -> Vec<R> {
    if count < 2 {
        return (0..count).map(task).collect();
    }
    ThreadTeam::scope(|team| team.map_items(&mut vec![(); count], |i, ()| task(i)))
}
