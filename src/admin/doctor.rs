//! `doctor`: looks at this host and names what is wrong, with the command or file that mends it. Changes nothing.
//!
//! What a relay needs is looked at as `media-relay --check` does (diagnosis/relay_host.rs); here is what goes beyond it.

mod access;
mod dispatcher;
mod relay;

use std::path::Path;

use serde::Serialize;

use super::options::{Command, Options};
use super::{Outcome, print};
use crate::config::{self, ConfigError, FILE_NAME, Roles};
use crate::diagnosis::daemon;
use crate::diagnosis::finding::{Finding, Severity, problem, strict, warning, worst};
use crate::diagnosis::table::{Table, counts, subject_width, word};
use crate::words::counted;

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

/// Looks at everything that the configuration has.
pub(super) fn run(options: &Options) -> Outcome {
    let Command::Doctor {
        config_dir,
        runtime_dir,
    } = &options.command
    else {
        return Outcome::Fine;
    };
    let areas = look(config_dir, runtime_dir);
    if options.json {
        areas.iter().for_each(print_json);
    } else {
        print_table(&areas);
    }
    let findings = areas.iter().flat_map(|area| &area.findings);
    match worst(findings) {
        Severity::Problem => Outcome::Bad,
        Severity::Fine | Severity::Warning => Outcome::Fine,
    }
}

fn look(config_dir: &Path, runtime_dir: &Path) -> Vec<Area> {
    let Roles {
        relay,
        dispatcher,
        dispatcher_by_certificate,
    } = config::roles(config_dir);
    let mut host = vec![daemon::clock()];
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
pub(super) fn unusable(error: &ConfigError) -> Vec<Finding> {
    let subject = "configuration";
    let errors = error.messages().into_iter();
    let mut findings: Vec<Finding> = errors.map(|text| problem(subject, text)).collect();
    findings.extend(
        error
            .warnings()
            .iter()
            .map(|text| strict(warning(subject, text))),
    );
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

fn print_json(area: &Area) {
    for finding in &area.findings {
        let line = Line {
            area: area.name,
            subject: &finding.subject,
            verdict: &word(finding.severity).0.to_lowercase(),
            text: &finding.text,
        };
        if let Ok(json) = serde_json::to_string(&line) {
            print(&format!("{json}\n"));
        }
    }
}

fn print_table(areas: &[Area]) {
    for line in lines(areas, Table::of_stdout()) {
        print(&format!("{line}\n"));
    }
}

fn lines(areas: &[Area], table: Table) -> Vec<String> {
    let all = || areas.iter().flat_map(|area| &area.findings);
    let subjects = subject_width(all());
    let mut lines = Vec::new();
    for area in areas {
        lines.push(format!("{}:", area.name));
        lines.extend(table.lines(&area.findings, subjects));
    }
    let (problems, warnings) = counts(all());
    let (problems, warnings) = (counted(problems, "problem"), counted(warnings, "warning"));
    lines.push(format!("{problems}, {warnings}"));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::finding::fine;

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
        assert_eq!(
            lines(
                &areas,
                Table {
                    width: None,
                    colour: false
                }
            ),
            want
        );
        let narrow = lines(
            &areas,
            Table {
                width: Some(50),
                colour: true,
            },
        );
        assert_eq!(
            narrow[2],
            "\x1b[31mPROBLEM\x1b[0m  state_dir  is not there: mkdir -p"
        );
        assert_eq!(narrow[3], format!("{:20}/var/lib/mediaproxy\\u{{1b}}", ""));
    }
}
