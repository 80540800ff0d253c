//! Engines side by side, as bars.

use super::report::Report;
use anyhow::{Result, anyhow};
use plotters::prelude::*;

/// An SVG of milliseconds an image, by engine and batch.
pub fn draw(report: &Report) -> Result<String> {
    const ROW: i32 = 26;
    let bars: Vec<_> = report
        .contestants
        .iter()
        .flat_map(|c| c.timings.iter().map(move |t| (c, t.batch, t.median_ms / t.batch as f64)))
        .collect();
    let longest = bars.iter().map(|(_, _, ms)| *ms).fold(0.0, f64::max).max(1e-9);
    let mut svg = String::new();
    {
        let height = 60 + ROW * bars.len() as i32;
        let root = SVGBackend::with_string(&mut svg, (900, height as u32)).into_drawing_area();
        let failed = |error: DrawingAreaErrorKind<_>| anyhow!("chart: {error}");
        root.fill(&WHITE).map_err(failed)?;
        let text = |text: String, at: (i32, i32)| Text::new(text, at, ("sans-serif", 15));
        let title = format!(
            "{}, {}×{}, {} threads: ms an image",
            report.model, report.size, report.size, report.threads
        );
        root.draw(&text(title, (20, 16))).map_err(failed)?;
        for (i, (contestant, batch, ms)) in bars.iter().enumerate() {
            let y = 46 + ROW * i as i32;
            let label = format!("{} {}, batch {batch}", contestant.engine, contestant.precision);
            root.draw(&text(label, (20, y))).map_err(failed)?;
            let ours = contestant.engine == report.contestants[0].engine;
            let colour = if ours { RGBColor(200, 80, 40) } else { RGBColor(70, 130, 180) };
            let end = 300 + (500.0 * ms / longest) as i32;
            root.draw(&Rectangle::new([(300, y - 2), (end, y + 16)], colour.filled())).map_err(failed)?;
            root.draw(&text(format!("{ms:.1}"), (end + 8, y))).map_err(failed)?;
        }
        root.present().map_err(failed)?;
    }
    Ok(svg)
}
