//! Line charts as SVG: panels of lines over counted things such as epochs, each with a legend above it, where it covers
//! no line.

use anyhow::{Result, anyhow};
use plotters::coord::ranged1d::{AsRangedCoord, DefaultFormatting, KeyPointHint, Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
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
    /// The label of the horizontal axis, which counts things.
    pub x: &'static str,
    /// The label of the vertical axis; empty if the title says it.
    pub y: &'static str,
    pub scale: Scale,
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

/// A part of a picture.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw_panel<Y>(area: &Area, panel: &Panel, y: Y) -> Result<()>
where
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let xs = || panel.lines.iter().flat_map(|line| &line.points).map(|&(x, _)| x);
    let x = Counts { first: xs().min().unwrap_or(1), last: xs().max().unwrap_or(1) };
    let area = area.margin(8, 0, 0, 0).titled(&panel.title, ("sans-serif", 18)).map_err(failed)?;
    let names: Vec<(&str, RGBColor)> =
        panel.lines.iter().map(|line| (line.name.as_str(), line.colour)).collect();
    let area = draw_legend(&area, &names, Sample::Line)?;
    let mut chart = ChartBuilder::on(&area)
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
        chart.draw_series(series).map_err(failed)?;
    }
    Ok(())
}

/// Height of a row of the legend, length of a line's sample, and the width of a letter, about, in pixels.
const ROW: i32 = 18;
const SAMPLE: i32 = 18;
const LETTER: i32 = 7;

/// The sample of a series beside its name in a legend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sample {
    Line,
    Dot,
}

/// Draws the names of several series, each with its colour, in rows at the top of `area`, and returns what is below them. A
/// single one needs no name but the title.
pub fn draw_legend<'a>(area: &Area<'a>, names: &[(&str, RGBColor)], sample: Sample) -> Result<Area<'a>> {
    if names.len() < 2 {
        return Ok(area.clone());
    }
    let (width, left) = (area.dim_in_pixel().0 as i32, 72);
    let (mut x, mut row) = (left, 0);
    let mut places = Vec::new();
    for (name, _) in names {
        let length = SAMPLE + 8 + LETTER * name.chars().count() as i32;
        if x > left && x + length > width {
            (x, row) = (left, row + 1);
        }
        places.push((x, row * ROW + ROW / 2));
        x += length + 14;
    }
    let (legend, below) = area.split_vertically((row + 1) * ROW);
    for ((name, colour), (x, y)) in names.iter().zip(places) {
        match sample {
            Sample::Line => {
                let line = PathElement::new([(x, y), (x + SAMPLE, y)], colour.stroke_width(2));
                legend.draw(&line).map_err(failed)?;
            }
            Sample::Dot => {
                legend.draw(&Circle::new((x + SAMPLE / 2, y), 5, colour.filled())).map_err(failed)?;
            }
        }
        let style = TextStyle::from(("sans-serif", 13)).pos(Pos::new(HPos::Left, VPos::Center));
        legend.draw(&Text::new(*name, (x + SAMPLE + 6, y), style)).map_err(failed)?;
    }
    Ok(below)
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
pub fn tick(value: f64) -> String {
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
    fn a_legend_is_above_every_line_and_a_single_line_has_none() {
        let points = vec![(1, 0.5), (2, 0.5), (3, 0.0)];
        let line = |name: &str| Line { name: name.into(), colour: RED, points: points.clone() };
        let names: Vec<String> = (0..12).map(|i| format!("network {i}")).collect();
        let of = |lines: Vec<Line>| draw(&[Panel { lines, ..panel(vec![], Scale::Linear(0.5)) }]).unwrap();
        let svg = of(names.iter().map(|name| line(name)).collect());
        let attribute = |tag: &str, name: &str| -> f64 {
            let (_, rest) = tag.split_once(&format!(" {name}=\"")).unwrap();
            rest.split('"').next().unwrap().parse().unwrap()
        };
        let tag_of = |name: &str| {
            let text = svg.split("<text").find(|text| text.contains(name)).unwrap();
            text.split('>').next().unwrap().to_string()
        };
        let lowest_name = names.iter().map(|name| attribute(&tag_of(name), "y")).fold(0.0, f64::max);
        let widest = names.iter().map(|name| attribute(&tag_of(name), "x")).fold(0.0, f64::max);
        let highest_point =
            svg.split("<circle").skip(1).map(|tag| attribute(tag, "cy")).fold(f64::MAX, f64::min);
        assert!(lowest_name + 5.0 < highest_point, "{lowest_name} {highest_point}");
        assert!(widest < WIDTH as f64 - 60.0, "{widest}");
        assert!(!of(vec![line("alone")]).contains("alone"));
    }

    #[test]
    fn a_chart_without_points_is_drawn() {
        assert!(draw(&[panel(vec![], Scale::Log(0.1, 1.0))]).unwrap().starts_with("<svg"));
        assert!(draw(&[]).unwrap().starts_with("<svg"));
    }
}
