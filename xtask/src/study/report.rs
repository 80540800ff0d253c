//! `study.html` and `study.md`: the verdict, the charts and the tables of a study, made from its runs' folders.

use super::error_chart::{Column, ErrorChart};
use super::kind::Kind;
use super::results::{Measure, Results, RunResult, State};
use super::statistics::{Interval, deviation, mean};
use super::verdict::{Verdict, complexity, slopes, verdict};
use crate::line_chart::{self, BLUE, CYAN, GREEN, Line, PURPLE, Panel, RED, Scale, YELLOW};
use crate::plural::counted;
use crate::report::{escaped, themed};
use crate::text_table::Table;
use anyhow::Result;
use resnext_train::checkpoint::replace_file;
use std::fmt::Write;
use std::path::Path;

/// The files of a report.
pub const PAGE: &str = "study.html";
const MARKDOWN: &str = "study.md";
const ERRORS: &str = "error.svg";
const CURVES: &str = "curves.svg";

const NETWORKS: [&str; 6] =
    ["network", "parameters", "multiply-adds", "test error, %", "training error, %", "runs"];
const RUNS: [&str; 6] = ["network", "seed", "epochs", "test error, %", "training error, %", "state"];

/// Reads the runs in `folder` and writes the report there. Returns the verdict's first sentence.
pub fn write(folder: &Path) -> Result<String> {
    let results = Results::read(folder)?;
    let report = Report { verdict: verdict(&results), results: &results };
    let (errors, curves) = (report.errors()?, report.curves()?);
    let put = |name: &str, text: &str| replace_file(&folder.join(name), text.as_bytes());
    put(ERRORS, &errors)?;
    put(CURVES, &line_chart::draw(&curves)?)?;
    put(MARKDOWN, &report.to_markdown())?;
    put(PAGE, &report.to_html(&errors, &curves)?)?;
    Ok(report.verdict.findings.first().cloned().unwrap_or_default())
}

struct Report<'a> {
    results: &'a Results,
    verdict: Verdict,
}

