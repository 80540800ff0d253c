//! A chart of how rounding errors grow with the depth of networks.

use crate::line_chart::{self, BLUE, GREEN, GREY, Line, Panel, RED, Scale};
use anyhow::Result;
use resnext_model::equivalence::{Depth, NetworkErrors};

/// Draws an SVG with a panel for each of the first four networks, in f32: the differences between the forms
/// after each block, the difference between form (c) and f64, and the yardstick of section 4 of `docs/equivalence.md`.
pub fn draw(errors: &[NetworkErrors]) -> Result<String> {
    let networks = errors.iter().filter(|errors| errors.dtype == "f32").take(4);
    line_chart::draw(&networks.map(panel).collect::<Vec<_>>())
}

fn panel(network: &NetworkErrors) -> Panel {
    let depth = &network.depth;
    let largest = depth.iter().map(|at| at.bound.max(at.precision)).fold(1.0, f64::max);
    let line = |name: &str, colour, value: fn(&Depth) -> f64| Line {
        name: name.into(),
        colour,
        // Equal forms have no place on a logarithmic axis, so they lie just above its lower end.
        points: (1..).zip(depth).map(|(block, at)| (block, value(at).max(0.1))).collect(),
    };
    Panel {
        title: format!("{}, f32", network.network),
        x: "block",
        y: "error, epsilons of the largest value",
        scale: Scale::Log(0.07, largest * 20.0),
        lines: vec![
            line("yardstick", GREY, |at| at.bound),
            line("form (c) against f64", GREEN, |at| at.precision),
            line("form (a) against (c)", RED, |at| at.a),
            line("form (b) against (c)", BLUE, |at| at.b),
        ],
    }
}
