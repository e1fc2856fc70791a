//! For how long an attack goes on, and how fast.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use mediaproxy::moment::Moment;
use mediaproxy::sys::clock;

/// How often somebody who waits looks whether it is over.
const GLANCE: Duration = Duration::from_millis(20);

/// Holds until it is told to end; copies are of the same.
#[derive(Clone, Debug)]
pub struct Going {
    is_over: Arc<AtomicBool>,
    /// All that has a pace is so many times slower.
    ease: u32,
}

impl Default for Going {
    fn default() -> Going {
        Going::at_ease(1)
    }
}

impl Going {
    /// So many times slower than alone, for attackers that share a machine.
    pub fn at_ease(ease: u32) -> Going {
        Going {
            is_over: Arc::default(),
            ease,
        }
    }

    pub fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    pub fn is_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    /// Waits, at most until it is over; returns whether it goes on.
    pub fn pause(&self, length: Duration) -> bool {
        let end = clock::moment() + length;
        while self.is_on() {
            match end.since(clock::moment()) {
                Duration::ZERO => return true,
                rest => thread::sleep(rest.min(GLANCE)),
            }
        }
        false
    }
}

/// So many a second, in small heaps: a thread that sleeps for each would be late.
pub struct Pace {
    start: Moment,
    per_second: u32,
    done: u64,
}

impl Pace {
    pub fn new(per_second: u32) -> Pace {
        Pace {
            start: clock::moment(),
            per_second,
            done: 0,
        }
    }

    /// Waits until one more is due; returns whether it goes on.
    pub fn next(&mut self, going: &Going) -> bool {
        let second = 1_000_000_000 * u64::from(going.ease);
        let due =
            self.start + Duration::from_nanos(self.done * second / u64::from(self.per_second));
        self.done += 1;
        match due.since(clock::moment()) {
            rest if rest < Duration::from_millis(2) => going.is_on(),
            rest => going.pause(rest),
        }
    }
}
