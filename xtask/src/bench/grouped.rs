//! Grouped 3×3 convolutions measured alone, ours beside PyTorch's.

use super::engine::{Engine, PAUSE};
use super::protocol::Request;
use super::stats::{our_speed, quantile};
use crate::inputs::filled;
use crate::text_table::Table;
use anyhow::Result;
use resnext_ops::{Conv2dConfig, conv2d, conv2d_gradients, to_channels_last};
use serde::Serialize;
use serde_json::{Value, json};
use std::time::Instant;

/// Channels and side of the maps, one pair for each stage of ResNeXt-50 32×4d.
pub const SHAPES: [(usize, usize); 4] = [(128, 56), (256, 28), (512, 14), (1024, 7)];
const GROUPS: usize = 32;
const BATCH: usize = 8;
/// Rounds in which the engines take turns.
const ROUNDS: usize = 3;
/// Convolutions per turn: enough for threads to be awake and clocks to be up.
const RUNS: usize = 40;

/// Which passes of a convolution are measured.
#[derive(Clone, Copy)]
pub enum Pass {
    Forward,
    /// The forward pass and both gradients.
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

/// One engine's times.
#[derive(Serialize)]
pub struct GroupedTimes {
    pub engine: String,
    /// The median for each of [`SHAPES`], in milliseconds.
    pub ms: Vec<f64>,
}

/// Measures all `engines`, which must be ours and PyTorch's, in turns.
pub fn measure(engines: &mut [&mut Engine], pass: Pass) -> Result<Vec<GroupedTimes>> {
    let mut all: Vec<_> =
        engines.iter().map(|e| GroupedTimes { engine: e.name.clone(), ms: Vec::new() }).collect();
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

/// Our answer to a request for `pass`, by the public operations of `resnext-ops`.
pub fn answer(request: &Request, pass: Pass) -> Result<Value> {
    let (batch, side) = request.batch_and_size();
    let (channels, groups) = (request.number("channels"), request.number("groups"));
    let x = to_channels_last(&filled(&[batch, channels, side, side])?)?;
    let weight = filled(&[channels, channels / groups, 3, 3])?;
    let config = Conv2dConfig { padding: 1, groups, ..Default::default() };
    let mut times = Vec::new();
    for _ in 0..=request.number("runs") {
        let start = Instant::now();
        let y = conv2d(&x, &weight, &config)?;
        let gradients = match pass {
            Pass::Forward => None,
            Pass::ForwardBackward => Some(conv2d_gradients(&x, &weight, &x, &config)?),
        };
        times.push(start.elapsed().as_secs_f64() * 1e3);
        drop((y, gradients));
    }
    // The first run warms up.
    Ok(json!({"ms": times[1..]}))
}

/// A table of the measurements; the first engine is ours.
pub fn table(all: &[GroupedTimes], pass: Pass) -> String {
    let ms = match pass {
        Pass::Forward => "forward ms",
        Pass::ForwardBackward => "forward + backward ms",
    };
    let mut table = Table::new(&["grouped 3×3, 32 groups, batch 8", "engine", ms, "ours is"]);
    for (i, (channels, side)) in SHAPES.into_iter().enumerate() {
        for (e, grouped) in all.iter().enumerate() {
            table.row(vec![
                format!("{channels}×{side}×{side}"),
                grouped.engine.clone(),
                format!("{:.2}", grouped.ms[i]),
                if e == 0 { String::new() } else { our_speed(all[0].ms[i], grouped.ms[i]) },
            ]);
        }
    }
    table.to_text()
}
