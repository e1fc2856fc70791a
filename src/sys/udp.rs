//! Media sockets: IPv4 datagrams with their DSCP and TTL, one at a time or many in one system call, into memory that
//! is allocated once. udp(7), ip(7).

use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use libc::{c_int, c_uint, c_void, iovec, mmsghdr, msghdr, sockaddr_in, socklen_t};

use super::{check, count, owned};

/// Datagrams that one system call takes in or sends at most.
pub const BATCH: usize = 32;

/// Memory for one datagram: no IPv4 datagram is longer, so nothing is ever cut. Pages that nothing was
/// written to cost nothing.
const SLOT: usize = 65_536;

/// The part of the TOS byte that is the DSCP (RFC 2474 section 3); the rest is for congestion between hosts.
const DSCP: u8 = 0xfc;

/// What a datagram is taken to have come with where the kernel does not tell: RFC 1700's default, and Linux's.
const USUAL_TTL: u8 = 64;

/// What a datagram is marked with in its IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// In its place in the TOS byte, the two bits below it clear.
    pub dscp: u8,
    /// How many hosts it may still pass; never 0 in one that is to be sent.
    pub ttl: u8,
}

impl Marks {
    /// Those of a datagram that comes from nobody else.
    pub const FRESH: Marks = Marks {
        dscp: 0,
        ttl: USUAL_TTL,
    };
}

/// A bound, nonblocking media socket.
#[derive(Debug)]
pub struct MediaSocket {
    fd: OwnedFd,
    /// What leaves it is marked so; nothing is known of a mark that was never set.
    dscp: u8,
    ttl: Option<u8>,
}

/// A datagram that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    pub from: SocketAddr,
    pub marks: Marks,
    pub data: &'a [u8],
}

/// Room for ancillary data of one datagram, aligned as the kernel wants it.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 64]);

/// What was received last; memory for [`BATCH`] datagrams.
pub struct Datagrams {
    data: Vec<u8>,
    sources: Vec<SocketAddrV4>,
    marks: Vec<Marks>,
    lengths: Vec<usize>,
}

/// What became of several datagrams that were to be sent.
#[derive(Debug, Default)]
pub struct Unsent {
    /// Which of them could not be sent.
    pub indices: Vec<usize>,
    /// Why the last of these could not.
    pub error: Option<io::Error>,
}

