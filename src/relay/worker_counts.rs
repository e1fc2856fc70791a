//! What a worker counts: packets for itself, told to the others after each turn of its loop; what is rarer, at once. Nobody
//! ever waits for it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::counters::Counters;
use crate::daemon::Pulse;
use crate::metrics::Counter;
use crate::session::{DropReason, Engine, FlowNews, Installed, Loss};

/// What others see of a worker. On cache lines of its own: no worker waits for what another one counts.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct WorkerCounts {
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
    pub flows: FlowCounts,
}

/// What was relayed one way.
#[derive(Debug, Default)]
pub(super) struct Volume {
    pub packets: Counter,
    /// With IP headers.
    pub bytes: Counter,
}

/// What became of flows that were offered to the kernel.
#[derive(Debug, Default)]
pub(super) struct FlowCounts {
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

impl WorkerCounts {
    /// Tells the others; by the worker alone.
    pub(super) fn publish(&self, engine: &Engine, unsent: u64) {
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
    pub(super) fn publish_sessions(&self, engine: &Engine) {
        self.sessions
            .store(engine.sessions().held(), Ordering::Relaxed);
    }

    /// Bytes relayed since the start, with IP headers.
    pub(super) fn bytes(&self) -> u64 {
        self.user_space.bytes.get() + self.kernel.bytes.get()
    }
}

impl Volume {
    fn set(&self, counters: Counters) {
        self.packets.set(counters.packets);
        self.bytes.set(counters.bytes);
    }
}

impl FlowCounts {
    /// What the kernel thread tells of one.
    pub(super) fn count(&self, news: &FlowNews) {
        let counter = match news {
            FlowNews::Installed(_, Installed::Taken) => &self.taken,
            FlowNews::Installed(_, Installed::NotNow) => &self.not_now,
            FlowNews::Installed(_, Installed::Suspended) => &self.suspended,
            FlowNews::Installed(_, Installed::Never) => &self.never,
            FlowNews::Lost(_, Loss::Deleted, _) => &self.deleted,
            FlowNews::Lost(_, Loss::Stuck | Loss::Suspended, _) => &self.stuck,
            FlowNews::Lost(_, Loss::Bypassed, _) => &self.bypassed,
            FlowNews::Traffic(..)
            | FlowNews::Withdrawn(..)
            | FlowNews::CountedAnew
            | FlowNews::Heard(_)
            | FlowNews::Mended => return,
        };
        counter.add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::PerParty;

    #[test]
    fn what_becomes_of_flows() {
        let flows = FlowCounts::default();
        let flow = crate::session::FlowId {
            session: crate::session::SessionKey::for_tests(1),
            stream: 0,
            component: crate::proto::Component::Rtp,
            turn: 1,
        };
        let none = PerParty::<Counters>::default();
        for news in [
            FlowNews::Installed(flow, Installed::Taken),
            FlowNews::Installed(flow, Installed::NotNow),
            FlowNews::Installed(flow, Installed::Suspended),
            FlowNews::Installed(flow, Installed::Never),
            FlowNews::Lost(flow, Loss::Deleted, none),
            FlowNews::Lost(flow, Loss::Stuck, none),
            FlowNews::Lost(flow, Loss::Bypassed, none),
            FlowNews::Mended,
            FlowNews::Traffic(flow, none),
            FlowNews::Withdrawn(flow, none),
        ] {
            flows.count(&news);
        }
        let FlowCounts {
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
