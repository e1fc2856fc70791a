//! Sessions of which something is remembered for a while: those that ended without the SIP proxy, so that its `remove`,
//! which comes later, is answered as it expects (docs/protocol.md section 2); those that it removed and that were not known.

use std::collections::{HashMap, VecDeque};

use crate::moment::Moment;
use crate::proto::CallId;

/// So many are kept, and so many bytes of names; beyond this the oldest are forgotten.
pub(super) const MAX_CALLS: usize = 20_000;
const MAX_BYTES: usize = 16 << 20;

/// A part of that for what relays alone tell.
const RELAYS_PART: usize = 8;

/// What one takes beside its name, bytes, about.
const CALL_OVERHEAD: usize = 200;

/// Whose word it is: a relay that tells of calls which nobody knows makes no other one's be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Own,
    Relays,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Remembered<T> {
    /// Each with a number of its own: a Call-ID may have several.
    calls: HashMap<CallId, Vec<(u64, T)>>,
    /// By whose word it is.
    orders: [Order; 2],
    ended: u64,
}

/// When each ended, oldest first, with its bytes. Those that were taken are no more among the calls.
#[derive(Debug, Default)]
struct Order {
    queue: VecDeque<(Moment, CallId, u64, usize)>,
    bytes: usize,
}

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        Remembered {
            calls: HashMap::new(),
            orders: Default::default(),
            ended: 0,
        }
    }
}

impl<T> Remembered<T> {
    /// A session has ended; its tags take so many bytes.
    pub(super) fn add(&mut self, call_id: CallId, what: T, tags: usize, word: Word, now: Moment) {
        self.ended += 1;
        let ended = (self.ended, what);
        let size = call_id.0.as_bytes().len() + tags + CALL_OVERHEAD;
        self.calls.entry(call_id.clone()).or_default().push(ended);
        let order = &mut self.orders[word as usize];
        order.queue.push_back((now, call_id, self.ended, size));
        order.bytes += size;
        while self.is_over(word) {
            self.forget_first(word);
        }
    }

    fn is_over(&self, word: Word) -> bool {
        let order = &self.orders[word as usize];
        let part = match word {
            Word::Own => 1,
            Word::Relays => RELAYS_PART,
        };
        order.queue.len() > MAX_CALLS / part || order.bytes > MAX_BYTES / part
    }

    /// Those of a Call-ID.
    pub(super) fn of(&self, call_id: &CallId) -> impl Iterator<Item = &T> {
        let found = self.calls.get(call_id).into_iter().flatten();
        found.map(|(_, what)| what)
    }

    /// The proxy has removed it, or there is a new session of this name.
    pub(super) fn take(&mut self, call_id: &CallId, is_it: impl Fn(&T) -> bool) -> Option<T> {
        let found = self.calls.get_mut(call_id)?;
        let at = found.iter().rposition(|(_, what)| is_it(what))?;
        let (_, what) = found.remove(at);
        if found.is_empty() {
            self.calls.remove(call_id);
        }
        Some(what)
    }

    /// Forgets those that ended at this time or before.
    pub(super) fn forget_until(&mut self, time: Moment) {
        for word in [Word::Own, Word::Relays] {
            let first = |all: &Self| all.orders[word as usize].queue.front().map(|first| first.0);
            while first(self).is_some_and(|ended| ended <= time) {
                self.forget_first(word);
            }
        }
    }

    fn forget_first(&mut self, word: Word) {
        let order = &mut self.orders[word as usize];
        let Some((_, call_id, number, size)) = order.queue.pop_front() else {
            return;
        };
        order.bytes -= size;
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
    use std::time::Duration;

    fn call(number: usize) -> CallId {
        CallId(number.to_string().as_str().into())
    }

    fn at(seconds: u64) -> Moment {
        Moment::after_start(Duration::from_secs(seconds))
    }

    fn add(expired: &mut Remembered<u32>, number: usize, what: u32, now: Moment) {
        expired.add(call(number), what, 0, Word::Own, now);
    }

    fn of(expired: &Remembered<u32>, number: usize) -> Vec<u32> {
        expired.of(&call(number)).copied().collect()
    }

    #[test]
    fn a_call_that_ended_again_is_kept_from_then_on() {
        let mut expired = Remembered::default();
        add(&mut expired, 1, 1, at(0));
        add(&mut expired, 2, 2, at(0));
        let take = |expired: &mut Remembered<u32>| expired.take(&call(1), |_| true);
        assert_eq!((take(&mut expired), take(&mut expired)), (Some(1), None));
        add(&mut expired, 1, 3, at(5));
        expired.forget_until(at(4));
        assert_eq!((of(&expired, 1), of(&expired, 2)), (vec![3], vec![]));
        expired.forget_until(at(5));
        assert!(of(&expired, 1).is_empty());
        assert!(expired.orders[0].queue.is_empty() && expired.calls.is_empty());
        assert_eq!(expired.orders[0].bytes, 0);
    }

    #[test]
    fn several_of_a_call_id_are_told_apart() {
        let mut expired = Remembered::default();
        (1..4).for_each(|number| add(&mut expired, 1, number, at(number.into())));
        assert_eq!(expired.take(&call(1), |number| *number == 2), Some(2));
        assert_eq!(of(&expired, 1), [1, 3]);
        expired.forget_until(at(1));
        assert_eq!(of(&expired, 1), [3]);
    }

    #[test]
    fn the_oldest_go_first() {
        let mut expired = Remembered::default();
        (0..=MAX_CALLS).for_each(|number| add(&mut expired, number, 0, at(0)));
        assert!(of(&expired, 0).is_empty() && !of(&expired, 1).is_empty());
        assert_eq!(expired.calls.len(), MAX_CALLS);
    }

    #[test]
    fn what_relays_invent_is_bounded_and_pushes_out_no_other() {
        let mut expired = Remembered::default();
        add(&mut expired, 1, 1, at(0));
        let long = CallId("x".repeat(8192).as_str().into());
        for number in 0..5000 {
            expired.add(long.clone(), number, 16_384, Word::Relays, at(1));
        }
        assert_eq!(of(&expired, 1), [1]);
        let kept = expired.of(&long).count();
        assert!((80..90).contains(&kept), "{kept}");
    }
}
