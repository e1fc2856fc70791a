//! The sessions of one engine, by key and by call.

use std::collections::{BTreeMap, HashMap};

use super::actions::{Owner, ReplyTo};
use super::call::Session;
use super::keys::SessionKey;
use super::stream::Stream;
use super::timers::Timer;
use crate::proto::{CallId, SessionId};

/// What an engine may hold: streams without ports take memory, too.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    pub sessions: usize,
    pub streams: usize,
}

impl Default for Capacity {
    fn default() -> Capacity {
        Capacity {
            sessions: usize::MAX,
            streams: usize::MAX,
        }
    }
}

/// Where the end of a session is reported, once the kernel has given its last counters.
#[derive(Debug)]
pub(super) enum Ending {
    Removed(ReplyTo),
    Expired,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub session: Session,
    pub timer: Timer,
    /// Over; reported when its flows are withdrawn.
    pub ending: Option<Ending>,
    /// Its state is to be saved.
    is_changed: bool,
    /// It was saved before, so that its end is to be told.
    is_saved: bool,
}

/// What is to be told to who saves the sessions' states.
#[derive(Debug)]
pub(super) enum Change {
    Session(SessionKey),
    /// It is over and reported.
    Over(SessionId, Owner),
}

impl Entry {
    /// Nothing is waited for any more.
    fn is_done(&self) -> bool {
        self.ending.is_some() && !self.session.media.is_withdrawing()
    }
}

#[derive(Debug, Default)]
struct Slot {
    /// How many sessions it had before.
    generation: u32,
    entry: Option<Entry>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct SessionTable {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// The live sessions of a call-id: one as a rule.
    by_call: HashMap<CallId, Vec<SessionKey>>,
    /// The streams of all sessions, ended ones included.
    streams: usize,
    changes: Vec<Change>,
    pub(super) capacity: Capacity,
}

impl SessionTable {
    /// Live sessions.
    pub fn live_count(&self) -> usize {
        self.by_call.values().map(Vec::len).sum()
    }

    /// Sessions that are live or not yet reported, counted without looking at them.
    pub fn held(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The call of a session that is not yet reported.
    pub fn call_id(&self, session: SessionKey) -> Option<&CallId> {
        self.get(session).map(|session| session.call_id())
    }

    /// Sessions that are not yet reported, to be reported to this dispatcher.
    pub fn owned_by(&self, owner: Owner) -> usize {
        let entries = self.slots.iter().filter_map(|slot| slot.entry.as_ref());
        entries.filter(|entry| entry.session.owner == owner).count()
    }

    /// Returns true if a call is here.
    pub fn has_call(&self, call_id: &CallId) -> bool {
        self.by_call.contains_key(call_id)
    }

    /// Live streams by type.
    pub fn stream_counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        let streams = self.live_from(0).flat_map(|(_, s)| &s.media.streams);
        for stream in streams.filter(|stream| stream.is_live()) {
            let media_type = stream.media_type.as_str().to_owned();
            *counts.entry(media_type).or_insert(0) += 1;
        }
        counts
    }

    pub(super) fn has_room_for_sessions(&self) -> bool {
        self.held() < self.capacity.sessions
    }

    pub(super) fn has_room_for_streams(&self) -> bool {
        self.streams < self.capacity.streams
    }

    /// A session has so many streams more.
    pub(super) fn add_streams(&mut self, more: usize) {
        self.streams += more;
    }

    pub(super) fn get(&self, key: SessionKey) -> Option<&Session> {
        let slot = self.slots.get(key.slot as usize)?;
        let entry = slot.entry.as_ref()?;
        (slot.generation == key.generation).then_some(&entry.session)
    }

    pub(super) fn entry_mut(&mut self, key: SessionKey) -> Option<&mut Entry> {
        let slot = self.slots.get_mut(key.slot as usize)?;
        let entry = slot.entry.as_mut()?;
        (slot.generation == key.generation).then_some(entry)
    }

    pub(super) fn stream_mut(&mut self, session: SessionKey, stream: u16) -> Option<&mut Stream> {
        let entry = self.entry_mut(session)?;
        entry.session.media.streams.get_mut(usize::from(stream))
    }

    /// The live sessions of a call-id.
    pub(super) fn of_call(&self, call_id: &CallId) -> impl Iterator<Item = &Session> {
        let keys = self.by_call.get(call_id).into_iter().flatten();
        keys.filter_map(|key| self.get(*key))
    }

    /// The live sessions from a place in the table on, each with its place.
    pub(super) fn live_from(&self, start: usize) -> impl Iterator<Item = (usize, &Session)> {
        let slots = self.slots.iter().enumerate().skip(start);
        slots.filter_map(|(place, slot)| {
            let entry = slot.entry.as_ref()?;
            entry.ending.is_none().then_some((place, &entry.session))
        })
    }

