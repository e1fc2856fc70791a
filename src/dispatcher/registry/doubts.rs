//! Calls that a relay does not know by the tags of their removal. That is no news of their end: it is asked whether it
//! has them, and only where it has not are they over (docs/protocol.md section 2).

use std::collections::HashSet;
use std::time::Duration;

use super::sessions::{SessionKey, Sessions};
use crate::moment::Moment;
use crate::proto::CallId;
use crate::proto::name::is_spelled;

/// How long a relay is left alone that was asked for all its sessions, or has not said whether it has a call.
pub(super) const PAUSE: Duration = Duration::from_secs(10);

/// Calls that a relay is asked for at once, each by a question of its own: it answers one after the other.
const MAX_QUESTIONS: usize = 8;

/// Those that a list of all its sessions is looked through for.
const MAX_PER_LIST: usize = 256;

/// Sessions that a relay is asked whether it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubts {
    pub(super) sessions: Vec<SessionKey>,
    /// Their Call-IDs, each once.
    pub calls: Vec<CallId>,
    /// How many changes there had been to sessions when it was asked.
    pub(super) asked: u64,
}

impl Doubts {
    /// Whether a relay's name for a call is one of these calls'.
    pub fn has(&self, call_id: &str) -> bool {
        let mut calls = self.calls.iter();
        calls.any(|call| is_spelled(&call.0, call_id))
    }
}

/// What a relay is to be asked, and not before when.
#[derive(Debug, Default)]
pub(super) struct Doubted {
    sessions: HashSet<SessionKey>,
    ask_at: Moment,
}

impl Doubted {
    pub(super) fn add(&mut self, sessions: impl IntoIterator<Item = SessionKey>) {
        self.sessions.extend(sessions);
    }

    /// It could not be asked, or has not said: it is asked again, later.
    pub(super) fn put_back(&mut self, doubts: Doubts, now: Moment) {
        self.sessions.extend(doubts.sessions);
        self.ask_at = now + PAUSE;
    }

    /// What it is to be asked now: one by one where it can explain calls, and a few at a time.
    pub(super) fn take(&mut self, sessions: &Sessions, explains: bool, now: Moment) -> Vec<Doubts> {
        if self.sessions.is_empty() || self.ask_at > now {
            return Vec::new();
        }
        let asked = sessions.changes();
        // What is over meanwhile is not asked for.
        let call_id = |key: &SessionKey| Some(sessions.get(*key)?.call.name.call_id.clone());
        if explains {
            let one = |key: SessionKey| {
                Some(Doubts {
                    calls: vec![call_id(&key)?],
                    sessions: vec![key],
                    asked,
                })
            };
            return self
                .first(MAX_QUESTIONS)
                .into_iter()
                .filter_map(one)
                .collect();
        }
        let keys = self.first(MAX_PER_LIST);
        let mut calls: Vec<CallId> = keys.iter().filter_map(call_id).collect();
        calls.sort_unstable();
        calls.dedup();
        if calls.is_empty() {
            return Vec::new();
        }
        // Its list may be long.
        self.ask_at = now + PAUSE;
        vec![Doubts {
            sessions: keys,
            calls,
            asked,
        }]
    }

    /// Takes out so many.
    fn first(&mut self, most: usize) -> Vec<SessionKey> {
        let some: Vec<SessionKey> = self.sessions.iter().take(most).copied().collect();
        for key in &some {
            self.sessions.remove(key);
        }
        some
    }
}
