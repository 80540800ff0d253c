//! The verdict on a study's results, in sentences, and the limits of their evidence.

use super::kind::Kind;
use super::networks::{DEEPER, MORE_PATHS, TWO_PATHS, WIDER, WITHOUT};
use super::results::{Measure, Results, State};
use super::statistics::{Interval, mean, slope};
use crate::plural::counted;
use resnext_model::{Complexity, Config};

/// The verdict, and what has to be known to read it.
pub struct Verdict {
    /// The first sentence is the verdict itself.
    pub findings: Vec<String>,
    /// How the numbers were computed.
    pub formula: String,
    /// The limits of the evidence.
    pub limits: Vec<String>,
}

/// The verdict on the runs of a study.
pub fn verdict(results: &Results) -> Verdict {
    let (mut findings, formula) = match results.plan.kind {
        Kind::Cardinality => cardinality(results),
        Kind::Capacity => capacity(results),
        Kind::Shortcuts => shortcuts(results),
    };
    let complete = results.count(|state| *state != State::Unfinished);
    if let Some(first) = findings.first_mut().filter(|_| complete < results.runs.len()) {
        *first = format!("Unfinished, {complete} of {} runs: {first}", results.runs.len());
    }
    Verdict { findings, formula, limits: limits(results) }
}

/// log2 of the cardinality and the error in per cent, for each seed with which all networks are finished.
fn by_cardinality(results: &Results, measure: Measure) -> Vec<Vec<(f64, f64)>> {
    let networks: Vec<usize> = (0..results.plan.networks.len()).collect();
    let log2 = |network: usize| (results.plan.networks[network].config.cardinality as f64).log2();
    let points = |errors: Vec<f64>| networks.iter().map(|&network| log2(network)).zip(errors).collect();
    results.by_seed(&networks, measure).into_iter().map(points).collect()
}

/// The slope of the error over log2 C with each complete seed, in percentage points per doubling of C.
pub fn slopes(results: &Results, measure: Measure) -> Vec<f64> {
    by_cardinality(results, measure).iter().filter_map(|points| slope(points)).collect()
}

fn cardinality(results: &Results) -> (Vec<String>, String) {
    let formula = "Slope: for each seed with which all networks are finished, the least-squares line through its \
                   points (log2 C, error after the last epoch) has a slope b. The figure is the mean of these slopes; \
                   its 95 % interval is Student's, mean ± t(0.975, n − 1)·s/√n over the n slopes. Networks are paired \
                   by seed in this way: what one seed has in common for all of them, such as the order of the images, \
                   moves its line up or down and leaves the slope.";
    let test = slopes(results, Measure::TestError);
    let mut findings = vec![match (Interval::of(&test), mean(&test)) {
        (Some(interval), _) => {
            let slope = format!(
                "test error changes by {} percentage points per doubling of C (95 % interval {}, {})",
                signed(interval.mean),
                between(&interval),
                counted(test.len(), "seed")
            );
            if interval.high < 0.0 {
                format!("The claim holds on this evidence: {slope}.")
            } else if interval.low > 0.0 {
                format!("The claim does not hold on this evidence; the contrary does: {slope}.")
            } else {
                format!("This evidence does not decide the claim: {slope}, and the interval includes 0.")
            }
        }
        (None, Some(only)) => format!(
            "One seed decides nothing: with it, test error changes by {} percentage points per doubling of C, and there \
             is no telling how much another seed would differ.",
            signed(only)
        ),
        (None, None) => "There is no verdict yet: no seed has finished with all networks.".to_string(),
    }];
    let train = slopes(results, Measure::TrainError);
    if let Some(interval) = Interval::of(&train) {
        let meaning = if interval.high < 0.0 {
            "falls too, so that the networks fit better, and not only generalise better (section 5.1 of the paper)"
        } else if interval.low > 0.0 {
            "rises"
        } else {
            "shows no clear trend, as the interval includes 0"
        };
        findings.push(format!(
            "Training error {meaning}: {} percentage points per doubling of C (95 % interval {}).",
            signed(interval.mean),
            between(&interval)
        ));
    }
    findings.extend(extremes(results));
    (findings, formula.into())
}

