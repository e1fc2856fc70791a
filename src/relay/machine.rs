//! One worker's sockets and what its engine asks of the host: ports, addresses, random bits.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use log::{error, warn};

use super::hops::Hops;
use crate::logging::sparse::Sparse;
use crate::moment::Moment;
use crate::proto::Component;
use crate::session::ports::{Census, PortPool};
use crate::session::{Environment, PortKey};
use crate::sys::epoll::{Epoll, Trigger};
use crate::sys::udp::{Marks, MediaSocket};
use crate::sys::{clock, random, route};

/// Descriptors that a pair needs; a stream has one for each side.
pub const FILES_PER_PAIR: u64 = 2;

/// One for each side.
pub const PAIRS_PER_STREAM: usize = 2;

/// How often it is said of a pair that packets come round there.
pub const SAID: Duration = Duration::from_secs(60);

/// Where media is bound.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub relay_ip: Ipv4Addr,
    /// Whether each party gets the address that the route to it leaves from.
    pub auto_detect: bool,
}

/// The port pairs that all workers share.
#[derive(Debug)]
pub struct SharedPorts {
    /// First RTP port, and the end, which is not included.
    pub range: (u16, u32),
    pool: Mutex<PortPool>,
    /// Pairs for which there are files and that are not bound.
    room: AtomicUsize,
    /// The same while none is bound.
    room_at_first: usize,
    /// Pairs that can be bound at once.
    most: usize,
    /// Requests that got no pair, since the start.
    refused: AtomicU64,
}

/// How much still fits, for who looks at a relay from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Streams that fit beside those that there are.
    pub left: usize,
    /// Streams that fit in all: by ports, and by files.
    pub all: usize,
    /// Requests that were refused for want of ports or files, since the start.
    pub refused: u64,
}

impl SharedPorts {
    /// All pairs of a range, of which so many may be bound at once: links and name servers need files, too.
    pub fn new(range: (u16, u32), most: usize) -> SharedPorts {
        let pool = PortPool::new(range.0, range.1);
        let pairs = pool.free();
        // Where there are files for all, what ends are the ports, and that is what the log is to say.
        let room = if most < pairs { most } else { usize::MAX / 2 };
        SharedPorts {
            range,
            pool: Mutex::new(pool),
            room: AtomicUsize::new(room),
            room_at_first: room,
            most: most.min(pairs),
            refused: AtomicU64::new(0),
        }
    }

