//! An engine: a process that runs a network, ours or a peer's, and answers by the line protocol of
//! `bench/peers`.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// The pause before an engine's turn. Threads of OpenMP runtimes spin for 200 ms after their work and would
/// slow down the next engine.
pub const PAUSE: Duration = Duration::from_millis(300);

/// A running engine.
pub struct Engine {
    pub name: String,
    /// The type it computes in, as it reports it.
    pub precision: String,
    pub version: String,
    /// Seconds from the start of its process to its first logits, at batch 1.
    pub first_logits_s: f64,
    /// The most memory resident up to then, in MiB.
    pub peak_mb: f64,
    /// The logits of the input's first image.
    pub logits: Vec<f64>,
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Engine {
    /// Starts an engine and has it compute its first logits.
    pub fn start(name: &str, command: &mut Command, size: usize) -> Result<Self> {
        let start = Instant::now();
        let mut engine = Self::connect(name, command)?;
        let logits = engine.ask(json!({"do": "logits", "batch": 1, "size": size}))?;
        engine.first_logits_s = start.elapsed().as_secs_f64();
        engine.logits = serde_json::from_value(logits["logits"][0].clone())?;
        engine.peak_mb = engine.memory()?;
        Ok(engine)
    }

    /// Starts an engine and waits until it is ready.
    pub fn connect(name: &str, command: &mut Command) -> Result<Self> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().with_context(
                || format!("cannot start {name}: {}", command.get_program().to_string_lossy()),
            )?;
        let (Some(requests), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("{name} has no pipes")
        };
        let mut engine = Engine {
            name: name.into(),
            precision: String::new(),
            version: String::new(),
            first_logits_s: 0.0,
            peak_mb: 0.0,
            logits: Vec::new(),
            child,
            requests,
            answers: BufReader::new(answers),
        };
        let ready = engine.answer()?;
        let text = |key: &str| ready[key].as_str().unwrap_or("?").to_string();
        (engine.precision, engine.version) = (text("precision"), text("version"));
        Ok(engine)
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// If the answer is an error, or the process has ended.
    pub fn ask(&mut self, request: Value) -> Result<Value> {
        writeln!(self.requests, "{request}").with_context(|| format!("{} has ended", self.name))?;
        self.requests.flush()?;
        self.answer()
    }

    /// Times `runs` forward passes, in milliseconds.
    pub fn time(&mut self, batch: usize, size: usize, runs: usize) -> Result<Vec<f64>> {
        let answer = self.ask(json!({"do": "time", "batch": batch, "size": size, "runs": runs}))?;
        Ok(serde_json::from_value(answer["ms"].clone())?)
    }

    /// The most memory the process has had resident, in MiB; NaN where the system does not say it.
    pub fn memory(&mut self) -> Result<f64> {
        Ok(self.ask(json!({"do": "memory"}))?["peak_mb"].as_f64().unwrap_or(f64::NAN))
    }

    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("{} ended without an answer: {}", self.name, self.child.wait()?);
        }
        let answer: Value = serde_json::from_str(&line).with_context(|| format!("{}: {line}", self.name))?;
        match answer["error"].as_str() {
            Some(error) => bail!("{}: {error}", self.name),
            None => Ok(answer),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Either call fails if the process has already ended, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
