//! The flows that the kernel has, and what was read of each. Pure.

use std::collections::HashMap;

use super::flow::{Ends, Flow, FlowKey, Sample};
use crate::counters::Counters;
use crate::proto::{Party, PerParty};

/// Packets that entered one after the other of which none left: no accident.
const STUCK: i64 = 3;

/// A flow that the kernel forwards.
#[derive(Clone, Debug)]
pub(super) struct Forwarded {
    pub ends: Ends,
    /// What left by the last reading, by party that sent it.
    left: PerParty<Counters>,
    /// Packets that entered by the last reading.
    entered: PerParty<u64>,
    /// Packets that had entered and not left when some left for the last time: the most that was seen, since those that
    /// entered are read first. None where the counters of what leaves have begun anew.
    missing: PerParty<Option<i64>>,
    /// Of the reading that is under way.
    sample: Option<Sample>,
}

/// What a reading says of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// It is there; relayed since the last reading.
    Fine(PerParty<Counters>),
    /// Packets of this party enter, and none leave.
    Stuck(Party),
    /// It is not there any more.
    Gone,
}

impl Forwarded {
    pub(super) fn new(ends: Ends) -> Forwarded {
        Forwarded {
            ends,
            left: PerParty::default(),
            entered: PerParty::default(),
            missing: PerParty::of(|_| Some(0)),
            sample: None,
        }
    }

    /// One of an earlier relay's, of which so much has been told; `found` is what was counted of it since.
    fn adopted(ends: Ends, told: PerParty<Counters>, found: &Sample) -> Forwarded {
        let is_more = |party: Party| {
            let (told, found) = (told[party], found.left[party]);
            found.packets >= told.packets && found.bytes >= told.bytes
        };
        // Its counters have begun at nothing again since that was told.
        let is_anew = !Party::BOTH.into_iter().all(is_more);
        Forwarded {
            left: if is_anew { PerParty::default() } else { told },
            entered: found.entered,
            missing: PerParty::default(),
            ..Forwarded::new(ends)
        }
    }

    /// What left since the last reading, given what has left in all.
    pub(super) fn since_read(&self, left: PerParty<Counters>) -> PerParty<Counters> {
        PerParty::of(|party| left[party].since(self.left[party]))
    }

    /// The counters of what leaves begin at nothing again.
    fn restart_counting(&mut self) {
        self.left = PerParty::default();
        self.missing = PerParty::default();
    }

    /// Ends the reading under way and judges it.
    fn conclude(&mut self) -> Finding {
        let Some(Sample { entered, left }) = self.sample.take() else {
            return Finding::Gone;
        };
        let more = self.since_read(left);
        let mut stuck = None;
        for party in Party::BOTH {
            let missing = entered[party] as i64 - left[party].packets as i64;
            // What passes between the two counts makes it look like less than none.
            let before = self.missing[party].get_or_insert(missing.max(0));
            if more[party].packets > 0 {
                *before = missing.max(*before);
            } else if missing >= *before + STUCK {
                stuck = Some(party);
            }
        }
        if let Some(party) = stuck {
            return Finding::Stuck(party);
        }
        self.left = left;
        self.entered = entered;
        Finding::Fine(more)
    }
}

/// All flows that the kernel has.
#[derive(Debug, Default)]
pub(super) struct Flows {
    flows: HashMap<FlowKey, Forwarded>,
}

impl Flows {
    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    pub(super) fn get(&self, key: &FlowKey) -> Option<&Forwarded> {
        self.flows.get(key)
    }

    pub(super) fn contains(&self, key: &FlowKey) -> bool {
        self.flows.contains_key(key)
    }

    pub(super) fn keys(&self) -> Vec<FlowKey> {
        self.flows.keys().copied().collect()
    }

    pub(super) fn insert(&mut self, flow: &Flow) {
        self.flows.insert(flow.key, Forwarded::new(flow.ends));
    }

    pub(super) fn insert_adopted(&mut self, flow: &Flow, told: PerParty<Counters>, found: &Sample) {
        let adopted = Forwarded::adopted(flow.ends, told, found);
        self.flows.insert(flow.key, adopted);
    }

    pub(super) fn remove(&mut self, key: &FlowKey) -> Option<Forwarded> {
        self.flows.remove(key)
    }

    /// Packets of all flows that had entered by the last reading.
    pub(super) fn entered(&self) -> u64 {
        let entered = self.flows.values().map(|flow| flow.entered);
        entered.map(|both| both.caller + both.callee).sum()
    }

    /// The counters of what leaves begin at nothing again.
    pub(super) fn restart_counting(&mut self) {
        self.flows
            .values_mut()
            .for_each(Forwarded::restart_counting);
    }

    /// Notes what a reading tells of a flow.
    pub(super) fn note(&mut self, key: &FlowKey, sample: Sample) {
        if let Some(flow) = self.flows.get_mut(key) {
            flow.sample = Some(sample);
        }
    }

    /// Ends a reading: what it says of each flow. What it has not noted is gone.
    pub(super) fn conclude(&mut self) -> Vec<(FlowKey, Finding)> {
        let flows = self.flows.iter_mut();
        flows.map(|(key, flow)| (*key, flow.conclude())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::FlowEnd;

    /// What a reading says of a flow by whose caller so many packets had entered, and then left.
    fn conclude(flow: &mut Forwarded, entered: u64, left: u64) -> Finding {
        let counters = |packets| Counters {
            packets,
            bytes: 200 * packets,
        };
        flow.sample = Some(Sample {
            entered: [entered, 0].into(),
            left: [counters(left), counters(0)].into(),
        });
        flow.conclude()
    }

    fn flow() -> Forwarded {
        let end = |remote: &str, local: &str| FlowEnd {
            remote: remote.parse().unwrap(),
            local: local.parse().unwrap(),
        };
        let ends = [
            end("192.0.2.1:30000", "10.0.0.1:40000"),
            end("192.0.2.2:31000", "10.0.0.1:40002"),
        ];
        Forwarded::new(ends.into())
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

    /// A busy host counts late what has left, when the flow was just taken over.
    #[test]
    fn a_slow_first_reading_of_an_adopted_flow_does_not_make_it_stuck_later() {
        let found = Sample {
            entered: [90, 0].into(),
            ..Sample::default()
        };
        let mut flow = Forwarded::adopted(flow().ends, PerParty::default(), &found);
        assert!(matches!(conclude(&mut flow, 100, 110), Finding::Fine(_)));
        assert!(matches!(conclude(&mut flow, 110, 110), Finding::Fine(_)));
        let stuck = Finding::Stuck(Party::Caller);
        assert_eq!(conclude(&mut flow, 113, 110), stuck);
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
        assert_eq!(conclude(&mut Forwarded::new(flow.ends), 3, 0), stuck);
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
