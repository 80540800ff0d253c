//! `cargo xtask prove --kernels`: every kernel against the definition of a convolution, for every instruction set that this
//! machine has.

use super::args::{Args, BOUND, QUICK};
use super::mutants::{MUTANTS, mutant_failures, mutant_table};
use super::progress::progress_bar;
use super::report::{Files, sections};
use crate::text_table::Table;
use anyhow::{Context, Result};
use resnext_model::Config;
use resnext_model::equivalence::{
    FusedProof, KernelProof, MutantScore, fused_network, fused_types, kernels, layer_count, mutants,
};
use resnext_ops::Isa;
use resnext_train::checkpoint::replace_file;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

/// Networks that inference runs whole.
const NETWORKS: &[&str] =
    &["resnet18", "resnet50", "resnext50_32x4d", "resnext29_8x64d", "resnext20_8x4d", "resnext11_8x4d"];
const RANDOM_SHAPES: usize = 200;
const QUICK_SHAPES: usize = 20;

/// The operations that are proved for every instruction set, with their types.
const OPERATIONS: [(&str, &[&str]); 5] = [
    ("inference", &["f32", "bf16", "int8"]),
    ("inference, with ReLU", &["f32", "bf16"]),
    ("training, forward", &["f64", "f32", "bf16"]),
    ("training, gradient of the input", &["f64", "f32", "bf16"]),
    ("training, gradient of the weight", &["f64", "f32", "bf16"]),
];

