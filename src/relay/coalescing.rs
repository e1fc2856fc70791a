//! When a worker rests, so that one wake-up serves many packets: they coalesce.
//!
//! A thread that is woken by each packet spends more on waking than on relaying. A busy worker therefore lets
//! packets gather for half a millisecond, which no ear and no jitter buffer notices. One with little to do never
//! rests: the first packets of a call and the requests of a quiet relay are served at once.

use std::time::Duration;

use crate::moment::Moment;

/// How long packets gather; the kernel's timer slack adds some 50 us.
pub(super) const REST: Duration = Duration::from_micros(500);

/// The rate is that of the last stretch of this length, in which every phone sends once.
const WINDOW: Duration = Duration::from_millis(20);

/// Sockets read in a window from which on resting pays: four in each rest. A timer costs as much as two or three
/// wake-ups by packets.
const BUSY_FROM: u32 = 160;

/// A rest that would leave more than this waiting is too long.
const MOST_WAITING: usize = 64;

/// Follows the rate of one worker.
#[derive(Debug, Default)]
pub(super) struct Coalescing {
    /// Start of the window, on the monotonic clock.
    since: Moment,
    /// Sockets read in it.
    count: u32,
    /// What the window before it has shown.
    is_busy: bool,
}

impl Coalescing {
    /// Whether to rest after a round that began at `now` and read so many sockets.
    pub(super) fn rests(&mut self, read: usize, now: Moment) -> bool {
        self.count = self
            .count
            .saturating_add(u32::try_from(read).unwrap_or(u32::MAX));
        let age = now.since(self.since);
        if age >= WINDOW {
            // A round may come long after the window has ended: after silence nobody is busy.
            self.is_busy = self.count >= BUSY_FROM && age < 2 * WINDOW;
            self.since = now;
            self.count = 0;
        }
        // Nothing to read: it waits in epoll, which costs nothing. Much to read: there is no wake-up to save.
        self.is_busy && (1..=MOST_WAITING).contains(&read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds that read so many sockets each, so far apart, for so long; how many of them were followed by a rest.
    fn rests(
        worker: &mut Coalescing,
        start: Moment,
        length: Duration,
        step: Duration,
        read: usize,
    ) -> u32 {
        let rounds = length.as_micros() / step.as_micros();
        let moments = (0..rounds as u32).map(|round| start + step * round);
        moments.map(|now| u32::from(worker.rests(read, now))).sum()
    }

    const START: Moment = Moment::after_start(Duration::from_secs(1000));
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_quiet_worker_never_rests() {
        // 60 calls, both ways: 6000 packets a second.
        let step = SECOND / 6000;
        let mut worker = Coalescing::default();
        assert_eq!(rests(&mut worker, START, SECOND, step, 1), 0);
    }

    #[test]
    fn a_busy_worker_rests_from_the_second_window_on() {
        let step = Duration::from_micros(50);
        let mut worker = Coalescing::default();
        assert_eq!(rests(&mut worker, START, WINDOW, step, 1), 0);
        let later = START + WINDOW;
        assert_eq!(rests(&mut worker, later, WINDOW, step, 1), 400);
        // Resting itself makes rounds fewer and longer.
        let later = later + WINDOW;
        assert_eq!(rests(&mut worker, later, SECOND, REST, 10), 2000);
    }

    #[test]
    fn the_first_packet_after_silence_finds_a_worker_awake() {
        let mut worker = Coalescing::default();
        assert_ne!(rests(&mut worker, START, SECOND, REST, 10), 0);
        assert!(!worker.rests(1, START + 2 * SECOND));
    }

    #[test]
    fn what_is_no_packet_is_not_waited_for() {
        let mut worker = Coalescing::default();
        assert_ne!(rests(&mut worker, START, SECOND, REST, 10), 0);
        assert!(!worker.rests(0, START + SECOND), "a timer or a request");
    }

    #[test]
    fn a_worker_with_too_much_to_do_never_rests() {
        let mut worker = Coalescing::default();
        assert_eq!(rests(&mut worker, START, SECOND, REST, MOST_WAITING + 1), 0);
    }
}
