//! Media sockets that systemd keeps open while no process of the relay runs: what comes for them waits in them, who sends
//! it gets no ICMP error, and nobody else takes the ports. One name for each pair: its RTP port.
//!
//! A pair is kept when media has come to it in user space for a while ([`HEARD_FOR`]). What the kernel forwards goes on
//! without sockets, and a call that is over before has cost nothing.
//!
//! One thread talks to systemd; workers put in what they want of it and wait for nobody. systemd compares a descriptor
//! that it is to keep with each that it has, by a system call: with 100 pairs one more takes a few milliseconds, with 1,000
//! tens of them, in which it does nothing else. So the thread takes a tenth of its time at most ([`SHARE`]), and what there
//! is no time for is asked for again at a later packet.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use log::warn;

use super::threads;
use crate::moment::Moment;
use crate::sys::clock;
use crate::sys::fd_store::{self, FdStore};
use crate::sys::sync::{lock, wait_until};
use crate::sys::udp::MediaSocket;

/// How long media comes to a pair in user space before the pair is kept.
pub(super) const HEARD_FOR: Duration = Duration::from_millis(500);

/// Of systemd's time, one part in so many.
const SHARE: u32 = 10;

/// Pairs that systemd is told of before it is asked whether it has come so far.
const AT_ONCE: usize = 4;

/// Pairs that wait for the thread at most; each has two files open meanwhile.
const MOST_WAITING: usize = 64;

/// How long systemd may take for so many.
const PATIENCE: Duration = Duration::from_secs(5);

/// An RTP socket and its RTCP socket.
type Pair = [MediaSocket; 2];

/// See the module.
pub(super) struct SocketStore {
    /// None where nobody keeps sockets for this relay.
    manager: Option<FdStore>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Of the process before, by port.
    inherited: HashMap<u16, (SocketAddr, MediaSocket)>,
    /// RTP ports of pairs of the process before that nobody has taken yet.
    untaken: HashSet<u16>,
    /// RTP ports of pairs that systemd has, or will be told of.
    kept: HashSet<u16>,
    /// To be kept.
    waiting: VecDeque<(u16, [OwnedFd; 2])>,
    /// To be kept no more; systemd is told of these first.
    removed: Vec<u16>,
    /// The thread has some of them in its hands.
    is_telling: bool,
    /// The relay is about to end: systemd is told at once.
    is_hurried: bool,
    /// Systemd cannot be told, nothing is kept any more.
    has_failed: bool,
    /// There was no room for one more, which was said.
    is_full: bool,
}

impl SocketStore {
    /// A store that keeps nothing: without systemd.
    pub(super) fn none() -> SocketStore {
        SocketStore::new(None)
    }

    /// The store of this service, and what is in it.
    pub(super) fn from_environment() -> SocketStore {
        let manager = FdStore::from_environment().unwrap_or_else(|error| {
            warn!("systemd keeps no media sockets: {error}");
            None
        });
        let store = SocketStore::new(manager);
        store.inherit(fd_store::inherited());
        store
    }

