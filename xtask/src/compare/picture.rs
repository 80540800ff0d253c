//! Error against complexity, as a picture.

use super::row::Row;
use crate::line_chart::{BLUE, GREEN, RED, Sample, draw_legend, tick};
use anyhow::{Result, anyhow};
use plotters::coord::CoordTranslate;
use plotters::prelude::*;

/// The size of the picture in pixels.
const SIZE: (u32, u32) = (760, 480);

/// Draws an SVG of top-1 error against multiply-adds: the paper's, timm's where it has weights, and those measured here.
pub fn draw(rows: &[Row]) -> Result<String> {
    let points = |of: fn(&Row) -> Option<f64>| -> Vec<(f64, f64, String)> {
        let point = |row: &Row| Some((row.multiply_adds as f64 / 1e9, of(row)?, row.title.clone()));
        rows.iter().filter_map(point).collect()
    };
    let series = [
        ("paper", RED, points(|row| Some(row.paper?.0.top1))),
        ("timm", BLUE, points(|row| Some(row.timm?.0.top1))),
        ("measured here", GREEN, points(|row| Some(row.measured?.top1))),
    ];
    let series: Vec<_> = series.into_iter().filter(|(_, _, points)| !points.is_empty()).collect();
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
        let area = root
            .margin(8, 0, 0, 0)
            .titled("ImageNet: error against complexity", ("sans-serif", 18))
            .map_err(failed)?;
        let names: Vec<_> = series.iter().map(|(name, colour, _)| (*name, *colour)).collect();
        let area = draw_legend(&area, &names, Sample::Dot)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..right, lowest - 0.5..highest + 0.5)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .x_desc("multiply-adds, 10⁹")
            .y_desc("top-1 error, %")
            .x_label_formatter(&|x| tick(*x))
            .y_label_formatter(&|y| tick(*y))
            .light_line_style(WHITE)
            .draw()
            .map_err(failed)?;
        let place = chart.plotting_area().as_coord_spec().clone();
        let place = |x: f64, y: f64| place.translate(&(x, y));
        let dots: Vec<_> = all().map(|(x, y, _)| place(*x, *y)).collect();
        let mut taken = Vec::new();
        for (_, colour, points) in &series {
            let colour = *colour;
            let dots_drawn = points.iter().map(|(x, y, _)| Circle::new((*x, *y), 5, colour.filled()));
            chart.draw_series(dots_drawn).map_err(failed)?;
            let labels: Vec<_> = points
                .iter()
                .map(|(x, y, title)| {
                    let offset = free_offset(place(*x, *y), title, &dots, &mut taken);
                    EmptyElement::at((*x, *y)) + Text::new(title.clone(), offset, ("sans-serif", 12))
                })
                .collect();
            chart.draw_series(labels).map_err(failed)?;
        }
        root.present().map_err(failed)?;
    }
    Ok(svg)
}

/// A rectangle in pixels: left, top, right and bottom.
type Rectangle = (i32, i32, i32, i32);

fn overlap(a: Rectangle, b: Rectangle) -> bool {
    a.0 < b.2 && b.0 < a.2 && a.1 < b.3 && b.1 < a.3
}

/// Where the label of the dot at `dot` starts, as an offset from it in pixels: beside it, above or below, so that it
/// covers neither a dot nor one of the labels `taken`, to which it is added.
fn free_offset(dot: (i32, i32), title: &str, dots: &[(i32, i32)], taken: &mut Vec<Rectangle>) -> (i32, i32) {
    let (width, height) = (title.chars().count() as i32 * 6, 12);
    let columns = [8, -8 - width, -width / 2];
    let rows = [-height / 2, 7, -height - 7, 20, -height - 20];
    let offsets = rows.iter().flat_map(|&y| columns.iter().map(move |&x| (x, y)));
    // The label must not cover its own dot.
    let mut offsets = offsets.filter(|&(x, y)| x != -width / 2 || y != -height / 2);
    let rectangle = |(x, y): (i32, i32)| (dot.0 + x, dot.1 + y, dot.0 + x + width, dot.1 + y + height);
    let is_free = |&offset: &(i32, i32)| {
        let own = rectangle(offset);
        let covers = |&(x, y): &(i32, i32)| overlap(own, (x - 5, y - 5, x + 5, y + 5));
        own.0 >= 0 && !dots.iter().any(covers) && !taken.iter().any(|&other| overlap(own, other))
    };
    let offset = offsets.find(is_free).unwrap_or((8, -height / 2));
    taken.push(rectangle(offset));
    offset
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::measured::Measured;
    use crate::compare::row::Network;

    #[test]
    fn every_network_with_an_error_is_named() {
        let row = |name: &str| Row::new(&Network::named(name).unwrap()).unwrap();
        let svg = draw(&[row("resnext101_64x4d"), row("resnet200")]).unwrap();
        // Once for the paper and once for timm, which has no weights of the second.
        let times = |title: &str| svg.matches(title).count();
        assert_eq!((times("ResNeXt-101 64×4d"), times("ResNet-200")), (2, 1), "{svg}");
        // The legend is above the plot, and ticks have no digits that say nothing.
        assert!(svg.contains("\npaper\n") && svg.contains("\n21\n") && !svg.contains("\n21.0\n"), "{svg}");
        assert!(!svg.contains("measured here"));
        let mut own = row("resnet18");
        own.measured = Some(Measured { top1: 30.0, top5: None });
        assert!(draw(&[own, row("resnet200")]).unwrap().contains("measured here"));
        let error = draw(&[row("resnet18")]).unwrap_err().to_string();
        assert!(error.contains("expected a network with published errors"), "{error}");
    }

    #[test]
    fn labels_of_near_dots_do_not_overlap() {
        let dots = [(100, 100), (104, 103), (108, 98)];
        let mut taken = Vec::new();
        for dot in dots {
            free_offset(dot, "Inception-ResNet-v2", &dots, &mut taken);
        }
        for (i, &one) in taken.iter().enumerate() {
            assert!(taken[..i].iter().all(|&other| !overlap(one, other)), "{taken:?}");
            assert!(dots.iter().all(|&(x, y)| !overlap(one, (x - 5, y - 5, x + 5, y + 5))), "{taken:?}");
        }
    }
}
