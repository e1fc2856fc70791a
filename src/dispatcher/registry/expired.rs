//! Sessions of which something is remembered for a while: those that ended without the SIP proxy, so that its `remove`,
//! which comes later, is answered as it expects (docs/protocol.md section 2); those that it removed and that were not known.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::proto::CallId;

/// So many are kept; beyond this the oldest are forgotten.
pub const MOST: usize = 20_000;

/// See the module.
#[derive(Debug)]
pub struct Remembered<T> {
    /// Each with a number of its own: a Call-ID may have several.
    calls: HashMap<CallId, Vec<(u64, T)>>,
    /// When each ended, oldest first. Those that were taken are no more above.
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
    /// A session has ended.
    pub fn add(&mut self, call_id: CallId, what: T, now: Duration) {
        self.ended += 1;
        let ended = (self.ended, what);
        self.calls.entry(call_id.clone()).or_default().push(ended);
        self.order.push_back((now, call_id, self.ended));
        if self.order.len() > MOST {
            self.forget_first();
        }
    }

    /// Those of a Call-ID.
    pub fn of(&self, call_id: &CallId) -> impl Iterator<Item = &T> {
        let found = self.calls.get(call_id).into_iter().flatten();
        found.map(|(_, what)| what)
    }

    /// The proxy has removed it, or there is a new session of this name.
    pub fn take(&mut self, call_id: &CallId, is_it: impl Fn(&T) -> bool) -> Option<T> {
        let found = self.calls.get_mut(call_id)?;
        let at = found.iter().rposition(|(_, what)| is_it(what))?;
        let (_, what) = found.remove(at);
        if found.is_empty() {
            self.calls.remove(call_id);
        }
        Some(what)
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
        let Some(found) = self.calls.get_mut(&call_id) else {
            return;
        };
        found.retain(|(n, _)| *n != number);
        if found.is_empty() {
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

    fn of(expired: &Remembered<u32>, number: usize) -> Vec<u32> {
        expired.of(&call(number)).copied().collect()
    }

    #[test]
    fn a_call_that_ended_again_is_kept_from_then_on() {
        let mut expired = Remembered::default();
        expired.add(call(1), 1, at(0));
        expired.add(call(2), 2, at(0));
        let take = |expired: &mut Remembered<u32>| expired.take(&call(1), |_| true);
        assert_eq!((take(&mut expired), take(&mut expired)), (Some(1), None));
        expired.add(call(1), 3, at(5));
        expired.forget_until(at(4));
        assert_eq!((of(&expired, 1), of(&expired, 2)), (vec![3], vec![]));
        expired.forget_until(at(5));
        assert!(of(&expired, 1).is_empty());
        assert!(expired.order.is_empty() && expired.calls.is_empty());
    }

    #[test]
    fn several_of_a_call_id_are_told_apart() {
        let mut expired = Remembered::default();
        (1..4).for_each(|number| expired.add(call(1), number, at(number.into())));
        assert_eq!(expired.take(&call(1), |number| *number == 2), Some(2));
        assert_eq!(of(&expired, 1), [1, 3]);
        expired.forget_until(at(1));
        assert_eq!(of(&expired, 1), [3]);
    }

    #[test]
    fn the_oldest_go_first() {
        let mut expired = Remembered::default();
        (0..=MOST).for_each(|number| expired.add(call(number), 0, at(0)));
        assert!(of(&expired, 0).is_empty() && !of(&expired, 1).is_empty());
        assert_eq!(expired.calls.len(), MOST);
    }
}
