//! What the relay counts while it works. A worker counts packets for itself and tells the others after each turn of its
//! loop; what is rarer is counted at once. Nobody ever waits for it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::kernel::News;
use crate::daemon::Pulse;
use crate::metrics::{Counter, Histogram};
use crate::proto::link::UpdateReply;
use crate::session::{Counters, DropReason, Engine, Installed, Loss, Withdrawal};

/// What others see of a worker. On cache lines of its own: no worker waits for what another one counts.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Meter {
    /// Sessions that are not yet over and reported.
    pub sessions: AtomicUsize,
    /// Takes no new sessions any more.
    pub drained: AtomicBool,
    /// Beats with each turn.
    pub pulse: Pulse,
    pub user_space: Volume,
    pub kernel: Volume,
    pub dropped: [Counter; DropReason::ALL.len()],
    /// Packets that the host did not take.
    pub unsent: Counter,
    /// Sessions begun; ended by the proxy's word; ended otherwise.
    pub started: Counter,
    pub removed: Counter,
    pub expired: Counter,
    pub flows: Flows,
}

/// What was relayed one way.
#[derive(Debug, Default)]
pub struct Volume {
    pub packets: Counter,
    /// With IP headers.
    pub bytes: Counter,
}

/// What became of flows that were offered to the kernel.
#[derive(Debug, Default)]
pub struct Flows {
    pub taken: Counter,
    /// To be offered again; the same, since nothing leaves the kernel; never to be offered again.
    pub not_now: Counter,
    pub suspended: Counter,
    pub never: Counter,
    /// Deleted by others; packets did not leave; packets did not reach it.
    pub deleted: Counter,
    pub stuck: Counter,
    pub bypassed: Counter,
}

impl Meter {
    /// Tells the others; by the worker alone.
    pub fn publish(&self, engine: &Engine, unsent: u64) {
        let totals = engine.totals();
        let (all, kernel) = (totals.relayed, totals.relayed_by_kernel);
        self.kernel.set(kernel);
        self.user_space.set(Counters {
            packets: all.packets.saturating_sub(kernel.packets),
            bytes: all.bytes.saturating_sub(kernel.bytes),
        });
        for (told, (_, count)) in self.dropped.iter().zip(totals.dropped.counts()) {
            told.set(count);
        }
        self.unsent.set(unsent);
        self.publish_sessions(engine);
    }

    /// Sessions alone: who has been answered for a new one finds it counted.
    pub fn publish_sessions(&self, engine: &Engine) {
        self.sessions
            .store(engine.sessions().held(), Ordering::Relaxed);
    }

    /// Bytes relayed since the start, with IP headers.
    pub fn bytes(&self) -> u64 {
        self.user_space.bytes.get() + self.kernel.bytes.get()
    }
}

impl Volume {
    fn set(&self, counters: Counters) {
        self.packets.set(counters.packets);
        self.bytes.set(counters.bytes);
    }
}

impl Flows {
    /// What the kernel thread tells of one.
    pub fn count(&self, news: &News) {
        let counter = match news {
            News::Installed(_, Installed::Taken) => &self.taken,
            News::Installed(_, Installed::NotNow) => &self.not_now,
            News::Installed(_, Installed::Suspended) => &self.suspended,
            News::Installed(_, Installed::Never) => &self.never,
            News::Lost(_, Loss::Deleted, _) => &self.deleted,
            News::Lost(_, Loss::Stuck | Loss::Suspended, _) => &self.stuck,
            News::Traffic(..) | News::Withdrawn(..) | News::Heard(_) | News::Mended => return,
        };
        counter.add(1);
    }

    /// A flow is taken back.
    pub fn count_withdrawal(&self, why: Withdrawal) {
        if why == Withdrawal::Bypassed {
            self.bypassed.add(1);
        }
    }
}

/// What dispatchers ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Update,
    Remove,
    Sessions,
    Summary,
    Explain,
    /// Something that cannot be read.
    Invalid,
}

