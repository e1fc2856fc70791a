//! Sockets to netfilter (netlink(7)): send a request, wait for what comes, join event groups. What is said over
//! them is `crate::netlink`'s. And one to hear that this host's addresses have changed (rtnetlink(7)).

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use libc::{c_int, c_void, socklen_t};

use super::{check, count, owned};

/// A socket of the NETLINK_NETFILTER family, bound to an address of its own.
#[derive(Debug)]
pub struct NetlinkSocket {
    fd: OwnedFd,
}

impl NetlinkSocket {
    /// # Errors
    /// EPROTONOSUPPORT where the kernel has no nfnetlink.
    pub fn open() -> io::Result<NetlinkSocket> {
        NetlinkSocket::open_as(libc::NETLINK_NETFILTER, 0)
    }

    /// One for events: [`NetlinkSocket::receive`] does not wait.
    ///
    /// # Errors
    /// As [`NetlinkSocket::open`].
    pub fn open_nonblocking() -> io::Result<NetlinkSocket> {
        NetlinkSocket::open_as(libc::NETLINK_NETFILTER, libc::SOCK_NONBLOCK)
    }

    fn open_as(family: c_int, flags: c_int) -> io::Result<NetlinkSocket> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | flags;
        // SAFETY: no pointers.
        let fd = owned(unsafe { libc::socket(libc::AF_NETLINK, kind, family) })?;
        let address = kernel_address();
        // SAFETY: `address` is a sockaddr_nl and its size is given.
        check(unsafe {
            libc::bind(
                fd.as_raw_fd(),
                (&raw const address).cast(),
                mem::size_of_val(&address) as socklen_t,
            )
        })?;
        Ok(NetlinkSocket { fd })
    }

    /// The number that the kernel knows this socket by (nl_pid).
    pub fn port(&self) -> io::Result<u32> {
        let mut address = kernel_address();
        let mut length = mem::size_of_val(&address) as socklen_t;
        // SAFETY: both pointers are to live values, and `length` is the size of the first.
        check(unsafe {
            libc::getsockname(
                self.fd.as_raw_fd(),
                (&raw mut address).cast(),
                &raw mut length,
            )
        })?;
        Ok(address.nl_pid)
    }

    /// Takes part in a multicast group.
    pub fn join(&self, group: u32) -> io::Result<()> {
        self.set(libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, &group)
    }

    /// How many bytes of messages may wait, either way; beyond the administrator's limit where CAP_NET_ADMIN allows.
    pub fn set_buffers(&self, bytes: c_int) -> io::Result<()> {
        let options = [
            (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
            (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
        ];
        for (beyond, within) in options {
            self.set(libc::SOL_SOCKET, beyond, &bytes)
                .or_else(|_| self.set(libc::SOL_SOCKET, within, &bytes))?;
        }
        Ok(())
    }

    /// How long [`NetlinkSocket::receive`] waits; none for ever.
    pub fn set_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        let limit = limit.unwrap_or_default();
        let time = libc::timeval {
            tv_sec: limit.as_secs() as libc::time_t,
            tv_usec: libc::suseconds_t::from(limit.subsec_micros()),
        };
        self.set(libc::SOL_SOCKET, libc::SO_RCVTIMEO, &time)
    }

    /// Sends messages to the kernel, all or none.
    pub fn send(&self, messages: &[u8]) -> io::Result<()> {
        let address = kernel_address();
        // SAFETY: both pointers are to live values whose sizes are given.
        let sent = count(unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                messages.as_ptr().cast(),
                messages.len(),
                0,
                (&raw const address).cast(),
                mem::size_of_val(&address) as socklen_t,
            )
        })?;
        if sent == messages.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }

    /// Waits for one datagram of messages. Its length; the rest of a longer one is lost, which is an error.
    ///
    /// # Errors
    /// ENOBUFS: messages were lost before this one. EAGAIN: nothing came in time, or nothing is there.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            // SAFETY: the buffer is live and its length is given; with MSG_TRUNC the result may be longer.
            let received = count(unsafe {
                libc::recv(
                    self.fd.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    libc::MSG_TRUNC,
                )
            });
            match received {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(length) if length > buffer.len() => {
                    return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
                }
                other => return other,
            }
        }
    }

    fn set<T>(&self, level: c_int, option: c_int, value: &T) -> io::Result<()> {
        let pointer: *const c_void = (&raw const *value).cast();
        // SAFETY: the value is live and its size is given.
        check(unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                option,
                pointer,
                mem::size_of::<T>() as socklen_t,
            )
        })
        .map(drop)
    }
}

impl AsFd for NetlinkSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Hears of addresses of this host (IPv4) that come and go.
#[derive(Debug)]
pub struct AddressChanges {
    socket: NetlinkSocket,
}

impl AddressChanges {
    /// Hears of what changes from now on.
    pub fn open() -> io::Result<AddressChanges> {
        let socket = NetlinkSocket::open_as(libc::NETLINK_ROUTE, libc::SOCK_NONBLOCK)?;
        socket.join(libc::RTNLGRP_IPV4_IFADDR)?;
        Ok(AddressChanges { socket })
    }

    /// Whether anything has changed since it was last asked; does not wait. Changes that were lost are changes.
    pub fn read(&mut self) -> io::Result<bool> {
        // What a message says is not read, so that one that is cut does not matter.
        let mut buffer = [0; 64];
        let mut has_changed = false;
        loop {
            match self.socket.receive(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(has_changed),
                Err(error) => match error.raw_os_error() {
                    Some(libc::ENOBUFS | libc::EMSGSIZE) => {}
                    _ => return Err(error),
                },
                Ok(_) => {}
            }
            has_changed = true;
        }
    }
}

impl AsFd for AddressChanges {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn kernel_address() -> libc::sockaddr_nl {
    // SAFETY: all of a sockaddr_nl may be zero.
    let mut address: libc::sockaddr_nl = unsafe { mem::zeroed() };
    address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    address
}

/// Moves this thread alone into a network namespace that nobody else is in, for tests of what only root may do.
#[cfg(test)]
pub fn enter_namespace() -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).map(drop)
}
