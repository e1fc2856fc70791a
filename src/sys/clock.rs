//! Where the shell reads the clocks; the core is given what this returns.

use std::mem::MaybeUninit;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use crate::moment::Now;
use crate::moment::{Moment, UnixTime};

/// Time since the host started: a clock that is never set, and on which all processes of one boot agree.
pub fn mono() -> Duration {
    read(libc::CLOCK_MONOTONIC)
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

/// Processor time of this thread, in the kernel and outside, since it began.
pub fn thread_cpu() -> Duration {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// What one of the kernel's clocks says; zero where it cannot be told, which no kernel of ours does.
fn read(clock: libc::clockid_t) -> Duration {
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the pointer is to a timespec, which a call that succeeds has filled in.
    let told = unsafe {
        match libc::clock_gettime(clock, time.as_mut_ptr()) {
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

    /// A moment that another process has noted means the same here.
    #[test]
    fn the_clock_began_with_the_host_and_not_with_this_process() {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        // That one counts the time during which the host was suspended as well.
        assert!(mono() > Duration::from_millis(10));
        assert!(mono().as_secs_f64() < uptime + 1.0);
    }

    #[test]
    fn a_thread_that_works_takes_time_and_one_that_sleeps_does_not() {
        let (start, began) = (thread_cpu(), mono());
        std::thread::sleep(Duration::from_millis(20));
        let slept = thread_cpu() - start;
        assert!(slept < mono() - began, "{slept:?}");
        while thread_cpu() - start < slept + Duration::from_millis(1) {}
    }
}
