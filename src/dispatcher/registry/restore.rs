//! What a dispatcher tells the one after it of an answered call, and what that one makes of it: it knows the call, and
//! waits for its relay.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{LiveCall, Registry, Session, SessionKey, SessionState};
use crate::proto::name::{Mention, Name};

impl<L: Clone> Registry<L> {
    /// From now on [`Registry::updated`] and [`Registry::owe`] tell what is to be noted.
    pub fn note_calls(&mut self) {
        self.is_noting = true;
    }

    /// Takes calls over from the dispatcher before this one. Their relays count as away from now on, or for as long as
    /// they were before; while there was no dispatcher nobody knows.
    pub fn restore(&mut self, calls: impl IntoIterator<Item = LiveCall>, now: Duration) {
        for call in calls {
            let relay = self.known_as(&call.relay);
            let relay = relay.unwrap_or_else(|| self.add_relay(call.relay.clone()));
            if let Some(relay) = self.relays.get_mut(&relay) {
                let since = now.saturating_sub(call.away);
                relay.away = Some(relay.away.map_or(since, |before| before.min(since)));
            }
            let session = Session {
                name: call.name,
                relay,
                dialog_id: call.dialog_id,
                opening: call.opening,
                known: call.known,
                started: None,
                begun_by_reply: call.begun_by_reply,
                signaling: None,
                is_ringing: false,
                serial: self.next_serial(),
                state: call.owed.map_or(SessionState::Live, SessionState::Owed),
            };
            let before = self.sessions.named(&session.name);
            if let Some(before) = before {
                self.forget(before);
            }
            self.add(session);
        }
    }

    /// The proxy is about to be asked to end these calls' dialogs, and will remove them.
    pub fn restore_ended(&mut self, calls: impl IntoIterator<Item = Name>, now: Duration) {
        for name in calls {
            self.note_expired(name, now);
        }
    }

    /// What is to be noted of a call whose relay may not have heard that the proxy has removed it.
    pub fn still_owed(&self, mention: Mention<'_>) -> Option<LiveCall> {
        let key = self.sessions.own(mention)?;
        self.noted(key).filter(|call| call.owed.is_some())
    }

    /// What is to be noted of a call; none where nobody notes, or it was not answered.
    pub(super) fn noted(&self, key: SessionKey) -> Option<LiveCall> {
        let session = self.sessions.get(key).filter(|_| self.is_noting)?;
        session.known.started?;
        let owed = match &session.state {
            SessionState::Live => None,
            SessionState::Owed(remove) => Some(remove.clone()),
        };
        Some(LiveCall {
            name: session.name.clone(),
            dialog_id: session.dialog_id.clone(),
            opening: session.opening,
            begun_by_reply: session.begun_by_reply,
            relay: self.relays.get(&session.relay)?.key.clone(),
            known: session.known.clone(),
            owed,
            away: Duration::ZERO,
            order: self.notes.fetch_add(1, Ordering::Relaxed),
        })
    }
}
