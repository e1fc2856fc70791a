//! Reads the lines of `config.ini`: sections, keys and values as text, each with its line number.
//!
//! The grammar is that of Python's `configparser`, which wrote the files in use: `key = value` or
//! `key: value`, comments on lines of their own, a line that is indented deeper than its key continues
//! the value, `%%` is `%`, `%(key)s` another key's value, and `[DEFAULT]` is for all sections.
//!
//! The crate `configparser` says what a line is: a comment, a section, a key and its value. It is given one line at a
//! time, since it keeps no line numbers, ends at the first line that it cannot read, and forgets all but the last of two
//! keys; here it is counted where lines stand, and continued values are put together (ARCHITECTURE.md, "INI").
//!
//! Read as bytes: comments may be in any character set, what counts must be UTF-8. What sections and keys
//! mean is not known here.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use configparser::ini::{Ini, IniDefault};

use super::problem::{Problem, quoted, shown};

/// What stands in this section holds in each other one that does not say otherwise. Only in capitals.
pub(super) const DEFAULT_SECTION: &str = "DEFAULT";

/// References within references: as deep as Python follows them.
const MAX_REFERENCE_DEPTH: usize = 10;
/// References that one value may take, and bytes that it may become: references to references multiply.
const MAX_REFERENCES: usize = 1000;
const MAX_VALUE_SIZE: usize = 64 * 1024;

/// One `[Name]` with its keys. A section that is opened twice stands here twice.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct IniSection {
    /// As written.
    pub name: String,
    /// Counted from 1.
    pub line: usize,
    pub entries: Vec<IniEntry>,
}

/// One key with its value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct IniEntry {
    /// In lower case, `-` turned into `_`.
    pub key: String,
    /// Blanks around it removed; the lines of a continued value are joined by `\n`.
    pub value: String,
    /// Where the key stands, counted from 1.
    pub line: usize,
    /// Another value refers to it by `%(key)s`.
    pub is_referred_to: bool,
}

/// Splits a file. What cannot be read is left out and told in `problems`.
pub(super) fn parse(bytes: &[u8], problems: &mut Vec<Problem>) -> Vec<IniSection> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut reader = Reader {
        ini: Ini::new_from_defaults(grammar()),
        sections: Vec::new(),
        open: None,
        problems,
    };
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        reader.line(index + 1, line);
    }
    let mut sections = reader.sections;
    expand_values(&mut sections, problems);
    sections
}

/// Names are kept as they are written, and a `;` or `#` within a value is part of it.
fn grammar() -> IniDefault {
    let mut grammar = IniDefault::default();
    grammar.case_sensitive = true;
    grammar.enable_inline_comments = false;
    grammar
}

/// One line of the file, as the crate reads it.
enum Line {
    /// A comment, or nothing.
    Empty,
    Header(String),
    Key(String, String),
    /// None of these; what is allowed.
    Bad(&'static str),
}

struct Reader<'a> {
    ini: Ini,
    sections: Vec<IniSection>,
    /// The key that a deeper indented line continues; none after a header.
    open: Option<Open>,
    problems: &'a mut Vec<Problem>,
}

/// A line that may go on.
struct Open {
    indent: usize,
    /// A key. What could not be read is continued without a word more.
    is_key: bool,
}

impl Reader<'_> {
    fn line(&mut self, number: usize, raw: &[u8]) {
        let indent = raw.len() - raw.trim_ascii_start().len();
        let text = String::from_utf8_lossy(raw.trim_ascii());
        let open = self.open.as_ref().filter(|open| indent > open.indent);
        let goes_on = open.map(|open| open.is_key);
        let done = match self.read(&text) {
            Line::Empty => return,
            _ if goes_on == Some(false) => return,
            // What is not UTF-8 was replaced.
            _ if matches!(text, Cow::Owned(_)) => Err("UTF-8 text outside of comments"),
            _ if text.contains('\0') => Err("text without NUL bytes"),
            _ if goes_on == Some(true) => return self.continue_value(&text),
            Line::Bad(allowed) => Err(allowed),
            Line::Header(name) => return self.header(number, name),
            Line::Key(key, value) => self.key(number, &key, value),
        };
        self.open = Some(Open {
            indent,
            is_key: done.is_ok(),
        });
        if let Err(allowed) = done {
            let text = format!("read {}; allowed: {allowed}", quoted(&text));
            self.problems.push(Problem::new(number, text));
        }
    }

    fn read(&mut self, text: &str) -> Line {
        let header = "a section header such as [Relay]";
        let is_header = text.starts_with('[');
        let Ok(read) = self.ini.read(text.to_owned()) else {
            return Line::Bad(if is_header {
                header
            } else {
                "a key before = or :"
            });
        };
        let Some((section, keys)) = read.into_iter().next() else {
            return Line::Empty;
        };
        match keys.into_iter().next() {
            Some((key, Some(value))) => Line::Key(key, value),
            Some((_, None)) => {
                Line::Bad("[Section], key = value, or a comment that begins with ; or #")
            }
            // What stands behind the bracket the crate does not say.
            None if section.is_empty() || !ends_header(text) => Line::Bad(header),
            None => Line::Header(section),
        }
    }

    fn header(&mut self, line: usize, name: String) {
        self.open = None;
        self.sections.push(IniSection {
            name,
            line,
            entries: Vec::new(),
        });
    }

    fn key(&mut self, line: usize, key: &str, value: String) -> Result<(), &'static str> {
        let section = self.sections.last_mut();
        let section = section.ok_or("a [Section] line before the first key")?;
        section.entries.push(IniEntry {
            key: normal(key),
            value,
            line,
            is_referred_to: false,
        });
        Ok(())
    }

    fn continue_value(&mut self, text: &str) {
        let entry = self
            .sections
            .last_mut()
            .and_then(|section| section.entries.last_mut());
        if let Some(entry) = entry {
            if !entry.value.is_empty() {
                entry.value.push('\n');
            }
            entry.value.push_str(text);
        }
    }
}

