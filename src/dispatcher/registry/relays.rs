//! Links and the relays behind them: who is connected, who can take a new call, who stayed away.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{
    Connected, Identified, Link, LinkId, Listed, LiveCall, Lost, Purge, Registry, Relay, RelayKey,
    SessionKey, SessionState,
};
use crate::dispatcher::ended_call::{EndedCall, Reason};
use crate::dispatcher::statistics::ListedCall;
use crate::proto::CallId;
use crate::proto::control::Remove;
use crate::proto::name::Fit;

impl<L: Clone> Registry<L> {
    /// A relay has connected and is being asked for its sessions. It takes no calls until
    /// [`Registry::identify`].
    pub fn link_up(&mut self, address: IpAddr, make_handle: impl FnOnce(LinkId) -> L) -> L {
        let id = LinkId(self.next_serial());
        let handle = make_handle(id);
        let link = Link {
            handle: handle.clone(),
            address,
            instance: None,
            relay: None,
            asked: self.serial,
            halting: false,
            timed_out: None,
            attempts: 0,
            doubted: HashSet::new(),
            ask_at: Duration::ZERO,
        };
        self.links.insert(id, link);
        handle
    }

    /// A link says which process it is of, and which of that one's links: before [`Registry::identify`].
    pub fn set_instance(&mut self, id: LinkId, instance: Option<&str>) {
        if let Some(link) = self.links.get_mut(&id) {
            link.instance = instance.map(Arc::from);
        }
    }

    /// Returns true if two links are of one process, which reaches this dispatcher by two addresses.
    pub fn is_same_process(&self, one: LinkId, other: LinkId) -> bool {
        let process = |id: LinkId| {
            let instance = self.links.get(&id)?.instance.as_deref()?;
            Some(instance.rsplit_once('-')?.0)
        };
        process(one).is_some_and(|it| process(other) == Some(it))
    }

    /// The link's first line tells who it is; a later `hello` may say it again. A link that stands is replaced by one of
    /// the same instance alone: any other may be another relay's, and would have this one's calls ended.
    pub fn identify(
        &mut self,
        id: LinkId,
        name: Option<&str>,
        now: Duration,
    ) -> Option<Identified<L>> {
        let link = self.links.get(&id)?;
        let key = RelayKey {
            address: link.address,
            name: name.map(Arc::from),
        };
        if link.relay.is_none() {
            let standing = self
                .known_as(&key)
                .and_then(|relay| self.relays.get(&relay));
            let standing = standing.and_then(|relay| relay.link);
            let standing = standing.and_then(|id| self.links.get(&id));
            let is_same = |old: &Link<L>| old.instance.is_some() && old.instance == link.instance;
            if let Some(old) = standing.filter(|old| !is_same(old)) {
                return Some(Identified::Contested(key, old.handle.clone()));
            }
        }
        let link = self.links.get_mut(&id)?;
        link.halting = false;
        if let Some(relay) = link.relay.and_then(|relay| self.relays.get(&relay)) {
            return Some(Identified::Up(relay.key.clone(), None));
        }
        let relay_id = self.known_as(&key);
        let relay_id = relay_id.unwrap_or_else(|| self.add_relay(key.clone()));
        let relay = self.relays.get_mut(&relay_id)?;
        relay.key = key.clone();
        relay.away = None;
        let replaced = relay.link.replace(id);
        self.inherit_drained(&key);
        if let Some(link) = self.links.get_mut(&id) {
            link.relay = Some(relay_id);
        }
        let replaced = replaced.and_then(|old| self.drop_link(old));
        if replaced.is_some() {
            self.note_loss(relay_id, now);
        }
        Some(Identified::Up(key, replaced.map(|old| old.handle)))
    }

