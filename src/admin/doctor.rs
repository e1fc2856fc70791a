//! `doctor`: looks at this host and names what is wrong, with the command or file that mends it. Changes nothing.
//!
//! What a relay needs is looked at as `media-relay --check` does (crate::diagnosis); here is what goes beyond it.

mod access;
mod common;
mod dispatcher;
mod links;
mod process;
mod relay;
mod sockets;
mod user;

use std::path::Path;

use serde::Serialize;

use super::options::{Command, Options};
use super::units::{clean, colour, width, wrap};
use super::{Outcome, print};
use crate::config::{self, ConfigError, FILE_NAME, Roles};
use crate::diagnosis::{self, Verdict};
use crate::sys::remedy;
use crate::words::counted;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is about, in a word or two.
    pub subject: String,
    pub verdict: Verdict,
    /// What there is; where it is not fine, what is wrong and what mends it.
    pub text: String,
}

impl From<diagnosis::Finding> for Finding {
    fn from(found: diagnosis::Finding) -> Finding {
        match found.verdict {
            Verdict::Warning => told(&found.subject, &found.text),
            verdict => Finding::new(verdict, &found.subject, found.text),
        }
    }
}

/// A daemon of ours that runs on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    pub name: &'static str,
    /// The command after which it has read its configuration again.
    pub again: &'static str,
    /// None where this user cannot see it.
    pub pid: Option<i32>,
}

#[derive(Serialize)]
struct Line<'a> {
    area: &'a str,
    subject: &'a str,
    verdict: &'a str,
    text: &'a str,
}

/// What was looked at together: the host, the relay, the dispatcher.
struct Area {
    name: &'static str,
    findings: Vec<Finding>,
}

impl Finding {
    pub fn new(verdict: Verdict, subject: &str, text: impl Into<String>) -> Finding {
        Finding {
            subject: subject.to_owned(),
            verdict,
            text: text.into(),
        }
    }
}

pub fn fine(subject: &str, text: impl Into<String>) -> Finding {
    Finding::new(Verdict::Fine, subject, text)
}

pub fn warning(subject: &str, text: impl Into<String>) -> Finding {
    Finding::new(Verdict::Warning, subject, text)
}

pub fn problem(subject: &str, text: impl Into<String>) -> Finding {
    Finding::new(Verdict::Problem, subject, text)
}

/// Repeats the warnings of the daemons' start. A secret that others can read is a problem, not a warning.
pub fn told(subject: &str, text: &str) -> Finding {
    match remedy::tells_of_open(text) {
        true => problem(subject, text),
        false => warning(subject, text),
    }
}

/// Looks at everything that the configuration has.
pub fn run(options: &Options) -> Outcome {
    let Command::Doctor {
        config_dir,
        runtime_dir,
    } = &options.command
    else {
        return Outcome::Fine;
    };
    let areas = look(config_dir, runtime_dir);
    match options.json {
        true => areas.iter().for_each(print_json),
        false => print_table(&areas),
    }
    let findings = areas.iter().flat_map(|area| &area.findings);
    match findings.map(|finding| finding.verdict).max() {
        Some(Verdict::Problem) => Outcome::Bad,
        _ => Outcome::Fine,
    }
}

fn look(config_dir: &Path, runtime_dir: &Path) -> Vec<Area> {
    let Roles {
        relay,
        dispatcher,
        dispatcher_by_certificate,
    } = config::roles(config_dir);
    let mut host = vec![common::clock()];
    if !relay && !dispatcher {
        host.push(nobody(config_dir));
    }
    let mut areas = vec![Area {
        name: "host",
        findings: host,
    }];
    if relay {
        areas.push(Area {
            name: "relay",
            findings: relay::look(config_dir),
        });
    }
    // Without anything the defaults are a dispatcher's; a relay needs a key.
    if dispatcher || !relay {
        areas.push(Area {
            name: "dispatcher",
            findings: dispatcher::look(
                config_dir,
                runtime_dir,
                !(relay && dispatcher_by_certificate),
            ),
        });
    }
    areas
}

