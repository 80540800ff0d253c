//! The score of random mutants.

use crate::text_table::Table;
use resnext_model::equivalence::MutantScore;

/// The number of random mistakes per run, of which a quarter turn out to compute the same function.
pub const MUTANTS: usize = 720;

/// The mistakes that make another function, at least, for the score to mean something.
const LEAST_CAUGHT: usize = 500;

/// The faults in the score of mutants.
pub fn mutant_failures(scores: &[MutantScore]) -> Vec<String> {
    let missed = scores.iter().flat_map(|score| &score.missed);
    let missed = missed.map(|mutant| format!("mutant not caught: {mutant}"));
    let alarms = scores.iter().flat_map(|score| &score.false_alarms);
    let alarms = alarms.map(|mutant| format!("the same function, taken for another: {mutant}"));
    let mut failures: Vec<String> = missed.chain(alarms).collect();
    let caught: usize = scores.iter().map(|score| score.caught).sum();
    if caught < LEAST_CAUGHT {
        failures.push(format!("expected at least {LEAST_CAUGHT} mutants that are caught, got {caught}"));
    }
    failures
}

/// The score of mutants, by kind.
pub fn mutant_table(scores: &[MutantScore]) -> Table {
    let mut table = Table::new(&["mistake", "mutants", "caught", "the same function", "missed"]);
    let row = |kind: &str, scores: &[MutantScore]| {
        let sum = |count: fn(&MutantScore) -> usize| scores.iter().map(count).sum::<usize>();
        let (caught, same) = (sum(|score| score.caught), sum(|score| score.same));
        let missed = sum(|score| score.missed.len() + score.false_alarms.len());
        let counts = [caught + same + missed, caught, same, missed].map(|count| count.to_string());
        [kind.to_string()].into_iter().chain(counts).collect()
    };
    for score in scores {
        table.row(row(&score.kind, std::slice::from_ref(score)));
    }
    table.row(row("all", scores));
    table
}
