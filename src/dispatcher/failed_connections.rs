//! Connections that came to nothing: counted by cause, and said once a minute for each, with an example. Strangers cause
//! them at will. Pure: the time is passed in.

use std::time::Duration;

use crate::door::Turned;
use crate::moment::Moment;
use crate::tls::{Error, Reason};

/// How often one cause is said.
const INTERVAL: Duration = Duration::from_secs(60);

/// A port that strangers reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    Relays,
    Management,
}

pub(super) const PORTS: [(Port, &str); 2] =
    [(Port::Relays, "relays"), (Port::Management, "management")];

/// What was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It went before it was let in: checks and monitors do.
    Closed,
    TimedOut,
    GaveWay,
    OverBudget,
    NoRoom,
    Network,
    /// No TLS, or none in common.
    Tls,
    /// It does not accept our certificate.
    OursRefused,
    NoCertificate,
    UnknownIssuer,
    OutOfDate,
    Revoked,
    Passport,
    /// Any other certificate that is refused.
    Certificate,
}

const CAUSES: [(Cause, &str); 14] = [
    (Cause::Closed, "closed"),
    (Cause::TimedOut, "timed_out"),
    (Cause::GaveWay, "gave_way"),
    (Cause::OverBudget, "over_budget"),
    (Cause::NoRoom, "no_room"),
    (Cause::Network, "network"),
    (Cause::Tls, "tls"),
    (Cause::OursRefused, "ours_refused"),
    (Cause::NoCertificate, "no_certificate"),
    (Cause::UnknownIssuer, "unknown_issuer"),
    (Cause::OutOfDate, "out_of_date"),
    (Cause::Revoked, "revoked"),
    (Cause::Passport, "passport"),
    (Cause::Certificate, "certificate"),
];

impl Cause {
    /// That of a handshake.
    pub fn of(error: &Error) -> Cause {
        match error {
            Error::TimedOut(_) => Cause::TimedOut,
            Error::Closed => Cause::Closed,
            Error::Io(_) => Cause::Network,
            Error::Alert(_) if error.is_refusal() => Cause::OursRefused,
            Error::Alert(_) | Error::Protocol(_) => Cause::Tls,
            Error::Refused { reason, .. } => match reason {
                Reason::Missing => Cause::NoCertificate,
                Reason::UnknownIssuer { .. } | Reason::BadSignature { .. } => Cause::UnknownIssuer,
                Reason::Expired { .. } | Reason::NotYetValid { .. } | Reason::CaExpired { .. } => {
                    Cause::OutOfDate
                }
                Reason::Revoked { .. } => Cause::Revoked,
                Reason::Passport(_) => Cause::Passport,
                _ => Cause::Certificate,
            },
        }
    }

    /// Returns true where nobody needs to know.
    pub fn is_harmless(self) -> bool {
        self == Cause::Closed
    }
}

impl From<Turned> for Cause {
    fn from(why: Turned) -> Cause {
        match why {
            Turned::Closed => Cause::Closed,
            Turned::TimedOut(_) => Cause::TimedOut,
            Turned::GaveWay => Cause::GaveWay,
            Turned::OverBudget => Cause::OverBudget,
            Turned::Busy => Cause::NoRoom,
        }
    }
}

/// Those of one port.
#[derive(Debug, Default)]
pub struct FailedConnections {
    counts: [u64; CAUSES.len()],
    untold: [Untold; CAUSES.len()],
}

/// What was not said yet of one cause.
#[derive(Debug, Default)]
struct Untold {
    /// When it was last said.
    said: Option<Moment>,
    count: u64,
    example: String,
}

impl FailedConnections {
    /// Counts one; what to say of it now, where nothing was said of that cause in the last minute.
    pub fn note(
        &mut self,
        cause: Cause,
        now: Moment,
        example: impl FnOnce() -> String,
    ) -> Option<String> {
        if let Some(count) = self.counts.get_mut(cause as usize) {
            *count += 1;
        }
        let untold = self.untold.get_mut(cause as usize)?;
        if untold.said.is_none() {
            untold.said = Some(now);
            return Some(example());
        }
        untold.count += 1;
        if untold.count == 1 {
            untold.example = example();
        }
        None
    }

    /// What is to be said now, a minute after the last line of its cause.
    pub fn due(&mut self, now: Moment) -> Vec<(Cause, String)> {
        let each = CAUSES.iter().zip(&mut self.untold);
        each.filter_map(|((cause, _), untold)| Some((*cause, untold.due(now)?)))
            .collect()
    }

    /// How many there were of each.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        CAUSES.iter().map(|(_, name)| *name).zip(self.counts)
    }
}

impl Untold {
    fn due(&mut self, now: Moment) -> Option<String> {
        if self.said.is_none_or(|said| now < said + INTERVAL) {
            return None;
        }
        // The first after a quiet minute is said at once.
        self.said = (self.count > 0).then_some(now);
        let more = std::mem::take(&mut self.count).checked_sub(1)?;
        let example = std::mem::take(&mut self.example);
        Some(match more {
            0 => example,
            more => format!("{example} (and {more} more like it in the last minute)"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::after_start(Duration::from_secs(seconds))
    }

    #[test]
    fn names_stand_at_their_numbers() {
        for (at, (cause, _)) in CAUSES.iter().enumerate() {
            assert_eq!(*cause as usize, at);
        }
    }

    #[test]
    fn a_flood_is_one_line_a_minute_with_its_number() {
        let mut failures = FailedConnections::default();
        let mut lines = Vec::new();
        for second in 0..180 {
            for n in 0..5_000 {
                let example = || format!("a{second}.{n}");
                lines.extend(failures.note(Cause::Tls, at(second), example));
            }
            lines.extend(failures.due(at(second)).into_iter().map(|(_, line)| line));
        }
        let expected = [
            "a0.0",
            "a0.1 (and 304998 more like it in the last minute)",
            "a61.0 (and 299999 more like it in the last minute)",
        ];
        assert_eq!(lines, expected);
        assert!(failures.counts().any(|one| one == ("tls", 900_000)));
    }

    #[test]
    fn the_last_ones_are_said_and_the_first_after_a_quiet_minute_at_once() {
        let failures = &mut FailedConnections::default();
        let note = |failures: &mut FailedConnections, cause, now, text: &str| {
            failures.note(cause, at(now), || text.to_owned()).is_some()
        };
        assert!(note(failures, Cause::Tls, 0, "a"));
        assert!(
            note(failures, Cause::Revoked, 1, "b"),
            "each cause by itself"
        );
        assert!(!note(failures, Cause::Tls, 2, "c"));
        assert_eq!(failures.due(at(59)), []);
        assert_eq!(failures.due(at(60)), [(Cause::Tls, "c".to_owned())]);
        assert!(!note(failures, Cause::Tls, 61, "d"));
        assert_eq!(failures.due(at(119)), [], "that of b has nothing to add");
        assert_eq!(failures.due(at(120)), [(Cause::Tls, "d".to_owned())]);
        assert_eq!(failures.due(at(180)), []);
        assert!(note(failures, Cause::Tls, 181, "e"));
    }
}
