//! The RTP/RTCP port pairs of a relay: which is free, which rests, which is bad (C9). Binds nothing.

use std::collections::VecDeque;
use std::time::Duration;

use crate::moment::Moment;

/// A freed pair rests so long before it is used again, where there are enough: a stray stream of an ended
/// call must not reach a new one.
pub const PAIR_REST: Duration = Duration::from_secs(60);

/// Even RTP ports; each stands for itself and the RTCP port above it.
#[derive(Clone, Debug)]
pub struct PortPool {
    ready: Vec<u16>,
    /// Freed pairs and when, the longest-rested first.
    resting: VecDeque<(Moment, u16)>,
    /// Pairs that could not be bound: some other program has them.
    bad: Vec<u16>,
}

/// The pairs that are not in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    pub ready: usize,
    /// Freed less than [`PAIR_REST`] ago.
    pub resting: usize,
    pub bad: usize,
}

impl PortPool {
    /// All pairs from `start` up to `end`, which is not included; both even.
    pub fn new(start: u16, end: u32) -> Self {
        let ready = (u32::from(start)..end).step_by(2);
        PortPool {
            ready: ready.filter_map(|port| port.try_into().ok()).collect(),
            resting: VecDeque::new(),
            bad: Vec::new(),
        }
    }

    /// A pair to try; none when all are in use. `random` picks it: any value, from a good source.
    pub fn take(&mut self, random: u64, now: Moment) -> Option<u16> {
        self.wake(now);
        self.retry_bad();
        if self.ready.is_empty() {
            return self.resting.pop_front().map(|(_, port)| port);
        }
        let index = random % self.ready.len() as u64;
        Some(self.ready.swap_remove(index as usize))
    }

    /// Takes this very pair, which a session that is taken over has had. False where it is in use or none of these.
    pub fn claim(&mut self, port: u16) -> bool {
        let place = |all: &[u16]| all.iter().position(|other| *other == port);
        if let Some(place) = place(&self.ready) {
            self.ready.swap_remove(place);
        } else if let Some(place) = self.resting.iter().position(|(_, other)| *other == port) {
            self.resting.remove(place);
        } else if let Some(place) = place(&self.bad) {
            self.bad.swap_remove(place);
        } else {
            return false;
        }
        true
    }

    /// A pair that was claimed is not used after all.
    pub fn put_back(&mut self, port: u16) {
        self.ready.push(port);
    }

    /// A stream is over: the pair rests.
    pub fn give_back(&mut self, port: u16, now: Moment) {
        self.resting.push_back((now, port));
    }

    /// The pair could not be bound: put aside.
    pub fn put_aside(&mut self, port: u16) {
        self.bad.push(port);
    }

    /// Pairs that are not in use and not put aside.
    pub fn free(&self) -> usize {
        self.ready.len() + self.resting.len()
    }

    /// Pairs by what they are, without a change to any.
    pub fn census(&self, now: Moment) -> Census {
        let has_rested = |(since, _): &(Moment, u16)| now.since(*since) >= PAIR_REST;
        let rested = self.resting.partition_point(has_rested);
        Census {
            ready: self.ready.len() + rested,
            resting: self.resting.len() - rested,
            bad: self.bad.len(),
        }
    }

    fn wake(&mut self, now: Moment) {
        while let Some(&(since, port)) = self.resting.front() {
            if now.since(since) < PAIR_REST {
                break;
            }
            self.resting.pop_front();
            self.ready.push(port);
        }
    }

    /// What was in another program's hands may be free by now.
    fn retry_bad(&mut self) {
        if self.bad.len() > self.free() {
            self.ready.append(&mut self.bad);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const T: Moment = Moment::after_start(Duration::from_secs(1000));

    #[test]
    fn c9_every_pair_once_then_none() {
        let mut pool = PortPool::new(40000, 40010);
        let taken: HashSet<u16> = (0..5).filter_map(|i| pool.take(i * 77, T)).collect();
        assert_eq!(taken, HashSet::from([40000, 40002, 40004, 40006, 40008]));
        assert_eq!(pool.take(0, T), None);
    }

    #[test]
    fn c9_the_whole_range_can_be_used() {
        let mut pool = PortPool::new(65534, 65536);
        assert_eq!(pool.take(3, T), Some(65534));
        assert_eq!(pool.take(3, T), None);
    }

    #[test]
    fn c9_the_order_follows_the_random_numbers() {
        let order = |seed: u64| -> Vec<u16> {
            let mut pool = PortPool::new(40000, 40200);
            (0..20)
                .filter_map(|i| pool.take(seed.wrapping_mul(i + 1), T))
                .collect()
        };
        assert_ne!(order(0x9e37_79b9_7f4a_7c15), order(0xc2b2_ae3d_27d4_eb4f));
    }

    #[test]
    fn c9_a_freed_pair_rests() {
        let mut pool = PortPool::new(40000, 40004);
        let first = pool.take(0, T).unwrap();
        pool.give_back(first, T);
        let second = pool.take(0, T + Duration::from_secs(1)).unwrap();
        assert_ne!(first, second);
        pool.give_back(second, T + Duration::from_secs(2));
        let third = pool.take(0, T + PAIR_REST).unwrap();
        assert_eq!(third, first, "rested");
        assert_eq!(
            pool.take(0, T + PAIR_REST),
            Some(second),
            "too few: the longest-rested one"
        );
    }

    #[test]
    fn a_pair_is_claimed_once_wherever_it_is() {
        let mut pool = PortPool::new(40000, 40006);
        assert!(!pool.claim(40006), "not of this range");
        for port in [40000, 40002] {
            assert!(pool.claim(port) && !pool.claim(port));
        }
        pool.give_back(40000, T);
        pool.put_aside(40002);
        assert!(pool.claim(40000) && pool.claim(40002));
        assert_eq!(pool.take(0, T), Some(40004));
        assert!(!pool.claim(40004), "in use");
    }

    #[test]
    fn pairs_are_counted_by_what_they_are() {
        let mut pool = PortPool::new(40000, 40010);
        let taken: Vec<u16> = (0..4).filter_map(|_| pool.take(0, T)).collect();
        pool.give_back(taken[0], T);
        pool.give_back(taken[1], T + PAIR_REST);
        pool.put_aside(taken[2]);
        let census = |ready, resting, bad| Census {
            ready,
            resting,
            bad,
        };
        assert_eq!(
            pool.census(T + (PAIR_REST - Duration::from_millis(1))),
            census(1, 2, 1)
        );
        assert_eq!(pool.census(T + PAIR_REST), census(2, 1, 1));
        assert_eq!(pool.census(T + 2 * PAIR_REST), census(3, 0, 1));
    }

    #[test]
    fn c9_bad_pairs_are_retried_when_they_outnumber_the_free_ones() {
        let mut pool = PortPool::new(40000, 40004);
        for _ in 0..2 {
            let port = pool.take(0, T).unwrap();
            pool.put_aside(port);
        }
        assert!(pool.take(0, T).is_some());
        assert!(pool.take(0, T).is_some());
        assert_eq!(pool.take(0, T), None);
    }
}
