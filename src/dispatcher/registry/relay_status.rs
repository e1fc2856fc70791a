//! How a relay stands at the moment.

use crate::dispatcher::relay_id::RelayKey;

/// A relay that is known: connected, or away with sessions of its that are not forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RelayStatus {
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

/// Why a relay gets no new calls; none of it where it does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// By the administrator's word.
    pub drained: bool,
    /// By its own: it ends when its last call does.
    pub halting: bool,
    /// It does not answer.
    pub timed_out: bool,
}

impl Held {
    /// The state of a connected relay.
    pub fn state(self) -> RelayState {
        if self.timed_out {
            RelayState::TimedOut
        } else if self.halting {
            RelayState::Halting
        } else if self.drained {
            RelayState::Drained
        } else {
            RelayState::Active
        }
    }
}
