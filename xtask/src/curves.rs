//! A picture of a run: loss and top-1 over epochs.

use crate::run_folder::Row;
use anyhow::{Result, anyhow};
use plotters::prelude::*;

type Panel<'a> = (&'a str, [(&'a str, RGBColor, fn(&Row) -> f64); 2], f64);

/// An SVG with two panels, training and test in each.
pub fn draw(rows: &[Row]) -> Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (960, 400)).into_drawing_area();
        let failed = |error: DrawingAreaErrorKind<_>| anyhow!("curves.svg: {error}");
        root.fill(&WHITE).map_err(failed)?;
        let (train, test) = (RGBColor(70, 130, 180), RGBColor(200, 80, 40));
        let highest = rows.iter().map(|row| row.train_loss.max(row.test_loss)).fold(0.0, f64::max);
        let panels: [Panel; 2] = [
            (
                "loss",
                [("training", train, |r| r.train_loss), ("test", test, |r| r.test_loss)],
                highest * 1.05,
            ),
            (
                "top-1 (%)",
                [("training", train, |r| 100.0 * r.train_top1), ("test", test, |r| 100.0 * r.test_top1)],
                100.0,
            ),
        ];
        let last = rows.last().map_or(1, |row| row.epoch).max(2) as f64;
        for (area, (title, series, top)) in root.split_evenly((1, 2)).iter().zip(panels) {
            let mut chart = ChartBuilder::on(area)
                .caption(title, ("sans-serif", 18))
                .margin(12)
                .x_label_area_size(36)
                .y_label_area_size(48)
                .build_cartesian_2d(1.0..last, 0.0..top)
                .map_err(failed)?;
            chart
                .configure_mesh()
                .x_desc("epoch")
                .x_label_formatter(&|x| format!("{x:.0}"))
                .light_line_style(WHITE)
                .draw()
                .map_err(failed)?;
            for (name, colour, value) in series {
                let points = rows.iter().map(|row| (row.epoch as f64, value(row)));
                let line = chart
                    .draw_series(LineSeries::new(points, colour.stroke_width(2)).point_size(2))
                    .map_err(failed)?;
                line.label(name)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
            }
            chart.configure_series_labels().background_style(WHITE.mix(0.8)).draw().map_err(failed)?;
        }
        root.present().map_err(failed)?;
    }
    Ok(svg)
}
