//! Why a relay has refused a call: it says `error` and no more, and its summary tells whether ports are what it lacks.
//! Pure: the time is passed in.

use std::time::Duration;

use serde::Deserialize;

use crate::moment::Moment;
use crate::objects::objects_only;

/// A relay that refuses call after call is not asked more often.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// Nor is it said more often that it has none.
const SAY_INTERVAL: Duration = Duration::from_secs(60);

/// What is known of ports that one relay lacks.
#[derive(Debug, Default)]
pub(super) struct PortShortage {
    asked: Option<Moment>,
    said: Option<Moment>,
    /// Refusals for want of ports that it has told of.
    refused: Option<u64>,
}

/// What matters of a relay's summary.
#[derive(Deserialize)]
#[serde(remote = "Self")]
struct PortSummary {
    streams_left: u64,
    streams_fit: u64,
    refused_for_ports: u64,
}
objects_only!(PortSummary);

impl PortShortage {
    /// It has refused streams; true where it is to be asked for its summary.
    pub(super) fn is_to_be_asked(&mut self, now: Moment) -> bool {
        let is_due = self.asked.is_none_or(|asked| now >= asked + ASK_INTERVAL);
        if is_due {
            self.asked = Some(now);
        }
        is_due
    }

    /// Takes the summary; a sentence for the log where it lacks ports and that was not said in the last minute.
    pub(super) fn told(&mut self, summary: &[u8], now: Moment) -> Option<String> {
        let PortSummary {
            streams_left: left,
            streams_fit: fit,
            refused_for_ports: refused,
        } = serde_json::from_slice(summary).ok()?;
        // Ports may have come free since: that more was refused is as certain as that none are left.
        let before = self.refused.replace(refused);
        let has_refused = before.is_some_and(|before| refused > before);
        let is_quiet = self.said.is_some_and(|said| now < said + SAY_INTERVAL);
        if is_quiet || (left > 0 && !has_refused) {
            return None;
        }
        self.said = Some(now);
        Some(format!(
            "it refuses calls for want of ports: {left} of {fit} streams are left there, requests refused since its \
             start: {refused}: widen its port_range, and the firewall, or add a relay"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::after_start(Duration::from_secs(seconds))
    }

    fn summary(left: u64, refused: u64) -> Vec<u8> {
        format!(
            "{{\"ip\": \"192.0.2.1\", \"streams_left\": {left}, \"streams_fit\": 50, \"refused_for_ports\": {refused}}}"
        )
        .into_bytes()
    }

    #[test]
    fn a_full_relay_is_told_of_once_a_minute() {
        let mut shortage = PortShortage::default();
        let text = shortage.told(&summary(0, 1), at(10)).unwrap();
        let want = "it refuses calls for want of ports: 0 of 50 streams are left there, requests refused since its start: 1: widen";
        assert!(text.starts_with(want), "{text}");
        assert_eq!(shortage.told(&summary(0, 2), at(69)), None);
        assert!(shortage.told(&summary(0, 3), at(70)).is_some());
    }

    #[test]
    fn a_relay_that_refused_for_another_reason_is_not_told_of() {
        let mut shortage = PortShortage::default();
        assert_eq!(
            shortage.told(&summary(7, 3), at(1)),
            None,
            "it was full once"
        );
        assert_eq!(shortage.told(&summary(7, 3), at(2)), None);
        // Two streams were wanted, or one came free since.
        assert!(shortage.told(&summary(1, 4), at(3)).is_some());
        for other in [&b"error"[..], b"{}", b"{\"streams_left\": 0}"] {
            assert_eq!(PortShortage::default().told(other, at(1)), None);
        }
    }

    #[test]
    fn a_relay_is_asked_once_a_second() {
        let mut shortage = PortShortage::default();
        assert!(shortage.is_to_be_asked(at(5)));
        assert!(!shortage.is_to_be_asked(at(5)));
        assert!(shortage.is_to_be_asked(at(6)));
    }
}
