//! What all parts of the kernel's side say of a flow: one component of a stream, forwarded both ways.

use super::order::FlowKey;
use crate::counters::Counters;
use crate::session::FlowEnd;

/// The caller's end of a flow and the callee's.
pub type Ends = [FlowEnd; 2];

/// A flow that is to be forwarded.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    pub key: FlowKey,
    pub ends: Ends,
}

/// What a reading tells of one flow: totals by the party that sends them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Packets that have entered the kernel.
    pub entered: [u64; 2],
    /// What has left it.
    pub left: [Counters; 2],
}
