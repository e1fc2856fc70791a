//! The door of a port that strangers reach: what they can take up is bounded, and none of it keeps anybody out.
//!
//! ```text
//!  Door       one thread accepts and watches all that have said nothing; a thread for each that has
//!  admission  who may stay, and who gives way: pure
//!  budget     how many handshakes an origin may begin: pure
//! ```

pub mod admission;
mod budget;
pub mod origin;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use self::admission::{Admission, Limits, Loser};
use self::origin::Origin;
use crate::logging::sparse::Sparse;
use crate::sys::clock;
use crate::sys::epoll::{Epoll, Events, Trigger};

/// The listener's number among those that are watched.
const LISTENER: u64 = u64::MAX;

/// Accepted at a time: whoever has said something meanwhile is served before more come.
const BATCH: usize = 16;

/// After a failure to accept, which passes (a full table of open files) or comes with one connection only.
const REST: Duration = Duration::from_millis(200);

/// How long one more waits for a thread of those that had to give way.
const THREAD_LIMIT: Duration = Duration::from_secs(5);

/// Who has come.
pub struct Arrival {
    pub socket: OwnedFd,
    pub origin: Origin,
    /// For the log.
    pub name: String,
}

/// Why somebody has to go before it is served, or while it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// It has closed the connection itself, without a word.
    Closed,
    /// It has said nothing for so long.
    TimedOut(Duration),
    GaveWay,
    OverBudget,
    /// Too many threads are still at work for those that gave way.
    Busy,
}

impl fmt::Display for Turned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Turned::Closed => f.write_str("it went without a word"),
            Turned::TimedOut(limit) => {
                write!(f, "it has said nothing for {} s", limit.as_secs_f32())
            }
            Turned::GaveWay => f.write_str(
                "it gave way to newer ones: too many connections from there, or at all, are not let in yet",
            ),
            Turned::OverBudget => f.write_str(
                "closed unread: too many handshakes from there, or from unknown addresses",
            ),
            Turned::Busy => f.write_str("closed: too many threads are at work"),
        }
    }
}

type Tell = Box<dyn Fn(Turned, &str) + Send + Sync>;

/// One port.
pub struct Door {
    state: Mutex<State>,
    /// A thread has ended.
    left: Condvar,
    threads: usize,
    patience: Duration,
    tell: Tell,
}

struct State {
    admission: Admission,
    guests: HashMap<u64, Guest>,
    threads: usize,
}

struct Guest {
    /// The connection itself while nothing has been said, a handle to close it afterwards. [`TcpStream`] stands for stream
    /// sockets of any kind: what is done with it is the same for all.
    socket: TcpStream,
    origin: Origin,
    name: String,
}

/// A place among those that are served, until it is dropped.
pub struct Visit {
    door: Arc<Door>,
    number: u64,
}

impl Door {
    /// `tell` hears of all that are turned away.
    pub fn new(limits: Limits, tell: impl Fn(Turned, &str) + Send + Sync + 'static) -> Arc<Door> {
        let state = State {
            admission: Admission::new(limits),
            guests: HashMap::new(),
            threads: 0,
        };
        Arc::new(Door {
            state: Mutex::new(state),
            left: Condvar::new(),
            // Those that gave way may not have noticed yet.
            threads: 2 * (2 * limits.working + limits.inside),
            patience: limits.patience,
            tell: Box::new(tell),
        })
    }

    /// Those from there are known: they have been here before.
    pub fn remember(&self, origin: Origin) {
        self.lock().admission.remember(origin, clock::moment());
    }