impl MediaSocket {
    /// Binds an address that no other socket has.
    ///
    /// # Errors
    /// `AddrInUse` where another one has it, else as of socket(7).
    pub fn bind(address: SocketAddr) -> io::Result<MediaSocket> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: takes no pointers.
        let fd = owned(unsafe { libc::socket(libc::AF_INET, kind, 0) })?;
        prepare(&fd)?;
        let name = to_name(address)?;
        // SAFETY: the kernel reads one sockaddr_in.
        check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const name).cast(), NAME_LENGTH) })?;
        Ok(MediaSocket {
            fd,
            dscp: 0,
            ttl: None,
        })
    }

    /// Goes on with a socket that another process has bound, and says where.
    ///
    /// # Errors
    /// It is no IPv4 datagram socket, or as of socket(7).
    pub fn inherited(fd: OwnedFd) -> io::Result<(SocketAddr, MediaSocket)> {
        let (mut kind, mut length): (c_int, _) = (0, mem::size_of::<c_int>() as socklen_t);
        // SAFETY: the kernel writes one int and its length.
        check(unsafe {
            libc::getsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_TYPE,
                (&raw mut kind).cast(),
                &raw mut length,
            )
        })?;
        let (mut name, mut length) = (NO_NAME, NAME_LENGTH);
        // SAFETY: the kernel writes as much of a name as there is room for, and how long it is.
        check(unsafe {
            libc::getsockname(fd.as_raw_fd(), (&raw mut name).cast(), &raw mut length)
        })?;
        if kind != libc::SOCK_DGRAM || name.sin_family != NO_NAME.sin_family {
            return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT));
        }
        // Another version may have had it otherwise.
        prepare(&fd)?;
        set_option(&fd, libc::IP_TOS, 0)?;
        // SAFETY: plain values.
        check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) })?;
        let socket = MediaSocket {
            fd,
            dscp: 0,
            ttl: None,
        };
        Ok((SocketAddr::V4(from_name(name)), socket))
    }

    /// The same socket once more, for who keeps it open when this process ends.
    ///
    /// # Errors
    /// Too many files are open.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    /// Sends one datagram, marked so.
    ///
    /// # Errors
    /// As of udp(7): no route, forbidden by a packet filter, the interface's queue full. None of them lasts.
    pub fn send(&mut self, data: &[u8], to: SocketAddr, marks: Marks) -> io::Result<()> {
        self.mark(marks);
        let name = to_name(to)?;
        loop {
            // SAFETY: the kernel reads the data and one sockaddr_in.
            let sent = count(unsafe {
                libc::sendto(
                    self.fd.as_raw_fd(),
                    data.as_ptr().cast(),
                    data.len(),
                    0,
                    (&raw const name).cast(),
                    NAME_LENGTH,
                )
            });
            match sent {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map(drop),
            }
        }
    }

    /// Sends several of the received datagrams, by index, all marked alike. One that cannot be sent
    /// does not hold up the others.
    pub fn send_many(
        &mut self,
        received: &Datagrams,
        which: &[(usize, SocketAddr)],
        marks: Marks,
    ) -> Unsent {
        self.mark(marks);
        let mut unsent = Unsent::default();
        for batch in which.chunks(BATCH) {
            self.send_batch(received, batch, &mut unsent);
        }
        unsent
    }

    fn send_batch(
        &mut self,
        received: &Datagrams,
        which: &[(usize, SocketAddr)],
        unsent: &mut Unsent,
    ) {
        let mut names = [NO_NAME; BATCH];
        let mut pieces = [NO_PIECE; BATCH];
        let mut headers = [no_header(); BATCH];
        let slots = names.iter_mut().zip(&mut pieces).zip(&mut headers);
        for (((name, piece), header), &(index, to)) in slots.zip(which) {
            let data = received
                .get(index)
                .map_or(&[][..], |datagram| datagram.data);
            // Where there is none the kernel refuses it.
            *name = to_name(to).unwrap_or(NO_NAME);
            *piece = iovec {
                // The kernel only reads from it.
                iov_base: data.as_ptr().cast_mut().cast(),
                iov_len: data.len(),
            };
            header.msg_hdr = message(name, piece);
        }
        let total = which.len().min(BATCH);
        let mut done = 0;
        while let Some(rest) = headers.get_mut(done..total).filter(|rest| !rest.is_empty()) {
            let (fd, length) = (self.fd.as_raw_fd(), rest.len() as c_uint);
            // SAFETY: `rest` are `length` headers whose names and pieces live in the arrays above and in
            // `received`, all of which outlive the call.
            match check(unsafe { libc::sendmmsg(fd, rest.as_mut_ptr(), length, 0) }) {
                Ok(sent) => done += usize::try_from(sent).unwrap_or_default().max(1),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // The first of them failed; go on with the one after it.
                    unsent
                        .indices
                        .extend(which.get(done).map(|(index, _)| index));
                    done += 1;
                    unsent.error = Some(error);
                }
            }
        }
    }

    /// Sets the marks of what is sent from now on, by a system call only when one changes: all that one party sends has
    /// the same as a rule.
    fn mark(&mut self, Marks { dscp, ttl }: Marks) {
        // Where a sandbox forbids it the media is more important than its marks.
        if self.dscp != dscp {
            let _ = set_option(&self.fd, libc::IP_TOS, c_int::from(dscp));
            self.dscp = dscp;
        }
        if self.ttl != Some(ttl) {
            let _ = set_option(&self.fd, libc::IP_TTL, c_int::from(ttl));
            self.ttl = Some(ttl);
        }
    }
}

