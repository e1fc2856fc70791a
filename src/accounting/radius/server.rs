//! One RADIUS server: its address, one connected UDP socket to it (so that the kernel drops what others send), and
//! when to leave it alone.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::client::{Address, Secret};
use super::exchange::{Exchange, Ledger, Pace, Request, Step};
use super::lookup::Lookup;
use super::packet::{MAX_PACKET, Wrong};
use crate::accounting::DeliveryResult;
use crate::config::Host;
use crate::moment::Moment;
use crate::sys::clock;

/// How long a server that did not answer is asked last; twice as long each time that it happens again.
const FIRST_REST: Duration = Duration::from_secs(60);
const LONGEST_REST: Duration = Duration::from_secs(900);

/// Datagrams taken at once that came since the last delivery.
const MAX_LATE: usize = 1_000;

/// What is known of sessions that got no verdict yet.
pub(super) type Settled = HashMap<String, DeliveryResult>;

#[derive(Debug)]
pub(super) struct Server {
    address: Address,
    secret: Secret,
    bind: Option<IpAddr>,
    lookup: Lookup,
    /// What the name stands for; the choice among them is not beyond the end but when all failed.
    known: Vec<SocketAddr>,
    choice: usize,
    socket: Option<(SocketAddr, UdpSocket)>,
    ledger: Ledger,
    rests_until: Option<Moment>,
    rest: Duration,
    /// Datagrams with a wrong signature in this round.
    forged: u32,
}

impl Server {
    pub(super) fn new(address: Address, secret: Secret, bind: Option<IpAddr>) -> Server {
        let known = match address.host {
            Host::Address(ip) => vec![SocketAddr::new(ip, address.port)],
            Host::Name(_) => Vec::new(),
        };
        Server {
            address,
            secret,
            bind,
            lookup: Lookup::default(),
            known,
            choice: 0,
            socket: None,
            ledger: Ledger::default(),
            rests_until: None,
            rest: Duration::ZERO,
            forged: 0,
        }
    }

    /// As it is configured.
    pub(super) fn name(&self) -> &str {
        &self.address.text
    }

    /// Until when it is to be asked last; none where it is well.
    pub(super) fn rests_until(&self, now: Moment) -> Option<Moment> {
        self.rests_until.filter(|until| now < *until)
    }

    /// It did not answer: it rests, and the next address is tried then.
    pub(super) fn failed(&mut self, now: Moment) {
        self.rest = (self.rest * 2).clamp(FIRST_REST, LONGEST_REST);
        self.rests_until = Some(now + self.rest);
        self.choice += 1;
    }

    /// It answered. Whether that is news.
    pub(super) fn answered(&mut self) -> bool {
        self.rests_until = None;
        !std::mem::take(&mut self.rest).is_zero()
    }

    pub(super) fn forget(&mut self, settled: &Settled) {
        self.ledger
            .forget(|session_id| settled.contains_key(session_id));
    }

    /// Sends what is not settled, and notes what is answered as delivered. Returns the sessions that got no answer
    /// although others did. One that answers too slowly for all is asked for the rest the next time.
    ///
    /// # Errors
    /// It does not answer, and why; what was answered before is noted.
    pub(super) fn ask(
        &mut self,
        requests: &[Request],
        pace: Pace,
        deadline: Moment,
        settled: &mut Settled,
    ) -> Result<Vec<String>, String> {
        self.forged = 0;
        let result = self
            .connect()
            .and_then(|()| self.exchange(requests, pace, deadline, settled));
        result.map_err(|why| match (&self.address.host, &self.socket) {
            (Host::Name(_), Some((address, _))) => format!("{} ({address}): {why}", self.name()),
            _ => format!("{}: {why}", self.name()),
        })
    }