/// Which networks have the smallest and the largest mean error, whatever a line through all of them says.
fn extremes(results: &Results) -> Option<String> {
    let networks = results.plan.networks.iter().enumerate();
    let errors = networks.filter_map(|(i, network)| {
        mean(&results.errors(i, Measure::TestError)).map(|error| (error, network.label.as_str()))
    });
    let mut errors: Vec<(f64, &str)> = errors.collect();
    errors.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (&(least, best), &(most, worst)) = errors.first().zip(errors.last())?;
    (errors.len() > 1).then(|| {
        format!(
            "The smallest mean error is {least:.2} %, of {best}; the largest is {most:.2} %, of {worst}: {:.2} \
             percentage points apart.",
            most - least
        )
    })
}

/// The result of a comparison of two networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    Smaller,
    Larger,
    Undecided,
}

/// A comparison of two networks by the difference of their errors, paired by seed; and the same in words.
fn comparison(results: &Results, (name, a): (&str, usize), (other, b): (&str, usize)) -> (Relation, String) {
    let pairs = results.by_seed(&[a, b], Measure::TestError);
    let differences: Vec<f64> = pairs.iter().map(|errors| errors[0] - errors[1]).collect();
    let Some(interval) = Interval::of(&differences) else {
        let text = format!("{name} against {other}: fewer than two seeds have finished with both.");
        return (Relation::Undecided, text);
    };
    let (relation, in_words) = if interval.high < 0.0 {
        (Relation::Smaller, "has the smaller error")
    } else if interval.low > 0.0 {
        (Relation::Larger, "has the larger error")
    } else {
        (Relation::Undecided, "cannot be told apart")
    };
    let text = format!(
        "{name} against {other}: {in_words}, {} percentage points (95 % interval {}, {}).",
        signed(interval.mean),
        between(&interval),
        counted(differences.len(), "seed")
    );
    (relation, text)
}

const PAIRED: &str = "Differences are those of the test errors after the last epoch with the same seed; intervals are \
                      Student's, mean ± t(0.975, n − 1)·s/√n over the n seeds with which both networks are finished.";

fn capacity(results: &Results) -> (Vec<String>, String) {
    let network = |id: &str| results.network(id);
    let mut findings = Vec::new();
    let larger = [
        ("more paths", MORE_PATHS),
        ("two paths", TWO_PATHS),
        ("more blocks", DEEPER),
        ("wider layers", WIDER),
    ];
    let mut relations = Vec::new();
    if let Some(paths) = network(MORE_PATHS) {
        for (name, id) in &larger[2..] {
            let Some(other) = network(id) else { continue };
            let own = "twice the complexity by more paths";
            let (relation, text) = comparison(results, (own, paths), (name, other));
            relations.push(relation);
            findings.push(text);
        }
    }
    for (name, id) in larger {
        if let Some(own) = network(id) {
            findings.push(comparison(results, (name, own), ("the base with one path", 0)).1);
        }
    }
    let verdict = if relations == [Relation::Smaller; 2] {
        "The claim holds on this evidence: paths are a better use of twice the complexity than blocks or width."
    } else if relations.contains(&Relation::Larger) {
        "The claim does not hold on this evidence: paths lose to blocks or to width."
    } else {
        "This evidence does not decide whether paths are the better use of twice the complexity."
    };
    findings.insert(0, verdict.into());
    (findings, PAIRED.into())
}

fn shortcuts(results: &Results) -> (Vec<String>, String) {
    let networks = &results.plan.networks;
    let with = networks.iter().filter(|network| !network.id.ends_with(WITHOUT));
    let pairs = with.filter_map(|network| {
        let without = results.network(&format!("{}{WITHOUT}", network.id))?;
        Some((network, without, results.network(&network.id)?))
    });
    let (relations, findings): (Vec<Relation>, Vec<String>) = pairs
        .map(|(network, without, with)| {
            let paths = counted(network.config.cardinality, "path");
            let (a, b) = (format!("Without shortcuts, {paths}"), "with them");
            comparison(results, (&a, without), (b, with))
        })
        .unzip();
    let verdict = if relations.iter().all(|&relation| relation == Relation::Larger) {
        "Residual connections lower the error of every network here."
    } else if relations.contains(&Relation::Smaller) {
        "Residual connections do not lower the error of every network here: at least one is better without them."
    } else {
        "This evidence does not show for every network that residual connections lower its error."
    };
    (std::iter::once(verdict.to_string()).chain(findings).collect(), PAIRED.into())
}

