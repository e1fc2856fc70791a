//! Rows under a headline: as wide as they need in a pipe, as wide as the terminal at most. Pure.

use super::units::cut;

/// Between the columns.
const GAP: &str = "  ";

/// A column is not cut below this.
const NARROWEST: usize = 6;

#[derive(Clone, Copy, Debug)]
pub struct Column {
    pub name: &'static str,
    /// Numbers stand at its right end.
    pub right: bool,
    /// It may be cut where there is no room.
    pub cut: bool,
}

/// A column of text that may be cut.
pub const fn text(name: &'static str) -> Column {
    Column {
        name,
        right: false,
        cut: true,
    }
}

/// A column of words that are short.
pub const fn word(name: &'static str) -> Column {
    Column {
        name,
        right: false,
        cut: false,
    }
}

/// A column of numbers.
pub const fn number(name: &'static str) -> Column {
    Column {
        name,
        right: true,
        cut: false,
    }
}

/// The headline and the rows; no line is wider than `width`.
pub fn lines(columns: &[Column], rows: &[Vec<String>], width: Option<usize>) -> Vec<String> {
    let mut widths: Vec<usize> = columns.iter().map(|column| column.name.len()).collect();
    for row in rows {
        for (widest, cell) in widths.iter_mut().zip(row) {
            *widest = (*widest).max(cell.chars().count());
        }
    }
    if let Some(width) = width {
        fit(columns, &mut widths, width);
    }
    let head: Vec<String> = columns
        .iter()
        .map(|column| column.name.to_owned())
        .collect();
    let all = std::iter::once(&head).chain(rows);
    all.map(|row| {
        let line = line(columns, &widths, row);
        match width {
            Some(width) => cut(&line, width),
            None => line,
        }
    })
    .collect()
}

/// Takes from the widest column that may be cut until all fit.
fn fit(columns: &[Column], widths: &mut [usize], width: usize) {
    let gaps = GAP.len() * columns.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > width {
        let able = widths.iter_mut().zip(columns);
        let able = able.filter(|(width, column)| column.cut && **width > NARROWEST);
        match able.max_by_key(|(width, _)| **width) {
            Some((widest, _)) => *widest -= 1,
            None => return,
        }
    }
}

fn line(columns: &[Column], widths: &[usize], row: &[String]) -> String {
    let cells = columns.iter().zip(widths).zip(row);
    let cells = cells.map(|((column, &width), cell)| {
        let cell = cut(cell, width);
        match column.right {
            true => format!("{cell:>width$}"),
            false => format!("{cell:width$}"),
        }
    });
    let line = cells.collect::<Vec<_>>().join(GAP);
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] = &[text("NAME"), number("N"), word("STATE")];

    fn rows() -> Vec<Vec<String>> {
        [["somebody with a name", "1", "up"], ["b", "1000", "down"]]
            .map(|row| row.map(str::to_owned).to_vec())
            .to_vec()
    }

    #[test]
    fn as_wide_as_it_needs() {
        let want = [
            "NAME                     N  STATE",
            "somebody with a name     1  up",
            "b                     1000  down",
        ];
        assert_eq!(lines(COLUMNS, &rows(), None), want);
        assert_eq!(lines(COLUMNS, &rows(), Some(80)), want);
    }

    #[test]
    fn no_wider_than_the_terminal() {
        let want = [
            "NAME           N  STATE",
            "somebody …     1  up",
            "b           1000  down",
        ];
        assert_eq!(lines(COLUMNS, &rows(), Some(23)), want);
        for width in 0..40 {
            let lines = lines(COLUMNS, &rows(), Some(width));
            assert!(
                lines.iter().all(|line| line.chars().count() <= width),
                "{width}"
            );
        }
    }
}
