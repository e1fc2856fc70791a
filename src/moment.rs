//! Times as types, so that the compiler tells a moment from a length, and one clock from the other. A length is a
//! [`Duration`].
//!
//! The shell reads the clocks (`sys/clock.rs`); the core is given what they said.

use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A moment on the host's monotonic clock, which began with its boot: it never steps. All processes of one boot agree on
/// it, so that one may be saved for the next process; to another host, and after another boot, it means nothing.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Moment(#[serde(with = "micros")] Duration);

impl Moment {
    /// The moment at which the host started: long ago.
    pub const START: Moment = Moment(Duration::ZERO);
    /// Later than every other: what never comes.
    pub const NEVER: Moment = Moment(Duration::MAX);

    /// The moment this long after the start.
    pub const fn after_start(elapsed: Duration) -> Moment {
        Moment(elapsed)
    }

    /// The time from the start until this moment.
    pub const fn since_start(self) -> Duration {
        self.0
    }

    /// The time from an earlier moment until this one; zero where that one is later.
    pub const fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment this long after; [`Moment::NEVER`] where there is none so late.
    pub const fn saturating_add(self, length: Duration) -> Moment {
        Moment(self.0.saturating_add(length))
    }

    /// The moment this long before; none where that is before the start.
    pub fn checked_sub(self, length: Duration) -> Option<Moment> {
        self.0.checked_sub(length).map(Moment)
    }

    /// The moment this long before; the start where that is earlier.
    pub const fn saturating_sub(self, length: Duration) -> Moment {
        Moment(self.0.saturating_sub(length))
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, length: Duration) -> Moment {
        Moment(self.0 + length)
    }
}

impl AddAssign<Duration> for Moment {
    fn add_assign(&mut self, length: Duration) {
        self.0 += length;
    }
}

/// The time between two moments. Panics where the second is later: see [`Moment::since`].
impl Sub for Moment {
    type Output = Duration;

    fn sub(self, earlier: Moment) -> Duration {
        self.0 - earlier.0
    }
}

/// A moment on the calendar, since 1970-01-01 UTC: what people, files and databases read. It steps when the host's clock is
/// set.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct UnixTime(#[serde(with = "micros")] Duration);

impl UnixTime {
    /// 1970-01-01 00:00:00 UTC.
    pub const EPOCH: UnixTime = UnixTime(Duration::ZERO);

    /// The time this long after 1970-01-01 UTC.
    pub const fn since_epoch(elapsed: Duration) -> UnixTime {
        UnixTime(elapsed)
    }

    /// The time this many seconds after 1970-01-01 UTC.
    pub const fn from_secs(seconds: u64) -> UnixTime {
        UnixTime(Duration::from_secs(seconds))
    }

    /// The time elapsed since 1970-01-01 UTC.
    pub const fn elapsed(self) -> Duration {
        self.0
    }

    /// Whole seconds since 1970-01-01 UTC.
    pub const fn as_secs(self) -> u64 {
        self.0.as_secs()
    }

    /// The time from an earlier one until this one; zero where that one is later, as after a step of the clock.
    pub const fn since(self, earlier: UnixTime) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The time this long before; the epoch where that is earlier.
    pub const fn saturating_sub(self, length: Duration) -> UnixTime {
        UnixTime(self.0.saturating_sub(length))
    }
}

impl Add<Duration> for UnixTime {
    type Output = UnixTime;

    fn add(self, length: Duration) -> UnixTime {
        UnixTime(self.0.saturating_add(length))
    }
}

/// Both clocks, read together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    /// For all deadlines.
    pub mono: Moment,
    /// For what people and databases read.
    pub unix: UnixTime,
}

impl Now {
    /// The calendar time of a moment, as the clocks stand to each other now.
    pub fn calendar(&self, moment: Moment) -> UnixTime {
        if moment <= self.mono {
            self.unix.saturating_sub(self.mono.since(moment))
        } else {
            self.unix + moment.since(self.mono)
        }
    }

    /// The moment of a calendar time, as the clocks stand to each other now; the start where it is earlier. For what was
    /// saved by a process of another boot.
    pub fn moment(&self, time: UnixTime) -> Moment {
        if time <= self.unix {
            self.mono.saturating_sub(self.unix.since(time))
        } else {
            self.mono.saturating_add(time.since(self.unix))
        }
    }
}

/// A length of time as it is saved: whole microseconds. To be used by `#[serde(with = "micros")]`.
pub mod micros {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(length: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        let micros = u64::try_from(length.as_micros()).unwrap_or(u64::MAX);
        serializer.serialize_u64(micros)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn now() -> Now {
        Now {
            mono: Moment::after_start(10 * SECOND),
            unix: UnixTime::from_secs(1_000),
        }
    }

    #[test]
    fn a_length_between_moments_is_never_negative() {
        let (early, late) = (Moment::START + SECOND, Moment::START + 3 * SECOND);
        assert_eq!(
            (late.since(early), early.since(late)),
            (2 * SECOND, Duration::ZERO)
        );
        assert_eq!(late - early, 2 * SECOND);
        assert_eq!(early.saturating_sub(2 * SECOND), Moment::START);
        assert_eq!(late.saturating_add(Duration::MAX), Moment::NEVER);
    }

    #[test]
    fn what_was_saved_is_rebased_to_the_clock_of_another_process() {
        for elapsed in [0, 4, 10, 17] {
            let moment = Moment::after_start(elapsed * SECOND);
            let saved = now().calendar(moment);
            assert_eq!(saved, UnixTime::from_secs(990 + u64::from(elapsed)));
            assert_eq!(now().moment(saved), moment);
        }
        assert_eq!(now().moment(UnixTime::from_secs(7)), Moment::START);
    }
}
