//! Sessions: how requests, relays and time make and end them.

use std::time::Duration;

use super::{
    Facts, Found, Late, LinkId, LiveCall, Place, Registry, Session, SessionState, Through,
};
use crate::dispatcher::finished::{DIALOG_AGE, Finished, Known, Reason};
use crate::dispatcher::statistics::{ListedCall, Statistics};
use crate::proto::control::Remove;
use crate::proto::{CallId, DialogId, Tag, Text};

/// A relay that tells of a call's end so long after the proxy's removal counts the time between as the call's.
const LATE: Duration = Duration::from_millis(250);

impl<L: Clone> Registry<L> {
    /// Where a call is to be asked for.
    pub fn place(&self, call_id: &CallId) -> Place<L> {
        let Some(session) = self.sessions.get(call_id) else {
            return self.found_on(call_id);
        };
        let Some(relay) = self.relays.get(&session.relay) else {
            return Place::Unknown;
        };
        match relay.link.and_then(|id| self.links.get_key_value(&id)) {
            Some((id, link)) => Place::On(*id, link.handle.clone()),
            None => Place::Away(relay.key.clone()),
        }
    }

    fn found_on(&self, call_id: &CallId) -> Place<L> {
        let found = self.found.get(call_id);
        let link = found.and_then(|found| self.links.get_key_value(&found.link));
        match link {
            Some((id, link)) => Place::On(*id, link.handle.clone()),
            None if self.expired.get(call_id).is_some() => Place::Expired,
            None => Place::Unknown,
        }
    }

    /// A relay has given ports for an update that somebody waits for. Without media it makes no session. What is to be
    /// noted of an answered call is returned when there is news.
    pub fn updated(&mut self, link: LinkId, facts: &Facts) -> Option<LiveCall> {
        let relay = self.links.get(&link)?.relay?;
        if let Some(has_news) = self.confirm(link, facts) {
            return has_news.then(|| self.noted(&facts.call_id)).flatten();
        }
        if !facts.has_media {
            return None;
        }
        self.forget(&facts.call_id);
        let mut known = known(facts);
        // A call of another dispatcher, or of before this one's start.
        let found = self.found.get(&facts.call_id);
        let found = found.filter(|found| found.link == link).map(|f| f.call);
        if let Some(id) = found.and_then(|call| call.session_id) {
            known.session_id = id;
        }
        let begun_by_reply = facts.is_reply && found.is_none();
        let answered = facts.to_tag.is_some();
        let is_answer = answered || facts.is_reply != begun_by_reply;
        let told = found.and_then(|call| call.started);
        let started = (is_answer && told.is_none()).then_some(facts.at);
        known.started = told.or(started.map(|at| self.wall + at));
        let session = Session {
            relay,
            dialog_id: facts.dialog_id.clone(),
            answered,
            known,
            started,
            begun_by_reply,
            serial: self.next_serial(),
            state: SessionState::Live,
        };
        self.add(facts.call_id.clone(), session);
        self.noted(&facts.call_id)
    }

    /// The same for a call that its relay has already: whether the update tells news of it. None when it is not there.
    fn confirm(&mut self, link: LinkId, facts: &Facts) -> Option<bool> {
        let serial = self.next_serial();
        let relay = self.links.get(&link)?.relay;
        let at = self.wall + facts.at;
        let session = self.sessions.get_mut(&facts.call_id)?;
        if Some(session.relay) != relay {
            return None;
        }
        if !session.has_tags(&facts.from_tag, facts.to_tag.as_ref()) {
            // Another session of that call-id. Where to ask for it when this one is over.
            if facts.has_media {
                let call = ListedCall::default();
                self.found
                    .insert(facts.call_id.clone(), Found { link, call });
            }
            return Some(false);
        }
        session.serial = serial;
        let is_new_dialog = facts.dialog_id.is_some() && session.dialog_id != facts.dialog_id;
        let is_answer = facts.to_tag.is_some() && !session.answered;
        let was_owed = session.state != SessionState::Live;
        session.state = SessionState::Live;
        session.answered |= is_answer;
        if is_new_dialog {
            session.dialog_id.clone_from(&facts.dialog_id);
        }
        Some(session.learn(facts, at) | is_new_dialog | is_answer | was_owed)
    }

