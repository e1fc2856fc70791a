//! What the kernel tells unasked: our conntrack entries that somebody deleted, changes to our table by others.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::conntrack::{self, Entry};
use super::message::{Message, Messages, Truncated};
use super::nftables;
use crate::sys::netlink::NetlinkSocket;

/// What waits until it is read: some ten thousand events.
const BUFFER_SIZE: i32 = 8 << 20;
/// More than the kernel puts in one datagram of events.
const MOST_DATAGRAM_BYTES: usize = 64 * 1024;
/// Datagrams at once; the rest wait for the next call, so that a storm holds up nobody.
const DATAGRAMS_AT_ONCE: usize = 256;

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
        socket.set_buffers(BUFFER_SIZE)?;
        socket.join(group)?;
        Ok(Events {
            socket,
            buffer: vec![0; MOST_DATAGRAM_BYTES],
            own,
            of,
        })
    }

    /// Reads what is there, a bounded part of it at once: wait with level-triggered epoll.
    pub fn read(&mut self, mut each: impl FnMut(Event)) -> io::Result<()> {
        for _ in 0..DATAGRAMS_AT_ONCE {
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

#[cfg(test)]
impl Events {
    pub fn set_buffers(&self, bytes: i32) -> io::Result<()> {
        self.socket.set_buffers(bytes)
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
        let event = message.and_then(|message| {
            if message.port == own {
                Ok(None)
            } else {
                of.event(&message)
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::tests::vectors::bytes;

    /// What the kernel (6.18) told `conntrack -E -e DESTROY` of an entry with the mark 77, on its deletion by the
    /// socket 0xe0bc6c18.
    const DESTROYED: &str = "
        9c0000000201000000000000186cbce002000000340001801400018008000100c0000201080002000a0000011c000280
        05000100110000000600020075300000060003009c400000340002801400018008000100c0000202080002000a000001
        1c00028005000100110000000600020079180000060003009c42000008000c005b6f983f08000300000003b808000700
        0000003b080008000000004d";

    fn told(datagram: &[u8], own: u32, mark: u32, mask: u32) -> Vec<Event> {
        let mut events = Vec::new();
        let of = Of::Entries { mark, mask };
        tell(datagram, own, &of, &mut |event| events.push(event));
        events
    }

    #[test]
    fn an_entry_of_our_mark_that_another_deleted_is_told() {
        let datagram = bytes(DESTROYED);
        let [Event::Ended(entry)] = told(&datagram, 1, 0x4d, 0xff)[..] else {
            panic!("{:?}", told(&datagram, 1, 0x4d, 0xff));
        };
        assert_eq!((entry.mark, entry.sent), (0x4d, None));
        assert_eq!(entry.original.source, "192.0.2.1:30000".parse().unwrap());
        assert_eq!(entry.reply.source, "192.0.2.2:31000".parse().unwrap());
        assert_eq!(told(&datagram, 1, 0x4e, 0xff), []);
        assert_eq!(told(&datagram, 0xe0bc_6c18, 0x4d, 0xff), []);
    }

    #[test]
    fn what_cannot_be_read_is_as_lost() {
        let datagram = bytes(DESTROYED);
        for end in 1..datagram.len() {
            assert_eq!(told(&datagram[..end], 1, 0x4d, 0xff), [Event::Overrun]);
        }
    }
}
