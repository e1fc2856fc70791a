//! Sessions: how requests, relays and time make and end them.

use std::time::Duration;

use super::remembered::Word;
use super::{
    CallLocation, Facts, Late, LinkId, LiveCall, Registry, RelayKey, Session, SessionKey,
    SessionState, Through, TooMany,
};
use crate::dispatcher::call::Known;
use crate::dispatcher::ended_call::{DIALOG_AGE, EndedCall, Reason};
use crate::dispatcher::statistics::Statistics;
use crate::proto::control::Remove;
use crate::proto::name::{Fit, Mention, Name, is_spelled, spelled};
use crate::proto::{CallId, DialogId, Tag};

/// A relay that tells of a call's end so long after the proxy's removal counts the time between as the call's.
const LATE: Duration = Duration::from_millis(250);

impl<L: Clone> Registry<L> {
    /// Where sessions of a Call-ID are: of several, one that can be asked.
    pub fn place(&self, call_id: &CallId) -> CallLocation<L> {
        let mut place = CallLocation::Unknown;
        for (_, session) in self.sessions.of(call_id) {
            place = self.place_at(session.relay);
            if let CallLocation::On(..) = place {
                return place;
            }
        }
        let found = self.found.of(call_id);
        let found = found.filter_map(|found| self.on(found.link)).next();
        match (place, found) {
            (CallLocation::Unknown, Some(found)) => found,
            (CallLocation::Unknown, None) if self.expired.of(call_id).next().is_some() => {
                CallLocation::Expired
            }
            (place, _) => place,
        }
    }

    fn place_at(&self, relay: u64) -> CallLocation<L> {
        let Some(relay) = self.relays.get(&relay) else {
            return CallLocation::Unknown;
        };
        let place = relay.link.and_then(|id| self.on(id));
        place.unwrap_or_else(|| CallLocation::Away(relay.key.clone()))
    }

    fn on(&self, id: LinkId) -> Option<CallLocation<L>> {
        let link = self.links.get(&id)?;
        Some(CallLocation::On(id, link.handle.clone()))
    }

    /// All links by which sessions of a Call-ID can be asked for, as far as is known.
    pub fn links_of(&self, call_id: &CallId) -> Vec<LinkId> {
        let relays = self.sessions.of(call_id);
        let relays = relays.filter_map(|(_, session)| self.relays.get(&session.relay)?.link);
        let found = self.found.of(call_id);
        relays.chain(found.map(|found| found.link)).collect()
    }

    /// Where the session of an update is to be asked for.
    pub fn place_of(&self, mention: Mention<'_>) -> CallLocation<L> {
        if let Some((key, _)) = self.sessions.find(mention) {
            let relay = self.sessions.get(key).map(|session| session.relay);
            return relay.map_or(CallLocation::Unknown, |relay| self.place_at(relay));
        }
        let found = self.found.of(mention.call_id);
        let found = found.map(|found| (found.name.fit(mention), found.link));
        let found = found.filter(|(fit, _)| *fit != Fit::Not).max();
        let found = found.and_then(|(_, link)| self.on(link));
        let ended = || match self.expired_fit(mention) {
            Fit::Not => CallLocation::Unknown,
            _ => CallLocation::Expired,
        };
        found.unwrap_or_else(ended)
    }

    /// Where the session of a removal is to be asked for; none where it is that of another branch than the one that has
    /// answered, which ends nothing (S4). What is not known may be where another session of that Call-ID is (S6).
    pub fn place_to_remove(&self, mention: Mention<'_>) -> Option<CallLocation<L>> {
        let ended = self.expired_fit(mention);
        let live = self.sessions.find(mention).map_or(Fit::Not, |(_, fit)| fit);
        if ended.is_own() && live < ended {
            // Both began by one tag, one after the other.
            return Some(CallLocation::Expired);
        }
        match (live, self.place_of(mention)) {
            (Fit::Branch, _) => None,
            (_, CallLocation::Expired) if ended == Fit::Branch => None,
            (_, CallLocation::Unknown) => Some(match self.place(mention.call_id) {
                on @ CallLocation::On(..) => on,
                _ => CallLocation::Unknown,
            }),
            (_, place) => Some(place),
        }
    }

