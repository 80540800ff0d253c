//! Tables, printed on a terminal or written as Markdown.

/// Rows of text under headings. Columns of numbers are aligned to the right, and empty columns are left out.
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
        let rule = |column: usize| match (self.is_numeric(column), self.width(column)) {
            (true, width) => format!("{}:", "-".repeat(width - 1)),
            (false, width) => "-".repeat(width),
        };
        let rules: Vec<String> = self.columns().into_iter().map(rule).collect();
        format!("{headings}| {} |\n", rules.join(" | ")) + &lines.collect::<String>()
    }

    /// The columns that are shown: those with a cell that is not empty.
    fn columns(&self) -> Vec<usize> {
        let filled =
            |column: &usize| self.rows.is_empty() || self.rows.iter().any(|row| !row[*column].is_empty());
        (0..self.headings.len()).filter(filled).collect()
    }

    /// The headings and the rows, their cells padded to the widths of the columns.
    fn lines(&self) -> impl Iterator<Item = Vec<String>> {
        let columns = self.columns();
        let headings = self.headings.iter().map(ToString::to_string).collect();
        std::iter::once(headings).chain(self.rows.iter().cloned()).map(move |row: Vec<String>| {
            let pad = |&column: &usize| match (self.is_numeric(column), self.width(column)) {
                (true, width) => format!("{:>width$}", row[column]),
                (false, width) => format!("{:<width$}", row[column]),
            };
            columns.iter().map(pad).collect()
        })
    }

    /// The width of a column in characters; at least 3, which a rule of Markdown needs.
    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().map(|row| row[column].as_str());
        let widths = std::iter::once(self.headings[column]).chain(cells).map(|cell| cell.chars().count());
        widths.max().unwrap_or(0).max(3)
    }

    /// Whether every cell of a column that is not empty is a number, perhaps with a unit after it.
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
    fn empty_columns_are_left_out() {
        let mut table = Table::new(&["engine", "ours is", "ms"]);
        table.row(vec!["resnext".into(), "".into(), "1.5".into()]);
        assert_eq!(table.to_text(), "  engine    ms\n  resnext  1.5\n");
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
