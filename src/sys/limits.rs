//! The limit on open files.

use std::io;

use super::check;

/// Raises the limit on open files to `wanted` where it is lower, as far as this process may, and returns what
/// it is then.
///
/// # Errors
/// Only where the limit cannot even be read.
pub fn raise_open_files(wanted: u64) -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes one rlimit.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    if limit.rlim_cur >= wanted {
        return Ok(limit.rlim_cur);
    }
    // Root may raise the hard limit too, up to fs.nr_open.
    let tries = [
        (wanted, limit.rlim_max.max(wanted)),
        (wanted.min(limit.rlim_max), limit.rlim_max),
    ];
    for (rlim_cur, rlim_max) in tries {
        let raised = libc::rlimit { rlim_cur, rlim_max };
        // SAFETY: the kernel reads one rlimit.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
            return Ok(rlim_cur);
        }
    }
    Ok(limit.rlim_cur)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_lowered_and_never_more_than_allowed() {
        let before = raise_open_files(0).unwrap();
        let got = raise_open_files(before + 1).unwrap();
        assert!(got == before || got == before + 1, "{before} {got}");
        assert_eq!(raise_open_files(1).unwrap(), got);
    }
}
