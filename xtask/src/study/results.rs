//! The results of a study's runs, read from their folders.

use super::plan::{Plan, PlannedRun};
use crate::history::{self, Epoch};
use crate::recipe::Recipe;
use crate::run_folder::{LAST, METRICS, RECIPE, REPORT};
use std::path::Path;

/// In a run's folder, why it failed.
pub const FAILURE: &str = "failure.txt";

/// How far a run is.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// All its epochs are complete.
    Finished,
    /// It has ended without a result, for this reason, and would do so again.
    Failed(String),
    /// It has epochs left.
    Unfinished,
    /// Its folder is of another run than the plan's, or cannot be read, for this reason.
    Unusable(String),
}

/// A run and its state.
#[derive(Debug, Clone)]
pub struct RunResult {
    pub run: PlannedRun,
    pub state: State,
    /// The complete epochs; none of a run that is unusable.
    pub epochs: Vec<Epoch>,
    /// Whether anything is left to do, if only the run's report.
    pub is_complete: bool,
}

impl RunResult {
    /// The result of a run that is planned.
    fn read(run: PlannedRun) -> Self {
        let folder = run.folder.clone();
        let result = |state, epochs| {
            // A folder that was copied without its weights has nothing left to do.
            let reported = folder.join(REPORT).exists() || !folder.join(LAST).exists();
            let is_complete = match state {
                State::Finished => reported,
                State::Failed(_) => true,
                State::Unfinished | State::Unusable(_) => false,
            };
            RunResult { run: run.clone(), state, epochs, is_complete }
        };
        let unusable = |reason: String| result(State::Unusable(reason), Vec::new());
        if !folder.join(RECIPE).exists() {
            return result(State::Unfinished, Vec::new());
        }
        match Recipe::read(&folder.join(RECIPE)) {
            Err(error) => return unusable(format!("{error:#}")),
            // Data may lie elsewhere on another machine.
            Ok(found) => {
                let planned = Recipe { data: None, ..run.recipe.clone() };
                if (Recipe { data: None, ..found }) != planned {
                    return unusable(format!("{RECIPE} is not the plan's"));
                }
            }
        }
        let epochs = match history::read(&folder.join(METRICS)) {
            Ok(epochs) => epochs,
            Err(error) => return unusable(format!("{error:#}")),
        };
        let consecutive = (1..).zip(&epochs).all(|(number, epoch)| epoch.epoch == number);
        if !consecutive || epochs.len() > run.recipe.epochs {
            return unusable(format!("{METRICS} does not have the epochs 1 to {}", run.recipe.epochs));
        }
        if let Ok(reason) = std::fs::read_to_string(folder.join(FAILURE)) {
            return result(State::Failed(reason.trim().to_string()), epochs);
        }
        let state = if epochs.len() == run.recipe.epochs { State::Finished } else { State::Unfinished };
        result(state, epochs)
    }

    /// The last epoch, if the run is finished. It is not the best one: that would be chosen by the test images.
    pub fn last(&self) -> Option<&Epoch> {
        self.epochs.last().filter(|_| self.state == State::Finished)
    }

    /// The test error after the last epoch, in per cent.
    pub fn test_error(&self) -> Option<f64> {
        self.last().map(|epoch| 100.0 * (1.0 - epoch.test_top1))
    }

    /// The training error in the last epoch, in per cent.
    pub fn train_error(&self) -> Option<f64> {
        self.last().map(|epoch| 100.0 * (1.0 - epoch.train_top1))
    }
}

/// The results of all runs of a plan, in the plan's order.
pub struct Results {
    pub plan: Plan,
    pub runs: Vec<RunResult>,
}

/// The images that a run's error is measured on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    TestError,
    TrainError,
}

