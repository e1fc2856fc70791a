//! The forwarder with a kernel in memory, as its tests have it.

use std::net::SocketAddr;
use std::time::Duration;

use super::fake::{Fake, Went};
use super::forwarder::{Forwarder, Wanted};
use super::reading::WATCHED;
use super::{Key, News};
use crate::netlink::conntrack::{End, NatEntry};
use crate::proto::Component;
use crate::session::{FlowEnd, FlowId, Installed, Loss, SessionKey, Withdrawal};

pub const T: Duration = Duration::from_secs(100);

pub fn second(count: u64) -> Duration {
    T + Duration::from_secs(count)
}

/// A forwarder, its kernel, and what was counted for the two parties of each flow by news.
pub struct Lab {
    pub forwarder: Forwarder<Fake>,
    /// Packets by flow, as told.
    pub told: std::collections::HashMap<FlowId, [u64; 2]>,
    pub news: Vec<News>,
}

pub fn flow(number: u32) -> FlowId {
    FlowId {
        session: SessionKey::for_tests(number),
        stream: 0,
        component: Component::Rtp,
        turn: 1,
    }
}

pub fn key(number: u32) -> Key {
    Key {
        worker: 0,
        flow: flow(number),
    }
}

pub fn ends(number: u32) -> [FlowEnd; 2] {
    let port = 40000 + 4 * number as u16;
    let end = |remote: &str, port| FlowEnd {
        remote: remote.parse().unwrap(),
        local: SocketAddr::from(([10, 0, 0, 1], port)),
    };
    [
        end("192.0.2.1:30000", port),
        end("192.0.2.2:31000", port + 2),
    ]
}

/// As the kernel has it.
pub fn v4(end: FlowEnd) -> End {
    match (end.remote, end.local) {
        (SocketAddr::V4(remote), SocketAddr::V4(local)) => End { remote, local },
        _ => panic!("{end:?}"),
    }
}

pub fn entry(number: u32) -> NatEntry {
    let [caller, callee] = ends(number).map(v4);
    NatEntry { caller, callee }
}

impl Lab {
    pub fn new() -> Lab {
        let locals = vec![[10, 0, 0, 1].into(), [10, 0, 0, 7].into()];
        Lab {
            forwarder: Forwarder::new(Fake::default(), 1, locals),
            told: Default::default(),
            news: Vec::new(),
        }
    }

    pub fn kernel(&mut self) -> &mut Fake {
        &mut self.forwarder.requests
    }

    pub fn install(&mut self, numbers: impl IntoIterator<Item = u32>, now: Duration) {
        let wanted = |number| Wanted {
            key: key(number),
            ends: ends(number),
        };
        let wanted: Vec<_> = numbers.into_iter().map(wanted).collect();
        self.forwarder.install(&wanted, now);
        self.hear();
    }

    pub fn withdraw(&mut self, numbers: impl IntoIterator<Item = u32>) {
        let keys: Vec<_> = numbers
            .into_iter()
            .map(|number| (key(number), Withdrawal::Over))
            .collect();
        self.forwarder.withdraw(&keys, T);
        self.hear();
    }

    pub fn read(&mut self, now: Duration) {
        self.forwarder.read(now);
        self.hear();
    }

    /// The time of a watch is over, where there is one.
    pub fn end_watch(&mut self, since: Duration) {
        assert_eq!(self.forwarder.watch_ends(), Some(since + WATCHED));
        self.forwarder
            .end_watch(since + WATCHED - Duration::from_nanos(1));
        assert!(self.forwarder.watch_ends().is_some(), "too early");
        self.forwarder.end_watch(since + WATCHED);
        assert_eq!(self.forwarder.watch_ends(), None);
        self.hear();
    }

    /// A packet of each party; whether both went on.
    pub fn talk(&mut self, number: u32) -> [Went; 2] {
        let entry = entry(number);
        [entry.original(), entry.reply()].map(|tuple| self.kernel().packet(tuple))
    }

    pub fn goes_on(&mut self, number: u32) -> bool {
        self.talk(number)
            .iter()
            .all(|went| matches!(went, Went::On(_)))
    }

    pub fn hear(&mut self) {
        for (worker, news) in self.forwarder.take_news() {
            assert_eq!(worker, 0);
            if let News::Traffic(flow, more)
            | News::Lost(flow, _, more)
            | News::Withdrawn(flow, more) = news
            {
                let sum = self.told.entry(flow).or_default();
                for party in 0..2 {
                    sum[party] += more[party].packets;
                    assert_eq!(more[party].bytes, 200 * more[party].packets);
                }
            }
            self.news.push(news);
        }
    }

    pub fn told(&self, number: u32) -> [u64; 2] {
        self.told.get(&flow(number)).copied().unwrap_or_default()
    }

    pub fn answers(&self, number: u32) -> Vec<Installed> {
        let answer = |news: &News| match news {
            News::Installed(of, answer) if *of == flow(number) => Some(*answer),
            _ => None,
        };
        self.news.iter().filter_map(answer).collect()
    }

    pub fn withdrawn(&self, number: u32) -> usize {
        let is_it = |news: &&News| matches!(news, News::Withdrawn(of, _) if *of == flow(number));
        self.news.iter().filter(is_it).count()
    }

    /// How often it was told that the kernel forwards again.
    pub fn mended(&self) -> usize {
        let is_it = |news: &&News| matches!(news, News::Mended);
        self.news.iter().filter(is_it).count()
    }

    pub fn losses(&self, number: u32) -> Vec<Loss> {
        let loss = |news: &News| match news {
            News::Lost(of, loss, _) if *of == flow(number) => Some(*loss),
            _ => None,
        };
        self.news.iter().filter_map(loss).collect()
    }

    pub fn assert_empty(&mut self) {
        let kernel = self.kernel();
        assert_eq!(kernel.entry_count(), 0);
        assert!(kernel.forwarded.is_empty(), "{:?}", kernel.forwarded);
        assert!(kernel.leaving.is_empty(), "{:?}", kernel.leaving);
    }
}