impl Report<'_> {
    /// A sentence that describes the study.
    fn subject(&self) -> String {
        let plan = &self.results.plan;
        let images = plan.recipe.train_images.map_or(String::new(), |images| {
            format!(", on a fixed subset of {images} training images, the same number of each class")
        });
        format!(
            "{} of the complexity of {} on {}{images}: {} and {} each, batches of {}, one recipe. Complexity: \
             parameters and multiply-adds, of which any two networks meant to be equal have the same within 2 %.",
            counted(plan.networks.len(), "network"),
            plan.base,
            plan.recipe.dataset,
            counted(plan.recipe.epochs, "epoch"),
            counted(plan.seeds.len(), "seed"),
            plan.recipe.batch_size
        )
    }

    /// The error of every network. A study of cardinality has the mean of the seeds' lines in it.
    fn errors(&self) -> Result<String> {
        let results = self.results;
        let plan = &results.plan;
        let column = |(i, network): (usize, &super::networks::PlannedNetwork)| {
            let errors = results.errors(i, Measure::TestError);
            let label = match plan.kind {
                Kind::Cardinality => network.config.cardinality.to_string(),
                Kind::Capacity | Kind::Shortcuts => network.label.clone(),
            };
            Column { label, mean: mean(&errors).map(|mean| (mean, deviation(&errors))), errors }
        };
        let columns: Vec<Column> = plan.networks.iter().enumerate().map(column).collect();
        let all: Vec<usize> = (0..plan.networks.len()).collect();
        let seeds = results.by_seed(&all, Measure::TestError).concat();
        // Columns are one apart; they stand for log2 C if C doubles from each to the next.
        let doubling =
            plan.networks.windows(2).all(|pair| pair[1].config.cardinality == 2 * pair[0].config.cardinality);
        let line = mean(&slopes(results, Measure::TestError)).zip(mean(&seeds));
        let line = line.filter(|_| plan.kind == Kind::Cardinality && doubling);
        let middle = (plan.networks.len() as f64 - 1.0) / 2.0;
        let line = line.map(|(slope, mean)| (mean - slope * middle, slope));
        ErrorChart { y: "test error after the last epoch, %", x: plan.kind.axis(), columns: &columns, line }
            .draw()
    }

    /// The sentences below the errors.
    fn about_errors(&self) -> String {
        let line = match self.results.plan.kind {
            Kind::Cardinality => " The line is the mean of the lines through the points of each seed.",
            Kind::Capacity | Kind::Shortcuts => "",
        };
        format!("Runs are points; beside them are their mean and standard deviation.{line}")
    }

    /// The sentences below the curves.
    fn about_curves(&self) -> String {
        let images =
            if self.results.plan.recipe.augment { "augmented images" } else { "all training images" };
        format!(
            "Means over the finished runs. Training error is that of {images}, each seen before the step that learns \
             from it."
        )
    }

    /// Training and test error over epochs, a line per network: the mean of its finished runs (figure 5).
    fn curves(&self) -> Result<Vec<Panel>> {
        let results = self.results;
        let colours = [BLUE, RED, GREEN, PURPLE, YELLOW, CYAN];
        let lines = |error: fn(&crate::history::Epoch) -> f64| -> Vec<Line> {
            let networks = results.plan.networks.iter().enumerate().zip(colours.iter().cycle());
            let lines = networks.map(|((i, network), &colour)| {
                let finished: Vec<&RunResult> =
                    results.of_network(i).filter(|result| result.state == State::Finished).collect();
                let at = |epoch: usize| {
                    let errors: Vec<f64> =
                        finished.iter().filter_map(|run| run.epochs.get(epoch)).map(error).collect();
                    Some((epoch as i32 + 1, 100.0 * mean(&errors)?))
                };
                let points = (0..results.plan.recipe.epochs).filter_map(at).collect();
                let name = match results.plan.kind {
                    Kind::Cardinality => format!("C = {}", network.config.cardinality),
                    Kind::Capacity | Kind::Shortcuts => network.label.clone(),
                };
                Line { name, colour, points }
            });
            lines.filter(|line| !line.points.is_empty()).collect()
        };
        let panel = |title: &str, lines: Vec<Line>| {
            let values = lines.iter().flat_map(|line| &line.points).map(|&(_, error)| error);
            let (low, high) =
                values.fold((100.0, 0.0), |(low, high): (f64, f64), value| (low.min(value), high.max(value)));
            let (low, high) = if low < high { (low, high) } else { (0.0, 100.0) };
            let room = 0.05 * (high - low);
            Panel {
                title: title.into(),
                x: "epoch",
                y: "",
                scale: Scale::Between((low - room).max(0.0), high + room),
                lines,
            }
        };
        Ok(vec![
            panel("training error (%)", lines(|epoch| 1.0 - epoch.train_top1)),
            panel("test error (%)", lines(|epoch| 1.0 - epoch.test_top1)),
        ])
    }

    fn network_rows(&self) -> Vec<Vec<String>> {
        let results = self.results;
        let row = |(i, network): (usize, &super::networks::PlannedNetwork)| {
            let cost = complexity(&network.config, results.plan.image);
            let number = |value: fn(resnext_model::Complexity) -> f64, unit: f64, digits: usize| {
                cost.map_or(String::new(), |cost| format!("{:.digits$}", value(cost) / unit))
            };
            let of = |measure| {
                let errors = results.errors(i, measure);
                match (mean(&errors), deviation(&errors)) {
                    (Some(mean), Some(deviation)) => format!("{mean:.2} ± {deviation:.2}"),
                    (Some(mean), None) => format!("{mean:.2}"),
                    _ => "–".into(),
                }
            };
            let finished = results.of_network(i).filter(|result| result.state == State::Finished).count();
            vec![
                network.label.clone(),
                number(|cost| cost.parameters, 1.0, 0),
                number(|cost| cost.multiply_adds, 1e6, 2) + " M",
                of(Measure::TestError),
                of(Measure::TrainError),
                format!("{finished} of {}", results.plan.seeds.len()),
            ]
        };
        results.plan.networks.iter().enumerate().map(row).collect()
    }

    fn run_rows(&self) -> Vec<Vec<String>> {
        let row = |result: &RunResult| {
            let number = |value: Option<f64>| value.map_or("–".to_string(), |value| format!("{value:.2}"));
            let state = match &result.state {
                State::Finished => "finished".to_string(),
                State::Failed(reason) => format!("failed: {reason}"),
                State::Unusable(reason) => format!("unusable: {reason}"),
                State::Unfinished if result.epochs.is_empty() => "not run yet".to_string(),
                State::Unfinished => "unfinished".to_string(),
            };
            vec![
                self.results.plan.networks[result.run.network].label.clone(),
                result.run.seed.to_string(),
                format!("{} of {}", result.epochs.len(), result.run.recipe.epochs),
                number(result.test_error()),
                number(result.train_error()),
                state,
            ]
        };
        self.results.runs.iter().map(row).collect()
    }

    fn to_markdown(&self) -> String {
        let table = |headings: &[&'static str], rows: Vec<Vec<String>>| {
            let mut table = Table::new(headings);
            rows.into_iter().for_each(|row| table.row(row));
            table.to_markdown()
        };
        let plan = &self.results.plan;
        let list = |items: &[String]| items.iter().map(|item| format!("- {item}\n")).collect::<String>();
        let mut findings = self.verdict.findings.iter();
        let first = findings.next().map_or(String::new(), |first| format!("**{first}**\n\n"));
        let others = findings.map(|finding| format!("{finding}\n\n")).collect::<String>();
        format!(
            "# {}\n\n{}\n\n{}\n\n{first}{others}![Test error of each network]({ERRORS})\n\n{}\n\n## Networks\n\n{}\n\
             ## Curves\n\n![Training and test error over epochs]({CURVES})\n\n{}\n\n## What this evidence cannot say\n\n{}\n## How the figures are \
             computed\n\n{}\n\n## All runs\n\n{}",
            plan.kind.title(),
            self.subject(),
            plan.notes.join(" "),
            self.about_errors(),
            table(&NETWORKS, self.network_rows()),
            self.about_curves(),
            list(&self.verdict.limits),
            self.verdict.formula,
            table(&RUNS, self.run_rows()),
        )
    }

    /// Names and values of the figures at the top of the page.
    fn figures(&self) -> Vec<(String, &'static str)> {
        let results = self.results;
        let finished = results.count(|state| *state == State::Finished);
        let mut figures = vec![(format!("{finished} of {}", results.runs.len()), "runs finished")];
        if results.plan.kind == Kind::Cardinality
            && let Some(Interval { mean, low, high }) = Interval::of(&slopes(results, Measure::TestError))
        {
            figures.insert(0, (format!("{mean:+.2}"), "percentage points per doubling of C"));
            figures.insert(1, (format!("{low:+.2} … {high:+.2}"), "95 % interval of it"));
        }
        figures
    }

    fn to_html(&self, errors: &str, curves: &[Panel]) -> Result<String> {
        let plan = &self.results.plan;
        let mut page = String::new();
        write!(
            page,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{0}</title>\n<style>\n{1}{2}</style>\n</head>\n<body>\n<h1>{0}</h1>\n",
            escaped(plan.kind.title()),
            include_str!("../report/style.css"),
            include_str!("style.css")
        )?;
        let mut class = "verdict";
        for finding in &self.verdict.findings {
            writeln!(page, "<p class=\"{class}\">{}</p>", escaped(finding))?;
            class = "finding";
        }
        writeln!(page, "<div class=\"figures\">")?;
        for (value, name) in self.figures() {
            writeln!(page, "<div class=\"figure\"><b>{value}</b><span>{name}</span></div>")?;
        }
        writeln!(page, "</div>\n<p>{} {}</p>", escaped(&self.subject()), escaped(&plan.notes.join(" ")))?;
        writeln!(
            page,
            "<h2>Error</h2>\n<div class=\"wide\">{}</div>\n<p>{}</p>",
            themed(errors),
            self.about_errors()
        )?;
        html_table(&mut page, "Networks", &NETWORKS, &self.network_rows())?;
        writeln!(page, "<h2>Curves</h2>\n<div class=\"curves\">")?;
        for panel in curves {
            writeln!(page, "{}", themed(&line_chart::draw(std::slice::from_ref(panel))?))?;
        }
        writeln!(
            page,
            "</div>\n<p>{}</p>\n<h2>What this evidence cannot say</h2>\n<ul>",
            self.about_curves()
        )?;
        for limit in &self.verdict.limits {
            writeln!(page, "<li>{}</li>", escaped(limit))?;
        }
        writeln!(
            page,
            "</ul>\n<h2>How the figures are computed</h2>\n<p>{}</p>",
            escaped(&self.verdict.formula)
        )?;
        html_table(&mut page, "All runs", &RUNS, &self.run_rows())?;
        // Where the data lies says nothing about the study.
        let recipe = crate::recipe::Recipe { data: None, ..plan.recipe.clone() };
        writeln!(
            page,
            "<h2>Recipe</h2>\n<pre>{}</pre>\n</body>\n</html>",
            escaped(toml::to_string(&recipe)?.trim_end())
        )?;
        Ok(page)
    }
}

