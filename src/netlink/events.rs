//! What the kernel tells unasked: our conntrack entries that somebody deleted, changes to our table by others.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::conntrack::{self, Entry};
use super::nftables;
use super::wire::{Message, Messages, Truncated};
use crate::sys::netlink::NetlinkSocket;

/// What waits until it is read: some ten thousand events.
const BUFFERS: i32 = 8 << 20;
/// More than the kernel puts in one datagram of events.
const DATAGRAM: usize = 64 * 1024;
/// Datagrams at once; the rest wait for the next call, so that a storm holds up nobody.
const AT_ONCE: usize = 256;

/// Something that was not our own doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An entry of ours has ended, with its last counters.
    Ended(Entry),
    /// Our table was changed or removed.
    TableChanged,
    /// Events were lost: look for yourself.
    Overrun,
}

/// A socket of events; does not wait.
#[derive(Debug)]
pub struct Events {
    socket: NetlinkSocket,
    buffer: Vec<u8>,
    /// The socket whose own doing is not told.
    own: u32,
    of: Of,
}

#[derive(Debug)]
enum Of {
    Entries { mark: u32, mask: u32 },
    Table(String),
}

impl Events {
    /// Of entries whose mark, masked, is `mark`. `own` is the port of the socket that deletes ours.
    ///
    /// Open it before the first entry is made: with `nf_conntrack_events` = 2 earlier ones are never told of.
    pub fn of_entries(own: u32, mark: u32, mask: u32) -> io::Result<Events> {
        let of = Of::Entries { mark, mask };
        Events::open(conntrack::GROUP_DESTROY, own, of)
    }

    /// Of a table. `own` is the port of the socket that makes our changes.
    pub fn of_table(own: u32, table: &str) -> io::Result<Events> {
        Events::open(nftables::GROUP_CHANGES, own, Of::Table(table.to_owned()))
    }

    fn open(group: u32, own: u32, of: Of) -> io::Result<Events> {
        let socket = NetlinkSocket::open_nonblocking()?;
        socket.set_buffers(BUFFERS)?;
        socket.join(group)?;
        Ok(Events {
            socket,
            buffer: vec![0; DATAGRAM],
            own,
            of,
        })
    }

    /// Reads what is there, a bounded part of it at once: wait with level-triggered epoll.
    pub fn read(&mut self, mut each: impl FnMut(Event)) -> io::Result<()> {
        for _ in 0..AT_ONCE {
            let length = match self.socket.receive(&mut self.buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => match error.raw_os_error() {
                    Some(libc::ENOBUFS | libc::EMSGSIZE) => {
                        each(Event::Overrun);
                        continue;
                    }
                    _ => return Err(error),
                },
            };
            let datagram = self.buffer.get(..length).unwrap_or_default();
            tell(datagram, self.own, &self.of, &mut each);
        }
        Ok(())
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The events of a datagram. One that cannot be read is as one that was lost.
fn tell(datagram: &[u8], own: u32, of: &Of, each: &mut impl FnMut(Event)) {
    for message in Messages::new(datagram) {
        let event = message.and_then(|message| match message.port == own {
            true => Ok(None),
            false => of.event(&message),
        });
        match event {
            Ok(event) => event.into_iter().for_each(&mut *each),
            Err(Truncated) => each(Event::Overrun),
        }
    }
}

impl Of {
    fn event(&self, message: &Message<'_>) -> Result<Option<Event>, Truncated> {
        match self {
            Of::Entries { mark, mask } if message.kind == conntrack::DELETE => {
                let entry = conntrack::parse(message)?;
                let ours = entry.filter(|entry| entry.mark & mask == mark & mask);
                Ok(ours.map(Event::Ended))
            }
            Of::Entries { .. } => Ok(None),
            Of::Table(table) => {
                let is_ours = nftables::is_change_of(message, table)?;
                Ok(is_ours.then_some(Event::TableChanged))
            }
        }
    }
}
