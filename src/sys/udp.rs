//! Media sockets: IPv4 datagrams with their DSCP, one at a time or many in one system call, into memory that
//! is allocated once. udp(7), ip(7).

use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4};
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

/// A bound, nonblocking media socket.
#[derive(Debug)]
pub struct MediaSocket {
    fd: OwnedFd,
    /// What leaves it is marked so.
    dscp: u8,
}

/// A datagram that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    pub from: SocketAddrV4,
    /// In its place in the TOS byte, the two bits below it clear.
    pub dscp: u8,
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
    dscps: Vec<u8>,
    lengths: Vec<usize>,
}

/// What became of several datagrams that were to be sent.
#[derive(Debug, Default)]
pub struct Unsent {
    pub count: u64,
    /// Why the last of them could not be sent.
    pub error: Option<io::Error>,
}

impl MediaSocket {
    /// Binds an address that no other socket has.
    ///
    /// # Errors
    /// `AddrInUse` where another one has it, else as of socket(7).
    pub fn bind(address: SocketAddrV4) -> io::Result<MediaSocket> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: takes no pointers.
        let fd = owned(unsafe { libc::socket(libc::AF_INET, kind, 0) })?;
        set_option(&fd, libc::IP_RECVTOS, 1)?;
        // A relay passes on what is too long in fragments, as a router would; it is no end of the path.
        set_option(&fd, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)?;
        let name = to_name(address);
        // SAFETY: the kernel reads one sockaddr_in.
        check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const name).cast(), NAME_LENGTH) })?;
        Ok(MediaSocket { fd, dscp: 0 })
    }

    /// Sends one datagram, marked with a DSCP.
    ///
    /// # Errors
    /// As of udp(7): no route, forbidden by a packet filter, the interface's queue full. None of them lasts.
    pub fn send(&mut self, data: &[u8], to: SocketAddrV4, dscp: u8) -> io::Result<()> {
        self.mark(dscp);
        let name = to_name(to);
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

    /// Sends several of the received datagrams, by index, all marked with one DSCP. One that cannot be sent
    /// does not hold up the others.
    pub fn send_many(
        &mut self,
        received: &Datagrams,
        which: &[(usize, SocketAddrV4)],
        dscp: u8,
    ) -> Unsent {
        self.mark(dscp);
        let mut unsent = Unsent::default();
        for batch in which.chunks(BATCH) {
            self.send_batch(received, batch, &mut unsent);
        }
        unsent
    }

    fn send_batch(
        &mut self,
        received: &Datagrams,
        which: &[(usize, SocketAddrV4)],
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
            *name = to_name(to);
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
                    done += 1;
                    unsent.count += 1;
                    unsent.error = Some(error);
                }
            }
        }
    }

    /// Sets the DSCP of what is sent from now on, by a system call only when it changes.
    fn mark(&mut self, dscp: u8) {
        if self.dscp != dscp {
            // Where a sandbox forbids it the media is more important than its mark.
            let _ = set_option(&self.fd, libc::IP_TOS, c_int::from(dscp));
            self.dscp = dscp;
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
            dscps: vec![0; BATCH],
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
            from: *self.sources.get(index)?,
            dscp: *self.dscps.get(index)?,
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
        if let (Some(source), Some(dscp)) = (self.sources.get_mut(index), self.dscps.get_mut(index))
        {
            *source = from_name(name);
            *dscp = read_tos(header) & DSCP;
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

/// The TOS byte that came with a datagram (IP_RECVTOS, ip(7)).
fn read_tos(header: &msghdr) -> u8 {
    // SAFETY: the kernel has filled the control buffer of this header, and only as far as it says; the macros
    // stay within that.
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(header);
        while let Some(control) = at.as_ref() {
            if control.cmsg_level == libc::IPPROTO_IP && control.cmsg_type == libc::IP_TOS {
                return *libc::CMSG_DATA(at);
            }
            at = libc::CMSG_NXTHDR(header, at);
        }
    }
    0
}

fn to_name(address: SocketAddrV4) -> sockaddr_in {
    sockaddr_in {
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(address.ip().octets()),
        },
        ..NO_NAME
    }
}

fn from_name(name: sockaddr_in) -> SocketAddrV4 {
    let address = Ipv4Addr::from(name.sin_addr.s_addr.to_ne_bytes());
    SocketAddrV4::new(address, u16::from_be(name.sin_port))
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
mod tests {
    use super::super::epoll::{Epoll, Events, Trigger};
    use super::*;
    use std::time::Duration;

    const LOCAL: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);

    fn socket() -> (MediaSocket, SocketAddrV4) {
        let socket = MediaSocket::bind(LOCAL).unwrap();
        let std = std::net::UdpSocket::from(socket.fd.try_clone().unwrap());
        match std.local_addr().unwrap() {
            std::net::SocketAddr::V4(address) => (socket, address),
            other => panic!("{other}"),
        }
    }

    fn wait_for(socket: &MediaSocket) {
        let epoll = Epoll::new().unwrap();
        epoll.add(socket, 1, Trigger::Level).unwrap();
        let mut events = Events::new();
        epoll
            .wait(&mut events, Some(Duration::from_secs(5)))
            .unwrap();
        assert_eq!(events.token(0), Some(1), "nothing arrived");
    }

    #[test]
    fn dscp_is_kept_by_both_ways_of_sending_and_receiving() {
        let ((mut a, at_a), (b, at_b)) = (socket(), socket());
        let mut datagrams = Datagrams::new();
        for dscp in [0xb8, 0x88, 0] {
            a.send(b"media", at_b, dscp).unwrap();
            wait_for(&b);
            datagrams.receive_one(&b).unwrap();
            let one = Datagram {
                from: at_a,
                dscp,
                data: b"media",
            };
            assert_eq!(datagrams.get(0), Some(one));
            let (mut c, at_c) = socket();
            let unsent = c.send_many(&datagrams, &[(0, at_b), (0, at_b)], dscp);
            assert_eq!(unsent.count, 0);
            wait_for(&b);
            datagrams.receive_many(&b).unwrap();
            assert_eq!(datagrams.len(), 2);
            let one = Datagram { from: at_c, ..one };
            assert_eq!(datagrams.get(1), Some(one));
        }
    }

    #[test]
    fn congestion_bits_are_not_passed_on() {
        let ((mut a, _), (b, at_b)) = (socket(), socket());
        set_option(&a.fd, libc::IP_TOS, 0xb9).unwrap();
        a.dscp = 0xb8;
        a.send(b"x", at_b, 0xb8).unwrap();
        wait_for(&b);
        let mut datagrams = Datagrams::new();
        datagrams.receive_one(&b).unwrap();
        assert_eq!(datagrams.get(0).unwrap().dscp, 0xb8);
    }

    #[test]
    fn nothing_is_cut() {
        let ((mut a, _), (b, at_b)) = (socket(), socket());
        let longest = vec![0x5a; 65_507];
        let mut datagrams = Datagrams::new();
        a.send(&longest, at_b, 0).unwrap();
        wait_for(&b);
        datagrams.receive_one(&b).unwrap();
        assert_eq!(datagrams.get(0).unwrap().data, longest);
        a.send(&longest, at_b, 0).unwrap();
        a.send(b"", at_b, 0).unwrap();
        wait_for(&b);
        datagrams.receive_many(&b).unwrap();
        assert_eq!(datagrams.get(0).unwrap().data, longest);
        assert_eq!(datagrams.get(1).unwrap().data, b"");
        assert_eq!(datagrams.get(2), None);
    }

    #[test]
    fn a_flood_comes_in_batches_and_in_order() {
        let ((mut a, _), (b, at_b)) = (socket(), socket());
        for n in 0..50u8 {
            a.send(&[n], at_b, 0).unwrap();
        }
        let mut datagrams = Datagrams::new();
        let mut seen = Vec::new();
        let mut calls = 0;
        while seen.len() < 50 {
            wait_for(&b);
            datagrams.receive_many(&b).unwrap();
            calls += 1;
            seen.extend((0..datagrams.len()).map(|i| datagrams.get(i).unwrap().data[0]));
        }
        assert_eq!(seen, (0..50).collect::<Vec<u8>>());
        assert!(calls <= 3, "{calls}");
        datagrams.receive_many(&b).unwrap();
        assert!(datagrams.is_empty());
        datagrams.receive_one(&b).unwrap();
        assert!(datagrams.is_empty());
    }

    #[test]
    fn one_that_cannot_be_sent_does_not_hold_up_the_others() {
        let ((mut a, at_a), (b, at_b)) = (socket(), socket());
        a.send(b"x", at_b, 0).unwrap();
        wait_for(&b);
        let mut datagrams = Datagrams::new();
        datagrams.receive_one(&b).unwrap();
        let nowhere = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        let unsent = a.send_many(&datagrams, &[(0, nowhere), (0, at_b), (0, nowhere)], 0);
        assert_eq!(unsent.count, 2, "{unsent:?}");
        assert!(unsent.error.is_some());
        wait_for(&b);
        datagrams.receive_many(&b).unwrap();
        assert_eq!(datagrams.len(), 1);
        assert_eq!(datagrams.get(0).unwrap().from, at_a);
    }

    #[test]
    fn an_address_that_is_taken_is_refused() {
        let (_a, at_a) = socket();
        let error = MediaSocket::bind(at_a).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
