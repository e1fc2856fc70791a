//! Pairs of hosts between which media entered the kernel and did not leave while that of others did: a rule for one
//! address, say. One flow tries for all of a pair. Pure.

use std::collections::HashMap;
use std::net::IpAddr;

use super::flow::Ends;
use super::health::{Health, Outlook};
use crate::moment::Moment;
use crate::proto::{Party, PerParty};

/// Pairs that are kept; what is beyond waits flow by flow.
const MOST_PAIRS: usize = 1024;

/// Who sends, and who is sent to.
pub(super) type Way = (IpAddr, IpAddr);

/// The way of a party's media.
pub(super) fn way(ends: &Ends, party: Party) -> Way {
    let PerParty { caller, callee } = ends.map(|end| end.remote.ip());
    match party {
        Party::Caller => (caller, callee),
        Party::Callee => (callee, caller),
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Paths {
    troubled: HashMap<Way, Health>,
}

impl Paths {
    /// Whether a flow may be handed over now, as far as its ways are concerned.
    pub(super) fn admit(&mut self, ends: &Ends, now: Moment, has_much: bool) -> bool {
        self.troubled.is_empty()
            || Party::BOTH.into_iter().all(|party| {
                let health = self.troubled.get_mut(&way(ends, party));
                health.is_none_or(|health| health.admits(now, has_much, || Outlook::Open))
            })
    }

    /// Media of this way enters, and none leaves. None where there is no room for it, else whether that is news.
    pub(super) fn on_trouble(&mut self, way: Way, now: Moment) -> Option<bool> {
        if self.troubled.len() >= MOST_PAIRS && !self.troubled.contains_key(&way) {
            return None;
        }
        let health = self.troubled.entry(way).or_default();
        Some(health.on_trouble(now))
    }

    /// Media of this way has left. True where that is news.
    pub(super) fn on_media(&mut self, way: Way, now: Moment) -> bool {
        let health = self.troubled.get_mut(&way);
        health.is_some_and(|health| health.on_media(now))
    }

    /// Forgets what is long ago.
    pub(super) fn tidy(&mut self, now: Moment) {
        self.troubled.retain(|_, health| !health.is_past(now));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.troubled.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;
    use crate::session::FlowEnd;

    #[test]
    fn pairs_are_bounded_and_forgotten() {
        let now = Moment::after_start(Duration::from_secs(1000));
        let mut paths = Paths::default();
        let between = |number: u32| {
            let [one, other] = [number, 7].map(|bits| IpAddr::from(Ipv4Addr::from(bits)));
            (one, other)
        };
        let ends = ["192.0.2.1:30000", "192.0.2.2:31000"].map(|remote| FlowEnd {
            remote: remote.parse().unwrap(),
            local: "10.0.0.1:40000".parse().unwrap(),
        });
        let ends = Ends::from(ends);
        for number in 0..MOST_PAIRS as u32 {
            assert_eq!(paths.on_trouble(between(number), now), Some(true));
        }
        assert_eq!(paths.on_trouble(between(0), now), Some(false), "no news");
        let way = way(&ends, Party::Callee);
        assert_eq!(paths.on_trouble(way, now), None, "no room");
        assert!(paths.admit(&ends, now, true));
        paths.tidy(now + Duration::from_secs(600));
        assert!(!paths.is_empty());
        let later = now + Duration::from_secs(615);
        paths.tidy(later);
        assert!(paths.is_empty(), "nobody has tried for ten minutes");
        assert_eq!(paths.on_trouble(way, later), Some(true));
        assert!(!paths.admit(&ends, later, true), "in either direction");
    }
}
