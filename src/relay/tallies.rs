//! Whose each port pair is, and what was counted there in user space, in a file that outlives the process: a crash loses no
//! count, and a pair that was closed since the state of its session was saved is not taken for the session's.
//!
//! The first word is when a worker was last at work, in milliseconds of the host's monotonic clock. From the ninth on there is a
//! slot of eight words, one cache line, for each pair of the range, by its place in it:
//!
//! ```text
//!  0 1  the session that has the pair, or had it last; zero: none
//!  2 3  packets, bytes     two copies, of which the mark names the one that is whole
//!  4 5  packets, bytes
//!  6    the last media, in milliseconds of the host's monotonic clock, plus one; zero: none
//!  7    the last RTCP, the same, times four; plus 2 where the pair is closed; plus 1 where the second copy is the whole one
//! ```
//!
//! Only the worker that has a pair writes its slot.

use std::io;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use crate::counters::Counters;
use crate::moment::Moment;
use crate::proto::SessionId;
use crate::session::Tally;
use crate::sys::mapped::MappedWords;

/// Words of a slot.
const SLOT: usize = 8;

/// In the last word of a slot.
const SECOND_COPY: u64 = 1;
const CLOSED: u64 = 2;
const TIME_SHIFT: u32 = 2;

/// See the module.
#[derive(Debug)]
pub(super) struct Tallies {
    first_port: u16,
    words: MappedWords,
    /// A process before this one has left it.
    is_old: bool,
    /// When that one was last at work.
    last_alive: Option<Moment>,
}

impl Tallies {
    /// Opens the file for the pairs of a range, from its first port up to its end.
    ///
    /// # Errors
    /// As of [`MappedWords::open`].
    pub(super) fn open(path: &Path, (start, end): (u16, u32)) -> io::Result<Tallies> {
        let is_old = path.exists();
        let pairs = end.saturating_sub(u32::from(start)) as usize / 2;
        let words = MappedWords::open(path, (1 + pairs) * SLOT)?;
        let last_alive = words.words().first().map_or(0, |word| word.load(Relaxed));
        Ok(Tallies {
            first_port: start,
            words,
            is_old,
            last_alive: moment(last_alive),
        })
    }

    /// A worker is at work.
    pub(super) fn beat(&self, now: Moment) {
        let now = milliseconds(Some(now));
        if let Some(word) = self.words.words().first() {
            if word.load(Relaxed) != now {
                word.store(now, Relaxed);
            }
        }
    }

    /// When the process before this one was last at work.
    pub(super) fn last_alive(&self) -> Option<Moment> {
        self.last_alive
    }

    /// What was counted at a pair is this now, and the pair is this session's.
    pub(super) fn note(&self, port: u16, session: SessionId, tally: &Tally) {
        let Some(slot) = self.slot(port) else {
            return;
        };
        if owner(slot) != session.bits() {
            // Nobody's until all of it is the new one's.
            set_owner(slot, 0);
        }
        let mark = slot[7].load(Relaxed);
        let (copy, is_second) = if mark & SECOND_COPY == 0 {
            (4, SECOND_COPY)
        } else {
            (2, 0)
        };
        let Tally {
            user_space,
            last_media,
            last_rtcp,
        } = tally;
        slot[copy].store(user_space.packets, Relaxed);
        slot[copy + 1].store(user_space.bytes, Relaxed);
        slot[6].store(milliseconds(*last_media), Relaxed);
        let time = milliseconds(*last_rtcp) << TIME_SHIFT;
        slot[7].store(time | is_second, Release);
        if owner(slot) != session.bits() {
            set_owner(slot, session.bits());
        }
    }

    /// A pair is closed. What was counted there stays, for the report of its session.
    pub(super) fn close(&self, port: u16) {
        if let Some(slot) = self.slot(port) {
            let mark = slot[7].load(Relaxed);
            slot[7].store(mark | CLOSED, Release);
        }
    }

    /// Returns false if it is known that a pair was not this session's, or closed, when the process before this one ended.
    pub(super) fn was_open(&self, port: u16, session: SessionId) -> bool {
        let is_open = |slot: &[AtomicU64; SLOT]| {
            owner(slot) == session.bits() && slot[7].load(Acquire) & CLOSED == 0
        };
        !self.is_old || self.slot(port).is_none_or(is_open)
    }

    /// What was counted at a pair while it was this session's; none where it never was, or is another one's by now.
    pub(super) fn get(&self, port: u16, session: SessionId) -> Option<Tally> {
        let slot = self.slot(port)?;
        if owner(slot) != session.bits() {
            return None;
        }
        let mark = slot[7].load(Acquire);
        let copy = if mark & SECOND_COPY == 0 { 2 } else { 4 };
        Some(Tally {
            user_space: Counters {
                packets: slot[copy].load(Relaxed),
                bytes: slot[copy + 1].load(Relaxed),
            },
            last_media: moment(slot[6].load(Relaxed)),
            last_rtcp: moment(mark >> TIME_SHIFT),
        })
    }

