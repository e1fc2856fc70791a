//! What all parts of the kernel's side say of a flow: one component of a stream, forwarded both ways.

use crate::counters::Counters;
use crate::proto::PerParty;
use crate::session::{FlowEnd, FlowId};

/// Names a flow among those of all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FlowKey {
    pub worker: usize,
    pub flow: FlowId,
}

/// The caller's end of a flow and the callee's.
pub(crate) type Ends = PerParty<FlowEnd>;

/// A flow that is to be forwarded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    pub key: FlowKey,
    pub ends: Ends,
}

/// What a reading tells of one flow: totals by the party that sends them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Packets that have entered the kernel.
    pub entered: PerParty<u64>,
    /// What has left it.
    pub left: PerParty<Counters>,
}
