//! `report.html`: what a run has become, on one page that needs no other file.

pub mod confusion;
pub mod examination;

use crate::curves;
use crate::history::Epoch;
use crate::plural::counted;
use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use examination::{Examination, Mistake};
use resnext_data::Photo;
use std::fmt::Write;

/// Classes up to this number have a full matrix; more would be unreadable.
const MATRIX: usize = 24;
/// Photos that could not be read and are named; the others are counted.
const LEFT_OUT: usize = 20;
/// Top-5 says nothing where there are no more classes.
pub const FIVE: usize = 5;
/// Rows of the list of confused pairs, which takes the matrix's place.
const PAIRS: usize = 20;

/// Everything that the page shows.
pub struct Report<'a> {
    /// The name of the run's folder.
    pub title: &'a str,
    pub epochs: &'a [Epoch],
    pub class_names: &'a [String],
    /// The best checkpoint on the test images.
    pub examination: &'a Examination,
    /// The run's `recipe.toml`.
    pub recipe: &'a str,
    /// Names and values about the network, the data and the machine.
    pub facts: &'a [(&'a str, String)],
    /// The photos that could not be read, a line each.
    pub left_out: &'a [String],
}

impl Report<'_> {
    pub fn to_html(&self) -> Result<String> {
        let mut page = String::new();
        let title = escaped(self.title);
        write!(
            page,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{title}</title>\n<style>\n{}</style>\n</head>\n<body>\n<h1>{title}</h1>\n",
            include_str!("style.css")
        )?;
        self.figures(&mut page)?;
        writeln!(page, "<h2>Curves</h2>\n<div class=\"curves\">")?;
        for panel in curves::panels(self.epochs) {
            writeln!(page, "{}", themed(&crate::line_chart::draw(&[panel])?))?;
        }
        writeln!(page, "</div>")?;
        self.classes(&mut page)?;
        self.confusion(&mut page)?;
        self.mistakes(&mut page)?;
        self.left_out(&mut page)?;
        writeln!(page, "<h2>Run</h2>\n<dl>")?;
        for (name, value) in self.facts {
            writeln!(page, "<dt>{}</dt><dd>{}</dd>", escaped(name), escaped(value))?;
        }
        writeln!(
            page,
            "</dl>\n<h2>Recipe</h2>\n<pre>{}</pre>\n</body>\n</html>",
            escaped(self.recipe.trim_end())
        )?;
        Ok(page)
    }

    fn figures(&self, page: &mut String) -> Result<()> {
        let metrics = &self.examination.metrics;
        let best = self.epochs.iter().fold(None, |best: Option<&Epoch>, epoch| match best {
            Some(best) if best.test_top1 >= epoch.test_top1 => Some(best),
            _ => Some(epoch),
        });
        let seconds = self.epochs.last().map_or(0.0, |epoch| epoch.seconds);
        let confusion = &self.examination.confusion;
        let mut figures = vec![("test top-1".to_string(), percent(metrics.top1(), 2))];
        if let Some((class, share)) = confusion.largest_class() {
            let name = self.class_names.get(class).map_or("?", String::as_str);
            figures.push((format!("top-1 of always answering {name}"), percent(share, 2)));
        }
        if confusion.classes() > FIVE {
            figures.push(("test top-5".into(), percent(metrics.top5(), 2)));
        }
        figures.push(("test loss".into(), format!("{:.4}", metrics.loss())));
        let best = best.map_or("–".into(), |best| format!("{} of {}", best.epoch, self.epochs.len()));
        figures.push(("best epoch".into(), best));
        figures.push(("time of this session".into(), duration(seconds)));
        if !self.left_out.is_empty() {
            figures.push(("photos that could not be read".into(), self.left_out.len().to_string()));
        }
        writeln!(page, "<div class=\"figures\">")?;
        for (name, value) in figures {
            writeln!(page, "<div class=\"figure\"><b>{value}</b><span>{}</span></div>", escaped(&name))?;
        }
        writeln!(page, "</div>")?;
        Ok(())
    }

    fn classes(&self, page: &mut String) -> Result<()> {
        let share = |value: Option<f64>| value.map_or("–".to_string(), |share| percent(share, 1));
        writeln!(
            page,
            "<h2>Classes</h2>\n<div class=\"scroll\"><table>\n<tr><th>class<th>images<th>precision<th>recall<th>F1</tr>"
        )?;
        for (class, name) in self.class_names.iter().enumerate() {
            let scores = self.examination.confusion.scores(class);
            let shares = [scores.precision, scores.recall, scores.f1].map(share);
            let [precision, recall, f1] = shares;
            writeln!(
                page,
                "<tr><td>{}<td>{}<td>{precision}<td>{recall}<td>{f1}</tr>",
                escaped(name),
                scores.images
            )?;
        }
        writeln!(page, "</table></div>")?;
        Ok(())
    }

    fn confusion(&self, page: &mut String) -> Result<()> {
        let confusion = &self.examination.confusion;
        let name = |class: usize| escaped(self.class_names.get(class).map_or("?", String::as_str));
        if confusion.classes() > MATRIX {
            writeln!(
                page,
                "<h2>Confusions</h2>\n<div class=\"scroll\"><table>\n<tr><th>class<th>taken for<th>images</tr>"
            )?;
            for (label, other, count) in confusion.most_confused(PAIRS) {
                writeln!(page, "<tr><td>{}<td>{}<td>{count}</tr>", name(label), name(other))?;
            }
            writeln!(page, "</table></div>")?;
            return Ok(());
        }
        writeln!(
            page,
            "<h2>Confusion matrix</h2>\n<p>A row has the images of a class, a column those that were taken for one.</p>\n\
             <div class=\"scroll\"><table class=\"confusion\">\n<tr><th></th>"
        )?;
        for class in 0..confusion.classes() {
            write!(page, "<th scope=\"col\">{}</th>", name(class))?;
        }
        writeln!(page, "</tr>")?;
        for label in 0..confusion.classes() {
            write!(page, "<tr><th scope=\"row\">{}</th>", name(label))?;
            for other in 0..confusion.classes() {
                let count = confusion.count(label, other);
                let share = count as f64 / confusion.images(label).max(1) as f64;
                let wrong = if label == other { "" } else { " class=\"wrong\"" };
                let shown = if count == 0 { String::new() } else { count.to_string() };
                write!(page, "<td{wrong} style=\"--share:{share:.3}\">{shown}</td>")?;
            }
            writeln!(page, "</tr>")?;
        }
        writeln!(page, "</table></div>")?;
        Ok(())
    }

    fn mistakes(&self, page: &mut String) -> Result<()> {
        let mistakes = &self.examination.mistakes;
        if mistakes.is_empty() {
            return Ok(());
        }
        writeln!(
            page,
            "<h2>Worst mistakes</h2>\n<p>{} with the smallest probabilities of the right class, and where the \
             evidence for the wrong one is (Grad-CAM).</p>\n<div class=\"mistakes\">",
            counted(mistakes.len(), "test image")
        )?;
        let name = |class: usize| escaped(self.class_names.get(class).map_or("?", String::as_str));
        for Mistake { name: file, label, predicted, confidence, photo, heat } in mistakes {
            let evidence = match heat {
                Some(heat) => format!("<img alt=\"evidence\" src=\"{}\">", data_url(heat)?),
                None => String::new(),
            };
            writeln!(
                page,
                "<figure><img alt=\"{0}\" src=\"{1}\">{2}<figcaption>{0}, taken for \
                 {3} ({4})<small>{5}</small></figcaption></figure>",
                name(*label),
                data_url(photo)?,
                evidence,
                name(*predicted),
                percent(*confidence, 0),
                escaped(file)
            )?;
        }
        writeln!(page, "</div>")?;
        Ok(())
    }

    fn left_out(&self, page: &mut String) -> Result<()> {
        if self.left_out.is_empty() {
            return Ok(());
        }
        let count = counted(self.left_out.len(), "photo");
        writeln!(page, "<h2>Left out</h2>\n<p>{count} could not be read.</p>\n<ul>")?;
        for line in self.left_out.iter().take(LEFT_OUT) {
            writeln!(page, "<li>{}</li>", escaped(line))?;
        }
        if let more @ 1.. = self.left_out.len().saturating_sub(LEFT_OUT) {
            writeln!(page, "<li>and {more} more</li>")?;
        }
        writeln!(page, "</ul>")?;
        Ok(())
    }
}