    /// A relay has given ports for an update that nobody waits for any more.
    pub fn updated_late(&mut self, link: LinkId, facts: &Facts) -> Late {
        let at = self.wall + facts.at;
        let relay = self.links.get(&link).and_then(|link| link.relay);
        let session = self.sessions.get_mut(&facts.call_id);
        match session.filter(|session| Some(session.relay) == relay) {
            Some(session) if !session.has_tags(&facts.from_tag, facts.to_tag.as_ref()) => {
                Late::default()
            }
            Some(session) => {
                session.answered |= facts.to_tag.is_some();
                let has_news = session.learn(facts, at);
                Late {
                    is_stray: false,
                    noted: has_news.then(|| self.noted(&facts.call_id)).flatten(),
                }
            }
            None => Late {
                is_stray: facts.has_media,
                noted: None,
            },
        }
    }

    /// The proxy has removed a call that its relay ended before. True when that was so: by other tags than the call's it is
    /// no removal of it.
    pub fn remove_expired(&mut self, remove: &Remove) -> bool {
        let Some(opener) = self.expired.get(&remove.call_id) else {
            return false;
        };
        let is_it = |opener: &Tag| opens(opener, &remove.from_tag, remove.to_tag.as_ref());
        opener.as_ref().is_none_or(is_it) && self.expired.remove(&remove.call_id).is_some()
    }

    /// The proxy has removed a call and its relay has to be told, now or when it is back: that is when it ended, whenever
    /// its relay hears of it. With tags that are not the call's nothing is owed. What is to be noted is returned.
    pub fn owe(&mut self, remove: Remove, now: Duration) -> Option<LiveCall> {
        let Some(session) = self.sessions.get(&remove.call_id) else {
            // Some relay may have it: one that has not listed it yet, or does not hear of this.
            if self.missed.get(&remove.call_id).is_none() {
                let (call_id, ended) = (remove.call_id.clone(), self.wall + now);
                self.missed.add(call_id, (remove, ended), now);
            }
            return None;
        };
        let ended = self.calendar(session, now);
        let session = self.sessions.get_mut(&remove.call_id)?;
        let is_meant = session.has_tags(&remove.from_tag, remove.to_tag.as_ref());
        if session.state != SessionState::Live || !is_meant {
            return None;
        }
        let call_id = remove.call_id.clone();
        session.known.ended = Some(ended);
        session.state = SessionState::Owed(remove);
        self.noted(&call_id)
    }

    /// A relay has removed a session.
    pub fn removed(
        &mut self,
        link: LinkId,
        call_id: &CallId,
        statistics: Statistics,
        now: Duration,
    ) -> Option<Finished> {
        let relay = self.links.get(&link)?.relay?;
        let is_it = |session: &Session| session.relay == relay && session.is_told_by(&statistics);
        if self.sessions.get(call_id).is_some_and(is_it) {
            return self.end(call_id, Reason::Removed, Some(statistics), now);
        }
        self.forget_found(link, call_id);
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
    ) -> Option<Finished> {
        let call_id = self.named_by_relay(&statistics);
        self.finish_unknown(link, call_id, reason, statistics, now)
    }

    fn named_by_relay(&self, statistics: &Statistics) -> CallId {
        let known = self.aliases.get(&statistics.call_id).cloned();
        known.unwrap_or_else(|| CallId(statistics.call_id.as_str().into()))
    }

    /// A relay says again that a session was removed: the answer to the removal was not heard.
    pub fn removed_before(
        &mut self,
        link: LinkId,
        statistics: Statistics,
        now: Duration,
    ) -> Option<Finished> {
        let call_id = self.named_by_relay(&statistics);
        let relay = self.links.get(&link)?.relay;
        let session = self.sessions.get(&call_id);
        let is_it = session.is_some_and(|session| {
            let id = session.known.session_id.to_string();
            let is_over = match session.state {
                SessionState::Owed(_) => session.is_told_by(&statistics),
                // Removed on the word of the dispatcher before this one.
                SessionState::Live => statistics.session_id.as_ref() == Some(&id),
            };
            Some(session.relay) == relay && is_over
        });
        match is_it {
            true => self.end(&call_id, Reason::Removed, Some(statistics), now),
            false => self.finish_unknown(link, call_id, Reason::Removed, statistics, now),
        }
    }

