//! Relays, connected or away, and how many calls each has.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::dispatcher::relay_id::{LinkId, RelayKey};
use crate::moment::Moment;

/// A relay here; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RelayNumber(u64);

#[derive(Debug)]
pub(super) struct Relay {
    pub key: RelayKey,
    pub link: Option<LinkId>,
    /// Since when there is no link.
    pub away: Option<Moment>,
    /// It has handed its calls over: those that nobody has taken over by then are over.
    pub leaves: Option<Moment>,
    pub load: Load,
}

/// Calls of a relay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Sessions that it should have.
    pub live: usize,
    /// Those of them that nobody has answered.
    pub unanswered: usize,
}

/// The relay that tells of a session: its link and number, where it is known, and the address that it comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Teller {
    pub link: LinkId,
    pub relay: Option<RelayNumber>,
    pub address: IpAddr,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct RelayTable {
    relays: BTreeMap<RelayNumber, Relay>,
    last: u64,
}

impl RelayTable {
    pub(super) fn get(&self, number: RelayNumber) -> Option<&Relay> {
        self.relays.get(&number)
    }

    pub(super) fn get_mut(&mut self, number: RelayNumber) -> Option<&mut Relay> {
        self.relays.get_mut(&number)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Relay> {
        self.relays.values()
    }

    /// The one of this key, connected or away.
    pub(super) fn of(&self, key: &RelayKey) -> Option<&Relay> {
        self.values().find(|relay| relay.key == *key)
    }

    /// The relay of this key. One with a name may be what an older relay, which had none, was replaced by on its
    /// host: it takes over that one's sessions, to have them purged by its first list.
    pub(super) fn known_as(&self, key: &RelayKey) -> Option<RelayNumber> {
        let is_same = |relay: &Relay| relay.key == *key;
        let is_older = |relay: &Relay| {
            relay.link.is_none() && relay.key.name.is_none() && relay.key.address == key.address
        };
        let find = |is_it: &dyn Fn(&Relay) -> bool| {
            let found = self.relays.iter().find(|(_, relay)| is_it(relay));
            found.map(|(number, _)| *number)
        };
        find(&is_same).or_else(|| find(&is_older))
    }

    /// The relay of this key, known from now on.
    pub(super) fn known_or_new(&mut self, key: &RelayKey) -> RelayNumber {
        if let Some(number) = self.known_as(key) {
            return number;
        }
        self.last += 1;
        let number = RelayNumber(self.last);
        let relay = Relay {
            key: key.clone(),
            link: None,
            away: None,
            leaves: None,
            load: Load::default(),
        };
        self.relays.insert(number, relay);
        number
    }

    /// A session of a relay begins.
    pub(super) fn call_begun(&mut self, number: RelayNumber) {
        if let Some(relay) = self.relays.get_mut(&number) {
            relay.load.live += 1;
        }
    }

    /// A session of a relay rings, or rings no more.
    pub(super) fn call_rings(&mut self, number: RelayNumber, rings: bool) {
        let Some(relay) = self.relays.get_mut(&number) else {
            return;
        };
        if rings {
            relay.load.unanswered += 1;
        } else {
            relay.load.unanswered -= 1;
        }
    }

    /// A session of a relay is over. Nothing is known any more of one that is away and has no other.
    pub(super) fn call_over(&mut self, number: RelayNumber, rings: bool) {
        if let Some(relay) = self.relays.get_mut(&number) {
            relay.load.live = relay.load.live.saturating_sub(1);
            relay.load.unanswered -= usize::from(rings);
        }
        self.forget_idle(number);
    }

    /// Forgets a relay that is away and has no session.
    pub(super) fn forget_idle(&mut self, number: RelayNumber) {
        let relay = self.relays.get(&number);
        if relay.is_some_and(|relay| relay.link.is_none() && relay.load.live == 0) {
            self.relays.remove(&number);
        }
    }

    /// Those that have been away for so long, and those whose calls nobody has taken over.
    pub(super) fn lost(&self, limit: Duration, now: Moment) -> HashSet<RelayNumber> {
        let is_lost = |relay: &Relay| {
            let is_late = relay.leaves.is_some_and(|until| now >= until);
            relay
                .away
                .is_some_and(|since| is_late || now >= since + limit)
        };
        let lost = self.relays.iter().filter(|(_, relay)| is_lost(relay));
        lost.map(|(number, _)| *number).collect()
    }

    pub(super) fn forget(&mut self, lost: &HashSet<RelayNumber>) {
        self.relays.retain(|number, _| !lost.contains(number));
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.relays.is_empty()
    }
}