/// Returns true if nothing but a comment stands behind the bracket of a header.
fn ends_header(text: &str) -> bool {
    let rest = text.rsplit_once(']').map_or("", |(_, rest)| rest).trim();
    rest.is_empty() || rest.starts_with([';', '#'])
}

/// Turns `%%` into `%` and `%(key)s` into the value of that key, of the same section or of `[DEFAULT]`. A percent sign
/// alone is one: with MediaProxy 4 no daemon starts then, so no file in use has it.
fn expand_values(sections: &mut [IniSection], problems: &mut Vec<Problem>) {
    if !sections.iter().any(IniSection::has_percent) {
        return;
    }
    let written: HashMap<(String, String), String> = sections
        .iter()
        .flat_map(|section| {
            let entries = section.entries.iter().rev();
            entries.map(|entry| {
                let key = (section.name.clone(), entry.key.clone());
                (key, entry.value.clone())
            })
        })
        .collect();
    let mut used = HashSet::new();
    for section in sections.iter_mut().filter(|section| section.has_percent()) {
        for entry in &mut section.entries {
            let mut expansion = Expansion {
                written: &written,
                used: &mut used,
                section: &section.name,
                value: String::new(),
                references: 0,
            };
            match expansion.add(&entry.value, 0) {
                Ok(()) => entry.value = expansion.value,
                Err(why) => {
                    let (name, key) = (shown(&section.name), shown(&entry.key));
                    problems.push(Problem::new(entry.line, format!("[{name}] {key}: {why}")));
                }
            }
        }
    }
    for section in sections.iter_mut() {
        for entry in &mut section.entries {
            entry.is_referred_to = used.contains(&entry.key);
        }
    }
}

impl IniSection {
    fn has_percent(&self) -> bool {
        self.entries.iter().any(|entry| entry.value.contains('%'))
    }
}

/// A value as it grows.
struct Expansion<'a> {
    /// By section and key.
    written: &'a HashMap<(String, String), String>,
    /// The keys that were referred to, in whichever section.
    used: &'a mut HashSet<String>,
    section: &'a str,
    value: String,
    references: usize,
}

impl Expansion<'_> {
    fn add(&mut self, text: &str, depth: usize) -> Result<(), String> {
        let mut rest = text;
        while let Some((plain, special)) = rest.split_once('%') {
            self.value.push_str(plain);
            rest = match (special.strip_prefix('('), special.strip_prefix('%')) {
                (Some(reference), _) => {
                    let (key, after) = reference.split_once(")s").ok_or(
                        "%( begins a reference to another key, %(key)s; allowed: %%( for these characters",
                    )?;
                    self.refer(key, depth)?;
                    after
                }
                (None, Some(after)) => {
                    self.value.push('%');
                    after
                }
                (None, None) => {
                    self.value.push('%');
                    special
                }
            };
        }
        self.value.push_str(rest);
        Ok(())
    }

    fn refer(&mut self, key: &str, depth: usize) -> Result<(), String> {
        self.references += 1;
        if depth == MAX_REFERENCE_DEPTH
            || self.references > MAX_REFERENCES
            || self.value.len() > MAX_VALUE_SIZE
        {
            return Err("its references to other keys have no end".into());
        }
        let name = normal(key);
        let of = |section: &str| self.written.get(&(section.to_owned(), name.clone()));
        let Some(value) = of(self.section).or_else(|| of(DEFAULT_SECTION)) else {
            return Err(format!(
                "refers to key {}, which is not set in this section; allowed: one that is, or %%( for these characters",
                quoted(key)
            ));
        };
        self.used.insert(name);
        self.add(value, depth + 1)
    }
}

