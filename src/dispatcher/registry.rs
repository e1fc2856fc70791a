//! Which call is on which relay, and which relays can take one. Pure: no socket, clock or thread; the time
//! and random numbers are passed in.
//!
//! ```text
//!  calls       how sessions begin and end                       removals
//!  live_calls  those that go on                                 session, sessions, foreign_calls, unanswered
//!  relays      links and the relays behind them, who is drained   relay_table, relay_status, doubts
//!  placement   which relay gets a new call
//! ```
//!
//! Both are behind one lock, as each change to a session changes what its relay has: here is what needs both. `L` is what
//! the shell sends on: a registry hands it out and never looks at it. Read docs/protocol.md section 2 for the rules.

mod by_admin;
mod calls;
mod dialog_counts;
mod doubts;
mod foreign_calls;
mod live_calls;
mod placement;
mod relay_status;
mod relay_table;
mod relays;
mod remembered;
mod removals;
mod session;
mod sessions;
mod spellings;
#[cfg(test)]
mod tests;
mod unanswered;

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use self::calls::Calls;
use self::placement::Request;
use self::relays::Relays;
use self::sessions::SessionKey;
use super::call::{CallNote, ReceivedUpdate};
use super::ended_call::{EndedCall, Reason};
use super::relay_id::{LinkId, RelayKey};
use super::statistics::{ListedCall, Statistics};
use crate::moment::Moment;
use crate::proto::CallId;
use crate::proto::control::Remove;
use crate::proto::name::{Fit, Mention};
pub use by_admin::Through;
pub use doubts::Doubts;
pub use live_calls::About;
pub use relay_status::{Held, RelayState};
pub use relay_table::Load;
pub use relays::{Connected, Identified};
pub use unanswered::{Limits, Source, TooMany};

/// How long things are waited for, from the configuration keys of these names.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    pub relay_recover_interval: Duration,
    pub cleanup_dead_relays_after: Duration,
    pub cleanup_expired_sessions_after: Duration,
}

/// Where a session is, or the sessions of a Call-ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallLocation<L> {
    /// On no relay.
    Unknown,
    /// It has ended without the proxy, which has not removed it yet.
    Expired,
    On(LinkId, L),
    /// On a relay that is not connected.
    Away(RelayKey),
}

/// A relay that has no link any more.
#[derive(Debug)]
pub struct Lost {
    pub relay: RelayKey,
    /// Its calls, to be noted: that is when they were last known to be well.
    pub calls: Vec<CallNote>,
}

/// What an update that nobody waits for has done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Late {
    /// It may have made a session that is not ours: to be removed.
    pub is_stray: bool,
    /// What is to be noted of a call that is ours.
    pub noted: Option<CallNote>,
}

/// What a relay that is telling its sessions has told so far.
#[derive(Debug, Default)]
pub struct Listed {
    /// Sessions that it was given and has.
    there: HashSet<SessionKey>,
    /// Removals that it missed of others.
    owed: Vec<Remove>,
    /// Sessions that another relay was given; the first one's call, and that relay.
    pub foreign: usize,
    pub first_foreign: Option<(RelayKey, CallId)>,
}

/// What has to be done after a relay has listed its sessions.
#[derive(Debug, Default)]
pub struct Purge {
    pub finished: Vec<EndedCall>,
    /// Calls that go on after all, to be noted.
    pub back: Vec<CallNote>,
    /// Removals that the relay missed while it was away.
    pub owed: Vec<Remove>,
}

/// What became of calls that a relay was asked for.
#[derive(Debug, Default)]
pub struct Checked {
    pub finished: Vec<EndedCall>,
    /// Those that go on.
    pub there: Vec<CallId>,
    /// Of these, what is to be noted.
    pub back: Vec<CallNote>,
}

/// What time brought about.
#[derive(Debug)]
pub struct Elapsed<L> {
    pub finished: Vec<EndedCall>,
    /// Links of relays that did not recover: to be closed.
    pub dead: Vec<(LinkId, L)>,
}

