//! What the kernel thread is told.

use crossbeam_channel::Sender;

use crate::session::{FlowEnd, FlowId, Withdrawal};

/// Names a flow among those of all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    pub worker: usize,
    pub flow: FlowId,
}

/// An order to the kernel thread.
pub enum Order {
    /// Forward between the caller's and the callee's end. Answered by [`super::news::News::Installed`].
    Install(FlowKey, [FlowEnd; 2]),
    /// Answered by [`super::news::News::Withdrawn`], whatever became of the flow meanwhile.
    Withdraw(FlowKey, Withdrawal),
    /// Tell all counters as they are now, then do this.
    Read(Box<dyn FnOnce() + Send>),
    /// Nothing but a round of the loop, for the watchdog.
    Nudge,
    /// Take everything back and leave nothing behind; answered when that is done.
    Quit(Sender<()>),
}
