//! What an administrator asks and decides: which call a text means, what is known of it, which relays are to get no
//! new calls.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Connected, LinkId, Registry, Relay, RelayKey};
use crate::dispatcher::ended_call::Reason;
use crate::proto::name::Name;
use crate::proto::{CallId, DialogId, Text};

/// What a dispatcher knows of a session beyond where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    pub name: Name,
    pub dialog_id: Option<DialogId>,
    /// The callee has finally answered, as far as requests told.
    pub answered: bool,
}

/// How the administrator has a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    /// The proxy ends its dialog and removes it.
    Proxy,
    /// Its relay is asked; the proxy has yet to remove it.
    Relay,
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

impl<L: Clone> Registry<L> {
    /// The call that is meant by a text: as it is, or where that is no known call, what relays call one that is not
    /// UTF-8, or its bytes as they are shown.
    pub fn meant(&self, text: &str) -> CallId {
        let literal = CallId(text.into());
        if self.sessions.has(&literal) {
            return literal;
        }
        if let Some(known) = self.aliases.get(text) {
            return known.clone();
        }
        match Text::from_shown(text) {
            Some(bytes) if !self.found.has(&literal) => CallId(bytes),
            _ => literal,
        }
    }

    /// The live calls, of this dispatcher or listed by a relay, whose Call-IDs begin so, as they are shown.
    pub fn beginning(&self, prefix: &str) -> Vec<CallId> {
        let begins = |call_id: &&CallId| call_id.0.escaped().starts_with(prefix);
        let calls = self.sessions.call_ids().chain(self.found.call_ids());
        calls.filter(begins).cloned().collect()
    }

    /// What is known of the live sessions of a Call-ID that this dispatcher has made or seen.
    pub fn about(&self, call_id: &CallId) -> Vec<About> {
        let sessions = self.sessions.of(call_id).map(|(_, session)| About {
            name: session.name.clone(),
            dialog_id: session.dialog_id.clone(),
            answered: session.name.callee.is_some(),
        });
        sessions.collect()
    }

    /// The dialogs of this dispatcher's calls, for tests.
    pub fn dialogs(&self) -> impl Iterator<Item = &DialogId> {
        self.sessions
            .iter()
            .filter_map(|(_, session)| session.dialog_id.as_ref())
    }

    /// How many sessions relays have listed that are not known otherwise, for tests.
    pub fn found(&self) -> usize {
        self.found
            .call_ids()
            .map(|id| self.found.of(id).count())
            .sum()
    }

    /// From now on a removal of this session is the administrator's doing, until [`Registry::not_by_admin`] or its end.
    pub fn by_admin(&mut self, name: &Name, through: Through) {
        self.not_by_admin(name);
        self.by_admin.push((name.clone(), through));
    }

    /// What the administrator wanted has been done, or has not come about.
    pub fn not_by_admin(&mut self, name: &Name) {
        self.by_admin.retain(|(one, _)| !one.is_of(name));
    }

    /// How the administrator has had a session ended that is over now.
    pub(super) fn take_by_admin(&mut self, name: &Name) -> Option<Through> {
        let at = self.by_admin.iter().position(|(one, _)| one.is_of(name))?;
        Some(self.by_admin.swap_remove(at).1)
    }

    /// Who has ended a call that was removed.
    pub(super) fn blame(&self, name: &Name, reason: Reason) -> Reason {
        let mut ended = self.by_admin.iter();
        match reason {
            Reason::Removed if ended.any(|(one, _)| one.is_of(name)) => Reason::Ended,
            other => other,
        }
    }

    /// The relays, connected or not, that a name or an address means: the whole name, the part of it before a colon,
    /// or where its link comes from.
    pub fn named(&self, text: &str) -> Vec<RelayKey> {
        let address: Option<IpAddr> = text.parse().ok();
        let mut found = self.known();
        let has_name = |key: &RelayKey| key.name.as_deref() == Some(text);
        if found.iter().any(has_name) {
            found.retain(has_name);
            return found;
        }
        found.retain(|key| {
            let host = key.name.as_deref().and_then(|name| name.split(':').next());
            host == Some(text) || address == Some(key.address)
        });
        found
    }

