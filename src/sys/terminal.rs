//! How wide the terminal is (ioctl_tty(2)).

use std::mem;
use std::os::fd::{AsFd, AsRawFd};

/// Columns of the terminal behind a descriptor; none where there is no terminal or it does not say.
pub fn columns(terminal: impl AsFd) -> Option<usize> {
    // SAFETY: all of a winsize may be zero.
    let mut size: libc::winsize = unsafe { mem::zeroed() };
    let fd = terminal.as_fd().as_raw_fd();
    // SAFETY: the kernel writes one winsize to a valid place.
    let result = unsafe { libc::ioctl(fd, libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_col > 0).then(|| usize::from(size.ws_col))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn what_is_no_terminal_has_no_width() {
        assert_eq!(columns(File::open("/dev/null").unwrap()), None);
    }
}
