//! What an earlier relay has left in the kernel, as it is at one moment. Pure.
//!
//! A flow is whole where it has its entry and all four elements. A relay that died in the middle of a request may have left
//! less: that is no flow's, and what it had counted is known all the same.

use std::collections::{HashMap, HashSet};

use super::ends;
use super::requests::Element;
use crate::counters::Counters;
use crate::netlink::conntrack::{Entry, NatEntry, Tuple};
use crate::proto::PerParty;
use crate::relay::kernel::flow::Sample;
use crate::relay::kernel::mechanism::Found;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Remains {
    entries: HashMap<Tuple, Entry>,
    forwarded: HashSet<Tuple>,
    leaving: HashMap<Tuple, Counters>,
}

impl Remains {
    pub(super) fn note_entry(&mut self, entry: Entry) {
        self.entries.insert(entry.original, entry);
    }

    pub(super) fn note_forwarded(&mut self, element: &Element) {
        self.forwarded.insert(element.tuple);
    }

    pub(super) fn note_leaving(&mut self, element: &Element) {
        self.leaving.insert(element.tuple, element.counters);
    }

    /// Four-tuples that are to find an entry of which nothing was noted.
    pub(super) fn without_entry(&self) -> Vec<Tuple> {
        let entering = self.entries.values().flat_map(|e| [e.original, e.reply]);
        let known: HashSet<Tuple> = entering.collect();
        self.forwarded.difference(&known).copied().collect()
    }

    /// What was counted of a flow that is whole.
    pub(super) fn running(&self, entry: &NatEntry) -> Option<Sample> {
        let found = self.entries.get(&entry.original)?;
        let is_same = found.reply == entry.reply;
        let [caller, callee] = entry.leaving().map(|way| self.leaving.get(&way).copied());
        let enters = entry
            .entering()
            .iter()
            .all(|way| self.forwarded.contains(way));
        let left = PerParty::from([caller?, callee?]);
        let entered = PerParty::from([found.sent, found.received]);
        let entered = entered.map(|counted| counted.unwrap_or_default().packets);
        (is_same && enters).then_some(Sample { entered, left })
    }

    /// What has left by a flow, whatever else is there of it.
    pub(super) fn left(&self, entry: &NatEntry) -> Option<PerParty<Counters>> {
        let [caller, callee] = entry.leaving().map(|way| self.leaving.get(&way).copied());
        let is_known = caller.is_some() || callee.is_some();
        let left = [caller, callee].map(Option::unwrap_or_default);
        is_known.then(|| left.into())
    }

    /// All entries that translate, as flows.
    pub(super) fn found(&self) -> Vec<Found> {
        let found = |entry: &Entry| {
            let nat = NatEntry {
                original: entry.original,
                reply: entry.reply,
            };
            let entered = PerParty::from([entry.sent, entry.received]);
            let sample = Sample {
                entered: entered.map(|counted| counted.unwrap_or_default().packets),
                left: self.left(&nat).unwrap_or_default(),
            };
            // One that is not translated is no flow's.
            let is_flow = entry.reply != entry.original.inverse();
            is_flow.then(|| Found {
                ends: ends(&nat),
                sample,
            })
        };
        self.entries.values().filter_map(found).collect()
    }

    /// What is no flow's, given those that are claimed.
    pub(super) fn unclaimed(&self, is_claimed: impl Fn(&NatEntry) -> bool) -> Unclaimed {
        let mut unclaimed = Unclaimed::default();
        let (mut entering, mut leaving) = (HashSet::new(), HashSet::new());
        for entry in self.entries.values() {
            let nat = NatEntry {
                original: entry.original,
                reply: entry.reply,
            };
            if is_claimed(&nat) {
                entering.extend(nat.entering());
                leaving.extend(nat.leaving());
            } else {
                unclaimed.entries.push((entry.original, Some(entry.id)));
            }
        }
        unclaimed.forwarded = self.forwarded.difference(&entering).copied().collect();
        let left = self.leaving.keys().filter(|way| !leaving.contains(way));
        unclaimed.leaving = left.copied().collect();
        unclaimed
    }
}

/// What is no flow's.
#[derive(Debug, Default)]
pub(super) struct Unclaimed {
    pub entries: Vec<(Tuple, Option<u32>)>,
    pub forwarded: Vec<Tuple>,
    pub leaving: Vec<Tuple>,
}

impl Unclaimed {
    /// How many flows there may have been of them, at least: a flow has one entry, and two elements. What only tells what
    /// was counted is of flows that were removed.
    pub(super) fn flows(&self) -> usize {
        self.entries.len().max(self.forwarded.len().div_ceil(2))
    }
}
