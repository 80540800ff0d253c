//! The sums of gradients alone, ours beside MPI's own.

use crate::bench::stats::quantile;
use crate::text_table::Table;
use anyhow::Result;
use resnext_train::distributed::{DistributedConfig, Pending, Processes};
use std::time::Instant;

/// How often each way is measured.
const ROUNDS: usize = 7;

/// A way to add up the gradients of a step.
pub struct Way {
    name: String,
    /// Bytes of the gradients on the wire.
    bytes: usize,
    /// Elements per sum, and the number of sums.
    bucket: usize,
    sums: usize,
    sum: Box<Sum>,
    /// Milliseconds of each round.
    times: Vec<f64>,
}

type Sum = dyn Fn(&Processes, Vec<f32>) -> Pending;

/// Measures the sums of `bytes` of gradients in f32: ours, in buckets as in training, and MPI's own, which are f32
/// whatever the wire, in the same buckets and in one piece. The ways take turns.
pub fn measure(processes: &Processes, bytes: usize, config: &DistributedConfig) -> Result<Vec<Way>> {
    let elements = bytes / size_of::<f32>();
    let bucket = (config.bucket_bytes / size_of::<f32>()).clamp(1, elements.max(1));
    let wire = config.wire;
    let mut ways = vec![Way {
        name: format!("this program's, {wire}"),
        bytes: elements * wire.bytes(),
        bucket,
        sums: elements.div_ceil(bucket),
        sum: Box::new(move |processes, values| processes.sum(values, wire)),
        times: Vec::new(),
    }];
    for bucket in [bucket, elements.max(1)] {
        for (name, blocking) in [("MPI_Iallreduce, f32", false), ("MPI_Allreduce, f32", true)] {
            let sum =
                move |processes: &Processes, values: Vec<f32>| processes.sum_by_library(values, blocking);
            let (name, sums) = (name.into(), elements.div_ceil(bucket));
            ways.push(Way { name, bytes, bucket, sums, sum: Box::new(sum), times: Vec::new() });
        }
    }
    if processes.size() == 1 {
        return Ok(ways);
    }
    for _ in 0..=ROUNDS {
        for way in &mut ways {
            let buffers = (0..elements).step_by(way.bucket);
            let buffers: Vec<Vec<f32>> = buffers.map(|at| vec![1.0; way.bucket.min(elements - at)]).collect();
            processes.gather(&[], "measuring sums")?;
            let start = Instant::now();
            let pending: Vec<Pending> =
                buffers.into_iter().map(|buffer| (way.sum)(processes, buffer)).collect();
            for sum in pending {
                sum.wait()?;
            }
            way.times.push(1e3 * start.elapsed().as_secs_f64());
        }
    }
    // The first round takes memory from the system.
    for way in &mut ways {
        way.times.remove(0);
    }
    Ok(ways)
}

/// The ways as rows. The rate is that of an all-reduce that moves as little as possible: each of N processes sends and
/// receives 2·(N - 1)/N times the gradients' bytes.
pub fn table(ways: &[Way], processes: usize) -> Table {
    let mut table = Table::new(&["sum", "MiB per sum", "sums", "median, ms", "least, ms", "GB/s"]);
    let sent = 2.0 * (processes as f64 - 1.0) / processes as f64;
    for Way { name, bytes, sums, bucket, times, .. } in ways {
        let (median, least) = (quantile(times, 0.5), quantile(times, 0.0));
        table.row(vec![
            name.clone(),
            format!("{:.1}", (4 * bucket) as f64 / f64::from(1 << 20)),
            sums.to_string(),
            format!("{median:.1}"),
            format!("{least:.1}"),
            format!("{:.2}", sent * *bytes as f64 / 1e6 / median),
        ]);
    }
    table
}
