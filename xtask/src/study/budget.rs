//! How many epochs and seeds fit into a time.

use crate::plural::counted;
use std::time::Duration;

/// Fewer epochs than this show no curve.
const FEWEST_EPOCHS: usize = 2;
/// Fewer seeds than this say little about how much results vary.
const FEWEST_SEEDS: usize = 3;
/// More seeds than this are taken only if they are asked for.
const MOST_SEEDS: usize = 10;
/// The factor on measured times, for work that was not measured.
const MARGIN: f64 = 1.1;

/// The cost of a study per seed, which is one run of each network.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Seconds for an epoch of every network, with its evaluation.
    pub epoch: f64,
    /// Seconds for what each network's run takes once.
    pub once: f64,
}

impl Cost {
    /// Seconds for the whole study.
    pub fn total(&self, epochs: usize, seeds: usize) -> f64 {
        MARGIN * seeds as f64 * (epochs as f64 * self.epoch + self.once)
    }
}

/// How long a study is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Length {
    pub epochs: usize,
    pub seeds: usize,
}

/// Fits epochs and seeds to `budget` seconds. What is given as `epochs` or `seeds` stays. Otherwise there are three
/// seeds and as many epochs as fit, at most those of the recipe, `most_epochs`; if time is left then, there are more
/// seeds.
///
/// # Errors
/// A text with the time that would be needed.
pub fn fit(
    budget: f64,
    cost: Cost,
    epochs: Option<usize>,
    seeds: Option<usize>,
    most_epochs: usize,
) -> Result<Length, String> {
    let fewest_seeds = seeds.unwrap_or(FEWEST_SEEDS);
    let fits = |epochs: &usize| cost.total(*epochs, fewest_seeds) <= budget;
    let chosen = match epochs {
        Some(epochs) => Some(epochs).filter(fits),
        None => (FEWEST_EPOCHS.min(most_epochs)..=most_epochs).rev().find(fits),
    };
    let Some(epochs) = chosen else {
        let epochs = epochs.unwrap_or(FEWEST_EPOCHS.min(most_epochs));
        return Err(format!(
            "{} of {} and {} take about {}, which is more than {}; give more time, or take a smaller --network, \
             fewer --train-images or fewer --seeds",
            counted(fewest_seeds, "seed"),
            "each network",
            counted(epochs, "epoch"),
            words(cost.total(epochs, fewest_seeds)),
            words(budget)
        ));
    };
    let most_seeds = seeds.unwrap_or(MOST_SEEDS);
    let seeds = (fewest_seeds..=most_seeds).rev().find(|&seeds| cost.total(epochs, seeds) <= budget);
    Ok(Length { epochs, seeds: seeds.unwrap_or(fewest_seeds) })
}

/// A time such as `2h`, `90m`, `1h30m` or `45s`.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a time such as 2h, 90m or 1h30m".to_string();
    let (mut seconds, mut rest) = (0.0, text.trim());
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..end].parse().map_err(|_| wrong())?;
        let unit = rest[end..].chars().next().ok_or_else(wrong)?;
        seconds += number
            * match unit {
                'h' => 3600.0,
                'm' => 60.0,
                's' => 1.0,
                _ => return Err(wrong()),
            };
        rest = &rest[end + unit.len_utf8()..];
    }
    match seconds > 0.0 {
        true => Duration::try_from_secs_f64(seconds).map_err(|_| wrong()),
        false => Err(wrong()),
    }
}

/// Seconds as a time to read.
pub fn words(seconds: f64) -> String {
    let minutes = (seconds / 60.0).ceil() as usize;
    match (seconds, minutes) {
        (seconds, _) if seconds < 90.0 => format!("{seconds:.0} s"),
        (_, minutes) if minutes < 100 => format!("{minutes} min"),
        (_, minutes) => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: Cost = Cost { epoch: 100.0, once: 50.0 };

    #[test]
    fn epochs_fill_the_time_and_seeds_take_what_is_left() {
        // Three seeds of e epochs take 1.1 · 3 · (100·e + 50) seconds: 3465 for 10, 3795 for 11.
        let fit = |budget, epochs, seeds| fit(budget, COST, epochs, seeds, 20);
        assert_eq!(fit(3600.0, None, None), Ok(Length { epochs: 10, seeds: 3 }));
        // The recipe's 20 epochs take 2255 s per seed.
        assert_eq!(fit(10_000.0, None, None), Ok(Length { epochs: 20, seeds: 4 }));
        assert_eq!(fit(1e9, None, None), Ok(Length { epochs: 20, seeds: 10 }));
        assert_eq!(fit(3600.0, None, Some(1)), Ok(Length { epochs: 20, seeds: 1 }));
        assert_eq!(fit(3600.0, Some(4), None), Ok(Length { epochs: 4, seeds: 7 }));
        assert_eq!(fit(3600.0, Some(4), Some(5)), Ok(Length { epochs: 4, seeds: 5 }));
    }

    #[test]
    fn a_budget_that_is_too_small_is_refused_with_what_is_needed() {
        let error = fit(600.0, COST, None, None, 20).unwrap_err();
        assert!(error.contains("3 seeds") && error.contains("2 epochs take about 14 min"), "{error}");
        let error = fit(3600.0, COST, Some(20), Some(3), 20).unwrap_err();
        assert!(error.contains("about 1 h 53 min, which is more than 60 min"), "{error}");
    }

    #[test]
    fn times_are_read_and_written() {
        let seconds = |text| parse(text).map(|time| time.as_secs());
        assert_eq!(
            ["2h", "90m", "1h30m", "45s", "0.5h"].map(seconds),
            [Ok(7200), Ok(5400), Ok(5400), Ok(45), Ok(1800)]
        );
        for wrong in ["", "2", "h", "-1h", "2d", "0m", "1e9h"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!([30.0, 600.0, 7260.0].map(words), ["30 s", "10 min", "2 h 1 min"]);
    }
}