impl AsFd for MediaSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Datagrams {
    pub fn new() -> Datagrams {
        Datagrams {
            data: vec![0; SLOT * BATCH],
            sources: vec![SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0); BATCH],
            marks: vec![Marks::FRESH; BATCH],
            lengths: Vec::with_capacity(BATCH),
        }
    }

    /// How many were received.
    pub fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Whether none was received.
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// One of those that were received last.
    pub fn get(&self, index: usize) -> Option<Datagram<'_>> {
        let length = *self.lengths.get(index)?;
        Some(Datagram {
            from: SocketAddr::V4(*self.sources.get(index)?),
            marks: *self.marks.get(index)?,
            data: self.data.get(index * SLOT..)?.get(..length)?,
        })
    }

    /// Takes one datagram from a socket; none is there is not an error.
    ///
    /// # Errors
    /// As of recv(2).
    pub fn receive_one(&mut self, socket: &MediaSocket) -> io::Result<()> {
        self.lengths.clear();
        let mut name = NO_NAME;
        let mut control = Control([0; 64]);
        let mut piece = iovec {
            iov_base: self.data.as_mut_ptr().cast(),
            iov_len: SLOT,
        };
        let mut header = message(&mut name, &mut piece);
        add_control(&mut header, &mut control);
        loop {
            // SAFETY: the header points to one name, one control buffer and SLOT bytes of data, all alive.
            match count(unsafe { libc::recvmsg(socket.fd.as_raw_fd(), &raw mut header, 0) }) {
                Ok(length) => {
                    self.note(0, name, &header, length);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes up to [`BATCH`] datagrams from a socket; none is there is not an error.
    ///
    /// # Errors
    /// As of recv(2).
    pub fn receive_many(&mut self, socket: &MediaSocket) -> io::Result<()> {
        self.lengths.clear();
        let mut names = [NO_NAME; BATCH];
        let mut controls = [Control([0; 64]); BATCH];
        let mut pieces = [NO_PIECE; BATCH];
        let mut headers = [no_header(); BATCH];
        let slots = names.iter_mut().zip(&mut controls).zip(&mut pieces);
        let memory = self.data.chunks_exact_mut(SLOT);
        for ((((name, control), piece), memory), header) in slots.zip(memory).zip(&mut headers) {
            *piece = iovec {
                iov_base: memory.as_mut_ptr().cast(),
                iov_len: memory.len(),
            };
            header.msg_hdr = message(name, piece);
            add_control(&mut header.msg_hdr, control);
        }
        let fd = socket.fd.as_raw_fd();
        // SAFETY: BATCH headers, each with its own name, control buffer and SLOT bytes of data, all alive.
        let received = check(unsafe {
            libc::recvmmsg(
                fd,
                headers.as_mut_ptr(),
                BATCH as c_uint,
                0,
                ptr::null_mut(),
            )
        });
        let received = match received {
            Ok(received) => usize::try_from(received).unwrap_or_default(),
            Err(error) => {
                let passing = [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted];
                return if passing.contains(&error.kind()) {
                    Ok(())
                } else {
                    Err(error)
                };
            }
        };
        let filled = headers.iter().zip(&names).take(received).enumerate();
        for (index, (header, name)) in filled {
            self.note(index, *name, &header.msg_hdr, header.msg_len as usize);
        }
        Ok(())
    }

    fn note(&mut self, index: usize, name: sockaddr_in, header: &msghdr, length: usize) {
        if let (Some(source), Some(marks)) =
            (self.sources.get_mut(index), self.marks.get_mut(index))
        {
            *source = from_name(name);
            *marks = read_marks(header);
            self.lengths.push(length.min(SLOT));
        }
    }
}

impl Default for Datagrams {
    fn default() -> Self {
        Datagrams::new()
    }
}

const NAME_LENGTH: socklen_t = mem::size_of::<sockaddr_in>() as socklen_t;

const NO_NAME: sockaddr_in = sockaddr_in {
    sin_family: libc::AF_INET as libc::sa_family_t,
    sin_port: 0,
    sin_addr: libc::in_addr { s_addr: 0 },
    sin_zero: [0; 8],
};

const NO_PIECE: iovec = iovec {
    iov_base: ptr::null_mut(),
    iov_len: 0,
};

fn no_header() -> mmsghdr {
    // SAFETY: integers and pointers, for which zero is a value; musl's type has private padding.
    unsafe { mem::zeroed() }
}

/// A message of one piece from or to one address.
fn message(name: &mut sockaddr_in, piece: &mut iovec) -> msghdr {
    let mut header = no_header().msg_hdr;
    header.msg_name = (&raw mut *name).cast::<c_void>();
    header.msg_namelen = NAME_LENGTH;
    header.msg_iov = &raw mut *piece;
    header.msg_iovlen = 1;
    header
}

fn add_control(header: &mut msghdr, control: &mut Control) {
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len() as _;
}

/// The TOS byte and the TTL that came with a datagram (IP_RECVTOS, IP_RECVTTL, ip(7)); the usual ones where none did.
fn read_marks(header: &msghdr) -> Marks {
    let mut marks = Marks::FRESH;
    // SAFETY: the kernel has filled the control buffer of this header, and only as far as it says; the macros
    // stay within that.
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(header);
        while let Some(control) = at.as_ref() {
            match (control.cmsg_level, control.cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_TOS) => marks.dscp = *libc::CMSG_DATA(at) & DSCP,
                (libc::IPPROTO_IP, libc::IP_TTL) => {
                    let ttl = libc::CMSG_DATA(at).cast::<c_int>().read_unaligned();
                    marks.ttl = u8::try_from(ttl).unwrap_or(USUAL_TTL);
                }
                _ => {}
            }
            at = libc::CMSG_NXTHDR(header, at);
        }
    }
    marks
}

/// An address as the kernel reads it: of IPv4, as the sockets are.
fn to_name(address: SocketAddr) -> io::Result<sockaddr_in> {
    let SocketAddr::V4(address) = address else {
        return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT));
    };
    Ok(sockaddr_in {
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(address.ip().octets()),
        },
        ..NO_NAME
    })
}

fn from_name(name: sockaddr_in) -> SocketAddrV4 {
    let address = Ipv4Addr::from(name.sin_addr.s_addr.to_ne_bytes());
    SocketAddrV4::new(address, u16::from_be(name.sin_port))
}

/// What a media socket is, wherever it comes from.
fn prepare(fd: &OwnedFd) -> io::Result<()> {
    set_option(fd, libc::IP_RECVTOS, 1)?;
    // Where a sandbox forbids it media is relayed all the same.
    let _ = set_option(fd, libc::IP_RECVTTL, 1);
    // A relay passes on what is too long in fragments, as a router would; it is no end of the path.
    set_option(fd, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)
}

fn set_option(fd: &OwnedFd, option: c_int, value: c_int) -> io::Result<()> {
    let length = mem::size_of::<c_int>() as socklen_t;
    // SAFETY: the kernel reads one int.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_IP,
            option,
            (&raw const value).cast(),
            length,
        )
    })?;
    Ok(())
}

#[cfg(test)]
mod tests;
