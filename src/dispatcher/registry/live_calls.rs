//! The calls that go on: found by what names them, counted while nobody has answered, and noted once somebody has. What
//! relays are called and how many calls each has is in the table, which is passed in.

use std::time::Duration;

use super::foreign_calls::ForeignCalls;
use super::relay_table::{RelayNumber, RelayTable};
use super::session::Session;
use super::sessions::{SessionKey, Sessions};
use super::spellings::Spellings;
use super::unanswered::{Limits, TooMany, UnansweredCalls};
use crate::dispatcher::call::{CallNote, ReceivedUpdate};
use crate::dispatcher::statistics::Statistics;
use crate::moment::{Moment, Now, UnixTime};
use crate::proto::control::Remove;
use crate::proto::name::{Fit, Mention, Name};
use crate::proto::{CallId, DialogId, Text};

/// What a dispatcher knows of a session beyond where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    pub name: Name,
    pub dialog_id: Option<DialogId>,
    /// The callee has finally answered, as far as requests told.
    pub answered: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct LiveCalls {
    pub(super) sessions: Sessions,
    unanswered: UnansweredCalls,
    pub(super) spellings: Spellings,
    /// Sessions that relays have listed and that are not known otherwise.
    pub(super) foreign: ForeignCalls,
    /// How the clocks stand to each other.
    pub(super) clocks: Now,
    /// Somebody keeps what [`CallNote`] tells of answered calls.
    is_noting: bool,
    /// How much news has been told to be noted.
    notes: u64,
}

impl LiveCalls {
    /// From now on no source has more unanswered calls than these.
    pub(crate) fn limit_unanswered(&mut self, limits: Limits) {
        self.unanswered = UnansweredCalls::new(limits);
    }

    /// Tells the calendar, which may be set while this runs; calls are noted with what it shows.
    pub(crate) fn set_wall(&mut self, now: Now) {
        self.clocks = now;
    }

    /// From now on news of answered calls is told, to be noted.
    pub(crate) fn note_calls(&mut self) {
        self.is_noting = true;
    }

    /// The name of the session that a message is of; that of one that it opens where none is known.
    pub(crate) fn name_of(&self, mention: Mention<'_>) -> Name {
        let known = self.sessions.find(mention);
        let known = known.and_then(|(key, _)| self.sessions.get(key));
        known.map_or_else(
            || Name::opened_by(mention),
            |session| session.call.name.clone(),
        )
    }

    /// Returns true if this session is known, by its own tags.
    pub(crate) fn knows(&self, mention: Mention<'_>) -> bool {
        self.sessions.own(mention).is_some()
    }

    /// The call that is meant by a text: as it is, or where that is no known call, what relays call one that is not
    /// UTF-8, or its bytes as they are shown.
    pub(crate) fn meant(&self, text: &str) -> CallId {
        let literal = CallId(text.into());
        if self.sessions.has(&literal) {
            return literal;
        }
        if let Some(known) = self.spellings.odd(text) {
            return known.clone();
        }
        match Text::from_shown(text) {
            Some(bytes) if !self.foreign.has(&literal) => CallId(bytes),
            _ => literal,
        }
    }

    /// The live calls, of this dispatcher or listed by a relay, whose Call-IDs begin so, as they are shown.
    pub(crate) fn beginning(&self, prefix: &str) -> Vec<CallId> {
        let begins = |call_id: &&CallId| call_id.0.escaped().starts_with(prefix);
        let calls = self.sessions.call_ids().chain(self.foreign.call_ids());
        calls.filter(begins).cloned().collect()
    }

    /// What is known of the live sessions of a Call-ID that this dispatcher has made or seen.
    pub(crate) fn about(&self, call_id: &CallId) -> Vec<About> {
        let sessions = self.sessions.of(call_id).map(|(_, session)| About {
            name: session.call.name.clone(),
            dialog_id: session.call.dialog_id.clone(),
            answered: session.call.name.callee.is_some(),
        });
        sessions.collect()
    }

    /// The dialogs of this dispatcher's calls, for tests.
    pub(crate) fn dialogs(&self) -> impl Iterator<Item = &DialogId> {
        let sessions = self.sessions.iter();
        sessions.filter_map(|(_, session)| session.call.dialog_id.as_ref())
    }

    /// How many sessions relays have listed that are not known otherwise, for tests.
    pub(crate) fn found(&self) -> usize {
        let calls = self.foreign.call_ids();
        calls.map(|id| self.foreign.of(id).count()).sum()
    }

    /// A new call is to be placed: it counts as unanswered until [`Calls::placed`], and as a session after that. What
    /// is within a dialog, or makes no session, is let through.
    ///
    /// # Errors
    /// Too many of its source are unanswered.
    pub(crate) fn admit(&mut self, update: &ReceivedUpdate) -> Result<(), TooMany> {
        if !update.has_media() || update.to_tag.is_some() {
            return Ok(());
        }
        self.unanswered
            .admit(update.session_id, update.signaling.source, &update.from_uri)
    }

    /// A call that was let in has got a relay, or will not get one.
    pub(crate) fn placed(&mut self, update: &ReceivedUpdate) {
        if self.unanswered.placed(update.session_id) {
            self.unanswered
                .leave(update.signaling.source, &update.from_uri);
        }
    }

