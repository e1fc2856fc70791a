//! What is wrong, or odd, in a configuration: with file and line, in words for the administrator.

use std::fmt;
use std::path::{Path, PathBuf};

/// Problems beyond this many are only counted: a file that is no configuration has one in each line.
const SHOWN: usize = 50;

/// One error or one warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Counted from 1; none where something is missing.
    line: Option<usize>,
    text: String,
}

impl Problem {
    /// Control characters in the text are escaped: names of sections and keys come from the file.
    pub fn new(line: impl Into<Option<usize>>, text: impl Into<String>) -> Problem {
        let mut text = text.into();
        if text.contains(char::is_control) {
            text = escaped(&text);
        }
        Problem {
            line: line.into(),
            text,
        }
    }

    /// `file:line: text`.
    pub fn show(&self, file: impl fmt::Display) -> String {
        match self.line {
            Some(line) => format!("{file}:{line}: {}", self.text),
            None => format!("{file}: {}", self.text),
        }
    }
}

/// Everything that keeps a configuration from being used; displayed one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    file: PathBuf,
    problems: Vec<Problem>,
}

impl ConfigError {
    pub fn new(file: &Path, mut problems: Vec<Problem>) -> ConfigError {
        problems.sort_by_key(|problem| problem.line);
        ConfigError {
            file: file.to_owned(),
            problems,
        }
    }

    /// Each error as `file:line: what was read; what is allowed`, in the order of the lines.
    pub fn messages(&self) -> Vec<String> {
        let file = self.file.display();
        let shown = self.problems.iter().take(SHOWN);
        let mut messages: Vec<String> = shown.map(|problem| problem.show(&file)).collect();
        let more = self.problems.len().saturating_sub(SHOWN);
        if more > 0 {
            messages.push(format!("{file}: {more} more errors"));
        }
        messages
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.messages().join("\n"))
    }
}

impl std::error::Error for ConfigError {}

/// A text from the file in quotes: control characters escaped, cut where it is long.
pub fn quoted(text: &str) -> String {
    const LONGEST: usize = 80;
    let cut = text.char_indices().nth(LONGEST);
    match cut {
        Some((end, _)) => format!("\"{}...\"", escaped(&text[..end])),
        None => format!("\"{}\"", escaped(text)),
    }
}

fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => shown.push(' '),
            c if c.is_control() => shown.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_sorted_and_bounded() {
        let mut problems: Vec<Problem> = (1..=60)
            .rev()
            .map(|line| Problem::new(line, "bad"))
            .collect();
        problems.push(Problem::new(None, "missing"));
        let error = ConfigError::new(Path::new("/c.ini"), problems);
        let messages = error.messages();
        assert_eq!(messages.len(), 51);
        assert_eq!(messages[0], "/c.ini: missing");
        assert_eq!(messages[1], "/c.ini:1: bad");
        assert_eq!(messages[50], "/c.ini: 11 more errors");
        assert_eq!(error.to_string().lines().count(), 51);
    }

    #[test]
    fn names_from_the_file_forge_nothing() {
        let problem = Problem::new(3, "[Re\x1b[2Jlay\r] unknown");
        assert_eq!(
            problem.show("c.ini"),
            "c.ini:3: [Re\\x1b[2Jlay\\x0d] unknown"
        );
    }

    #[test]
    fn quotes_show_nothing_forged() {
        assert_eq!(quoted("a\nb\x1b[2J\u{85}é"), "\"a b\\x1b[2J\\x85é\"");
        assert_eq!(quoted(&"x".repeat(80)), format!("\"{}\"", "x".repeat(80)));
        assert_eq!(
            quoted(&"x".repeat(81)),
            format!("\"{}...\"", "x".repeat(80))
        );
    }
}
