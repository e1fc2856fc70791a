//! epoll(7), level- or edge-triggered, with a number for each descriptor.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use super::{check, owned};

/// Descriptors reported by one wait at most.
const EVENTS: usize = 128;

/// How often a descriptor is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// As long as there is something to read.
    Level,
    /// Each time that something more arrives.
    Edge,
    /// Once.
    Once,
}

/// A set of descriptors to wait on. One that is closed leaves the set by itself, unless it was duplicated.
#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
}

/// What one wait reported.
pub struct Events {
    list: Vec<libc::epoll_event>,
    len: usize,
}

impl Events {
    pub fn new() -> Events {
        let none = libc::epoll_event { events: 0, u64: 0 };
        Events {
            list: vec![none; EVENTS],
            len: 0,
        }
    }

    /// How many descriptors are ready.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the wait ended by its time limit.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number of the descriptor at an index below [`Events::len`].
    pub fn token(&self, index: usize) -> Option<u64> {
        let events = self.list.get(..self.len)?;
        events.get(index).map(|event| event.u64)
    }
}

impl Default for Events {
    fn default() -> Self {
        Events::new()
    }
}

impl Epoll {
    pub fn new() -> io::Result<Epoll> {
        // SAFETY: takes no pointers.
        let fd = owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        Ok(Epoll { fd })
    }

    /// Reports `token` when there is something to read on a descriptor.
    ///
    /// # Errors
    /// ENOSPC where the system's limit on watched descriptors is reached.
    pub fn add(&self, fd: &impl AsFd, token: u64, trigger: Trigger) -> io::Result<()> {
        let mode = match trigger {
            Trigger::Level => 0,
            Trigger::Edge => libc::EPOLLET,
            Trigger::Once => libc::EPOLLONESHOT,
        };
        let mut event = libc::epoll_event {
            events: (libc::EPOLLIN | mode) as u32,
            u64: token,
        };
        let (set, fd) = (self.fd.as_raw_fd(), fd.as_fd().as_raw_fd());
        // SAFETY: both descriptors are open, the event is read before the call returns.
        check(unsafe { libc::epoll_ctl(set, libc::EPOLL_CTL_ADD, fd, &raw mut event) })?;
        Ok(())
    }

    /// Reports a descriptor no more.
    ///
    /// # Errors
    /// ENOENT where it was not reported.
    pub fn remove(&self, fd: &impl AsFd) -> io::Result<()> {
        let (set, fd) = (self.fd.as_raw_fd(), fd.as_fd().as_raw_fd());
        // SAFETY: both descriptors are open; no event is read.
        check(unsafe { libc::epoll_ctl(set, libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut()) })?;
        Ok(())
    }

    /// Waits until something is ready, `limit` has passed (rounded up to milliseconds; none waits for ever)
    /// or a signal came. No event is not an error.
    pub fn wait(&self, events: &mut Events, limit: Option<Duration>) -> io::Result<()> {
        let milliseconds = limit.map_or(-1, |limit| {
            let rounded = limit.as_micros().div_ceil(1000);
            i32::try_from(rounded).unwrap_or(i32::MAX)
        });
        events.len = 0;
        let list = events.list.as_mut_ptr();
        // SAFETY: the kernel writes at most EVENTS events, which is the list's length.
        let result = check(unsafe {
            libc::epoll_wait(
                self.fd.as_raw_fd(),
                list,
                EVENTS as libc::c_int,
                milliseconds,
            )
        });
        match result {
            Ok(ready) => events.len = usize::try_from(ready).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
