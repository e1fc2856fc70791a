//! Links and the relays behind them: who is connected, who can take a new call, who is to get none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::CallLocation;
use super::doubts::Doubted;
use super::placement::{self, Candidate, Request};
use super::relay_status::{Held, RelayState, RelayStatus};
use super::relay_table::{Load, Relay, RelayNumber, RelayTable, Teller};
use crate::dispatcher::relay_id::{LinkId, RelayKey};
use crate::moment::Moment;

/// What a link's first line has led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Identified<L> {
    /// It is its relay's link; one that it replaces is to be closed.
    Up(RelayKey, Option<L>),
    /// Its relay has another link, which is to be asked whether it is well.
    Contested(RelayKey, L),
}

/// A relay as the management port and the log see it.
#[derive(Clone, Debug)]
pub struct Connected<L> {
    pub relay: RelayKey,
    pub handle: L,
}

/// See the module. `L` is what the shell sends on.
#[derive(Debug)]
pub(crate) struct Relays<L> {
    pub(super) table: RelayTable,
    links: BTreeMap<LinkId, Link<L>>,
    last: u64,
    /// Relays that get no new calls by the administrator's word, and whether somebody was told that they have none left.
    drained: BTreeMap<RelayKey, bool>,
}

#[derive(Debug)]
pub(super) struct Link<L> {
    pub handle: L,
    pub address: IpAddr,
    /// Which process, and which link of it, it says it is.
    instance: Option<Arc<str>>,
    /// None until its first line has told who it is.
    pub relay: Option<RelayNumber>,
    /// How many changes there had been to sessions when it was asked for its own.
    pub asked: u64,
    /// It has told them, or what it told could not be read.
    pub has_listed: bool,
    halting: bool,
    timed_out: Option<Moment>,
    /// New calls that it has been asked to take and has not answered.
    attempts: usize,
    pub doubted: Doubted,
}

impl<L: Clone> Relays<L> {
    pub(super) fn new() -> Self {
        Relays {
            table: RelayTable::default(),
            links: BTreeMap::new(),
            last: 0,
            drained: BTreeMap::new(),
        }
    }

    pub(super) fn link_up(
        &mut self,
        address: IpAddr,
        asked: u64,
        make_handle: impl FnOnce(LinkId) -> L,
    ) -> L {
        self.last += 1;
        let id = LinkId(self.last);
        let handle = make_handle(id);
        let link = Link {
            handle: handle.clone(),
            address,
            instance: None,
            relay: None,
            asked,
            has_listed: false,
            halting: false,
            timed_out: None,
            attempts: 0,
            doubted: Doubted::default(),
        };
        self.links.insert(id, link);
        handle
    }

    pub(super) fn link(&self, id: LinkId) -> Option<&Link<L>> {
        self.links.get(&id)
    }

    pub(super) fn link_mut(&mut self, id: LinkId) -> Option<&mut Link<L>> {
        self.links.get_mut(&id)
    }

    /// The relay of a link, once that is known.
    pub(super) fn number(&self, id: LinkId) -> Option<RelayNumber> {
        self.links.get(&id)?.relay
    }

    /// Who tells of a session by this link.
    pub(super) fn teller(&self, id: LinkId) -> Option<Teller> {
        let link = self.links.get(&id)?;
        Some(Teller {
            link: id,
            relay: link.relay,
            address: link.address,
        })
    }

    /// Where calls of a relay are to be asked for.
    pub(super) fn location(&self, relay: RelayNumber) -> CallLocation<L> {
        let Some(relay) = self.table.get(relay) else {
            return CallLocation::Unknown;
        };
        let place = relay.link.and_then(|id| self.on(id));
        place.unwrap_or_else(|| CallLocation::Away(relay.key.clone()))
    }

    pub(super) fn on(&self, id: LinkId) -> Option<CallLocation<L>> {
        let link = self.links.get(&id)?;
        Some(CallLocation::On(id, link.handle.clone()))
    }

    /// A link says which process it is of, and which of that one's links: before it says who it is.
    pub(crate) fn set_instance(&mut self, id: LinkId, instance: Option<&str>) {
        if let Some(link) = self.links.get_mut(&id) {
            link.instance = instance.map(Arc::from);
        }
    }

