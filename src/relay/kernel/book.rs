//! The flows that the kernel has, and what was read of each. Pure.

use std::collections::HashMap;

use super::Key;
use crate::netlink::conntrack::{Counters as Counted, NatEntry, Tuple};
use crate::proto::Party;
use crate::session::Counters;

/// Packets that entered one after the other of which none left: no accident.
const STUCK: i64 = 3;

/// One flow.
#[derive(Clone, Debug)]
pub struct Flow {
    pub entry: NatEntry,
    /// What left by the last reading, by party that sent it.
    left: [Counters; 2],
    /// Packets that entered by the last reading.
    entered: [u64; 2],
    /// Packets that had entered and not left when some left for the last time: the most that was seen, since those that
    /// entered are read first. None where the counters of what leaves have begun anew.
    missing: [Option<i64>; 2],
    /// Of the reading that is under way: the entry's seconds to live, and both counts.
    reading: Reading,
}

#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    timeout: Option<u32>,
    entered: [u64; 2],
    left: [Option<Counters>; 2],
}

/// What a reading says of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It is there; relayed since the last reading.
    Fine([Counters; 2]),
    /// Packets of this party enter, and none leave.
    Stuck(Party),
    /// The entry is gone, or its time is nearly up.
    Gone,
    /// The entry is there and what counts it is not: somebody took the table away.
    Uncounted,
}

impl Flow {
    pub fn new(entry: NatEntry) -> Flow {
        Flow {
            entry,
            left: [Counters::default(); 2],
            entered: [0; 2],
            missing: [Some(0); 2],
            reading: Reading::default(),
        }
    }

    /// Datagrams as they enter, by the party that sends them.
    pub fn enters(&self) -> [Tuple; 2] {
        [self.entry.original(), self.entry.reply()]
    }

    /// The same datagrams as they leave.
    pub fn leaves(&self) -> [Tuple; 2] {
        let NatEntry { caller, callee } = self.entry;
        let way = |from: crate::netlink::conntrack::End| Tuple {
            source: from.local,
            destination: from.remote,
        };
        [way(callee), way(caller)]
    }

    /// What left since the last reading, given what has left in all.
    pub fn more(&self, party: Party, left: Counters) -> Counters {
        let before = self.left[party as usize];
        Counters {
            packets: left.packets.saturating_sub(before.packets),
            bytes: left.bytes.saturating_sub(before.bytes),
        }
    }

    /// The counters of what leaves begin at nothing again.
    pub fn restart_counting(&mut self) {
        self.left = [Counters::default(); 2];
        self.missing = [None; 2];
    }

    /// Ends the reading under way and judges it; an entry with fewer than `least` seconds to live counts as gone.
    fn conclude(&mut self, least: u32) -> Finding {
        let reading = std::mem::take(&mut self.reading);
        if reading.timeout.is_none_or(|timeout| timeout < least) {
            return Finding::Gone;
        }
        let [Some(caller), Some(callee)] = reading.left else {
            return Finding::Uncounted;
        };
        let left = [caller, callee];
        let mut more = [Counters::default(); 2];
        let mut stuck = None;
        for party in [Party::Caller, Party::Callee] {
            let side = party as usize;
            more[side] = self.more(party, left[side]);
            let missing = reading.entered[side] as i64 - left[side].packets as i64;
            let before = self.missing[side].get_or_insert(missing);
            if more[side].packets > 0 {
                *before = missing.max(*before);
            } else if missing >= *before + STUCK {
                stuck = Some(party);
            }
        }
        if let Some(party) = stuck {
            return Finding::Stuck(party);
        }
        self.left = left;
        self.entered = reading.entered;
        Finding::Fine(more)
    }

    /// Packets that entered by the last reading.
    pub fn entered(&self) -> u64 {
        self.entered.iter().sum()
    }
}

/// All flows, found by what the kernel tells of them.
#[derive(Debug, Default)]
pub struct Book {
    flows: HashMap<Key, Flow>,
    by_original: HashMap<Tuple, Key>,
    by_leaving: HashMap<Tuple, (Key, Party)>,
}

impl Book {
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    pub fn get(&self, key: &Key) -> Option<&Flow> {
        self.flows.get(key)
    }

    pub fn flows_mut(&mut self) -> impl Iterator<Item = (&Key, &mut Flow)> {
        self.flows.iter_mut()
    }

    pub fn keys(&self) -> Vec<Key> {
        self.flows.keys().copied().collect()
    }

    /// The names of all entries.
    pub fn originals(&self) -> Vec<Tuple> {
        self.by_original.keys().copied().collect()
    }

