//! The end of the relay, for threads that wait for something else.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ending {
    has_begun: Mutex<bool>,
    wake: Condvar,
}

impl Ending {
    /// Waits this long, or until the relay ends. Returns true if it does.
    pub(super) fn pause(&self, limit: Duration) -> bool {
        let guard = self.has_begun.lock();
        let guard = guard.unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .wake
            .wait_timeout_while(guard, limit, |has_begun| !*has_begun);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Returns true if the relay ends.
    pub(super) fn has_begun(&self) -> bool {
        *self
            .has_begun
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all waiting.
    pub(super) fn begin(&self) {
        *self
            .has_begun
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = true;
        self.wake.notify_all();
    }
}
