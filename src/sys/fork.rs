//! Leaving the terminal: fork, a session of one's own, `/dev/null` in place of the terminal.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use super::check;

/// On which side of the fork one is.
pub(super) enum Forked {
    Parent(Child),
    Child,
}

/// The other process.
pub(super) struct Child(libc::pid_t);

impl Child {
    /// Waits for its end.
    ///
    /// # Errors
    /// When somebody else has waited for it.
    pub(super) fn wait(self) -> io::Result<ExitStatus> {
        loop {
            let mut status = 0;
            // SAFETY: status is a valid place to write to.
            if unsafe { libc::waitpid(self.0, &mut status, 0) } == self.0 {
                return Ok(ExitStatus::from_raw(status));
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

/// Splits the process. Refused when there is more than one thread: the child would have only one, and the
/// locks of all.
///
/// # Errors
/// Too many processes, too little memory, or other threads.
pub(super) fn fork() -> io::Result<Forked> {
    if fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() > 1) {
        return Err(io::Error::other("threads are running already"));
    }
    io::stdout().flush()?;
    // SAFETY: one thread: the child may go on as any process may.
    match check(unsafe { libc::fork() })? {
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(Child(pid))),
    }
}

/// Makes the process a daemon: a session without a terminal, `/` as working directory, files and directories
/// made with at most 0755, nothing on standard input and output. Standard error stays until
/// [`close_stderr`], for the words of a panic while it starts.
///
/// # Errors
/// `/dev/null` or `/` is missing, or the process leads a group already.
pub(super) fn detach() -> io::Result<()> {
    // SAFETY: a plain call without pointers.
    check(unsafe { libc::setsid() })?;
    // SAFETY: as above; never fails.
    unsafe { libc::umask(0o022) };
    std::env::set_current_dir("/")?;
    let null = null()?;
    replace(libc::STDIN_FILENO, &null)?;
    replace(libc::STDOUT_FILENO, &null)
}

/// Lets go of the terminal.
///
/// # Errors
/// `/dev/null` is missing.
pub(super) fn close_stderr() -> io::Result<()> {
    replace(libc::STDERR_FILENO, &null()?)
}

fn null() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/null")
}

fn replace(descriptor: libc::c_int, file: &File) -> io::Result<()> {
    // SAFETY: both descriptors are open or to be replaced; standard ones belong to nobody.
    check(unsafe { libc::dup2(file.as_raw_fd(), descriptor) })?;
    Ok(())
}
