//! What the kernel thread is told.

use crossbeam_channel::Sender;

use super::flow::{Ends, FlowKey};

/// An order to the kernel thread.
pub(crate) enum Order {
    /// Forward between the caller's and the callee's end. Answered by [`crate::session::FlowNews::Installed`].
    Install(FlowKey, Ends),
    /// Answered by [`crate::session::FlowNews::Withdrawn`], whatever became of the flow meanwhile.
    Withdraw(FlowKey),
    /// Many packets of this flow come to user space. It is lost where they should not; else nothing is answered.
    Suspect(FlowKey),
    /// Tell all counters as they are now, then do this.
    Read(Box<dyn FnOnce() + Send>),
    /// Nothing but a round of the loop, for the watchdog.
    Nudge,
    /// Take everything back and leave nothing behind; answered when that is done.
    Quit(Sender<()>),
}
