//! The kernel thread as the rest of the relay sees it.

use std::sync::Arc;
use std::time::Duration;

use super::order::Order;
use crate::daemon::Pulse;
use crate::metrics::Gauge;
use crate::sys::mailbox::Postbox;

/// See the module.
#[derive(Default)]
pub(crate) struct KernelHandle {
    /// None where media is relayed in user space only.
    pub orders: Option<Postbox<Order>>,
    pub pulse: Arc<Pulse>,
    /// Flows that the kernel has.
    pub flows: Arc<Gauge>,
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

    /// Has it take everything back. False where it does not within this time.
    pub(crate) fn quit(&self, limit: Duration) -> bool {
        let Some(orders) = &self.orders else {
            return true;
        };
        let (done, is_done) = crossbeam_channel::bounded(1);
        orders.send(Order::Quit(done)).is_ok() && is_done.recv_timeout(limit).is_ok()
    }
}