    /// Returns true if two links are of one process, which reaches this dispatcher by two addresses.
    pub(crate) fn is_same_process(&self, one: LinkId, other: LinkId) -> bool {
        let process = |id: LinkId| {
            let instance = self.links.get(&id)?.instance.as_deref()?;
            Some(instance.rsplit_once('-')?.0)
        };
        process(one).is_some_and(|it| process(other) == Some(it))
    }

    /// The link's first line tells who it is; a later `hello` may say it again. A link that stands is replaced by one of
    /// the same instance alone: any other may be another relay's, and would have this one's calls ended. Returns the one
    /// that is replaced, too.
    pub(super) fn identify(
        &mut self,
        id: LinkId,
        name: Option<&str>,
    ) -> Option<(Identified<L>, Option<LinkId>)> {
        let link = self.links.get(&id)?;
        let key = RelayKey {
            address: link.address,
            name: name.map(Arc::from),
        };
        if link.relay.is_none() {
            let known = self.table.known_as(&key);
            let standing = known.and_then(|relay| self.table.get(relay)?.link);
            let standing = standing.and_then(|id| self.links.get(&id));
            let is_same = |old: &Link<L>| old.instance.is_some() && old.instance == link.instance;
            if let Some(old) = standing.filter(|old| !is_same(old)) {
                return Some((Identified::Contested(key, old.handle.clone()), None));
            }
        }
        let link = self.links.get_mut(&id)?;
        link.halting = false;
        if let Some(relay) = link.relay.and_then(|number| self.table.get(number)) {
            return Some((Identified::Up(relay.key.clone(), None), None));
        }
        let number = self.table.known_or_new(&key);
        link.relay = Some(number);
        let relay = self.table.get_mut(number)?;
        relay.key = key.clone();
        relay.away = None;
        relay.leaves = None;
        let replaced = relay.link.replace(id);
        self.inherit_drained(&key);
        let old = replaced.and_then(|old| self.links.remove(&old));
        let replaced = replaced.filter(|_| old.is_some());
        Some((Identified::Up(key, old.map(|old| old.handle)), replaced))
    }

    /// The link is gone. Returns the relay when that leaves it without one.
    pub(super) fn link_lost(&mut self, id: LinkId, now: Moment) -> Option<(RelayNumber, RelayKey)> {
        let number = self.links.remove(&id)?.relay?;
        let relay = self.table.get_mut(number)?;
        relay.link = None;
        relay.away = Some(now);
        let key = relay.key.clone();
        self.table.forget_idle(number);
        Some((number, key))
    }

    /// Returns true if there is a relay of this key, connected or away.
    pub(crate) fn is_known(&self, key: &RelayKey) -> bool {
        self.table.of(key).is_some()
    }

    /// Who a link is, once it is known.
    #[cfg(test)]
    pub(crate) fn relay_of(&self, id: LinkId) -> Option<&RelayKey> {
        let relay = self.table.get(self.number(id)?);
        relay.map(|relay| &relay.key)
    }

