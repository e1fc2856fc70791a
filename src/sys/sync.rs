//! Locks that a panic does not poison, and waiting for a notice or a deadline.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::clock;
use crate::moment::Moment;

/// Takes a lock; a thread that panicked while it held it has left plain data behind.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a notice or the deadline; spurious wake-ups are the caller's to tell.
pub fn wait_until<'a, T>(
    ready: &Condvar,
    guard: MutexGuard<'a, T>,
    deadline: Moment,
) -> MutexGuard<'a, T> {
    let left = deadline.since(clock::moment());
    let (guard, _) = ready
        .wait_timeout(guard, left)
        .unwrap_or_else(PoisonError::into_inner);
    guard
}

/// One value that one thread puts and another waits for.
#[derive(Debug)]
pub struct Slot<T> {
    value: Mutex<Option<T>>,
    ready: Condvar,
}

impl<T> Slot<T> {
    pub fn new() -> Self {
        Slot {
            value: Mutex::new(None),
            ready: Condvar::new(),
        }
    }

    pub fn put(&self, value: T) {
        *lock(&self.value) = Some(value);
        self.ready.notify_one();
    }

    /// The value, or none when the deadline came first.
    pub fn take_until(&self, deadline: Moment) -> Option<T> {
        let mut value = lock(&self.value);
        loop {
            if value.is_some() || clock::moment() >= deadline {
                return value.take();
            }
            value = wait_until(&self.ready, value, deadline);
        }
    }
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Slot::new()
    }
}
