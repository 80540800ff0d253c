//! Grouped 3×3 convolutions of their own, ours beside PyTorch's.

use super::PAUSE;
use super::engine::Engine;
use super::report::quantile;
use super::serve::filled;
use crate::table::Table;
use anyhow::Result;
use resnext_ops::{Conv2dConfig, conv2d, conv2d_gradients, to_channels_last};
use serde::Serialize;
use serde_json::{Value, json};
use std::time::Instant;

/// Channels and side, one for each stage of ResNeXt-50 32×4d.
pub const SHAPES: [(usize, usize); 4] = [(128, 56), (256, 28), (512, 14), (1024, 7)];
const GROUPS: usize = 32;
const BATCH: usize = 8;
/// Times the engines take turns, and convolutions a turn: enough for threads and clocks to be awake.
const ROUNDS: usize = 3;
const RUNS: usize = 40;

/// What is measured.
#[derive(Clone, Copy)]
pub enum Pass {
    Forward,
    /// And both gradients.
    ForwardBackward,
}

impl Pass {
    /// Its request in the protocol of `bench/peers`.
    fn request(self) -> &'static str {
        match self {
            Pass::Forward => "grouped",
            Pass::ForwardBackward => "grouped_backward",
        }
    }
}

/// Median milliseconds of each shape.
#[derive(Serialize)]
pub struct Grouped {
    pub engine: String,
    pub ms: Vec<f64>,
}

/// Measures all `engines`, which must be ours and PyTorch's, in turn.
pub fn measure(engines: &mut [&mut Engine], pass: Pass) -> Result<Vec<Grouped>> {
    let mut all: Vec<_> =
        engines.iter().map(|e| Grouped { engine: e.name.clone(), ms: Vec::new() }).collect();
    for (channels, side) in SHAPES {
        let request = json!({"do": pass.request(), "channels": channels, "size": side, "groups": GROUPS,
            "batch": BATCH, "runs": RUNS});
        let mut times = vec![Vec::new(); engines.len()];
        for _ in 0..ROUNDS {
            for (engine, times) in engines.iter_mut().zip(&mut times) {
                std::thread::sleep(PAUSE);
                let ms: Vec<f64> = serde_json::from_value(engine.ask(request.clone())?["ms"].clone())?;
                times.extend(ms);
            }
        }
        all.iter_mut().zip(times).for_each(|(grouped, ms)| grouped.ms.push(quantile(&ms, 0.5)));
    }
    Ok(all)
}

/// Our answer to a request for `pass`, by the operations that anyone would call.
pub fn answer(request: &Value, pass: Pass) -> Result<Value> {
    let number = |key: &str| request[key].as_u64().unwrap_or(1) as usize;
    let (channels, groups, side) = (number("channels"), number("groups"), number("size"));
    let x = to_channels_last(&filled(&[number("batch"), channels, side, side])?)?;
    let weight = filled(&[channels, channels / groups, 3, 3])?;
    let config = Conv2dConfig { padding: 1, groups, ..Default::default() };
    let mut times = Vec::new();
    for _ in 0..=number("runs") {
        let start = Instant::now();
        let y = conv2d(&x, &weight, &config)?;
        let gradients = match pass {
            Pass::Forward => None,
            Pass::ForwardBackward => Some(conv2d_gradients(&x, &weight, &x, &config)?),
        };
        times.push(start.elapsed().as_secs_f64() * 1e3);
        drop((y, gradients));
    }
    Ok(json!({"ms": times[1..]}))
}

/// The table of what was measured, ours first.
pub fn table(all: &[Grouped], pass: Pass) -> String {
    let ms = match pass {
        Pass::Forward => "forward ms",
        Pass::ForwardBackward => "forward + backward ms",
    };
    let mut table = Table::new(&["grouped 3×3, 32 groups, batch 8", "engine", ms, "ours is"]);
    for (i, (channels, side)) in SHAPES.into_iter().enumerate() {
        for grouped in all {
            table.row(vec![
                format!("{channels}×{side}×{side}"),
                grouped.engine.clone(),
                format!("{:.2}", grouped.ms[i]),
                format!("{:.2}× faster", grouped.ms[i] / all[0].ms[i]),
            ]);
        }
    }
    table.show(false)
}
