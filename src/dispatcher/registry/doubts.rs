//! Calls that a relay does not know by the tags of their removal. That is no news of their end: it is asked whether it
//! has them, and only where it has not are they over (docs/protocol.md section 2).

use std::time::Duration;

use super::calls::spellings;
use super::{Found, LinkId, LiveCall, Registry, SessionState};
use crate::dispatcher::finished::{Finished, Reason};
use crate::dispatcher::statistics::{ListedCall, Statistics};
use crate::proto::CallId;
use crate::proto::control::Remove;

/// How long a relay is left alone that was asked for all its sessions, or has not said whether it has a call.
pub const PAUSE: Duration = Duration::from_secs(10);

/// Calls that a relay is asked for at once, each by a question of its own: it answers one after the other.
const AT_ONCE: usize = 8;

/// Calls that a relay is asked whether it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubts {
    pub calls: Vec<CallId>,
    /// The serial when it was asked.
    asked: u64,
}

impl Doubts {
    /// Whether a relay's name for a call is one of these calls'.
    pub fn has(&self, call_id: &str) -> bool {
        self.calls.iter().any(|call| is_name_of(call_id, call))
    }
}

fn is_name_of(name: &str, call_id: &CallId) -> bool {
    spellings(call_id).iter().any(|spelling| spelling == name)
}

/// What became of them.
#[derive(Debug, Default)]
pub struct Checked {
    pub finished: Vec<Finished>,
    /// Those that go on.
    pub there: Vec<CallId>,
    /// Of these, what is to be noted.
    pub back: Vec<LiveCall>,
}

impl<L: Clone> Registry<L> {
    /// A relay does not know a session by these tags. Where the proxy has removed the call by them, and with the tag that
    /// opened it, the relay is to be asked whether it has the call.
    pub fn refused(&mut self, id: LinkId, remove: &Remove) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let missed = self.missed.get(&remove.call_id);
        if missed.is_some_and(|(missed, _)| missed == remove) {
            self.missed.remove(&remove.call_id);
        }
        let session = self.sessions.get(&remove.call_id);
        let session = session.filter(|session| Some(session.relay) == link.relay);
        if session.is_some_and(|s| matches!(&s.state, SessionState::Owed(owed) if owed == remove)) {
            link.doubted.insert(remove.call_id.clone());
        }
    }

    /// The calls that a relay is to be asked for now: one by one where it can explain calls, and a few at a time.
    pub fn doubts(&mut self, id: LinkId, explains: bool, now: Duration) -> Vec<Doubts> {
        let asked = self.serial;
        let link = self.links.get_mut(&id);
        let Some(link) = link.filter(|link| !link.doubted.is_empty() && link.ask_at <= now) else {
            return Vec::new();
        };
        if explains {
            let calls: Vec<CallId> = link.doubted.iter().take(AT_ONCE).cloned().collect();
            for call in &calls {
                link.doubted.remove(call);
            }
            let one = |call| Doubts {
                calls: vec![call],
                asked,
            };
            return calls.into_iter().map(one).collect();
        }
        let mut calls: Vec<CallId> = link.doubted.drain().collect();
        // Its list may be long.
        link.ask_at = now + PAUSE;
        calls.sort_unstable();
        vec![Doubts { calls, asked }]
    }

    /// It could not be asked, or has not said: it is asked again, later.
    pub fn unanswered(&mut self, id: LinkId, doubts: Doubts, now: Duration) {
        if let Some(link) = self.links.get_mut(&id) {
            link.doubted.extend(doubts.calls);
            link.ask_at = now + PAUSE;
        }
    }

    /// A relay has told of the sessions of these calls that it has: what it has not got is over. What has been heard of a
    /// call since it was asked counts more.
    pub fn checked(
        &mut self,
        id: LinkId,
        doubts: Doubts,
        told: &[Statistics],
        now: Duration,
    ) -> Checked {
        let mut checked = Checked::default();
        let relay = self.links.get(&id).and_then(|link| link.relay);
        for call_id in doubts.calls {
            let session = self.sessions.get_mut(&call_id);
            let session = session.filter(|session| {
                Some(session.relay) == relay
                    && session.serial <= doubts.asked
                    && session.state != SessionState::Live
            });
            let Some(session) = session else {
                continue;
            };
            let is_named = |told: &&Statistics| is_name_of(&told.call_id, &call_id);
            let told: Vec<&Statistics> = told.iter().filter(is_named).collect();
            if told.iter().any(|told| session.is_told_by(told)) {
                session.state = SessionState::Live;
                session.known.ended = None;
                checked.back.extend(self.noted(&call_id));
                checked.there.push(call_id);
            } else {
                let ended = self.end(&call_id, Reason::Purged, None, now);
                checked.finished.extend(ended);
                if !told.is_empty() {
                    // Another session of that call-id goes on there.
                    let call = ListedCall::default();
                    self.found.insert(call_id, Found { link: id, call });
                }
            }
        }
        checked
    }
}
