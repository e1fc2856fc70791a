//! A directory that one process alone may use: the lock goes with the process, however it ends.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::check;
use super::files::open_own;

/// Held until it is dropped.
#[derive(Debug)]
pub struct DirLock {
    file: File,
}

impl Drop for DirLock {
    /// To close the file is not enough: a child that another thread has just forked has a copy of the descriptor, and
    /// with it the lock, until it executes its program.
    fn drop(&mut self) {
        // SAFETY: the descriptor is open, no pointers.
        unsafe { libc::flock(self.file.as_raw_fd(), libc::LOCK_UN) };
    }
}

/// Takes the lock of a directory: the file `lock` in it, by flock(2).
///
/// # Errors
/// `WouldBlock` when another process, or another lock of this one, has it.
pub fn lock(dir: &Path) -> io::Result<DirLock> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o640);
    let opened = open_own(&mut options, &dir.join("lock"));
    let file = opened.map_err(|error| match error.kind() {
        io::ErrorKind::Other => io::Error::other(format!("its file lock: {error}")),
        _ => error,
    })?;
    // SAFETY: the descriptor is open, no pointers.
    check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) })?;
    Ok(DirLock { file })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::scratch::Scratch;

    #[test]
    fn one_at_a_time() {
        let scratch = Scratch::new("lock");
        let first = lock(scratch.path()).unwrap();
        let second = lock(scratch.path()).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::WouldBlock);
        drop(first);
        assert!(lock(scratch.path()).is_ok());
    }

    #[test]
    fn a_copy_of_the_descriptor_does_not_hold_the_lock_on() {
        let scratch = Scratch::new("lock");
        let first = lock(scratch.path()).unwrap();
        let copy = first.file.try_clone().unwrap();
        drop(first);
        assert!(lock(scratch.path()).is_ok());
        drop(copy);
    }
}
