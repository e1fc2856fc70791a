//! Findings as a table: for people at a terminal as wide as that, else one line each, for grep.

use std::fmt;
use std::io::{self, IsTerminal};

use super::{Finding, Need, Verdict};
use crate::config::Forwarding;
use crate::sys::terminal;

/// Between the columns.
const GAP: &str = "  ";

/// A narrower last column than this is not worth its lines.
const NARROWEST: usize = 30;

/// See the module.
pub struct Table<'a> {
    findings: &'a [Finding],
    forwarding: Forwarding,
    /// Columns of the terminal.
    width: Option<usize>,
    colour: bool,
}

impl<'a> Table<'a> {
    /// As standard output wants it; no colour where `NO_COLOR` is set to anything (no-color.org).
    pub fn new(findings: &'a [Finding], forwarding: Forwarding) -> Table<'a> {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let is_terminal = io::stdout().is_terminal();
        Table {
            findings,
            forwarding,
            width: is_terminal.then(|| terminal::columns(io::stdout()).unwrap_or(80)),
            colour: is_terminal && !unwanted,
        }
    }

    fn row(&self, f: &mut fmt::Formatter<'_>, finding: &Finding, subjects: usize) -> fmt::Result {
        let (word, colour) = match finding.weight(self.forwarding) {
            Verdict::Fine => ("ok", "\x1b[32m"),
            Verdict::Warning => ("warning", "\x1b[33m"),
            Verdict::Problem => ("PROBLEM", "\x1b[31m"),
        };
        let (before, after) = match self.colour {
            true => (colour, "\x1b[0m"),
            false => ("", ""),
        };
        let indent = word_width() + subjects + 2 * GAP.len();
        let room = self.width.map(|width| width.saturating_sub(indent + 1));
        let lines = wrap(&finding.text, room.map(|room| room.max(NARROWEST)));
        let mut lines = lines.iter();
        let first = lines.next().map_or("", String::as_str);
        writeln!(
            f,
            "{before}{word:0$}{after}{GAP}{1:subjects$}{GAP}{first}",
            word_width(),
            finding.subject,
        )?;
        lines.try_for_each(|line| writeln!(f, "{:indent$}{line}", ""))
    }

    fn summary(&self) -> String {
        let count = |verdict| {
            let findings = self.findings.iter();
            let weight = |finding: &&Finding| finding.weight(self.forwarding) == verdict;
            findings.filter(weight).count()
        };
        let counted = |count: usize, what: &str| match count {
            0 => format!("no {what}s"),
            1 => format!("1 {what}"),
            more => format!("{more} {what}s"),
        };
        let problems = counted(count(Verdict::Problem), "problem");
        let warnings = counted(count(Verdict::Warning), "warning");
        format!("{problems}, {warnings}; {}", self.outcome())
    }

    /// What it comes to.
    fn outcome(&self) -> &'static str {
        let has_problem = |need| {
            let mut findings = self.findings.iter();
            findings.any(|finding| finding.need == need && finding.verdict == Verdict::Problem)
        };
        match self.forwarding {
            _ if has_problem(Need::Relay) => "the relay cannot work",
            Forwarding::Userspace => "media is relayed in user space (forwarding = userspace)",
            _ if !has_problem(Need::Kernel) => "the kernel can forward media",
            Forwarding::Auto => {
                "media is relayed in user space until the kernel can forward it (forwarding = auto)"
            }
            Forwarding::Kernel => "the relay will not start (forwarding = kernel)",
        }
    }
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.findings.iter().map(|finding| finding.subject.len());
        let subjects = widths.max().unwrap_or_default();
        for finding in self.findings {
            self.row(f, finding, subjects)?;
        }
        for line in wrap(&self.summary(), self.width) {
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

/// Of the first column.
const fn word_width() -> usize {
    "warning".len()
}

/// Lines of so many characters at most, broken at blanks; a longer word stays whole.
fn wrap(text: &str, room: Option<usize>) -> Vec<String> {
    let Some(room) = room else {
        return vec![text.to_owned()];
    };
    let mut lines: Vec<String> = Vec::new();
    let mut left = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        match lines.last_mut() {
            Some(line) if length < left => {
                line.push(' ');
                line.push_str(word);
                left -= length + 1;
            }
            _ => {
                lines.push(word.to_owned());
                left = room.saturating_sub(length);
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Vec<Finding> {
        let finding = |need, subject, verdict, text| Finding::new(need, subject, verdict, text);
        vec![
            finding(Need::Relay, "ports", Verdict::Fine, "free"),
            finding(Need::Relay, "open files", Verdict::Warning, "few"),
            finding(
                Need::Kernel,
                "ip_forward",
                Verdict::Problem,
                "net.ipv4.ip_forward is 0: sysctl -w net.ipv4.ip_forward=1",
            ),
        ]
    }

    fn shown(forwarding: Forwarding, width: Option<usize>, colour: bool) -> String {
        Table {
            findings: &findings(),
            forwarding,
            width,
            colour,
        }
        .to_string()
    }

    #[test]
    fn a_line_each_in_a_pipe() {
        let want = "\
ok       ports       free
warning  open files  few
PROBLEM  ip_forward  net.ipv4.ip_forward is 0: sysctl -w net.ipv4.ip_forward=1
1 problem, 1 warning; the relay will not start (forwarding = kernel)
";
        assert_eq!(shown(Forwarding::Kernel, None, false), want);
    }

    #[test]
    fn wrapped_and_coloured_on_a_terminal() {
        let want = "\
\x1b[32mok     \x1b[0m  ports       free
\x1b[33mwarning\x1b[0m  open files  few
\x1b[33mwarning\x1b[0m  ip_forward  net.ipv4.ip_forward is 0:
                     sysctl -w
                     net.ipv4.ip_forward=1
no problems, 2 warnings; media is relayed in user
space until the kernel can forward it (forwarding
= auto)
";
        assert_eq!(shown(Forwarding::Auto, Some(50), true), want);
    }

    #[test]
    fn lines_end_at_blanks() {
        assert_eq!(wrap("", Some(5)), [""; 0]);
        assert_eq!(wrap("ab cd efghijk l", Some(5)), ["ab cd", "efghijk", "l"]);
        assert_eq!(wrap("ab  cd", None), ["ab  cd"]);
    }
}
