//! What one relay can have and say: a relay that goes beyond it is cut off (docs/protocol.md, R4 to R6). Pure: the time
//! is passed in.

use std::fmt;
use std::time::Duration;

use crate::moment::Moment;
use crate::proto::{MAX_ID, Visible};

/// Bytes of a line that no longer one is known for.
pub(super) const LINE: usize = 8 * 1024;

/// Bytes of a session's statistics: with a thousand streams, which is what a relay of ours has in one at most.
pub(super) const STATISTICS: usize = 4 << 20;

/// Bytes of a summary.
pub(super) const SUMMARY: usize = 64 * 1024;

/// Records of sessions that are not known, of one address: so many at once, and as many an hour. After an outage a relay
/// tells at once what it has kept.
pub(super) const RECORDS: usize = 20_000;

/// So many beyond these are left out, to be told again, before their relay is cut off.
const LEFT_OUT: usize = 100_000;

/// Bytes of a record that is not known count as one more.
const RECORD: usize = 4 * 1024;

/// Lines that say nothing new, of one link: so many at once, and so many a second.
const IDLE: (usize, u32) = (20_000, 100);

/// A limit, as metrics call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Bytes of a line, or of a session in a list.
    Line,
    /// Sessions in a list.
    Sessions,
    /// Bytes of a Call-ID, a tag or another name.
    Name,
    /// Ends of sessions that are not known.
    Records,
    /// Lines that say nothing new.
    Idle,
}

impl Limit {
    pub const ALL: [(Limit, &str); 5] = [
        (Limit::Line, "line"),
        (Limit::Sessions, "sessions"),
        (Limit::Name, "name"),
        (Limit::Records, "records"),
        (Limit::Idle, "idle"),
    ];
}

/// A relay has gone beyond a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excess {
    pub limit: Limit,
    /// In which: a kind of line, a key.
    pub what: String,
    pub read: usize,
    pub allowed: usize,
}

impl Excess {
    pub fn new(limit: Limit, what: impl Into<String>, read: usize, allowed: usize) -> Excess {
        let what = what.into();
        Excess {
            limit,
            what,
            read,
            allowed,
        }
    }

    /// Of a line, as far as it was read.
    pub fn line(what: &str, read: usize, allowed: usize) -> Excess {
        Excess::new(Limit::Line, what, read, allowed)
    }

    /// Of a line that begins so.
    pub fn unknown(begun: &[u8]) -> Excess {
        let shown = begun.get(..32).unwrap_or(begun);
        let what = format!("a line that begins with \"{}\"", Visible(shown));
        Excess::line(&what, begun.len(), LINE)
    }
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Excess {
            what,
            read,
            allowed,
            ..
        } = self;
        let unit = match self.limit {
            Limit::Line | Limit::Name => "bytes",
            Limit::Sessions => "sessions",
            Limit::Records => "records",
            Limit::Idle => "lines",
        };
        write!(f, "{what}: {read} {unit} read, {allowed} are allowed")
    }
}

/// A name that a relay tells.
///
/// # Errors
/// It is longer than any that came from the proxy: relays write U+FFFD for a byte that is not UTF-8.
pub(super) fn name(key: &str, told: Option<&str>) -> Result<(), Excess> {
    let Some(told) = told.filter(|told| told.len() > MAX_ID) else {
        return Ok(());
    };
    let bytes = |c: char| match c {
        char::REPLACEMENT_CHARACTER => 1,
        c => c.len_utf8(),
    };
    match told.chars().map(bytes).sum::<usize>() {
        0..=MAX_ID => Ok(()),
        length => Err(Excess::new(Limit::Name, key, length, MAX_ID)),
    }
}

/// So much at once, and then no more than comes back with time.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    most: usize,
    /// In which it fills once.
    period: Duration,
    /// What is left, as the time in which it fills so far.
    left: Duration,
    since: Moment,
}

impl Bucket {
    pub(super) fn new(most: usize, period: Duration, now: Moment) -> Bucket {
        Bucket {
            most,
            period,
            left: period,
            since: now,
        }
    }

