//! How long to wait before the next attempt to reach a dispatcher: soon at first, since one that is started anew is back
//! within a second or two, and ever later while it stays away. By chance somewhat longer than another relay: many that lost
//! the same dispatcher do not all come back at the same moment.

use std::time::Duration;

/// The first ones, milliseconds; after these each is twice the one before.
const FIRST: [u32; 3] = [200, 500, 1000];

/// A link that was up for so long was well: what comes after it is a new trouble.
pub(super) const WELL: Duration = Duration::from_secs(10);

/// The attempts of one link since it was last well.
#[derive(Debug)]
pub(super) struct Backoff {
    longest: Duration,
    attempts: u32,
}

impl Backoff {
    /// Never longer than this.
    pub(super) fn new(longest: Duration) -> Backoff {
        let attempts = 0;
        Backoff { longest, attempts }
    }

    /// How long to wait now: what it is this time and up to a quarter more, by what `random` is; of the longest time up to
    /// a quarter less.
    pub(super) fn next(&mut self, random: u128) -> Duration {
        let index = self.attempts as usize;
        let base = FIRST.get(index).map_or_else(
            || {
                let doubled = (index - (FIRST.len() - 1)).min(20);
                Duration::from_secs(1 << doubled)
            },
            |milliseconds| Duration::from_millis((*milliseconds).into()),
        );
        let part = u32::try_from(random % 257).unwrap_or(0);
        if base + base / 4 > self.longest {
            return self.longest - self.longest * part / 1024;
        }
        self.attempts += 1;
        base + base * part / 1024
    }

    /// A connection has ended that was up for this long.
    pub(super) fn was_up(&mut self, how_long: Duration) {
        if how_long >= WELL {
            self.attempts = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delays(backoff: &mut Backoff, random: u128, count: usize) -> Vec<u128> {
        (0..count)
            .map(|_| backoff.next(random).as_millis())
            .collect()
    }

    #[test]
    fn l4_ever_later_and_never_later_than_the_longest() {
        let mut backoff = Backoff::new(Duration::from_secs(10));
        let all = delays(&mut backoff, 0, 8);
        assert_eq!(all, [200, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
        let mut short = Backoff::new(Duration::from_millis(700));
        assert_eq!(delays(&mut short, 0, 4), [200, 500, 700, 700]);
        assert_eq!(delays(&mut short, 256, 2), [525, 525]);
        let mut day = Backoff::new(Duration::from_secs(86_400));
        assert_eq!(delays(&mut day, 0, 100)[99], 86_400_000);
    }

    /// The dispatcher that comes back after this much of the trouble is reached with this attempt at the latest.
    #[test]
    fn l4_a_restart_of_two_seconds_costs_less_than_two_more() {
        let mut backoff = Backoff::new(Duration::from_secs(10));
        let soon = delays(&mut backoff, 0, 7);
        let mut backoff = Backoff::new(Duration::from_secs(10));
        let late = delays(&mut backoff, 256, 7);
        let reached_at = |all: &[u128], back: u128| {
            let times = all.iter().scan(0, |at, delay| {
                *at += delay;
                Some(*at)
            });
            times.into_iter().find(|at| *at >= back).unwrap() - back
        };
        // 1.46 s is what the init script's restart takes.
        let times = [100, 650, 1460, 2000];
        assert_eq!(
            times.map(|back| reached_at(&soon, back)),
            [100, 50, 240, 1700]
        );
        assert_eq!(
            times.map(|back| reached_at(&late, back)),
            [150, 225, 665, 125]
        );
    }

    #[test]
    fn l4_relays_do_not_come_all_at_once() {
        let at = |random| {
            let mut backoff = Backoff::new(Duration::from_secs(10));
            delays(&mut backoff, random, 7).into_iter().sum::<u128>()
        };
        let mut all: Vec<u128> = (0..257).map(at).collect();
        assert_eq!((all[0], all[256]), (25_700, 15_700 / 4 * 5 + 7_500));
        all.dedup();
        assert_eq!(all.len(), 257, "each at a time of its own");
    }

    #[test]
    fn l4_after_a_link_that_was_well_it_begins_anew() {
        let mut backoff = Backoff::new(Duration::from_secs(10));
        assert_eq!(delays(&mut backoff, 0, 3), [200, 500, 1000]);
        // A dispatcher that lets it in and closes, again and again.
        backoff.was_up(WELL - Duration::from_millis(1));
        assert_eq!(delays(&mut backoff, 0, 2), [2000, 4000]);
        backoff.was_up(WELL);
        assert_eq!(delays(&mut backoff, 0, 2), [200, 500]);
    }
}
