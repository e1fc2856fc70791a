//! How large the terminal is, and its keys one by one (ioctl_tty(2), termios(3)).

use std::io::{self, IsTerminal};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use super::check;

/// Columns of the terminal behind a descriptor; none where there is no terminal or it does not say.
pub fn columns(terminal: impl AsFd) -> Option<usize> {
    size(terminal).map(|(columns, _)| columns)
}

/// Columns and rows of it.
pub fn size(terminal: impl AsFd) -> Option<(usize, usize)> {
    // SAFETY: all of a winsize may be zero.
    let mut size: libc::winsize = unsafe { mem::zeroed() };
    let fd = terminal.as_fd().as_raw_fd();
    // SAFETY: the kernel writes one winsize to a valid place.
    let result = unsafe { libc::ioctl(fd, libc::TIOCGWINSZ, &raw mut size) };
    let has_size = result == 0 && size.ws_col > 0 && size.ws_row > 0;
    has_size.then(|| (usize::from(size.ws_col), usize::from(size.ws_row)))
}

/// How wide standard output is; none where it is no terminal.
pub fn stdout_width() -> Option<usize> {
    let is_terminal = io::stdout().is_terminal();
    is_terminal.then(|| columns(io::stdout()).unwrap_or(80))
}

/// Returns true if colours are wanted: on a terminal, unless `NO_COLOR` is set to anything (no-color.org).
pub fn wants_colour(output: &impl IsTerminal) -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    output.is_terminal() && !unwanted
}

/// A terminal that gives each key at once and does not show it. As it was before when this is dropped. Ctrl-C stays a
/// signal; the keys that suspend or dump a program are keys like others.
#[derive(Debug)]
pub struct Keys {
    terminal: OwnedFd,
    before: libc::termios,
    wanted: libc::termios,
}

impl Keys {
    /// Changes the terminal behind a descriptor.
    ///
    /// # Errors
    /// It is no terminal.
    pub fn take(terminal: impl AsFd) -> io::Result<Keys> {
        let terminal = terminal.as_fd().try_clone_to_owned()?;
        let fd = terminal.as_raw_fd();
        // SAFETY: all of a termios may be zero.
        let mut before: libc::termios = unsafe { mem::zeroed() };
        // SAFETY: the library writes one termios to a valid place.
        check(unsafe { libc::tcgetattr(fd, &raw mut before) })?;
        let mut wanted = before;
        wanted.c_lflag &= !(libc::ICANON | libc::ECHO);
        for key in [libc::VSUSP, libc::VQUIT] {
            wanted.c_cc[key] = libc::_POSIX_VDISABLE;
        }
        wanted.c_cc[libc::VMIN] = 1;
        wanted.c_cc[libc::VTIME] = 0;
        let keys = Keys {
            terminal,
            before,
            wanted,
        };
        keys.set(&wanted)?;
        Ok(keys)
    }

    /// Gives the terminal back and stops, with all the foreground, as Ctrl-Z does by itself; takes it again when the
    /// shell lets us go on. To be called by the only thread that has not called [`keep_from_stopping`]: then it has
    /// stopped before it goes on.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn suspend(&self) -> io::Result<()> {
        self.set(&self.before)?;
        // SAFETY: plain values; 0 is this process's group.
        check(unsafe { libc::kill(0, libc::SIGTSTP) })?;
        // In the background this stops us once more, until we are in front.
        self.set(&self.wanted)
    }

    fn set(&self, settings: &libc::termios) -> io::Result<()> {
        let fd = self.terminal.as_raw_fd();
        // SAFETY: the settings live through the call.
        check(unsafe { libc::tcsetattr(fd, libc::TCSANOW, settings) }).map(drop)
    }
}

/// Leaves it to other threads to take the signal that stops the process.
pub fn keep_from_stopping() {
    let mut set = mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set; all calls have valid values and cannot fail for them.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGTSTP);
        libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // A terminal that is gone needs no more.
        let _ = self.set(&self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn what_is_no_terminal_has_no_width_and_no_keys() {
        let null = File::open("/dev/null").unwrap();
        assert_eq!((columns(&null), size(&null)), (None, None));
        assert!(Keys::take(&null).is_err());
    }
}
