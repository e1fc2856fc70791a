//! What the kernel thread is told.

use std::time::Duration;

use crossbeam_channel::Sender;

use super::flow::{Ends, Flow, FlowKey};
use crate::counters::Counters;
use crate::proto::PerParty;

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
    /// Take over what an earlier relay's flows have become: each with what had been counted of it since it was installed.
    /// Those that are gone are told as lost, with what they had relayed beyond that; of the others nothing is said. Whatever
    /// else was left is removed. Once, before anything is to be installed.
    ///
    /// A flow that was asked for, and nobody knows whether it was ever installed, is claimed with more than it can have
    /// counted: what may be there still of an earlier one between the same ends is none of its.
    Adopt(Vec<(Flow, PerParty<Counters>)>),
    /// End, and leave all flows in the kernel to who takes over within this time; answered when that is done.
    Leave(Duration, Sender<()>),
    /// Take everything back and leave nothing behind; answered when that is done.
    Quit(Sender<()>),
}