    /// All relays of which anything is known, in order.
    pub fn known(&self) -> Vec<RelayKey> {
        let mut known: Vec<RelayKey> = self.relays.values().map(|r| r.key.clone()).collect();
        known.extend(self.drained.keys().cloned());
        known.sort();
        known.dedup();
        known
    }

    /// All relays that are to get no calls.
    pub fn drained(&self) -> BTreeSet<RelayKey> {
        self.drained.keys().cloned().collect()
    }

    /// Relays that are not connected and have calls or are to get none, in order; with the number of their calls.
    pub fn away(&self) -> BTreeMap<RelayKey, usize> {
        let drained = self.drained.keys().map(|key| (key.clone(), 0));
        let mut away: BTreeMap<RelayKey, usize> = drained.collect();
        for relay in self.relays.values() {
            if relay.link.is_some() {
                away.remove(&relay.key);
            } else if relay.live > 0 {
                away.insert(relay.key.clone(), relay.live);
            }
        }
        away
    }

    /// A relay gets no new calls from now on, whatever becomes of its link. False where that was so.
    pub fn drain(&mut self, key: &RelayKey) -> bool {
        self.drained.insert(key.clone(), false).is_none()
    }

    /// It gets calls again. False where it was not drained.
    pub fn resume(&mut self, key: &RelayKey) -> bool {
        self.drained.remove(key).is_some()
    }

    /// Why a relay gets no new calls, and whether it is connected at all.
    pub fn held(&self, key: &RelayKey) -> (Held, bool) {
        let relay = self.relays.values().find(|relay| relay.key == *key);
        let link = relay.and_then(|relay| self.links.get(&relay.link?));
        let held = Held {
            drained: self.drained.contains_key(key),
            halting: link.is_some_and(|link| link.halting),
            timed_out: link.is_some_and(|link| link.timed_out.is_some()),
        };
        (held, link.is_some())
    }

    /// Calls of this dispatcher that a relay has.
    pub fn calls_on(&self, key: &RelayKey) -> usize {
        self.load(key).0
    }

    /// The same, and how many of them nobody has answered, as far as this dispatcher has seen them begin.
    pub fn load(&self, key: &RelayKey) -> (usize, usize) {
        let relay = self.relays.values().find(|relay| relay.key == *key);
        relay.map_or((0, 0), |relay| (relay.live, relay.unanswered))
    }

    /// Connected drained relays that have no call of this dispatcher any more, as long as nobody was told so.
    pub fn drained_empty(&self) -> Vec<Connected<L>> {
        let mut connected = self.connected();
        connected.retain(|one| {
            self.drained.get(&one.relay) == Some(&false) && self.calls_on(&one.relay) == 0
        });
        connected
    }

    /// Somebody was told that a drained relay has no calls. False where it is not drained any more.
    pub fn note_drained_empty(&mut self, key: &RelayKey) -> bool {
        let told = self.drained.get_mut(key);
        told.map(|told| *told = true).is_some()
    }

    pub(super) fn is_drained(&self, id: LinkId) -> bool {
        let relay = self.relay_of(id);
        relay.is_some_and(|key| self.drained.contains_key(key))
    }

    /// A relay with a name has connected: where the one without a name that it takes the place of on its host was
    /// drained, it is.
    pub(super) fn inherit_drained(&mut self, key: &RelayKey) {
        let older = RelayKey {
            name: None,
            ..key.clone()
        };
        let is_there = |relay: &Relay| relay.key == older && relay.link.is_some();
        if key.name.is_none() || self.relays.values().any(is_there) {
            return;
        }
        if let Some(told) = self.drained.remove(&older) {
            self.drained.insert(key.clone(), told);
        }
    }
}
