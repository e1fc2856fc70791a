//! Calls: how requests, relays and time make and end their sessions. What relays are called and how many calls each has
//! is in the table, which is passed in.

use std::collections::HashSet;
use std::time::Duration;

use super::by_admin::{EndedByAdmin, Through};
use super::doubts::Doubts;
use super::live_calls::LiveCalls;
use super::relay_table::{RelayNumber, RelayTable, Teller};
use super::remembered::Word;
use super::removals::Removals;
use super::session::Session;
use super::sessions::SessionKey;
use super::{Checked, Late, Listed, Purge};
use crate::dispatcher::call::{CallNote, Known, LiveCall, ReceivedUpdate};
use crate::dispatcher::ended_call::{DIALOG_AGE, EndedCall, Reason};
use crate::dispatcher::relay_id::LinkId;
use crate::dispatcher::statistics::{ListedCall, Statistics};
use crate::moment::{Moment, UnixTime};
use crate::proto::control::Remove;
use crate::proto::name::{Fit, Name, is_spelled};
use crate::proto::{CallId, DialogId};

/// A relay that tells of a call's end so long after the proxy's removal counts the time between as the call's.
const LATE_REMOVAL: Duration = Duration::from_millis(250);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    pub(crate) live: LiveCalls,
    removals: Removals,
    by_admin: EndedByAdmin,
    /// When this dispatcher began; none where one before it has told which calls there were.
    blind_before: Option<UnixTime>,
}

impl Calls {
    /// Nobody has told which calls there were before this time (R3).
    pub(crate) fn set_blind_before(&mut self, time: UnixTime) {
        self.blind_before = Some(time);
    }

    /// Forgets what is too old: sessions that the proxy has not removed after so long.
    pub(super) fn forget_old(&mut self, expired_age: Duration, now: Moment) {
        self.removals.forget(expired_age, now);
    }

    /// Sessions that the proxy has yet to remove, to be looked at.
    pub(super) fn removals(&self) -> &Removals {
        &self.removals
    }

    /// A relay has given ports for an update that somebody waits for. Without media it makes no session. What is to be
    /// noted of an answered call is returned when there is news.
    pub(super) fn updated(
        &mut self,
        relays: &mut RelayTable,
        link: LinkId,
        relay: RelayNumber,
        update: &ReceivedUpdate,
    ) -> Option<CallNote> {
        if let Some((key, has_news)) = self.confirm(relay, update) {
            self.live.count_ringing(relays, key);
            return has_news.then(|| self.live.noted(relays, key)).flatten();
        }
        if !update.has_media() {
            return None;
        }
        if let Some(elsewhere) = self.live.sessions.own(update.mention()) {
            self.live.forget(relays, elsewhere);
        }
        let session = self.begin(link, relay, update);
        let key = self.add(relays, session);
        self.live.count_ringing(relays, key);
        self.live.placed(update);
        self.live.noted(relays, key)
    }

    /// A session that an update has made, or made known.
    fn begin(&mut self, link: LinkId, relay: RelayNumber, update: &ReceivedUpdate) -> Session {
        let serial = self.live.sessions.next_change();
        // Another dispatcher's session, or one of before this one's start.
        let found = self.live.foreign.best(update.mention(), Some(link));
        let mut name = Name::opened_by(update.mention());
        if let Some(found) = found.filter(|found| found.name.caller.is_some()) {
            name = found.name.clone();
        }
        let is_callees = name.caller.as_ref() != Some(&update.from_tag);
        let mut known = Known::told_by(update, is_callees);
        if let Some(id) = found.and_then(|found| found.session_id) {
            known.session_id = id;
        }
        let begun_by_reply = update.is_reply() && found.is_none();
        let opens = found.is_none() && (update.is_reply() || update.to_tag.is_none());
        known.started = found.and_then(|found| found.started);
        let mut session = Session {
            call: LiveCall {
                name,
                dialog_id: update.dialog_id.clone(),
                opening: opens.then_some(update.cseq),
                begun_by_reply,
                known,
                owed: None,
            },
            relay,
            started: None,
            signaling: update.signaling.source,
            is_ringing: false,
            serial,
        };
        session.learn(update, self.live.clocks.calendar(update.at));
        session
    }

