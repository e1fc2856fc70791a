//! The seam, with a mechanism that is as unlike conntrack as one may be: totals come some milliseconds after a removal, and
//! packets of a flow that it forwards come to user space now and then.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::flow::{Ends, Flow, FlowKey, Sample};
use super::flows::Flows;
use super::forwarder::Forwarder;
use super::health::Outlook;
use super::mechanism::{
    Adopted, Adoption, Found, Heard, Mechanism, Refusal, Removal, Repaired, Unread, Words,
};
use crate::counters::Counters;
use crate::moment::Moment;
use crate::proto::{Component, Party, PerParty};
use crate::session::{FlowEnd, FlowId, FlowNews, Installed, Loss, SessionKey};

const T: Moment = Moment::after_start(Duration::from_secs(100));

/// How long after a removal the totals are exact.
const SETTLED: Duration = Duration::from_millis(5);

/// See the module.
#[derive(Default)]
struct Late {
    flows: HashMap<FlowKey, Sample>,
    removed: Vec<(Moment, FlowKey, Sample)>,
    /// Flows whose packets it does not see at all.
    unseen: HashSet<FlowKey>,
    left_for: Option<Duration>,
}

impl Late {
    /// So many packets of the caller are forwarded; also those of a flow that was just removed.
    fn forward(&mut self, key: &FlowKey, packets: u64) {
        let going = self.removed.iter_mut().filter(|(_, going, _)| going == key);
        let going = going.map(|(_, _, sample)| sample);
        for sample in self.flows.get_mut(key).into_iter().chain(going) {
            sample.entered.caller += packets;
            sample.left.caller += counted(packets).caller;
        }
    }
}

impl Mechanism for Late {
    fn words(&self) -> Words {
        Words {
            gone: "flows are not in the map any more",
            bypassed: "packets of a flow do not reach the program",
        }
    }

    fn start(&mut self, _: bool) -> Result<Vec<Found>, String> {
        Ok(Vec::new())
    }

    fn adopt(&mut self, flows: &[Flow]) -> Adoption {
        let become_of = |flow: &Flow| match self.flows.get(&flow.key) {
            Some(sample) => Adopted::Running(*sample),
            None => Adopted::Gone(counted(1000)),
        };
        Adoption {
            flows: flows.iter().map(become_of).collect(),
            swept: 0,
        }
    }

    fn leave(&mut self, time: Duration) -> io::Result<()> {
        self.left_for = Some(time);
        Ok(())
    }

    fn is_able(&self) -> bool {
        true
    }

    fn has_debris(&self) -> bool {
        false
    }

    fn install(&mut self, flows: &[Flow]) -> Vec<Result<(), Refusal>> {
        let nothing = Sample::default();
        self.flows
            .extend(flows.iter().map(|flow| (flow.key, nothing)));
        flows.iter().map(|_| Ok(())).collect()
    }

    fn explain_refusal(&self, error: &io::Error) -> String {
        error.to_string()
    }

    fn remove(&mut self, flows: &[FlowKey], _: Removal, now: Moment) {
        for key in flows {
            if let Some(sample) = self.flows.remove(key) {
                self.removed.push((now + SETTLED, *key, sample));
            }
        }
    }

    fn take_removed(&mut self, now: Moment) -> Vec<(FlowKey, PerParty<Counters>)> {
        let (due, open): (Vec<_>, Vec<_>) = self.removed.drain(..).partition(|(at, ..)| now >= *at);
        self.removed = open;
        due.into_iter()
            .map(|(_, key, sample)| (key, sample.left))
            .collect()
    }

    fn removed_at(&self) -> Option<Moment> {
        self.removed.iter().map(|(at, ..)| *at).min()
    }

    fn read(&mut self, flows: &mut Flows, _: Moment) -> Result<(), Unread> {
        for (key, sample) in &self.flows {
            flows.note(key, *sample);
        }
        Ok(())
    }

    fn repair(&mut self) -> Repaired {
        Repaired::Kept
    }

    fn set_addresses(&mut self, _: &[IpAddr]) {}

    fn outlook(&self) -> Outlook {
        Outlook::Open
    }

    fn is_bypassed(&mut self, flow: &FlowKey) -> bool {
        self.unseen.contains(flow)
    }

    fn watch(&mut self, _: &FlowKey, _: Party) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn end_watch(&mut self) -> Option<bool> {
        None
    }

    fn explain_stuck(&mut self, _: &Ends, _: Party, _: Option<bool>) -> String {
        "it drops".to_owned()
    }

