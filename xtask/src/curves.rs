//! The curves of a run: loss and top-1 over epochs.

use crate::history::Epoch;
use crate::line_chart::{self, BLUE, Line, Panel, RED, Scale};
use anyhow::Result;

/// Draws an SVG with a panel for loss and one for top-1, each for training and test images, and one for the
/// learning rate.
pub fn draw(epochs: &[Epoch]) -> Result<String> {
    line_chart::draw(&panels(epochs))
}

/// The panels of the drawing.
pub fn panels(epochs: &[Epoch]) -> Vec<Panel> {
    let line = |name: &str, colour, value: fn(&Epoch) -> f64| Line {
        name: name.into(),
        colour,
        points: epochs.iter().map(|epoch| (epoch.epoch as i32, value(epoch))).collect(),
    };
    let largest = |value: fn(&Epoch) -> f64| epochs.iter().map(value).fold(1e-6, f64::max) * 1.05;
    let panel = |title: &str, top, lines| Panel {
        title: title.into(),
        x: "epoch",
        y: "",
        scale: Scale::Linear(top),
        lines,
    };
    vec![
        panel(
            "loss",
            largest(|epoch| epoch.train_loss.max(epoch.test_loss)),
            vec![line("training", BLUE, |e| e.train_loss), line("test", RED, |e| e.test_loss)],
        ),
        panel(
            "top-1 (%)",
            100.0,
            vec![
                line("training", BLUE, |e| 100.0 * e.train_top1),
                line("test", RED, |e| 100.0 * e.test_top1),
            ],
        ),
        panel(
            "learning rate at the epoch's end",
            largest(|epoch| epoch.lr),
            vec![line("learning rate", BLUE, |e| e.lr)],
        ),
    ]
}
