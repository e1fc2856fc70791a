//! How many handshakes an origin may begin: each costs this host a signature, and a stranger only a message that it can
//! send again. Pure: the time is passed in.

use std::collections::HashMap;
use std::time::Duration;

use super::origin::Origin;
use crate::moment::Moment;

/// One in each interval, and so many at once after a rest.
#[derive(Clone, Copy)]
struct Rate {
    interval: Duration,
    burst: u32,
}

/// All origins together that have not proven anything. With an RSA key of 2048 bits that is a tenth of a processor.
const ALL: Rate = Rate {
    interval: Duration::from_millis(10),
    burst: 200,
};

/// What of that burst is left to origins that have not come lately: a flood from a few does not use it up.
const FOR_FRESH: u32 = 100;

/// One such origin.
const ORIGIN_RATE: Rate = Rate {
    interval: Duration::from_millis(500),
    burst: 20,
};

/// One that has proven who it is, for what fails: a handshake that succeeds counts for nothing.
const PROVEN_RATE: Rate = Rate {
    interval: Duration::from_millis(20),
    burst: 200,
};

/// Origins that are remembered, and for how long after they last came.
const ORIGINS: usize = 4096;
const LATELY: Duration = Duration::from_secs(60);

/// How often those are looked for that have not come lately, where there is no place for one more.
const SWEEP: Duration = Duration::from_secs(1);

/// When it is full again: all that a bucket has to know.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket(Moment);

impl Bucket {
    /// Takes one, where more than `kept` are left.
    fn take(&mut self, rate: Rate, kept: u32, now: Moment) -> bool {
        let full = self.0.max(now) + rate.interval;
        let is_there = full - now <= rate.interval * (rate.burst - kept);
        if is_there {
            self.0 = full;
        }
        is_there
    }

    fn put_back(&mut self, rate: Rate) {
        self.0 = self.0.saturating_sub(rate.interval);
    }
}

/// What is left.
#[derive(Debug, Default)]
pub(super) struct Budget {
    all: Bucket,
    each: HashMap<Origin, (Bucket, Moment)>,
    swept: Moment,
}

impl Budget {
    /// Takes one handshake of an origin, or returns false where none is left.
    pub(super) fn take(&mut self, origin: Origin, is_proven: bool, now: Moment) -> bool {
        let is_fresh = !self.each.contains_key(&origin);
        if is_fresh && !self.has_place(now) {
            return is_proven || self.all.take(ALL, FOR_FRESH, now);
        }
        let (own, last) = self.each.entry(origin).or_default();
        *last = now;
        if is_proven {
            return own.take(PROVEN_RATE, 0, now);
        }
        if !own.take(ORIGIN_RATE, 0, now) {
            return false;
        }
        let kept = if is_fresh { 0 } else { FOR_FRESH };
        let is_there = self.all.take(ALL, kept, now);
        if !is_there {
            own.put_back(ORIGIN_RATE);
        }
        is_there
    }

    /// The handshake of an origin that is proven now has succeeded.
    pub(super) fn put_back(&mut self, origin: Origin) {
        if let Some((own, _)) = self.each.get_mut(&origin) {
            own.put_back(PROVEN_RATE);
        }
    }

    fn has_place(&mut self, now: Moment) -> bool {
        if self.each.len() >= ORIGINS && now >= self.swept + SWEEP {
            self.swept = now;
            self.each.retain(|_, (_, last)| now < *last + LATELY);
        }
        self.each.len() < ORIGINS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn origin(number: u32) -> Origin {
        Origin::of(Ipv4Addr::from(0x0a00_0000 + number).into())
    }

    /// How many of these succeed, one each `step`.
    fn taken(budget: &mut Budget, origins: &[u32], is_proven: bool, from: u64, to: u64) -> usize {
        let times = (from..to).map(|now| Moment::after_start(Duration::from_millis(now)));
        times
            .flat_map(|now| origins.iter().map(move |number| (now, *number)))
            .filter(|(now, number)| budget.take(origin(*number), is_proven, *now))
            .count()
    }

    #[test]
    fn one_origin_has_its_own_share() {
        let mut budget = Budget::default();
        // A thousand a second for ten seconds.
        assert_eq!(taken(&mut budget, &[1], false, 0, 10_000), 20 + 19);
        assert!(budget.take(
            origin(2),
            false,
            Moment::after_start(Duration::from_secs(10))
        ));
    }

    #[test]
    fn many_origins_have_one_share_together_and_a_new_one_its_place() {
        let mut budget = Budget::default();
        let flood: Vec<u32> = (1..=500).collect();
        let first = taken(&mut budget, &flood, false, 0, 1);
        assert_eq!(first, 200, "the burst");
        // They go on for three seconds, 500,000 a second.
        let rest = taken(&mut budget, &flood, false, 1, 3_000);
        assert!((180..=200).contains(&rest), "{rest}");
        for number in 1_000..1_090 {
            let now = Moment::after_start(Duration::from_secs(3));
            assert!(budget.take(origin(number), false, now), "{number}");
        }
    }

    #[test]
    fn what_succeeds_is_not_counted_and_what_fails_is() {
        let mut budget = Budget::default();
        for _ in 0..1_000 {
            assert!(budget.take(origin(1), true, Moment::after_start(Duration::from_secs(1))));
            budget.put_back(origin(1));
        }
        let failing = taken(&mut budget, &[1], true, 1_000, 2_000);
        assert_eq!(failing, 200 + 49);
    }

    #[test]
    fn a_million_origins_take_up_no_more_memory() {
        let mut budget = Budget::default();
        for number in 0..1_000_000 {
            let now = Moment::after_start(Duration::from_micros(u64::from(number)));
            budget.take(origin(number), false, now);
        }
        assert_eq!(budget.each.len(), ORIGINS);
        let later = Moment::after_start(Duration::from_secs(62));
        assert!(budget.take(origin(2_000_000), false, later));
        assert_eq!(budget.each.len(), 1, "those of before are forgotten");
    }
}
