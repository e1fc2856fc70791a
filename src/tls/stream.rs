//! A connection as two halves that two threads use at the same time: [`Reader`] and [`Writer`].
//!
//! The lock on the TLS state is never held across a socket call. Only the writer writes, so that records
//! leave in the order in which they were encrypted; what the TLS library wants to say because of something that was
//! read (the answer to a KeyUpdate, an alert) leaves with the writer's next message. A connection without TLS has the
//! same types, so that the management port needs one code for all its kinds.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::Connection;

use super::context::PeerCertificates;
use super::error::io_error;
use super::subject::Subject;

/// How long one write may make no progress before the connection counts as dead.
pub const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// Plaintext that is encrypted at a time, so that a line of megabytes costs no megabytes of ciphertext.
const SLICE: usize = 64 * 1024;
/// Ciphertext memory that is kept between messages, bytes.
const KEPT: usize = 16 * 1024;
/// Ciphertext that is read at a time, bytes; about one TLS record.
const READ_SIZE: usize = 16 * 1024;

/// Who is at the other end.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where the connection comes from or leads to; `None` for a UNIX socket. An IPv4 peer has an IPv4 address on an
    /// IPv6 socket too.
    pub address: Option<SocketAddr>,
    /// What the peer showed; `None` without TLS.
    pub certificates: Option<PeerCertificates>,
}

impl Peer {
    /// The subject of the peer's certificate, if it showed one.
    pub fn subject(&self) -> Option<&Subject> {
        self.certificates.as_ref().map(PeerCertificates::subject)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "{address}"),
            None => f.write_str("a local process"),
        }
    }
}

/// The reading half. Belongs to one thread.
#[derive(Debug)]
pub struct Reader {
    socket: Arc<Socket>,
    tls: Option<Arc<Mutex<Connection>>>,
    /// Ciphertext that was read and not yet given to the TLS library: `input[start..end]`.
    input: Vec<u8>,
    start: usize,
    end: usize,
    /// To be reported once the plaintext before it was given out.
    failed: Option<io::Error>,
    ended: bool,
}

/// The writing half. Belongs to one thread.
#[derive(Debug)]
pub struct Writer {
    socket: Arc<Socket>,
    tls: Option<Arc<Mutex<Connection>>>,
    output: Vec<u8>,
}

/// Ends a connection from any thread.
#[derive(Clone, Debug)]
pub struct Closer {
    socket: Arc<Socket>,
}

/// Both kinds of stream sockets.
#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection over TCP without TLS.
///
/// # Errors
/// When the socket is not connected any more.
pub fn plain_tcp(socket: TcpStream) -> io::Result<(Reader, Writer, Peer)> {
    let address = Some(socket.peer_addr()?);
    socket.set_nodelay(true)?;
    socket.set_read_timeout(None)?;
    socket.set_write_timeout(Some(WRITE_LIMIT))?;
    Ok(halves(Socket::Tcp(socket), None, address, None))
}

/// A connection over a UNIX socket.
///
/// # Errors
/// When the socket cannot be set up.
pub fn plain_unix(socket: UnixStream) -> io::Result<(Reader, Writer, Peer)> {
    socket.set_read_timeout(None)?;
    socket.set_write_timeout(Some(WRITE_LIMIT))?;
    Ok(halves(Socket::Unix(socket), None, None, None))
}

/// The halves of a connection whose handshake is over.
pub(super) fn tls(
    socket: TcpStream,
    connection: Connection,
    address: SocketAddr,
    certificates: PeerCertificates,
) -> io::Result<(Reader, Writer, Peer)> {
    socket.set_read_timeout(None)?;
    socket.set_write_timeout(Some(WRITE_LIMIT))?;
    let socket = Socket::Tcp(socket);
    Ok(halves(
        socket,
        Some(connection),
        Some(address),
        Some(certificates),
    ))
}

fn halves(
    socket: Socket,
    connection: Option<Connection>,
    address: Option<SocketAddr>,
    certificates: Option<PeerCertificates>,
) -> (Reader, Writer, Peer) {
    let socket = Arc::new(socket);
    let tls = connection.map(|connection| Arc::new(Mutex::new(connection)));
    let reader = Reader {
        socket: socket.clone(),
        input: vec![0; if tls.is_some() { READ_SIZE } else { 0 }],
        tls: tls.clone(),
        start: 0,
        end: 0,
        failed: None,
        ended: false,
    };
    let writer = Writer {
        socket,
        tls,
        output: Vec::new(),
    };
    let peer = Peer {
        address: address.map(|a| SocketAddr::new(a.ip().to_canonical(), a.port())),
        certificates,
    };
    (reader, writer, peer)
}

