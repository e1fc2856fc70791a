//! One section as the typed settings see it: each key by name, with the default of the table, every error
//! collected.

use super::database;
use super::ini::{self, IniEntry, IniSection};
use super::keys;
use super::problem::{Problem, quoted};
use super::values::Parsed;

/// A section, all places where it is opened taken together.
pub(super) struct Section<'a> {
    name: &'static str,
    entries: Vec<&'a IniEntry>,
    /// Those of `[DEFAULT]`, for keys that are not among the entries.
    for_all: Vec<&'a IniEntry>,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Section<'a> {
    /// `name` as written in the table of keys.
    pub(super) fn new(
        name: &'static str,
        file: &'a [IniSection],
        problems: &'a mut Vec<Problem>,
    ) -> Section<'a> {
        let entries = |is_it: &dyn Fn(&str) -> bool| {
            let opened = file.iter().filter(|section| is_it(&section.name));
            opened.flat_map(|section| &section.entries).collect()
        };
        Section {
            name,
            entries: entries(&|found| keys::section(found) == Some(name)),
            for_all: entries(&|found| found == ini::DEFAULT_SECTION),
            problems,
        }
    }

    /// Where the key is set.
    fn entry(&self, name: &str) -> Option<&'a IniEntry> {
        let mut entries = self.entries.iter().chain(&self.for_all);
        let entry = entries.find(|entry| entry.key == name);
        entry.copied().filter(|entry| is_set(&entry.value))
    }

    /// The value in the file, else the default. None is a value that cannot be used, and told.
    pub(super) fn value<T>(&mut self, name: &str, parse: impl Fn(&str) -> Parsed<T>) -> Option<T> {
        if let Some(value) = self.optional(name, &parse)? {
            return Some(value);
        }
        let default = keys::find(self.name, name).map_or("", |key| key.default);
        parse(default)
            .map_err(|allowed| self.missing(name, &allowed))
            .ok()
    }

    /// The value in the file; the inner none is a key that is not set.
    pub(super) fn optional<T>(
        &mut self,
        name: &str,
        parse: impl Fn(&str) -> Parsed<T>,
    ) -> Option<Option<T>> {
        let Some(entry) = self.entry(name) else {
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
    pub(super) fn conflict(&mut self, name: &str, text: &str) {
        let text = format!("[{}] {name}: {text}", self.name);
        self.problems.push(Problem::new(self.line(name), text));
    }

    /// Returns true if any key is set in the section itself.
    pub(super) fn has_keys(&self) -> bool {
        self.entries.iter().any(|entry| is_set(&entry.value))
    }

    /// Where the key stands, if it is set.
    pub(super) fn line(&self, name: &str) -> Option<usize> {
        self.entry(name).map(|entry| entry.line)
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
