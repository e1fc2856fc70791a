//! The seam for forwarding in the kernel: what the rest of the relay needs of a mechanism, in terms of flows.
//!
//! A flow is one component of a stream, forwarded both ways. How a mechanism does that is its own affair (`conntrack` is
//! the one that there is): names of entries, sets and error numbers stay with it. What all mechanisms have in common stands
//! above: who may be handed over (`trust`), which flows there are and what was read of each (`flows`), what a reading
//! means (`reading`), what workers are told (`news`).
//!
//! A mechanism may learn the exact totals of a removed flow only some milliseconds later, may let single packets of a flow
//! go by user space, and may read all flows for next to nothing. So totals come as a completion, whether packets in user
//! space are trouble is a question to it, and how often it is read follows from what a reading costs. One that knows more
//! of a flow (loss, jitter) has a place for that in [`Sample`].

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::flow::{Ends, Flow, FlowKey, Sample};
use super::flows::Flows;
use super::health::Outlook;
use crate::counters::Counters;
use crate::moment::Moment;
use crate::proto::{Party, PerParty};

/// Why a flow is not forwarded.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It forwards nothing between such addresses.
    Never,
    /// Another flow of the relay's has its addresses, and may end soon.
    InUse,
    /// The kernel did not do it: [`Mechanism::explain_refusal`] knows why.
    Failed(io::Error),
}

/// Why a flow is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removal {
    /// Its worker wants it back.
    Wanted,
    /// It is no good any more: what may have come in its place is removed, too.
    Failed,
}

/// Why nothing was read.
#[derive(Debug)]
pub(super) enum Unread {
    /// The mechanism was taken away: [`Mechanism::repair`] is to be called.
    Broken,
    Failed(io::Error),
}

/// What a repair has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repaired {
    /// Flows are as they were.
    Kept,
    /// It was made anew with all flows, whose totals begin at nothing. `was_out`: until now it could take none.
    Anew { was_out: bool },
    /// It can forward nothing at the moment.
    Out,
}

/// What was heard of the doings of others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// A flow may have ended: a reading shows which.
    pub has_ended: bool,
    /// Something was changed: [`Mechanism::repair`] is to look at it.
    pub is_changed: bool,
}

/// What became of an earlier relay's flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Adopted {
    /// It goes on; what was counted of it so far.
    Running(Sample),
    /// It is gone; what had left by it, as far as that is known.
    Gone(PerParty<Counters>),
}

/// What a take-over has come to.
#[derive(Debug, Default)]
pub(super) struct Adoption {
    pub flows: Vec<Adopted>,
    /// Flows, whole or not, that nobody has claimed: they are removed.
    pub swept: usize,
}

/// A flow that was there before this process asked for any. Its ends name it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub ends: Ends,
    pub sample: Sample,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (caller, callee) = (self.ends.caller, self.ends.callee);
        let Sample { entered, left } = &self.sample;
        write!(
            f,
            "{} and {} by {} and {}: {} and {} packets have come, {} and {} were passed on",
            caller.remote,
            callee.remote,
            caller.local,
            callee.local,
            entered.caller,
            entered.callee,
            left.caller.packets,
            left.callee.packets
        )
    }
}

/// What log lines say of it, each with its end: whoever searches for a line finds all of it in one place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words {
    /// Follows the number of flows that are gone.
    pub gone: &'static str,
    /// Why packets of a flow come to user space that should not, and what comes of it.
    pub bypassed: &'static str,
}

/// See the module. Calls may take milliseconds; the kernel thread alone makes them.
pub(super) trait Mechanism: Send {
    fn words(&self) -> Words;

    /// Makes it ready to forward. What an earlier relay has left is told; where it is kept and can be, it goes on forwarding
    /// until [`Mechanism::adopt`] says whose it is, else it goes.
    ///
    /// # Errors
    /// What cannot be done, and why.
    fn start(&mut self, keep: bool) -> Result<Vec<Found>, String>;

    /// Takes over those of an earlier relay's flows that go on being forwarded; one result for each. The rest of what was
    /// found goes.
    fn adopt(&mut self, flows: &[Flow]) -> Adoption;

    /// Leaves all flows to be forwarded without this process, for so long and no longer, for another to take over.
    ///
    /// # Errors
    /// Where that time cannot be set: they are forwarded until theirs is up.
    fn leave(&mut self, time: Duration) -> io::Result<()>;

    /// Returns true if it can take flows. Where it cannot, it is repaired before each reading.
    fn is_able(&self) -> bool;

    /// Returns true if readings have something to look at although there may be no flow.
    fn has_debris(&self) -> bool;

    /// Begins to forward flows, each whole or not at all; one result for each.
    fn install(&mut self, flows: &[Flow]) -> Vec<Result<(), Refusal>>;

    /// Why a flow was refused, and what to do.
    fn explain_refusal(&self, error: &io::Error) -> String;

    /// Ends the forwarding of flows: from here on their packets come to user space. Their totals are told by
    /// [`Mechanism::take_removed`].
    fn remove(&mut self, flows: &[FlowKey], why: Removal, now: Moment);

    /// The exact totals of what left of removed flows, once for each as soon as they are known; nothing where they
    /// cannot be known.
    fn take_removed(&mut self, now: Moment) -> Vec<(FlowKey, PerParty<Counters>)>;

    /// When more totals are to be taken; none where none are open.
    fn removed_at(&self) -> Option<Moment>;

    /// Reads all flows into `flows`; those that are gone, or soon will be, are not noted.
    ///
    /// # Errors
    /// Where nothing was read.
    fn read(&mut self, flows: &mut Flows, now: Moment) -> Result<(), Unread>;

    /// Puts right what others have done, and what the last reading found that is no flow's.
    fn repair(&mut self) -> Repaired;

    /// The addresses of this host are these now.
    fn set_addresses(&mut self, addresses: &[IpAddr]);

    /// What this host's settings let expect of forwarding.
    fn outlook(&self) -> Outlook;

    /// Returns true if packets of this flow that come to user space, many in a row, show that the kernel does not forward
    /// it; false where that is as it should be.
    fn is_bypassed(&mut self, flow: &FlowKey) -> bool;

    /// Begins to look how far this party's packets come; one flow at a time.
    ///
    /// # Errors
    /// Where that cannot be seen.
    fn watch(&mut self, flow: &FlowKey, party: Party) -> io::Result<()>;

    /// Ends that. Whether packets have come as far as the rules of this host for what is forwarded, where that is known.
    fn end_watch(&mut self) -> Option<bool>;

    /// Why this party's packets enter and do not leave, and what to do; with what a watch has told.
    fn explain_stuck(&mut self, ends: &Ends, party: Party, reached_forward: Option<bool>)
    -> String;

    /// What tells of the doings of others, to wait on level-triggered.
    fn sources(&self) -> Vec<BorrowedFd<'_>>;

    /// Reads what has happened since this was asked last; does not wait.
    ///
    /// # Errors
    /// Where nothing more can be heard.
    fn hear(&mut self) -> io::Result<Heard>;

    /// Removes all that is the relay's, once all flows are removed.
    fn close(&mut self);
}
