//! A daemon's certificate and key, the CAs and lists beside them, and all their dates.

use std::path::Path;
use std::time::Duration;

use super::{Finding, Need, Verdict};
use crate::tls::{Context, Validity};

const SUBJECT: &str = "certificates";

/// What ends sooner is worth a warning, seconds.
const SOON: i64 = 14 * 24 * 3600;

fn finding(verdict: Verdict, text: String) -> Finding {
    Finding::new(Need::Relay, SUBJECT, verdict, text)
}

/// The files of `role` (`relay` or `dispatcher`) in a directory, with the rights of the calling thread.
pub fn certificates(directory: &Path, role: &str) -> Vec<Finding> {
    let (context, warnings) = match Context::load(directory, role) {
        Ok(loaded) => loaded,
        Err(error) => return vec![finding(Verdict::Problem, error.explain(directory, role))],
    };
    let warnings = warnings.into_iter();
    let mut findings: Vec<Finding> = warnings
        .map(|text| finding(Verdict::Warning, text))
        .collect();
    let validity = context.own_validity();
    findings.extend(validity.map(|validity| own(directory, role, &validity)));
    let lists = context.lists_due().into_iter();
    findings.extend(lists.filter_map(|(issuer, due, whole)| list(directory, &issuer, &due, whole)));
    findings
}

fn own(directory: &Path, role: &str, Validity { seconds_left, end }: &Validity) -> Finding {
    let directory = directory.display();
    let file = format!("{directory}/{role}.crt");
    let renew = format!("mediaproxy-make-certs {directory} renew {role}, or ask who runs your CA");
    match *seconds_left {
        left if left < 0 => finding(
            Verdict::Problem,
            format!("{file} ended on {end}, nobody accepts it: {renew}"),
        ),
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
    let (directory, end) = (directory.display(), &due.end);
    match due.seconds_left {
        left if left < 0 => None,
        left if left < SOON.min(whole / 4) => Some(finding(
            Verdict::Warning,
            format!(
                "{directory}/crl.pem: the list of \"{issuer}\" is to be renewed by {end}; before that: \
                 mediaproxy-make-certs {directory} crl, or ask who runs your CA"
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
        let judged = |seconds_left| own(Path::new("tls"), "relay", &validity(seconds_left));
        assert_eq!(judged(SOON).verdict, Verdict::Fine);
        assert_eq!(judged(SOON - 1).verdict, Verdict::Warning);
        let over = judged(-1);
        assert_eq!(over.verdict, Verdict::Problem);
        assert!(over.text.contains("ended on 2026-11-23") && over.text.contains("renew relay"));
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
        assert!(text.contains("mediaproxy-make-certs tls crl"), "{text}");
        assert_eq!(judged(-1, 365), None);
    }
}
