//! The sessions of this dispatcher, found by what names them. A Call-ID may have several.

use std::collections::HashMap;

use super::dialog_counts::DialogCounts;
use super::session::Session;
use crate::proto::name::{Fit, Mention, Name};
use crate::proto::{CallId, DialogId};

/// A session here; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SessionKey(u64);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    all: HashMap<SessionKey, Session>,
    calls: HashMap<CallId, Vec<SessionKey>>,
    dialogs: DialogCounts,
    last: u64,
    /// Counts what is made or confirmed: what is known when is a comparison.
    changes: u64,
}

impl Sessions {
    pub(super) fn insert(&mut self, session: Session) -> SessionKey {
        self.last += 1;
        let key = SessionKey(self.last);
        let call_id = session.call.name.call_id.clone();
        self.calls.entry(call_id).or_default().push(key);
        self.dialogs.add(session.call.dialog_id.as_ref());
        self.all.insert(key, session);
        key
    }

    pub(super) fn remove(&mut self, key: SessionKey) -> Option<Session> {
        let session = self.all.remove(&key)?;
        self.dialogs.remove(session.call.dialog_id.as_ref());
        if let Some(keys) = self.calls.get_mut(&session.call.name.call_id) {
            keys.retain(|one| *one != key);
            if keys.is_empty() {
                self.calls.remove(&session.call.name.call_id);
            }
        }
        Some(session)
    }

    /// How much has been made or confirmed so far.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// The number of one more change.
    pub(super) fn next_change(&mut self) -> u64 {
        self.changes += 1;
        self.changes
    }

    pub(super) fn get(&self, key: SessionKey) -> Option<&Session> {
        self.all.get(&key)
    }

    pub(super) fn get_mut(&mut self, key: SessionKey) -> Option<&mut Session> {
        self.all.get_mut(&key)
    }

    /// The proxy names another dialog for it. Returns true if that is news.
    pub(super) fn set_dialog(&mut self, key: SessionKey, dialog_id: &DialogId) -> bool {
        let session = self.all.get_mut(&key);
        let Some(session) = session.filter(|one| one.call.dialog_id.as_ref() != Some(dialog_id))
        else {
            return false;
        };
        self.dialogs.remove(session.call.dialog_id.as_ref());
        session.call.dialog_id = Some(dialog_id.clone());
        self.dialogs.add(session.call.dialog_id.as_ref());
        true
    }

    /// Returns true if one of them has this dialog.
    pub(super) fn has_dialog(&self, dialog_id: &DialogId) -> bool {
        self.dialogs.has(dialog_id)
    }

    pub(super) fn has(&self, call_id: &CallId) -> bool {
        self.calls.contains_key(call_id)
    }

    /// All of them, in any order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (SessionKey, &Session)> {
        self.all.iter().map(|(key, session)| (*key, session))
    }

    /// All of them, in any order.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (SessionKey, &mut Session)> {
        self.all.iter_mut().map(|(key, session)| (*key, session))
    }

    pub(super) fn call_ids(&self) -> impl Iterator<Item = &CallId> {
        self.calls.keys()
    }

    /// Those of a Call-ID, in the order in which they began.
    pub(super) fn of(&self, call_id: &CallId) -> impl Iterator<Item = (SessionKey, &Session)> {
        let keys = self.calls.get(call_id).into_iter().flatten();
        keys.filter_map(|key| Some((*key, self.all.get(key)?)))
    }

    /// The one of this name.
    pub(super) fn named(&self, name: &Name) -> Option<SessionKey> {
        let mut all = self.of(&name.call_id);
        let (key, _) = all.find(|(_, session)| session.call.name.is_of(name))?;
        Some(key)
    }

    /// The session that a message fits best, and how well.
    pub(super) fn find(&self, mention: Mention<'_>) -> Option<(SessionKey, Fit)> {
        let fits = self.of(mention.call_id);
        let fits = fits.map(|(key, session)| (session.call.name.fit(mention), key));
        let (fit, key) = fits.filter(|(fit, _)| *fit != Fit::Not).max()?;
        Some((key, fit))
    }

    /// The session that a message is of, with the callee that it has or with none yet.
    pub(super) fn own(&self, mention: Mention<'_>) -> Option<SessionKey> {
        let (key, fit) = self.find(mention)?;
        fit.is_own().then_some(key)
    }
}