/// Sessions, relays and links.
#[derive(Debug)]
pub struct Registry<L> {
    timeouts: Timeouts,
    pub(super) calls: Calls,
    pub(super) relays: Relays<L>,
}

impl<L: Clone> Registry<L> {
    /// Knows nothing yet.
    pub fn new(timeouts: Timeouts) -> Self {
        Registry {
            timeouts,
            calls: Calls::default(),
            relays: Relays::new(),
        }
    }

    /// What is due at this time; to be called every second or so.
    pub fn tick(&mut self, now: Moment) -> Elapsed<L> {
        let timeouts = self.timeouts;
        self.calls
            .forget_old(timeouts.cleanup_expired_sessions_after, now);
        let table = &mut self.relays.table;
        let lost = table.lost(timeouts.cleanup_dead_relays_after, now);
        let mut finished = Vec::new();
        if !lost.is_empty() {
            finished = self.calls.give_up(table, &lost, now);
            table.forget(&lost);
        }
        Elapsed {
            finished,
            dead: self.relays.dead(timeouts.relay_recover_interval, now),
        }
    }

    /// A relay has connected and is being asked for its sessions. It takes no calls until
    /// [`Registry::identify`].
    pub fn link_up(&mut self, address: IpAddr, make_handle: impl FnOnce(LinkId) -> L) -> L {
        let asked = self.calls.live.sessions.changes();
        self.relays.link_up(address, asked, make_handle)
    }

    /// The link's first line tells who it is; a later `hello` may say it again.
    pub fn identify(
        &mut self,
        id: LinkId,
        name: Option<&str>,
        now: Moment,
    ) -> Option<Identified<L>> {
        let (identified, replaced) = self.relays.identify(id, name)?;
        if let Some(old) = replaced {
            self.calls.lose_link(old);
            let relay = self.relays.number(id)?;
            self.calls.note_loss(&mut self.relays.table, relay, now);
        }
        Some(identified)
    }

    /// The link is gone. Returns the relay when that leaves it without one.
    pub fn link_lost(&mut self, id: LinkId, now: Moment) -> Option<Lost> {
        self.calls.lose_link(id);
        let (number, relay) = self.relays.link_lost(id, now)?;
        let table = &mut self.relays.table;
        let calls = self.calls.note_loss(table, number, now);
        Some(Lost { relay, calls })
    }

    /// Where sessions of a Call-ID are: of several, one that can be asked.
    pub fn place(&self, call_id: &CallId) -> CallLocation<L> {
        let mut place = CallLocation::Unknown;
        for (_, session) in self.calls.live.sessions.of(call_id) {
            place = self.relays.location(session.relay);
            if let CallLocation::On(..) = place {
                return place;
            }
        }
        let found = self.calls.live.foreign.of(call_id);
        let found = found.filter_map(|found| self.relays.on(found.link)).next();
        let is_expired = || self.calls.removals().has_expired(call_id);
        match (place, found) {
            (CallLocation::Unknown, Some(found)) => found,
            (CallLocation::Unknown, None) if is_expired() => CallLocation::Expired,
            (place, _) => place,
        }
    }

    /// Where the session of an update is to be asked for.
    pub fn place_of(&self, mention: Mention<'_>) -> CallLocation<L> {
        let sessions = &self.calls.live.sessions;
        if let Some((key, _)) = sessions.find(mention) {
            let relay = sessions.get(key).map(|session| session.relay);
            return relay.map_or(CallLocation::Unknown, |relay| self.relays.location(relay));
        }
        let found = self.calls.live.foreign.best(mention, None);
        let found = found.and_then(|found| self.relays.on(found.link));
        let ended = || match self.calls.removals().expired_fit(mention) {
            Fit::Not => CallLocation::Unknown,
            _ => CallLocation::Expired,
        };
        found.unwrap_or_else(ended)
    }