    /// The key that the next session will have.
    pub(super) fn next_key(&self) -> SessionKey {
        match self.free.last() {
            Some(&slot) => SessionKey {
                slot,
                generation: self.slots[slot as usize].generation,
            },
            None => SessionKey {
                slot: self.slots.len() as u32,
                generation: 0,
            },
        }
    }

    /// Takes in a session that has the key of [`SessionTable::next_key`].
    pub(super) fn insert(&mut self, session: Session) {
        self.streams += session.media.streams.len();
        self.by_call
            .entry(session.call_id().clone())
            .or_default()
            .push(session.key());
        let entry = Some(Entry {
            session,
            timer: Timer::default(),
            ending: None,
            is_changed: false,
            is_saved: false,
        });
        match self.free.pop() {
            Some(slot) => self.slots[slot as usize].entry = entry,
            None => self.slots.push(Slot {
                generation: 0,
                entry,
            }),
        }
    }

    /// A session is not as it was saved any more.
    pub(super) fn touch(&mut self, key: SessionKey) {
        let Some(entry) = self.entry_mut(key) else {
            return;
        };
        if !std::mem::replace(&mut entry.is_changed, true) {
            self.changes.push(Change::Session(key));
            if self.changes.len() > 2 * self.slots.len() + 64 {
                self.forget_changes();
            }
        }
    }

    /// Where nobody asks for changes, those of sessions that are over would pile up.
    fn forget_changes(&mut self) {
        let mut changes = std::mem::take(&mut self.changes);
        changes.retain(|change| match change {
            Change::Session(key) => self.get(*key).is_some(),
            Change::Over(..) => true,
        });
        self.changes = changes;
    }

    /// All sessions that are not reported yet are to be saved.
    pub(super) fn touch_all(&mut self) {
        self.touch_where(|_| true);
    }

    fn touch_where(&mut self, mut is_meant: impl FnMut(&mut Session) -> bool) {
        for (place, slot) in self.slots.iter_mut().enumerate() {
            let Some(entry) = &mut slot.entry else {
                continue;
            };
            if is_meant(&mut entry.session) && !std::mem::replace(&mut entry.is_changed, true) {
                self.changes.push(Change::Session(SessionKey {
                    slot: place as u32,
                    generation: slot.generation,
                }));
            }
        }
    }

    pub(super) fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// What has changed since this was asked last.
    pub(super) fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// A session that has changed, for who saves it now.
    pub(super) fn save(&mut self, key: SessionKey) -> Option<&Session> {
        let entry = self.entry_mut(key)?;
        entry.is_changed = false;
        entry.is_saved = true;
        Some(&entry.session)
    }

    /// There is a state of this session: its end is to be told.
    pub(super) fn note_saved(&mut self, key: SessionKey) {
        if let Some(entry) = self.entry_mut(key) {
            entry.is_saved = true;
        }
    }

    /// The kernel counts all flows from zero again.
    pub(super) fn restart_counting(&mut self) {
        self.touch_where(|session| {
            let streams = session.media.streams.iter_mut();
            let mut is_changed = false;
            for handover in streams.flat_map(|stream| stream.handovers.iter_mut()) {
                is_changed |= handover.restart_counting();
            }
            is_changed
        });
    }

    /// All that are not reported yet.
    #[cfg(test)]
    pub(super) fn all(&self) -> impl Iterator<Item = &Session> {
        let entries = self.slots.iter().filter_map(|slot| slot.entry.as_ref());
        entries.map(|entry| &entry.session)
    }

    /// A session of a call is not live any more.
    pub(super) fn unlist(&mut self, key: SessionKey, call_id: &CallId) {
        if let Some(keys) = self.by_call.get_mut(call_id) {
            keys.retain(|&other| other != key);
            if keys.is_empty() {
                self.by_call.remove(call_id);
            }
        }
    }

    /// Takes a session out that is over and waits for nothing any more, to be reported.
    pub(super) fn take_done(&mut self, key: SessionKey) -> Option<(Session, Ending)> {
        if !self.entry_mut(key)?.is_done() {
            return None;
        }
        let slot = &mut self.slots[key.slot as usize];
        let Entry {
            session,
            ending,
            is_saved,
            ..
        } = slot.entry.take()?;
        if is_saved {
            self.changes.push(Change::Over(session.id, session.owner));
        }
        slot.generation = slot.generation.wrapping_add(1);
        self.streams -= session.media.streams.len();
        self.free.push(key.slot);
        Some((session, ending?))
    }
}
