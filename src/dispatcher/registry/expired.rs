//! Calls of which something is remembered for a while: those that ended without the SIP proxy, so that its `remove`, which
//! comes later, is answered as it expects (docs/protocol.md section 2); those that it removed and that were not known.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::proto::CallId;

/// So many are kept; beyond this the oldest are forgotten.
pub const MOST: usize = 20_000;

/// See the module.
#[derive(Debug)]
pub struct Remembered<T> {
    /// With the number of its last end.
    calls: HashMap<CallId, (u64, T)>,
    /// When each ended, oldest first. Of a call that has been removed or has ended again since, the number differs.
    order: VecDeque<(Duration, CallId, u64)>,
    ended: u64,
}

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        Remembered {
            calls: HashMap::new(),
            order: VecDeque::new(),
            ended: 0,
        }
    }
}

impl<T> Remembered<T> {
    /// A call has ended.
    pub fn add(&mut self, call_id: CallId, what: T, now: Duration) {
        self.ended += 1;
        self.calls.insert(call_id.clone(), (self.ended, what));
        self.order.push_back((now, call_id, self.ended));
        if self.order.len() > MOST {
            self.forget_first();
        }
    }

    pub fn get(&self, call_id: &CallId) -> Option<&T> {
        self.calls.get(call_id).map(|(_, what)| what)
    }

    /// The proxy has removed it, or there is a new call of this name.
    pub fn remove(&mut self, call_id: &CallId) -> Option<T> {
        self.calls.remove(call_id).map(|(_, what)| what)
    }

    /// Forgets those that ended at this time or before.
    pub fn forget_until(&mut self, time: Duration) {
        while self.order.front().is_some_and(|(ended, ..)| *ended <= time) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        let Some((_, call_id, number)) = self.order.pop_front() else {
            return;
        };
        if self.calls.get(&call_id).is_some_and(|(n, _)| *n == number) {
            self.calls.remove(&call_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(number: usize) -> CallId {
        CallId(number.to_string().as_str().into())
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_call_that_ended_again_is_kept_from_then_on() {
        let mut expired = Remembered::default();
        expired.add(call(1), 1, at(0));
        expired.add(call(2), 2, at(0));
        assert_eq!(
            (expired.remove(&call(1)), expired.remove(&call(1))),
            (Some(1), None)
        );
        expired.add(call(1), 3, at(5));
        expired.forget_until(at(4));
        assert_eq!(
            (expired.get(&call(1)), expired.get(&call(2))),
            (Some(&3), None)
        );
        expired.forget_until(at(5));
        assert_eq!(expired.get(&call(1)), None);
        assert!(expired.order.is_empty());
    }

    #[test]
    fn the_oldest_go_first() {
        let mut expired = Remembered::default();
        (0..=MOST).for_each(|number| expired.add(call(number), (), at(0)));
        assert!(expired.get(&call(0)).is_none() && expired.get(&call(1)).is_some());
        assert_eq!(expired.calls.len(), MOST);
    }
}