    /// The slot of a pair, by its RTP port.
    fn slot(&self, port: u16) -> Option<&[AtomicU64; SLOT]> {
        let place = usize::from(port.checked_sub(self.first_port)? / 2);
        let slots = self.words.words().get((1 + place) * SLOT..)?;
        slots.first_chunk()
    }
}

fn owner(slot: &[AtomicU64; SLOT]) -> u128 {
    u128::from(slot[0].load(Acquire)) << 64 | u128::from(slot[1].load(Acquire))
}

fn set_owner(slot: &[AtomicU64; SLOT], bits: u128) {
    slot[0].store((bits >> 64) as u64, Release);
    slot[1].store(bits as u64, Release);
}

fn milliseconds(moment: Option<Moment>) -> u64 {
    moment.map_or(0, |moment| {
        u64::try_from(moment.since_start().as_millis() + 1).unwrap_or(u64::MAX)
    })
}

fn moment(milliseconds: u64) -> Option<Moment> {
    let elapsed = milliseconds.checked_sub(1)?;
    Some(Moment::after_start(Duration::from_millis(elapsed)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::scratch::Scratch;

    const RANGE: (u16, u32) = (40_000, 40_020);

    fn tally(packets: u64, media: Option<u64>, rtcp: Option<u64>) -> Tally {
        let at = |ms| Moment::after_start(Duration::from_millis(ms));
        Tally {
            user_space: Counters {
                packets,
                bytes: 200 * packets,
            },
            last_media: media.map(at),
            last_rtcp: rtcp.map(at),
        }
    }

    #[test]
    fn what_was_counted_is_there_for_the_next_process() {
        let scratch = Scratch::new("tallies");
        let path = scratch.path().join("tallies");
        let (one, other) = (SessionId::from_random(1), SessionId::from_random(2));
        let tallies = Tallies::open(&path, RANGE).unwrap();
        assert_eq!(tallies.get(40_000, one), None);
        assert!(tallies.was_open(40_000, one), "nothing is known");
        for packets in 0..5 {
            let counted = tally(packets, Some(packets), None);
            tallies.note(40_018, one, &counted);
            assert_eq!(tallies.get(40_018, one), Some(counted));
        }
        tallies.note(40_016, other, &tally(7, None, Some(0)));
        tallies.note(40_020, other, &tally(7, None, Some(0)));
        let alive = Moment::after_start(Duration::from_millis(77));
        tallies.beat(alive);
        assert_eq!(tallies.last_alive(), None, "nobody was before it");
        drop(tallies);

        let tallies = Tallies::open(&path, RANGE).unwrap();
        assert_eq!(tallies.last_alive(), Some(alive));
        assert!(tallies.was_open(40_018, one) && !tallies.was_open(40_018, other));
        assert_eq!(tallies.get(40_018, one), Some(tally(4, Some(4), None)));
        assert_eq!(tallies.get(40_018, other), None);
        assert_eq!(tallies.get(40_016, other), Some(tally(7, None, Some(0))));
        assert_eq!(tallies.get(40_020, other), None, "outside of the range");
        tallies.note(40_018, other, &tally(0, None, None));
        assert_eq!(tallies.get(40_018, one), None);
        assert_eq!(tallies.get(40_018, other), Some(tally(0, None, None)));
    }

    #[test]
    fn a_closed_pair_is_nobodys_and_its_count_stays() {
        let scratch = Scratch::new("tallies");
        let path = scratch.path().join("tallies");
        drop(Tallies::open(&path, RANGE).unwrap());
        let tallies = Tallies::open(&path, RANGE).unwrap();
        let one = SessionId::from_random(1);
        let counted = tally(9, Some(1), Some(2));
        tallies.note(40_000, one, &counted);
        tallies.close(40_000);
        assert!(!tallies.was_open(40_000, one));
        assert_eq!(tallies.get(40_000, one), Some(counted));
        tallies.note(40_000, one, &counted);
        assert!(tallies.was_open(40_000, one), "bound again");
    }

    /// A process may be killed between any two stores.
    #[test]
    fn a_note_that_was_cut_short_leaves_the_one_before() {
        let scratch = Scratch::new("tallies");
        let tallies = Tallies::open(&scratch.path().join("tallies"), RANGE).unwrap();
        let one = SessionId::from_random(1);
        let before = tally(9, None, None);
        tallies.note(40_000, one, &before);
        let slot = tallies.slot(40_000).unwrap();
        let copy = if slot[7].load(Relaxed) & SECOND_COPY == 0 {
            4
        } else {
            2
        };
        slot[copy].store(10, Relaxed);
        assert_eq!(tallies.get(40_000, one), Some(before));
        slot[copy + 1].store(2000, Relaxed);
        assert_eq!(tallies.get(40_000, one), Some(before));
    }
}
