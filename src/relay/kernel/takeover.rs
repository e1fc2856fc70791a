//! How many of an earlier relay's flows were taken over.

use crate::metrics::Gauge;

/// What a take-over has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TakenOver {
    /// Flows that go on.
    pub adopted: usize,
    /// Flows of calls that go on without them.
    pub lost: usize,
    /// Flows of no call, which were removed.
    pub swept: usize,
}

/// The same for all the relay to see.
#[derive(Debug, Default)]
pub(crate) struct TakeOverCounts {
    pub adopted: Gauge,
    pub lost: Gauge,
    pub swept: Gauge,
}

impl TakeOverCounts {
    pub(super) fn set(&self, taken: TakenOver) {
        self.adopted.set(taken.adopted as u64);
        self.lost.set(taken.lost as u64);
        self.swept.set(taken.swept as u64);
    }
}
