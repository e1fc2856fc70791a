//! Calls: how requests, relays and time make and end their sessions. What relays are called and how many calls each has
//! is in the table, which is passed in.

use std::collections::HashSet;
use std::time::Duration;

use super::by_admin::{EndedByAdmin, Through};
use super::doubts::Doubts;
use super::foreign_calls::ForeignCalls;
use super::relay_table::{RelayNumber, RelayTable, Teller};
use super::remembered::Word;
use super::removals::Removals;
use super::session::{Session, SessionState};
use super::sessions::{SessionKey, Sessions};
use super::spellings::Spellings;
use super::unanswered::{Limits, TooMany, UnansweredCalls};
use super::{Checked, Late, Listed, Purge};
use crate::dispatcher::call::{Facts, Known, LiveCall};
use crate::dispatcher::ended_call::{DIALOG_AGE, EndedCall, Reason};
use crate::dispatcher::relay_id::LinkId;
use crate::dispatcher::statistics::{ListedCall, Statistics};
use crate::moment::{Moment, Now, UnixTime};
use crate::proto::control::Remove;
use crate::proto::name::{Fit, Mention, Name, is_spelled};
use crate::proto::{CallId, DialogId, Text};

/// A relay that tells of a call's end so long after the proxy's removal counts the time between as the call's.
const LATE: Duration = Duration::from_millis(250);

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
pub(crate) struct Calls {
    sessions: Sessions,
    unanswered: UnansweredCalls,
    spellings: Spellings,
    foreign: ForeignCalls,
    removals: Removals,
    by_admin: EndedByAdmin,
    /// How the clocks stand to each other.
    clocks: Now,
    /// When this dispatcher began; none where one before it has told which calls there were.
    blind_before: Option<UnixTime>,
    /// Somebody keeps what [`LiveCall`] tells of answered calls.
    is_noting: bool,
    /// How much news has been told to be noted.
    notes: u64,
}

impl Calls {
    /// From now on no source has more unanswered calls than these.
    pub(crate) fn limit_unanswered(&mut self, limits: Limits) {
        self.unanswered = UnansweredCalls::new(limits);
    }

    /// Tells the calendar, which may be set while this runs; calls are noted with what it shows.
    pub(crate) fn set_wall(&mut self, now: Now) {
        self.clocks = now;
    }

    /// Nobody has told which calls there were before this time (R3).
    pub(crate) fn set_blind_before(&mut self, time: UnixTime) {
        self.blind_before = Some(time);
    }

    /// From now on news of answered calls is told, to be noted.
    pub(crate) fn note_calls(&mut self) {
        self.is_noting = true;
    }

    /// Forgets what is too old: sessions that the proxy has not removed after so long.
    pub(super) fn forget_old(&mut self, expired_age: Duration, now: Moment) {
        self.removals.forget(expired_age, now);
    }

    // Where they are.

    /// The sessions of this dispatcher, to be looked at.
    pub(super) fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Sessions that relays have listed and that are not known otherwise, to be looked at.
    pub(super) fn foreign(&self) -> &ForeignCalls {
        &self.foreign
    }

    /// Sessions that the proxy has yet to remove, to be looked at.
    pub(super) fn removals(&self) -> &Removals {
        &self.removals
    }

