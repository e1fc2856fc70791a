//! Which sessions a client wants to see: a look into a relay's JSON, which is shown as it came. Pure.

use std::net::IpAddr;

use crate::proto::record::{CallRecord, OfferedStream, Scalar, StreamRecord};

/// All that is given must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// The whole call-id.
    pub call_id: Option<String>,
    /// Or how it begins, where no call has exactly this one.
    pub beginning: Option<String>,
    /// How else relays may tell it, where it is not UTF-8.
    pub spellings: Vec<String>,
    /// A part of the caller's or callee's URI, or of the username; upper and lower case are the same.
    pub user: Option<String>,
    /// An address, with or without its port: in the SDP, learned, of the caller's SIP messages, or the relay's own.
    pub address: Option<String>,
    /// A relay's name or address.
    pub relay: Option<String>,
    /// What may be any of these: a part of a URI or of the username, an address, how the call-id begins.
    pub any: Option<String>,
}

impl Filter {
    /// Whether a session's own text has to be looked at.
    pub(crate) fn looks_at_sessions(&self) -> bool {
        let given = [&self.call_id, &self.user, &self.address, &self.any];
        given.into_iter().any(Option::is_some)
    }

    /// Whether a session of one of the relays that are asked fits; it is on the relay of this address. What cannot be
    /// read does not.
    pub(crate) fn fits(&self, session: &str, relay: IpAddr) -> bool {
        if !self.looks_at_sessions() {
            return true;
        }
        let Ok(seen) = CallRecord::parse(session) else {
            return false;
        };
        let has_call_id = |wanted: &String| match &seen.exact {
            Some(exact) => *wanted == exact.call_id || *wanted == seen.call_id,
            None => {
                *wanted == seen.call_id || self.spellings.iter().any(|text| *text == seen.call_id)
            }
        };
        let begins = |prefix: &str| seen.exact_call_id().starts_with(prefix);
        let is_meant =
            |wanted: &String| has_call_id(wanted) || self.beginning.as_deref().is_some_and(begins);
        let is_any = |word: &String| {
            has_user(&seen, word) || has_address(&seen, word, relay) || begins(word)
        };
        self.call_id.as_ref().is_none_or(is_meant)
            && self.any.as_ref().is_none_or(is_any)
            && self.user.as_ref().is_none_or(|user| has_user(&seen, user))
            && self
                .address
                .as_ref()
                .is_none_or(|address| has_address(&seen, address, relay))
    }
}

fn has_user(seen: &CallRecord<'_>, part: &str) -> bool {
    let part = part.to_lowercase();
    let texts = [&seen.from_uri, &seen.to_uri, &seen.username];
    let mut texts = texts.into_iter().filter_map(Scalar::text);
    texts.any(|text| text.to_lowercase().contains(&part))
}