/// Everything that was found.
#[derive(Default, Serialize, Deserialize)]
struct KernelReport {
    proved: bool,
    failures: Vec<String>,
    seed: u64,
    seconds: f64,
    kernels: Vec<KernelProof>,
    networks: Vec<FusedProof>,
    mutants: Vec<MutantScore>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let report_file = args.report.clone().unwrap_or_else(|| PathBuf::from("runs/prove-kernels.md"));
    let files = Files::new(&report_file)?;
    let start = Instant::now();
    let available = Isa::available();
    // A process has one instruction set, which the variable names.
    let mut report = if std::env::var_os("RESNEXT_ISA").is_none() && available.len() > 1 {
        let mut all = KernelReport::default();
        for isa in available {
            all.merge(of_process(isa, args, &files.markdown)?);
        }
        all
    } else {
        of_this_process(args)?
    };
    report.seed = args.seed;
    report.seconds = start.elapsed().as_secs_f64();
    report.settle();
    let page = format!("# Every kernel, proved\n\n{}", report.sections(true));
    replace_file(&files.markdown, page.as_bytes())?;
    replace_file(&files.json, serde_json::to_string_pretty(&report)?.as_bytes())?;
    print!("{}", report.sections(false));
    println!("report: {}, with a .json file beside it", files.markdown.display());
    Ok(if report.proved { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs this program with another instruction set, and reads its report.
fn of_process(isa: Isa, args: &Args, report: &Path) -> Result<KernelReport> {
    let name = isa.name();
    let stem = report.file_stem().unwrap_or_default().to_string_lossy();
    let own = report.with_file_name(format!("{stem}-{name}.md"));
    eprintln!("{name}:");
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["prove", "--kernels", "--seed", &args.seed.to_string(), "--report"]).arg(&own);
    if args.quick {
        command.arg("--quick");
    }
    let status = command.env("RESNEXT_ISA", name).stdout(Stdio::null()).status()?;
    let json = own.with_extension("json");
    let text = std::fs::read_to_string(&json)
        .with_context(|| format!("the process for {name} ended with {status} and without a report"))?;
    Ok(serde_json::from_str(&text)?)
}

fn of_this_process(args: &Args) -> Result<KernelReport> {
    let (networks, random, whole) = match args.quick {
        true => (QUICK, QUICK_SHAPES, QUICK),
        false => (Config::preset_names(), RANDOM_SHAPES, NETWORKS),
    };
    let bar = progress_bar(layer_count(networks)? + random + whole.len() + 1);
    let kernels = kernels(networks, random, BOUND, args.seed, |shape| {
        bar.set_message(shape.to_string());
        bar.inc(1);
    })?;
    let mut report = KernelReport { kernels, ..Default::default() };
    for name in whole {
        bar.set_message(format!("{name}, whole"));
        for &dtype in fused_types() {
            report.networks.push(fused_network(name, &Config::by_name(name)?, dtype, args.seed)?);
        }
        bar.inc(1);
    }
    bar.set_message("mutants");
    report.mutants = mutants(MUTANTS, args.seed)?;
    bar.finish_and_clear();
    Ok(report)
}

impl KernelReport {
    /// Adds what another process found.
    fn merge(&mut self, other: KernelReport) {
        self.kernels.extend(other.kernels);
        self.networks.extend(other.networks);
        for score in other.mutants {
            match self.mutants.iter_mut().find(|own| own.kind == score.kind) {
                Some(own) => own.merge(score),
                None => self.mutants.push(score),
            }
        }
    }

    /// Lists everything that failed.
    fn settle(&mut self) {
        let mut failures = Vec::new();
        for proof in &self.kernels {
            if let Some(first) = &proof.tally.first {
                failures.push(format!(
                    "{}: {} bits differ; the first difference: {first}",
                    proof.isa, proof.tally.bits
                ));
            }
            if proof.bound.is_some_and(|bound| bound > BOUND) {
                failures.push(format!("{}, {}: a bound above {BOUND:e}", proof.isa, proof.kernel));
            }
        }
        let sets: BTreeSet<&str> = self.kernels.iter().map(|proof| proof.isa.as_str()).collect();
        for (isa, (operation, types)) in sets.iter().flat_map(|isa| OPERATIONS.map(|all| (isa, all))) {
            let has = |dtype: &&str| {
                let same = |p: &KernelProof| (&*p.isa, &*p.operation, &*p.dtype) == (*isa, operation, *dtype);
                self.kernels.iter().any(same)
            };
            let missing = types.iter().filter(|dtype| !has(dtype));
            failures
                .extend(missing.map(|dtype| format!("{isa}: nothing was compared of {operation}, {dtype}")));
        }
        for proof in &self.networks {
            if let Some(first) = &proof.tally.first {
                failures.push(format!(
                    "{} in {} with {}: the first difference: {first}",
                    proof.network, proof.dtype, proof.isa
                ));
            }
        }
        failures.extend(mutant_failures(&self.mutants));
        self.proved = failures.is_empty();
        self.failures = failures;
    }

    fn sections(&self, markdown: bool) -> String {
        let tables = [
            ("Kernels", self.kernel_table()),
            ("Inference against the training network", self.network_table()),
            ("Mutants", mutant_table(&self.mutants)),
        ];
        let conditions = format!("in {:.0} s (seed {})", self.seconds, self.seed);
        sections(&tables, &self.failures, &conditions, markdown)
    }

    fn kernel_table(&self) -> Table {
        let mut table = Table::new(&[
            "ISA",
            "operation",
            "type",
            "kernel",
            "shapes",
            "operands up to",
            "values",
            "bits that differ",
            "bound on a wrong verdict",
        ]);
        for proof in &self.kernels {
            let (least, most) = proof.operands;
            // Operands of int8 have ranges of their own.
            let operands =
                if proof.dtype == "int8" { "±127, 255".into() } else { format!("±{least} … ±{most}") };
            table.row(vec![
                proof.isa.clone(),
                proof.operation.clone(),
                proof.dtype.clone(),
                proof.kernel.clone(),
                proof.shapes.to_string(),
                operands,
                proof.tally.numbers.to_string(),
                proof.tally.bits.to_string(),
                proof.bound.map_or("none".into(), |bound| format!("{bound:.0e}")),
            ]);
        }
        table
    }

    fn network_table(&self) -> Table {
        let mut table =
            Table::new(&["ISA", "network", "form", "type", "largest value", "logits", "bits that differ"]);
        for proof in &self.networks {
            table.row(vec![
                proof.isa.clone(),
                proof.network.clone(),
                proof.form.clone(),
                proof.dtype.clone(),
                format!("{:.0}", proof.largest),
                proof.tally.numbers.to_string(),
                proof.tally.bits.to_string(),
            ]);
        }
        table
    }
}