    pub(super) fn new(manager: Option<FdStore>) -> SocketStore {
        SocketStore {
            manager,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Starts the thread, where there is something for it to do.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn start(self: &Arc<SocketStore>) -> Result<(), String> {
        if self.manager.is_none() {
            return Ok(());
        }
        let store = Arc::clone(self);
        threads::start("socket store", move || store.run())
    }

    /// Returns true if sockets stay open when the relay ends.
    #[cfg(test)]
    pub(super) fn is_active(&self) -> bool {
        self.manager.is_some() && !self.state().has_failed
    }

    fn inherit(&self, descriptors: Vec<(String, OwnedFd)>) {
        let mut state = self.state();
        for (name, descriptor) in descriptors {
            if let Ok(port) = name.parse() {
                state.untaken.insert(port);
            }
            match MediaSocket::inherited(descriptor) {
                Ok((address, socket)) => {
                    state.inherited.insert(address.port(), (address, socket));
                }
                Err(error) => warn!("systemd has kept \"{name}\", no media socket: {error}"),
            }
        }
    }

    /// Takes a pair that the process before has left, by the address of its RTP socket. It stays kept.
    pub(super) fn take(&self, address: SocketAddr) -> Option<Pair> {
        let mut state = self.state();
        let port = address.port();
        let both = [port, port | 1].map(|port| state.inherited.remove(&port));
        let [Some((rtp_at, rtp)), Some((rtcp_at, rtcp))] = both else {
            return None;
        };
        if rtp_at != address || rtcp_at != SocketAddr::new(address.ip(), port | 1) {
            return None;
        }
        if state.untaken.remove(&port) {
            state.kept.insert(port);
        }
        Some([rtp, rtcp])
    }

    /// Closes what nobody has taken, here and at systemd. Returns how many pairs.
    pub(super) fn close_untaken(&self) -> usize {
        let mut state = self.state();
        state.inherited.clear();
        let untaken = std::mem::take(&mut state.untaken);
        let count = untaken.len();
        state.removed.extend(untaken);
        self.changed.notify_all();
        count
    }

    /// Has a pair kept. Returns false where it may be asked for again later: too many wait, or there is no room.
    pub(super) fn keep(&self, port: u16, pair: &Pair) -> bool {
        let Some(manager) = &self.manager else {
            return false;
        };
        let mut state = self.state();
        let has_room = (state.kept.len() + 1) * pair.len() <= manager.room;
        if !has_room && !std::mem::replace(&mut state.is_full, true) {
            warn!(
                "systemd keeps {} media sockets at most (FileDescriptorStoreMax): of further streams in user space what \
                 comes during a restart of the relay is lost",
                manager.room
            );
        }
        if !has_room || state.has_failed || state.waiting.len() >= MOST_WAITING {
            return false;
        }
        let [Ok(rtp), Ok(rtcp)] = pair.each_ref().map(MediaSocket::duplicate) else {
            return false;
        };
        state.kept.insert(port);
        state.waiting.push_back((port, [rtp, rtcp]));
        self.changed.notify_all();
        true
    }

    /// A pair that was to be kept is closed: it is kept no more.
    pub(super) fn release(&self, port: u16) {
        let mut state = self.state();
        if !state.kept.remove(&port) {
            return;
        }
        let waits = |(waiting, _): &(u16, _)| *waiting == port;
        match state.waiting.iter().position(waits) {
            Some(index) => drop(state.waiting.remove(index)),
            None => state.removed.push(port),
        }
        self.changed.notify_all();
    }

    /// Waits until systemd has all that it is to keep, before the relay ends.
    pub(super) fn settle(&self, deadline: Moment) {
        let mut state = self.state();
        state.is_hurried = true;
        self.changed.notify_all();
        while !state.is_settled() && clock::moment() < deadline {
            state = wait_until(&self.changed, state, deadline);
        }
    }

    fn run(&self) {
        let Some(manager) = &self.manager else {
            return;
        };
        let mut rest_until = Moment::START;
        loop {
            let (removed, kept) = self.next(rest_until);
            let begun = clock::moment();
            let told = tell(manager, &removed, &kept);
            if !kept.is_empty() {
                let now = clock::moment();
                rest_until = now + now.since(begun) * (SHARE - 1);
            }
            // The next descriptors that are opened have their numbers.
            drop(kept);
            let mut state = self.state();
            state.is_telling = false;
            if let Err(error) = told {
                warn!("systemd keeps no more media sockets: {error}");
                state.waiting.clear();
                state.removed.clear();
                state.has_failed = true;
            }
            let has_failed = state.has_failed;
            self.changed.notify_all();
            if has_failed {
                return;
            }
        }
    }

    /// Waits until there is something to tell; nothing is kept before the end of a rest.
    fn next(&self, rest_until: Moment) -> (Vec<u16>, Vec<(u16, [OwnedFd; 2])>) {
        let mut state = self.state();
        loop {
            let has_rested = state.is_hurried || clock::moment() >= rest_until;
            let count = if has_rested {
                state.waiting.len().min(AT_ONCE)
            } else {
                0
            };
            if count > 0 || !state.removed.is_empty() {
                state.is_telling = true;
                let removed = std::mem::take(&mut state.removed);
                return (removed, state.waiting.drain(..count).collect());
            }
            let deadline = if state.waiting.is_empty() {
                Moment::NEVER
            } else {
                rest_until
            };
            state = wait_until(&self.changed, state, deadline);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    fn is_settled(&self) -> bool {
        let has_work = !self.waiting.is_empty() || !self.removed.is_empty() || self.is_telling;
        !has_work || self.has_failed
    }
}

/// Tells systemd, and waits until it has done what takes it time.
fn tell(manager: &FdStore, removed: &[u16], kept: &[(u16, [OwnedFd; 2])]) -> io::Result<()> {
    for port in removed {
        patiently(|| manager.remove(&port.to_string()))?;
    }
    for (port, pair) in kept {
        let pair = pair.each_ref().map(AsFd::as_fd);
        patiently(|| manager.keep(&port.to_string(), &pair))?;
    }
    if !kept.is_empty() {
        patiently(|| manager.wait_done(PATIENCE).map(drop))?;
    }
    Ok(())
}

/// A systemd that does not read at the moment does so later: no worker waits for it.
fn patiently(mut act: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match act() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests;
