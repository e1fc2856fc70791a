//! One worker's sockets and what its engine asks of the host: ports, addresses, random bits.

use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

use log::{error, warn};

use super::hops::Hops;
use super::loops::SAY_AGAIN_AFTER;
use super::shared_ports::SharedPorts;
use super::socket_store::{HEARD_FOR, SocketStore};
use super::tallies::Tallies;
use crate::logging::sparse::Sparse;
use crate::moment::Moment;
use crate::proto::{Component, SessionId};
use crate::session::{Engine, Environment, PortKey, Tally};
use crate::sys::epoll::{Epoll, Trigger};
use crate::sys::udp::{Marks, MediaSocket};
use crate::sys::{clock, random, route};

/// Where media is bound.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    pub relay_ip: IpAddr,
    /// Whether each party gets the address that the route to it leaves from.
    pub auto_detect: bool,
}

/// An RTP socket and its RTCP socket.
#[derive(Debug)]
pub(super) struct Pair {
    /// Of the RTP socket.
    port: u16,
    place: PortKey,
    sockets: [MediaSocket; 2],
    /// The worker's round in which each was read last.
    rounds: [u64; 2],
    /// Something could not be sent; said once.
    pub has_failed: bool,
    /// What has come to each, and how far.
    hops: [Hops; 2],
    /// Since when it is known that packets come round here.
    loop_said: Option<Moment>,
    keeping: Keeping,
}

/// Whether the sockets are to stay open when the relay ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeping {
    /// Nothing has come to them in user space.
    Unheard,
    /// Something has, since then; or then it was asked in vain.
    HeardSince(Moment),
    /// The store has them.
    Kept,
}

/// See the module.
pub(super) struct MediaSockets {
    addresses: Addresses,
    ports: Arc<SharedPorts>,
    store: Arc<SocketStore>,
    epoll: Arc<Epoll>,
    /// By port: half of its distance from the first.
    pairs: Vec<Option<Box<Pair>>>,
    tallies: Option<Arc<Tallies>>,
    /// Pairs that were bound and are not noted in the tallies yet.
    fresh: Vec<(u16, PortKey)>,
    /// The session that is being taken over, and the pairs that it has got so far.
    adopting: Option<SessionId>,
    rebound: Vec<u16>,
    refused: Sparse,
    exhausted: Sparse,
    unrouted: Sparse,
}

impl MediaSockets {
    pub(super) fn new(
        addresses: Addresses,
        ports: Arc<SharedPorts>,
        store: Arc<SocketStore>,
        epoll: Arc<Epoll>,
        tallies: Option<Arc<Tallies>>,
    ) -> MediaSockets {
        let (start, end) = ports.range;
        let count = end.saturating_sub(u32::from(start)) / 2;
        MediaSockets {
            addresses,
            ports,
            store,
            epoll,
            pairs: (0..count).map(|_| None).collect(),
            tallies,
            fresh: Vec::new(),
            adopting: None,
            rebound: Vec::new(),
            refused: Sparse::default(),
            exhausted: Sparse::default(),
            unrouted: Sparse::default(),
        }
    }

    /// The pair that a port belongs to, if it is bound by this worker.
    pub(super) fn pair(&mut self, port: u16) -> Option<&mut Pair> {
        let offset = port.checked_sub(self.ports.range.0)?;
        self.pairs.get_mut(usize::from(offset / 2))?.as_deref_mut()
    }

    /// Closes a pair, by its RTP port.
    pub(super) fn close(&mut self, port: u16) {
        let Some(offset) = port.checked_sub(self.ports.range.0) else {
            return;
        };
        let slot = self.pairs.get_mut(usize::from(offset / 2));
        if let Some(pair) = slot.and_then(Option::take) {
            if let Some(tallies) = &self.tallies {
                tallies.close(port);
            }
            if pair.keeping == Keeping::Kept {
                // They are open elsewhere, too, and would be reported on.
                for socket in &pair.sockets {
                    let _ = self.epoll.remove(socket);
                }
                self.store.release(port);
            }
            self.ports
                .with(|pool| pool.give_back(port, clock::moment()));
            self.ports.leave();
        }
    }

