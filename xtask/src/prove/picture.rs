//! A picture of rounding through the depth of networks.

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use resnext_model::equivalence::{Depth, NetworkErrors};

type Series = (&'static str, RGBColor, fn(&Depth) -> f64);

/// An SVG with a panel a network, in f32: how far the forms are apart after each block, how far form (c)
/// is from f64, and the bound.
pub fn draw(errors: &[NetworkErrors]) -> Result<String> {
    let networks: Vec<_> = errors.iter().filter(|errors| errors.dtype == "f32").take(4).collect();
    let rows = networks.len().div_ceil(2).max(1);
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (960, 360 * rows as u32)).into_drawing_area();
        let failed = |error: DrawingAreaErrorKind<_>| anyhow!("picture: {error}");
        root.fill(&WHITE).map_err(failed)?;
        for (area, network) in root.split_evenly((rows, 2)).iter().zip(networks) {
            let depth = &network.depth;
            let highest = depth.iter().map(|at| at.bound.max(at.precision)).fold(1.0, f64::max);
            let mut chart = ChartBuilder::on(area)
                .caption(format!("{}, f32", network.network), ("sans-serif", 18))
                .margin(12)
                .x_label_area_size(36)
                .y_label_area_size(56)
                .build_cartesian_2d(1.0..depth.len().max(2) as f64, (0.1..highest * 2.0).log_scale())
                .map_err(failed)?;
            chart
                .configure_mesh()
                .x_desc("block")
                .y_desc("error, ulps of the largest value")
                .x_label_formatter(&|x| format!("{x:.0}"))
                .light_line_style(WHITE)
                .draw()
                .map_err(failed)?;
            let series: [Series; 4] = [
                ("bound", RGBColor(150, 150, 150), |at| at.bound),
                ("form (c) against f64", RGBColor(90, 160, 90), |at| at.precision),
                ("form (a) against (c)", RGBColor(200, 80, 40), |at| at.a),
                ("form (b) against (c)", RGBColor(70, 130, 180), |at| at.b),
            ];
            for (name, colour, value) in series {
                // Equal forms have no place on a logarithmic scale: they lie on its floor.
                let points = depth.iter().enumerate().map(|(i, at)| ((i + 1) as f64, value(at).max(0.1)));
                let line = chart
                    .draw_series(LineSeries::new(points, colour.stroke_width(2)).point_size(2))
                    .map_err(failed)?;
                line.label(name)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
            }
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::LowerRight)
                .background_style(WHITE.mix(0.8))
                .draw()
                .map_err(failed)?;
        }
        root.present().map_err(failed)?;
    }
    Ok(svg)
}