    fn exchange(
        &mut self,
        requests: &[Request],
        pace: Pace,
        deadline: Moment,
        settled: &mut Settled,
    ) -> Result<Vec<String>, String> {
        self.take_late(settled).map_err(|error| error.to_string())?;
        let unsettled = requests
            .iter()
            .filter(|request| !settled.contains_key(&request.session_id));
        let mut exchange = Exchange::new(unsettled, pace);
        loop {
            let now = clock::moment();
            if now >= deadline {
                return if exchange.heard() {
                    Ok(exchange.passed_over())
                } else {
                    Err(self.silence(pace))
                };
            }
            match exchange.next(&mut self.ledger, &self.secret, now) {
                Step::Send(identifier) => {
                    self.send(identifier).map_err(|error| error.to_string())?
                }
                Step::Wait(until) => {
                    let wait = until.min(deadline).since(now);
                    let answered = self.receive(wait).map_err(|error| error.to_string())?;
                    if let Some(session_id) = answered {
                        exchange.settled(&session_id, clock::moment());
                        settled.insert(session_id, DeliveryResult::Delivered);
                    }
                }
                Step::Done => return Ok(exchange.passed_over()),
                Step::Silent => return Err(self.silence(pace)),
            }
        }
    }

    fn silence(&self, pace: Pace) -> String {
        let waited = pace.interval.saturating_mul(pace.tries).as_secs_f32();
        let times = if pace.tries == 1 { "time" } else { "times" };
        let sent = format!("no answer, asked {} {times} in {waited:.0} s", pace.tries);
        match self.forged {
            0 => format!("{sent}: does it run, and is this host its client, with this secret?"),
            count => format!("{sent}, but {count} with a wrong signature: is the secret the same?"),
        }
    }

