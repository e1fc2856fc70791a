//! What became of all packets of an engine.

use super::drops::Dropped;
use crate::counters::Counters;

/// All that went through an engine; of sessions that are over, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub relayed: Counters,
    /// The part of it that the kernel forwarded, as far as it has told.
    pub relayed_by_kernel: Counters,
    /// Packets that were not passed on; those of sessions that were no more are not among them.
    pub dropped: Dropped,
}
