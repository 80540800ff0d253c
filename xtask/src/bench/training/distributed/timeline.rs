//! When the sums of a step began and ended beside its backward pass, as a table and as bars.

use crate::text_table::Table;
use resnext_train::distributed::{ExchangeTimes, SumTime};
use std::time::Instant;

/// Columns of the bars.
const WIDTH: usize = 64;

/// Milliseconds since the gradients of the step's first sum were ready.
fn since(exchange: &ExchangeTimes, at: Instant) -> f64 {
    let zero = exchange.last.first().map(|sum| sum.submitted);
    zero.map_or(0.0, |zero| 1e3 * at.saturating_duration_since(zero).as_secs_f64())
}

/// A row per sum.
pub fn table(exchange: &ExchangeTimes) -> Table {
    let mut table = Table::new(&["sum", "MB", "gradients ready", "begins", "ends"]);
    for (number, sum) in exchange.last.iter().enumerate() {
        let times = [sum.submitted, sum.exchange[0], sum.exchange[1]];
        let row = [(number + 1).to_string(), format!("{:.1}", sum.bytes as f64 / 1e6)];
        table.row(row.into_iter().chain(times.map(|at| format!("{:.1}", since(exchange, at)))).collect());
    }
    table
}

/// A bar for the backward pass, and one per sum. The part of a sum that lies under the backward pass is hidden: it costs
/// the step no time of its own.
pub fn draw(exchange: &ExchangeTimes) -> String {
    let end = |sum: &SumTime| since(exchange, sum.exchange[1]);
    let backward = exchange.waited_from.map_or(0.0, |at| since(exchange, at));
    let longest = exchange.last.iter().map(end).fold(backward, f64::max).max(1e-9);
    let column = |ms: f64| ((ms / longest * WIDTH as f64).round() as usize).min(WIDTH);
    // What takes any time has a column of its own.
    let bar = |name: &str, ready: f64, begins: f64, ends: f64| {
        let (ready, begins) = (column(ready).min(WIDTH - 1), column(begins).min(WIDTH - 1));
        let ends = column(ends).max(begins + 1);
        format!(
            "{name:<10}{}{}{}\n",
            " ".repeat(ready),
            "·".repeat(begins.saturating_sub(ready)),
            "█".repeat(ends - begins)
        )
    };
    let mut text = bar("backward", 0.0, 0.0, backward);
    for (number, sum) in exchange.last.iter().enumerate() {
        let [ready, begins] = [sum.submitted, sum.exchange[0]].map(|at| since(exchange, at));
        text += &bar(&format!("sum {}", number + 1), ready, begins, end(sum));
    }
    let scale = format!("{longest:.1} ms");
    text + &format!("{:<10}0{scale:>width$}\n", "", width = WIDTH - 1)
        + "          · ready and waiting for the sum before it   █ under way\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// The first sum is hidden, the second one waits for it and ends half after the backward pass.
    #[test]
    fn bars_show_what_is_hidden() {
        let zero = Instant::now();
        let at = |ms: u64| zero + Duration::from_millis(ms);
        let sum = |ready, begins, ends| SumTime {
            bytes: 1_000_000,
            submitted: at(ready),
            exchange: [at(begins), at(ends)],
        };
        let exchange = ExchangeTimes {
            last: vec![sum(0, 0, 32), sum(16, 32, 64)],
            waited_from: Some(at(48)),
            ..Default::default()
        };
        let drawn = draw(&exchange);
        let lines: Vec<&str> = drawn.lines().collect();
        assert_eq!(lines[0], format!("backward  {}", "█".repeat(48)));
        assert_eq!(lines[1], format!("sum 1     {}", "█".repeat(32)));
        assert_eq!(lines[2], format!("sum 2     {}{}{}", " ".repeat(16), "·".repeat(16), "█".repeat(32)));
        assert!(lines[3].ends_with("64.0 ms") && lines[3].chars().count() == 10 + WIDTH, "{}", lines[3]);
        let rows = table(&exchange).to_text();
        assert!(rows.contains("  2  1.0             16.0    32.0  64.0"), "{rows}");
    }
}
