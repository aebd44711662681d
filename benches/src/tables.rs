//! Tables of counts, as they are printed and recorded: in Markdown.

use std::fmt;

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tables(Vec<Table>);

/// The first column is that of the bare body or connection. All other columns are over those of the bare one.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    pub title: String,
    pub columns: Vec<String>,
    pub rows: Vec<(String, Vec<f64>)>,
}

/// Returns the name of a count, for [`Tables::add`].
pub fn name(table: &str, row: &str, column: &str) -> String {
    format!("{table}; {row}; {column}")
}

impl Tables {
    /// Adds a count. In each row the bare one must be the first.
    ///
    /// # Panics
    ///
    /// Panics if the name has not three parts.
    pub fn add(&mut self, name: &str, count: f64) {
        let parts: Vec<&str> = name.split("; ").collect();
        let [title, row, column] = parts[..] else {
            panic!("a name of another form: {name:?}");
        };
        if self.0.last().is_none_or(|table| table.title != title) {
            self.0.push(Table {
                title: title.to_owned(),
                columns: Vec::new(),
                rows: Vec::new(),
            });
        }
        let table = self.0.last_mut().expect("the table");
        if table.rows.last().is_none_or(|(name, _)| name != row) {
            table.rows.push((row.to_owned(), Vec::new()));
        }
        if !table.columns.iter().any(|name| name == column) {
            table.columns.push(column.to_owned());
        }
        let (_, counts) = table.rows.last_mut().expect("the row");
        let bare = counts.first().copied().unwrap_or_default();
        counts.push((count - bare).round());
    }

    /// Reads what [`Display`](fmt::Display) writes, after any other text. Returns `None` if the text has another form.
    pub fn parse(text: &str) -> Option<Self> {
        let mut tables = Self::default();
        for table in text.split("## ").skip(1) {
            let mut lines = table.lines();
            let title = lines.next()?.to_owned();
            let mut rows = lines.filter_map(|line| {
                let cells = line.strip_prefix("| ")?.strip_suffix(" |")?;
                Some(cells.split(" | ").map(|cell| cell.trim().to_owned()))
            });
            let columns = rows.next()?.skip(1).collect();
            let rows = rows.map(|mut cells| {
                let name = cells.next()?;
                let counts = cells.map(|cell| cell.parse().ok());
                Some((name, counts.collect::<Option<_>>()?))
            });
            let rows = rows.collect::<Option<_>>()?;
            tables.0.push(Table {
                title,
                columns,
                rows,
            });
        }
        Some(tables)
    }

    /// Returns each count with its name.
    pub fn counts(&self) -> impl Iterator<Item = (String, f64)> {
        self.0.iter().flat_map(|table| {
            table.rows.iter().flat_map(|(row, counts)| {
                let counts = table.columns.iter().zip(counts);
                counts.map(|(column, count)| (name(&table.title, row, column), *count))
            })
        })
    }

    /// Returns the table of this title.
    ///
    /// # Panics
    ///
    /// Panics if there is none.
    pub fn get(&self, title: &str) -> &Table {
        let table = self.0.iter().find(|table| table.title == title);
        table.unwrap_or_else(|| panic!("no table {title:?}"))
    }
}

impl Table {
    /// Returns the count in this row and column.
    ///
    /// # Panics
    ///
    /// Panics if there is none.
    pub fn get(&self, row: &str, column: &str) -> f64 {
        let row = self.rows.iter().find(|(name, _)| name == row);
        let column = self.columns.iter().position(|name| name == column);
        row.expect("a row of this name").1[column.expect("a column of this name")]
    }
}

impl fmt::Display for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut tables = self.0.iter();
        tables.try_for_each(|table| write!(f, "\n## {}\n\n{table}", table.title))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.rows.iter().map(|(name, _)| name.len()).max();
        let first = first.unwrap_or_default();
        let (mut head, mut rule) = (
            format!("| {:first$} |", ""),
            format!("|{:-<1$}|", "", first + 2),
        );
        for column in &self.columns {
            head += &format!(" {column} |");
            rule += &format!("{:-<1$}:|", "", column.len() + 1);
        }
        writeln!(f, "{head}\n{rule}")?;
        for (name, counts) in &self.rows {
            write!(f, "| {name:first$} |")?;
            for (column, count) in self.columns.iter().zip(counts) {
                write!(f, " {count:0$} |", column.len())?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read_as_they_are_written() {
        let mut tables = Tables::default();
        tables.add("frame; `data` first; bare", 75.0);
        tables.add("frame; `data` first; shutdown", 128.2);
        tables.add("frame; CR; bare", 75.0);
        tables.add("frame; CR; shutdown", 490.9);
        tables.add("connection; write; bare", 29.0);
        assert_eq!(tables.get("frame").get("CR", "shutdown"), 416.0);
        assert_eq!(tables.counts().count(), 5);
        let written = format!("a compiler\n{tables}");
        assert_eq!(Tables::parse(&written), Some(tables));
    }
}
