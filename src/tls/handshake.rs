//! TLS handshakes on blocking sockets under one deadline, whatever the pace of the peer's bytes.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, Connection, ServerConnection};

use super::context::{Context, PeerCertificates};
use super::error::{Error, Reason};
use super::passport::Passport;
use super::stream::{self, Peer, Reader, Writer, drain};
use super::verify::Verifier;
use crate::moment::Moment;
use crate::sys::clock;

/// How long a handshake may take where nothing else is said.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// How long a refused peer is listened to, so that it can read why before its connection is reset.
const LINGER: Duration = Duration::from_secs(1);
/// And how many bytes at most.
const LINGER_BYTES: usize = 64 * 1024;

/// Makes the client's handshake on a connected socket.
///
/// In TLS 1.3 the client's handshake is over before the server has judged the client's certificate: only the first read
/// shows whether it was accepted (see [`Reader::read`]). A server's passport shows as a plain close.
///
/// # Errors
/// See [`Error`]; the socket is closed.
pub fn connect(
    socket: TcpStream,
    context: &Context,
    passport: Option<&Passport>,
    limit: Duration,
) -> Result<(Reader, Writer, Peer), Error> {
    let (config, verifier) = context.client().map_err(Error::Protocol)?;
    let address = socket.peer_addr().map_err(Error::Io)?;
    // Not sent and not checked, but the library wants one.
    let name = ServerName::IpAddress(address.ip().into());
    let connection = ClientConnection::new(Arc::new(config), name).map_err(Error::Protocol)?;
    establish(socket, connection.into(), &verifier, passport, limit)
}

/// Makes the server's handshake on an accepted socket. The peer must show a certificate.
///
/// # Errors
/// See [`Error`]; a refused certificate is named with its subject and the reason. The socket is closed, for a
/// refused peer after up to a second more, in which it can read why.
pub fn accept(
    socket: TcpStream,
    context: &Context,
    passport: Option<&Passport>,
    limit: Duration,
) -> Result<(Reader, Writer, Peer), Error> {
    let (config, verifier) = context.server().map_err(Error::Protocol)?;
    let connection = ServerConnection::new(Arc::new(config)).map_err(Error::Protocol)?;
    establish(socket, connection.into(), &verifier, passport, limit)
}

fn establish(
    socket: TcpStream,
    mut connection: Connection,
    verifier: &Verifier,
    passport: Option<&Passport>,
    limit: Duration,
) -> Result<(Reader, Writer, Peer), Error> {
    let mut shake = Handshake {
        socket: &socket,
        deadline: clock::moment() + limit,
        limit,
        output: Vec::new(),
    };
    let address = socket.peer_addr().map_err(Error::Io)?;
    socket.set_nodelay(true).map_err(Error::Io)?;
    // Memory is bounded by the slices in which the writer hands its messages over.
    connection.set_buffer_limit(None);
    if let Err(error) = shake.run(&mut connection) {
        return Err(match (verifier.take_refusal(), error) {
            (Some((subject, reason)), _) => Error::Refused { subject, reason },
            (None, Error::Protocol(rustls::Error::NoCertificatesPresented)) => Error::Refused {
                subject: None,
                reason: Reason::Missing,
            },
            (None, Error::Protocol(rustls::Error::AlertReceived(alert))) => Error::Alert(alert),
            (None, error) => error,
        });
    }
    let chain = connection.peer_certificates().unwrap_or_default().to_vec();
    let certificates = PeerCertificates::new(chain);
    if let Err(reason) = certificates.check_passport(passport) {
        connection.send_close_notify();
        shake.part(&mut connection);
        return Err(Error::Refused {
            subject: Some(certificates.subject().clone()),
            reason,
        });
    }
    stream::tls(socket, connection, address, certificates).map_err(Error::Io)
}

struct Handshake<'a> {
    socket: &'a TcpStream,
    deadline: Moment,
    limit: Duration,
    output: Vec<u8>,
}

impl Handshake<'_> {
    fn run(&mut self, connection: &mut Connection) -> Result<(), Error> {
        let mut buffer = [0; 4096];
        loop {
            self.flush(connection)?;
            if !connection.is_handshaking() {
                return Ok(());
            }
            let count = self.read(&mut buffer)?;
            let mut input = buffer.get(..count).unwrap_or_default();
            if input.is_empty() {
                return Err(Error::Closed);
            }
            while !input.is_empty() {
                connection.read_tls(&mut input).map_err(Error::Io)?;
                if let Err(error) = connection.process_new_packets() {
                    self.part(connection);
                    return Err(Error::Protocol(error));
                }
            }
        }
    }

    /// Sends what the library has to say.
    fn flush(&mut self, connection: &mut Connection) -> Result<(), Error> {
        drain(connection, &mut self.output).map_err(Error::Io)?;
        let mut sent = 0;
        while let Some(rest) = self.output.get(sent..).filter(|rest| !rest.is_empty()) {
            let left = self.left()?;
            self.socket
                .set_write_timeout(Some(left))
                .map_err(Error::Io)?;
            match (&*self.socket).write(rest) {
                Ok(0) => return Err(Error::Closed),
                Ok(count) => sent += count,
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(Error::Io(error)),
            }
        }
        self.output.clear();
        Ok(())
    }

    fn read(&self, buffer: &mut [u8]) -> Result<usize, Error> {
        loop {
            let left = self.left()?;
            self.socket
                .set_read_timeout(Some(left))
                .map_err(Error::Io)?;
            match (&*self.socket).read(buffer) {
                Ok(count) => return Ok(count),
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(Error::Io(error)),
            }
        }
    }

    fn left(&self) -> Result<Duration, Error> {
        let left = self.deadline.since(clock::moment());
        if left.is_zero() {
            return Err(Error::TimedOut(self.limit));
        }
        Ok(left)
    }

    /// Tells the peer why this ends, and reads on for a moment: closing a socket with unread bytes resets the
    /// connection, and a peer that has already sent something would lose the alert.
    fn part(&mut self, connection: &mut Connection) {
        self.deadline = self.deadline.min(clock::moment() + LINGER);
        if self.flush(connection).is_err() || self.socket.shutdown(Shutdown::Write).is_err() {
            return;
        }
        let mut buffer = [0; 4096];
        let mut total = 0;
        while total < LINGER_BYTES {
            match self.read(&mut buffer) {
                Ok(count) if count > 0 => total += count,
                _ => return,
            }
        }
    }
}

/// An interruption, or a time-out that the deadline will judge.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}
