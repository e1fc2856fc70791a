//! Which sessions a client wants to see: a look into a relay's JSON, which is shown as it came. Pure.

use std::borrow::Cow;
use std::net::IpAddr;

use serde::Deserialize;

use crate::objects::objects_only;

/// All that is given must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
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

#[derive(Deserialize)]
#[serde(remote = "Self")]
struct Seen<'a> {
    #[serde(borrow)]
    call_id: Cow<'a, str>,
    #[serde(borrow, default)]
    exact: Option<Exact<'a>>,
    #[serde(borrow, default)]
    from_uri: Cow<'a, str>,
    #[serde(borrow, default)]
    to_uri: Cow<'a, str>,
    #[serde(borrow, default)]
    username: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    streams: Vec<SeenStream<'a>>,
    /// Those that are not answered yet.
    #[serde(borrow, default)]
    offered: Vec<SeenStream<'a>>,
    #[serde(borrow, default)]
    signaling_ip: Cow<'a, str>,
}
objects_only!(Seen<'a>);

/// What is not UTF-8 as it is shown.
#[derive(Deserialize)]
#[serde(remote = "Self")]
struct Exact<'a> {
    #[serde(borrow)]
    call_id: Cow<'a, str>,
}
objects_only!(Exact<'a>);

#[derive(Default, Deserialize)]
#[serde(remote = "Self", default)]
struct SeenStream<'a> {
    #[serde(borrow)]
    caller_sdp: Cow<'a, str>,
    #[serde(borrow)]
    callee_sdp: Cow<'a, str>,
    #[serde(borrow)]
    caller_local: Cow<'a, str>,
    #[serde(borrow)]
    callee_local: Cow<'a, str>,
    #[serde(borrow)]
    caller_remote: Cow<'a, str>,
    #[serde(borrow)]
    callee_remote: Cow<'a, str>,
}
objects_only!(SeenStream<'a>);

impl Filter {
    /// Whether a session's own text has to be looked at.
    pub fn looks_at_sessions(&self) -> bool {
        let given = [&self.call_id, &self.user, &self.address, &self.any];
        given.into_iter().any(Option::is_some)
    }

    /// Whether a session of one of the relays that are asked fits; it is on the relay of this address. What cannot be
    /// read does not.
    pub fn fits(&self, session: &str, relay: IpAddr) -> bool {
        if !self.looks_at_sessions() {
            return true;
        }
        let Ok(seen) = serde_json::from_str::<Seen<'_>>(session) else {
            return false;
        };
        let has_call_id = |wanted: &String| match &seen.exact {
            Some(exact) => *wanted == exact.call_id || *wanted == seen.call_id,
            None => {
                *wanted == seen.call_id || self.spellings.iter().any(|text| *text == seen.call_id)
            }
        };
        let begins = |prefix: &str| {
            let exact = seen.exact.as_ref().map(|exact| &exact.call_id);
            exact.unwrap_or(&seen.call_id).starts_with(prefix)
        };
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

fn has_user(seen: &Seen<'_>, part: &str) -> bool {
    let part = part.to_lowercase();
    let texts = [
        Some(&seen.from_uri),
        Some(&seen.to_uri),
        seen.username.as_ref(),
    ];
    let mut texts = texts.into_iter().flatten();
    texts.any(|text| text.to_lowercase().contains(&part))
}

fn has_address(seen: &Seen<'_>, wanted: &str, relay: IpAddr) -> bool {
    let is_it = |text: &str| {
        text == wanted
            || text
                .strip_prefix(wanted)
                .is_some_and(|port| port.starts_with(':'))
    };
    let mut streams = seen.streams.iter().chain(&seen.offered).peekable();
    // An older relay says nothing of calls that ring but that they are there.
    if streams.peek().is_none() && relay.to_string() == wanted {
        return true;
    }
    is_it(&seen.signaling_ip)
        || streams.any(|stream| {
            let texts = [
                &stream.caller_sdp,
                &stream.callee_sdp,
                &stream.caller_local,
                &stream.callee_local,
                &stream.caller_remote,
                &stream.callee_remote,
            ];
            texts.into_iter().any(|text| is_it(text))
        })
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
