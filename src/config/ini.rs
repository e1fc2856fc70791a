//! Reads the lines of `config.ini`: sections, keys and values as text, each with its line number.
//!
//! The grammar is that of Python's `configparser`, which wrote the files in use: `key = value` or
//! `key: value`, comments on lines of their own, a line that is indented deeper than its key continues
//! the value, `%%` is `%`, `%(key)s` another key's value, and `[DEFAULT]` is for all sections. Every line is checked here, because a line that is skipped or glued to another
//! one is a setting that silently does not count; that is why no INI crate reads the file: the ones at
//! hand swallow the section after a line without `=`, and keep no line numbers.
//!
//! Read as bytes: comments may be in any character set, what counts must be UTF-8. What sections and keys
//! mean is not known here.

use std::collections::{HashMap, HashSet};

use super::problem::{Problem, quoted, shown};

/// What stands in this section holds in each other one that does not say otherwise. Only in capitals.
pub const FOR_ALL: &str = "DEFAULT";

/// References within references: as deep as Python follows them.
const DEEPEST: usize = 10;
/// References that one value may take, and bytes that it may become: references to references multiply.
const MOST: usize = 1000;
const LONGEST: usize = 64 * 1024;

/// One `[Name]` with its keys. A section that is opened twice stands here twice.
#[derive(Debug, PartialEq, Eq)]
pub struct Section {
    /// As written.
    pub name: String,
    /// Counted from 1.
    pub line: usize,
    pub entries: Vec<Entry>,
}

/// One key with its value.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
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
pub fn parse(bytes: &[u8], problems: &mut Vec<Problem>) -> Vec<Section> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut reader = Reader {
        sections: Vec::new(),
        open_value: None,
        skipping_value: None,
        problems,
    };
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        reader.line(index + 1, line);
    }
    let mut sections = reader.sections;
    expand_values(&mut sections, problems);
    sections
}

struct Reader<'a> {
    sections: Vec<Section>,
    /// Indentation of the key whose value may go on; none after a header or a bad line.
    open_value: Option<usize>,
    /// Indentation of a key that could not be read: its continuation is left out without a word more.
    skipping_value: Option<usize>,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    fn line(&mut self, number: usize, raw: &[u8]) {
        let text = raw.trim_ascii();
        if text.is_empty() || matches!(text.first(), Some(b';' | b'#')) {
            return;
        }
        let indent = raw.len() - raw.trim_ascii_start().len();
        if self.skipping_value.is_some_and(|key| indent > key) {
            return;
        }
        let Ok(text) = std::str::from_utf8(text) else {
            let read = String::from_utf8_lossy(text);
            return self.refuse(number, indent, &read, "UTF-8 text outside of comments");
        };
        if text.contains('\0') {
            return self.refuse(number, indent, text, "text without NUL bytes");
        }
        if self.open_value.is_some_and(|key| indent > key) {
            return self.continue_value(text);
        }
        self.skipping_value = None;
        if text.starts_with('[') {
            self.header(number, indent, text);
        } else {
            self.key(number, indent, text);
        }
    }

    fn header(&mut self, number: usize, indent: usize, text: &str) {
        let name = text
            .rsplit_once(']')
            .filter(|(_, rest)| rest.is_empty() || rest.trim_start().starts_with([';', '#']))
            .and_then(|(head, _)| head.strip_prefix('['))
            .map(str::trim)
            .filter(|name| !name.is_empty());
        let Some(name) = name else {
            return self.refuse(number, indent, text, "a section header such as [Relay]");
        };
        self.open_value = None;
        self.sections.push(Section {
            name: name.to_owned(),
            line: number,
            entries: Vec::new(),
        });
    }

    fn key(&mut self, number: usize, indent: usize, text: &str) {
        let Some((key, value)) = text.split_once(['=', ':']) else {
            let allowed = "[Section], key = value, or a comment that begins with ; or #";
            return self.refuse(number, indent, text, allowed);
        };
        if key.trim().is_empty() {
            return self.refuse(number, indent, text, "a key before = or :");
        }
        let Some(section) = self.sections.last_mut() else {
            return self.refuse(
                number,
                indent,
                text,
                "a [Section] line before the first key",
            );
        };
        section.entries.push(Entry {
            key: normal(key),
            value: value.trim().to_owned(),
            line: number,
            is_referred_to: false,
        });
        self.open_value = Some(indent);
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

    fn refuse(&mut self, line: usize, indent: usize, read: &str, allowed: &str) {
        let text = format!("read {}; allowed: {allowed}", quoted(read));
        self.problems.push(Problem::new(line, text));
        self.open_value = None;
        self.skipping_value = Some(indent);
    }
}

/// Turns `%%` into `%` and `%(key)s` into the value of that key, of the same section or of `[DEFAULT]`. A percent sign
/// alone is one: with MediaProxy 4 no daemon starts then, so no file in use has it.
fn expand_values(sections: &mut [Section], problems: &mut Vec<Problem>) {
    if !sections.iter().any(Section::has_percent) {
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

impl Section {
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
        if depth == DEEPEST || self.references > MOST || self.value.len() > LONGEST {
            return Err("its references to other keys have no end".into());
        }
        let name = normal(key);
        let of = |section: &str| self.written.get(&(section.to_owned(), name.clone()));
        let Some(value) = of(self.section).or_else(|| of(FOR_ALL)) else {
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
