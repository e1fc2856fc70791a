//! What a worker is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};

use super::listing::Listing;
use super::loops::Loop;
use super::summing::Summing;
use crate::moment::Moment;
use crate::proto::CallId;
use crate::proto::control::{Remove, Update};
use crate::session::{FlowNews, Owner, ReplyTo};

/// See the module.
#[derive(Debug)]
pub(super) enum Message {
    /// And when it was read.
    Update(Box<Update>, ReplyTo, Moment),
    Remove(Remove, ReplyTo),
    Sessions(Arc<Listing>),
    Summary(Arc<Summing>),
    /// All that is known of a call.
    Explain(CallId, Sender<Vec<u8>>),
    /// How many live streams there are of each type.
    Streams(Sender<BTreeMap<String, usize>>),
    /// How many sessions are to be reported to a dispatcher.
    Owned(Owner, Sender<usize>),
    /// What the kernel thread tells of this worker's flows.
    Kernel(Vec<FlowNews>),
    /// Who has the port that packets of a call come round by: the question, or the answer for who has asked.
    Loop(Box<Loop>),
    /// Nothing but a round of the loop, for the watchdog.
    Nudge,
    /// No new sessions from now on.
    Drain,
    /// Tell when all requests that have come before are answered.
    Settle(Sender<()>),
    /// Save all sessions for the next process, tell when that is done, and touch nothing any more; what is bound stays so
    /// until the other channel is closed.
    HandOver(Sender<()>, Receiver<()>),
    /// End all sessions, and tell when they are reported.
    EndAll(Sender<()>),
    Quit,
}
