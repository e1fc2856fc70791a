//! How each relay stands at the moment, for those who watch.

use super::{Registry, Relay, RelayKey};

/// A relay that is known: connected, or away with sessions of its that are not forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayStatus {
    pub relay: RelayKey,
    pub state: RelayState,
    /// Sessions that it should have.
    pub sessions: usize,
    /// Those of them that nobody has answered.
    pub unanswered: usize,
}

/// Whether a relay gets new calls, and why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RelayState {
    Active,
    /// The administrator does not want it to.
    Drained,
    /// It drains.
    Halting,
    /// It owes an answer.
    TimedOut,
    /// It is not connected.
    Away,
}

impl RelayState {
    pub const ALL: [RelayState; 5] = [
        RelayState::Active,
        RelayState::Drained,
        RelayState::Halting,
        RelayState::TimedOut,
        RelayState::Away,
    ];

    /// One word, as metrics have it.
    pub fn as_str(self) -> &'static str {
        match self {
            RelayState::Active => "active",
            RelayState::Drained => "drained",
            RelayState::Halting => "halting",
            RelayState::TimedOut => "timed_out",
            RelayState::Away => "away",
        }
    }

    /// There is a link.
    pub fn is_connected(self) -> bool {
        self != RelayState::Away
    }
}

impl<L: Clone> Registry<L> {
    /// All relays that are known, in no order.
    pub fn standings(&self) -> Vec<RelayStatus> {
        let state = |relay: &Relay| {
            let link = relay.link.and_then(|link| self.links.get(&link));
            match link {
                Some(link) if link.timed_out.is_some() => RelayState::TimedOut,
                Some(link) if link.halting => RelayState::Halting,
                Some(_) if self.drained.contains_key(&relay.key) => RelayState::Drained,
                Some(_) => RelayState::Active,
                None => RelayState::Away,
            }
        };
        let relays = self.relays.values();
        relays
            .map(|relay| RelayStatus {
                relay: relay.key.clone(),
                state: state(relay),
                sessions: relay.live,
                unanswered: relay.unanswered,
            })
            .collect()
    }
}