    /// The same for a session that its relay has already: which it is, and whether the update tells news of it. None when
    /// it is not there.
    fn confirm(
        &mut self,
        relay: RelayNumber,
        update: &ReceivedUpdate,
    ) -> Option<(SessionKey, bool)> {
        let serial = self.live.sessions.next_change();
        let at = self.live.clocks.calendar(update.at);
        let (key, fit) = self.live.sessions.find(update.mention())?;
        if !fit.is_own() {
            // Another branch, after the call was answered.
            return Some((key, false));
        }
        let session = self.live.sessions.get_mut(key)?;
        if session.relay != relay {
            return None;
        }
        session.serial = serial;
        let was_owed = session.call.owed.take().is_some();
        let has_news = session.learn(update, at) | was_owed;
        let dialog_id = update.dialog_id.as_ref();
        let is_new_dialog = dialog_id.is_some_and(|id| self.live.sessions.set_dialog(key, id));
        Some((key, has_news | is_new_dialog))
    }

    /// A relay has given ports for an update that nobody waits for any more.
    pub(super) fn updated_late(
        &mut self,
        relays: &mut RelayTable,
        relay: Option<RelayNumber>,
        update: &ReceivedUpdate,
    ) -> Late {
        let at = self.live.clocks.calendar(update.at);
        let found = self.live.sessions.find(update.mention());
        let session = found.and_then(|(key, _)| self.live.sessions.get_mut(key));
        let session = session.filter(|session| Some(session.relay) == relay);
        let (Some(session), Some((key, fit))) = (session, found) else {
            return Late {
                is_stray: update.has_media(),
                noted: None,
            };
        };
        let has_news = fit.is_own() && session.learn(update, at);
        self.live.count_ringing(relays, key);
        Late {
            is_stray: false,
            noted: has_news.then(|| self.live.noted(relays, key)).flatten(),
        }
    }