/// How it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    Ok,
    Error,
    Halting,
}

impl Asked {
    pub const ALL: [(Asked, &'static str); 6] = [
        (Asked::Update, "update"),
        (Asked::Remove, "remove"),
        (Asked::Sessions, "sessions"),
        (Asked::Summary, "summary"),
        (Asked::Explain, "explain"),
        (Asked::Invalid, "invalid"),
    ];
}

impl Answered {
    pub const ALL: [(Answered, &'static str); 3] = [
        (Answered::Ok, "ok"),
        (Answered::Error, "error"),
        (Answered::Halting, "halting"),
    ];
}

impl From<&UpdateReply> for Answered {
    fn from(reply: &UpdateReply) -> Answered {
        match reply {
            UpdateReply::Ports(..) => Answered::Ok,
            UpdateReply::Error(_) => Answered::Error,
            UpdateReply::Halting => Answered::Halting,
        }
    }
}

/// Requests of all dispatchers since the start.
#[derive(Debug, Default)]
pub struct Requests {
    counts: [[Counter; Answered::ALL.len()]; Asked::ALL.len()],
    /// How long updates took, from their reading to the answer's place in the outbox.
    pub updates: Histogram,
}

impl Requests {
    pub fn count(&self, asked: Asked, answered: Answered) {
        if let Some(counter) = self.counter(asked, answered) {
            counter.add(1);
        }
    }

    pub fn get(&self, asked: Asked, answered: Answered) -> u64 {
        self.counter(asked, answered).map_or(0, Counter::get)
    }

    fn counter(&self, asked: Asked, answered: Answered) -> Option<&Counter> {
        self.counts.get(asked as usize)?.get(answered as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_at_their_numbers() {
        for (at, (asked, _)) in Asked::ALL.iter().enumerate() {
            assert_eq!(*asked as usize, at);
        }
        for (at, (answered, _)) in Answered::ALL.iter().enumerate() {
            assert_eq!(*answered as usize, at);
        }
    }

    #[test]
    fn each_request_has_its_own_count() {
        let requests = Requests::default();
        requests.count(Asked::Update, Answered::Halting);
        requests.count(Asked::Invalid, Answered::Error);
        requests.count(Asked::Invalid, Answered::Error);
        let mut sum = 0;
        for (asked, _) in Asked::ALL {
            sum += Answered::ALL
                .map(|(answered, _)| requests.get(asked, answered))
                .iter()
                .sum::<u64>();
        }
        assert_eq!(sum, 3);
        assert_eq!(requests.get(Asked::Update, Answered::Halting), 1);
        assert_eq!(requests.get(Asked::Invalid, Answered::Error), 2);
    }

    #[test]
    fn what_becomes_of_flows() {
        let flows = Flows::default();
        let flow = crate::session::FlowId {
            session: crate::session::SessionKey::for_tests(1),
            stream: 0,
            component: crate::proto::Component::Rtp,
            turn: 1,
        };
        let none = [Counters::default(); 2];
        for news in [
            News::Installed(flow, Installed::Taken),
            News::Installed(flow, Installed::NotNow),
            News::Installed(flow, Installed::Suspended),
            News::Installed(flow, Installed::Never),
            News::Lost(flow, Loss::Deleted, none),
            News::Lost(flow, Loss::Stuck, none),
            News::Mended,
            News::Traffic(flow, none),
            News::Withdrawn(flow, none),
        ] {
            flows.count(&news);
        }
        flows.count_withdrawal(Withdrawal::Over);
        flows.count_withdrawal(Withdrawal::Bypassed);
        let Flows {
            taken,
            not_now,
            suspended,
            never,
            deleted,
            stuck,
            bypassed,
        } = &flows;
        let counts = [taken, not_now, suspended, never, deleted, stuck, bypassed].map(Counter::get);
        assert_eq!(counts, [1; 7]);
    }
}
