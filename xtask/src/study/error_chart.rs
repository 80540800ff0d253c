//! The errors of networks side by side: each run as a point, and their mean with its standard deviation.

use crate::line_chart::{BLUE, GREY, RED};
use anyhow::{Result, anyhow};
use plotters::prelude::*;

/// The size of the chart in pixels.
const SIZE: (u32, u32) = (720, 420);

/// One network's column.
pub struct Column {
    /// The text below it.
    pub label: String,
    /// The errors of its runs in per cent, which may be none.
    pub errors: Vec<f64>,
    /// Their mean and, of two or more, their standard deviation.
    pub mean: Option<(f64, Option<f64>)>,
}

/// The contents of the chart.
pub struct ErrorChart<'a> {
    /// The vertical axis.
    pub y: &'a str,
    /// The horizontal axis.
    pub x: &'a str,
    pub columns: &'a [Column],
    /// A line through the columns: its value at the first one, and its change from one to the next.
    pub line: Option<(f64, f64)>,
}

impl ErrorChart<'_> {
    /// The chart as SVG.
    pub fn draw(&self) -> Result<String> {
        let mut svg = String::new();
        {
            let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            self.draw_on(&root).map_err(|error| anyhow!("cannot draw the chart: {error}"))?;
        }
        Ok(svg)
    }

    fn draw_on(
        &self,
        root: &DrawingArea<SVGBackend, plotters::coord::Shift>,
    ) -> Result<(), Box<dyn std::error::Error + '_>> {
        let failed = |error: DrawingAreaErrorKind<_>| Box::<dyn std::error::Error>::from(format!("{error}"));
        root.fill(&WHITE).map_err(failed)?;
        let last = self.columns.len().saturating_sub(1) as f64;
        let mut chart = ChartBuilder::on(root)
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(60)
            .build_cartesian_2d(-0.5..last + 0.5, self.range())
            .map_err(failed)?;
        let label = |x: &f64| {
            let near = (x - x.round()).abs() < 1e-6 && *x >= -1e-6;
            let column = near.then(|| self.columns.get(x.round() as usize)).flatten();
            column.map_or(String::new(), |column| column.label.clone())
        };
        let mut mesh = chart.configure_mesh();
        mesh.x_desc(self.x).y_desc(self.y).light_line_style(WHITE).disable_x_mesh();
        // Ticks at integers: the axis is one longer than the distance of its columns.
        mesh.x_labels(2 * self.columns.len() + 1).x_label_formatter(&label);
        mesh.draw().map_err(failed)?;
        if let Some((first, change)) = self.line {
            let ends = [(0.0, first), (last, first + change * last)];
            chart.draw_series(LineSeries::new(ends, GREY.stroke_width(1))).map_err(failed)?;
        }
        for (i, column) in self.columns.iter().enumerate() {
            let x = i as f64;
            // Points of equal height stay apart.
            let spread = |k: usize| x + 0.16 + 0.05 * k as f64;
            let points = column.errors.iter().enumerate();
            let points = points.map(|(k, &error)| Circle::new((spread(k), error), 3, BLUE.filled()));
            chart.draw_series(points).map_err(failed)?;
            let Some((mean, deviation)) = column.mean else { continue };
            if let Some(deviation) = deviation {
                let (low, high) = (mean - deviation, mean + deviation);
                let cap = |y: f64| vec![(x - 0.07, y), (x + 0.07, y)];
                let bars = [vec![(x, low), (x, high)], cap(low), cap(high)];
                let bars = bars.into_iter().map(|bar| PathElement::new(bar, RED.stroke_width(2)));
                chart.draw_series(bars).map_err(failed)?;
            }
            chart.draw_series([Circle::new((x, mean), 5, RED.filled())]).map_err(failed)?;
        }
        root.present().map_err(failed)
    }

    /// The vertical axis: all points and bars, with room around them.
    fn range(&self) -> std::ops::Range<f64> {
        let ends = self.columns.iter().flat_map(|column| {
            let bar = column.mean.map(|(mean, deviation)| (mean, deviation.unwrap_or(0.0)));
            let bar = bar.into_iter().flat_map(|(mean, deviation)| [mean - deviation, mean + deviation]);
            column.errors.iter().copied().chain(bar)
        });
        let (low, high) = ends
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        if !low.is_finite() {
            return 0.0..100.0;
        }
        let room = ((high - low) * 0.12).max(0.1);
        (low - room).max(0.0)..high + room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(label: &str, errors: &[f64], mean: Option<(f64, Option<f64>)>) -> Column {
        Column { label: label.into(), errors: errors.to_vec(), mean }
    }

    #[test]
    fn every_column_is_labelled_and_every_run_is_a_point() {
        let columns = [
            column("1", &[50.0, 51.0, 52.0], Some((51.0, Some(1.0)))),
            column("2", &[49.0], Some((49.0, None))),
            column("32", &[], None),
        ];
        let chart = ErrorChart { y: "error", x: "C", columns: &columns, line: Some((51.0, -1.0)) };
        let svg = chart.draw().unwrap();
        // Four runs and two means.
        assert_eq!(svg.matches("<circle").count(), 6);
        for label in ["1", "2", "32"] {
            let texts = svg.split("</text>").filter(|text| text.trim_end().ends_with(&format!("\n{label}")));
            assert_eq!(texts.count(), 1, "{label} in {svg}");
        }
        assert_eq!(chart.range(), 49.0f64.min(49.0) - 0.36..52.36);
        let empty = ErrorChart { columns: &[], line: None, ..chart };
        assert!(empty.draw().unwrap().starts_with("<svg"));
    }
}
