//! Packets that go round between calls (M11 in docs/protocol.md): who is told of it, and how often.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::moment::Moment;
use crate::proto::CallId;
use crate::session::PortKey;

/// How often it is said that packets come round: of a pair of ports, and of two calls.
pub(super) const SAY_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Pairs of calls that are remembered: more lines than these are not written in a minute.
const MOST_REMEMBERED: usize = 32;

/// A packet has come round and goes no further.
#[derive(Debug)]
pub(super) struct Loop {
    /// The worker where that was, and where its port is.
    pub asker: usize,
    pub place: PortKey,
    call_id: CallId,
    /// Where it was to be sent to.
    pub to: SocketAddr,
    /// Whose port that is, where it is one of this relay's.
    pub with: Option<CallId>,
    /// Workers that have looked.
    pub asked: usize,
}

impl Loop {
    pub(super) fn new(asker: usize, place: PortKey, call_id: CallId, to: SocketAddr) -> Loop {
        Loop {
            asker,
            place,
            call_id,
            to,
            with: None,
            asked: 0,
        }
    }
}

impl fmt::Display for Loop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (party, component) = (self.place.party, self.place.component);
        let Loop { call_id, to, .. } = self;
        write!(
            f,
            "[session {call_id}] {component} of the {party} goes round: it is sent to {to}, "
        )?;
        match &self.with {
            Some(with) => write!(f, "a port of session {with}, and comes back from there"),
            None => write!(f, "no port of a call here, and comes back from there"),
        }?;
        f.write_str(
            "; dropped once its hops (TTL) are used up. An SDP names a relay's address where a phone's belongs: end one of \
             the calls, and see who wrote it",
        )
    }
}

/// Which calls were told of, and when.
#[derive(Debug, Default)]
pub(super) struct Loops {
    told: Vec<(CallId, Option<CallId>, Moment)>,
    left_out: u64,
}

/// How many lines were left out; nothing when none was.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LeftOut(u64);

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            count => write!(f, " (and {count} others before)"),
        }
    }
}

impl Loops {
    /// What to append to the line about a round; none where one about the same two calls, whichever found it, was
    /// written within a minute, or too many about others were.
    pub(super) fn due(&mut self, found: &Loop, now: Moment) -> Option<LeftOut> {
        self.told.retain(|(_, _, at)| now < *at + SAY_AGAIN_AFTER);
        let Loop { call_id, with, .. } = found;
        let is_same = |(one, other, _): &(CallId, Option<CallId>, Moment)| {
            let is_reversed = with.as_ref() == Some(one) && other.as_ref() == Some(call_id);
            is_reversed || (one == call_id && other == with)
        };
        if self.told.iter().any(is_same) {
            return None;
        }
        if self.told.len() >= MOST_REMEMBERED {
            self.left_out += 1;
            return None;
        }
        self.told.push((call_id.clone(), with.clone(), now));
        Some(LeftOut(std::mem::take(&mut self.left_out)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Component, Party};
    use crate::session::SessionKey;

    fn looped(call_id: &str, with: &str) -> Loop {
        let place = PortKey {
            session: SessionKey::for_tests(0),
            stream: 0,
            party: Party::Caller,
            component: Component::Rtp,
        };
        let id = |text: &str| CallId(text.into());
        let to = "192.0.2.9:40002".parse().unwrap();
        let found = Loop::new(0, place, id(call_id), to);
        let with = (!with.is_empty()).then(|| id(with));
        Loop { with, ..found }
    }

    #[test]
    fn m11_both_calls_are_named() {
        let line = looped("a", "b").to_string();
        assert!(
            line.starts_with(
                "[session a] RTP of the caller goes round: it is sent to 192.0.2.9:40002, a port of session b, "
            ),
            "{line}"
        );
        let line = looped("a", "").to_string();
        assert!(line.contains("no port of a call here"), "{line}");
    }

    #[test]
    fn m11_one_line_for_two_calls_in_a_minute() {
        let mut loops = Loops::default();
        let at = |seconds| Moment::after_start(Duration::from_secs(seconds));
        assert_eq!(loops.due(&looped("a", "b"), at(0)), Some(LeftOut(0)));
        assert_eq!(loops.due(&looped("a", "b"), at(1)), None);
        assert_eq!(loops.due(&looped("b", "a"), at(59)), None);
        assert_eq!(loops.due(&looped("a", "c"), at(59)), Some(LeftOut(0)));
        assert_eq!(loops.due(&looped("a", ""), at(59)), Some(LeftOut(0)));
        assert_eq!(loops.due(&looped("b", "a"), at(60)), Some(LeftOut(0)));
    }

    #[test]
    fn m11_a_flood_of_rounds_is_a_few_lines() {
        let mut loops = Loops::default();
        let at = |seconds| Moment::after_start(Duration::from_secs(seconds));
        let flood = (0..1000).filter(|n| loops.due(&looped(&n.to_string(), "b"), at(0)).is_some());
        assert_eq!(flood.count(), MOST_REMEMBERED);
        let next = loops.due(&looped("a", "b"), at(60)).unwrap();
        assert_eq!(next.to_string(), " (and 968 others before)");
    }
}
