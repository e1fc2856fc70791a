//! The port pairs that all workers share, and how many of them may be bound.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::diagnosis::requirements::PAIRS_PER_STREAM;
use crate::moment::Moment;
use crate::session::ports::{Census, PortPool};

/// The port pairs that all workers share.
#[derive(Debug)]
pub(super) struct SharedPorts {
    /// First RTP port, and the end, which is not included.
    pub range: (u16, u32),
    pool: Mutex<PortPool>,
    /// Pairs for which there are files and that are not bound.
    room: AtomicUsize,
    /// The same while none is bound.
    room_at_first: usize,
    /// Pairs that can be bound at once.
    most: usize,
    /// Requests that got no pair, since the start.
    refused: AtomicU64,
}

/// How much still fits, for who looks at a relay from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// Streams that fit beside those that there are.
    pub left: usize,
    /// Streams that fit in all: by ports, and by files.
    pub all: usize,
    /// Requests that were refused for want of ports or files, since the start.
    pub refused: u64,
}

impl SharedPorts {
    /// All pairs of a range, of which so many may be bound at once: links and name servers need files, too.
    pub(super) fn new(range: (u16, u32), most: usize) -> SharedPorts {
        let pool = PortPool::new(range.0, range.1);
        let pairs = pool.free();
        // Where there are files for all, what ends are the ports, and that is what the log is to say.
        let room = if most < pairs { most } else { usize::MAX / 2 };
        SharedPorts {
            range,
            pool: Mutex::new(pool),
            room: AtomicUsize::new(room),
            room_at_first: room,
            most: most.min(pairs),
            refused: AtomicU64::new(0),
        }
    }

    /// What fits at this moment.
    pub(super) fn room(&self, now: Moment) -> Room {
        let (_, available) = self.census(now);
        Room {
            left: available / PAIRS_PER_STREAM,
            all: self.most / PAIRS_PER_STREAM,
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    /// Somebody got no pair.
    pub(super) fn note_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a place for one pair, if there is one.
    pub(super) fn enter(&self) -> bool {
        let less = |room: usize| room.checked_sub(1);
        let taken = self
            .room
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        taken.is_ok()
    }

    /// Gives it back.
    pub(super) fn leave(&self) {
        self.room.fetch_add(1, Ordering::Relaxed);
    }

    /// The pairs that are not in use, and how many may be bound now.
    pub(super) fn census(&self, now: Moment) -> (Census, usize) {
        let census = self.with(|pool| pool.census(now));
        let room = self.room.load(Ordering::Relaxed);
        (census, room.min(census.ready + census.resting))
    }

    /// Pairs that are bound.
    pub(super) fn bound(&self) -> usize {
        self.room_at_first - self.room.load(Ordering::Relaxed)
    }

    /// Pairs of the range.
    pub(super) fn pairs(&self) -> usize {
        (self.range.1.saturating_sub(u32::from(self.range.0)) / 2) as usize
    }

    pub(super) fn with<T>(&self, act: impl FnOnce(&mut PortPool) -> T) -> T {
        act(&mut self.pool.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
