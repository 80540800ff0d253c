//! The comparison as a table, for a terminal and as Markdown.

use super::published::{Errors, TIMM};
use super::row::Row;
use crate::dtype_arg::Dtype;
use crate::machine;
use crate::text_table::Table;
use candle_core::Device;
use std::collections::BTreeSet;

/// The comparison as lines of text.
pub fn text(rows: &[Row]) -> String {
    let mut text = table(rows).to_text();
    for line in notes(rows) {
        text += &format!("{line}\n");
    }
    text
}

/// The comparison as Markdown, with `picture` if there is one.
pub fn markdown(rows: &[Row], picture: Option<&str>) -> String {
    let mut text = format!("# Networks side by side\n\n{}\n", table(rows).to_markdown());
    for line in notes(rows) {
        text += &format!("- {line}\n");
    }
    if let Some(picture) = picture {
        text += &format!("\n![top-1 error against multiply-adds]({picture})\n");
    }
    text
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&[
        "network",
        "size",
        "parameters",
        "multiply-adds",
        "activations",
        "ms, f32",
        "ms, bf16",
        "paper: top-1",
        "top-5",
        "timm: top-1",
        "top-5",
        "timm's weights",
    ]);
    for row in rows {
        let ms = |dtype| row.ms(dtype).map_or(String::new(), |ms| format!("{ms:.1}"));
        let percent = |value: Option<f64>| value.map_or("–".into(), |value| format!("{value:.1} %"));
        let (paper, timm) = (row.paper.map(|(errors, _)| errors), row.timm.map(|(errors, _)| errors));
        let top1 = |errors: Option<Errors>| percent(errors.map(|errors| errors.top1));
        let top5 = |errors: Option<Errors>| percent(errors.map(|errors| errors.top5));
        table.row(vec![
            row.title.clone(),
            row.size.to_string(),
            format!("{:.2} M", row.parameters as f64 / 1e6),
            format!("{:.2} G", row.multiply_adds as f64 / 1e9),
            format!("{:.1} MiB", row.activation_bytes as f64 / (1 << 20) as f64),
            ms(Dtype::F32),
            ms(Dtype::Bf16),
            top1(paper),
            top5(paper),
            top1(timm),
            top5(timm),
            row.timm.map_or("–".into(), |(_, weights)| weights.into()),
        ]);
    }
    table
}

/// The meaning of the columns, and the sources of the figures.
fn notes(rows: &[Row]) -> Vec<String> {
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
    }
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
    if rows.iter().any(|row| row.paper.is_none() || row.timm.is_none()) {
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
        let text = markdown(&rows, Some("error.svg"));
        for part in [
            "ResNeXt-101 32×4d",
            "44.18 M",
            "7.97 G",
            "21.2 %",
            "resnext101_32x4d.gluon_in1k",
            "64.67 M",
            "–",
            "arXiv 1611.05431, table 4: ResNeXt-101 32×4d at 224, ResNet-200 at 224",
            "](error.svg)",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        // Nothing was timed, so there are no such columns.
        assert!(!text.contains("ms, f32"), "{text}");
    }
}
