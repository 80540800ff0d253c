//! The errors of networks side by side: each run as a point, and their mean with its standard deviation.

use crate::line_chart::{BLUE, GREY, RED, tick};
use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// The size of the chart in pixels.
const SIZE: (u32, u32) = (720, 420);
/// Height of a line of a column's label, and the width of a letter, about.
const ROW: i32 = 15;
const LETTER: i32 = 7;

/// One network's column.
pub struct Column {
    /// The text below it, broken into lines where it is wider than the column.
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
        let width = (SIZE.0 as usize - 90) / self.columns.len().max(1) / LETTER as usize;
        let labels: Vec<Vec<String>> =
            self.columns.iter().map(|column| broken(&column.label, width)).collect();
        let rows = labels.iter().map(Vec::len).max().unwrap_or(1) as i32;
        let mut chart = ChartBuilder::on(root)
            .margin(12)
            .x_label_area_size(29 + ROW * rows)
            .y_label_area_size(60)
            .build_cartesian_2d(-0.5..last + 0.5, self.range())
            .map_err(failed)?;
        let mut mesh = chart.configure_mesh();
        mesh.x_desc(self.x).y_desc(self.y).light_line_style(WHITE).disable_x_mesh();
        mesh.y_label_formatter(&|y| tick(*y));
        // The columns' labels are drawn below; ticks at integers, as the axis is one longer than their distance.
        mesh.x_labels(2 * self.columns.len() + 1).x_label_formatter(&|_| String::new());
        mesh.draw().map_err(failed)?;
        let (_, bottom) = chart.plotting_area().get_pixel_range();
        for (i, rows) in labels.into_iter().enumerate() {
            let (x, _) = chart.backend_coord(&(i as f64, self.range().start));
            for (row, text) in (0..).zip(rows) {
                let style = TextStyle::from(("sans-serif", 12)).pos(Pos::new(HPos::Center, VPos::Top));
                root.draw(&Text::new(text, (x, bottom.end + 8 + ROW * row), style)).map_err(failed)?;
            }
        }
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

/// A label in lines of at most `width` characters, where its words allow it. What is in parentheses stays together.
fn broken(label: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    let mut depth = 0;
    let words = label.split(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ' ' && depth == 0
    });
    for word in words {
        match lines.last_mut() {
            Some(line) if line.is_empty() => *line += word,
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                *line += &format!(" {word}")
            }
            _ => lines.push(word.to_string()),
        }
    }
    lines
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
        // Ticks have no digits that say nothing.
        assert!(svg.contains("\n50\n") && !svg.contains("50.0"), "{svg}");
        let empty = ErrorChart { columns: &[], line: None, ..chart };
        assert!(empty.draw().unwrap().starts_with("<svg"));
    }

    #[test]
    fn labels_are_broken_between_words() {
        assert_eq!(broken("without shortcuts, 8×(4, 7, 16)d", 20), ["without shortcuts,", "8×(4, 7, 16)d"]);
        assert_eq!(broken("twice as complex by depth", 9), ["twice as", "complex", "by depth"]);
        assert_eq!(broken("base, 8×(4, 7, 16)d", 10), ["base,", "8×(4, 7, 16)d"]);
        assert_eq!(broken("unbreakable", 4), ["unbreakable"]);
    }
}