    /// Notes in the tallies whose the pairs are that were bound since this was asked last.
    pub(super) fn note_fresh(&mut self, engine: &Engine) {
        for (port, place) in mem::take(&mut self.fresh) {
            self.note_tally(port, place, engine);
        }
    }

    /// Notes what was counted at a pair, by either of its ports, where that outlives the process.
    pub(super) fn note_tally(&self, port: u16, place: PortKey, engine: &Engine) {
        if let Some(tallies) = &self.tallies {
            if let Some((session, tally)) = engine.tally(place) {
                tallies.note(port & !1, session, &tally);
            }
        }
    }

    /// Has an engine take over a session of the process before this one. Where that fails none of its pairs stays bound.
    ///
    /// # Errors
    /// Why it cannot be taken over.
    pub(super) fn adopt<T>(
        &mut self,
        session: SessionId,
        adopt: impl FnOnce(&mut MediaSockets) -> Result<T, String>,
    ) -> Result<T, String> {
        self.adopting = Some(session);
        self.rebound.clear();
        // One session must not keep the relay from starting, again and again.
        let adopted = panic::catch_unwind(AssertUnwindSafe(|| adopt(self)));
        self.adopting = None;
        let adopted = adopted
            .unwrap_or_else(|_| Err("it cannot be handled, for a fault in the relay".into()));
        if adopted.is_err() {
            for port in mem::take(&mut self.rebound) {
                self.close(port);
            }
        }
        adopted
    }

    /// Binds a pair that a session had in the process before this one.
    ///
    /// # Errors
    /// Why it cannot be had.
    fn bind_again(&mut self, address: IpAddr, port: u16, place: PortKey) -> Result<(), String> {
        let (tallies, session) = (self.tallies.as_ref(), self.adopting);
        if let (Some(tallies), Some(session)) = (tallies, session) {
            if !tallies.was_open(port, session) {
                return Err("it was closed after its session was saved".into());
            }
        }
        if !self.ports.with(|pool| pool.claim(port)) {
            return Err("it is not in port_range any more, or another call has it".into());
        }
        if !self.ports.enter() {
            self.ports.with(|pool| pool.put_back(port));
            return Err("no more files may be open (LimitNOFILE)".into());
        }
        let inherited = self.store.take(SocketAddr::new(address, port));
        let is_kept = inherited.is_some();
        let bound = match inherited {
            Some(sockets) => self.watch(port, sockets),
            None => self.bind_and_watch(address, port),
        };
        match bound {
            Ok(sockets) => {
                self.keep(port, place, sockets);
                if let Some(pair) = self.pair(port).filter(|_| is_kept) {
                    pair.keeping = Keeping::Kept;
                }
                self.rebound.push(port);
                Ok(())
            }
            Err(error) => {
                self.ports.leave();
                self.ports.with(|pool| match is_bad_port(&error) {
                    true => pool.put_aside(port),
                    false => pool.put_back(port),
                });
                Err(error.to_string())
            }
        }
    }

    /// Has the sockets kept that media has come to for less than a while, as the relay ends.
    pub(super) fn keep_heard(&mut self) {
        for pair in self.pairs.iter_mut().flatten() {
            if let Keeping::HeardSince(since) = pair.keeping {
                pair.keep_if_heard(since + HEARD_FOR, &self.store);
            }
        }
    }

    /// Sends from one of the bound ports.
    ///
    /// # Errors
    /// As of [`MediaSocket::send`].
    pub(super) fn send(
        &mut self,
        from_port: u16,
        to: SocketAddr,
        data: &[u8],
        marks: Marks,
    ) -> io::Result<()> {
        match self.pair(from_port) {
            Some(pair) => pair.socket(from_port).send(data, to, marks),
            None => Ok(()),
        }
    }