    fn add(&mut self, relays: &mut RelayTable, session: Session) -> SessionKey {
        self.removals.begun(&session.call.name);
        self.live.add(relays, session)
    }

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
    ) -> Option<CallNote> {
        let Some((key, fit)) = self.live.sessions.find(remove.mention()) else {
            self.removals
                .miss(remove, self.live.clocks.calendar(now), now);
            return None;
        };
        let ended = self.live.calendar(self.live.sessions.get(key)?, now);
        let session = self.live.sessions.get_mut(key)?;
        if session.call.owed.is_some() || !fit.is_own() {
            return None;
        }
        session.call.known.ended = Some(ended);
        session.call.owed = Some(remove);
        self.live.count_ringing(relays, key);
        self.live.noted(relays, key)
    }

    /// From now on a removal of this session is the administrator's doing, until [`Calls::not_by_admin`] or its end.
    pub(crate) fn by_admin(&mut self, name: &Name, through: Through) {
        self.by_admin.add(name, through);
    }

    /// What the administrator wanted has been done, or has not come about.
    pub(crate) fn not_by_admin(&mut self, name: &Name) {
        self.by_admin.remove(name);
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
        if let Some(key) = self.live.told(teller.relay?, call_id, &statistics) {
            return self.end(relays, key, Reason::Removed, Some(statistics), now);
        }
        self.live
            .foreign
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
        let call_id = self.live.spellings.call_id(&statistics.call_id);
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
        let call_id = self.live.spellings.call_id(&statistics.call_id);
        let relay = teller.relay;
        let key = relay.and_then(|relay| self.live.told(relay, &call_id, &statistics));
        // Removed by the proxy, or on the word of the dispatcher before this one.
        let is_over =
            |session: &Session| session.call.owed.is_some() || session.is_named(&statistics);
        let key = key.filter(|key| self.live.sessions.get(*key).is_some_and(is_over));
        match key {
            Some(key) => self.end(relays, key, Reason::Removed, Some(statistics), now),
            None if self.live.owner_elsewhere(relay, &statistics).is_some() => None,
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
        let call_id = self.live.spellings.call_id(&statistics.call_id);
        let relay = teller.relay;
        let key = relay.and_then(|relay| self.live.told(relay, &call_id, &statistics));
        if let Some(key) = key {
            return self.end(relays, key, Reason::Expired, Some(statistics), now);
        }
        if self.live.owner_elsewhere(relay, &statistics).is_some() {
            return None;
        }
        let from_tag = statistics.from_tag.as_deref();
        self.live.foreign.ended(teller.link, &call_id, from_tag);
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
        let wall = self.live.clocks.calendar(now);
        let is_old = statistics.ended.is_some_and(|at| at + DIALOG_AGE < wall);
        let length = removed.filter(|at| *at + LATE_REMOVAL <= wall);
        let length = length.zip(statistics.started);
        // The relay's start and this host's end: clocks that are so far apart say nothing.
        let length = length.filter(|(at, started)| at >= started);
        let length = length.map(|(at, started)| at.since(started));
        let from_tag = statistics.from_tag.as_deref();
        let mut others = self.live.sessions.of(&name.call_id);
        let is_elsewhere = others.any(|(_, one)| one.call.name.fit_told(from_tag) != Fit::Not);
        drop(others);
        // Only a call of before this dispatcher, of which nothing else tells, is ended on its relay's word alone (R3).
        let is_from_before = statistics.started.is_some() && statistics.started < self.blind_before;
        let is_in_use =
            |id: &DialogId| self.live.sessions.has_dialog(id) || self.live.foreign.has_dialog(id);
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
        let session = self.live.sessions.get(key)?;
        let relay = relays.get(session.relay)?;
        let relay_ip = relay.key.address;
        let name = session.call.name.clone();
        let ended = self.live.calendar(session, relay.away.unwrap_or(now));
        let length = self.length(session, now);
        let reason = self.by_admin.blame(&name, reason);
        // Where only its link is gone, media may go on; what nobody took over has none.
        let is_left = reason == Reason::LostRelay && relay.leaves.is_some();
        let by_relay = is_left || matches!(reason, Reason::Expired | Reason::Purged);
        let proxy_knows = session.call.owed.is_some();
        let ice = statistics.as_ref().is_some_and(|s| s.all_streams_ice);
        // What opened it was another dispatcher's to see: its relay knows.
        let told = statistics
            .as_ref()
            .filter(|_| session.call.opening.is_none());
        let answered = name.callee.is_some() || told.is_some_and(|told| told.to_tag.is_some());
        let finished = EndedCall {
            dialog_id: session.call.dialog_id.clone(),
            end_dialog: by_relay
                && !proxy_knows
                && session.call.dialog_id.is_some()
                && answered
                && !ice,
            timed_out: reason == Reason::Expired && !proxy_knows && !ice,
            all_streams_ice: ice,
            relay_ip,
            statistics,
            known: Some(Known {
                ended: session.call.known.ended.or(Some(ended)),
                ..session.call.known.clone()
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
        self.live.forget(relays, key);
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
        let (started, ended) = session.call.known.started.zip(session.call.known.ended)?;
        let is_late = ended + LATE_REMOVAL <= self.live.calendar(session, now);
        let is_removed = session.call.owed.is_some();
        (is_removed && is_late).then(|| ended.since(started))
    }

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
            let call_id = self.live.spellings.call_id(&call.call_id);
            let fitting = self.live.sessions.of(&call_id);
            let fitting = fitting.filter(|(_, one)| call.fit(&one.call.name) != Fit::Not);
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
            self.live.foreign.add(link, name, call);
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
        for (key, session) in self.live.sessions.iter_mut() {
            if session.relay != relay || session.serial > asked {
                continue;
            }
            if !listed.there.contains(&key) {
                gone.push(key);
            } else if let Some(remove) = &session.call.owed {
                purge.owed.push(remove.clone());
            } else if session.call.known.ended.take().is_some() {
                back.push(key);
            }
        }
        for key in back {
            self.live.count_ringing(relays, key);
            purge.back.extend(self.live.noted(relays, key));
        }
        for key in gone {
            let ended = self.end(relays, key, Reason::Purged, None, now);
            purge.finished.extend(ended);
        }
        purge
    }

    /// Nobody knows how a relay's calls are from now on. Should it turn out that they are over, they were then.
    pub(super) fn note_loss(
        &mut self,
        relays: &mut RelayTable,
        relay: RelayNumber,
        now: Moment,
    ) -> Vec<CallNote> {
        let mut noted = Vec::new();
        for key in self.live.of_relays(|number| number == relay) {
            let ended = self
                .live
                .sessions
                .get(key)
                .map(|s| self.live.calendar(s, now));
            if let (Some(session), Some(ended)) = (self.live.sessions.get_mut(key), ended) {
                session.call.known.ended.get_or_insert(ended);
            }
            self.live.count_ringing(relays, key);
            noted.extend(self.live.noted(relays, key));
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
        for key in self.live.of_relays(|number| lost.contains(&number)) {
            finished.extend(self.end(relays, key, Reason::LostRelay, None, now));
        }
        finished
    }

    /// A link is gone, with all that was found by it.
    pub(super) fn lose_link(&mut self, link: LinkId) {
        self.live.foreign.lose(link);
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
            let is_owed = session.call.owed.as_ref() == Some(remove);
            Some(session.relay) == relay && is_owed
        };
        let sessions = self.live.sessions.of(&remove.call_id);
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
            let session = self.live.sessions.get_mut(key);
            let session = session.filter(|session| {
                Some(session.relay) == relay
                    && session.serial <= doubts.asked
                    && session.call.owed.is_some()
            });
            let Some(session) = session else {
                continue;
            };
            let call_id = session.call.name.call_id.clone();
            let is_it = |told: &&ListedCall| {
                let from_tag = told.from_tag.as_deref();
                is_spelled(&call_id.0, &told.call_id)
                    && session.call.name.fit_told(from_tag) != Fit::Not
            };
            if told.iter().any(|told| is_it(&told)) {
                session.call.owed = None;
                session.call.known.ended = None;
                self.live.count_ringing(relays, key);
                checked.back.extend(self.live.noted(relays, key));
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
                let is_it = |session: &Session| session.call.name.fit_told(from_tag) != Fit::Not;
                if !self.live.sessions.of(call_id).any(|(_, one)| is_it(one)) {
                    // Another session of that Call-ID, where to ask for it.
                    let name = told.name(call_id.clone());
                    self.live.foreign.add(link, name, told.clone());
                }
            }
        }
        checked
    }

    /// Takes calls over from the dispatcher before this one. Their relays count as away from now on, or for as long as
    /// they were before; while there was no dispatcher nobody knows.
    pub(super) fn restore(
        &mut self,
        relays: &mut RelayTable,
        notes: impl IntoIterator<Item = CallNote>,
        now: Moment,
    ) {
        for note in notes {
            let number = relays.known_or_new(&note.relay);
            if let Some(relay) = relays.get_mut(number) {
                let since = now.saturating_sub(note.away);
                relay.away = Some(relay.away.map_or(since, |before| before.min(since)));
            }
            let session = Session {
                call: note.call,
                relay: number,
                started: None,
                signaling: None,
                is_ringing: false,
                serial: self.live.sessions.next_change(),
            };
            if let Some(before) = self.live.sessions.named(&session.call.name) {
                self.live.forget(relays, before);
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
}