    /// The name of the session that a message is of; that of one that it opens where none is known.
    pub fn name_of(&self, mention: Mention<'_>) -> Name {
        let known = self.sessions.find(mention);
        let known = known.and_then(|(key, _)| self.sessions.get(key));
        known.map_or_else(|| Name::opened_by(mention), |session| session.name.clone())
    }

    /// Returns true if this session is known, by its own tags.
    pub fn knows(&self, mention: Mention<'_>) -> bool {
        self.sessions.own(mention).is_some()
    }

    fn expired_fit(&self, mention: Mention<'_>) -> Fit {
        let fits = self.expired.of(mention.call_id);
        fits.map(|name| name.fit(mention)).max().unwrap_or(Fit::Not)
    }

    /// A new call is to be placed: it counts as unanswered until [`Registry::placed`], and as a session after that. What
    /// is within a dialog, or makes no session, is let through.
    ///
    /// # Errors
    /// Too many of its source are unanswered.
    pub fn admit(&mut self, facts: &Facts) -> Result<(), TooMany> {
        match facts.has_media && facts.to_tag.is_none() {
            true => self
                .ringing
                .admit(facts.session_id, facts.signaling, &facts.from_uri),
            false => Ok(()),
        }
    }

    /// A call that was let in has got a relay, or will not get one.
    pub fn placed(&mut self, facts: &Facts) {
        if self.ringing.placed(facts.session_id) {
            self.ringing.leave(facts.signaling, &facts.from_uri);
        }
    }

    /// Counts a session among the unanswered ones as long as it is one.
    pub(super) fn count_ringing(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let rings = session.rings();
        if std::mem::replace(&mut session.is_ringing, rings) == rings {
            return;
        }
        let (address, user) = (session.signaling, &session.known.from_uri);
        let relay = self.relays.get_mut(&session.relay);
        match rings {
            true => {
                self.ringing.enter(address, user);
                relay.into_iter().for_each(|relay| relay.unanswered += 1);
            }
            false => {
                self.ringing.leave(address, user);
                relay.into_iter().for_each(|relay| relay.unanswered -= 1);
            }
        }
    }

    /// A relay has given ports for an update that somebody waits for. Without media it makes no session. What is to be
    /// noted of an answered call is returned when there is news.
    pub fn updated(&mut self, link: LinkId, facts: &Facts) -> Option<LiveCall> {
        let relay = self.links.get(&link)?.relay?;
        if let Some((key, has_news)) = self.confirm(relay, facts) {
            self.count_ringing(key);
            return has_news.then(|| self.noted(key)).flatten();
        }
        if !facts.has_media {
            return None;
        }
        if let Some(elsewhere) = self.sessions.own(facts.mention()) {
            self.forget(elsewhere);
        }
        let session = self.begin(link, relay, facts);
        let key = self.add(session);
        self.count_ringing(key);
        self.placed(facts);
        self.noted(key)
    }

    /// A session that an update has made, or made known.
    fn begin(&mut self, link: LinkId, relay: u64, facts: &Facts) -> Session {
        let serial = self.next_serial();
        // Another dispatcher's session, or one of before this one's start.
        let found = self.found.of(&facts.call_id);
        let found = found.filter(|found| found.link == link);
        let found = found.map(|found| (found.name.fit(facts.mention()), found));
        let found = found.filter(|(fit, _)| *fit != Fit::Not);
        let found = found.max_by_key(|(fit, _)| *fit).map(|(_, found)| found);
        let mut name = Name::opened_by(facts.mention());
        if let Some(found) = found.filter(|found| found.name.caller.is_some()) {
            name = found.name.clone();
        }
        let is_callees = name.caller.as_ref() != Some(&facts.from_tag);
        let mut known = known(facts, is_callees);
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
        session.learn(facts, self.wall + facts.at);
        session
    }