    /// A link's relay has told its sessions, as far as it can.
    pub(crate) fn set_listed(&mut self, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id) {
            link.has_listed = true;
        }
    }

    /// Returns true if a link's relay has told its sessions.
    pub(crate) fn has_listed(&self, id: LinkId) -> bool {
        self.links.get(&id).is_some_and(|link| link.has_listed)
    }

    /// Returns true if no relay has told its sessions yet, or one that has calls has not.
    pub(crate) fn are_lists_due(&self) -> bool {
        let has_listed = |relay: &Relay| relay.link.is_some_and(|id| self.has_listed(id));
        let mut relays = self.table.values().peekable();
        relays.peek().is_none() || !relays.all(has_listed)
    }

    /// Since when a relay is away.
    pub(crate) fn away_since(&self, key: &RelayKey) -> Option<Moment> {
        self.table.of(key)?.away
    }

    /// A `ping` has come, or an answer in time. Returns true if the relay had been timed out.
    pub(crate) fn answers_again(&mut self, id: LinkId) -> bool {
        let link = self.links.get_mut(&id);
        link.is_some_and(|link| link.timed_out.take().is_some())
    }

    /// A request was not answered within `relay_timeout`. True when that is news.
    pub(crate) fn timed_out(&mut self, id: LinkId, now: Moment) -> bool {
        let link = self.links.get_mut(&id).filter(|l| l.timed_out.is_none());
        link.map(|link| link.timed_out = Some(now)).is_some()
    }

    /// The relay drains. True when that is news.
    pub(crate) fn halting(&mut self, id: LinkId) -> bool {
        let link = self.links.get_mut(&id).filter(|link| !link.halting);
        link.map(|link| link.halting = true).is_some()
    }

    /// A relay ends, gets no more calls, and has handed those that it has over to who comes until then.
    pub(crate) fn leaves(&mut self, id: LinkId, until: Moment) {
        self.halting(id);
        let relay = self
            .number(id)
            .and_then(|number| self.table.get_mut(number));
        if let Some(relay) = relay {
            relay.leaves = Some(until);
        }
    }

    /// Links of relays that have not recovered for so long.
    pub(super) fn dead(&self, limit: Duration, now: Moment) -> Vec<(LinkId, L)> {
        let is_dead = |link: &Link<L>| link.timed_out.is_some_and(|since| now >= since + limit);
        let dead = self.links.iter().filter(|(_, link)| is_dead(link));
        dead.map(|(id, link)| (*id, link.handle.clone())).collect()
    }

    /// Chooses a relay for a new call, of those that have not been asked, and counts it there until
    /// [`Relays::attempt_over`]. `beside` are links of relays that have a session of its Call-ID. The rule is
    /// [`placement`]'s.
    pub(super) fn choose(
        &mut self,
        request: Request,
        beside: &[LinkId],
        tried: &[LinkId],
    ) -> Option<(LinkId, L)> {
        let chosen = placement::order(self.candidates(beside, tried), request);
        let chosen = chosen.first()?.link;
        let link = self.links.get_mut(&chosen)?;
        link.attempts += 1;
        Some((chosen, link.handle.clone()))
    }

    /// The known relays that have not been tried.
    fn candidates(&self, beside: &[LinkId], tried: &[LinkId]) -> Vec<Candidate<'_>> {
        let links = self.links.iter().filter(|(id, _)| !tried.contains(id));
        let candidate = |(id, link): (&LinkId, &Link<L>)| {
            let relay = self.table.get(link.relay?)?;
            Some(Candidate {
                link: *id,
                address: link.address,
                name: relay.key.name.as_deref(),
                state: self.held_by(&relay.key, Some(link)).state(),
                load: relay.load.live + link.attempts,
                beside: beside.iter().position(|one| one == id),
            })
        };
        links.filter_map(candidate).collect()
    }

    /// Returns true if a new call could go to some relay that was not tried.
    pub(crate) fn has_other(&self, tried: &[LinkId]) -> bool {
        let candidates = self.candidates(&[], tried);
        candidates.iter().any(|one| one.state == RelayState::Active)
    }

    /// Why the relays of an address get no new call; none where one does.
    pub(crate) fn unavailable(&self, address: IpAddr) -> Option<&'static str> {
        let mut why = Some("is not connected");
        for link in self.links.values().filter(|l| l.address == address) {
            let Some(relay) = link.relay.and_then(|number| self.table.get(number)) else {
                continue;
            };
            why = match self.held_by(&relay.key, Some(link)) {
                held if held.state() == RelayState::Active => return None,
                held if held.drained => Some("is drained"),
                held if held.halting => Some("is halting"),
                _ => Some("does not answer"),
            };
        }
        why
    }

    /// A relay has answered for a new call, or nobody waits for that any more.
    pub(crate) fn attempt_over(&mut self, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id) {
            link.attempts = link.attempts.saturating_sub(1);
        }
    }

    /// Relays that are connected and known, in the order of their addresses and names.
    pub(crate) fn connected(&self) -> Vec<Connected<L>> {
        let mut found: Vec<Connected<L>> = Vec::new();
        for link in self.links.values() {
            if let Some(relay) = link.relay.and_then(|number| self.table.get(number)) {
                let (relay, handle) = (relay.key.clone(), link.handle.clone());
                found.push(Connected { relay, handle });
            }
        }
        found.sort_by(|a, b| a.relay.cmp(&b.relay));
        found
    }

    /// Connected relays, and sessions that relays should have.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let connected = self.table.values().filter(|relay| relay.link.is_some());
        let live = self.table.values().map(|relay| relay.load.live);
        (connected.count(), live.sum())
    }

    /// All links, known or not.
    pub(crate) fn links(&self) -> Vec<L> {
        self.links.values().map(|l| l.handle.clone()).collect()
    }

    /// All relays that are known, in no order.
    pub(crate) fn statuses(&self) -> Vec<RelayStatus> {
        let relays = self.table.values();
        let status = |relay: &Relay| {
            let link = self.link_of(relay);
            RelayStatus {
                relay: relay.key.clone(),
                state: match link {
                    Some(_) => self.held_by(&relay.key, link).state(),
                    None => RelayState::Away,
                },
                sessions: relay.load.live,
                unanswered: relay.load.unanswered,
            }
        };
        relays.map(status).collect()
    }

    /// The relays, connected or not, that a name or an address means: the whole name, the part of it before a colon,
    /// or where its link comes from.
    pub(crate) fn named(&self, text: &str) -> Vec<RelayKey> {
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
    pub(crate) fn known(&self) -> Vec<RelayKey> {
        let mut known: Vec<RelayKey> = self.table.values().map(|r| r.key.clone()).collect();
        known.extend(self.drained.keys().cloned());
        known.sort();
        known.dedup();
        known
    }

    /// Relays that are not connected and have calls or are to get none, in order; with the number of their calls.
    pub(crate) fn away(&self) -> BTreeMap<RelayKey, usize> {
        let drained = self.drained.keys().map(|key| (key.clone(), 0));
        let mut away: BTreeMap<RelayKey, usize> = drained.collect();
        for relay in self.table.values() {
            if relay.link.is_some() {
                away.remove(&relay.key);
            } else if relay.load.live > 0 {
                away.insert(relay.key.clone(), relay.load.live);
            }
        }
        away
    }

    /// Why a relay gets no new calls, and whether it is connected at all.
    pub(crate) fn held(&self, key: &RelayKey) -> (Held, bool) {
        let link = self.table.of(key).and_then(|relay| self.link_of(relay));
        (self.held_by(key, link), link.is_some())
    }

    fn held_by(&self, key: &RelayKey, link: Option<&Link<L>>) -> Held {
        Held {
            drained: self.drained.contains_key(key),
            halting: link.is_some_and(|link| link.halting),
            timed_out: link.is_some_and(|link| link.timed_out.is_some()),
        }
    }

    fn link_of(&self, relay: &Relay) -> Option<&Link<L>> {
        self.links.get(&relay.link?)
    }

    /// Calls of this dispatcher that a relay has.
    pub(crate) fn load(&self, key: &RelayKey) -> Load {
        let relay = self.table.of(key);
        relay.map_or_else(Load::default, |relay| relay.load)
    }

    /// All relays that are to get no calls.
    pub(crate) fn drained(&self) -> BTreeSet<RelayKey> {
        self.drained.keys().cloned().collect()
    }

    /// A relay gets no new calls from now on, whatever becomes of its link. False where that was so.
    pub(crate) fn drain(&mut self, key: &RelayKey) -> bool {
        self.drained.insert(key.clone(), false).is_none()
    }

    /// It gets calls again. False where it was not drained.
    pub(crate) fn resume(&mut self, key: &RelayKey) -> bool {
        self.drained.remove(key).is_some()
    }

    /// Connected drained relays that have no call of this dispatcher any more, as long as nobody was told so.
    pub(crate) fn drained_empty(&self) -> Vec<Connected<L>> {
        let mut connected = self.connected();
        connected.retain(|one| {
            self.drained.get(&one.relay) == Some(&false) && self.load(&one.relay).live == 0
        });
        connected
    }

    /// Somebody was told that a drained relay has no calls. False where it is not drained any more.
    pub(crate) fn note_drained_empty(&mut self, key: &RelayKey) -> bool {
        let told = self.drained.get_mut(key);
        told.map(|told| *told = true).is_some()
    }

    /// A relay with a name has connected: where the one without a name that it takes the place of on its host was
    /// drained, it is.
    fn inherit_drained(&mut self, key: &RelayKey) {
        let older = RelayKey {
            name: None,
            ..key.clone()
        };
        let is_there = |relay: &Relay| relay.key == older && relay.link.is_some();
        if key.name.is_none() || self.table.values().any(is_there) {
            return;
        }
        if let Some(told) = self.drained.remove(&older) {
            self.drained.insert(key.clone(), told);
        }
    }
}