impl Reader {
    /// Waits for bytes. 0 is the end, with or without a close_notify, and stays the end; so does any error but
    /// `TimedOut`.
    ///
    /// # Errors
    /// `PermissionDenied`: the peer does not accept our certificate. In TLS 1.3 a client learns this only
    /// here, since its handshake is over before the server has judged. `TimedOut`: see
    /// [`Reader::set_timeout`]. `InvalidData`: not TLS. Others as of the socket.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        let result = match self.tls.clone() {
            Some(tls) => self.read_tls(&tls, buffer),
            None => self.socket.read(buffer),
        };
        self.ended = match &result {
            Ok(count) => *count == 0,
            Err(error) => error.kind() != io::ErrorKind::TimedOut,
        };
        result
    }

    /// How long a read may wait; `None` for ever. A read that gets nothing in time fails with `TimedOut` and may
    /// be repeated.
    ///
    /// # Errors
    /// When the time is zero.
    pub fn set_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        match &*self.socket {
            Socket::Tcp(socket) => socket.set_read_timeout(limit),
            Socket::Unix(socket) => socket.set_read_timeout(limit),
        }
    }

    /// A handle that ends this connection.
    pub fn closer(&self) -> Closer {
        Closer {
            socket: self.socket.clone(),
        }
    }

    fn read_tls(&mut self, tls: &Mutex<Connection>, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(count) = self.decrypt(&mut lock(tls), buffer)? {
                return Ok(count);
            }
            self.start = 0;
            self.end = 0;
            self.end = self.socket.read(&mut self.input)?;
            if self.end == 0 {
                return Ok(0);
            }
        }
    }

    /// Plaintext from what was read so far; `None` when more must be read. Feeds the library only while it
    /// has no plaintext waiting, so that it never holds more than a record or two.
    fn decrypt(
        &mut self,
        connection: &mut Connection,
        buffer: &mut [u8],
    ) -> io::Result<Option<usize>> {
        loop {
            match connection.reader().read(buffer) {
                Ok(count) => return Ok(Some(count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Some(0)),
                Err(error) => return Err(error),
            }
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            let Some(mut input) = self.input.get(self.start..self.end) else {
                return Ok(None);
            };
            if input.is_empty() {
                return Ok(None);
            }
            self.start += connection.read_tls(&mut input)?;
            self.failed = connection.process_new_packets().map_err(io_error).err();
        }
    }
}

impl Writer {
    /// Sends all of `data`, as one record and one system call where it is small.
    ///
    /// # Errors
    /// `TimedOut` when the peer takes nothing for [`WRITE_LIMIT`], else as of the socket. After an error part of
    /// `data` may have been sent: the connection is of no more use.
    pub fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        let Some(tls) = self.tls.clone() else {
            return self.socket.write_all(data);
        };
        for slice in data.chunks(SLICE) {
            {
                let mut connection = lock(&tls);
                connection.writer().write_all(slice)?;
                drain(&mut connection, &mut self.output)?;
            }
            self.send()?;
        }
        self.output.shrink_to(KEPT);
        Ok(())
    }

    /// How long one write may make no progress; [`WRITE_LIMIT`] unless set.
    ///
    /// # Errors
    /// When the time is zero.
    pub fn set_timeout(&self, limit: Duration) -> io::Result<()> {
        match &*self.socket {
            Socket::Tcp(socket) => socket.set_write_timeout(Some(limit)),
            Socket::Unix(socket) => socket.set_write_timeout(Some(limit)),
        }
    }

    /// Says that nothing more will come, and why if the reader met an error (an alert). Reading may go on. Errors are
    /// of no interest any more.
    pub fn finish(mut self) {
        let sent = match self.tls.clone() {
            Some(tls) => {
                let drained = {
                    let mut connection = lock(&tls);
                    connection.send_close_notify();
                    drain(&mut connection, &mut self.output)
                };
                drained.and_then(|()| self.send())
            }
            None => Ok(()),
        };
        if sent.is_ok() {
            self.socket.shutdown(Shutdown::Write);
        }
    }

    /// A handle that ends this connection.
    pub fn closer(&self) -> Closer {
        Closer {
            socket: self.socket.clone(),
        }
    }

    fn send(&mut self) -> io::Result<()> {
        let sent = self.socket.write_all(&self.output);
        self.output.clear();
        sent
    }
}

impl Closer {
    /// Ends the connection at once: the reader reads the end, the writer fails. What was written before may be
    /// lost.
    pub fn close(&self) {
        self.socket.shutdown(Shutdown::Both);
    }
}

impl Socket {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let result = match self {
                Socket::Tcp(socket) => (&*socket).read(buffer),
                Socket::Unix(socket) => (&*socket).read(buffer),
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map_err(timed_out),
            }
        }
    }

    fn write_all(&self, data: &[u8]) -> io::Result<()> {
        match self {
            Socket::Tcp(socket) => (&*socket).write_all(data),
            Socket::Unix(socket) => (&*socket).write_all(data),
        }
        .map_err(timed_out)
    }

    /// An error means that the connection is gone already.
    fn shutdown(&self, which: Shutdown) {
        let _ = match self {
            Socket::Tcp(socket) => socket.shutdown(which),
            Socket::Unix(socket) => socket.shutdown(which),
        };
    }
}

/// A socket's time-out shows as `WouldBlock`.
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock {
        io::ErrorKind::TimedOut.into()
    } else {
        error
    }
}

/// Moves what the TLS library has encrypted to the end of a buffer.
pub(super) fn drain(connection: &mut Connection, output: &mut Vec<u8>) -> io::Result<()> {
    while connection.wants_write() {
        connection.write_tls(output)?;
    }
    Ok(())
}

fn lock(tls: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    tls.lock().unwrap_or_else(PoisonError::into_inner)
}