fn has_address(seen: &CallRecord<'_>, wanted: &str, relay: IpAddr) -> bool {
    let is_it = |address: &Scalar<'_>| {
        let rest = address.text().and_then(|text| text.strip_prefix(wanted));
        rest.is_some_and(|port| port.is_empty() || port.starts_with(':'))
    };
    let streams = seen.streams().iter().map(StreamRecord::addresses);
    let offered = seen.offered.iter().map(OfferedStream::addresses);
    let mut streams = streams.chain(offered).peekable();
    // An older relay says nothing of calls that ring but that they are there.
    if streams.peek().is_none() && relay.to_string() == wanted {
        return true;
    }
    is_it(&seen.signaling_ip) || streams.any(|addresses| addresses.into_iter().any(is_it))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELAY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 77));

    const SESSION: &str = r#"{"call_id": "a\u001bb", "from_uri": "Alice@example.com", "to_uri": "bob@example.org",
        "username": "a.smith", "streams": [{"caller_sdp": "10.0.0.5:4000", "caller_local": "192.0.2.1:40000",
        "callee_remote": "203.0.113.7:31022", "status": "active"}, {}]}"#;

    fn fits(change: impl FnOnce(&mut Filter)) -> bool {
        let mut filter = Filter::default();
        change(&mut filter);
        filter.fits(SESSION, RELAY)
    }

    #[test]
    fn each_filter_by_itself() {
        let user = |text: &str| fits(|filter| filter.user = Some(text.into()));
        let address = |text: &str| fits(|filter| filter.address = Some(text.into()));
        let call_id = |text: &str| fits(|filter| filter.call_id = Some(text.into()));
        let any = |text: &str| fits(|filter| filter.any = Some(text.into()));
        assert!(call_id("a\u{1b}b") && !call_id("a"));
        assert!(any("ALICE") && any("10.0.0.5") && any("a\u{1b}") && !any("\u{1b}b"));
        let begins = |text: &str| {
            fits(|filter| {
                filter.call_id = Some(text.into());
                filter.beginning = Some(text.into());
            })
        };
        assert!(begins("a\u{1b}") && !begins("b"));
        assert!(user("alice") && user("BOB@") && user("smith") && !user("carol"));
        assert!(address("10.0.0.5") && address("10.0.0.5:4000") && address("192.0.2.1"));
        assert!(address("203.0.113.7:31022"));
        assert!(!address("10.0.0.5:400") && !address("10.0.0") && !address("10.0.0.50"));
    }

    #[test]
    fn call_ids_that_are_not_utf_8() {
        let fits = |call_id: &str, session: &str| {
            let filter = Filter {
                call_id: Some(call_id.into()),
                spellings: vec!["caf\u{fffd}".into(), "caf?".into()],
                ..Filter::default()
            };
            filter.fits(session, RELAY)
        };
        let ours = r#"{"call_id": "caf\ufffd", "exact": {"call_id": "caf\\xe9", "from_tag": "t"}}"#;
        assert!(fits("caf\\xe9", ours) && fits("caf\u{fffd}", ours));
        assert!(!fits("caf\\xe8", ours), "another one that looks alike");
        assert!(
            fits("caf\\xe9", r#"{"call_id": "caf?"}"#),
            "an older relay's"
        );
        assert!(!fits("caf\\xe9", r#"{"call_id": "caf"}"#));
    }

    #[test]
    fn calls_that_ring_are_found_by_what_is_known_of_them() {
        let fits = |address: &str, session: &str| {
            let filter = Filter {
                address: Some(address.into()),
                ..Filter::default()
            };
            filter.fits(session, RELAY)
        };
        let ringing = r#"{"call_id": "a", "streams": [], "signaling_ip": "203.0.113.8", "offered":
            [{"caller_sdp": "10.0.0.5:4000", "callee_sdp": "Unknown", "caller_local": "192.0.2.1:40000"}]}"#;
        for address in ["10.0.0.5", "10.0.0.5:4000", "192.0.2.1", "203.0.113.8"] {
            assert!(fits(address, ringing), "{address}");
        }
        for address in ["10.0.0.6", "203.0.113.80", "192.0.2.77"] {
            assert!(!fits(address, ringing), "{address}");
        }
        let older = r#"{"call_id": "a", "streams": []}"#;
        assert!(fits("192.0.2.77", older) && !fits("192.0.2.7", older));
    }

    #[test]
    fn all_must_fit() {
        let both = |user: &str, address: &str| {
            fits(|filter| {
                filter.user = Some(user.into());
                filter.address = Some(address.into());
            })
        };
        assert!(both("alice", "192.0.2.1"));
        assert!(!both("alice", "192.0.2.2") && !both("carol", "192.0.2.1"));
    }

    #[test]
    fn what_cannot_be_read_fits_nothing_but_no_filter() {
        let filter = Filter {
            user: Some("a".into()),
            ..Filter::default()
        };
        for odd in [
            "",
            "{}",
            "[]",
            "{\"call_id\": 7}",
            "{\"call_id\": \"a\", \"streams\": 7}",
        ] {
            assert!(!filter.fits(odd, RELAY), "{odd}");
            assert!(Filter::default().fits(odd, RELAY));
        }
        assert!(
            !filter.fits("{\"call_id\": \"a\"}", RELAY),
            "an older relay's"
        );
    }
}