/// Each thing that is wrong with a configuration, and what else is odd in it.
pub fn unusable(error: &ConfigError) -> Vec<Finding> {
    let subject = "configuration";
    let errors = error.messages().into_iter();
    let mut findings: Vec<Finding> = errors.map(|text| problem(subject, text)).collect();
    findings.extend(error.warnings().iter().map(|text| told(subject, text)));
    findings
}

/// Nothing here is of either daemon.
fn nobody(config_dir: &Path) -> Finding {
    let file = config_dir.join(FILE_NAME);
    warning(
        "daemons",
        format!(
            "{} sets no key of [Relay] or [Dispatcher], and there is no certificate of either: a dispatcher with all \
             defaults is looked at; for a relay set [Relay] dispatchers",
            file.display()
        ),
    )
}

fn word(verdict: Verdict) -> (&'static str, &'static str) {
    match verdict {
        Verdict::Fine => ("ok", "\x1b[32m"),
        Verdict::Warning => ("warning", "\x1b[33m"),
        Verdict::Problem => ("PROBLEM", "\x1b[31m"),
    }
}

fn print_json(area: &Area) {
    for finding in &area.findings {
        let line = Line {
            area: area.name,
            subject: &finding.subject,
            verdict: &word(finding.verdict).0.to_lowercase(),
            text: &finding.text,
        };
        if let Ok(json) = serde_json::to_string(&line) {
            print(&format!("{json}\n"));
        }
    }
}

fn print_table(areas: &[Area]) {
    for line in table(areas, width(), colour()) {
        print(&format!("{line}\n"));
    }
}

/// What is wrong stands out; what mends it is in its text.
fn table(areas: &[Area], width: Option<usize>, colour: bool) -> Vec<String> {
    const WORD: usize = "warning".len();
    let all = || areas.iter().flat_map(|area| &area.findings);
    let subjects = all()
        .map(|finding| finding.subject.len())
        .max()
        .unwrap_or(0);
    let indent = WORD + subjects + 4;
    let room = width.map(|width| width.saturating_sub(indent + 1).max(30));
    let mut lines = Vec::new();
    for area in areas {
        lines.push(format!("{}:", area.name));
        for finding in &area.findings {
            let (word, code) = word(finding.verdict);
            let (before, after) = if colour { (code, "\x1b[0m") } else { ("", "") };
            let texts = wrap(&clean(&finding.text), room);
            let first = texts.first().map_or("", String::as_str);
            let subject = &finding.subject;
            lines.push(format!(
                "{before}{word:WORD$}{after}  {subject:subjects$}  {first}"
            ));
            lines.extend(
                texts
                    .iter()
                    .skip(1)
                    .map(|text| format!("{:indent$}{text}", "")),
            );
        }
    }
    let count = |verdict| all().filter(|finding| finding.verdict == verdict).count() as u64;
    let (problems, warnings) = (count(Verdict::Problem), count(Verdict::Warning));
    let (problems, warnings) = (counted(problems, "problem"), counted(warnings, "warning"));
    lines.push(format!("{problems}, {warnings}"));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_in_a_pipe_and_on_a_terminal() {
        let areas = [Area {
            name: "host",
            findings: vec![
                fine("clock", "right"),
                problem(
                    "state_dir",
                    "is not there: mkdir -p /var/lib/mediaproxy\x1b",
                ),
            ],
        }];
        let want = [
            "host:",
            "ok       clock      right",
            "PROBLEM  state_dir  is not there: mkdir -p /var/lib/mediaproxy\\u{1b}",
            "1 problem, 0 warnings",
        ];
        assert_eq!(table(&areas, None, false), want);
        let narrow = table(&areas, Some(50), true);
        assert_eq!(
            narrow[2],
            "\x1b[31mPROBLEM\x1b[0m  state_dir  is not there: mkdir -p"
        );
        assert_eq!(narrow[3], format!("{:20}/var/lib/mediaproxy\\u{{1b}}", ""));
    }
}
