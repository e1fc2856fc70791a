//! The forwarder with a kernel in memory, as its tests have it.

use std::net::SocketAddr;
use std::time::Duration;

use super::fake::{Fake, Went};
use crate::counters::Counters;
use crate::moment::Moment;
use crate::netlink::conntrack::NatEntry;
use crate::proto::{Component, PerParty};
use crate::relay::kernel::conntrack;
use crate::relay::kernel::conntrack::forwarding::Conntrack;
use crate::relay::kernel::flow::{Ends, Flow, FlowKey};
use crate::relay::kernel::forwarder::{Forwarder, WATCHED};
use crate::relay::kernel::mechanism::Mechanism as _;
use crate::session::{FlowEnd, FlowId, FlowNews, Installed, Loss, SessionKey};

pub(super) const T: Moment = Moment::after_start(Duration::from_secs(100));

pub(super) fn second(count: u64) -> Moment {
    T + Duration::from_secs(count)
}

/// A forwarder, its kernel, and what was counted for the two parties of each flow by news.
pub(super) struct Lab {
    pub forwarder: Forwarder<Conntrack<Fake>>,
    /// Packets by flow, as told.
    pub told: std::collections::HashMap<FlowId, [u64; 2]>,
    /// The same since it was handed over last, as its worker notes it.
    pub counted: std::collections::HashMap<FlowId, [u64; 2]>,
    pub news: Vec<FlowNews>,
}

pub(super) fn flow(number: u32) -> FlowId {
    FlowId {
        session: SessionKey::for_tests(number),
        stream: 0,
        component: Component::Rtp,
        turn: 1,
    }
}

pub(super) fn key(number: u32) -> FlowKey {
    FlowKey {
        worker: 0,
        flow: flow(number),
    }
}

pub(super) fn ends(number: u32) -> Ends {
    let port = 40000 + 4 * number as u16;
    let end = |remote: &str, port| FlowEnd {
        remote: remote.parse().unwrap(),
        local: SocketAddr::from(([10, 0, 0, 1], port)),
    };
    PerParty {
        caller: end("192.0.2.1:30000", port),
        callee: end("192.0.2.2:31000", port + 2),
    }
}

pub(super) fn entry(number: u32) -> NatEntry {
    conntrack::entry(&ends(number)).unwrap()
}

impl Lab {
    pub(super) fn new() -> Lab {
        let locals = vec![[10, 0, 0, 1].into(), [10, 0, 0, 7].into()];
        let conntrack = Box::new(Conntrack::new(Fake::default()));
        Lab {
            forwarder: Forwarder::new(conntrack, 1, locals),
            told: Default::default(),
            counted: Default::default(),
            news: Vec::new(),
        }
    }

    /// The relay is gone, and another one has started that keeps what it left. What had been told is told still.
    pub(super) fn restarted(&mut self) -> Lab {
        let locals = vec![[10, 0, 0, 1].into(), [10, 0, 0, 7].into()];
        let mut conntrack = Box::new(Conntrack::new(self.kernel().inherited()));
        conntrack.start(true).unwrap();
        let mut forwarder = Forwarder::new(conntrack, 1, locals);
        forwarder.expect_claims();
        Lab {
            forwarder,
            told: std::mem::take(&mut self.told),
            counted: std::mem::take(&mut self.counted),
            news: Vec::new(),
        }
    }

    /// Claims these flows with what was told of them; how many are adopted, lost and swept.
    pub(super) fn adopt(&mut self, numbers: impl IntoIterator<Item = u32>) -> [usize; 3] {
        let counters = |packets| Counters {
            packets,
            bytes: packets.saturating_mul(200),
        };
        let claim = |number| {
            let flow = Flow {
                key: key(number),
                ends: ends(number),
            };
            let counted = self.counted.get(&key(number).flow).copied();
            (
                flow,
                PerParty::from(counted.unwrap_or_default().map(counters)),
            )
        };
        let claimed: Vec<_> = numbers.into_iter().map(claim).collect();
        self.counted.retain(|_, counted| *counted != [u64::MAX; 2]);
        let taken = self.forwarder.adopt(&claimed, T);
        self.hear();
        [taken.adopted, taken.lost, taken.swept]
    }

    pub(super) fn kernel(&mut self) -> &mut Fake {
        &mut self.forwarder.mechanism.requests
    }