    /// The relay of this key. One with a name may be what an older relay, which had none, was replaced by on its
    /// host: it takes over that one's sessions, to have them purged by its first list.
    pub(super) fn known_as(&self, key: &RelayKey) -> Option<u64> {
        let is_same = |relay: &Relay| relay.key == *key;
        let is_older = |relay: &Relay| {
            relay.link.is_none() && relay.key.name.is_none() && relay.key.address == key.address
        };
        let find = |is_it: &dyn Fn(&Relay) -> bool| {
            let found = self.relays.iter().find(|(_, relay)| is_it(relay));
            found.map(|(id, _)| *id)
        };
        find(&is_same).or_else(|| find(&is_older))
    }

    /// Returns true if there is a relay of this key, connected or away.
    pub fn is_known(&self, key: &RelayKey) -> bool {
        self.relays.values().any(|relay| relay.key == *key)
    }

    pub(super) fn add_relay(&mut self, key: RelayKey) -> u64 {
        let id = self.next_serial();
        let relay = Relay {
            key,
            link: None,
            away: None,
            live: 0,
            unanswered: 0,
        };
        self.relays.insert(id, relay);
        id
    }

    /// The link is gone. Returns the relay when that leaves it without one.
    pub fn link_lost(&mut self, id: LinkId, now: Duration) -> Option<Lost> {
        let link = self.drop_link(id)?;
        let relay_id = link.relay?;
        let relay = self.relays.get_mut(&relay_id)?;
        relay.link = None;
        relay.away = Some(now);
        let key = relay.key.clone();
        if relay.live == 0 {
            self.relays.remove(&relay_id);
        }
        let calls = self.note_loss(relay_id, now);
        Some(Lost { relay: key, calls })
    }

    /// Nobody knows how a relay's calls are from now on. Should it turn out that they are over, they were then.
    fn note_loss(&mut self, relay: u64, now: Duration) -> Vec<LiveCall> {
        let calls = self.sessions.iter().filter(|(_, s)| s.relay == relay);
        let calls: Vec<SessionKey> = calls.map(|(key, _)| key).collect();
        let mut noted = Vec::new();
        for key in calls {
            let ended = self.sessions.get(key).map(|s| self.calendar(s, now));
            if let (Some(session), Some(ended)) = (self.sessions.get_mut(key), ended) {
                session.known.ended.get_or_insert(ended);
            }
            self.count_ringing(key);
            noted.extend(self.noted(key));
        }
        noted
    }

    /// Who a link is, once it is known.
    pub fn relay_of(&self, id: LinkId) -> Option<&RelayKey> {
        let relay = self.links.get(&id)?.relay?;
        self.relays.get(&relay).map(|relay| &relay.key)
    }

    /// A `ping` has come. True when the relay had been timed out.
    pub fn ping(&mut self, id: LinkId) -> bool {
        let link = self.links.get_mut(&id);
        link.is_some_and(|link| link.timed_out.take().is_some())
    }

    /// A request was not answered within `relay_timeout`. True when that is news.
    pub fn timed_out(&mut self, id: LinkId, now: Duration) -> bool {
        let link = self.links.get_mut(&id).filter(|l| l.timed_out.is_none());
        link.map(|link| link.timed_out = Some(now)).is_some()
    }

    /// The relay drains. True when that is news.
    pub fn halting(&mut self, id: LinkId) -> bool {
        let link = self.links.get_mut(&id).filter(|link| !link.halting);
        link.map(|link| link.halting = true).is_some()
    }

    /// Chooses a relay for a new call and counts it there until [`Registry::attempt_over`]: the preferred one
    /// where it can take calls, else the one with the fewest, by `random` where several have as few.
    pub fn choose(
        &mut self,
        preferred: Option<IpAddr>,
        tried: &[LinkId],
        random: u64,
    ) -> Option<(LinkId, L)> {
        let wanted = |link: &Link<L>| preferred == Some(link.address);
        let chosen = self.least_loaded(tried, random, wanted);
        let chosen = chosen.or_else(|| self.least_loaded(tried, random, |_| true))?;
        let link = self.links.get_mut(&chosen)?;
        link.attempts += 1;
        Some((chosen, link.handle.clone()))
    }

