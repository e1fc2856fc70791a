//! One thing that was looked at on a host: how bad it is, and what mends it.

use crate::config::Forwarding;
use crate::sys::file_access;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Fine,
    /// Works, but not as well as it could, or not for everybody.
    Warning,
    /// Does not work.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is about, in a word or two.
    pub subject: String,
    pub severity: Severity,
    /// What there is; where it is not fine, what is wrong and the command or file that mends it.
    pub text: String,
    /// Media in the kernel needs it; a relay in user space does not.
    pub is_for_kernel: bool,
}

impl Finding {
    fn new(severity: Severity, subject: &str, text: impl Into<String>) -> Finding {
        Finding {
            subject: subject.to_owned(),
            severity,
            text: text.into(),
            is_for_kernel: false,
        }
    }

    /// Marks what only media in the kernel needs.
    pub fn for_kernel(self) -> Finding {
        Finding {
            is_for_kernel: true,
            ..self
        }
    }

    /// The same with this setting: a relay that can do without the kernel works all the same.
    pub fn with_forwarding(mut self, forwarding: Forwarding) -> Finding {
        if self.is_for_kernel && forwarding == Forwarding::Auto {
            self.severity = self.severity.min(Severity::Warning);
        }
        self
    }
}

pub fn fine(subject: &str, text: impl Into<String>) -> Finding {
    Finding::new(Severity::Fine, subject, text)
}

pub fn warning(subject: &str, text: impl Into<String>) -> Finding {
    Finding::new(Severity::Warning, subject, text)
}

pub fn problem(subject: &str, text: impl Into<String>) -> Finding {
    Finding::new(Severity::Problem, subject, text)
}

/// Judges a warning of the daemons' start as an administrator who asks does: a secret that others can read is a problem.
pub fn strict(mut finding: Finding) -> Finding {
    if finding.severity == Severity::Warning && file_access::tells_of_exposure(&finding.text) {
        finding.severity = Severity::Problem;
    }
    finding
}

/// The worst of them.
pub fn worst<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> Severity {
    let severities = findings.into_iter().map(|finding| finding.severity);
    severities.max().unwrap_or(Severity::Fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_of_the_kernel_path_are_warnings_where_user_space_will_do() {
        let kernel = |forwarding| problem("", "").for_kernel().with_forwarding(forwarding);
        assert_eq!(kernel(Forwarding::Auto).severity, Severity::Warning);
        assert_eq!(kernel(Forwarding::Kernel).severity, Severity::Problem);
        let relay = problem("", "").with_forwarding(Forwarding::Auto);
        assert_eq!(relay.severity, Severity::Problem);
    }
}