    /// A relay has ended a session by itself. One that is not known is finished all the same: its relay may
    /// have it from before this dispatcher's start.
    pub fn expire(
        &mut self,
        link: LinkId,
        statistics: Statistics,
        now: Duration,
    ) -> Option<Finished> {
        let relay = self.links.get(&link)?.relay;
        let call_id = self.named_by_relay(&statistics);
        let session = self.sessions.get(&call_id);
        let is_it =
            |session: &Session| Some(session.relay) == relay && session.is_told_by(&statistics);
        if session.is_some_and(is_it) {
            return self.end(&call_id, Reason::Expired, Some(statistics), now);
        }
        self.forget_found(link, &call_id);
        self.finish_unknown(link, call_id, Reason::Expired, statistics, now)
    }

    /// A call that this link's relay listed is over there; what another relay says of a call of that name does not
    /// count.
    fn forget_found(&mut self, link: LinkId, call_id: &CallId) {
        if self.found.get(call_id).is_some_and(|f| f.link == link) {
            self.found.remove(call_id);
        }
    }

    /// A session that this dispatcher did not make is finished by it all the same.
    fn finish_unknown(
        &mut self,
        link: LinkId,
        call_id: CallId,
        reason: Reason,
        statistics: Statistics,
        now: Duration,
    ) -> Option<Finished> {
        let relay_ip = self.links.get(&link)?.address;
        let removed = self.take_missed(&call_id, &statistics);
        let reason = match removed {
            Some(_) => Reason::Removed,
            None => reason,
        };
        let reason = self.blame(&call_id, reason);
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
        let session = self.sessions.get(&call_id);
        // A later call of that name in the same dialog goes on.
        let is_in_use = session.is_some_and(|session| session.dialog_id == dialog_id);
        let through = self.by_admin.remove(&call_id);
        let is_removed = reason == Reason::Removed || through == Some(Through::Proxy);
        if !is_removed && !self.sessions.contains_key(&call_id) {
            self.expired.add(call_id.clone(), None, now);
        }
        Some(Finished {
            call_id,
            end_dialog: by_relay
                && dialog_id.is_some()
                && statistics.has_to_tag
                && !is_old
                && !is_in_use,
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

    /// When the proxy has removed a session that was not known then, since 1970.
    fn take_missed(&mut self, call_id: &CallId, statistics: &Statistics) -> Option<Duration> {
        let (remove, at) = self.missed.get(call_id)?;
        let tags = [Some(&remove.from_tag), remove.to_tag.as_ref()];
        if !statistics.is_of(tags) {
            return None;
        }
        let at = *at;
        self.missed.remove(call_id);
        Some(at)
    }

    /// Ends a session. It stays known as expired where the proxy has yet to remove it.
    pub(super) fn end(
        &mut self,
        call_id: &CallId,
        reason: Reason,
        statistics: Option<Statistics>,
        now: Duration,
    ) -> Option<Finished> {
        let session = self.sessions.get(call_id)?;
        let relay = self.relays.get(&session.relay)?;
        let relay_ip = relay.key.address;
        let ended = self.calendar(session, relay.away.unwrap_or(now));
        let length = self.length(session, now);
        let reason = self.blame(call_id, reason);
        let by_relay = matches!(reason, Reason::Expired | Reason::Purged);
        let proxy_knows = matches!(session.state, SessionState::Owed(_));
        let ice = statistics.as_ref().is_some_and(|s| s.all_streams_ice);
        let finished = Finished {
            call_id: call_id.clone(),
            dialog_id: session.dialog_id.clone(),
            end_dialog: by_relay
                && !proxy_knows
                && session.dialog_id.is_some()
                && session.answered
                && !ice,
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
        };
        let opener = session.known.from_tag.clone();
        self.forget(call_id);
        let through = self.by_admin.remove(call_id);
        let is_removed = finished.reason == Reason::Removed
            || finished.reason == Reason::Ended && through == Some(Through::Proxy);
        if !is_removed {
            self.expired.add(call_id.clone(), Some(opener), now);
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

    pub(super) fn add(&mut self, call_id: CallId, session: Session) {
        self.found.remove(&call_id);
        self.expired.remove(&call_id);
        self.missed.remove(&call_id);
        if let Some(relay) = self.relays.get_mut(&session.relay) {
            relay.live += 1;
        }
        if std::str::from_utf8(call_id.0.as_bytes()).is_err() {
            for spelling in spellings(&call_id) {
                self.aliases.insert(spelling, call_id.clone());
            }
        }
        self.sessions.insert(call_id, session);
    }

    pub(super) fn forget(&mut self, call_id: &CallId) {
        let Some(session) = self.sessions.remove(call_id) else {
            return;
        };
        if std::str::from_utf8(call_id.0.as_bytes()).is_err() {
            for spelling in spellings(call_id) {
                self.aliases.remove(&spelling);
            }
        }
        let Some(relay) = self.relays.get_mut(&session.relay) else {
            return;
        };
        relay.live = relay.live.saturating_sub(1);
        if relay.live == 0 && relay.link.is_none() {
            self.relays.remove(&session.relay);
        }
    }
}

fn known(facts: &Facts) -> Known {
    let agent = Some(facts.user_agent.clone());
    let (caller_ua, callee_ua) = match facts.is_reply {
        false => (agent, None),
        true => (None, agent),
    };
    Known {
        session_id: facts.session_id,
        from_tag: facts.from_tag.clone(),
        to_tag: facts.to_tag.clone(),
        from_uri: facts.from_uri.clone(),
        to_uri: facts.to_uri.clone(),
        caller_ua,
        callee_ua,
        username: facts.username.clone(),
        started: None,
        ended: None,
    }
}

/// Whether a request with these tags is about the call that one tag has opened, by the rule that relays have.
fn opens(opener: &Tag, from_tag: &Tag, to_tag: Option<&Tag>) -> bool {
    from_tag == opener || to_tag == Some(opener)
}

impl Session {
    /// Whether a request with these tags is about this call.
    fn has_tags(&self, from_tag: &Tag, to_tag: Option<&Tag>) -> bool {
        opens(&self.known.from_tag, from_tag, to_tag)
    }

    /// Whether statistics are of this session and not of another one of its call-id. This dispatcher may have met the
    /// call by a request of the callee's.
    pub(super) fn is_told_by(&self, statistics: &Statistics) -> bool {
        statistics.is_of([Some(&self.known.from_tag), self.known.to_tag.as_ref()])
    }

    /// What a further update tells of the call, which came at a time since 1970: the first one that goes the other way
    /// is its answer (C5). True when there is news of an answered call.
    fn learn(&mut self, facts: &Facts, at: Duration) -> bool {
        let known = &mut self.known;
        let before = (known.started, known.to_tag.clone());
        // A later call may be on its way while the removal of the earlier one is owed; or its relay is back.
        let was_over = known.ended.take().is_some();
        let by_caller = facts.from_tag == known.from_tag;
        if by_caller && facts.to_tag.is_some() {
            known.to_tag.clone_from(&facts.to_tag);
        }
        let answers = facts.has_media && facts.is_reply != self.begun_by_reply;
        if (answers || facts.to_tag.is_some()) && known.started.is_none() {
            known.started = Some(at);
            self.started = Some(facts.at);
        }
        let agent = match by_caller != facts.is_reply {
            true => &mut known.caller_ua,
            false => &mut known.callee_ua,
        };
        let is_new_agent = agent.is_none();
        agent.get_or_insert_with(|| facts.user_agent.clone());
        was_over || is_new_agent || before != (known.started, known.to_tag.clone())
    }
}

impl Statistics {
    /// Whether one of these tags opened this session, as far as its relay tells.
    fn is_of(&self, tags: [Option<&Tag>; 2]) -> bool {
        let is_it = |told: &String| {
            let mut tags = tags.into_iter().flatten();
            tags.any(|tag| spelled(&tag.0).contains(told))
        };
        self.from_tag.as_ref().is_none_or(is_it)
    }
}

/// How relays write a call-id that is not UTF-8 into JSON.
pub fn spellings(call_id: &CallId) -> [String; 2] {
    spelled(&call_id.0)
}

/// Ours, and older ones that were given `?` instead.
fn spelled(text: &Text) -> [String; 2] {
    let bytes = text.as_bytes();
    let mut asked = String::new();
    for chunk in bytes.utf8_chunks() {
        asked.push_str(chunk.valid());
        asked.extend(chunk.invalid().iter().map(|_| '?'));
    }
    [String::from_utf8_lossy(bytes).into_owned(), asked]
}