/// A key's name as it is kept.
fn normal(key: &str) -> String {
    key.trim().to_lowercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &[u8]) -> (Vec<String>, Vec<String>) {
        let mut problems = Vec::new();
        let sections = parse(file, &mut problems);
        let entries = sections.iter().flat_map(|section| {
            section.entries.iter().map(|entry| {
                format!(
                    "{}:{}/{}={}",
                    entry.line, section.name, entry.key, entry.value
                )
            })
        });
        let problems = problems.iter().map(|problem| problem.show("f"));
        (entries.collect(), problems.collect())
    }

    fn entries(file: &[u8]) -> Vec<String> {
        let (entries, problems) = read(file);
        assert_eq!(problems, [""; 0]);
        entries
    }

    #[test]
    fn every_form_of_a_key() {
        let file = b"\xef\xbb\xbf[Relay]\r\n; caf\xe9\r\nA=1\r\nb-C : 2\n   # note\nd=x:y\ne:x=y\nf=\n\n[TLS] ; hosts\n  g = 7\n  h = 8";
        assert_eq!(
            entries(file),
            [
                "3:Relay/a=1",
                "4:Relay/b_c=2",
                "6:Relay/d=x:y",
                "7:Relay/e=x=y",
                "8:Relay/f=",
                "11:TLS/g=7",
                "12:TLS/h=8"
            ]
        );
    }

    #[test]
    fn continued_values() {
        let file =
            b"[A]\nlist = one,\n  two\n; between\n\n\tthree\nkey = v\n next = w\n[B]\n k=\n  v";
        assert_eq!(
            entries(file),
            [
                "2:A/list=one,\ntwo\nthree",
                "7:A/key=v\nnext = w",
                "10:B/k=v"
            ]
        );
    }

    #[test]
    fn percent_signs() {
        assert_eq!(
            entries(b"[A]\na=50%%\nb=%%(c)s\nc=5%"),
            ["2:A/a=50%", "3:A/b=%(c)s", "4:A/c=5%"]
        );
    }

    #[test]
    fn references_to_other_keys() {
        assert_eq!(
            entries(
                b"[DEFAULT]\ndir = /srv\n[A]\na = %(b-c)s/x%%(d)s\nb_c = %(dir)s/%(E)s\ne = 1%%\n[B]\na = %(dir)s"
            ),
            [
                "2:DEFAULT/dir=/srv",
                "4:A/a=/srv/1%/x%(d)s",
                "5:A/b_c=/srv/1%",
                "6:A/e=1%",
                "8:B/a=/srv"
            ]
        );
        let (_, problems) = read(b"[A]\na = %(b)s/x\nc = x%(y\nd = %(d)s");
        assert_eq!(
            problems,
            [
                "f:2: [A] a: refers to key \"b\", which is not set in this section; allowed: one that is, or %%( for these characters",
                "f:3: [A] c: %( begins a reference to another key, %(key)s; allowed: %%( for these characters",
                "f:4: [A] d: its references to other keys have no end",
            ]
        );
    }

    #[test]
    fn references_that_multiply_come_to_an_end() {
        let mut file = String::from("[A]\n");
        for key in 0..9 {
            let next = format!("%(k{})s", key + 1).repeat(3000);
            file.push_str(&format!("k{key} = {next}\n"));
        }
        file.push_str("k9 =\n");
        let (_, problems) = read(file.as_bytes());
        assert_eq!(problems.len(), 9, "{problems:?}");
    }

    #[test]
    fn a_bad_line_does_not_hide_the_next() {
        let (entries, problems) = read(
            b"early = 1\n[Relay\nx = 1\n[A]\nnonsense\n  more\n[B]\n= 3\nk = \xff\n  \xfe\nz\0=1\n[]\nlast = 9\n",
        );
        assert_eq!(entries, ["13:B/last=9"]);
        assert_eq!(
            problems,
            [
                "f:1: read \"early = 1\"; allowed: a [Section] line before the first key",
                "f:2: read \"[Relay\"; allowed: a section header such as [Relay]",
                "f:3: read \"x = 1\"; allowed: a [Section] line before the first key",
                "f:5: read \"nonsense\"; allowed: [Section], key = value, or a comment that begins with ; or #",
                "f:8: read \"= 3\"; allowed: a key before = or :",
                "f:9: read \"k = \u{fffd}\"; allowed: UTF-8 text outside of comments",
                "f:11: read \"z\\x00=1\"; allowed: text without NUL bytes",
                "f:12: read \"[]\"; allowed: a section header such as [Relay]",
            ]
        );
    }

    /// The crate alone would take the first for a section, and leave out the end of the second.
    #[test]
    fn brackets_at_the_begin_of_a_line() {
        let file = b"[A]\nlist =\n  [2001:db8::1]:25060\n[B] odd\n[C] # even\nk = 1\n";
        let (entries, problems) = read(file);
        assert_eq!(entries, ["2:A/list=[2001:db8::1]:25060", "6:C/k=1"]);
        assert_eq!(
            problems,
            ["f:4: read \"[B] odd\"; allowed: a section header such as [Relay]"]
        );
    }

    #[test]
    fn anything_can_be_read() {
        let pieces: [&[u8]; 9] = [b"[", b"]", b"\n", b" ", b"=", b";", b"k", b"\xe9", b"\0"];
        let mut state = 7u64;
        for _ in 0..2000 {
            let mut file = Vec::new();
            for _ in 0..20 {
                state = state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                file.extend_from_slice(pieces[(state >> 33) as usize % pieces.len()]);
            }
            let lines = file.split(|&byte| byte == b'\n').count();
            let (entries, problems) = read(&file);
            assert!(entries.len() + problems.len() <= lines);
        }
    }
}