/// A share from 0 to 1 in percent, in which no line breaks.
fn percent(share: f64, digits: usize) -> String {
    format!("{:.digits$}\u{a0}%", 100.0 * share)
}

/// Seconds as hours, minutes and seconds.
fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

/// A photo as a PNG inside of a URL.
fn data_url(photo: &Photo) -> Result<String> {
    let file = tempfile::Builder::new().suffix(".png").tempfile()?;
    photo.save(file.path())?;
    Ok(format!("data:image/png;base64,{}", STANDARD.encode(std::fs::read(file.path())?)))
}

/// A chart in the page's own colours, which change between light and dark.
pub fn themed(svg: &str) -> String {
    svg.replace("\"#FFFFFF\"", "\"var(--card)\"").replace("\"#000000\"", "\"var(--ink)\"")
}

pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::confusion::Confusion;
    use super::*;
    use resnext_train::Metrics;

    #[test]
    fn a_page_shows_everything_and_needs_nothing() {
        let mut confusion = Confusion::new(2);
        for (label, predicted) in [(0, 0), (0, 1), (1, 1)] {
            confusion.add(label, predicted);
        }
        let photo = Photo::new(2, 1, vec![0, 1, 2, 3, 4, 5]).unwrap();
        let mistake = Mistake {
            name: "val/cat & dog/<7>.jpg".into(),
            label: 0,
            predicted: 1,
            confidence: 0.93,
            photo: photo.clone(),
            heat: Some(photo),
        };
        let examination = Examination { metrics: Metrics::default(), confusion, mistakes: vec![mistake] };
        let report = Report {
            title: "runs/<a>",
            epochs: &[],
            class_names: &["cat & dog".to_string(), "b".to_string()],
            examination: &examination,
            recipe: "model = \"x\"\n",
            facts: &[("CPU", "a <fast> one".into())],
            left_out: &(0..22).map(|i| format!("photos/<{i}>.jpg: not an image")).collect::<Vec<_>>(),
        };
        let page = report.to_html().unwrap();
        for part in [
            "<title>runs/&lt;a&gt;</title>",
            "<tr><td>cat &amp; dog<td>2<td>100.0\u{a0}%<td>50.0\u{a0}%<td>66.7\u{a0}%</tr>",
            "<td class=\"wrong\" style=\"--share:0.500\">1</td>",
            "taken for b (93\u{a0}%)<small>val/cat &amp; dog/&lt;7&gt;.jpg</small>",
            "<b>66.67\u{a0}%</b><span>top-1 of always answering cat &amp; dog</span>",
            "<b>22</b><span>photos that could not be read</span>",
            "<li>photos/&lt;19&gt;.jpg: not an image</li>\n<li>and 2 more</li>",
            "<dt>CPU</dt><dd>a &lt;fast&gt; one</dd>",
            "model = &quot;x&quot;</pre>",
        ] {
            assert!(page.contains(part), "{part} in {page}");
        }
        // Two classes have no five of them, and every figure stays in one line.
        assert!(!page.contains("top-5") && !page.contains(" %"), "{page}");
        // Nothing is loaded from elsewhere.
        assert!(!page.contains("src=\"http") && !page.contains("<link") && !page.contains("<script"));
        let confusion = Confusion::new(MATRIX + 1);
        let many = Examination { metrics: Metrics::default(), confusion, mistakes: vec![] };
        let page = Report { examination: &many, left_out: &[], ..report }.to_html().unwrap();
        assert!(page.contains("<h2>Confusions</h2>") && page.contains("test top-5"));
        assert!(!page.contains("Worst mistakes") && !page.contains("Left out"));
    }

    #[test]
    fn durations_have_two_units() {
        assert_eq!([9.6, 61.0, 7300.0].map(duration), ["10 s", "1 min 1 s", "2 h 1 min"]);
    }
}