    /// Whether a flow could be added: neither it nor one of its ways is in use.
    pub fn has_room_for(&self, key: &Key, flow: &Flow) -> bool {
        let [caller, callee] = flow.leaves();
        !self.flows.contains_key(key)
            && !self.by_original.contains_key(&flow.entry.original())
            && !self.by_leaving.contains_key(&caller)
            && !self.by_leaving.contains_key(&callee)
    }

    pub fn insert(&mut self, key: Key, flow: Flow) {
        self.by_original.insert(flow.entry.original(), key);
        let leaves = flow.leaves();
        for party in [Party::Caller, Party::Callee] {
            self.by_leaving.insert(leaves[party as usize], (key, party));
        }
        self.flows.insert(key, flow);
    }

    pub fn remove(&mut self, key: &Key) -> Option<Flow> {
        let flow = self.flows.remove(key)?;
        self.by_original.remove(&flow.entry.original());
        for leaving in flow.leaves() {
            self.by_leaving.remove(&leaving);
        }
        Some(flow)
    }

    /// Whether an entry of this name is a flow's.
    pub fn has_entry(&self, original: &Tuple) -> bool {
        self.by_original.contains_key(original)
    }

    /// Notes an entry of a reading. False where it is no flow's: only a flow's has its translated reply.
    pub fn note_entry(
        &mut self,
        original: &Tuple,
        reply: &Tuple,
        timeout: u32,
        counted: [Option<Counted>; 2],
    ) -> bool {
        let Some(flow) = self.by_original.get(original) else {
            return false;
        };
        let Some(flow) = self.flows.get_mut(flow) else {
            return false;
        };
        if flow.entry.reply() != *reply {
            return false;
        }
        flow.reading.timeout = Some(timeout);
        flow.reading.entered = counted.map(|counted| counted.unwrap_or_default().packets);
        true
    }

    /// Notes what has left one way, in all. False where no flow goes there.
    pub fn note_left(&mut self, leaving: &Tuple, left: Counters) -> bool {
        let Some((key, party)) = self.by_leaving.get(leaving) else {
            return false;
        };
        if let Some(flow) = self.flows.get_mut(key) {
            flow.reading.left[*party as usize] = Some(left);
        }
        true
    }

    /// Ends a reading: what it says of each flow.
    pub fn conclude(&mut self, least: u32) -> Vec<(Key, Finding)> {
        let flows = self.flows.iter_mut();
        flows
            .map(|(key, flow)| (*key, flow.conclude(least)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::conntrack::End;

    /// What a reading says of a flow by whose caller so many packets had entered, and then left.
    fn conclude(flow: &mut Flow, entered: u64, left: u64) -> Finding {
        let counters = |packets| Counters {
            packets,
            bytes: 200 * packets,
        };
        flow.reading = Reading {
            timeout: Some(3600),
            entered: [entered, 0],
            left: [Some(counters(left)), Some(counters(0))],
        };
        flow.conclude(600)
    }

    fn flow() -> Flow {
        let end = |remote: &str, local: &str| End {
            remote: remote.parse().unwrap(),
            local: local.parse().unwrap(),
        };
        Flow::new(NatEntry {
            caller: end("192.0.2.1:30000", "10.0.0.1:40000"),
            callee: end("192.0.2.2:31000", "10.0.0.1:40002"),
        })
    }

    #[test]
    fn what_passes_between_the_two_counts_is_no_loss_when_silence_follows() {
        let mut flow = flow();
        assert!(matches!(conclude(&mut flow, 50, 60), Finding::Fine(_)));
        assert!(matches!(conclude(&mut flow, 60, 60), Finding::Fine(_)));
        assert!(matches!(conclude(&mut flow, 62, 60), Finding::Fine(_)));
        let stuck = Finding::Stuck(Party::Caller);
        assert_eq!(conclude(&mut flow, 63, 60), stuck);
    }

    #[test]
    fn only_packets_that_are_lost_one_after_the_other_are_stuck() {
        let mut flow = flow();
        // Somebody's rule lets half of them through.
        for round in 1..20 {
            let found = conclude(&mut flow, 10 * round, 5 * round);
            assert!(matches!(found, Finding::Fine(_)));
        }
        let stuck = Finding::Stuck(Party::Caller);
        assert_eq!(conclude(&mut flow, 193, 95), stuck);
        assert_eq!(conclude(&mut Flow::new(flow.entry), 3, 0), stuck);
    }

    #[test]
    fn a_table_that_was_made_anew_counts_from_nothing() {
        let mut flow = flow();
        conclude(&mut flow, 60, 60);
        flow.restart_counting();
        assert!(matches!(conclude(&mut flow, 70, 0), Finding::Fine(_)));
        assert!(matches!(conclude(&mut flow, 80, 10), Finding::Fine(_)));
        let stuck = Finding::Stuck(Party::Caller);
        assert_eq!(conclude(&mut flow, 83, 10), stuck);
    }
}
