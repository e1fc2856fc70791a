//! Rows under a headline: as wide as they need in a pipe, as wide as the terminal at most. Pure.
//!
//! Where there is no room, columns of text shrink as far as they still say something; then columns are left out, one
//! after the other in an order of their own; what stays is shrunk further at the very last.

use crate::text_layout::cut;

/// Between the columns.
const GAP: &str = "  ";

/// No column is shrunk below this.
const MIN_WIDTH: usize = 6;

#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub name: &'static str,
    /// Numbers stand at its right end.
    pub right: bool,
    /// It may be shrunk to so many characters before any column is left out; none is never shrunk.
    pub least: Option<usize>,
    /// Its turn to be left out, the lowest first; none always stays.
    pub leaves: Option<u8>,
}

impl Column {
    /// It may be left out, in this turn.
    pub(super) const fn leaves(self, turn: u8) -> Column {
        Column {
            leaves: Some(turn),
            ..self
        }
    }
}

/// A column of text, which may be shrunk.
pub(super) const fn text(name: &'static str, least: usize) -> Column {
    Column {
        name,
        right: false,
        least: Some(least),
        leaves: None,
    }
}

/// A column of words that are short.
pub(super) const fn word(name: &'static str) -> Column {
    Column {
        name,
        right: false,
        least: None,
        leaves: None,
    }
}

/// A column of numbers.
pub(super) const fn number(name: &'static str) -> Column {
    Column {
        name,
        right: true,
        least: None,
        leaves: None,
    }
}

/// The headline and the rows; no line is wider than `width`.
pub(super) fn lines(columns: &[Column], rows: &[Vec<String>], width: Option<usize>) -> Vec<String> {
    let mut widths: Vec<usize> = columns.iter().map(|column| column.name.len()).collect();
    for row in rows {
        for (widest, cell) in widths.iter_mut().zip(row) {
            *widest = (*widest).max(cell.chars().count());
        }
    }
    let widths = fit(columns, widths, width.unwrap_or(usize::MAX));
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

/// How wide each column is to be; none where it is left out.
fn fit(columns: &[Column], natural: Vec<usize>, room: usize) -> Vec<Option<usize>> {
    let mut shown: Vec<Option<usize>> = natural.into_iter().map(Some).collect();
    loop {
        let mut widths = shown.clone();
        if shrink(&mut widths, columns, room, |column| column.least) {
            return widths;
        }
        let able = shown.iter_mut().zip(columns);
        let able = able.filter(|(width, column)| width.is_some() && column.leaves.is_some());
        match able.min_by_key(|(_, column)| column.leaves) {
            Some((next, _)) => *next = None,
            None => {
                shrink(&mut widths, columns, room, |column| {
                    column.least.map(|least| least.min(MIN_WIDTH))
                });
                return widths;
            }
        }
    }
}

/// Takes from the widest column that may be shrunk until all fit. False where they never do.
fn shrink(
    widths: &mut [Option<usize>],
    columns: &[Column],
    room: usize,
    least: impl Fn(&Column) -> Option<usize>,
) -> bool {
    loop {
        let shown = widths.iter().flatten();
        let gaps = GAP.len() * shown.clone().count().saturating_sub(1);
        if shown.sum::<usize>() + gaps <= room {
            return true;
        }
        let able = widths.iter_mut().zip(columns);
        let able = able.filter_map(|(width, column)| Some((width.as_mut()?, least(column)?)));
        let able = able.filter(|(width, least)| **width > *least);
        match able.max_by_key(|(width, _)| **width) {
            Some((widest, _)) => *widest -= 1,
            None => return false,
        }
    }
}

fn line(columns: &[Column], widths: &[Option<usize>], row: &[String]) -> String {
    let cells = columns.iter().zip(widths).zip(row);
    let cells = cells.filter_map(|((column, width), cell)| {
        let width = (*width)?;
        let cell = cut(cell, width);
        Some(if column.right {
            format!("{cell:>width$}")
        } else {
            format!("{cell:width$}")
        })
    });
    let line = cells.collect::<Vec<_>>().join(GAP);
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] = &[
        text("NAME", 10),
        number("N").leaves(2),
        word("STATE"),
        number("SIZE").leaves(1),
    ];

    fn rows() -> Vec<Vec<String>> {
        [
            ["somebody with a name", "1", "up", "20"],
            ["b", "1000", "down", "7"],
        ]
        .map(|row| row.map(str::to_owned).to_vec())
        .to_vec()
    }

    #[test]
    fn as_wide_as_it_needs() {
        let want = [
            "NAME                     N  STATE  SIZE",
            "somebody with a name     1  up       20",
            "b                     1000  down      7",
        ];
        assert_eq!(lines(COLUMNS, &rows(), None), want);
        assert_eq!(lines(COLUMNS, &rows(), Some(39)), want);
        let long = [vec!["x".repeat(5000), String::new(), String::new()]];
        assert_eq!(lines(COLUMNS, &long, None)[1], "x".repeat(5000));
    }

    #[test]
    fn text_shrinks_then_columns_are_left_out_in_their_turn() {
        let first = |width: usize| lines(COLUMNS, &rows(), Some(width))[..2].join("|");
        assert_eq!(
            first(29),
            "NAME           N  STATE  SIZE|somebody …     1  up       20"
        );
        // The room of a column that is left out goes to the text.
        assert_eq!(
            first(28),
            "NAME                N  STATE|somebody with …     1  up"
        );
        assert_eq!(first(22), "NAME             STATE|somebody with …  up");
        assert_eq!(first(13), "NAME    STATE|someb…  up");
    }

    #[test]
    fn no_wider_than_the_terminal() {
        for width in 0..50 {
            let lines = lines(COLUMNS, &rows(), Some(width));
            assert!(
                lines.iter().all(|line| line.chars().count() <= width),
                "{width}"
            );
        }
    }
}