    /// The same for a session that its relay has already: which it is, and whether the update tells news of it. None when
    /// it is not there.
    fn confirm(&mut self, relay: u64, facts: &Facts) -> Option<(SessionKey, bool)> {
        let serial = self.next_serial();
        let at = self.wall + facts.at;
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
    pub fn updated_late(&mut self, link: LinkId, facts: &Facts) -> Late {
        let at = self.wall + facts.at;
        let relay = self.links.get(&link).and_then(|link| link.relay);
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
        self.count_ringing(key);
        Late {
            is_stray: false,
            noted: has_news.then(|| self.noted(key)).flatten(),
        }
    }

    /// The proxy has removed a session that its relay ended before. True when that was so: by other tags than its own it
    /// is no removal of it.
    pub fn remove_expired(&mut self, remove: &Remove) -> bool {
        let fit = self.expired_fit(remove.mention());
        let is_it = |name: &Name| name.fit(remove.mention()) == fit;
        (fit.is_own() || fit == Fit::Untold) && self.expired.take(&remove.call_id, is_it).is_some()
    }

    /// The proxy has removed a session and its relay has to be told, now or when it is back: that is when it ended,
    /// whenever its relay hears of it. With tags that are of another branch nothing is owed. What is to be noted is
    /// returned.
    pub fn owe(&mut self, remove: Remove, now: Duration) -> Option<LiveCall> {
        let Some((key, fit)) = self.sessions.find(remove.mention()) else {
            // Some relay may have it: one that has not listed it yet, or does not hear of this.
            let is_noted = |(missed, _): &(Remove, Duration)| is_of_one(missed, &remove);
            if !self.missed.of(&remove.call_id).any(is_noted) {
                let (call_id, ended) = (remove.call_id.clone(), self.wall + now);
                let tags = Name::opened_by(remove.mention()).tags();
                let tags = tags
                    + remove
                        .to_tag
                        .as_ref()
                        .map_or(0, |tag| tag.0.as_bytes().len());
                self.missed
                    .add(call_id, (remove, ended), tags, Word::Own, now);
            }
            return None;
        };
        let ended = self.calendar(self.sessions.get(key)?, now);
        let session = self.sessions.get_mut(key)?;
        if session.state != SessionState::Live || !fit.is_own() {
            return None;
        }
        session.known.ended = Some(ended);
        session.state = SessionState::Owed(remove);
        self.count_ringing(key);
        self.noted(key)
    }

    /// A relay has removed a session, as it was asked to.
    pub fn removed(
        &mut self,
        link: LinkId,
        call_id: &CallId,
        statistics: Statistics,
        now: Duration,
    ) -> Option<EndedCall> {
        let relay = self.links.get(&link)?.relay?;
        if let Some(key) = self.told(relay, call_id, &statistics) {
            return self.end(key, Reason::Removed, Some(statistics), now);
        }
        self.found
            .ended(link, call_id, statistics.from_tag.as_deref());
        // Another dispatcher's call, or one that has moved: what its relay tells is told once.
        self.finish_unknown(link, call_id.clone(), Reason::Removed, statistics, now)
    }

    /// A relay tells again of a session that could not be recorded: of no other one of that name.
    pub fn ended_before(
        &mut self,
        link: LinkId,
        reason: Reason,
        statistics: Statistics,
        now: Duration,
    ) -> Option<EndedCall> {
        let call_id = self.named_by_relay(&statistics);
        self.finish_unknown(link, call_id, reason, statistics, now)
    }

    fn named_by_relay(&self, statistics: &Statistics) -> CallId {
        let known = self.aliases.get(&statistics.call_id).cloned();
        known.unwrap_or_else(|| CallId(statistics.call_id.as_str().into()))
    }

    /// The session of this Call-ID that a relay tells of. Where it tells no tag, that is the only one.
    fn told(&self, relay: u64, call_id: &CallId, statistics: &Statistics) -> Option<SessionKey> {
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

    /// A relay says again that a session was removed: the answer to the removal was not heard.
    pub fn removed_before(
        &mut self,
        link: LinkId,
        statistics: Statistics,
        now: Duration,
    ) -> Option<EndedCall> {
        let call_id = self.named_by_relay(&statistics);
        let relay = self.links.get(&link)?.relay;
        let key = relay.and_then(|relay| self.told(relay, &call_id, &statistics));
        let is_over = |session: &Session| match session.state {
            SessionState::Owed(_) => true,
            // Removed on the word of the dispatcher before this one.
            SessionState::Live => session.is_named(&statistics),
        };
        let key = key.filter(|key| self.sessions.get(*key).is_some_and(is_over));
        match key {
            Some(key) => self.end(key, Reason::Removed, Some(statistics), now),
            None if self.owner_elsewhere(link, &statistics).is_some() => None,
            None => self.finish_unknown(link, call_id, Reason::Removed, statistics, now),
        }
    }

    /// Returns true if a relay speaks of a session that it was given, as far as is known here.
    pub fn is_given(&self, link: LinkId, statistics: &Statistics) -> bool {
        let relay = self.links.get(&link).and_then(|link| link.relay);
        let call_id = self.named_by_relay(statistics);
        relay.is_some_and(|relay| self.told(relay, &call_id, statistics).is_some())
    }

    /// The relay that a session was given to which another one speaks of (R1). None where this is its own, or nobody's
    /// that is known.
    pub fn owner_elsewhere(&self, link: LinkId, statistics: &Statistics) -> Option<&RelayKey> {
        let relay = self.links.get(&link)?.relay;
        let from_tag = statistics.from_tag.as_deref();
        let call_id = self.named_by_relay(statistics);
        let mut owner = None;
        for (_, session) in self.sessions.of(&call_id) {
            if session.name.fit_told(from_tag) != Fit::Not {
                if Some(session.relay) == relay {
                    return None;
                }
                owner = Some(session.relay);
            }
        }
        self.relays.get(&owner?).map(|relay| &relay.key)
    }

    /// A relay has ended a session by itself. One that is not known is finished all the same, unless another relay has it:
    /// its relay may have it from before this dispatcher's start.
    pub fn expire(
        &mut self,
        link: LinkId,
        statistics: Statistics,
        now: Duration,
    ) -> Option<EndedCall> {
        let relay = self.links.get(&link)?.relay;
        let call_id = self.named_by_relay(&statistics);
        let key = relay.and_then(|relay| self.told(relay, &call_id, &statistics));
        if let Some(key) = key {
            return self.end(key, Reason::Expired, Some(statistics), now);
        }
        if self.owner_elsewhere(link, &statistics).is_some() {
            return None;
        }
        let from_tag = statistics.from_tag.as_deref();
        self.found.ended(link, &call_id, from_tag);
        self.finish_unknown(link, call_id, Reason::Expired, statistics, now)
    }

    /// A session that this dispatcher did not make is finished by it all the same.
    fn finish_unknown(
        &mut self,
        link: LinkId,
        call_id: CallId,
        reason: Reason,
        statistics: Statistics,
        now: Duration,
    ) -> Option<EndedCall> {
        let relay_ip = self.links.get(&link)?.address;
        let removed = self.take_missed(&call_id, &statistics);
        let name = statistics.name(call_id);
        let reason = match removed {
            Some(_) => Reason::Removed,
            None => reason,
        };
        let reason = self.blame(&name, reason);
        let ice = statistics.all_streams_ice;
        let dialog_id = statistics.dialog_id.as_deref();
        let dialog_id = dialog_id.map(|id| DialogId(id.into()));
        let by_relay = reason == Reason::Expired && !ice;
        let wall = self.wall + now;
        let is_old = statistics
            .ended
            .is_some_and(|at| at.saturating_add(DIALOG_AGE) < wall);
        let length = removed.filter(|at| *at + LATE <= wall);
        let length = length.zip(statistics.started);
        // The relay's start and this host's end: clocks that are so far apart say nothing.
        let length = length.and_then(|(at, started)| at.checked_sub(started));
        let from_tag = statistics.from_tag.as_deref();
        let mut others = self.sessions.of(&name.call_id);
        let is_elsewhere = others.any(|(_, one)| one.name.fit_told(from_tag) != Fit::Not);
        drop(others);
        // Only a call of before this dispatcher, of which nothing else tells, is ended on its relay's word alone (R3).
        let is_from_before = statistics.started.is_some() && statistics.started < self.blind_before;
        let is_in_use = |id: &DialogId| self.sessions.has_dialog(id) || self.found.has_dialog(id);
        let is_its_own = is_from_before && dialog_id.as_ref().is_some_and(|id| !is_in_use(id));
        let through = self.take_by_admin(&name);
        let is_removed = reason == Reason::Removed || through == Some(Through::Proxy);
        let is_it = |one: &Name| one.is_of(&name);
        let is_told_twice = self.expired.of(&name.call_id).any(is_it);
        if !is_removed && !is_elsewhere && !is_told_twice {
            // What an older relay tells may be the tag of a branch.
            let name = Name {
                callee: None,
                ..name.clone()
            };
            self.remember(name, Word::Relays, now);
        }
        Some(EndedCall {
            name,
            end_dialog: by_relay
                && is_its_own
                && statistics.to_tag.is_some()
                && !is_old
                && !is_told_twice,
            dialog_id,
            timed_out: reason == Reason::Expired && !ice,
            all_streams_ice: ice,
            relay_ip,
            statistics: Some(statistics),
            known: None,
            is_kept: false,
            length,
            reason,
        })
    }

    /// The proxy has yet to remove it.
    pub(super) fn note_expired(&mut self, name: Name, now: Duration) {
        self.remember(name, Word::Own, now);
    }

    fn remember(&mut self, name: Name, word: Word, now: Duration) {
        self.expired.take(&name.call_id, |one| *one == name);
        let (call_id, tags) = (name.call_id.clone(), name.tags());
        self.expired.add(call_id, name, tags, word, now);
    }

    /// When the proxy has removed a session that was not known then, since 1970.
    fn take_missed(&mut self, call_id: &CallId, statistics: &Statistics) -> Option<Duration> {
        let is_it = |(remove, _): &(Remove, Duration)| statistics.is_meant_by(remove);
        let (_, at) = self.missed.take(call_id, is_it)?;
        Some(at)
    }

    /// Ends a session. It stays known as expired where the proxy has yet to remove it.
    pub(super) fn end(
        &mut self,
        key: SessionKey,
        reason: Reason,
        statistics: Option<Statistics>,
        now: Duration,
    ) -> Option<EndedCall> {
        let session = self.sessions.get(key)?;
        let relay = self.relays.get(&session.relay)?;
        let relay_ip = relay.key.address;
        let name = session.name.clone();
        let ended = self.calendar(session, relay.away.unwrap_or(now));
        let length = self.length(session, now);
        let reason = self.blame(&name, reason);
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
        self.forget(key);
        let through = self.take_by_admin(&name);
        let is_removed = finished.reason == Reason::Removed
            || finished.reason == Reason::Ended && through == Some(Through::Proxy);
        if !is_removed {
            self.note_expired(name, now);
        }
        Some(finished)
    }

    /// How long a call was whose relay tells of its end long after the proxy has removed it.
    fn length(&self, session: &Session, now: Duration) -> Option<Duration> {
        let (started, ended) = session.known.started.zip(session.known.ended)?;
        let is_late = ended + LATE <= self.calendar(session, now);
        let is_removed = session.state != SessionState::Live;
        (is_removed && is_late).then(|| ended.saturating_sub(started))
    }

    pub(super) fn add(&mut self, session: Session) -> SessionKey {
        let name = &session.name;
        let call_id = &name.call_id;
        self.found.take(call_id, |one| one.name.is_of(name));
        // An end before, of which the proxy has yet to tell, is known by both tags.
        let is_open =
            |one: &Name| one.is_of(name) && (one.callee.is_none() || name.callee == one.callee);
        while self.expired.take(call_id, is_open).is_some() {}
        let is_missed = |(remove, _): &(Remove, Duration)| name.fit(remove.mention()) != Fit::Not;
        while self.missed.take(call_id, is_missed).is_some() {}
        if let Some(relay) = self.relays.get_mut(&session.relay) {
            relay.live += 1;
        }
        if !call_id.0.is_utf8() {
            for spelling in spelled(&call_id.0) {
                self.aliases.insert(spelling, call_id.clone());
            }
        }
        self.sessions.insert(session)
    }

    pub(super) fn forget(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.remove(key) else {
            return;
        };
        if session.is_ringing {
            let user = &session.known.from_uri;
            self.ringing.leave(session.signaling, user);
        }
        let call_id = &session.name.call_id;
        if !call_id.0.is_utf8() && !self.sessions.has(call_id) {
            for spelling in spelled(&call_id.0) {
                self.aliases.remove(&spelling);
            }
        }
        let Some(relay) = self.relays.get_mut(&session.relay) else {
            return;
        };
        relay.live = relay.live.saturating_sub(1);
        relay.unanswered -= usize::from(session.is_ringing);
        if relay.live == 0 && relay.link.is_none() {
            self.relays.remove(&session.relay);
        }
    }
}

fn known(facts: &Facts, is_callees: bool) -> Known {
    let agent = Some(facts.user_agent.clone());
    let (caller_ua, callee_ua) = match facts.is_reply == is_callees {
        true => (agent, None),
        false => (None, agent),
    };
    let (from_uri, to_uri) = match is_callees {
        false => (&facts.from_uri, &facts.to_uri),
        true => (&facts.to_uri, &facts.from_uri),
    };
    Known {
        session_id: facts.session_id,
        from_uri: from_uri.clone(),
        to_uri: to_uri.clone(),
        caller_ua,
        callee_ua,
        username: facts.username.clone(),
        started: None,
        ended: None,
    }
}

/// Returns true if both remove one session, as far as their tags tell.
fn is_of_one(one: &Remove, other: &Remove) -> bool {
    let opened = |tag: &Tag| Name {
        call_id: one.call_id.clone(),
        caller: Some(tag.clone()),
        callee: None,
    };
    let tags = [Some(&one.from_tag), one.to_tag.as_ref()];
    let mut tags = tags.into_iter().flatten();
    tags.any(|tag| opened(tag).fit(other.mention()) != Fit::Not)
}

impl Session {
    /// Its relay calls it as it is called here.
    fn is_named(&self, statistics: &Statistics) -> bool {
        let id = self.known.session_id.to_string();
        statistics.session_id.as_ref() == Some(&id)
    }

    /// Nobody has answered it, as far as this dispatcher has seen its beginning, and it is not known to be over.
    fn rings(&self) -> bool {
        self.name.callee.is_none() && self.opening.is_some() && self.known.ended.is_none()
    }

    /// What an update tells of the call, which came at a time since 1970: the first one that goes the other way is its
    /// answer (C5), and a reply to what opened it, with a to_tag, the final one (S3). True when there is news of it.
    fn learn(&mut self, facts: &Facts, at: Duration) -> bool {
        let known = &mut self.known;
        // A later call may be on its way while the removal of the earlier one is owed; or its relay is back.
        let was_over = known.ended.take().is_some();
        let by_caller = self.name.caller.as_ref() == Some(&facts.from_tag);
        let rings = self.name.callee.is_none();
        if !facts.is_reply && by_caller && facts.to_tag.is_none() && rings {
            self.opening = Some(facts.cseq);
        }
        let is_to_opening = self.opening.is_none_or(|cseq| cseq == facts.cseq);
        let is_final =
            rings && facts.is_reply && by_caller && is_to_opening && facts.to_tag.is_some();
        if is_final {
            self.name.callee.clone_from(&facts.to_tag);
        }
        let answers = is_final || facts.has_media && facts.is_reply != self.begun_by_reply;
        let starts = answers && known.started.is_none();
        if starts {
            known.started = Some(at);
            self.started = Some(facts.at);
        }
        let agent = match by_caller != facts.is_reply {
            true => &mut known.caller_ua,
            false => &mut known.callee_ua,
        };
        let is_new_agent = agent.is_none();
        agent.get_or_insert_with(|| facts.user_agent.clone());
        was_over || is_new_agent || is_final || starts
    }
}

impl Statistics {
    /// Returns true if a removal has the tag that opened this session, as far as its relay tells.
    fn is_meant_by(&self, remove: &Remove) -> bool {
        let tags = [Some(&remove.from_tag), remove.to_tag.as_ref()];
        let is_it = |told: &String| {
            let mut tags = tags.into_iter().flatten();
            tags.any(|tag| is_spelled(&tag.0, told))
        };
        self.from_tag.as_ref().is_none_or(is_it)
    }
}
