//! `media-relay --check`: what a relay's host must have, as a table and an exit status.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::process::ExitCode;

use super::finding::{Finding, Severity, worst};
use super::relay_host;
use super::table::{Table, counts, subject_width};
use crate::cli::Options;
use crate::config::{self, Forwarding};
use crate::text_layout::wrap;

/// Prints what was found. Exit status 0 when nothing is a problem, else 1.
pub fn main(options: &Options) -> ExitCode {
    let loaded = match config::load_relay(&options.config_dir) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let findings = relay_host::look(&loaded);
    let (text, severity) = report(findings, loaded.config.forwarding, Table::of_stdout());
    // Nobody to read it is no reason to fail.
    let _ = io::stdout().write_all(text.as_bytes());
    if severity == Severity::Problem {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// The table with its summary, and the worst of it with this setting.
fn report(findings: Vec<Finding>, forwarding: Forwarding, table: Table) -> (String, Severity) {
    let outcome = outcome(&findings, forwarding);
    let findings = findings.into_iter();
    let findings: Vec<Finding> = findings
        .map(|finding| finding.with_forwarding(forwarding))
        .collect();
    let (problems, warnings) = counts(&findings);
    let summary = format!(
        "{}, {}; {outcome}",
        counted(problems, "problem"),
        counted(warnings, "warning")
    );
    let mut text = String::new();
    let lines = table.lines(&findings, subject_width(&findings));
    for line in lines.into_iter().chain(wrap(&summary, table.width)) {
        let _ = writeln!(text, "{line}");
    }
    (text, worst(&findings))
}

fn counted(count: usize, what: &str) -> String {
    match count {
        0 => format!("no {what}s"),
        count => crate::words::counted(count, what),
    }
}

/// Returns the last line of `--check`: the verdict on all findings.
fn outcome(findings: &[Finding], forwarding: Forwarding) -> &'static str {
    let has_problem = |is_for_kernel| {
        let mut findings = findings.iter();
        findings.any(|finding| {
            finding.is_for_kernel == is_for_kernel && finding.severity == Severity::Problem
        })
    };
    match forwarding {
        _ if has_problem(false) => "the relay cannot work",
        Forwarding::Userspace => "media is relayed in user space (forwarding = userspace)",
        _ if !has_problem(true) => "the kernel can forward media",
        Forwarding::Auto => {
            "media is relayed in user space until the kernel can forward it (forwarding = auto)"
        }
        Forwarding::Kernel => "the relay will not start (forwarding = kernel)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::finding::{fine, problem, warning};

    fn findings() -> Vec<Finding> {
        vec![
            fine("ports", "free"),
            warning("open files", "few"),
            problem(
                "ip_forward",
                "net.ipv4.ip_forward is 0: sysctl -w net.ipv4.ip_forward=1",
            )
            .for_kernel(),
        ]
    }

    fn shown(forwarding: Forwarding, width: Option<usize>, colour: bool) -> (String, Severity) {
        report(findings(), forwarding, Table { width, colour })
    }

    #[test]
    fn a_line_each_in_a_pipe() {
        let want = "\
ok       ports       free
warning  open files  few
PROBLEM  ip_forward  net.ipv4.ip_forward is 0: sysctl -w net.ipv4.ip_forward=1
1 problem, 1 warning; the relay will not start (forwarding = kernel)
";
        let (text, severity) = shown(Forwarding::Kernel, None, false);
        assert_eq!((text.as_str(), severity), (want, Severity::Problem));
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
        let (text, severity) = shown(Forwarding::Auto, Some(50), true);
        assert_eq!((text.as_str(), severity), (want, Severity::Warning));
    }
}
