//! Tables on the screen and in Markdown.

/// Rows of text under headings.
pub struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(headings: &[&'static str]) -> Self {
        Table { headings: headings.to_vec(), rows: Vec::new() }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// In columns, or as Markdown.
    pub fn show(&self, markdown: bool) -> String {
        let headings: Vec<String> = self.headings.iter().map(ToString::to_string).collect();
        let width = |i: usize| {
            std::iter::once(&headings).chain(&self.rows).map(|row| row[i].chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..headings.len()).map(width).collect();
        let (left, between, right) = if markdown { ("| ", " | ", " |") } else { ("  ", "  ", "") };
        let line = |row: &Vec<String>| {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
            format!("{left}{}{right}\n", cells.join(between))
        };
        let mut text = line(&headings);
        if markdown {
            text += &line(&widths.iter().map(|&width| "-".repeat(width)).collect());
        }
        text + &self.rows.iter().map(line).collect::<String>()
    }
}