    /// Counts a session among the unanswered ones as long as it is one.
    pub(super) fn count_ringing(&mut self, relays: &mut RelayTable, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let rings = session.rings();
        if std::mem::replace(&mut session.is_ringing, rings) == rings {
            return;
        }
        let (address, user) = (session.signaling, &session.call.known.from_uri);
        if rings {
            self.unanswered.enter(address, user);
        } else {
            self.unanswered.leave(address, user);
        }
        relays.call_rings(session.relay, rings);
    }

    pub(super) fn add(&mut self, relays: &mut RelayTable, session: Session) -> SessionKey {
        let name = &session.call.name;
        self.foreign.take(&name.call_id, |one| one.name.is_of(name));
        self.spellings.add(&name.call_id);
        relays.call_begun(session.relay);
        self.sessions.insert(session)
    }

    pub(super) fn forget(&mut self, relays: &mut RelayTable, key: SessionKey) {
        let Some(session) = self.sessions.remove(key) else {
            return;
        };
        if session.is_ringing {
            let user = &session.call.known.from_uri;
            self.unanswered.leave(session.signaling, user);
        }
        let call_id = &session.call.name.call_id;
        if !self.sessions.has(call_id) {
            self.spellings.remove(call_id);
        }
        relays.call_over(session.relay, session.is_ringing);
    }

    /// The session of this Call-ID that a relay tells of. Where it tells no tag, that is the only one.
    pub(super) fn told(
        &self,
        relay: RelayNumber,
        call_id: &CallId,
        statistics: &Statistics,
    ) -> Option<SessionKey> {
        let here = self.sessions.of(call_id);
        let here = here.filter(|(_, session)| session.relay == relay);
        let mut found: Vec<(bool, Fit, SessionKey)> = Vec::new();
        for (key, session) in here {
            let fit = session.call.name.fit_told(statistics.from_tag.as_deref());
            if fit != Fit::Not {
                found.push((session.is_named(statistics), fit, key));
            }
        }
        let (is_named, fit, key) = found.iter().copied().max()?;
        let is_clear = is_named || fit != Fit::Untold || found.len() == 1;
        is_clear.then_some(key)
    }

    /// Returns true if a relay speaks of a session that it was given, as far as is known here.
    pub(super) fn is_given(&self, relay: RelayNumber, statistics: &Statistics) -> bool {
        let call_id = self.spellings.call_id(&statistics.call_id);
        self.told(relay, &call_id, statistics).is_some()
    }

    /// The relay that a session was given to which another one speaks of (R1). None where this is its own, or nobody's
    /// that is known.
    pub(super) fn owner_elsewhere(
        &self,
        relay: Option<RelayNumber>,
        statistics: &Statistics,
    ) -> Option<RelayNumber> {
        let from_tag = statistics.from_tag.as_deref();
        let call_id = self.spellings.call_id(&statistics.call_id);
        let mut owner = None;
        for (_, session) in self.sessions.of(&call_id) {
            if session.call.name.fit_told(from_tag) != Fit::Not {
                if Some(session.relay) == relay {
                    return None;
                }
                owner = Some(session.relay);
            }
        }
        owner
    }

    /// A moment as a time of the calendar. A call's times stay as far apart as they were, whatever the
    /// calendar was set to meanwhile.
    pub(super) fn calendar(&self, session: &Session, at: Moment) -> UnixTime {
        match (session.call.known.started, session.started) {
            (Some(began), Some(started)) => began + at.since(started),
            _ => self.clocks.calendar(at),
        }
    }

    /// What is to be noted of a call; none where nobody notes, or it was not answered.
    pub(super) fn noted(&mut self, relays: &RelayTable, key: SessionKey) -> Option<CallNote> {
        let session = self.sessions.get(key).filter(|_| self.is_noting)?;
        session.call.known.started?;
        let relay = relays.get(session.relay)?.key.clone();
        self.notes += 1;
        Some(CallNote {
            call: session.call.clone(),
            relay,
            away: Duration::ZERO,
            order: self.notes,
        })
    }

    /// What is to be noted of a call whose relay may not have heard that the proxy has removed it.
    pub(super) fn still_owed(
        &mut self,
        relays: &RelayTable,
        mention: Mention<'_>,
    ) -> Option<CallNote> {
        let key = self.sessions.own(mention)?;
        self.noted(relays, key)
            .filter(|note| note.call.owed.is_some())
    }

    pub(super) fn of_relays(&self, is_it: impl Fn(RelayNumber) -> bool) -> Vec<SessionKey> {
        let sessions = self.sessions.iter();
        let sessions = sessions.filter(|(_, session)| is_it(session.relay));
        sessions.map(|(key, _)| key).collect()
    }

    /// What a relay that has not told its sessions has missed while it was away.
    pub(super) fn owed(&self, relay: RelayNumber, asked: u64) -> Vec<Remove> {
        let here = self.sessions.iter().map(|(_, session)| session);
        let here = here.filter(|session| session.relay == relay && session.serial <= asked);
        let owed = here.filter_map(|session| session.call.owed.clone());
        owed.collect()
    }

    #[cfg(test)]
    pub(super) fn has_spellings(&self) -> bool {
        !self.spellings.is_empty()
    }
}
