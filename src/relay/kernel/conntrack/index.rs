//! The flows by what netfilter calls them, and what the reading under way says of each. Pure.

use std::collections::HashMap;

use crate::counters::Counters;
use crate::netlink::conntrack::{Entry, NatEntry, Tuple};
use crate::proto::{Party, PerParty};
use crate::relay::kernel::flow::{FlowKey, Sample};

/// All flows that conntrack has.
#[derive(Debug, Default)]
pub(super) struct Index {
    flows: HashMap<FlowKey, Indexed>,
    by_original: HashMap<Tuple, FlowKey>,
    by_leaving: HashMap<Tuple, (FlowKey, Party)>,
}

#[derive(Debug)]
struct Indexed {
    entry: NatEntry,
    /// Of its entry in this reading: the seconds to live, and the packets that entered.
    entered: Option<(u32, PerParty<u64>)>,
    /// What has left in all.
    left: PerParty<Option<Counters>>,
}

/// What a reading says of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryState {
    There(Sample),
    /// It is gone, or its time is nearly up.
    Gone,
    /// It is there and what counts it is not: somebody took the table away.
    Uncounted,
}

impl Index {
    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    pub(super) fn get(&self, key: &FlowKey) -> Option<NatEntry> {
        self.flows.get(key).map(|flow| flow.entry)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = NatEntry> {
        self.flows.values().map(|flow| flow.entry)
    }

    /// The names of all entries.
    pub(super) fn originals(&self) -> Vec<Tuple> {
        self.by_original.keys().copied().collect()
    }

    /// Returns true if an entry of this name is a flow's.
    pub(super) fn has_entry(&self, original: &Tuple) -> bool {
        self.by_original.contains_key(original)
    }

    /// Returns true if this is a flow's entry.
    pub(super) fn has(&self, entry: &NatEntry) -> bool {
        let key = self.by_original.get(&entry.original);
        key.and_then(|key| self.get(key)) == Some(*entry)
    }

    /// Returns true if a flow could be added: none of its ways is in use.
    pub(super) fn has_room_for(&self, entry: &NatEntry) -> bool {
        let leaving = entry.leaving();
        let mut leaving = leaving.iter();
        !self.has_entry(&entry.original) && !leaving.any(|way| self.by_leaving.contains_key(way))
    }

    pub(super) fn insert(&mut self, key: FlowKey, entry: NatEntry) {
        self.by_original.insert(entry.original, key);
        for (party, leaving) in Party::BOTH.into_iter().zip(entry.leaving()) {
            self.by_leaving.insert(leaving, (key, party));
        }
        let flow = Indexed {
            entry,
            entered: None,
            left: PerParty::default(),
        };
        self.flows.insert(key, flow);
    }

    pub(super) fn remove(&mut self, key: &FlowKey) -> Option<NatEntry> {
        let Indexed { entry, .. } = self.flows.remove(key)?;
        self.by_original.remove(&entry.original);
        for leaving in entry.leaving() {
            self.by_leaving.remove(&leaving);
        }
        Some(entry)
    }

    /// Begins a reading.
    pub(super) fn begin_reading(&mut self) {
        for flow in self.flows.values_mut() {
            (flow.entered, flow.left) = (None, PerParty::default());
        }
    }

    /// Notes an entry. False where it is no flow's: only a flow's has its translated reply. One that does not tell its time
    /// has so many seconds to live.
    pub(super) fn note_entry(&mut self, entry: &Entry, timeout: u32) -> bool {
        let key = self.by_original.get(&entry.original);
        let flow = key.and_then(|key| self.flows.get_mut(key));
        let Some(flow) = flow.filter(|flow| flow.entry.reply == entry.reply) else {
            return false;
        };
        let counted = PerParty::from([entry.sent, entry.received]);
        let packets = counted.map(|counted| counted.unwrap_or_default().packets);
        flow.entered = Some((entry.timeout.unwrap_or(timeout), packets));
        true
    }

    /// Notes what has left one way, in all. False where no flow goes there.
    pub(super) fn note_left(&mut self, leaving: &Tuple, left: Counters) -> bool {
        let Some((key, party)) = self.by_leaving.get(leaving) else {
            return false;
        };
        if let Some(flow) = self.flows.get_mut(key) {
            flow.left[*party] = Some(left);
        }
        true
    }

    /// What the reading says of each flow; an entry with fewer than `least` seconds to live counts as gone.
    pub(super) fn states(&self, least: u32) -> impl Iterator<Item = (&FlowKey, EntryState)> {
        self.flows.iter().map(move |(key, flow)| {
            let left: [Option<Counters>; 2] = flow.left.into();
            let state = match (flow.entered, left) {
                (Some((timeout, _)), _) if timeout < least => EntryState::Gone,
                (None, _) => EntryState::Gone,
                (Some((_, entered)), [Some(caller), Some(callee)]) => EntryState::There(Sample {
                    entered,
                    left: [caller, callee].into(),
                }),
                (Some(_), _) => EntryState::Uncounted,
            };
            (key, state)
        })
    }
}