    /// A socket to the address that is due.
    fn connect(&mut self) -> Result<(), String> {
        self.look_up()?;
        let target = self.known.get(self.choice).or(self.known.first());
        let target = *target.ok_or("its name has no address that can be reached from bindaddr")?;
        if self
            .socket
            .as_ref()
            .is_some_and(|(connected, _)| *connected == target)
        {
            return Ok(());
        }
        let any = match target {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let local = self.bind.unwrap_or(any);
        let socket =
            UdpSocket::bind((local, 0)).map_err(|error| format!("bindaddr {local}: {error}"))?;
        socket
            .connect(target)
            .map_err(|error| format!("{target}: {error}"))?;
        self.socket = Some((target, socket));
        // Answers to what was sent from the old socket do not come here.
        self.ledger = Ledger::default();
        Ok(())
    }

    /// Asks for a name when nothing is known of it or all that is known failed. What cannot be looked up stays as it
    /// was.
    fn look_up(&mut self) -> Result<(), String> {
        if self.choice < self.known.len() {
            return Ok(());
        }
        self.choice = 0;
        let Host::Name(name) = &self.address.host else {
            return Ok(());
        };
        match self.lookup.addresses(name, self.address.port) {
            Ok(mut found) => {
                let bind = self.bind;
                found.retain(|address| bind.is_none_or(|bind| bind.is_ipv4() == address.is_ipv4()));
                self.known = found;
                Ok(())
            }
            Err(_) if !self.known.is_empty() => Ok(()),
            Err(why) => Err(why),
        }
    }

    /// What came since the last delivery: late answers, and errors that old requests caused.
    fn take_late(&mut self, settled: &mut Settled) -> io::Result<()> {
        let Some((_, socket)) = &self.socket else {
            return Ok(());
        };
        socket.set_nonblocking(true)?;
        let mut buffer = [0; MAX_PACKET + 1];
        for _ in 0..MAX_LATE {
            match socket.recv(&mut buffer) {
                Ok(length) => {
                    let datagram = buffer.get(..length).unwrap_or_default();
                    if let Ok(session_id) = self.ledger.receive(datagram, &self.secret) {
                        settled.insert(session_id, DeliveryResult::Delivered);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {}
            }
        }
        socket.set_nonblocking(false)
    }

    fn send(&self, identifier: u8) -> io::Result<()> {
        let Some((_, socket)) = &self.socket else {
            return Ok(());
        };
        match socket.send(self.ledger.packet(identifier)) {
            // The kernel has no room at the moment: as if it was lost on its way.
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            result => result.map(|_| ()),
        }
    }

    /// Waits for a datagram: the session that it settles, if it does.
    fn receive(&mut self, wait: Duration) -> io::Result<Option<String>> {
        let Some((_, socket)) = &self.socket else {
            return Ok(None);
        };
        // Zero would be for ever.
        socket.set_read_timeout(Some(wait.max(Duration::from_millis(1))))?;
        let mut buffer = [0; MAX_PACKET + 1];
        match socket.recv(&mut buffer) {
            Ok(length) => match self
                .ledger
                .receive(buffer.get(..length).unwrap_or_default(), &self.secret)
            {
                Ok(session_id) => Ok(Some(session_id)),
                Err(wrong) => {
                    self.forged += u32::from(wrong == Wrong::Signature);
                    Ok(None)
                }
            },
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Ok(None),
                _ => Err(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::host_and_port;

    fn server(text: &str, bind: Option<&str>) -> Server {
        let (host, port) = host_and_port(text, 1813).unwrap();
        let address = Address {
            text: text.into(),
            host,
            port,
        };
        Server::new(
            address,
            Secret::new(b"hush"),
            bind.map(|bind| bind.parse().unwrap()),
        )
    }

    #[test]
    fn a_server_that_fails_again_rests_longer() {
        let mut server = server("192.0.2.1", None);
        let at = |seconds| Moment::after_start(Duration::from_secs(seconds));
        assert_eq!(server.rests_until(at(5)), None);
        server.failed(at(5));
        assert_eq!(
            (server.rests_until(at(6)), server.rests_until(at(65))),
            (Some(at(65)), None)
        );
        server.failed(at(100));
        assert_eq!(server.rests_until(at(101)), Some(at(220)));
        for _ in 0..10 {
            server.failed(at(1000));
        }
        assert_eq!(server.rests_until(at(1001)), Some(at(1900)));
        assert!(server.answered() && !server.answered());
        assert_eq!(server.rests_until(at(1001)), None);
        server.failed(at(2000));
        assert_eq!(server.rests_until(at(2001)), Some(at(2060)));
    }

    #[test]
    fn the_addresses_of_a_name_take_turns_and_are_then_looked_up_again() {
        let mut server = server("localhost:9", None);
        server.known = vec![
            "127.0.0.2:9".parse().unwrap(),
            "127.0.0.3:9".parse().unwrap(),
        ];
        let peer = |server: &Server| server.socket.as_ref().map(|(peer, _)| peer.to_string());
        for expected in ["127.0.0.2:9", "127.0.0.3:9", "127.0.0.1:9"] {
            server.connect().unwrap();
            assert_eq!(peer(&server).as_deref(), Some(expected));
            server.failed(Moment::START);
        }
    }

    #[test]
    fn an_address_keeps_its_socket_and_with_it_its_identifiers() {
        let mut server = server("127.0.0.1:9", Some("127.0.0.1"));
        server.connect().unwrap();
        let port = |server: &Server| server.socket.as_ref().unwrap().1.local_addr().unwrap();
        let before = port(&server);
        server.failed(Moment::START);
        server.connect().unwrap();
        assert_eq!(port(&server), before);
    }

    #[test]
    fn an_address_that_is_not_of_this_host() {
        let error = server("127.0.0.1", Some("192.0.2.1"))
            .connect()
            .unwrap_err();
        assert!(error.starts_with("bindaddr 192.0.2.1: "), "{error}");
        let error = server("localhost", Some("2001:db8::1"))
            .connect()
            .unwrap_err();
        assert!(!error.is_empty());
    }

    #[test]
    fn no_secret_is_shown() {
        assert!(!format!("{:?}", server("127.0.0.1", None)).contains("hush"));
    }
}
