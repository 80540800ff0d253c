//! The comparison as a table, for a terminal and as Markdown.

use super::measured::Measured;
use super::published::{Errors, TIMM};
use super::row::Row;
use crate::dtype_arg::Dtype;
use crate::machine;
use crate::text_table::Table;
use candle_core::Device;
use std::collections::BTreeSet;

/// What a cell says where there are no weights.
const NO_WEIGHTS: &str = "no weights";

/// The comparison as lines of text; `measured` says what errors were measured on, if they were.
pub fn text(rows: &[Row], measured: Option<&str>) -> String {
    let mut text = table(rows, measured.is_some()).to_text();
    for line in notes(rows, measured) {
        text += &format!("{line}\n");
    }
    text
}

/// The comparison as Markdown, with `picture` if there is one.
pub fn markdown(rows: &[Row], measured: Option<&str>, picture: Option<&str>) -> String {
    let table = table(rows, measured.is_some()).to_markdown();
    let mut text = format!("# Networks side by side\n\n{table}\n");
    for line in notes(rows, measured) {
        text += &format!("- {line}\n");
    }
    if let Some(picture) = picture {
        text += &format!("\n![top-1 error against multiply-adds]({picture})\n");
    }
    text
}

fn table(rows: &[Row], measured: bool) -> Table {
    let mut table = Table::new(&[
        "network",
        "size",
        "parameters",
        "multiply-adds",
        "activations",
        "ms, f32",
        "ms, bf16",
        "here: top-1",
        "top-5",
        "paper: top-1",
        "top-5",
        "timm: top-1",
        "top-5",
        "timm's weights",
    ]);
    for row in rows {
        let ms = |dtype| row.ms(dtype).map_or(String::new(), |ms| format!("{ms:.1}"));
        let percent = |value: f64| format!("{value:.1} %");
        let here = |cell: &dyn Fn(&Measured) -> String| match &row.measured {
            Some(own) => cell(own),
            None if measured => NO_WEIGHTS.into(),
            None => String::new(),
        };
        let published = |errors: Option<Errors>, of: fn(&Errors) -> f64| match errors {
            Some(errors) => percent(of(&errors)),
            None if row.is_listed => NO_WEIGHTS.into(),
            None => "–".into(),
        };
        let (paper, timm) = (row.paper.map(|(errors, _)| errors), row.timm.map(|(errors, _)| errors));
        table.row(vec![
            row.title.clone(),
            row.size.to_string(),
            format!("{:.2} M", row.parameters as f64 / 1e6),
            format!("{:.2} G", row.multiply_adds as f64 / 1e9),
            format!("{:.1} MiB", row.activation_bytes as f64 / (1 << 20) as f64),
            ms(Dtype::F32),
            ms(Dtype::Bf16),
            here(&|own| percent(own.top1)),
            here(&|own| own.top5.map_or(String::new(), percent)),
            published(paper, |errors| errors.top1),
            published(paper, |errors| errors.top5),
            published(timm, |errors| errors.top1),
            published(timm, |errors| errors.top5),
            match row.timm {
                Some((_, weights)) => weights.into(),
                None if row.is_listed => NO_WEIGHTS.into(),
                None => "–".into(),
            },
        ]);
    }
    table
}

/// The meaning of the columns, and the sources of the figures.
fn notes(rows: &[Row], measured: Option<&str>) -> Vec<String> {
    let mut notes = vec![
        "size: side of the images in pixels; multiply-adds and activations (the outputs of convolutions and \
         linear layers in f32) are per image of that size"
            .to_string(),
    ];
    if rows.iter().any(|row| !row.times.is_empty()) {
        notes.push(format!(
            "ms: median time of one image, batch 1, with noise as weights, on {}",
            machine::description(&Device::Cpu)
        ));
        notes.extend(Dtype::Bf16.how().map(|how| format!("ms, bf16: {how}")));
    }
    notes.extend(measured.map(|measured| format!("here: {measured}")));
    let cited: BTreeSet<_> = rows.iter().filter_map(|row| row.paper.map(|(_, source)| source)).collect();
    for source in cited {
        let of = rows.iter().filter(|row| row.paper.is_some_and(|(_, cited)| cited == source));
        let of: Vec<String> =
            of.filter_map(|row| Some(format!("{} at {}", row.title, row.paper?.0.size))).collect();
        notes.push(format!("paper: error on ImageNet from {}: {}", source.citation(), of.join(", ")));
    }
    if rows.iter().any(|row| row.timm.is_some()) {
        notes.push(format!("timm: single-crop error of the weights named, from {TIMM}"));
    }
    if rows.iter().any(|row| row.is_listed && row.timm.is_none()) {
        notes.push(format!(
            "timm: {NO_WEIGHTS}: its table has none of this network, trained on ImageNet alone"
        ));
    }
    if rows.iter().any(|row| !row.is_listed) {
        notes.push("–: not in this program's list of published errors".into());
    }
    notes.extend(rows.iter().filter_map(|row| row.remark).map(String::from));
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::row::Network;

    #[test]
    fn the_table_has_published_figures_and_says_where_they_are_from() {
        let row = |name: &str| Row::new(&Network::named(name).unwrap()).unwrap();
        let rows = [row("resnext101_32x4d"), row("resnet200")];
        let text = markdown(&rows, None, Some("error.svg"));
        for part in [
            "ResNeXt-101 32×4d",
            "44.18 M",
            "7.97 G",
            "21.2 %",
            "resnext101_32x4d.gluon_in1k",
            "64.67 M",
            "| no weights |",
            "timm: no weights: its table has none",
            "arXiv 1611.05431, table 4: ResNeXt-101 32×4d at 224, ResNet-200 at 224",
            "](error.svg)",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        // Nothing was timed or measured, so there are no such columns.
        assert!(!text.contains("ms, f32") && !text.contains("here: "), "{text}");
        let mut rows = [row("resnet18"), row("resnet34")];
        rows[0].measured = Some(Measured { top1: 30.25, top5: Some(10.9) });
        rows[0].times = vec![(Dtype::F32, 1.5), (Dtype::Bf16, 2.5)];
        let text = markdown(&rows, Some("error of weights/ on 50000 photos"), None);
        for part in [
            "| 30.2 % ",
            "| 10.9 % ",
            "here: error of weights/ on",
            "ms, f32",
            "–: not in this program's list",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(text.contains("ms, bf16: this CPU has no"), !Dtype::native().contains(&Dtype::Bf16));
    }
}