impl Results {
    /// Reads the study in `folder`.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let plan = Plan::read(folder)?;
        let runs = plan.runs(folder).into_iter().map(RunResult::read).collect();
        Ok(Results { plan, runs })
    }

    /// The runs of a network, in the order of their seeds.
    pub fn of_network(&self, network: usize) -> impl Iterator<Item = &RunResult> {
        self.runs.iter().filter(move |result| result.run.network == network)
    }

    /// The errors of a network's finished runs, in per cent.
    pub fn errors(&self, network: usize, measure: Measure) -> Vec<f64> {
        self.of_network(network).filter_map(|result| result.error(measure)).collect()
    }

    /// For each seed with which all `networks` are finished, their errors, in per cent.
    pub fn by_seed(&self, networks: &[usize], measure: Measure) -> Vec<Vec<f64>> {
        let of = |seed: u64, network: usize| {
            self.of_network(network).find(|result| result.run.seed == seed)?.error(measure)
        };
        let seeds = self.plan.seeds.iter();
        seeds.filter_map(|&seed| networks.iter().map(|&network| of(seed, network)).collect()).collect()
    }

    /// The index of the network with this identifier.
    pub fn network(&self, id: &str) -> Option<usize> {
        self.plan.networks.iter().position(|network| network.id == id)
    }

    /// The number of runs in a state.
    pub fn count(&self, is: impl Fn(&State) -> bool) -> usize {
        self.runs.iter().filter(|result| is(&result.state)).count()
    }
}

impl RunResult {
    fn error(&self, measure: Measure) -> Option<f64> {
        match measure {
            Measure::TestError => self.test_error(),
            Measure::TrainError => self.train_error(),
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::study::kind::Kind;
    use crate::study::plan::tests::plan;

    /// Writes a run's folder with these test errors, in per cent, one per epoch. Training errors are 10 less.
    pub fn write_run(run: &PlannedRun, errors: &[f64]) {
        std::fs::create_dir_all(&run.folder).unwrap();
        std::fs::write(run.folder.join(RECIPE), toml::to_string(&run.recipe).unwrap()).unwrap();
        let epoch = |(i, error): (usize, &f64)| Epoch {
            epoch: i + 1,
            lr: 0.1,
            train_loss: 1.0,
            train_top1: 1.0 - (error - 10.0) / 100.0,
            test_loss: 1.0,
            test_top1: 1.0 - error / 100.0,
            test_top5: 1.0,
            seconds: 1.0,
        };
        let epochs: Vec<Epoch> = errors.iter().enumerate().map(epoch).collect();
        std::fs::write(run.folder.join(METRICS), history::to_csv(&epochs).unwrap()).unwrap();
    }

    #[test]
    fn runs_are_what_their_folders_say() {
        let folder = tempfile::tempdir().unwrap();
        let plan = plan(Kind::Cardinality);
        plan.write(folder.path()).unwrap();
        let runs = plan.runs(folder.path());
        write_run(&runs[0], &[50.0, 45.0, 47.0]);
        write_run(&runs[1], &[50.0, 45.0]);
        write_run(&runs[2], &[50.0]);
        std::fs::write(runs[2].folder.join(FAILURE), "the loss is NaN\n").unwrap();
        // Data elsewhere, then another seed; an epoch that is missing; no numbers.
        let moved = PlannedRun {
            recipe: Recipe { data: Some("/elsewhere".into()), ..runs[3].recipe.clone() },
            ..runs[3].clone()
        };
        write_run(&moved, &[50.0, 45.0, 44.0]);
        std::fs::write(moved.folder.join(LAST), "weights").unwrap();
        let other = PlannedRun { recipe: Recipe { seed: 7, ..runs[4].recipe.clone() }, ..runs[4].clone() };
        write_run(&other, &[50.0, 45.0, 44.0]);
        write_run(&runs[5], &[50.0]);
        std::fs::write(runs[5].folder.join(METRICS), "epoch,lr\n1,x\n").unwrap();

        let results = Results::read(folder.path()).unwrap();
        let states: Vec<&State> = results.runs.iter().map(|result| &result.state).collect();
        assert_eq!(
            states[..4],
            [
                &State::Finished,
                &State::Unfinished,
                &State::Failed("the loss is NaN".into()),
                &State::Finished
            ]
        );
        assert_eq!(states[4], &State::Unusable("recipe.toml is not the plan's".into()));
        assert!(matches!(states[5], State::Unusable(reason) if reason.contains("metrics.csv")));
        // The last epoch counts, not the best.
        assert!((results.runs[0].test_error().unwrap() - 47.0).abs() < 1e-9);
        assert_eq!(results.runs[1].test_error(), None);
        // A run whose weights are there has its report left to write.
        let complete: Vec<bool> = results.runs.iter().map(|result| result.is_complete).collect();
        assert_eq!(complete, [true, false, true, false, false, false]);
        // Only the first network is finished with both seeds.
        assert_eq!(results.by_seed(&[0], Measure::TestError).len(), 2);
        assert!(results.by_seed(&[0, 1], Measure::TestError).is_empty());
    }
}
