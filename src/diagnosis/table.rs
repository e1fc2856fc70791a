//! Findings as a table: for people at a terminal as wide as that, else one line each, for grep.

use super::finding::{Finding, Severity};
use crate::sys::terminal;
use crate::text_layout::{clean, wrap};

/// Between the columns.
const GAP: &str = "  ";

/// A narrower last column than this is not worth its lines.
const MIN_TEXT_WIDTH: usize = 30;

/// Of the first column.
const WORD_WIDTH: usize = "warning".len();

/// How findings are shown.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Columns of the terminal; none where there is none.
    pub width: Option<usize>,
    pub colour: bool,
}

impl Table {
    /// As standard output wants it.
    pub fn of_stdout() -> Table {
        Table {
            width: terminal::stdout_width(),
            colour: terminal::wants_colour(&std::io::stdout()),
        }
    }

    /// The lines of findings. Subjects of `subjects` characters stand beside each other: see [`subject_width`].
    pub fn lines(&self, findings: &[Finding], subjects: usize) -> Vec<String> {
        let rows = findings.iter();
        rows.flat_map(|finding| self.row(finding, subjects))
            .collect()
    }

    /// What is wrong stands out; what mends it is in its text.
    fn row(&self, finding: &Finding, subjects: usize) -> Vec<String> {
        let (word, colour) = word(finding.severity);
        let (before, after) = if self.colour {
            (colour, "\x1b[0m")
        } else {
            ("", "")
        };
        let indent = WORD_WIDTH + subjects + 2 * GAP.len();
        let room = self.width.map(|width| width.saturating_sub(indent + 1));
        let texts = wrap(
            &clean(&finding.text),
            room.map(|room| room.max(MIN_TEXT_WIDTH)),
        );
        let first = texts.first().map_or("", String::as_str);
        let subject = &finding.subject;
        let first =
            format!("{before}{word:WORD_WIDTH$}{after}{GAP}{subject:subjects$}{GAP}{first}");
        let others = texts.iter().skip(1);
        let others = others.map(|text| format!("{:indent$}{text}", ""));
        std::iter::once(first).chain(others).collect()
    }
}

/// The widest subject.
pub fn subject_width<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> usize {
    let widths = findings.into_iter().map(|finding| finding.subject.len());
    widths.max().unwrap_or_default()
}

/// What a severity is called, and its colour.
pub fn word(severity: Severity) -> (&'static str, &'static str) {
    match severity {
        Severity::Fine => ("ok", "\x1b[32m"),
        Severity::Warning => ("warning", "\x1b[33m"),
        Severity::Problem => ("PROBLEM", "\x1b[31m"),
    }
}

/// How many are problems, and how many warnings.
pub fn counts<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> (usize, usize) {
    findings
        .into_iter()
        .fold((0, 0), |(problems, warnings), finding| {
            match finding.severity {
                Severity::Fine => (problems, warnings),
                Severity::Warning => (problems, warnings + 1),
                Severity::Problem => (problems + 1, warnings),
            }
        })
}
