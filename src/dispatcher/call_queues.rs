//! One request at a time for each call: those that come meanwhile wait their turn, in the order in which they
//! came, each under its own deadline.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use crate::moment::Moment;
use crate::proto::CallId;
use crate::sys::sync::{Slot, lock};

type Waiters = VecDeque<Arc<Slot<()>>>;

/// The calls that have a request under way, with those who wait for it to end.
#[derive(Debug, Default)]
pub(super) struct CallQueues {
    calls: Mutex<HashMap<CallId, Waiters>>,
}

/// The right to work on a call, until it is dropped.
#[derive(Debug)]
pub(super) struct CallTurn<'a> {
    turns: &'a CallQueues,
    call_id: CallId,
    /// It had to be waited for.
    pub waited: bool,
}

impl CallQueues {
    /// Waits for this call's turn; none when the deadline comes first.
    pub(super) fn enter(&self, call_id: &CallId, deadline: Moment) -> Option<CallTurn<'_>> {
        let slot = {
            let mut calls = lock(&self.calls);
            match calls.get_mut(call_id) {
                None => {
                    calls.insert(call_id.clone(), Waiters::new());
                    None
                }
                Some(waiters) => {
                    let slot = Arc::new(Slot::new());
                    waiters.push_back(Arc::clone(&slot));
                    Some(slot)
                }
            }
        };
        let turn = |waited| CallTurn {
            turns: self,
            call_id: call_id.clone(),
            waited,
        };
        let Some(slot) = slot else {
            return Some(turn(false));
        };
        if slot.take_until(deadline).is_none() && self.leave_queue(call_id, &slot) {
            return None;
        }
        Some(turn(true))
    }

    /// Requests that wait for their turn.
    pub(super) fn queued(&self) -> usize {
        lock(&self.calls).values().map(Waiters::len).sum()
    }

    /// False when the turn has been handed over just now.
    fn leave_queue(&self, call_id: &CallId, slot: &Arc<Slot<()>>) -> bool {
        let mut calls = lock(&self.calls);
        let Some(waiters) = calls.get_mut(call_id) else {
            return true;
        };
        let before = waiters.len();
        waiters.retain(|waiter| !Arc::ptr_eq(waiter, slot));
        waiters.len() < before
    }
}

impl CallTurn<'_> {
    /// Whether somebody waits for this turn to end.
    pub(super) fn is_waited_for(&self) -> bool {
        let calls = lock(&self.turns.calls);
        calls.get(&self.call_id).is_some_and(|w| !w.is_empty())
    }
}

impl Drop for CallTurn<'_> {
    fn drop(&mut self) {
        let mut calls = lock(&self.turns.calls);
        let next = calls.get_mut(&self.call_id).and_then(Waiters::pop_front);
        match next {
            Some(next) => next.put(()),
            None => drop(calls.remove(&self.call_id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const LONG: Moment = Moment::NEVER;

    fn call(id: &str) -> CallId {
        CallId(id.into())
    }

    #[test]
    fn requests_of_a_call_follow_one_another_in_order() {
        let turns = CallQueues::default();
        let first = turns.enter(&call("a"), LONG).unwrap();
        assert!(!first.waited && !first.is_waited_for());
        assert!(turns.enter(&call("b"), LONG).is_some(), "another call");
        let (done, order) = mpsc::channel();
        std::thread::scope(|scope| {
            for n in 0..3 {
                let (done, turns) = (done.clone(), &turns);
                scope.spawn(move || {
                    let turn = turns.enter(&call("a"), LONG).unwrap();
                    assert!(turn.waited);
                    done.send(n).unwrap();
                });
                while turns.queued() <= n {
                    std::thread::yield_now();
                }
            }
            assert!(first.is_waited_for());
            drop(first);
        });
        drop(done);
        assert_eq!(order.iter().collect::<Vec<_>>(), [0, 1, 2]);
        assert!(lock(&turns.calls).is_empty());
    }

    #[test]
    fn a_deadline_leaves_the_queue() {
        let turns = CallQueues::default();
        let first = turns.enter(&call("a"), LONG).unwrap();
        assert!(turns.enter(&call("a"), Moment::START).is_none());
        assert!(!first.is_waited_for());
        drop(first);
        assert!(turns.enter(&call("a"), Moment::START).is_some());
    }
}
