//! The only unsafe code: system calls that the standard library does not offer.
//!
//! One file for each subject. Every function turns a failed call into `io::Error` and owns its
//! descriptors by `OwnedFd`; nothing unsafe is visible to callers.

pub mod clock;
pub mod datagram;
pub mod dir_lock;
pub mod dns;
pub mod epoll;
pub mod fd_store;
pub mod file_access;
pub mod files;
mod fork;
pub mod host;
pub mod identity;
pub mod interfaces;
pub mod limits;
pub mod local_time;
pub mod mailbox;
pub mod mapped;
pub mod memory;
pub mod netlink;
pub mod notify;
pub mod peer;
mod pid_file;
pub mod process;
pub mod random;
pub mod range_lock;
pub mod route;
#[cfg(test)]
pub mod scratch;
pub mod signals;
pub mod stderr;
pub mod sync;
pub mod terminal;
pub mod thread;
pub mod udp;
pub mod unix_socket;
pub mod usage;
pub mod users;

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// The result of a system call that returns -1 on failure.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// A count from a system call that returns -1 on failure.
fn count(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Takes over a descriptor that a system call has just returned.
fn owned(result: RawFd) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
