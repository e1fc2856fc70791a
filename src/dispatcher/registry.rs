//! Which call is on which relay, and which relays can take one. Pure: no socket, clock or thread; the time
//! and random numbers are passed in.
//!
//! Read docs/protocol.md section 2 for the rules. `relays` keeps links and the relays behind them, `calls` the
//! sessions. `L` is what the shell sends on: a registry hands it out and never looks at it.

mod calls;
mod dialogs;
mod doubts;
mod expired;
mod found;
mod manage;
mod relays;
mod restore;
mod ringing;
mod sessions;
mod standing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::finished::{Finished, Known};
use crate::moment::Now;
use crate::proto::control::Remove;
use crate::proto::name::{Mention, Name};
use crate::proto::{CSeq, CallId, DialogId, SessionId, Tag, Text};
pub use doubts::{Checked, Doubts};
use expired::Remembered;
use found::FoundCalls;
pub use manage::{About, Held, Through};
pub use restore::LiveCall;
use ringing::Ringing;
pub use ringing::{Limits, Source, TooMany};
use sessions::{Key, Sessions};
pub use standing::{Standing, State};

/// How long a removal of a call that was not known is kept for a relay that may have it.
const MISSED: Duration = Duration::from_secs(3600);

/// How long things are waited for, from the configuration keys of these names.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub relay_recover_interval: Duration,
    pub cleanup_dead_relays_after: Duration,
    pub cleanup_expired_sessions_after: Duration,
}

/// One connection of a relay; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// What tells relays apart: the address that the link comes from, and the name in `hello` where there is one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RelayKey {
    pub address: IpAddr,
    pub name: Option<Arc<str>>,
}

impl fmt::Display for RelayKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{} ({})", self.address, name.escape_debug()),
            None => self.address.fmt(f),
        }
    }
}

/// What the registry has to know of an `update`.
#[derive(Clone, Debug)]
pub struct Facts {
    pub call_id: CallId,
    pub dialog_id: Option<DialogId>,
    pub from_tag: Tag,
    /// Given in what comes after the callee's first answer, an early one included.
    pub to_tag: Option<Tag>,
    pub cseq: CSeq,
    /// It has media, so that its success makes a session.
    pub has_media: bool,
    /// What a session that it makes is called.
    pub session_id: SessionId,
    /// It is the reply to a request of the one with the from_tag.
    pub is_reply: bool,
    pub from_uri: Text,
    pub to_uri: Text,
    pub user_agent: Text,
    pub username: Option<Text>,
    /// Where its SIP came from.
    pub signaling: Option<IpAddr>,
    /// When it was read.
    pub at: Duration,
}

impl Facts {
    /// The session that it means.
    pub fn mention(&self) -> Mention<'_> {
        Mention {
            call_id: &self.call_id,
            from_tag: &self.from_tag,
            to_tag: self.to_tag.as_ref(),
        }
    }

    /// What takes back a session that this update has made.
    pub fn removal(&self) -> Remove {
        Remove {
            call_id: self.call_id.clone(),
            from_tag: self.from_tag.clone(),
            to_tag: self.to_tag.clone(),
        }
    }
}

/// Where a session is, or the sessions of a Call-ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place<L> {
    /// On no relay.
    Unknown,
    /// It has ended without the proxy, which has not removed it yet.
    Expired,
    On(LinkId, L),
    /// On a relay that is not connected.
    Away(RelayKey),
}

/// What a link's first line has led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Identified<L> {
    /// It is its relay's link; one that it replaces is to be closed.
    Up(RelayKey, Option<L>),
    /// Its relay has another link, which is to be asked whether it is well.
    Contested(RelayKey, L),
}

/// A relay that has no link any more.
#[derive(Debug)]
pub struct Lost {
    pub relay: RelayKey,
    /// Its calls, to be noted: that is when they were last known to be well.
    pub calls: Vec<LiveCall>,
}

/// What an update that nobody waits for has done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Late {
    /// It may have made a session that is not ours: to be removed.
    pub is_stray: bool,
    /// What is to be noted of a call that is ours.
    pub noted: Option<LiveCall>,
}

/// What a relay that is telling its sessions has told so far.
#[derive(Debug, Default)]
pub struct Listed {
    /// Sessions that it was given and has.
    there: HashSet<Key>,
    /// Removals that it missed of others.
    owed: Vec<Remove>,
    /// Sessions that another relay was given; the first one's call, and that relay.
    pub foreign: usize,
    pub first_foreign: Option<(RelayKey, CallId)>,
}

/// What has to be done after a relay has listed its sessions.
#[derive(Debug, Default)]
pub struct Purge {
    pub finished: Vec<Finished>,
    /// Calls that go on after all, to be noted.
    pub back: Vec<LiveCall>,
    /// Removals that the relay missed while it was away.
    pub owed: Vec<Remove>,
}

/// What time brought about.
#[derive(Debug)]
pub struct Elapsed<L> {
    pub finished: Vec<Finished>,
    /// Links of relays that did not recover: to be closed.
    pub dead: Vec<(LinkId, L)>,
}

/// A relay as the management port and the log see it.
#[derive(Clone, Debug)]
pub struct Connected<L> {
    pub relay: RelayKey,
    pub handle: L,
}