    /// The name of the session that a message is of; that of one that it opens where none is known.
    pub(crate) fn name_of(&self, mention: Mention<'_>) -> Name {
        let known = self.sessions.find(mention);
        let known = known.and_then(|(key, _)| self.sessions.get(key));
        known.map_or_else(|| Name::opened_by(mention), |session| session.name.clone())
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
            name: session.name.clone(),
            dialog_id: session.dialog_id.clone(),
            answered: session.name.callee.is_some(),
        });
        sessions.collect()
    }

    /// The dialogs of this dispatcher's calls, for tests.
    pub(crate) fn dialogs(&self) -> impl Iterator<Item = &DialogId> {
        let sessions = self.sessions.iter();
        sessions.filter_map(|(_, session)| session.dialog_id.as_ref())
    }

    /// How many sessions relays have listed that are not known otherwise, for tests.
    pub(crate) fn found(&self) -> usize {
        let calls = self.foreign.call_ids();
        calls.map(|id| self.foreign.of(id).count()).sum()
    }

    // How they begin.

    /// A new call is to be placed: it counts as unanswered until [`Calls::placed`], and as a session after that. What
    /// is within a dialog, or makes no session, is let through.
    ///
    /// # Errors
    /// Too many of its source are unanswered.
    pub(crate) fn admit(&mut self, facts: &Facts) -> Result<(), TooMany> {
        if !facts.has_media || facts.to_tag.is_some() {
            return Ok(());
        }
        self.unanswered
            .admit(facts.session_id, facts.signaling, &facts.from_uri)
    }

    /// A call that was let in has got a relay, or will not get one.
    pub(crate) fn placed(&mut self, facts: &Facts) {
        if self.unanswered.placed(facts.session_id) {
            self.unanswered.leave(facts.signaling, &facts.from_uri);
        }
    }

    /// Counts a session among the unanswered ones as long as it is one.
    fn count_ringing(&mut self, relays: &mut RelayTable, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let rings = session.rings();
        if std::mem::replace(&mut session.is_ringing, rings) == rings {
            return;
        }
        let (address, user) = (session.signaling, &session.known.from_uri);
        if rings {
            self.unanswered.enter(address, user);
        } else {
            self.unanswered.leave(address, user);
        }
        relays.call_rings(session.relay, rings);
    }

    /// A relay has given ports for an update that somebody waits for. Without media it makes no session. What is to be
    /// noted of an answered call is returned when there is news.
    pub(super) fn updated(
        &mut self,
        relays: &mut RelayTable,
        link: LinkId,
        relay: RelayNumber,
        facts: &Facts,
    ) -> Option<LiveCall> {
        if let Some((key, has_news)) = self.confirm(relay, facts) {
            self.count_ringing(relays, key);
            return has_news.then(|| self.noted(relays, key)).flatten();
        }
        if !facts.has_media {
            return None;
        }
        if let Some(elsewhere) = self.sessions.own(facts.mention()) {
            self.forget(relays, elsewhere);
        }
        let session = self.begin(link, relay, facts);
        let key = self.add(relays, session);
        self.count_ringing(relays, key);
        self.placed(facts);
        self.noted(relays, key)
    }

    /// A session that an update has made, or made known.
    fn begin(&mut self, link: LinkId, relay: RelayNumber, facts: &Facts) -> Session {
        let serial = self.sessions.next_change();
        // Another dispatcher's session, or one of before this one's start.
        let found = self.foreign.best(facts.mention(), Some(link));
        let mut name = Name::opened_by(facts.mention());
        if let Some(found) = found.filter(|found| found.name.caller.is_some()) {
            name = found.name.clone();
        }
        let is_callees = name.caller.as_ref() != Some(&facts.from_tag);
        let mut known = Known::told_by(facts, is_callees);
        if let Some(id) = found.and_then(|found| found.session_id) {
            known.session_id = id;
        }
        let begun_by_reply = facts.is_reply && found.is_none();
        let opens = found.is_none() && (facts.is_reply || facts.to_tag.is_none());
        let told = found.and_then(|found| found.started);
        let mut session = Session {
            name,
            relay,
            dialog_id: facts.dialog_id.clone(),
            opening: opens.then_some(facts.cseq),
            known,
            started: None,
            begun_by_reply,
            signaling: facts.signaling,
            is_ringing: false,
            serial,
            state: SessionState::Live,
        };
        session.known.started = told;
        session.learn(facts, self.clocks.calendar(facts.at));
        session
    }

    /// The same for a session that its relay has already: which it is, and whether the update tells news of it. None when
    /// it is not there.
    fn confirm(&mut self, relay: RelayNumber, facts: &Facts) -> Option<(SessionKey, bool)> {
        let serial = self.sessions.next_change();
        let at = self.clocks.calendar(facts.at);
        let (key, fit) = self.sessions.find(facts.mention())?;
        if !fit.is_own() {
            // Another branch, after the call was answered.
            return Some((key, false));
        }
        let session = self.sessions.get_mut(key)?;
        if session.relay != relay {
            return None;
        }
        session.serial = serial;
        let was_owed = session.state != SessionState::Live;
        session.state = SessionState::Live;
        let has_news = session.learn(facts, at) | was_owed;
        let dialog_id = facts.dialog_id.as_ref();
        let is_new_dialog = dialog_id.is_some_and(|id| self.sessions.set_dialog(key, id));
        Some((key, has_news | is_new_dialog))
    }

    /// A relay has given ports for an update that nobody waits for any more.
    pub(super) fn updated_late(
        &mut self,
        relays: &mut RelayTable,
        relay: Option<RelayNumber>,
        facts: &Facts,
    ) -> Late {
        let at = self.clocks.calendar(facts.at);
        let found = self.sessions.find(facts.mention());
        let session = found.and_then(|(key, _)| self.sessions.get_mut(key));
        let session = session.filter(|session| Some(session.relay) == relay);
        let (Some(session), Some((key, fit))) = (session, found) else {
            return Late {
                is_stray: facts.has_media,
                noted: None,
            };
        };
        let has_news = fit.is_own() && session.learn(facts, at);
        self.count_ringing(relays, key);
        Late {
            is_stray: false,
            noted: has_news.then(|| self.noted(relays, key)).flatten(),
        }
    }

    fn add(&mut self, relays: &mut RelayTable, session: Session) -> SessionKey {
        let name = &session.name;
        self.foreign.take(&name.call_id, |one| one.name.is_of(name));
        self.removals.begun(name);
        self.spellings.add(&name.call_id);
        relays.call_begun(session.relay);
        self.sessions.insert(session)
    }

    fn forget(&mut self, relays: &mut RelayTable, key: SessionKey) {
        let Some(session) = self.sessions.remove(key) else {
            return;
        };
        if session.is_ringing {
            let user = &session.known.from_uri;
            self.unanswered.leave(session.signaling, user);
        }
        let call_id = &session.name.call_id;
        if !self.sessions.has(call_id) {
            self.spellings.remove(call_id);
        }
        relays.call_over(session.relay, session.is_ringing);
    }

    // How the proxy and the administrator end them.

    /// The proxy has removed a session that its relay ended before. True when that was so: by other tags than its own it
    /// is no removal of it.
    pub(crate) fn remove_expired(&mut self, remove: &Remove) -> bool {
        self.removals.remove_expired(remove)
    }

    /// The proxy has removed a session and its relay has to be told, now or when it is back: that is when it ended,
    /// whenever its relay hears of it. With tags that are of another branch nothing is owed. What is to be noted is
    /// returned.
    pub(super) fn owe(
        &mut self,
        relays: &mut RelayTable,
        remove: Remove,
        now: Moment,
    ) -> Option<LiveCall> {
        let Some((key, fit)) = self.sessions.find(remove.mention()) else {
            self.removals.miss(remove, self.clocks.calendar(now), now);
            return None;
        };
        let ended = self.calendar(self.sessions.get(key)?, now);
        let session = self.sessions.get_mut(key)?;
        if session.state != SessionState::Live || !fit.is_own() {
            return None;
        }
        session.known.ended = Some(ended);
        session.state = SessionState::Owed(remove);
        self.count_ringing(relays, key);
        self.noted(relays, key)
    }

    /// From now on a removal of this session is the administrator's doing, until [`Calls::not_by_admin`] or its end.
    pub(crate) fn by_admin(&mut self, name: &Name, through: Through) {
        self.by_admin.add(name, through);
    }

    /// What the administrator wanted has been done, or has not come about.
    pub(crate) fn not_by_admin(&mut self, name: &Name) {
        self.by_admin.remove(name);
    }

    // How relays tell of their end.

    /// The session of this Call-ID that a relay tells of. Where it tells no tag, that is the only one.
    fn told(
        &self,
        relay: RelayNumber,
        call_id: &CallId,
        statistics: &Statistics,
    ) -> Option<SessionKey> {
        let here = self.sessions.of(call_id);
        let here = here.filter(|(_, session)| session.relay == relay);
        let mut found: Vec<(bool, Fit, SessionKey)> = Vec::new();
        for (key, session) in here {
            let fit = session.name.fit_told(statistics.from_tag.as_deref());
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
            if session.name.fit_told(from_tag) != Fit::Not {
                if Some(session.relay) == relay {
                    return None;
                }
                owner = Some(session.relay);
            }
        }
        owner
    }

    /// A relay has removed a session, as it was asked to.
    pub(super) fn removed(
        &mut self,
        relays: &mut RelayTable,
        teller: Teller,
        call_id: &CallId,
        statistics: Statistics,
        now: Moment,
    ) -> Option<EndedCall> {
        if let Some(key) = self.told(teller.relay?, call_id, &statistics) {
            return self.end(relays, key, Reason::Removed, Some(statistics), now);
        }
        self.foreign
            .ended(teller.link, call_id, statistics.from_tag.as_deref());
        // Another dispatcher's call, or one that has moved: what its relay tells is told once.
        Some(self.end_unknown(teller, call_id.clone(), Reason::Removed, statistics, now))
    }

    /// A relay tells again of a session that could not be recorded: of no other one of that name.
    pub(super) fn ended_before(
        &mut self,
        teller: Teller,
        reason: Reason,
        statistics: Statistics,
        now: Moment,
    ) -> EndedCall {
        let call_id = self.spellings.call_id(&statistics.call_id);
        self.end_unknown(teller, call_id, reason, statistics, now)
    }

    /// A relay says again that a session was removed: the answer to the removal was not heard.
    pub(super) fn removed_before(
        &mut self,
        relays: &mut RelayTable,
        teller: Teller,
        statistics: Statistics,
        now: Moment,
    ) -> Option<EndedCall> {
        let call_id = self.spellings.call_id(&statistics.call_id);
        let relay = teller.relay;
        let key = relay.and_then(|relay| self.told(relay, &call_id, &statistics));
        let is_over = |session: &Session| match session.state {
            SessionState::Owed(_) => true,
            // Removed on the word of the dispatcher before this one.
            SessionState::Live => session.is_named(&statistics),
        };
        let key = key.filter(|key| self.sessions.get(*key).is_some_and(is_over));
        match key {
            Some(key) => self.end(relays, key, Reason::Removed, Some(statistics), now),
            None if self.owner_elsewhere(relay, &statistics).is_some() => None,
            None => Some(self.end_unknown(teller, call_id, Reason::Removed, statistics, now)),
        }
    }

    /// A relay has ended a session by itself. One that is not known is finished all the same, unless another relay has it:
    /// its relay may have it from before this dispatcher's start.
    pub(super) fn expire(
        &mut self,
        relays: &mut RelayTable,
        teller: Teller,
        statistics: Statistics,
        now: Moment,
    ) -> Option<EndedCall> {
        let call_id = self.spellings.call_id(&statistics.call_id);
        let relay = teller.relay;
        let key = relay.and_then(|relay| self.told(relay, &call_id, &statistics));
        if let Some(key) = key {
            return self.end(relays, key, Reason::Expired, Some(statistics), now);
        }
        if self.owner_elsewhere(relay, &statistics).is_some() {
            return None;
        }
        let from_tag = statistics.from_tag.as_deref();
        self.foreign.ended(teller.link, &call_id, from_tag);
        Some(self.end_unknown(teller, call_id, Reason::Expired, statistics, now))
    }

    /// A session that this dispatcher did not make is finished by it all the same.
    fn end_unknown(
        &mut self,
        teller: Teller,
        call_id: CallId,
        reason: Reason,
        statistics: Statistics,
        now: Moment,
    ) -> EndedCall {
        let removed = self.removals.take_missed(&call_id, &statistics);
        let name = statistics.name(call_id);
        let reason = if removed.is_some() {
            Reason::Removed
        } else {
            reason
        };
        let reason = self.by_admin.blame(&name, reason);
        let ice = statistics.all_streams_ice;
        let dialog_id = statistics.dialog_id.as_deref();
        let dialog_id = dialog_id.map(|id| DialogId(id.into()));
        let by_relay = reason == Reason::Expired && !ice;
        let wall = self.clocks.calendar(now);
        let is_old = statistics.ended.is_some_and(|at| at + DIALOG_AGE < wall);
        let length = removed.filter(|at| *at + LATE <= wall);
        let length = length.zip(statistics.started);
        // The relay's start and this host's end: clocks that are so far apart say nothing.
        let length = length.filter(|(at, started)| at >= started);
        let length = length.map(|(at, started)| at.since(started));
        let from_tag = statistics.from_tag.as_deref();
        let mut others = self.sessions.of(&name.call_id);
        let is_elsewhere = others.any(|(_, one)| one.name.fit_told(from_tag) != Fit::Not);
        drop(others);
        // Only a call of before this dispatcher, of which nothing else tells, is ended on its relay's word alone (R3).
        let is_from_before = statistics.started.is_some() && statistics.started < self.blind_before;
        let is_in_use = |id: &DialogId| self.sessions.has_dialog(id) || self.foreign.has_dialog(id);
        let is_its_own = is_from_before && dialog_id.as_ref().is_some_and(|id| !is_in_use(id));
        let through = self.by_admin.take(&name);
        let is_removed = reason == Reason::Removed || through == Some(Through::Proxy);
        let is_told_twice = self.removals.is_expected(&name);
        if !is_removed && !is_elsewhere && !is_told_twice {
            // What an older relay tells may be the tag of a branch.
            let name = Name {
                callee: None,
                ..name.clone()
            };
            self.removals.expect(name, Word::Relays, now);
        }
        EndedCall {
            name,
            end_dialog: by_relay
                && is_its_own
                && statistics.to_tag.is_some()
                && !is_old
                && !is_told_twice,
            dialog_id,
            timed_out: reason == Reason::Expired && !ice,
            all_streams_ice: ice,
            relay_ip: teller.address,
            statistics: Some(statistics),
            known: None,
            is_kept: false,
            length,
            reason,
        }
    }

    /// Ends a session. It stays known as expired where the proxy has yet to remove it.
    fn end(
        &mut self,
        relays: &mut RelayTable,
        key: SessionKey,
        reason: Reason,
        statistics: Option<Statistics>,
        now: Moment,
    ) -> Option<EndedCall> {
        let session = self.sessions.get(key)?;
        let relay = relays.get(session.relay)?;
        let relay_ip = relay.key.address;
        let name = session.name.clone();
        let ended = self.calendar(session, relay.away.unwrap_or(now));
        let length = self.length(session, now);
        let reason = self.by_admin.blame(&name, reason);
        let by_relay = matches!(reason, Reason::Expired | Reason::Purged);
        let proxy_knows = matches!(session.state, SessionState::Owed(_));
        let ice = statistics.as_ref().is_some_and(|s| s.all_streams_ice);
        // What opened it was another dispatcher's to see: its relay knows.
        let told = statistics.as_ref().filter(|_| session.opening.is_none());
        let answered = name.callee.is_some() || told.is_some_and(|told| told.to_tag.is_some());
        let finished = EndedCall {
            dialog_id: session.dialog_id.clone(),
            end_dialog: by_relay && !proxy_knows && session.dialog_id.is_some() && answered && !ice,
            timed_out: reason == Reason::Expired && !proxy_knows && !ice,
            all_streams_ice: ice,
            relay_ip,
            statistics,
            known: Some(Known {
                ended: session.known.ended.or(Some(ended)),
                ..session.known.clone()
            }),
            is_kept: false,
            length,
            reason: match reason {
                Reason::Ended => reason,
                _ if proxy_knows => Reason::Removed,
                _ => reason,
            },
            name: name.clone(),
        };
        self.forget(relays, key);
        let through = self.by_admin.take(&name);
        let is_removed = finished.reason == Reason::Removed
            || finished.reason == Reason::Ended && through == Some(Through::Proxy);
        if !is_removed {
            self.removals.expect(name, Word::Own, now);
        }
        Some(finished)
    }

    /// How long a call was whose relay tells of its end long after the proxy has removed it.
    fn length(&self, session: &Session, now: Moment) -> Option<Duration> {
        let (started, ended) = session.known.started.zip(session.known.ended)?;
        let is_late = ended + LATE <= self.calendar(session, now);
        let is_removed = session.state != SessionState::Live;
        (is_removed && is_late).then(|| ended.since(started))
    }

    /// A moment as a time of the calendar. A call's times stay as far apart as they were, whatever the
    /// calendar was set to meanwhile.
    fn calendar(&self, session: &Session, at: Moment) -> UnixTime {
        match (session.known.started, session.started) {
            (Some(began), Some(started)) => began + at.since(started),
            _ => self.clocks.calendar(at),
        }
    }

    // What relays list, and what they have lost.

    /// A new link's relay tells some of the sessions that it has: those that are not known are where to ask for them. What
    /// it says of another relay's changes nothing (R1).
    pub(super) fn listed(
        &mut self,
        relays: &RelayTable,
        link: LinkId,
        relay: RelayNumber,
        calls: Vec<ListedCall>,
        listed: &mut Listed,
    ) {
        for call in calls {
            let call_id = self.spellings.call_id(&call.call_id);
            let fitting = self.sessions.of(&call_id);
            let fitting = fitting.filter(|(_, one)| call.fit(&one.name) != Fit::Not);
            let (mut is_here, mut owner) = (false, None);
            for (key, session) in fitting {
                if session.relay == relay {
                    listed.there.insert(key);
                    is_here = true;
                } else {
                    owner = Some(session.relay);
                }
            }
            if let (false, Some(owner)) = (is_here, owner) {
                listed.foreign += 1;
                let owner = relays.get(owner).map(|relay| relay.key.clone());
                listed.first_foreign = listed.first_foreign.take().or(owner.zip(Some(call_id)));
                continue;
            }
            if is_here {
                continue;
            }
            let name = call.name(call_id);
            listed.owed.extend(self.removals.missed_of(&name).cloned());
            self.foreign.add(link, name, call);
        }
    }

    /// It has told all: what it should have and lacks is over. It was asked after so many changes.
    pub(super) fn listed_all(
        &mut self,
        relays: &mut RelayTable,
        relay: RelayNumber,
        asked: u64,
        listed: Listed,
        now: Moment,
    ) -> Purge {
        let mut purge = Purge {
            owed: listed.owed,
            ..Purge::default()
        };
        let (mut gone, mut back): (Vec<SessionKey>, Vec<SessionKey>) = (Vec::new(), Vec::new());
        for (key, session) in self.sessions.iter_mut() {
            if session.relay != relay || session.serial > asked {
                continue;
            }
            if !listed.there.contains(&key) {
                gone.push(key);
            } else if let SessionState::Owed(remove) = &session.state {
                purge.owed.push(remove.clone());
            } else if session.known.ended.take().is_some() {
                back.push(key);
            }
        }
        for key in back {
            self.count_ringing(relays, key);
            purge.back.extend(self.noted(relays, key));
        }
        for key in gone {
            let ended = self.end(relays, key, Reason::Purged, None, now);
            purge.finished.extend(ended);
        }
        purge
    }

    /// What a relay that has not told its sessions has missed while it was away.
    pub(super) fn owed(&self, relay: RelayNumber, asked: u64) -> Vec<Remove> {
        let here = self.sessions.iter().map(|(_, session)| session);
        let here = here.filter(|session| session.relay == relay && session.serial <= asked);
        let owed = here.filter_map(|session| match &session.state {
            SessionState::Owed(remove) => Some(remove.clone()),
            SessionState::Live => None,
        });
        owed.collect()
    }

    /// Nobody knows how a relay's calls are from now on. Should it turn out that they are over, they were then.
    pub(super) fn note_loss(
        &mut self,
        relays: &mut RelayTable,
        relay: RelayNumber,
        now: Moment,
    ) -> Vec<LiveCall> {
        let mut noted = Vec::new();
        for key in self.of_relays(|number| number == relay) {
            let ended = self.sessions.get(key).map(|s| self.calendar(s, now));
            if let (Some(session), Some(ended)) = (self.sessions.get_mut(key), ended) {
                session.known.ended.get_or_insert(ended);
            }
            self.count_ringing(relays, key);
            noted.extend(self.noted(relays, key));
        }
        noted
    }

    /// Ends the sessions of relays that stayed away too long.
    pub(super) fn give_up(
        &mut self,
        relays: &mut RelayTable,
        lost: &HashSet<RelayNumber>,
        now: Moment,
    ) -> Vec<EndedCall> {
        let mut finished = Vec::new();
        for key in self.of_relays(|number| lost.contains(&number)) {
            finished.extend(self.end(relays, key, Reason::LostRelay, None, now));
        }
        finished
    }

    fn of_relays(&self, is_it: impl Fn(RelayNumber) -> bool) -> Vec<SessionKey> {
        let sessions = self.sessions.iter();
        let sessions = sessions.filter(|(_, session)| is_it(session.relay));
        sessions.map(|(key, _)| key).collect()
    }

    /// A link is gone, with all that was found by it.
    pub(super) fn lose_link(&mut self, link: LinkId) {
        self.foreign.lose(link);
    }

    /// A relay does not know a session by these tags. Where the proxy has removed the call by them, and with the tag that
    /// opened it, the relay is to be asked whether it has the call: the sessions that are doubted then.
    pub(super) fn refused(
        &mut self,
        relay: Option<RelayNumber>,
        remove: &Remove,
    ) -> Vec<SessionKey> {
        self.removals.refused(remove);
        let is_doubted = |session: &Session| {
            let is_owed = matches!(&session.state, SessionState::Owed(owed) if owed == remove);
            Some(session.relay) == relay && is_owed
        };
        let sessions = self.sessions.of(&remove.call_id);
        let doubted = sessions.filter(|(_, session)| is_doubted(session));
        doubted.map(|(key, _)| key).collect()
    }

    /// A relay has told of the sessions of these calls that it has: what it has not got is over. What has been heard of a
    /// call since it was asked counts more.
    pub(super) fn checked(
        &mut self,
        relays: &mut RelayTable,
        link: LinkId,
        relay: Option<RelayNumber>,
        doubts: Doubts,
        told: &[ListedCall],
        now: Moment,
    ) -> Checked {
        let mut checked = Checked::default();
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
                self.count_ringing(relays, key);
                checked.back.extend(self.noted(relays, key));
                checked.there.push(call_id);
            } else {
                let ended = self.end(relays, key, Reason::Purged, None, now);
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
                    self.foreign.add(link, name, told.clone());
                }
            }
        }
        checked
    }

    // What the dispatcher before this one has noted, and what is noted for the one after.

    /// Takes calls over from the dispatcher before this one. Their relays count as away from now on, or for as long as
    /// they were before; while there was no dispatcher nobody knows.
    pub(super) fn restore(
        &mut self,
        relays: &mut RelayTable,
        calls: impl IntoIterator<Item = LiveCall>,
        now: Moment,
    ) {
        for call in calls {
            let number = relays.known_or_new(&call.relay);
            if let Some(relay) = relays.get_mut(number) {
                let since = now.saturating_sub(call.away);
                relay.away = Some(relay.away.map_or(since, |before| before.min(since)));
            }
            let session = Session {
                name: call.name,
                relay: number,
                dialog_id: call.dialog_id,
                opening: call.opening,
                known: call.known,
                started: None,
                begun_by_reply: call.begun_by_reply,
                signaling: None,
                is_ringing: false,
                serial: self.sessions.next_change(),
                state: call.owed.map_or(SessionState::Live, SessionState::Owed),
            };
            if let Some(before) = self.sessions.named(&session.name) {
                self.forget(relays, before);
            }
            self.add(relays, session);
        }
    }

    /// The proxy is about to be asked to end these calls' dialogs, and will remove them.
    pub(crate) fn restore_ended(&mut self, calls: impl IntoIterator<Item = Name>, now: Moment) {
        for name in calls {
            self.removals.expect(name, Word::Own, now);
        }
    }

    /// What is to be noted of a call whose relay may not have heard that the proxy has removed it.
    pub(super) fn still_owed(
        &mut self,
        relays: &RelayTable,
        mention: Mention<'_>,
    ) -> Option<LiveCall> {
        let key = self.sessions.own(mention)?;
        self.noted(relays, key).filter(|call| call.owed.is_some())
    }

    /// What is to be noted of a call; none where nobody notes, or it was not answered.
    fn noted(&mut self, relays: &RelayTable, key: SessionKey) -> Option<LiveCall> {
        let session = self.sessions.get(key).filter(|_| self.is_noting)?;
        session.known.started?;
        let owed = match &session.state {
            SessionState::Live => None,
            SessionState::Owed(remove) => Some(remove.clone()),
        };
        let relay = relays.get(session.relay)?.key.clone();
        self.notes += 1;
        Some(LiveCall {
            name: session.name.clone(),
            dialog_id: session.dialog_id.clone(),
            opening: session.opening,
            begun_by_reply: session.begun_by_reply,
            relay,
            known: session.known.clone(),
            owed,
            away: Duration::ZERO,
            order: self.notes,
        })
    }

    #[cfg(test)]
    pub(super) fn has_spellings(&self) -> bool {
        !self.spellings.is_empty()
    }
}