    /// A relay that has another session of this Call-ID, where it can take a new one: a call that comes round may pass one
    /// relay twice. Counts as [`Registry::choose`].
    pub fn choose_beside(&mut self, call_id: &CallId, tried: &[LinkId]) -> Option<(LinkId, L)> {
        let links = self.links_of(call_id);
        let mut links = links
            .into_iter()
            .filter_map(|id| self.links.get_key_value(&id));
        let (id, _) = links.find(|(id, link)| self.is_usable(**id, link, tried))?;
        let id = *id;
        let link = self.links.get_mut(&id)?;
        link.attempts += 1;
        Some((id, link.handle.clone()))
    }

    /// Whether [`Registry::choose`] would find another one.
    pub fn has_other(&self, tried: &[LinkId]) -> bool {
        self.links
            .iter()
            .any(|(id, link)| self.is_usable(*id, link, tried))
    }

    fn least_loaded(
        &self,
        tried: &[LinkId],
        random: u64,
        wanted: impl Fn(&Link<L>) -> bool,
    ) -> Option<LinkId> {
        let links = self.links.iter();
        let usable = links.filter(|(id, link)| self.is_usable(**id, link, tried) && wanted(link));
        let mut least = usize::MAX;
        let mut found = Vec::new();
        for (id, link) in usable {
            let live = link.relay.and_then(|relay| self.relays.get(&relay));
            let load = live.map_or(0, |relay| relay.live) + link.attempts;
            if load < least {
                least = load;
                found.clear();
            }
            if load == least {
                found.push(*id);
            }
        }
        let count = u64::try_from(found.len()).unwrap_or(u64::MAX);
        let index = usize::try_from(random.checked_rem(count)?).unwrap_or(0);
        found.get(index).copied()
    }

