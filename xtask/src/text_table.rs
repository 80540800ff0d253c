//! Tables, printed on a terminal or written as Markdown.

/// Rows of text under headings. Columns of numbers are aligned to the right.
pub struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(headings: &[&'static str]) -> Self {
        Table { headings: headings.to_vec(), rows: Vec::new() }
    }

    /// Adds a row, which must have a cell for each heading.
    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.headings.len(), "a row needs a cell for each heading: {cells:?}");
        self.rows.push(cells);
    }

    /// The table for a terminal: columns two spaces apart.
    pub fn to_text(&self) -> String {
        self.lines().map(|cells| format!("  {}", cells.join("  ")).trim_end().to_string() + "\n").collect()
    }

    /// The table as Markdown.
    pub fn to_markdown(&self) -> String {
        let mut lines = self.lines().map(|cells| format!("| {} |\n", cells.join(" | ")));
        let headings = lines.next().unwrap_or_default();
        let rule = |(i, width): (usize, usize)| match self.is_numeric(i) {
            true => format!("{}:", "-".repeat(width - 1)),
            false => "-".repeat(width),
        };
        let rules: Vec<String> = self.widths().into_iter().enumerate().map(rule).collect();
        format!("{headings}| {} |\n", rules.join(" | ")) + &lines.collect::<String>()
    }

    /// The headings and the rows, their cells padded to the widths of the columns.
    fn lines(&self) -> impl Iterator<Item = Vec<String>> {
        let widths = self.widths();
        let numeric: Vec<bool> = (0..widths.len()).map(|i| self.is_numeric(i)).collect();
        let headings = self.headings.iter().map(ToString::to_string).collect();
        std::iter::once(headings).chain(self.rows.iter().cloned()).map(move |row: Vec<String>| {
            let pad = |(i, cell): (usize, String)| match (numeric[i], widths[i]) {
                (true, width) => format!("{cell:>width$}"),
                (false, width) => format!("{cell:<width$}"),
            };
            row.into_iter().enumerate().map(pad).collect()
        })
    }

    /// The width of each column in characters; at least 3, which a rule of Markdown needs.
    fn widths(&self) -> Vec<usize> {
        let cells = |i: usize| std::iter::once(self.headings[i]).chain(self.rows.iter().map(move |r| &*r[i]));
        let width = |i: usize| cells(i).map(|cell| cell.chars().count()).max().unwrap_or(0).max(3);
        (0..self.headings.len()).map(width).collect()
    }

    /// Whether every cell of a column that is not empty is a number, perhaps with a unit behind it.
    fn is_numeric(&self, column: usize) -> bool {
        let mut cells = self.rows.iter().map(|row| &row[column]).filter(|cell| !cell.is_empty()).peekable();
        cells.peek().is_some() && cells.all(|cell| is_number(cell))
    }
}

/// Whether a cell is a number such as `12`, `-0.5`, `3e-4`, `NaN`, `50 %` or `1.2 s`; not `3×3` or `8 of 9`.
fn is_number(cell: &str) -> bool {
    let (number, unit) = cell.split_once(' ').unwrap_or((cell, ""));
    number.parse::<f64>().is_ok() && !unit.contains(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["layer", "ms", "share"]);
        table.row(vec!["conv1".into(), "10.25".into(), "50 %".into()]);
        table.row(vec!["3×3".into(), "0.5".into(), "".into()]);
        table
    }

    #[test]
    fn numbers_are_aligned_to_the_right() {
        let expected = "  layer     ms  share\n  conv1  10.25   50 %\n  3×3      0.5\n";
        assert_eq!(table().to_text(), expected);
    }

    #[test]
    fn markdown_says_how_columns_are_aligned() {
        let expected = "\
            | layer |    ms | share |\n\
            | ----- | ----: | ----: |\n\
            | conv1 | 10.25 |  50 % |\n\
            | 3×3   |   0.5 |       |\n";
        assert_eq!(table().to_markdown(), expected);
    }
}
