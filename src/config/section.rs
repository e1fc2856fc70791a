//! One section as the typed settings see it: each key by name, with the default of the table, every error
//! collected.

use super::database;
use super::ini;
use super::keys;
use super::problem::{Problem, quoted};
use super::values::Parsed;

/// A section, all places where it is opened taken together. Keys that are not set are not in it.
pub struct Section<'a> {
    name: &'static str,
    entries: Vec<&'a ini::Entry>,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Section<'a> {
    /// `name` as written in the table of keys.
    pub fn new(
        name: &'static str,
        file: &'a [ini::Section],
        problems: &'a mut Vec<Problem>,
    ) -> Section<'a> {
        let opened = file
            .iter()
            .filter(|section| keys::section(&section.name) == Some(name));
        let entries = opened
            .flat_map(|section| &section.entries)
            .filter(|entry| is_set(&entry.value))
            .collect();
        Section {
            name,
            entries,
            problems,
        }
    }

    /// The value in the file, else the default. None is a value that cannot be used, and told.
    pub fn value<T>(&mut self, name: &str, parse: impl Fn(&str) -> Parsed<T>) -> Option<T> {
        if let Some(value) = self.optional(name, &parse)? {
            return Some(value);
        }
        let default = keys::find(self.name, name).map_or("", |key| key.default);
        parse(default)
            .map_err(|allowed| self.missing(name, &allowed))
            .ok()
    }

    /// The value in the file; the inner none is a key that is not set.
    pub fn optional<T>(
        &mut self,
        name: &str,
        parse: impl Fn(&str) -> Parsed<T>,
    ) -> Option<Option<T>> {
        let Some(entry) = self.entries.iter().find(|entry| entry.key == name) else {
            return Some(None);
        };
        match parse(&entry.value) {
            Ok(value) => Some(Some(value)),
            Err(allowed) => {
                let mut read = quoted(&database::without_password(&entry.value));
                if entry.value.contains([';', '#']) {
                    read.push_str(" (a comment must stand on a line of its own)");
                } else if entry.value.contains('\n') {
                    read.push_str(" (a line that begins with blanks continues the one above)");
                }
                let text = format!("[{}] {name}: read {read}; allowed: {allowed}", self.name);
                self.problems.push(Problem::new(entry.line, text));
                None
            }
        }
    }

    /// Two settings that do not go together, told where the first of them stands.
    pub fn conflict(&mut self, name: &str, text: &str) {
        let text = format!("[{}] {name}: {text}", self.name);
        self.problems.push(Problem::new(self.line(name), text));
    }

    /// Whether any key is set.
    pub fn has_keys(&self) -> bool {
        !self.entries.is_empty()
    }

    /// Where the key stands, if it is set.
    pub fn line(&self, name: &str) -> Option<usize> {
        let entry = self.entries.iter().find(|entry| entry.key == name);
        entry.map(|entry| entry.line)
    }

    fn missing(&mut self, name: &str, allowed: &str) {
        let text = format!("[{}] {name}: not set; allowed: {allowed}", self.name);
        self.problems.push(Problem::new(None, text));
    }
}

/// Nothing, `None` and `default` mean that a key is not set.
fn is_set(value: &str) -> bool {
    !value.is_empty()
        && !value.eq_ignore_ascii_case("none")
        && !value.eq_ignore_ascii_case("default")
}
