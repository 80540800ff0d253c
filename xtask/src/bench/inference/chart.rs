//! Engines side by side, as bars.

use super::report::InferenceReport;
use crate::line_chart::{BLUE, RED};
use crate::plural::counted;
use anyhow::{Result, anyhow};
use plotters::prelude::*;
use std::collections::BTreeSet;

/// Height of a row in pixels.
const ROW: i32 = 26;
/// Where labels, and bars, begin, and the length of the longest bar, in pixels.
const LABEL: i32 = 20;
const BAR: i32 = 270;
const LONGEST: f64 = 520.0;

/// A row of the chart.
enum Row {
    Heading(String),
    Bar { label: String, ours: bool, ms: f64 },
}

/// Draws an SVG of milliseconds per image: for each batch size, one bar per engine.
pub fn draw(report: &InferenceReport) -> Result<String> {
    let rows = rows(report);
    let ms = rows.iter().map(|row| if let Row::Bar { ms, .. } = row { *ms } else { 0.0 });
    let longest = ms.fold(0.0, f64::max).max(1e-9);
    let mut svg = String::new();
    {
        let height = 60 + ROW * rows.len() as i32;
        let root = SVGBackend::with_string(&mut svg, (900, height as u32)).into_drawing_area();
        let failed = |error: DrawingAreaErrorKind<_>| anyhow!("cannot draw the chart: {error}");
        let text = |text: &str, at: (i32, i32)| Text::new(text.to_string(), at, ("sans-serif", 15));
        root.fill(&WHITE).map_err(failed)?;
        let InferenceReport { model, size, threads, .. } = report;
        let threads = counted(*threads, "thread");
        let title = format!("{model}, {size}×{size}, {threads}: milliseconds per image");
        root.draw(&Text::new(title, (LABEL, 16), ("sans-serif", 17))).map_err(failed)?;
        for (i, row) in rows.iter().enumerate() {
            let y = 46 + ROW * i as i32;
            match row {
                Row::Heading(heading) => root.draw(&text(heading, (LABEL, y + 4))).map_err(failed)?,
                Row::Bar { label, ours, ms } => {
                    root.draw(&text(label, (LABEL + 16, y))).map_err(failed)?;
                    let colour = if *ours { RED } else { BLUE };
                    let end = BAR + (LONGEST * ms / longest) as i32;
                    let bar = Rectangle::new([(BAR, y - 2), (end, y + 16)], colour.filled());
                    root.draw(&bar).map_err(failed)?;
                    root.draw(&text(&format!("{ms:.2}"), (end + 8, y))).map_err(failed)?;
                }
            }
        }
        root.present().map_err(failed)?;
    }
    Ok(svg)
}

/// A heading per batch size, and below it a bar per engine.
fn rows(report: &InferenceReport) -> Vec<Row> {
    let timings = || report.contestants.iter().flat_map(|c| c.timings.iter().map(move |timing| (c, timing)));
    let batches: BTreeSet<usize> = timings().map(|(_, timing)| timing.batch).collect();
    let mut rows = Vec::new();
    for batch in batches {
        rows.push(Row::Heading(format!("batch {batch}")));
        rows.extend(timings().filter(|(_, timing)| timing.batch == batch).map(|(contestant, timing)| {
            Row::Bar {
                label: format!("{}, {}", contestant.engine, contestant.precision),
                ours: contestant.engine == report.contestants[0].engine,
                ms: timing.median_ms / batch as f64,
            }
        }));
    }
    rows
}