/// The limits of the evidence, as far as they follow from the plan and the states of its runs.
fn limits(results: &Results) -> Vec<String> {
    let plan = &results.plan;
    let mut limits = Vec::new();
    let (finished, all) = (results.count(|state| *state == State::Finished), results.runs.len());
    let failed = results.count(|state| matches!(state, State::Failed(_) | State::Unusable(_)));
    if finished + failed < all {
        limits.push(format!(
            "The study is unfinished: {finished} of its {all} runs are complete. What is said here may change."
        ));
    }
    if failed > 0 {
        limits.push(format!(
            "{} without a result; the seeds of failed runs are left out of what is paired by seed, which may favour \
             networks that are hard to train.",
            if failed == 1 { "1 run is".to_string() } else { format!("{failed} runs are") }
        ));
    }
    limits.extend(unequal_complexity(results));
    let largest = plan.networks.iter().filter_map(|own| complexity(&own.config, plan.image));
    let parameters = largest.map(|own| own.parameters).fold(0.0, f64::max);
    let images = plan.recipe.train_images.map_or("all".to_string(), |images| images.to_string());
    limits.push(format!(
        "These networks have at most {:.2} M parameters and were trained for {} on {images} training images of {}. The \
         paper's for CIFAR have 34 and 68 M, and were trained for 300 epochs on all images. That a trend is there or \
         not says little about such networks.",
        parameters / 1e6,
        counted(plan.recipe.epochs, "epoch"),
        plan.recipe.dataset
    ));
    limits.push(
        "All networks have one recipe, and its rate and weight decay were not tuned for any of them; a network that it \
         happens to suit has an advantage. The intervals cover what differs between seeds, which are initial weights \
         and the order of images, and not what another recipe or data set would change."
            .into(),
    );
    limits.push(
        "Every run is tested on the same images, whose choice affects all networks alike. Errors are those after the last \
         epoch, not the best ones, which would be chosen by the test images."
            .into(),
    );
    if plan.kind == Kind::Cardinality {
        limits.push(
            "A slope describes a trend over all cardinalities, not the step from one to the next, and a line need not be \
             the trend's shape."
                .into(),
        );
    }
    limits
}

/// Says how much smaller networks without shortcuts are: a projection goes with its shortcut.
fn unequal_complexity(results: &Results) -> Option<String> {
    let plan = &results.plan;
    let shares = plan.networks.iter().filter_map(|with| {
        let without = &plan.networks[results.network(&format!("{}{WITHOUT}", with.id))?];
        let (with, without) =
            (complexity(&with.config, plan.image)?, complexity(&without.config, plan.image)?);
        let fewer = |less: f64, more: f64| 100.0 * (1.0 - less / more);
        Some((fewer(without.parameters, with.parameters), fewer(without.multiply_adds, with.multiply_adds)))
    });
    let shares: Vec<(f64, f64)> = shares.collect();
    let range = |of: fn(&(f64, f64)) -> f64| {
        let (low, high) = (
            shares.iter().map(of).fold(f64::INFINITY, f64::min).round(),
            shares.iter().map(of).fold(0.0, f64::max).round(),
        );
        if low == high { format!("{low} %") } else { format!("{low} to {high} %") }
    };
    (!shares.is_empty()).then(|| {
        format!(
            "A network without shortcuts lacks their projections, too: it has {} fewer parameters and {} fewer \
             multiply-adds than the one it is compared with. The differences are those of both together.",
            range(|share| share.0),
            range(|share| share.1)
        )
    })
}

/// The complexity of a network of a plan, which has been computed before.
pub fn complexity(config: &Config, image: (usize, usize)) -> Option<Complexity> {
    Complexity::of(config, image.0, image.1).ok()
}

/// A number with its sign; a true minus, as in text.
fn signed(value: f64) -> String {
    let sign = if value < 0.0 { "−" } else { "+" };
    format!("{sign}{:.2}", value.abs())
}

