//! Where the shell reads the clocks; the core is given what this returns.

use std::mem::MaybeUninit;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use crate::moment::Now;
use crate::moment::{Moment, UnixTime};

/// Time since the process first asked, on the monotonic clock.
#[expect(
    clippy::disallowed_methods,
    reason = "the shell's one place to read it"
)]
pub fn mono() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = *START.get_or_init(Instant::now);
    Instant::now().saturating_duration_since(start)
}

/// Now, on the monotonic clock.
pub fn moment() -> Moment {
    Moment::after_start(mono())
}

/// Both clocks.
#[expect(
    clippy::disallowed_methods,
    reason = "the shell's one place to read it"
)]
pub fn now() -> Now {
    let unix = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Now {
        mono: Moment::after_start(mono()),
        unix: UnixTime::since_epoch(unix),
    }
}

/// Processor time of this thread, in the kernel and outside, since it began. Zero where it cannot be told.
pub fn thread_cpu() -> Duration {
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the pointer is to a timespec, which a call that succeeds has filled in.
    let told = unsafe {
        match libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, time.as_mut_ptr()) {
            0 => Some(time.assume_init()),
            _ => None,
        }
    };
    told.map_or(Duration::ZERO, |time| {
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_works_takes_time_and_one_that_sleeps_does_not() {
        let (start, began) = (thread_cpu(), mono());
        std::thread::sleep(Duration::from_millis(20));
        let slept = thread_cpu() - start;
        assert!(slept < mono() - began, "{slept:?}");
        while thread_cpu() - start < slept + Duration::from_millis(1) {}
    }
}