    /// Tries pairs until one can be bound; those that some other program has are added to `bad`.
    fn bind_any(&mut self, address: IpAddr, place: PortKey, bad: &mut Vec<u16>) -> Option<u16> {
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
                    self.fresh.push((port, place));
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

    fn bind_and_watch(&self, address: IpAddr, port: u16) -> io::Result<[MediaSocket; 2]> {
        let bind = |port| MediaSocket::bind(SocketAddr::new(address, port));
        self.watch(port, [bind(port)?, bind(port | 1)?])
    }

    fn watch(&self, port: u16, sockets: [MediaSocket; 2]) -> io::Result<[MediaSocket; 2]> {
        for (socket, port) in sockets.iter().zip([port, port | 1]) {
            self.epoll.add(socket, u64::from(port), Trigger::Level)?;
        }
        Ok(sockets)
    }

    fn keep(&mut self, port: u16, place: PortKey, sockets: [MediaSocket; 2]) {
        let offset = usize::from(port.saturating_sub(self.ports.range.0) / 2);
        if let Some(slot) = self.pairs.get_mut(offset) {
            *slot = Some(Box::new(Pair {
                port,
                place,
                sockets,
                rounds: [0; 2],
                has_failed: false,
                hops: [Hops::default(); 2],
                loop_said: None,
                keeping: Keeping::Unheard,
            }));
        }
    }

    fn say_exhausted(&mut self) {
        if let Some(left_out) = self.exhausted.due() {
            let (start, end) = self.ports.range;
            warn!("no port pair is left: all of port_range = {start}:{end} are in use{left_out}");
        }
    }

    fn say_refused(&mut self, address: IpAddr, error: &io::Error) {
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
    pub(super) fn place(&self, port: u16) -> PortKey {
        let component = component_of(port);
        PortKey {
            component,
            ..self.place
        }
    }

    /// The socket of a port of this pair.
    pub(super) fn socket(&mut self, port: u16) -> &mut MediaSocket {
        let [rtp, rtcp] = &mut self.sockets;
        match component_of(port) {
            Component::Rtp => rtp,
            Component::Rtcp => rtcp,
        }
    }

    /// What a packet that came to a port with these marks goes on with; none where it has come round and may pass nobody
    /// any more.
    pub(super) fn onward(&mut self, port: u16, came: Marks, now: Moment) -> Option<Marks> {
        let ttl = self.hops[component_of(port) as usize].onward(came.ttl, now)?;
        Some(Marks { ttl, ..came })
    }

    /// Returns true if it is time to say that packets come round here.
    pub(super) fn is_loop_due(&mut self, now: Moment) -> bool {
        let is_due = self
            .loop_said
            .is_none_or(|said| now >= said + SAY_AGAIN_AFTER);
        if is_due {
            self.loop_said = Some(now);
        }
        is_due
    }

    /// Something has come to this pair: has the sockets kept for the next process once that goes on for a while.
    pub(super) fn keep_if_heard(&mut self, now: Moment, store: &SocketStore) {
        match self.keeping {
            Keeping::Unheard => self.keeping = Keeping::HeardSince(now),
            Keeping::HeardSince(since) if now.since(since) >= HEARD_FOR => {
                self.keeping = if store.keep(self.port, &self.sockets) {
                    Keeping::Kept
                } else {
                    Keeping::HeardSince(now)
                };
            }
            _ => {}
        }
    }

    /// Notes that a port is read in this round; whether it was in the round before, too: a flood.
    pub(super) fn is_flood(&mut self, port: u16, round: u64) -> bool {
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

impl Environment for MediaSockets {
    fn bind(&mut self, address: IpAddr, place: PortKey) -> Option<u16> {
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

    fn rebind(&mut self, address: IpAddr, port: u16, place: PortKey) -> bool {
        let bound = self.bind_again(address, port, place);
        if let Err(why) = &bound {
            let session = self.adopting.map(|id| format!("session {id}: "));
            warn!(
                "{}ports {port} and {} on {address} cannot be had again: {why}",
                session.unwrap_or_default(),
                port | 1
            );
        }
        bound.is_ok()
    }

    fn tally(&mut self, port: u16, session: SessionId) -> Option<Tally> {
        self.tallies.as_ref()?.get(port, session)
    }

    fn last_alive(&self) -> Option<Moment> {
        self.tallies.as_ref()?.last_alive()
    }

    fn local_address(&mut self, towards: Option<IpAddr>) -> IpAddr {
        let usual = self.addresses.relay_ip;
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
mod tests;
