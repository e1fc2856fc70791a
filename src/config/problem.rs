//! What is wrong, or odd, in a configuration: with file and line, in words for the administrator.

use std::fmt;
use std::path::Path;

/// Problems beyond this many are only counted: a file that is no configuration has one in each line.
pub(super) const MAX_SHOWN: usize = 50;

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

/// Everything that keeps a configuration from being used. Displayed one a line, warnings after the errors: a
/// key that is missing may stand there under a wrong name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    messages: Vec<String>,
    warnings: Vec<String>,
}

impl ConfigError {
    pub fn new(file: &Path, errors: Vec<Problem>, warnings: Vec<Problem>) -> ConfigError {
        ConfigError {
            messages: listed(file, errors),
            warnings: listed(file, warnings),
        }
    }

    /// Each error as `file:line: what was read; what is allowed`, in the order of the lines.
    pub fn messages(&self) -> Vec<String> {
        self.messages.clone()
    }

    /// What else is odd in the file, in the same form.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.messages.join("\n"))?;
        for warning in &self.warnings {
            write!(f, "\nwarning: {warning}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Each as `file:line: text`, in the order of the lines.
pub(super) fn listed(file: &Path, mut problems: Vec<Problem>) -> Vec<String> {
    problems.sort_by_key(|problem| problem.line);
    let file = file.display();
    let shown = problems.iter().take(MAX_SHOWN);
    let mut list: Vec<String> = shown.map(|problem| problem.show(&file)).collect();
    let more = problems.len().saturating_sub(MAX_SHOWN);
    if more > 0 {
        list.push(format!("{file}: {more} more of these"));
    }
    list
}

/// A text from the file in quotes, fit to be shown.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", shown(text))
}

/// A text from the file: control characters escaped, cut where it is long.
pub(super) fn shown(text: &str) -> String {
    const MAX_CHARACTERS: usize = 80;
    let cut = text.char_indices().nth(MAX_CHARACTERS);
    match cut.and_then(|(end, _)| text.get(..end)) {
        Some(start) => format!("{}...", escaped(start)),
        None => escaped(text),
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
        let error = ConfigError::new(Path::new("/c.ini"), problems, vec![Problem::new(7, "odd")]);
        let messages = error.messages();
        assert_eq!(messages.len(), 51);
        assert_eq!(messages[0], "/c.ini: missing");
        assert_eq!(messages[1], "/c.ini:1: bad");
        assert_eq!(messages[50], "/c.ini: 11 more of these");
        let shown = error.to_string();
        assert_eq!(shown.lines().count(), 52);
        assert!(shown.ends_with("\nwarning: /c.ini:7: odd"), "{shown}");
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