    /// Accepts for ever on a listener that does not block, and has those `serve`d that say something.
    pub fn tend(
        self: &Arc<Door>,
        what: &str,
        listener: BorrowedFd<'_>,
        accept: &dyn Fn() -> io::Result<Arrival>,
        serve: &dyn Fn(Arrival, Visit),
    ) {
        let mut failures = Sparse::default();
        let mut failed = |error: io::Error| {
            if let Some(skipped) = failures.due() {
                log::error!("{what}: cannot accept a connection: {error}{skipped}");
            }
            thread::sleep(REST);
        };
        let epoll = loop {
            let epoll = Epoll::new();
            let added = epoll.and_then(|epoll| {
                epoll.add(&listener, LISTENER, Trigger::Level)?;
                Ok(epoll)
            });
            match added {
                Ok(epoll) => break epoll,
                Err(error) => failed(error),
            }
        };
        let mut events = Events::new();
        loop {
            let late = self.lock().admission.next_late();
            let limit = late.map(|at| at.since(clock::moment()));
            if let Err(error) = epoll.wait(&mut events, limit) {
                failed(error);
            }
            let tokens = || (0..events.len()).filter_map(|index| events.token(index));
            for number in tokens().filter(|token| *token != LISTENER) {
                self.begin(number, serve);
            }
            self.turn_late();
            if tokens().any(|token| token == LISTENER) {
                for _ in 0..BATCH {
                    match accept() {
                        Ok(arrival) => self.arrive(&epoll, arrival, serve),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                        Err(error) => {
                            failed(error);
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Whoever has said something since it was looked at last is served, and does not give way to one more.
    fn make_room(self: &Arc<Door>, newcomer: Origin, serve: &dyn Fn(Arrival, Visit)) {
        loop {
            let state = self.lock();
            let loser = state.admission.silent_loser(newcomer);
            let guest = loser.and_then(|number| state.guests.get(&number));
            let has_spoken = guest.is_some_and(|guest| guest.socket.peek(&mut [0]).is_ok());
            drop(state);
            let Some(number) = loser.filter(|_| has_spoken) else {
                return;
            };
            self.begin(number, serve);
        }
    }

    fn arrive(self: &Arc<Door>, epoll: &Epoll, arrival: Arrival, serve: &dyn Fn(Arrival, Visit)) {
        let Arrival {
            socket,
            origin,
            name,
        } = arrival;
        let socket = TcpStream::from(socket);
        // That nothing is there to be read after all must not hold up the others.
        if let Err(error) = socket.set_nonblocking(true) {
            log::debug!("{name}: {error}");
            return;
        }
        self.make_room(origin, serve);
        let mut state = self.lock();
        let (number, loser) = state.admission.arrive(origin, clock::moment());
        let watched = epoll.add(&socket, number, Trigger::Once);
        let guest = Guest {
            socket,
            origin,
            name,
        };
        state.guests.insert(number, guest);
        if let Err(error) = watched {
            log::debug!("a connection cannot be watched: {error}");
            state.remove(number);
        }
        self.turn(state, loser, Turned::GaveWay);
    }

    /// Something can be read of it, or it has gone.
    fn begin(self: &Arc<Door>, number: u64, serve: &dyn Fn(Arrival, Visit)) {
        let mut state = self.lock();
        let Some(guest) = state.guests.get(&number) else {
            return;
        };
        match guest.socket.peek(&mut [0]) {
            Ok(1..) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            _ => return self.turn(state, Some(number), Turned::Closed),
        }
        let handle = guest.socket.set_nonblocking(false);
        let Ok(handle) = handle.and_then(|()| guest.socket.try_clone()) else {
            return self.turn(state, Some(number), Turned::Busy);
        };
        let (name, origin) = (guest.name.clone(), guest.origin);
        let Some(loser) = state.admission.begin(number, clock::moment()) else {
            return self.turn(state, Some(number), Turned::OverBudget);
        };
        self.turn(state, loser, Turned::GaveWay);
        let is_full = |state: &mut State| state.threads >= self.threads;
        let waited = self
            .left
            .wait_timeout_while(self.lock(), THREAD_LIMIT, is_full);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        if is_full(&mut state) {
            return self.turn(state, Some(number), Turned::Busy);
        }
        state.threads += 1;
        drop(state);
        let visit = Visit {
            door: Arc::clone(self),
            number,
        };
        let socket = OwnedFd::from(handle);
        let arrival = Arrival {
            socket,
            origin,
            name,
        };
        serve(arrival, visit);
    }

    fn turn_late(&self) {
        loop {
            let mut state = self.lock();
            let Some(number) = state.admission.take_late(clock::moment()) else {
                return;
            };
            self.turn(state, Some(number), Turned::TimedOut(self.patience));
        }
    }

    /// Closes the connection of somebody that has to go. Its thread, where there is one, finds out and ends.
    fn turn(&self, mut state: MutexGuard<'_, State>, who: Loser, why: Turned) {
        let Some(guest) = who.and_then(|number| state.remove(number)) else {
            return;
        };
        drop(state);
        let _ = guest.socket.shutdown(Shutdown::Both);
        (self.tell)(why, &guest.name);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remove(&mut self, number: u64) -> Option<Guest> {
        self.admission.leave(number);
        self.guests.remove(&number)
    }
}

impl Visit {
    /// It has proven who it is: it and all others from there are known from now on.
    pub fn prove(&self) {
        self.door
            .lock()
            .admission
            .prove(self.number, clock::moment());
    }

    /// It belongs here.
    pub fn go_in(&self) {
        let mut state = self.door.lock();
        let loser = state.admission.go_in(self.number);
        self.door.turn(state, loser, Turned::GaveWay);
    }

    /// It has asked for something: others give way first.
    pub fn touch(&self) {
        self.door
            .lock()
            .admission
            .touch(self.number, clock::moment());
    }

    /// Returns true where it had to give way: its connection is closed, and that was told.
    pub fn gave_way(&self) -> bool {
        !self.door.lock().admission.is_here(self.number)
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut state = self.door.lock();
        state.remove(self.number);
        state.threads -= 1;
        drop(state);
        self.door.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    /// All of them come at once, so that the door has accepted them before it looks whether one has said something.
    #[test]
    fn who_has_said_something_does_not_give_way_to_those_that_say_nothing() {
        let limits = Limits {
            silent: 2,
            working: 4,
            inside: 4,
            patience: Duration::from_secs(60),
            is_costly: false,
        };
        let door = Door::new(limits, |_, _| {});
        let (mut speaker, theirs) = UnixStream::pair().unwrap();
        speaker.write_all(b"version").unwrap();
        let (ours, silent): (Vec<_>, Vec<_>) = (0..10).map(|_| UnixStream::pair().unwrap()).unzip();
        let waiting: VecDeque<UnixStream> = std::iter::once(theirs).chain(silent).collect();
        let waiting = Mutex::new(waiting);
        let name = std::env::temp_dir().join(format!("door-{}", std::process::id()));
        let listener = UnixListener::bind(&name).unwrap();
        let _knock = UnixStream::connect(&name).unwrap();
        std::fs::remove_file(&name).unwrap();
        let (served, who) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let accept = || {
                let next = waiting.lock().unwrap().pop_front();
                let socket = next.ok_or(io::ErrorKind::WouldBlock)?.into();
                Ok(Arrival {
                    socket,
                    origin: Origin::of([192, 0, 2, 1].into()),
                    name: String::new(),
                })
            };
            let serve = |arrival: Arrival, _visit: Visit| {
                let mut first = [0; 7];
                let read = TcpStream::from(arrival.socket).peek(&mut first);
                served.send(read.map(|_| first)).unwrap();
            };
            door.tend("a test", listener.as_fd(), &accept, &serve);
        });
        let first = who.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(&first.unwrap(), b"version");
        drop(ours);
    }
}