    /// Where the session of a removal is to be asked for; none where it is that of another branch than the one that has
    /// answered, which ends nothing (S4). What is not known may be where another session of that Call-ID is (S6).
    pub fn place_to_remove(&self, mention: Mention<'_>) -> Option<CallLocation<L>> {
        let ended = self.calls.removals().expired_fit(mention);
        let live = self.calls.live.sessions.find(mention);
        let live = live.map_or(Fit::Not, |(_, fit)| fit);
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

    /// All links by which sessions of a Call-ID can be asked for, as far as is known.
    pub fn links_of(&self, call_id: &CallId) -> Vec<LinkId> {
        let table = &self.relays.table;
        let relays = self.calls.live.sessions.of(call_id);
        let relays = relays.filter_map(|(_, session)| table.get(session.relay)?.link);
        let found = self.calls.live.foreign.of(call_id);
        relays.chain(found.map(|found| found.link)).collect()
    }

    /// Chooses a relay for a new call, of those that have not been asked, and counts it there until
    /// [`Relays::attempt_over`]. The rule is [`placement`]'s.
    pub fn choose(
        &mut self,
        call_id: &CallId,
        preferred: Option<IpAddr>,
        tried: &[LinkId],
        random: u64,
    ) -> Option<(LinkId, L)> {
        let beside = match preferred {
            Some(_) => Vec::new(),
            None => self.links_of(call_id),
        };
        let request = Request { preferred, random };
        self.relays.choose(request, &beside, tried)
    }

    /// A relay has given ports for an update that somebody waits for. Without media it makes no session. What is to be
    /// noted of an answered call is returned when there is news.
    pub fn updated(&mut self, link: LinkId, update: &ReceivedUpdate) -> Option<CallNote> {
        let relay = self.relays.number(link)?;
        self.calls
            .updated(&mut self.relays.table, link, relay, update)
    }

    /// A relay has given ports for an update that nobody waits for any more.
    pub fn updated_late(&mut self, link: LinkId, update: &ReceivedUpdate) -> Late {
        let relay = self.relays.number(link);
        self.calls
            .updated_late(&mut self.relays.table, relay, update)
    }

    /// The proxy has removed a session and its relay has to be told, now or when it is back. What is to be noted is
    /// returned.
    pub fn owe(&mut self, remove: Remove, now: Moment) -> Option<CallNote> {
        self.calls.owe(&mut self.relays.table, remove, now)
    }

    /// Returns true if the proxy has removed this very session and its relay has to be told, or may not have heard.
    pub fn is_owed(&self, mention: Mention<'_>) -> bool {
        let sessions = &self.calls.live.sessions;
        let session = sessions.own(mention).and_then(|key| sessions.get(key));
        session.is_some_and(|session| session.call.owed.is_some())
    }

    /// What is to be noted of a call whose relay may not have heard that the proxy has removed it.
    pub fn still_owed(&mut self, mention: Mention<'_>) -> Option<CallNote> {
        self.calls.live.still_owed(&self.relays.table, mention)
    }

    /// A relay has removed a session, as it was asked to.
    pub fn removed(
        &mut self,
        link: LinkId,
        call_id: &CallId,
        statistics: Statistics,
        now: Moment,
    ) -> Option<EndedCall> {
        let teller = self.relays.teller(link)?;
        let table = &mut self.relays.table;
        self.calls.removed(table, teller, call_id, statistics, now)
    }

    /// A relay says again that a session was removed: the answer to the removal was not heard.
    pub fn removed_before(
        &mut self,
        link: LinkId,
        statistics: Statistics,
        now: Moment,
    ) -> Option<EndedCall> {
        let teller = self.relays.teller(link)?;
        let table = &mut self.relays.table;
        self.calls.removed_before(table, teller, statistics, now)
    }

    /// A relay tells again of a session that could not be recorded: of no other one of that name.
    pub fn ended_before(
        &mut self,
        link: LinkId,
        reason: Reason,
        statistics: Statistics,
        now: Moment,
    ) -> Option<EndedCall> {
        let teller = self.relays.teller(link)?;
        Some(self.calls.ended_before(teller, reason, statistics, now))
    }

    /// A relay has ended a session by itself.
    pub fn expire(
        &mut self,
        link: LinkId,
        statistics: Statistics,
        now: Moment,
    ) -> Option<EndedCall> {
        let teller = self.relays.teller(link)?;
        let table = &mut self.relays.table;
        self.calls.expire(table, teller, statistics, now)
    }

    /// Returns true if a relay speaks of a session that it was given, as far as is known here.
    pub fn is_given(&self, link: LinkId, statistics: &Statistics) -> bool {
        let relay = self.relays.number(link);
        relay.is_some_and(|relay| self.calls.live.is_given(relay, statistics))
    }

    /// The relay that a session was given to which another one speaks of (R1). None where this is its own, or nobody's
    /// that is known.
    pub fn owner_elsewhere(&self, link: LinkId, statistics: &Statistics) -> Option<&RelayKey> {
        let relay = self.relays.link(link)?.relay;
        let owner = self.calls.live.owner_elsewhere(relay, statistics)?;
        self.relays.table.get(owner).map(|relay| &relay.key)
    }

    /// A new link's relay tells some of the sessions that it has: those that are not known are where to ask for them.
    pub fn listed(&mut self, id: LinkId, calls: Vec<ListedCall>, listed: &mut Listed) {
        if let Some(relay) = self.relays.number(id) {
            self.calls
                .listed(&self.relays.table, id, relay, calls, listed);
        }
    }

    /// It has told all: what it should have and lacks is over.
    pub fn listed_all(&mut self, id: LinkId, listed: Listed, now: Moment) -> Purge {
        let link = self.relays.link(id);
        let Some((relay, asked)) = link.and_then(|link| Some((link.relay?, link.asked))) else {
            return Purge {
                owed: listed.owed,
                ..Purge::default()
            };
        };
        self.calls
            .listed_all(&mut self.relays.table, relay, asked, listed, now)
    }

    /// What a relay that has not told its sessions has missed while it was away.
    pub fn owed(&self, id: LinkId) -> Vec<Remove> {
        let link = self.relays.link(id);
        let link = link.and_then(|link| Some((link.relay?, link.asked)));
        link.map_or_else(Vec::new, |(relay, asked)| {
            self.calls.live.owed(relay, asked)
        })
    }

    /// A relay does not know a session by these tags: it may have to be asked whether it has the call.
    pub fn refused(&mut self, id: LinkId, remove: &Remove) {
        if let Some(link) = self.relays.link_mut(id) {
            link.doubted.add(self.calls.refused(link.relay, remove));
        }
    }

    /// The calls that a relay is to be asked for now: one by one where it can explain calls, and a few at a time.
    pub fn doubts(&mut self, id: LinkId, explains: bool, now: Moment) -> Vec<Doubts> {
        let Some(link) = self.relays.link_mut(id) else {
            return Vec::new();
        };
        link.doubted.take(&self.calls.live.sessions, explains, now)
    }

    /// It could not be asked, or has not said: it is asked again, later.
    pub fn unanswered(&mut self, id: LinkId, doubts: Doubts, now: Moment) {
        if let Some(link) = self.relays.link_mut(id) {
            link.doubted.put_back(doubts, now);
        }
    }

    /// A relay has told of the sessions of these calls that it has: what it has not got is over.
    pub fn checked(
        &mut self,
        id: LinkId,
        doubts: Doubts,
        told: &[ListedCall],
        now: Moment,
    ) -> Checked {
        let relay = self.relays.number(id);
        self.calls
            .checked(&mut self.relays.table, id, relay, doubts, told, now)
    }

    /// Takes calls over from the dispatcher before this one.
    pub fn restore(&mut self, calls: impl IntoIterator<Item = CallNote>, now: Moment) {
        self.calls.restore(&mut self.relays.table, calls, now);
    }
}
