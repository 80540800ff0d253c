//! Line charts as SVG: panels of lines over counted things such as epochs, each panel with a legend.

use anyhow::{Result, anyhow};
use plotters::coord::ranged1d::{AsRangedCoord, DefaultFormatting, KeyPointHint, Ranged, ValueFormatter};
use plotters::prelude::*;
use std::ops::Range;

pub const BLUE: RGBColor = RGBColor(70, 130, 180);
pub const RED: RGBColor = RGBColor(200, 80, 40);
pub const GREEN: RGBColor = RGBColor(90, 160, 90);
pub const PURPLE: RGBColor = RGBColor(150, 100, 190);
pub const YELLOW: RGBColor = RGBColor(210, 160, 40);
pub const CYAN: RGBColor = RGBColor(60, 170, 170);
pub const GREY: RGBColor = RGBColor(150, 150, 150);

/// The size of a panel in pixels.
const WIDTH: u32 = 480;
const HEIGHT: u32 = 380;

pub struct Line {
    pub name: String,
    pub colour: RGBColor,
    pub points: Vec<(i32, f64)>,
}

/// The vertical axis.
pub enum Scale {
    /// From 0 to this value.
    Linear(f64),
    /// From the first value to the second.
    Between(f64, f64),
    /// From the first value to the second, both above 0.
    Log(f64, f64),
}

pub struct Panel {
    pub title: String,
    /// What is counted on the horizontal axis.
    pub x: &'static str,
    /// What the vertical axis shows; empty if the title says it.
    pub y: &'static str,
    pub scale: Scale,
    /// A corner where the lines leave room.
    pub legend: SeriesLabelPosition,
    pub lines: Vec<Line>,
}

/// Draws the panels in rows of two.
pub fn draw(panels: &[Panel]) -> Result<String> {
    let (columns, rows) = (panels.len().clamp(1, 2), panels.len().div_ceil(2).max(1));
    let mut svg = String::new();
    {
        let size = (WIDTH * columns as u32, HEIGHT * rows as u32);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        for (area, panel) in root.split_evenly((rows, columns)).iter().zip(panels) {
            match panel.scale {
                Scale::Linear(top) => draw_panel(area, panel, 0.0..top * 1.03)?,
                Scale::Between(bottom, top) => draw_panel(area, panel, bottom..top)?,
                Scale::Log(bottom, top) => draw_panel(area, panel, (bottom..top).log_scale())?,
            }
        }
        root.present().map_err(failed)?;
    }
    Ok(svg)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw_panel<Y>(area: &Area, panel: &Panel, y: Y) -> Result<()>
where
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let xs = || panel.lines.iter().flat_map(|line| &line.points).map(|&(x, _)| x);
    let x = Counts { first: xs().min().unwrap_or(1), last: xs().max().unwrap_or(1) };
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, ("sans-serif", 18))
        .margin(12)
        .margin_right(20)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(x, y)
        .map_err(failed)?;
    let mut mesh = chart.configure_mesh();
    mesh.x_desc(panel.x).x_label_formatter(&|x| tick(*x)).light_line_style(WHITE);
    mesh.y_label_formatter(&|y| tick(*y));
    if !panel.y.is_empty() {
        mesh.y_desc(panel.y);
    }
    mesh.draw().map_err(failed)?;
    for line in &panel.lines {
        let colour = line.colour;
        let points = line.points.iter().map(|&(x, y)| (x as f64, y));
        let series = LineSeries::new(points, colour.stroke_width(2).filled()).point_size(3);
        let drawn = chart.draw_series(series).map_err(failed)?;
        drawn
            .label(line.name.clone())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(panel.legend.clone())
        .background_style(WHITE.mix(0.8))
        .border_style(GREY)
        .draw()
        .map_err(failed)
}

/// An axis of counted things, whose ticks are integers and therefore distinct.
struct Counts {
    first: i32,
    last: i32,
}

impl Ranged for Counts {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (left, right): (i32, i32)) -> i32 {
        let Range { start, end } = self.range();
        left + ((value - start) / (end - start) * (right - left) as f64).round() as i32
    }

    /// Multiples of 1, 2, 5, 10 and so on: the smallest of these steps with few enough of them.
    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        let steps = (0..9).flat_map(|power| [1, 2, 5].map(|digit| digit * 10i32.pow(power)));
        let multiples = |step: i32| (self.first..=self.last).filter(move |x| x % step == 0);
        let ticks = steps.map(multiples).find(|ticks| ticks.clone().count() <= hint.max_num_points());
        ticks.into_iter().flatten().map(f64::from).collect()
    }

    /// With room at both ends for the markers of points.
    fn range(&self) -> Range<f64> {
        let room = ((self.last - self.first) as f64 * 0.02).max(0.02);
        self.first as f64 - room..self.last as f64 + room
    }
}

/// A tick's label: as many digits as it takes and no more.
fn tick(value: f64) -> String {
    // Ticks are computed as sums such as 0.1 + 0.2; nine digits are enough to tell them apart.
    let rounded: f64 = format!("{value:.8e}").parse().unwrap_or(value);
    match rounded.abs() {
        size if size != 0.0 && !(1e-4..1e6).contains(&size) => format!("{rounded:e}"),
        _ => rounded.to_string(),
    }
}

fn failed<E: std::error::Error + Send + Sync>(error: DrawingAreaErrorKind<E>) -> anyhow::Error {
    anyhow!("cannot draw the chart: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The texts in an SVG that are numbers: the labels of the ticks.
    fn ticks(svg: &str) -> Vec<String> {
        let texts = svg.split("</text>").filter_map(|text| Some(text.rsplit_once('>')?.1.trim().to_string()));
        texts.filter(|text| text.parse::<f64>().is_ok()).collect()
    }

    fn panel(points: Vec<(i32, f64)>, scale: Scale) -> Panel {
        Panel {
            title: "loss".into(),
            x: "epoch",
            y: "",
            scale,
            legend: SeriesLabelPosition::UpperRight,
            lines: vec![Line { name: "training".into(), colour: BLUE, points }],
        }
    }

    #[test]
    fn ticks_are_distinct_for_any_number_of_epochs() {
        for epochs in [1, 2, 3, 4, 7, 20, 300] {
            let points = (1..=epochs).map(|epoch| (epoch, 0.4 / epoch as f64)).collect();
            let svg = draw(&[panel(points, Scale::Linear(0.5))]).unwrap();
            let shown = ticks(&svg);
            let distinct: BTreeSet<_> = shown.iter().collect();
            assert_eq!(distinct.len(), shown.len(), "{epochs} epochs: {shown:?}");
            // On the vertical axis, 0 is the only integer.
            let epochs_shown = shown.iter().filter_map(|tick| tick.parse().ok()).filter(|&epoch| epoch != 0);
            let epochs_shown: Vec<i32> = epochs_shown.collect();
            assert!(!epochs_shown.is_empty() && epochs_shown.iter().all(|e| (1..=epochs).contains(e)));
        }
    }

    #[test]
    fn labels_have_the_digits_they_need() {
        assert_eq!(
            [0.1 + 0.2, 1.0, 50.0, 1e5, 2e6, 0.0, 1e-6].map(tick),
            ["0.3", "1", "50", "100000", "2e6", "0", "1e-6"]
        );
    }

    #[test]
    fn a_chart_without_points_is_drawn() {
        assert!(draw(&[panel(vec![], Scale::Log(0.1, 1.0))]).unwrap().starts_with("<svg"));
        assert!(draw(&[]).unwrap().starts_with("<svg"));
    }
}
