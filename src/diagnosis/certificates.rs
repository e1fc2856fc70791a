//! A daemon's certificate and key, the CAs and lists beside them, and all their dates.

use std::path::Path;
use std::time::Duration;

use super::{Finding, Need, Verdict};
use crate::tls::{Context, Paths, Validity, advice};

const SUBJECT: &str = "certificates";

/// What ends sooner is worth a warning, seconds.
const SOON: i64 = 14 * 24 * 3600;

fn finding(verdict: Verdict, text: String) -> Finding {
    Finding::new(Need::Relay, SUBJECT, verdict, text)
}

/// The files of `role` (`relay` or `dispatcher`) in a directory, with the rights of the calling thread.
pub fn certificates(directory: &Path, role: &str) -> Vec<Finding> {
    let paths = Paths::new(directory, role);
    let (context, warnings) = match Context::read(&paths) {
        Ok(loaded) => loaded,
        Err(error) => return vec![finding(Verdict::Problem, error.explain(directory, role))],
    };
    let warnings = warnings.into_iter();
    let mut findings: Vec<Finding> = warnings
        .map(|text| finding(Verdict::Warning, text))
        .collect();
    findings.extend(match context.own_certificate_warning(&paths) {
        // Who refuses it is everybody.
        Some(text) => Some(finding(Verdict::Problem, text)),
        None => context.own_validity().map(|validity| {
            let renew = advice::renew(directory, role, &context.own_name(role));
            own(directory, role, &validity, &renew)
        }),
    });
    let lists = context.lists_due().into_iter();
    findings.extend(lists.filter_map(|(issuer, due, whole)| list(directory, &issuer, &due, whole)));
    findings
}

/// A certificate that is valid now.
fn own(directory: &Path, role: &str, validity: &Validity, renew: &str) -> Finding {
    let Validity { seconds_left, end } = validity;
    let file = format!("{}/{role}.crt", directory.display());
    match *seconds_left {
        left if left < SOON => finding(
            Verdict::Warning,
            format!("{file} ends on {end}; before that: {renew}"),
        ),
        _ => finding(Verdict::Fine, format!("{file}, valid to {end}")),
    }
}

/// A list of revoked certificates; one whose time is over has been told of by who read it. Where lists are made for a
/// week, one that has ten days left never was: a quarter of its time is soon, too.
fn list(directory: &Path, issuer: &str, due: &Validity, whole: Duration) -> Option<Finding> {
    let whole = i64::try_from(whole.as_secs()).unwrap_or(i64::MAX);
    let (renew, directory, end) = (advice::list(directory), directory.display(), &due.end);
    match due.seconds_left {
        left if left < 0 => None,
        left if left < SOON.min(whole / 4) => Some(finding(
            Verdict::Warning,
            format!(
                "{directory}/crl.pem: the list of \"{issuer}\" is to be renewed by {end}; before that: {renew}"
            ),
        )),
        _ => Some(finding(
            Verdict::Fine,
            format!("{directory}/crl.pem, the next one is due by {end}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validity(seconds_left: i64) -> Validity {
        let end = "2026-11-23 21:00:00 UTC".to_owned();
        Validity { seconds_left, end }
    }

    #[test]
    fn certificates_end() {
        let judged = |left| own(Path::new("tls"), "relay", &validity(left), "renew it");
        assert_eq!(judged(SOON).verdict, Verdict::Fine);
        let soon = judged(SOON - 1);
        assert_eq!(soon.verdict, Verdict::Warning);
        assert!(soon.text.contains("ends on 2026-11-23") && soon.text.ends_with("renew it"));
    }

    #[test]
    fn lists_are_due() {
        let judged = |seconds_left, days: u64| {
            let whole = Duration::from_secs(days * 24 * 3600);
            list(Path::new("tls"), "CN=x", &validity(seconds_left), whole)
                .map(|found| (found.verdict, found.text))
        };
        let verdict = |left, days| judged(left, days).map(|(verdict, _)| verdict);
        assert_eq!(verdict(SOON, 365), Some(Verdict::Fine));
        assert_eq!(verdict(6 * 24 * 3600, 7), Some(Verdict::Fine));
        assert_eq!(verdict(24 * 3600, 7), Some(Verdict::Warning));
        let (verdict, text) = judged(SOON - 1, 365).unwrap();
        assert_eq!(verdict, Verdict::Warning);
        assert!(text.contains("mediaproxy-make-certs CA-DIR crl"), "{text}");
        assert_eq!(judged(-1, 365), None);
    }
}