    /// Why the relays of an address get no new call; none where one does.
    pub fn unavailable(&self, address: IpAddr) -> Option<&'static str> {
        let mut why = Some("is not connected");
        for (id, link) in self.links.iter().filter(|(_, l)| l.address == address) {
            why = match link {
                _ if self.is_usable(*id, link, &[]) => return None,
                Link { relay: None, .. } => why,
                _ if self.is_drained(*id) => Some("is drained"),
                Link { halting: true, .. } => Some("is halting"),
                _ => Some("does not answer"),
            };
        }
        why
    }

    fn is_usable(&self, id: LinkId, link: &Link<L>, tried: &[LinkId]) -> bool {
        let open = link.relay.is_some() && !link.halting && link.timed_out.is_none();
        open && !tried.contains(&id) && !self.is_drained(id)
    }

    /// A relay has answered for a new call, or nobody waits for that any more.
    pub fn attempt_over(&mut self, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id) {
            link.attempts = link.attempts.saturating_sub(1);
        }
    }

    /// A new link's relay tells some of the sessions that it has: those that are not known are where to ask for them. What
    /// it says of another relay's changes nothing (R1).
    pub fn listed(&mut self, id: LinkId, calls: Vec<ListedCall>, listed: &mut Listed) {
        let relay = self.links.get(&id).and_then(|link| link.relay);
        if relay.is_none() {
            return;
        }
        for call in calls {
            let known = self.aliases.get(&call.call_id);
            let call_id = known.cloned();
            let call_id = call_id.unwrap_or_else(|| CallId(call.call_id.as_str().into()));
            let fitting = self.sessions.of(&call_id);
            let fitting = fitting.filter(|(_, one)| call.fit(&one.name) != Fit::Not);
            let (mut is_here, mut owner) = (false, None);
            for (key, session) in fitting {
                match Some(session.relay) == relay {
                    true => {
                        listed.there.insert(key);
                        is_here = true;
                    }
                    false => owner = Some(session.relay),
                }
            }
            if let (false, Some(owner)) = (is_here, owner) {
                listed.foreign += 1;
                let owner = self.relays.get(&owner).map(|relay| relay.key.clone());
                listed.first_foreign = listed.first_foreign.take().or(owner.zip(Some(call_id)));
                continue;
            }
            if is_here {
                continue;
            }
            let missed = self.missed.of(&call_id).map(|(remove, _)| remove);
            let name = call.name(call_id.clone());
            let missed = missed.filter(|remove| name.fit(remove.mention()) != Fit::Not);
            listed.owed.extend(missed.cloned());
            self.found.add(id, name, call);
        }
    }

    /// It has told all: what it should have and lacks is over.
    pub fn listed_all(&mut self, id: LinkId, listed: Listed, now: Duration) -> Purge {
        let mut purge = Purge {
            owed: listed.owed,
            ..Purge::default()
        };
        let Some(link) = self.links.get(&id) else {
            return purge;
        };
        let (asked, Some(relay)) = (link.asked, link.relay) else {
            return purge;
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
        back.iter().for_each(|key| self.count_ringing(*key));
        purge.back = back.iter().filter_map(|key| self.noted(*key)).collect();
        let gone = gone.into_iter();
        purge.finished = gone
            .filter_map(|key| self.end(key, Reason::Purged, None, now))
            .collect();
        purge
    }

    /// What a relay that has not told its sessions has missed while it was away.
    pub fn owed(&self, id: LinkId) -> Vec<Remove> {
        let Some(Link { asked, relay, .. }) = self.links.get(&id) else {
            return Vec::new();
        };
        let here = self.sessions.iter().map(|(_, session)| session);
        let here = here.filter(|s| Some(s.relay) == *relay && s.serial <= *asked);
        let owed = here.filter_map(|session| match &session.state {
            SessionState::Owed(remove) => Some(remove.clone()),
            SessionState::Live => None,
        });
        owed.collect()
    }

    /// Relays that are connected and known, in the order of their addresses and names.
    pub fn connected(&self) -> Vec<Connected<L>> {
        let mut found: Vec<Connected<L>> = Vec::new();
        for link in self.links.values() {
            if let Some(relay) = link.relay.and_then(|relay| self.relays.get(&relay)) {
                let (relay, handle) = (relay.key.clone(), link.handle.clone());
                found.push(Connected { relay, handle });
            }
        }
        found.sort_by(|a, b| a.relay.cmp(&b.relay));
        found
    }

    /// Connected relays, and sessions that relays should have.
    pub fn counts(&self) -> (usize, usize) {
        let connected = self.relays.values().filter(|relay| relay.link.is_some());
        let live = self.relays.values().map(|relay| relay.live);
        (connected.count(), live.sum())
    }

    /// All links, known or not.
    pub fn links(&self) -> Vec<L> {
        self.links.values().map(|l| l.handle.clone()).collect()
    }

    /// Ends the sessions of relays that stayed away too long.
    pub(super) fn give_up_relays(&mut self, now: Duration) -> Vec<EndedCall> {
        let limit = self.patience.cleanup_dead_relays_after;
        let is_lost = |relay: &Relay| relay.away.is_some_and(|since| now >= since + limit);
        let lost = self.relays.iter().filter(|(_, relay)| is_lost(relay));
        let lost: HashSet<u64> = lost.map(|(id, _)| *id).collect();
        if lost.is_empty() {
            return Vec::new();
        }
        let sessions = self.sessions.iter();
        let calls = sessions.filter(|(_, session)| lost.contains(&session.relay));
        let calls: Vec<SessionKey> = calls.map(|(key, _)| key).collect();
        let calls = calls.into_iter();
        let finished = calls
            .filter_map(|key| self.end(key, Reason::LostRelay, None, now))
            .collect();
        self.relays.retain(|id, _| !lost.contains(id));
        finished
    }
}