fn html_table(page: &mut String, title: &str, headings: &[&str], rows: &[Vec<String>]) -> Result<()> {
    writeln!(page, "<h2>{title}</h2>\n<div class=\"scroll\"><table>\n<tr>")?;
    for heading in headings {
        write!(page, "<th scope=\"col\">{}", escaped(heading))?;
    }
    writeln!(page, "</tr>")?;
    for row in rows {
        write!(page, "<tr>")?;
        for cell in row {
            let bad = cell.starts_with("failed") || cell.starts_with("unusable");
            let class = if bad { " class=\"failed\"" } else { "" };
            write!(page, "<td{class}>{}", escaped(cell))?;
        }
        writeln!(page, "</tr>")?;
    }
    writeln!(page, "</table></div>")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_folder::{METRICS, RECIPE};
    use crate::study::plan::PLAN;
    use crate::study::plan::tests::plan;
    use crate::study::results::FAILURE;
    use crate::study::results::tests::write_run;

    #[test]
    fn a_report_is_made_from_the_folders_and_shows_every_run() {
        for kind in [Kind::Cardinality, Kind::Capacity, Kind::Shortcuts] {
            let folder = tempfile::tempdir().unwrap();
            let plan = plan(kind);
            plan.write(folder.path()).unwrap();
            let runs = plan.runs(folder.path());
            for (i, run) in runs.iter().enumerate().take(runs.len() - 1) {
                write_run(run, &[60.0, 55.0, 50.0 - i as f64]);
            }
            let failed = &runs[1];
            write_run(failed, &[60.0]);
            std::fs::write(failed.folder.join(FAILURE), "the loss is <NaN>\n").unwrap();
            let first = write(folder.path()).unwrap();
            let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
            let (page, markdown) = (read(PAGE), read(MARKDOWN));
            for text in [&page, &markdown] {
                assert!(text.contains(plan.kind.title()) && text.contains("What this evidence cannot say"));
                assert!(text.contains("not run yet"), "{text}");
            }
            assert!(page.contains(&escaped(&first)) && markdown.contains(&format!("**{first}**")));
            assert!(page.contains("<td class=\"failed\">failed: the loss is &lt;NaN&gt;"), "{page}");
            assert!(markdown.contains("failed: the loss is <NaN>"));
            assert!(markdown.contains(&format!("{} of its {} runs", runs.len() - 2, runs.len())));
            // The page needs no other file, and its charts take its colours.
            assert!(!page.contains("src=") && !page.contains("<link") && !page.contains("<script"));
            assert!(page.contains("var(--card)") && !page.contains("\"#FFFFFF\""));
            assert!(read(ERRORS).starts_with("<svg") && read(CURVES).contains("test error"));
            // Pictures call the networks what the tables call them.
            if kind != Kind::Cardinality {
                for label in plan.networks.iter().map(|network| network.label.rsplit_once(", ").unwrap().1) {
                    assert!(read(ERRORS).contains(label) && read(CURVES).contains(label), "{label}");
                }
                assert!(!read(ERRORS).contains(&format!("\n{}\n", plan.networks[0].id)));
            }
            // It depends on nothing but the folders.
            write(folder.path()).unwrap();
            assert_eq!((read(PAGE), read(MARKDOWN)), (page, markdown));
        }
    }

    /// The studies of docs/study are what today's code makes of the runs that are there.
    #[test]
    fn the_studies_that_were_run_are_reported_from_their_folders() {
        let studies = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/study");
        let entries = |folder: &Path| {
            let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
            paths.filter(|path| path.is_dir()).collect::<Vec<_>>()
        };
        let committed = entries(&studies);
        assert!(committed.len() > 1, "{}", studies.display());
        for study in committed {
            let copy = tempfile::tempdir().unwrap();
            std::fs::copy(study.join(PLAN), copy.path().join(PLAN)).unwrap();
            for run in entries(&study) {
                let to = copy.path().join(run.file_name().unwrap());
                std::fs::create_dir(&to).unwrap();
                for file in [RECIPE, METRICS] {
                    std::fs::copy(run.join(file), to.join(file)).unwrap();
                }
            }
            write(copy.path()).unwrap();
            for file in [MARKDOWN, PAGE, ERRORS, CURVES] {
                let read = |folder: &Path| std::fs::read_to_string(folder.join(file)).unwrap();
                let (made, committed) = (read(copy.path()), read(&study));
                let line = made.lines().zip(committed.lines()).find(|(made, committed)| made != committed);
                assert!(
                    made == committed,
                    "{}/{file}: write it with `study report`: {line:?}",
                    study.display()
                );
            }
        }
    }
}
