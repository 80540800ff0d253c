//! The plan of a study: all that its runs follow from.

use super::kind::Kind;
use super::networks::PlannedNetwork;
use crate::recipe::Recipe;
use anyhow::{Context, Result, ensure};
use resnext_train::checkpoint::replace_file;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The file in a study's folder.
pub const PLAN: &str = "plan.toml";

/// A study before its runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub kind: Kind,
    /// The name of the network whose complexity is the measure.
    pub base: String,
    /// Height and width of training images, in pixels.
    pub image: (usize, usize),
    /// Each network is trained once with each of them.
    pub seeds: Vec<u64>,
    /// How the length of the study was chosen, in sentences.
    pub notes: Vec<String>,
    /// The settings of all runs; network and seed are theirs.
    pub recipe: Recipe,
    pub networks: Vec<PlannedNetwork>,
}

/// One run of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedRun {
    /// An index into [`Plan::networks`].
    pub network: usize,
    pub seed: u64,
    pub recipe: Recipe,
    pub folder: PathBuf,
}

impl Plan {
    /// Reads the plan of the study in `folder`.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(PLAN);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("{} is not a study folder: cannot read {PLAN}", folder.display()))?;
        let plan: Plan = toml::from_str(&text)
            .map_err(|error| anyhow::anyhow!("{}: {}", path.display(), error.message().trim()))?;
        ensure!(
            !plan.networks.is_empty() && !plan.seeds.is_empty(),
            "{} has no networks or no seeds",
            path.display()
        );
        Ok(plan)
    }

    /// Writes the plan into `folder`.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let text = format!(
            "# A study of `cargo xtask study`; it goes on with `cargo xtask study resume FOLDER`.\n\n{}",
            toml::to_string(self)?
        );
        Ok(replace_file(&folder.join(PLAN), text.as_bytes())?)
    }

    /// All runs, in the order in which they are trained: a whole seed after the other, so that a study which is not
    /// complete can already compare networks.
    pub fn runs(&self, folder: &Path) -> Vec<PlannedRun> {
        let runs = self.seeds.iter().flat_map(|&seed| {
            self.networks.iter().enumerate().map(move |(network, planned)| PlannedRun {
                network,
                seed,
                recipe: self.recipe(planned, seed),
                folder: folder.join(format!("{}-seed{seed}", planned.id)),
            })
        });
        runs.collect()
    }

    /// Which of `parts` parts a run is in, from 0. Each part has runs of every network where the numbers of seeds and
    /// networks allow it, so that a machine is not what tells two networks apart.
    pub fn part(&self, run: &PlannedRun, parts: usize) -> usize {
        let seed = self.seeds.iter().position(|&seed| seed == run.seed).unwrap_or(0);
        (run.network + seed) % parts
    }

    fn recipe(&self, planned: &PlannedNetwork, seed: u64) -> Recipe {
        let model = planned.model();
        let network = (model.contains(' ')).then(|| planned.config.clone());
        Recipe { model, network, seed, ..self.recipe.clone() }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::dataset_arg::DatasetName;
    use crate::study::networks;
    use resnext_model::Config;

    /// A plan of two seeds for networks with 1, 2 and 4 paths.
    pub fn plan(kind: Kind) -> Plan {
        let base = "resnet20_1x17d";
        let config = Config::by_name(base).unwrap();
        Plan {
            kind,
            base: base.into(),
            image: (32, 32),
            seeds: vec![0, 1],
            notes: vec!["Three epochs.".into()],
            recipe: Recipe { epochs: 3, ..Recipe::of(DatasetName::Cifar10).unwrap() },
            networks: networks::of(kind, &config, &[1, 2, 4], (32, 32)).unwrap(),
        }
    }

    #[test]
    fn a_plan_comes_back_from_its_file_and_says_which_runs_there_are() {
        let folder = tempfile::tempdir().unwrap();
        for kind in [Kind::Cardinality, Kind::Capacity, Kind::Shortcuts] {
            let plan = plan(kind);
            plan.write(folder.path()).unwrap();
            assert_eq!(Plan::read(folder.path()).unwrap(), plan);
        }
        let plan = plan(Kind::Cardinality);
        let runs = plan.runs(Path::new("study"));
        let names: Vec<_> = runs.iter().map(|run| run.folder.display().to_string()).collect();
        assert_eq!(
            names,
            [
                "study/c1-seed0",
                "study/c2-seed0",
                "study/c4-seed0",
                "study/c1-seed1",
                "study/c2-seed1",
                "study/c4-seed1"
            ]
        );
        for run in &runs {
            // The recipe alone builds the network, also from its file.
            let again: Recipe = toml::from_str(&toml::to_string(&run.recipe).unwrap()).unwrap();
            assert_eq!(again.network(10).unwrap(), plan.networks[run.network].config);
            assert_eq!(again.seed, run.seed);
        }
    }

    #[test]
    fn every_part_has_runs_of_every_network() {
        let plan = Plan { seeds: vec![3, 1, 4, 1 << 40], ..plan(Kind::Shortcuts) };
        let runs = plan.runs(Path::new("study"));
        for parts in [1, 2, 4] {
            for part in 0..parts {
                let own: Vec<_> = runs.iter().filter(|run| plan.part(run, parts) == part).collect();
                assert_eq!(own.len(), runs.len() / parts);
                for network in 0..plan.networks.len() {
                    let of_network = own.iter().filter(|run| run.network == network).count();
                    assert_eq!(
                        of_network,
                        plan.seeds.len() / parts,
                        "network {network}, part {part} of {parts}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_folder_without_a_plan_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = format!("{:#}", Plan::read(folder.path()).unwrap_err());
        assert!(error.contains("is not a study folder"), "{error}");
        std::fs::write(folder.path().join(PLAN), "kind = \"depth\"").unwrap();
        let error = format!("{:#}", Plan::read(folder.path()).unwrap_err());
        assert!(error.contains("plan.toml") && error.contains("depth"), "{error}");
    }
}
