//! The results of a proof, as text, as Markdown and as JSON.

use super::args::{Args, BOUND};
use super::mutants::{mutant_failures, mutant_table};
use super::picture;
use crate::device_arg::opened_name;
use crate::text_table::Table;
use anyhow::{Context, Result, ensure};
use candle_core::Device;
use resnext_model::equivalence::{Control, Identity, LayerError, MutantScore, NetworkErrors, Tally};
use resnext_train::checkpoint::replace_file;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};

/// Everything that was found.
#[derive(Serialize)]
pub struct ProofReport {
    /// Whether nothing failed.
    pub proved: bool,
    pub failures: Vec<String>,
    pub quick: bool,
    pub device: String,
    pub seed: u64,
    pub seconds: f64,
    pub blocks: Vec<ProvedBlock>,
    pub networks: Vec<ProvedNetwork>,
    pub errors: Vec<NetworkErrors>,
    pub controls: Vec<Control>,
    pub mutants: Vec<MutantScore>,
}

/// A block, proved and measured.
#[derive(Serialize)]
pub struct ProvedBlock {
    pub network: String,
    pub block: String,
    /// The proof of each type's arithmetic: in f64 with functions of channels, in f32 as polynomials.
    pub identities: Vec<Identity>,
    /// The comparison with batch norm and ReLU.
    pub activations: Tally,
    /// The rounding errors of layers, by type.
    pub layers: BTreeMap<String, Vec<LayerError>>,
    /// The largest f32 difference between the forms, in machine epsilons of the largest output.
    pub output_error: f64,
}

/// All blocks of a network in sequence, proved as one function.
#[derive(Serialize)]
pub struct ProvedNetwork {
    pub name: String,
    pub identity: Identity,
}

/// The files of a report.
pub struct Files {
    pub markdown: PathBuf,
    pub json: PathBuf,
    picture: PathBuf,
}

impl Files {
    /// The files beside `report`, in a folder that is made now, so that a path that cannot be written fails
    /// before minutes of proof and not after.
    ///
    /// # Errors
    /// If the folder cannot be made, or one of the files is a folder.
    pub fn new(report: &Path) -> Result<Self> {
        let (json, picture) = (report.with_extension("json"), report.with_extension("svg"));
        // The Markdown file must not be one of the other two.
        let clash = report == json || report == picture;
        let markdown = if clash { report.with_extension("md") } else { report.to_path_buf() };
        if let Some(folder) = report.parent() {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        }
        let folder = [&markdown, &json, &picture].into_iter().find(|file| file.is_dir());
        ensure!(folder.is_none(), "cannot write {}: it is a folder", report.display());
        Ok(Files { markdown, json, picture })
    }

    pub fn write(&self, report: &ProofReport) -> Result<()> {
        let picture = self.picture.file_name().unwrap_or_default().to_string_lossy();
        replace_file(&self.markdown, report.to_markdown(&picture).as_bytes())?;
        replace_file(&self.json, serde_json::to_string_pretty(report)?.as_bytes())?;
        replace_file(&self.picture, picture::draw(&report.errors)?.as_bytes())?;
        Ok(())
    }
}

/// Tables below their titles, everything that failed, and the verdict: proved if nothing has.
pub fn sections(tables: &[(&str, Table)], failures: &[String], conditions: &str, markdown: bool) -> String {
    let mut text = String::new();
    for (title, table) in tables {
        let heading = if markdown { format!("## {title}\n\n") } else { format!("{title}\n") };
        let table = if markdown { table.to_markdown() } else { table.to_text() };
        text += &format!("{heading}{table}\n");
    }
    for failure in failures {
        text += &format!("FAILED: {failure}\n");
    }
    let verdict = if failures.is_empty() { "Proved" } else { "NOT proved" };
    text + &format!("{verdict} {conditions}.\n")
}

impl ProofReport {
    pub fn new(args: &Args, device: &Device) -> Self {
        ProofReport {
            proved: false,
            failures: Vec::new(),
            quick: args.quick,
            device: opened_name(device, args.device),
            seed: args.seed,
            seconds: 0.0,
            blocks: Vec::new(),
            networks: Vec::new(),
            errors: Vec::new(),
            controls: Vec::new(),
            mutants: Vec::new(),
        }
    }

    /// Lists everything that failed, and decides whether the forms are proved equal.
    pub fn settle(&mut self) {
        let mut failures = Vec::new();
        let mut exact = |name: &str, tally: &Tally| {
            if let Some(first) = &tally.first {
                failures.push(format!("{name}: {} bits differ; the first difference: {first}", tally.bits));
            }
        };
        for block in &self.blocks {
            block.identities.iter().for_each(|identity| exact(&block.block, &identity.tally));
            exact(&block.block, &block.activations);
        }
        self.networks.iter().for_each(|network| exact(&network.name, &network.identity.tally));
        for block in &self.blocks {
            if !block.output_error.is_finite() {
                failures.push(format!("{}: an output in f32 is not finite", block.block));
            }
            for (dtype, layers) in &block.layers {
                for LayerError { layer, error, bound, .. } in
                    layers.iter().filter(|at| at.error > at.bound || at.error.is_nan())
                {
                    failures.push(format!(
                        "{} {layer} in {dtype}: an error of {error:.1} is above its bound of {bound:.1}",
                        block.block
                    ));
                }
            }
        }
        for errors in self.errors.iter().filter(|errors| !errors.within_bounds()) {
            failures.push(format!("{} in {}: an error is above its yardstick", errors.network, errors.dtype));
        }
        for control in self.controls.iter().filter(|control| control.caught.is_none()) {
            failures.push(format!("negative control not caught in {}: {}", control.dtype, control.name));
        }
        failures.extend(mutant_failures(&self.mutants));
        let bounds = self.blocks.iter().flat_map(|block| &block.identities);
        let bounds = bounds.chain(self.networks.iter().map(|network| &network.identity));
        if bounds.clone().any(|identity| identity.bound > BOUND) {
            failures.push(format!("the bound on a wrong verdict is above {BOUND:e}"));
        }
        self.proved = failures.is_empty();
        self.failures = failures;
    }