    pub(super) fn install(&mut self, numbers: impl IntoIterator<Item = u32>, now: Moment) {
        let wanted = |number| Flow {
            key: key(number),
            ends: ends(number),
        };
        let wanted: Vec<_> = numbers.into_iter().map(wanted).collect();
        self.forwarder.install(&wanted, now);
        self.hear();
    }

    pub(super) fn withdraw(&mut self, numbers: impl IntoIterator<Item = u32>) {
        let keys: Vec<_> = numbers.into_iter().map(key).collect();
        self.forwarder.withdraw(&keys, T);
        self.hear();
    }

    /// What others have done is heard.
    pub(super) fn listen(&mut self, now: Moment) {
        self.forwarder.hear(now).unwrap();
        self.hear();
    }

    pub(super) fn read(&mut self, now: Moment) {
        self.forwarder.read(now);
        self.hear();
    }

    /// The time of a watch is over, where there is one.
    pub(super) fn end_watch(&mut self, since: Moment) {
        assert_eq!(self.forwarder.watch_ends(), Some(since + WATCHED));
        let nearly = WATCHED.saturating_sub(Duration::from_nanos(1));
        self.forwarder.tick(since + nearly);
        assert!(self.forwarder.watch_ends().is_some(), "too early");
        self.forwarder.tick(since + WATCHED);
        assert_eq!(self.forwarder.watch_ends(), None);
        self.hear();
    }

    /// A packet of each party; whether both went on.
    pub(super) fn talk(&mut self, number: u32) -> [Went; 2] {
        let entry = entry(number);
        entry.entering().map(|tuple| self.kernel().packet(tuple))
    }

    pub(super) fn goes_on(&mut self, number: u32) -> bool {
        self.talk(number)
            .iter()
            .all(|went| matches!(went, Went::On(_)))
    }

    pub(super) fn hear(&mut self) {
        for news in self.forwarder.take_news().remove(0) {
            if let FlowNews::Traffic(flow, more)
            | FlowNews::Lost(flow, _, more)
            | FlowNews::Withdrawn(flow, more) = news
            {
                for sum in [&mut self.told, &mut self.counted] {
                    let sum = sum.entry(flow).or_default();
                    for (sum, more) in sum.iter_mut().zip(more.iter()) {
                        *sum += more.packets;
                        assert_eq!(more.bytes, 200 * more.packets);
                    }
                }
            }
            match news {
                FlowNews::Withdrawn(flow, _) => {
                    self.counted.remove(&flow);
                }
                FlowNews::CountedAnew => self.counted.clear(),
                _ => {}
            }
            self.news.push(news);
        }
    }

    pub(super) fn told(&self, number: u32) -> [u64; 2] {
        self.told.get(&flow(number)).copied().unwrap_or_default()
    }

    pub(super) fn answers(&self, number: u32) -> Vec<Installed> {
        let answer = |news: &FlowNews| match news {
            FlowNews::Installed(of, answer) if *of == flow(number) => Some(*answer),
            _ => None,
        };
        self.news.iter().filter_map(answer).collect()
    }

    pub(super) fn withdrawn(&self, number: u32) -> usize {
        let is_it =
            |news: &&FlowNews| matches!(news, FlowNews::Withdrawn(of, _) if *of == flow(number));
        self.news.iter().filter(is_it).count()
    }

    /// How often it was told that the kernel forwards again.
    pub(super) fn mended(&self) -> usize {
        let is_it = |news: &&FlowNews| matches!(news, FlowNews::Mended);
        self.news.iter().filter(is_it).count()
    }

    pub(super) fn losses(&self, number: u32) -> Vec<Loss> {
        let loss = |news: &FlowNews| match news {
            FlowNews::Lost(of, loss, _) if *of == flow(number) => Some(*loss),
            _ => None,
        };
        self.news.iter().filter_map(loss).collect()
    }

    /// Nothing is left, once what lingers is gone.
    pub(super) fn assert_empty(&mut self) {
        self.read(second(1_000_000));
        let kernel = self.kernel();
        assert_eq!(kernel.entry_count(), 0);
        assert!(kernel.forwarded.is_empty(), "{:?}", kernel.forwarded);
        assert!(kernel.leaving.is_empty(), "{:?}", kernel.leaving);
    }
}
