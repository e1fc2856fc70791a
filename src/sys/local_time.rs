//! The time of day where the host is, for log lines.

use std::mem::MaybeUninit;

use crate::moment::UnixTime;

/// Date and time of day, local.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalTime {
    pub year: i32,
    /// 1 to 12.
    pub month: u32,
    pub day: u32,
    pub hour: u32,
    pub minute: u32,
    pub second: u32,
    pub millisecond: u32,
}

/// A calendar time where the host is.
pub fn local_time(time: UnixTime) -> LocalTime {
    let seconds: libc::time_t = time.as_secs().try_into().unwrap_or(libc::time_t::MAX);
    let mut parts = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are valid. A tm of zeros is a valid value, which stays when the year does not fit.
    let parts = unsafe {
        libc::localtime_r(&seconds, parts.as_mut_ptr());
        parts.assume_init()
    };
    let part = |value: libc::c_int| u32::try_from(value).unwrap_or_default();
    LocalTime {
        year: parts.tm_year.saturating_add(1900),
        month: part(parts.tm_mon) + 1,
        day: part(parts.tm_mday),
        hour: part(parts.tm_hour),
        minute: part(parts.tm_min),
        second: part(parts.tm_sec),
        millisecond: time.elapsed().subsec_millis(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Zones differ by whole quarters of an hour, so that the rest is the same everywhere.
    #[test]
    fn parts_of_a_known_moment() {
        let time = local_time(UnixTime::since_epoch(Duration::from_millis(
            1_000_000_000_123,
        )));
        assert_eq!((time.year, time.month), (2001, 9));
        assert!(time.day == 8 || time.day == 9);
        assert_eq!((time.minute % 15, time.second), (1, 40));
        assert_eq!(time.millisecond, 123);
        local_time(UnixTime::since_epoch(Duration::MAX));
    }
}
