//! What this process has used of the processors.

use std::io;
use std::time::Duration;

use super::check;

/// CPU time of all threads since the start, those that have ended included (clock_gettime(2)).
///
/// # Errors
/// As of the system call.
pub fn process_cpu() -> io::Result<Duration> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: time is a valid place to write to.
    check(unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) })?;
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or_default();
    Ok(Duration::new(seconds, nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_time() {
        let before = process_cpu().unwrap();
        while process_cpu().unwrap() <= before {
            std::hint::spin_loop();
        }
    }
}