    /// The report as a page that shows the picture in the given file.
    fn to_markdown(&self, picture: &str) -> String {
        let title = "# Forms (a), (b) and (c) are one function";
        format!("{title}\n\n{}\n![Error through the depth of networks]({picture})\n", self.sections(true))
    }

    fn sections(&self, markdown: bool) -> String {
        let tables = [
            ("Blocks", self.block_table()),
            ("Whole networks", self.network_table()),
            ("Rounding in single layers", self.layer_table()),
            ("Rounding through whole networks, and in training", self.error_table()),
            ("Negative controls", self.control_table()),
            ("Mutants", mutant_table(&self.mutants)),
        ];
        let conditions = format!("on {} in {:.0} s (seed {})", self.device, self.seconds, self.seed);
        sections(&tables, &self.failures, &conditions, markdown)
    }

    fn block_table(&self) -> Table {
        let mut table = Table::new(&[
            "network",
            "block",
            "trials, f64 + f32",
            "values",
            "bits that differ",
            "bound on a wrong verdict",
            "BN and ReLU at points",
            "f32 error, epsilons",
        ]);
        for block in &self.blocks {
            let all = |f: &dyn Fn(&Identity) -> String| {
                block.identities.iter().map(f).collect::<Vec<_>>().join(" + ")
            };
            let bits: u64 = block.identities.iter().map(|i| i.tally.bits).sum();
            let bound = block.identities.iter().map(|i| i.bound).fold(0.0, f64::max);
            let numbers: u64 = block.identities.iter().map(|i| i.tally.numbers).sum();
            table.row(vec![
                block.network.clone(),
                block.block.clone(),
                all(&|i| i.trials.to_string()),
                numbers.to_string(),
                bits.to_string(),
                format!("{bound:.0e}"),
                format!("{} of {}", block.activations.bits, block.activations.numbers),
                format!("{:.1}", block.output_error),
            ]);
        }
        table
    }

    fn network_table(&self) -> Table {
        let mut table = Table::new(&[
            "network",
            "degree",
            "trials",
            "values",
            "bits that differ",
            "bound on a wrong verdict",
        ]);
        for ProvedNetwork { name, identity } in &self.networks {
            table.row(vec![
                name.clone(),
                identity.degree.to_string(),
                identity.trials.to_string(),
                identity.tally.numbers.to_string(),
                identity.tally.bits.to_string(),
                format!("{:.0e}", identity.bound),
            ]);
        }
        table
    }

    /// For each layer and type, the block whose error comes closest to its bound.
    fn layer_table(&self) -> Table {
        let mut closest = BTreeMap::<(&str, &str), (&str, &LayerError)>::new();
        for block in &self.blocks {
            for (dtype, layers) in &block.layers {
                for at in layers {
                    let (_, worst) = closest.entry((at.layer, dtype)).or_insert((&block.block, at));
                    if at.error / at.bound > worst.error / worst.bound {
                        closest.insert((at.layer, dtype), (&block.block, at));
                    }
                }
            }
        }
        let mut table =
            Table::new(&["layer", "type", "error, epsilons", "proved bound", "block closest to its bound"]);
        for ((layer, dtype), (block, at)) in closest {
            let (error, bound) = (format!("{:.2}", at.error), format!("{:.1}", at.bound));
            table.row(vec![layer.into(), dtype.into(), error, bound, block.into()]);
        }
        table
    }

    fn error_table(&self) -> Table {
        let mut table = Table::new(&[
            "network",
            "type",
            "last feature map, epsilons (yardstick)",
            "loss, epsilons",
            "gradients, epsilons (yardstick)",
            "weights after SGD, epsilons (yardstick)",
        ]);
        for errors in &self.errors {
            let last = errors.depth.last().map(|at| (at.a.max(at.b), at.bound)).unwrap_or_default();
            table.row(vec![
                errors.network.clone(),
                errors.dtype.clone(),
                format!("{:.1} ({:.0})", last.0, last.1),
                format!("{:.1}", errors.loss),
                format!("{:.0} ({:.0})", errors.gradient, errors.gradient_bound),
                format!("{:.0} ({:.0}), {} steps", errors.stepped, errors.stepped_bound, errors.steps),
            ]);
        }
        table
    }

    fn control_table(&self) -> Table {
        let mut table = Table::new(&["broken on purpose", "type", "caught", "first difference"]);
        for control in &self.controls {
            let place = control.caught.as_ref().map(ToString::to_string);
            let caught = if place.is_some() { "yes" } else { "NO" };
            let dtype = control.dtype.clone();
            table.row(vec![control.name.into(), dtype, caught.into(), place.unwrap_or_default()]);
        }
        table
    }
}

impl Display for ProofReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sections(false))
    }
}
