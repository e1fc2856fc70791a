//! How each relay stands at the moment, for those who watch.

use super::{Registry, Relay, RelayKey};

/// A relay that is known: connected, or away with sessions of its that are not forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub relay: RelayKey,
    pub state: State,
    /// Sessions that it should have.
    pub sessions: usize,
    /// Those of them that nobody has answered.
    pub unanswered: usize,
}

/// Whether a relay gets new calls, and why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
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

impl State {
    pub const ALL: [State; 5] = [
        State::Active,
        State::Drained,
        State::Halting,
        State::TimedOut,
        State::Away,
    ];

    /// One word, as metrics have it.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Active => "active",
            State::Drained => "drained",
            State::Halting => "halting",
            State::TimedOut => "timed_out",
            State::Away => "away",
        }
    }

    /// There is a link.
    pub fn is_connected(self) -> bool {
        self != State::Away
    }
}

impl<L: Clone> Registry<L> {
    /// All relays that are known, in no order.
    pub fn standings(&self) -> Vec<Standing> {
        let state = |relay: &Relay| {
            let link = relay.link.and_then(|link| self.links.get(&link));
            match link {
                Some(link) if link.timed_out.is_some() => State::TimedOut,
                Some(link) if link.halting => State::Halting,
                Some(_) if self.drained.contains_key(&relay.key) => State::Drained,
                Some(_) => State::Active,
                None => State::Away,
            }
        };
        let relays = self.relays.values();
        relays
            .map(|relay| Standing {
                relay: relay.key.clone(),
                state: state(relay),
                sessions: relay.live,
                unanswered: relay.unanswered,
            })
            .collect()
    }
}
