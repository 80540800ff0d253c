//! Error against complexity, as a picture.

use super::row::Row;
use crate::line_chart::{BLUE, RED};
use anyhow::{Result, anyhow};
use plotters::prelude::*;

/// The size of the picture in pixels.
const SIZE: (u32, u32) = (760, 480);

/// Draws an SVG of top-1 error against multiply-adds: the paper's, and timm's where it has weights.
pub fn draw(rows: &[Row]) -> Result<String> {
    let points = |of: fn(&Row) -> Option<f64>| -> Vec<(f64, f64, String)> {
        let point = |row: &Row| Some((row.multiply_adds as f64 / 1e9, of(row)?, row.title.clone()));
        rows.iter().filter_map(point).collect()
    };
    let series = [
        ("paper", RED, points(|row| Some(row.paper?.0.top1))),
        ("timm", BLUE, points(|row| Some(row.timm?.0.top1))),
    ];
    let all = || series.iter().flat_map(|(_, _, points)| points);
    if all().next().is_none() {
        return Err(anyhow!(
            "expected a network with published errors for --picture, such as resnext101_32x4d: none of these is listed"
        ));
    }
    let right = all().map(|point| point.0).fold(0.0, f64::max) * 1.25;
    let lowest = all().map(|point| point.1).fold(f64::INFINITY, f64::min);
    let highest = all().map(|point| point.1).fold(0.0, f64::max);
    let failed = |error: DrawingAreaErrorKind<_>| anyhow!("cannot draw the picture: {error}");
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        let mut chart = ChartBuilder::on(&root)
            .caption("ImageNet: error against complexity", ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..right, lowest - 0.5..highest + 0.5)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .x_desc("multiply-adds, 10⁹")
            .y_desc("top-1 error, %")
            .light_line_style(WHITE)
            .draw()
            .map_err(failed)?;
        for (name, colour, points) in series {
            let dots = points.iter().map(|(x, y, _)| Circle::new((*x, *y), 5, colour.filled()));
            let drawn = chart.draw_series(dots).map_err(failed)?;
            drawn.label(name).legend(move |(x, y)| Circle::new((x + 9, y), 5, colour.filled()));
            let labels = points
                .iter()
                .map(|(x, y, title)| Text::new(title.clone(), (*x + right * 0.012, *y), ("sans-serif", 12)));
            chart.draw_series(labels).map_err(failed)?;
        }
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK)
            .draw()
            .map_err(failed)?;
        root.present().map_err(failed)?;
    }
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::row::Network;

    #[test]
    fn every_network_with_an_error_is_named() {
        let row = |name: &str| Row::new(&Network::named(name).unwrap()).unwrap();
        let svg = draw(&[row("resnext101_64x4d"), row("resnet200")]).unwrap();
        // Once for the paper and once for timm, which has no weights of the second.
        let times = |title: &str| svg.matches(title).count();
        assert_eq!((times("ResNeXt-101 64×4d"), times("ResNet-200")), (2, 1), "{svg}");
        let error = draw(&[row("resnet18")]).unwrap_err().to_string();
        assert!(error.contains("expected a network with published errors"), "{error}");
    }
}
