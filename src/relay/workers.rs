//! The workers as others see them: a mailbox, and what it has counted.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::message::Message;
use super::worker_counts::WorkerCounts;
use crate::metrics::Counter;
use crate::proto::CallId;
use crate::sys::mailbox::Postbox;

/// See the module.
pub(super) struct Workers {
    postboxes: Vec<Postbox<Message>>,
    counts: Vec<Arc<WorkerCounts>>,
}

impl Workers {
    pub(super) fn new(postboxes: Vec<Postbox<Message>>) -> Workers {
        let counts = postboxes.iter().map(|_| Arc::default()).collect();
        Workers { postboxes, counts }
    }

    pub(super) fn count(&self) -> usize {
        self.postboxes.len()
    }

    /// The worker that has a call.
    pub(super) fn of(&self, call_id: &CallId) -> usize {
        worker_of(call_id, self.postboxes.len())
    }

    /// Waits while the worker has too much to do. False where it is gone.
    pub(super) fn send(&self, worker: usize, message: Message) -> bool {
        let postbox = self.postboxes.get(worker);
        postbox.is_some_and(|postbox| postbox.send(message).is_ok())
    }

    /// False where one is gone; those after it are told nothing then.
    pub(super) fn send_all(&self, message: impl Fn() -> Message) -> bool {
        (0..self.postboxes.len()).all(|worker| self.send(worker, message()))
    }

    /// Puts it into a worker's mailbox if there is room; does not wait.
    pub(super) fn nudge(&self, worker: usize, message: Message) {
        if let Some(postbox) = self.postboxes.get(worker) {
            postbox.nudge(message);
        }
    }

    /// What a worker has counted.
    pub(super) fn counts(&self, worker: usize) -> Option<&Arc<WorkerCounts>> {
        self.counts.get(worker)
    }

    pub(super) fn all_counts(&self) -> impl Iterator<Item = &WorkerCounts> {
        self.counts.iter().map(Arc::as_ref)
    }

    /// What all have counted of something.
    pub(super) fn sum(&self, of: impl Fn(&WorkerCounts) -> &Counter) -> u64 {
        self.all_counts().map(|counts| of(counts).get()).sum()
    }

    /// Bytes relayed since the start.
    pub(super) fn bytes(&self) -> u64 {
        self.all_counts().map(WorkerCounts::bytes).sum()
    }

    /// Sessions that are not over and reported.
    pub(super) fn sessions(&self) -> usize {
        self.all_counts()
            .map(|counts| counts.sessions.load(Ordering::Relaxed))
            .sum()
    }

    /// Returns true if no new call can come any more and the last one is over.
    pub(super) fn are_drained(&self) -> bool {
        self.all_counts().all(|counts| {
            counts.drained.load(Ordering::Acquire) && counts.sessions.load(Ordering::Relaxed) == 0
        })
    }
}

/// Spreads calls over workers: FNV-1a, the same in every run.
fn worker_of(call_id: &CallId, workers: usize) -> usize {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in call_id.0.as_bytes() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    // The upper bits are the better ones.
    ((hash >> 32) % workers.max(1) as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_spread_evenly_and_always_alike() {
        let mut counts = [0; 4];
        for n in 0..4000 {
            let call_id = CallId(format!("call-{n}@192.0.2.1").as_str().into());
            let worker = worker_of(&call_id, 4);
            assert_eq!(worker, worker_of(&call_id, 4));
            counts[worker] += 1;
        }
        assert!(counts.iter().all(|n| (900..1100).contains(n)), "{counts:?}");
        assert_eq!(worker_of(&CallId("x".into()), 0), 0);
    }
}