fn between(interval: &Interval) -> String {
    format!("{} to {}", signed(interval.low), signed(interval.high))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::plan::Plan;
    use crate::study::plan::tests::plan;
    use crate::study::results::FAILURE;
    use crate::study::results::tests::write_run;

    /// The verdict on runs with these final test errors in per cent, in the plan's order.
    fn judged(plan: &Plan, errors: &[f64]) -> Verdict {
        let folder = tempfile::tempdir().unwrap();
        plan.write(folder.path()).unwrap();
        for (run, error) in plan.runs(folder.path()).iter().zip(errors) {
            match error.is_nan() {
                true => {
                    write_run(run, &[60.0]);
                    std::fs::write(run.folder.join(FAILURE), "the loss is NaN").unwrap();
                }
                false => write_run(run, &[60.0, 55.0, *error]),
            }
        }
        verdict(&Results::read(folder.path()).unwrap())
    }

    /// By hand: over log2 C = 0, 1, 2 the slopes of (50, 48, 46) and (52, 51, 48) are -2 and -2; of the latter,
    /// (48 - 52)/2. Their deviation is 0. With 46.4 and 48 at the end they are -1.8 and -2: the mean is -1.9, the
    /// deviation 0.1414 and half the interval 12.706 · 0.1414 / √2 = 1.2706.
    #[test]
    fn a_slope_decides_if_its_interval_does_not_have_0_in_it() {
        let plan = plan(Kind::Cardinality);
        let holds = judged(&plan, &[50.0, 48.0, 46.4, 52.0, 51.0, 48.0]);
        assert!(
            holds.findings[0].starts_with("The claim holds on this evidence")
                && holds.findings[0].contains("−1.90 percentage points per doubling")
                && holds.findings[0].contains("95 % interval −3.17 to −0.63, 2 seeds"),
            "{:?}",
            holds.findings
        );
        assert!(holds.findings[1].starts_with("Training error falls too"), "{:?}", holds.findings);
        assert!(holds.findings[2].contains("47.20 %, of 4×"), "{:?}", holds.findings);
        let open = judged(&plan, &[50.0, 48.0, 46.0, 46.0, 48.0, 50.0]);
        assert!(open.findings[0].starts_with("This evidence does not decide the claim"));
        let contrary = judged(&plan, &[46.0, 48.0, 50.0, 46.0, 48.0, 50.2]);
        assert!(contrary.findings[0].contains("the contrary does"), "{:?}", contrary.findings);
    }

    #[test]
    fn what_is_missing_or_failed_is_said_and_pairs_no_seed() {
        let plan = plan(Kind::Cardinality);
        let one = judged(&plan, &[50.0, 48.0, 46.0, 52.0]);
        assert!(
            one.findings[0].starts_with("Unfinished, 4 of 6 runs: One seed decides nothing"),
            "{:?}",
            one.findings
        );
        assert!(one.limits[0].contains("4 of its 6 runs are complete"), "{:?}", one.limits);
        let failed = judged(&plan, &[50.0, f64::NAN, 46.0, 52.0, 51.0, 48.0]);
        assert!(failed.findings[0].contains("−2.00 percentage points"), "{:?}", failed.findings);
        assert!(failed.limits[0].starts_with("1 run is without a result"), "{:?}", failed.limits);
        let none = judged(&plan, &[50.0]);
        assert!(none.findings[0].contains("There is no verdict yet"));
    }

    #[test]
    fn capacity_and_shortcuts_are_judged_by_paired_differences() {
        let capacity = plan(Kind::Capacity);
        // One path, four paths, deeper, wider, two paths, more paths; the seeds differ by 1 throughout.
        let errors = [50.0, 48.0, 47.0, 46.9, 45.0, 44.0, 51.0, 49.0, 48.0, 48.1, 46.0, 45.1];
        let holds = judged(&capacity, &errors);
        assert!(holds.findings[0].starts_with("The claim holds"), "{:?}", holds.findings);
        // By hand: 44 - 47 = -3 and 45.1 - 48 = -2.9; s = 0.0707, half the interval 12.706 · 0.05 = 0.635.
        assert!(
            holds.findings[1].contains("more blocks: has the smaller error, −2.95")
                && holds.findings[1].contains("−3.59 to −2.31"),
            "{:?}",
            holds.findings
        );
        let shortcuts = plan(Kind::Shortcuts);
        let errors = [50.0, 53.0, 48.0, 50.0, 51.0, 54.1, 49.0, 51.1];
        let lower = judged(&shortcuts, &errors);
        assert_eq!(lower.findings[0], "Residual connections lower the error of every network here.");
        assert!(
            lower.findings[1]
                .starts_with("Without shortcuts, 1 path against with them: has the larger error, +3.05")
        );
        assert_eq!(lower.findings.len(), 3);
        // The projections' weights: 16·64 + 64·128 + 128·256 of about 240,000 parameters.
        let unequal = lower.limits.iter().find(|limit| limit.contains("lacks their projections")).unwrap();
        assert!(unequal.contains("18 % fewer parameters and 14 % fewer multiply-adds"), "{unequal}");
        assert!(holds.limits.iter().all(|limit| !limit.contains("projections")), "{:?}", holds.limits);
    }
}