    fn sources(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    fn hear(&mut self) -> io::Result<Heard> {
        Ok(Heard::default())
    }

    fn close(&mut self) {
        for (at, ..) in &mut self.removed {
            *at = Moment::START;
        }
    }
}

fn key(number: u32) -> FlowKey {
    let flow = FlowId {
        session: SessionKey::for_tests(number),
        stream: 0,
        component: Component::Rtp,
        turn: 1,
    };
    FlowKey { worker: 0, flow }
}

/// A forwarder that has these flows, and its news so far are heard.
fn forwarder(numbers: impl IntoIterator<Item = u32>) -> Forwarder<Late> {
    let mut forwarder = Forwarder::new(Box::<Late>::default(), 1, Vec::new());
    let end = |remote: &str, local: &str| FlowEnd {
        remote: remote.parse().unwrap(),
        local: local.parse().unwrap(),
    };
    let flow = |number| Flow {
        key: key(number),
        ends: PerParty {
            caller: end("192.0.2.1:30000", "10.0.0.1:40000"),
            callee: end("192.0.2.2:31000", "10.0.0.1:40002"),
        },
    };
    let flows: Vec<_> = numbers.into_iter().map(flow).collect();
    forwarder.install(&flows, T);
    let taken = |flow: &Flow| FlowNews::Installed(flow.key.flow, Installed::Taken);
    let taken: Vec<_> = flows.iter().map(taken).collect();
    assert_eq!(heard(&mut forwarder), taken);
    forwarder
}

fn heard(forwarder: &mut Forwarder<Late>) -> Vec<FlowNews> {
    forwarder.take_news().remove(0)
}

fn counted(packets: u64) -> PerParty<Counters> {
    let caller = Counters {
        packets,
        bytes: 200 * packets,
    };
    [caller, Counters::default()].into()
}

#[test]
fn totals_that_come_later_are_told_once_they_are_exact() {
    let mut forwarder = forwarder([1]);
    forwarder.mechanism.forward(&key(1), 3);
    forwarder.read(T);
    let traffic = FlowNews::Traffic(key(1).flow, counted(3));
    assert_eq!(heard(&mut forwarder), [traffic, FlowNews::Heard(T)]);
    forwarder.withdraw(&[key(1)], T);
    // What was under way then is forwarded still.
    forwarder.mechanism.forward(&key(1), 2);
    assert_eq!((forwarder.flows(), heard(&mut forwarder)), (0, vec![]));
    assert_eq!(forwarder.due(), Some(T + SETTLED));
    forwarder.tick(T + SETTLED);
    let withdrawn = FlowNews::Withdrawn(key(1).flow, counted(2));
    assert_eq!(heard(&mut forwarder), [withdrawn]);
    assert_eq!(forwarder.due(), None);
}

#[test]
fn a_flow_that_is_wanted_back_while_it_is_going_is_told_of_in_order() {
    let mut forwarder = forwarder([1]);
    // Its packets do not leave: it is lost.
    if let Some(sample) = forwarder.mechanism.flows.get_mut(&key(1)) {
        sample.entered.caller = 5;
    }
    forwarder.read(T);
    assert_eq!(heard(&mut forwarder), [FlowNews::Heard(T)]);
    forwarder.withdraw(&[key(1), key(1)], T);
    assert_eq!(heard(&mut forwarder), []);
    forwarder.mechanism.forward(&key(1), 1);
    forwarder.tick(T + SETTLED);
    let lost = FlowNews::Lost(key(1).flow, Loss::Suspended, counted(1));
    let withdrawn = FlowNews::Withdrawn(key(1).flow, counted(0));
    assert_eq!(heard(&mut forwarder), [lost, withdrawn, withdrawn]);
}

#[test]
fn whether_packets_in_user_space_are_trouble_is_asked() {
    for is_trouble in [false, true] {
        let mut forwarder = forwarder([1]);
        if is_trouble {
            forwarder.mechanism.unseen.insert(key(1));
        }
        forwarder.suspect(&[key(1)], T);
        let left = usize::from(!is_trouble);
        assert_eq!(forwarder.flows(), left, "it stays where it is well");
        let looked = forwarder.trust().health.admits(T, false, || Outlook::Open);
        assert_eq!(looked, !is_trouble, "others wait only where it is");
    }
}

#[test]
fn at_the_end_all_totals_are_told() {
    let mut forwarder = forwarder([1, 2]);
    forwarder.mechanism.forward(&key(2), 7);
    forwarder.quit(T);
    let news = heard(&mut forwarder);
    assert_eq!(news.len(), 2);
    for (number, packets) in [(1, 0), (2, 7)] {
        assert!(news.contains(&FlowNews::Withdrawn(key(number).flow, counted(packets))));
    }
}