    /// What a link may say without saying anything.
    pub(super) fn idle(now: Moment) -> Bucket {
        Bucket::new(IDLE.0, Duration::from_secs(1) * IDLE.0 as u32 / IDLE.1, now)
    }

    /// Takes so much. False where less is left.
    pub(super) fn take(&mut self, amount: usize, now: Moment) -> bool {
        let passed = now.since(self.since);
        self.since = self.since.max(now);
        self.left = (self.left + passed).min(self.period);
        let nanos = self.period.as_nanos() * amount as u128 / self.most as u128;
        let price = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let left = self.left.checked_sub(price);
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }

    /// What it holds when it is full.
    pub(super) fn most(&self) -> usize {
        self.most
    }
}

/// What relays of one address may tell of sessions that are not known.
#[derive(Clone, Debug)]
pub(super) struct Records {
    taken: Bucket,
    left_out: Bucket,
}

impl Records {
    pub(super) fn new(now: Moment) -> Records {
        let hour = Duration::from_secs(3600);
        Records {
            taken: Bucket::new(RECORDS, hour, now),
            left_out: Bucket::new(LEFT_OUT, hour, now),
        }
    }

    /// One of so many bytes has come. False where it is to be left out.
    ///
    /// # Errors
    /// No relay has so many.
    pub(super) fn take(&mut self, bytes: usize, now: Moment) -> Result<bool, Excess> {
        if self.taken.take(1 + bytes / RECORD, now) {
            return Ok(true);
        }
        if self.left_out.take(1, now) {
            Ok(false)
        } else {
            let allowed = self.taken.most();
            let read = allowed + self.left_out.most() + 1;
            let what = "ends of sessions that are not known, in an hour";
            Err(Excess::new(Limit::Records, what, read, allowed))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn at(seconds: u64) -> Moment {
        Moment::after_start(Duration::from_secs(seconds))
    }

    #[test]
    fn r5_a_name_has_8_kib_at_most() {
        let long = |count: usize, text: &str| text.repeat(count);
        assert_eq!(name("call_id", Some(&long(MAX_ID, "x"))), Ok(()));
        assert_eq!(name("call_id", Some(&long(MAX_ID, "\u{fffd}"))), Ok(()));
        assert_eq!(name("call_id", None), Ok(()));
        for (told, read) in [(long(MAX_ID + 1, "x"), 8193), (long(MAX_ID, "é"), 16_384)] {
            let excess = name("call_id", Some(&told)).unwrap_err();
            let text = format!("call_id: {read} bytes read, 8192 are allowed");
            assert_eq!(excess.to_string(), text);
        }
    }

    #[test]
    fn a_bucket_fills_again() {
        let mut bucket = Bucket::new(10, secs(100), at(0));
        assert!(bucket.take(10, at(0)) && !bucket.take(1, at(9)));
        assert!(bucket.take(1, at(10)) && !bucket.take(1, at(10)));
        assert!(bucket.take(10, at(1000)) && !bucket.take(1, at(1000)));
    }

    #[test]
    fn r4_several_thousand_records_are_taken_and_invented_ones_without_end_are_not() {
        let mut records = Records::new(at(0));
        let take = |records: &mut Records, count: usize| {
            let taken = (0..count).map(|_| records.take(700, at(1)));
            taken.collect::<Result<Vec<bool>, Excess>>()
        };
        assert!(take(&mut records, RECORDS).unwrap().iter().all(|is| *is));
        assert!(take(&mut records, LEFT_OUT).unwrap().iter().all(|is| !is));
        let excess = take(&mut records, 1).unwrap_err();
        assert_eq!(
            excess.to_string(),
            "ends of sessions that are not known, in an hour: 120001 records read, 20000 are allowed"
        );
        assert_eq!(records.take(700, at(1 + 3600)), Ok(true));
        // What is large counts for what it takes.
        let mut records = Records::new(at(0));
        let large = (0..).take_while(|_| records.take(STATISTICS, at(0)) == Ok(true));
        assert_eq!(large.count(), 19);
    }
}
