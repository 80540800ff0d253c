//! What a proof found: on the screen, as Markdown and as JSON.

use super::{Args, BOUND};
use crate::table::Table;
use resnext_model::equivalence::{Control, Identity, LayerError, NetworkErrors, Tally};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter, Write};

/// Everything that was found.
#[derive(Serialize)]
pub struct Report {
    /// Whether all of it is as it must be.
    pub proved: bool,
    pub failures: Vec<String>,
    pub quick: bool,
    pub device: String,
    pub seed: u64,
    pub seconds: f64,
    pub blocks: Vec<Block>,
    pub networks: Vec<Network>,
    pub errors: Vec<NetworkErrors>,
    pub controls: Vec<Control>,
}

/// A block, proved and measured.
#[derive(Serialize)]
pub struct Block {
    pub network: String,
    pub block: String,
    /// In each type.
    pub identities: Vec<Identity>,
    /// With batch norm and ReLU.
    pub activations: Tally,
    /// By type.
    pub layers: BTreeMap<String, Vec<LayerError>>,
    /// The largest f32 difference between the forms, in ulps of the largest output.
    pub ulps: f64,
}

/// All blocks of a network, proved as one.
#[derive(Serialize)]
pub struct Network {
    pub name: String,
    pub identity: Identity,
}

impl Report {
    pub fn new(args: &Args) -> Self {
        Report {
            proved: false,
            failures: Vec::new(),
            quick: args.quick,
            device: format!("{:?}", args.device).to_lowercase(),
            seed: args.seed,
            seconds: 0.0,
            blocks: Vec::new(),
            networks: Vec::new(),
            errors: Vec::new(),
            controls: Vec::new(),
        }
    }

    /// Looks for anything that is not as it must be.
    pub fn settle(&mut self) {
        let mut failures = Vec::new();
        let mut exact = |name: &str, tally: &Tally| {
            if let Some(first) = &tally.first {
                failures.push(format!("{name}: {} bits differ, first {first}", tally.bits));
            }
        };
        for block in &self.blocks {
            block.identities.iter().for_each(|identity| exact(&block.block, &identity.tally));
            exact(&block.block, &block.activations);
        }
        self.networks.iter().for_each(|network| exact(&network.name, &network.identity.tally));
        for block in &self.blocks {
            for (dtype, layers) in &block.layers {
                for LayerError { layer, error, bound, .. } in
                    layers.iter().filter(|at| at.error > at.bound || at.error.is_nan())
                {
                    failures.push(format!(
                        "{} {layer} in {dtype}: error {error:.1} above {bound:.1}",
                        block.block
                    ));
                }
            }
        }
        for errors in self.errors.iter().filter(|errors| !errors.within_bounds()) {
            failures.push(format!("{} in {}: an error is above its bound", errors.network, errors.dtype));
        }
        for control in self.controls.iter().filter(|control| control.caught.is_none()) {
            failures.push(format!("negative control not caught: {}", control.name));
        }
        let bounds = self.blocks.iter().flat_map(|block| &block.identities);
        let bounds = bounds.chain(self.networks.iter().map(|network| &network.identity));
        if bounds.clone().any(|identity| identity.bound > BOUND) {
            failures.push(format!("a bound is above {BOUND:e}"));
        }
        self.proved = failures.is_empty();
        self.failures = failures;
    }

    /// The report as a page.
    pub fn to_markdown(&self) -> String {
        let mut page = String::from("# Forms (a), (b) and (c) are one function\n\n");
        // Writing to a string does not fail.
        let _ = write!(page, "{}", self.sections(true));
        page
    }

    fn sections(&self, markdown: bool) -> String {
        let mut text = String::new();
        for (title, table) in [
            ("Blocks", self.block_table()),
            ("Whole networks", self.network_table()),
            ("Rounding through whole networks, training", self.error_table()),
            ("Negative controls", self.control_table()),
        ] {
            let heading = if markdown { format!("## {title}\n\n") } else { format!("{title}\n") };
            let _ = writeln!(text, "{heading}{}", table.show(markdown));
        }
        for failure in &self.failures {
            let _ = writeln!(text, "FAILED: {failure}");
        }
        let verdict = if self.proved { "Proved" } else { "NOT proved" };
        let _ = writeln!(text, "{verdict} on {} in {:.0} s (seed {}).", self.device, self.seconds, self.seed);
        text
    }

    fn block_table(&self) -> Table {
        let mut table = Table::new(&[
            "network",
            "block",
            "trials",
            "numbers",
            "bits that differ",
            "bound",
            "with BN and ReLU",
            "f32 ulps",
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
                format!("{:.1}", block.ulps),
            ]);
        }
        table
    }

    fn network_table(&self) -> Table {
        let mut table = Table::new(&["network", "degree", "trials", "numbers", "bits that differ", "bound"]);
        for Network { name, identity } in &self.networks {
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

    fn error_table(&self) -> Table {
        let mut table = Table::new(&[
            "network",
            "type",
            "last map (bound)",
            "loss",
            "gradients (bound)",
            "weights after SGD (bound)",
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
        let mut table = Table::new(&["broken on purpose", "caught", "first place that differs"]);
        for control in &self.controls {
            let place = control.caught.as_ref().map(ToString::to_string);
            let caught = if place.is_some() { "yes" } else { "NO" };
            table.row(vec![control.name.into(), caught.into(), place.unwrap_or_default()]);
        }
        table
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sections(false))?;
        let ratio =
            |layers: &Vec<LayerError>| layers.iter().map(|at| at.error / at.bound).fold(0.0, f64::max);
        let mut worst = BTreeMap::<&str, f64>::new();
        for (dtype, layers) in self.blocks.iter().flat_map(|block| &block.layers) {
            let worst = worst.entry(dtype).or_default();
            *worst = worst.max(ratio(layers));
        }
        for (dtype, ratio) in worst {
            writeln!(f, "layers in {dtype}: at most {:.1} % of the proved error bound", 100.0 * ratio)?;
        }
        Ok(())
    }
}