    /// What fits at this moment.
    pub fn room(&self, now: Moment) -> Room {
        let (_, available) = self.census(now);
        Room {
            left: available / PAIRS_PER_STREAM,
            all: self.most / PAIRS_PER_STREAM,
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    fn note_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a place for one pair, if there is one.
    fn enter(&self) -> bool {
        let less = |room: usize| room.checked_sub(1);
        let taken = self
            .room
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        taken.is_ok()
    }

    /// Gives it back.
    fn leave(&self) {
        self.room.fetch_add(1, Ordering::Relaxed);
    }

    /// The pairs that are not in use, and how many may be bound now.
    pub fn census(&self, now: Moment) -> (Census, usize) {
        let census = self.with(|pool| pool.census(now));
        let room = self.room.load(Ordering::Relaxed);
        (census, room.min(census.ready + census.resting))
    }

    /// Pairs that are bound.
    pub fn bound(&self) -> usize {
        self.room_at_first - self.room.load(Ordering::Relaxed)
    }

    /// Pairs of the range.
    pub fn pairs(&self) -> usize {
        (self.range.1.saturating_sub(u32::from(self.range.0)) / 2) as usize
    }

    fn with<T>(&self, act: impl FnOnce(&mut PortPool) -> T) -> T {
        act(&mut self.pool.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// An RTP socket and its RTCP socket.
#[derive(Debug)]
pub struct Pair {
    /// Of the RTP socket.
    place: PortKey,
    sockets: [MediaSocket; 2],
    /// The worker's round in which each was read last.
    rounds: [u64; 2],
    /// Something could not be sent; said once.
    pub has_failed: bool,
    /// What has come to each, and how far.
    hops: [Hops; 2],
    /// Since when it is known that packets come round here.
    round_said: Option<Duration>,
}

/// See the module.
pub struct Machine {
    addresses: Addresses,
    ports: Arc<SharedPorts>,
    epoll: Arc<Epoll>,
    /// By port: half of its distance from the first.
    pairs: Vec<Option<Box<Pair>>>,
    refused: Sparse,
    exhausted: Sparse,
    unrouted: Sparse,
}

impl Machine {
    pub fn new(addresses: Addresses, ports: Arc<SharedPorts>, epoll: Arc<Epoll>) -> Machine {
        let (start, end) = ports.range;
        let count = end.saturating_sub(u32::from(start)) / 2;
        Machine {
            addresses,
            ports,
            epoll,
            pairs: (0..count).map(|_| None).collect(),
            refused: Sparse::default(),
            exhausted: Sparse::default(),
            unrouted: Sparse::default(),
        }
    }

    /// The pair that a port belongs to, if it is bound by this worker.
    pub fn pair(&mut self, port: u16) -> Option<&mut Pair> {
        let offset = port.checked_sub(self.ports.range.0)?;
        self.pairs.get_mut(usize::from(offset / 2))?.as_deref_mut()
    }

    /// Closes a pair, by its RTP port.
    pub fn close(&mut self, port: u16) {
        let Some(offset) = port.checked_sub(self.ports.range.0) else {
            return;
        };
        let slot = self.pairs.get_mut(usize::from(offset / 2));
        if slot.and_then(Option::take).is_some() {
            self.ports
                .with(|pool| pool.give_back(port, clock::moment()));
            self.ports.leave();
        }
    }

    /// Sends from one of the bound ports.
    ///
    /// # Errors
    /// As of [`MediaSocket::send`].
    pub fn send(
        &mut self,
        from_port: u16,
        to: SocketAddrV4,
        data: &[u8],
        marks: Marks,
    ) -> io::Result<()> {
        match self.pair(from_port) {
            Some(pair) => pair.socket(from_port).send(data, to, marks),
            None => Ok(()),
        }
    }

    /// Tries pairs until one can be bound; those that some other program has are added to `bad`.
    fn bind_any(&mut self, address: Ipv4Addr, place: PortKey, bad: &mut Vec<u16>) -> Option<u16> {
        let now = clock::moment();
        loop {
            let random = random::bits() as u64;
            let Some(port) = self.ports.with(|pool| pool.take(random, now)) else {
                self.ports.note_refused();
                self.say_exhausted();
                return None;
            };
            match self.bind_and_watch(address, port) {
                Ok(sockets) => {
                    self.keep(port, place, sockets);
                    return Some(port);
                }
                Err(error) if is_bad_port(&error) => bad.push(port),
                Err(error) => {
                    self.ports.with(|pool| pool.give_back(port, now));
                    self.say_refused(address, &error);
                    return None;
                }
            }
        }
    }

    fn bind_and_watch(&self, address: Ipv4Addr, port: u16) -> io::Result<[MediaSocket; 2]> {
        let bind = |port: u16| {
            let socket = MediaSocket::bind(SocketAddrV4::new(address, port))?;
            self.epoll.add(&socket, u64::from(port), Trigger::Level)?;
            Ok::<MediaSocket, io::Error>(socket)
        };
        Ok([bind(port)?, bind(port | 1)?])
    }

    fn keep(&mut self, port: u16, place: PortKey, sockets: [MediaSocket; 2]) {
        let offset = usize::from(port.saturating_sub(self.ports.range.0) / 2);
        if let Some(slot) = self.pairs.get_mut(offset) {
            *slot = Some(Box::new(Pair {
                place,
                sockets,
                rounds: [0; 2],
                has_failed: false,
                hops: [Hops::default(); 2],
                round_said: None,
            }));
        }
    }

    fn say_exhausted(&mut self) {
        if let Some(left_out) = self.exhausted.due() {
            let (start, end) = self.ports.range;
            warn!("no port pair is left: all of port_range = {start}:{end} are in use{left_out}");
        }
    }

    fn say_refused(&mut self, address: Ipv4Addr, error: &io::Error) {
        let Some(left_out) = self.refused.due() else {
            return;
        };
        let hint = match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => {
                "; raise the limit on open files (LimitNOFILE), or calls beyond it are refused"
            }
            Some(libc::EADDRNOTAVAIL) => "; this host does not have that address",
            _ => "",
        };
        error!("no media sockets on {address}: {error}{hint}{left_out}");
    }
}

impl Pair {
    /// What a port of this pair belongs to.
    pub fn place(&self, port: u16) -> PortKey {
        let component = component_of(port);
        PortKey {
            component,
            ..self.place
        }
    }

    /// The socket of a port of this pair.
    pub fn socket(&mut self, port: u16) -> &mut MediaSocket {
        let [rtp, rtcp] = &mut self.sockets;
        match component_of(port) {
            Component::Rtp => rtp,
            Component::Rtcp => rtcp,
        }
    }

    /// What a packet that came to a port with these marks goes on with; none where it has come round and may pass nobody
    /// any more.
    pub fn onward(&mut self, port: u16, came: Marks, now: Duration) -> Option<Marks> {
        let ttl = self.hops[component_of(port) as usize].onward(came.ttl, now)?;
        Some(Marks { ttl, ..came })
    }

    /// Returns true if it is time to say that packets come round here.
    pub fn is_round_due(&mut self, now: Duration) -> bool {
        let is_due = self.round_said.is_none_or(|said| now >= said + SAID);
        if is_due {
            self.round_said = Some(now);
        }
        is_due
    }

    /// Notes that a port is read in this round; whether it was in the round before, too: a flood.
    pub fn is_flood(&mut self, port: u16, round: u64) -> bool {
        let [rtp, rtcp] = &mut self.rounds;
        let last = match component_of(port) {
            Component::Rtp => rtp,
            Component::Rtcp => rtcp,
        };
        let before = std::mem::replace(last, round);
        before + 1 == round
    }
}

/// RTP ports are even, each RTCP port is one above (RFC 3550 section 11).
fn component_of(port: u16) -> Component {
    if port.is_multiple_of(2) {
        Component::Rtp
    } else {
        Component::Rtcp
    }
}

/// Whether a pair cannot be bound because of the ports themselves: some other program has them, or they are
/// reserved. Anything else would be the same with every other pair.
fn is_bad_port(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied
    )
}

impl Environment for Machine {
    fn bind(&mut self, address: IpAddr, place: PortKey) -> Option<u16> {
        // It has no other: see `local_address`.
        let IpAddr::V4(address) = address else {
            return None;
        };
        if !self.ports.enter() {
            self.ports.note_refused();
            self.say_refused(address, &io::Error::from_raw_os_error(libc::EMFILE));
            return None;
        }
        let mut bad = Vec::new();
        let bound = self.bind_any(address, place, &mut bad);
        // Not earlier, so that none of them was tried twice before all were tried.
        if !bad.is_empty() {
            self.ports
                .with(|pool| bad.into_iter().for_each(|port| pool.put_aside(port)));
        }
        if bound.is_none() {
            self.ports.leave();
        }
        bound
    }

    fn local_address(&mut self, towards: Option<IpAddr>) -> IpAddr {
        let usual = IpAddr::V4(self.addresses.relay_ip);
        // A dispatcher that does not know yet that we are new says 0.0.0.0 for what the proxy left out.
        let known =
            towards.filter(|towards| self.addresses.auto_detect && !towards.is_unspecified());
        let Some(IpAddr::V4(towards)) = known else {
            return usual;
        };
        match route::source_towards(towards) {
            Ok(address) => address.into(),
            Err(error) => {
                if let Some(left_out) = self.unrouted.due() {
                    warn!("no route to {towards}: {error}; {usual} is used for it{left_out}");
                }
                usual
            }
        }
    }

    fn random(&mut self) -> u128 {
        random::bits()
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
