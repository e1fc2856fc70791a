//! How many files, and so sockets, the process may have open.

use std::fs;
use std::io;

/// Raises the limit so that `wanted` files can be open at once, or as far as it may. Returns the limit that
/// holds now, which may be lower or higher.
///
/// # Errors
/// The limit cannot be read.
pub fn raise_open_files(wanted: u64) -> io::Result<u64> {
    let now = open_files()?;
    if now.rlim_cur >= wanted {
        return Ok(now.rlim_cur);
    }
    // Only root may go beyond the hard limit, and nobody beyond fs.nr_open.
    let most = fs::read_to_string("/proc/sys/fs/nr_open")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(wanted);
    let raised = now.rlim_max.max(wanted.min(most));
    for hard in [raised, now.rlim_max, now.rlim_max.min(most)] {
        let limit = libc::rlimit {
            rlim_cur: wanted.min(most).min(hard),
            rlim_max: hard,
        };
        // SAFETY: the limit lives through the call.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } == 0 {
            break;
        }
    }
    Ok(open_files()?.rlim_cur)
}

/// How many files may be open at once.
///
/// # Errors
/// The limit cannot be read.
pub fn most_open_files() -> io::Result<u64> {
    Ok(open_files()?.rlim_cur)
}

fn open_files() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: limit is a valid place to write to.
    match unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } {
        0 => Ok(limit),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raised_as_far_as_it_goes() {
        let before = open_files().unwrap();
        let hard = before.rlim_max;
        assert_eq!(raise_open_files(0).unwrap(), before.rlim_cur);
        assert!(raise_open_files(hard).unwrap() >= hard);
        let beyond = raise_open_files(u64::MAX).unwrap();
        assert!(beyond >= hard && beyond < u64::MAX, "{beyond}");
        assert_eq!(raise_open_files(beyond).unwrap(), beyond);
    }
}
