//! Calls that a relay does not know by the tags of their removal. That is no news of their end: it is asked whether it
//! has them, and only where it has not are they over (docs/protocol.md section 2).

use std::time::Duration;

use super::{LinkId, LiveCall, Registry, Session, SessionKey, SessionState};
use crate::dispatcher::ended_call::{EndedCall, Reason};
use crate::dispatcher::statistics::ListedCall;
use crate::proto::CallId;
use crate::proto::control::Remove;
use crate::proto::name::{Fit, is_spelled};

/// How long a relay is left alone that was asked for all its sessions, or has not said whether it has a call.
pub const PAUSE: Duration = Duration::from_secs(10);

/// Calls that a relay is asked for at once, each by a question of its own: it answers one after the other.
const AT_ONCE: usize = 8;

/// Those that a list of all its sessions is looked through for.
const IN_LIST: usize = 256;

/// Sessions that a relay is asked whether it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubts {
    sessions: Vec<SessionKey>,
    /// Their Call-IDs, each once.
    pub calls: Vec<CallId>,
    /// The serial when it was asked.
    asked: u64,
}

impl Doubts {
    /// Whether a relay's name for a call is one of these calls'.
    pub fn has(&self, call_id: &str) -> bool {
        let mut calls = self.calls.iter();
        calls.any(|call| is_spelled(&call.0, call_id))
    }
}

/// What became of them.
#[derive(Debug, Default)]
pub struct Checked {
    pub finished: Vec<EndedCall>,
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
        self.missed
            .take(&remove.call_id, |(missed, _)| missed == remove);
        let is_doubted = |session: &Session| {
            let is_owed = matches!(&session.state, SessionState::Owed(owed) if owed == remove);
            Some(session.relay) == link.relay && is_owed
        };
        let sessions = self.sessions.of(&remove.call_id);
        let doubted = sessions.filter(|(_, session)| is_doubted(session));
        let doubted: Vec<SessionKey> = doubted.map(|(key, _)| key).collect();
        link.doubted.extend(doubted);
    }

    /// The calls that a relay is to be asked for now: one by one where it can explain calls, and a few at a time.
    pub fn doubts(&mut self, id: LinkId, explains: bool, now: Duration) -> Vec<Doubts> {
        let asked = self.serial;
        let link = self.links.get_mut(&id);
        let Some(link) = link.filter(|link| !link.doubted.is_empty() && link.ask_at <= now) else {
            return Vec::new();
        };
        let sessions = &self.sessions;
        let call_id = |key: &SessionKey| Some(sessions.get(*key)?.name.call_id.clone());
        if explains {
            let some: Vec<SessionKey> = link.doubted.iter().take(AT_ONCE).copied().collect();
            for key in &some {
                link.doubted.remove(key);
            }
            // What is over meanwhile is not asked for.
            let one = |key| {
                let calls = vec![call_id(&key)?];
                let sessions = vec![key];
                Some(Doubts {
                    sessions,
                    calls,
                    asked,
                })
            };
            return some.into_iter().filter_map(one).collect();
        }
        let sessions: Vec<SessionKey> = link.doubted.iter().take(IN_LIST).copied().collect();
        for key in &sessions {
            link.doubted.remove(key);
        }
        let mut calls: Vec<CallId> = sessions.iter().filter_map(call_id).collect();
        calls.sort_unstable();
        calls.dedup();
        if calls.is_empty() {
            return Vec::new();
        }
        // Its list may be long.
        link.ask_at = now + PAUSE;
        vec![Doubts {
            sessions,
            calls,
            asked,
        }]
    }

    /// It could not be asked, or has not said: it is asked again, later.
    pub fn unanswered(&mut self, id: LinkId, doubts: Doubts, now: Duration) {
        if let Some(link) = self.links.get_mut(&id) {
            link.doubted.extend(doubts.sessions);
            link.ask_at = now + PAUSE;
        }
    }

    /// A relay has told of the sessions of these calls that it has: what it has not got is over. What has been heard of a
    /// call since it was asked counts more.
    pub fn checked(
        &mut self,
        id: LinkId,
        doubts: Doubts,
        told: &[ListedCall],
        now: Duration,
    ) -> Checked {
        let mut checked = Checked::default();
        let relay = self.links.get(&id).and_then(|link| link.relay);
        for key in doubts.sessions {
            let session = self.sessions.get_mut(key);
            let session = session.filter(|session| {
                Some(session.relay) == relay
                    && session.serial <= doubts.asked
                    && session.state != SessionState::Live
            });
            let Some(session) = session else {
                continue;
            };
            let call_id = session.name.call_id.clone();
            let is_it = |told: &&ListedCall| {
                let from_tag = told.from_tag.as_deref();
                is_spelled(&call_id.0, &told.call_id) && session.name.fit_told(from_tag) != Fit::Not
            };
            if told.iter().any(|told| is_it(&told)) {
                session.state = SessionState::Live;
                session.known.ended = None;
                self.count_ringing(key);
                checked.back.extend(self.noted(key));
                checked.there.push(call_id);
            } else {
                let ended = self.end(key, Reason::Purged, None, now);
                checked.finished.extend(ended);
            }
        }
        for call_id in &doubts.calls {
            let others = told.iter();
            let others = others.filter(|told| is_spelled(&call_id.0, &told.call_id));
            for told in others {
                let from_tag = told.from_tag.as_deref();
                let is_it = |session: &Session| session.name.fit_told(from_tag) != Fit::Not;
                if !self.sessions.of(call_id).any(|(_, one)| is_it(one)) {
                    // Another session of that Call-ID, where to ask for it.
                    let name = told.name(call_id.clone());
                    self.found.add(id, name, told.clone());
                }
            }
        }
        checked
    }
}