/// Sessions, relays and links.
#[derive(Debug)]
pub struct Registry<L> {
    patience: Patience,
    sessions: Sessions,
    ringing: Ringing,
    /// What relays may call those call-ids that are not UTF-8.
    aliases: HashMap<String, CallId>,
    found: FoundCalls,
    /// Sessions that the proxy has yet to remove.
    expired: Remembered<Name>,
    /// Calls that were not known when the proxy removed them, with the time since 1970: a relay that is away may have them.
    missed: Remembered<(Remove, Duration)>,
    relays: BTreeMap<u64, Relay>,
    links: BTreeMap<LinkId, Link<L>>,
    /// Relays that get no new calls by the administrator's word, and whether somebody was told that they have none left.
    drained: BTreeMap<RelayKey, bool>,
    /// Calls that the administrator is just ending.
    by_admin: Vec<(Name, Through)>,
    /// What is to be added to a time of the caller's clock to have the time since 1970-01-01 UTC.
    wall: Duration,
    /// When this dispatcher began, since 1970-01-01 UTC; none where one before it has told which calls there were.
    blind_before: Option<Duration>,
    /// Somebody keeps what [`LiveCall`] tells of answered calls.
    is_noting: bool,
    /// How much news has been told to be noted.
    notes: AtomicU64,
    /// Counts changes to sessions, relays and links: what is known when is a comparison.
    serial: u64,
}

#[derive(Debug)]
struct Session {
    /// The callee is in it once it has finally answered (S3).
    name: Name,
    relay: u64,
    dialog_id: Option<DialogId>,
    /// The number of the request that opened it; none where this dispatcher has not seen that.
    opening: Option<CSeq>,
    known: Known,
    /// `known.started` on the caller's clock, where that was in this run.
    started: Option<Duration>,
    /// It was made by a reply: the callee makes the offer (C8).
    begun_by_reply: bool,
    /// Where the SIP of its first message came from.
    signaling: Option<IpAddr>,
    /// It counts as one that nobody has answered.
    is_ringing: bool,
    /// When it was last made or confirmed by its relay.
    serial: u64,
    state: SessionState,
}

#[derive(Debug, PartialEq, Eq)]
enum SessionState {
    Live,
    /// The proxy has removed it, its relay has not been told or has not answered.
    Owed(Remove),
}

#[derive(Debug)]
struct Relay {
    key: RelayKey,
    link: Option<LinkId>,
    /// Since when there is no link.
    away: Option<Duration>,
    /// Sessions that its relay should have.
    live: usize,
    /// Those of them that nobody has answered.
    unanswered: usize,
}

#[derive(Debug)]
struct Link<L> {
    handle: L,
    address: IpAddr,
    /// Which process, and which link of it, it says it is.
    instance: Option<Arc<str>>,
    /// None until its first line has told who it is.
    relay: Option<u64>,
    /// The serial when it was asked for its sessions.
    asked: u64,
    halting: bool,
    timed_out: Option<Duration>,
    /// New calls that it has been asked to take and has not answered.
    attempts: usize,
    /// Calls that it is to be asked whether it has, and not before when.
    doubted: HashSet<Key>,
    ask_at: Duration,
}

impl<L: Clone> Registry<L> {
    /// Knows nothing yet.
    pub fn new(patience: Patience) -> Self {
        Registry {
            patience,
            sessions: Sessions::default(),
            ringing: Ringing::default(),
            aliases: HashMap::new(),
            found: FoundCalls::default(),
            expired: Remembered::default(),
            missed: Remembered::default(),
            relays: BTreeMap::new(),
            links: BTreeMap::new(),
            drained: BTreeMap::new(),
            by_admin: Vec::new(),
            wall: Duration::ZERO,
            blind_before: None,
            is_noting: false,
            notes: AtomicU64::new(0),
            serial: 0,
        }
    }

    /// From now on no source has more unanswered calls than these.
    pub fn limit_ringing(&mut self, limits: Limits) {
        self.ringing = Ringing::new(limits);
    }

    /// Tells the calendar, which may be set while this runs; calls are noted with what it shows.
    pub fn set_wall(&mut self, now: Now) {
        self.wall = now.unix.elapsed().saturating_sub(now.mono.since_start());
    }

    /// Nobody has told which calls there were before this time since 1970-01-01 UTC (R3).
    pub fn set_blind_before(&mut self, time: Duration) {
        self.blind_before = Some(time);
    }

    /// What is due at this time; to be called every second or so.
    pub fn tick(&mut self, now: Duration) -> Elapsed<L> {
        let limit = self.patience.cleanup_expired_sessions_after;
        if let Some(time) = now.checked_sub(limit) {
            self.expired.forget_until(time);
        }
        if let Some(time) = now.checked_sub(MISSED) {
            self.missed.forget_until(time);
        }
        let finished = self.give_up_relays(now);
        let limit = self.patience.relay_recover_interval;
        let is_dead = |link: &Link<L>| link.timed_out.is_some_and(|since| now >= since + limit);
        let dead = self.links.iter().filter(|(_, link)| is_dead(link));
        let dead = dead.map(|(id, link)| (*id, link.handle.clone())).collect();
        Elapsed { finished, dead }
    }

    /// Takes a link out of the table, with what was found by it.
    fn drop_link(&mut self, id: LinkId) -> Option<Link<L>> {
        self.found.lose(id);
        self.links.remove(&id)
    }

    /// A time of the caller's clock as one since 1970. A call's times stay as far apart as they were, whatever the
    /// calendar was set to meanwhile.
    fn calendar(&self, session: &Session, at: Duration) -> Duration {
        match (session.known.started, session.started) {
            (Some(began), Some(started)) => began + at.saturating_sub(started),
            _ => self.wall + at,
        }
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }
}
