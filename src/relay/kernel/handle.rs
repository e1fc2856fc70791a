//! The kernel thread as the rest of the relay sees it.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;

use super::flow::Flow;
use super::order::Order;
use super::takeover::TakeOverCounts;
use crate::counters::Counters;
use crate::daemon::Pulse;
use crate::metrics::Gauge;
use crate::proto::PerParty;
use crate::sys::mailbox::Postbox;

/// See the module.
#[derive(Default)]
pub(crate) struct KernelHandle {
    /// None where media is relayed in user space only.
    pub orders: Option<Postbox<Order>>,
    pub pulse: Arc<Pulse>,
    /// Flows that the kernel has.
    pub flows: Arc<Gauge>,
    /// How many flows of an earlier relay were taken over.
    pub takeover: Arc<TakeOverCounts>,
}

impl KernelHandle {
    /// Tells the thread something; without one nothing of the kind is ever said.
    pub(crate) fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // It ends after the workers' last session.
            let _ = orders.send(order);
        }
    }

    /// Does something once what the kernel has relayed is told; at once where it relays nothing. False where the thread is
    /// gone.
    pub(crate) fn after_reading(&self, act: impl FnOnce() + Send + 'static) -> bool {
        match &self.orders {
            Some(orders) => orders.send(Order::Read(Box::new(act))).is_ok(),
            None => {
                act();
                true
            }
        }
    }

    /// Returns true if the thread has gone round its loop since this was last asked, or there is none.
    pub(crate) fn is_well(&self) -> bool {
        let orders = self.orders.as_ref();
        orders.is_none_or(|orders| self.pulse.feel(|| orders.nudge(Order::Nudge)))
    }

    /// Has it take over what an earlier relay's flows have become: see [`Order::Adopt`]. Once, where [`super::open`] was to
    /// keep them.
    pub(crate) fn adopt(&self, flows: Vec<(Flow, PerParty<Counters>)>) {
        self.order(Order::Adopt(flows));
    }

    /// Has it end and leave all flows to who takes over within this time. False where it does not end within `limit`.
    pub(crate) fn leave(&self, time: Duration, limit: Duration) -> bool {
        self.end(|done| Order::Leave(time, done), limit)
    }

    /// Has it take everything back. False where it does not within this time.
    pub(crate) fn quit(&self, limit: Duration) -> bool {
        self.end(Order::Quit, limit)
    }

    fn end(&self, order: impl FnOnce(Sender<()>) -> Order, limit: Duration) -> bool {
        let Some(orders) = &self.orders else {
            return true;
        };
        let (done, is_done) = crossbeam_channel::bounded(1);
        orders.send(order(done)).is_ok() && is_done.recv_timeout(limit).is_ok()
    }
}
