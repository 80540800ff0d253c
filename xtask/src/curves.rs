//! The curves of a run: loss and top-1 over epochs.

use crate::history::Epoch;
use crate::line_chart::{self, BLUE, Line, Panel, RED, Scale};
use anyhow::Result;
use plotters::prelude::SeriesLabelPosition;

/// Draws an SVG with a panel for loss and one for top-1, each for training and test images.
pub fn draw(epochs: &[Epoch]) -> Result<String> {
    let line = |name, colour, value: fn(&Epoch) -> f64| Line {
        name,
        colour,
        points: epochs.iter().map(|epoch| (epoch.epoch as i32, value(epoch))).collect(),
    };
    let largest_loss = epochs.iter().map(|epoch| epoch.train_loss.max(epoch.test_loss)).fold(1e-6, f64::max);
    line_chart::draw(&[
        Panel {
            title: "loss".into(),
            x: "epoch",
            y: "",
            scale: Scale::Linear(largest_loss * 1.05),
            legend: SeriesLabelPosition::UpperRight,
            lines: vec![line("training", BLUE, |e| e.train_loss), line("test", RED, |e| e.test_loss)],
        },
        Panel {
            title: "top-1 (%)".into(),
            x: "epoch",
            y: "",
            scale: Scale::Linear(100.0),
            legend: SeriesLabelPosition::LowerRight,
            lines: vec![
                line("training", BLUE, |e| 100.0 * e.train_top1),
                line("test", RED, |e| 100.0 * e.test_top1),
            ],
        },
    ])
}
