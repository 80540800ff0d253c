//! Our side of the line protocol of `bench/peers`: a process that answers requests, so that our start-up,
//! memory and speed are measured in the same way as the peers'.

use crate::dtype_arg::Dtype;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead, Write};

/// One line of standard input.
pub struct Request(Value);

impl Request {
    /// The action that is requested, such as `time`.
    pub fn action(&self) -> &str {
        self.0["do"].as_str().unwrap_or_default()
    }

    /// A number of the request; 1 where it is missing.
    pub fn number(&self, key: &str) -> usize {
        self.0[key].as_u64().unwrap_or(1) as usize
    }

    /// The requested batch size and image side.
    pub fn batch_and_size(&self) -> (usize, usize) {
        (self.number("batch"), self.number("size"))
    }
}

/// Reports that the engine is ready in `dtype`, then answers each JSON line of standard input until its end
/// or `quit`.
///
/// An error of `answer` is sent back; it does not end the process.
pub fn serve(dtype: Dtype, mut answer: impl FnMut(&Request) -> Result<Value>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let mut say = |line: Value| -> Result<()> {
        writeln!(out, "{line}")?;
        Ok(out.flush()?)
    };
    let version = env!("CARGO_PKG_VERSION");
    say(json!({"ready": true, "engine": "resnext", "version": version, "precision": dtype.name()}))?;
    for line in std::io::stdin().lock().lines() {
        let request = Request(serde_json::from_str(&line?)?);
        match request.action() {
            "quit" => break,
            _ => say(answer(&request).unwrap_or_else(|error| json!({"error": format!("{error:#}")})))?,
        }
    }
    Ok(())
}

/// The answer to `memory`: the most memory this process has had resident, in MiB. Only Linux says it.
pub fn memory() -> Result<Value> {
    if !cfg!(target_os = "linux") {
        return Ok(json!({"peak_mb": null}));
    }
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: f64 = line
        .and_then(|line| line.split_whitespace().next()?.parse().ok())
        .context("no VmHWM in /proc/self/status")?;
    Ok(json!({"peak_mb": kib / 1024.0}))
}

/// The answer to a request that this engine does not know.
pub fn unknown(request: &Request) -> Result<Value> {
    bail!("unknown request `{}`", request.action())
}
