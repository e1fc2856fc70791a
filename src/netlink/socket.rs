//! Requests to the kernel and their answers, matched by number, with the errno of what failed.

use std::io;
use std::time::Duration;

use super::conntrack::{self, Entry};
use super::message::{self, Builder, Message, Messages, Truncated};
use super::nftables::{self, Batch, Element};
use crate::counters::Counters;
use crate::sys::netlink::NetlinkSocket;

/// The kernel answers while it handles the request: what takes longer is lost.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// A table with all its elements goes in one message, and their echoes come before anything is read.
const BUFFERS: i32 = 8 << 20;
/// How often a dump is tried that others' changes interrupt.
const DUMPS: usize = 5;
/// More than the kernel puts in one datagram (NLMSG_GOODSIZE is at most 32 KiB for dumps).
const DATAGRAM: usize = 64 * 1024;

/// A connection to netfilter for requests.
#[derive(Debug)]
pub struct Netfilter {
    socket: NetlinkSocket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// A request of a batch that the kernel refused.
#[derive(Debug)]
pub struct Refused {
    /// Its place among the batch's messages; none where the batch as a whole was refused.
    pub index: Option<usize>,
    pub error: io::Error,
}

impl Refused {
    fn is_of(&self, index: usize, errors: &[i32]) -> bool {
        let code = self.error.raw_os_error();
        self.index == Some(index) && code.is_some_and(|code| errors.contains(&code))
    }
}

/// What keeps others from a table, as far as the kernel knows how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Nothing: any flush of the ruleset removes it.
    None,
    /// Only its maker changes it; it stays when its maker ends (Linux 6.9).
    Persistent,
}

impl Protection {
    /// What to try where the kernel does not know this. A table that ends with its maker's socket (Linux 5.12, OWNER
    /// alone) is none of it: calls are to outlive their relay.
    fn next_best(self) -> Option<Protection> {
        match self {
            Protection::Persistent => Some(Protection::None),
            Protection::None => None,
        }
    }

    fn flags(self) -> u32 {
        match self {
            Protection::None => 0,
            Protection::Persistent => nftables::OWNER | nftables::PERSIST,
        }
    }
}

impl Netfilter {
    pub fn open() -> io::Result<Netfilter> {
        let socket = NetlinkSocket::open()?;
        socket.set_timeout(Some(ANSWER_LIMIT))?;
        socket.set_buffers(BUFFERS)?;
        Ok(Netfilter {
            socket,
            sequence: 1,
            buffer: vec![0; DATAGRAM],
        })
    }

    /// This socket's number: messages that it brings about bear it (see [`super::events`]).
    pub fn port(&self) -> io::Result<u32> {
        self.socket.port()
    }

    /// Sends several requests that each ask for an acknowledgement; `build` adds one under the number that it is
    /// given. What became of each, in order; the entry where the answer repeats one.
    pub fn requests<T>(
        &mut self,
        items: &[T],
        mut build: impl FnMut(&mut Builder, u32, &T),
    ) -> io::Result<Vec<io::Result<Option<Entry>>>> {
        let first = self.take_numbers(items.len());
        let mut builder = Builder::default();
        for (number, item) in (first..).zip(items) {
            build(&mut builder, number, item);
        }
        self.socket.send(builder.bytes())?;
        let mut results: Vec<_> = items.iter().map(|_| Err(lost())).collect();
        let mut latest = None;
        let mut open = items.len();
        while open > 0 {
            self.receive(|message| {
                let index = index_of(message.sequence, first, items.len());
                if message.kind != message::ERROR {
                    // What is repeated comes right before the acknowledgement; an entry that goes, as an event
                    // without a number.
                    if index.is_some() || message.sequence == 0 {
                        latest = conntrack::parse(message).map_err(invalid)?;
                    }
                } else if let Some(index) = index {
                    let errno = message.errno().map_err(invalid)?;
                    results[index] = outcome(errno).map(|()| latest.take());
                    open -= 1;
                }
                Ok(())
            })?;
        }
        Ok(results)
    }

    /// All conntrack entries with a mark. One may come twice, when others go while the kernel lists them; one may be
    /// missed while somebody resizes the hash table: what is missing is to be asked for by [`conntrack::get`].
    pub fn dump(&mut self, mark: u32, mask: u32, mut each: impl FnMut(Entry)) -> io::Result<()> {
        self.list(
            |builder, number| conntrack::dump(builder, number, mark, mask),
            |message| {
                conntrack::parse(message)?.into_iter().for_each(&mut each);
                Ok(())
            },
        )?;
        Ok(())
    }

    /// All elements of a counted set, as they were at one moment.
    ///
    /// # Errors
    /// ENOENT: no such table or set. EINTR: the ruleset was changed again and again meanwhile.
    pub fn elements(&mut self, table: &str, set: &str) -> io::Result<Vec<Element>> {
        self.consistent(
            |builder, number| nftables::dump_elements(builder, number, table, set),
            nftables::parse_elements,
        )
    }

    /// These elements of a counted set.
    ///
    /// # Errors
    /// ENOENT: one of them is not there.
    pub fn some_elements(
        &mut self,
        table: &str,
        set: &str,
        keys: &[nftables::Key],
    ) -> io::Result<Vec<Element>> {
        let mut found = Vec::new();
        self.list(
            |builder, number| nftables::get_elements(builder, number, table, set, keys),
            |message| nftables::parse_elements(message, &mut found),
        )?;
        Ok(found)
    }

    /// The counters of a chain's rules, in order; those without a counter left out. None where there is no such table
    /// or chain.
    ///
    /// # Errors
    /// EINTR: the ruleset was changed again and again meanwhile.
    pub fn rule_counters(&mut self, table: &str, chain: &str) -> io::Result<Vec<Counters>> {
        self.consistent(
            |builder, number| nftables::dump_rules(builder, number, table, chain),
            nftables::parse_rules,
        )
    }

    /// A dump that is asked for again when the ruleset was changed while it ran.
    fn consistent<T>(
        &mut self,
        build: impl Fn(&mut Builder, u32),
        parse: impl Fn(&Message<'_>, &mut Vec<T>) -> Result<(), Truncated>,
    ) -> io::Result<Vec<T>> {
        for _ in 0..DUMPS {
            let mut found = Vec::new();
            if self.list(&build, |message| parse(message, &mut found))? {
                return Ok(found);
            }
        }
        Err(io::Error::from_raw_os_error(libc::EINTR))
    }

    /// A listing of any kind: `build` writes the request under the number that it is given, `each` gets every message of
    /// the answer but its end. Read to that end even where something in it is wrong: the kernel refuses another dump
    /// (EBUSY) before. False where it was changed while it ran.
    pub fn list(
        &mut self,
        build: impl FnOnce(&mut Builder, u32),
        mut each: impl FnMut(&Message<'_>) -> Result<(), Truncated>,
    ) -> io::Result<bool> {
        let number = self.take_numbers(1);
        let mut builder = Builder::default();
        build(&mut builder, number);
        self.socket.send(builder.bytes())?;
        let mut result = Ok(true);
        let mut done = false;
        while !done {
            self.receive(|message| {
                if message.sequence != number {
                    return Ok(());
                }
                done = matches!(message.kind, message::DONE | message::ERROR);
                let told = if done {
                    message.errno().map_err(invalid).and_then(outcome)
                } else {
                    each(message).map_err(invalid)
                };
                let was_changed = message.flags & message::DUMP_INTERRUPTED != 0;
                match (told, &mut result) {
                    (Err(error), Ok(_)) => result = Err(error),
                    (Ok(()), Ok(whole)) => *whole &= !was_changed,
                    (_, Err(_)) => {}
                }
                Ok(())
            })?;
        }
        result
    }

    /// Does a transaction on a table, all of it or nothing; `fill` adds its messages. The elements that the kernel
    /// repeats (see [`Batch::remove_echoed`]).
    pub fn transact(
        &mut self,
        table: &str,
        fill: impl FnOnce(&mut Batch<'_>),
    ) -> Result<Vec<Element>, Refused> {
        let whole = |error| Refused { index: None, error };
        let first = self.take_numbers(0);
        let mut batch = Batch::begin(table, first);
        fill(&mut batch);
        let Some((bytes, last)) = batch.end_acknowledged() else {
            return Ok(Vec::new());
        };
        self.sequence = last.wrapping_add(2);
        self.socket.send(&bytes).map_err(whole)?;
        let mut echoed = Vec::new();
        let mut failed: Option<Refused> = None;
        let mut done = false;
        while !done {
            let received = self.receive(|message| {
                if message.kind == nftables::DELSETELEM {
                    // An echo; late kernels give it no number.
                    return nftables::parse_elements(message, &mut echoed).map_err(invalid);
                }
                let number = message.sequence.wrapping_sub(first);
                if message.kind != message::ERROR || number > last.wrapping_sub(first) {
                    return Ok(());
                }
                let result = outcome(message.errno().map_err(invalid)?);
                done = number == 0 || message.sequence == last;
                if let (Err(error), None) = (result, &failed) {
                    let index = number.checked_sub(1).map(|index| index as usize);
                    failed = Some(Refused { index, error });
                }
                Ok(())
            });
            received.map_err(whole)?;
        }
        failed.map_or(Ok(echoed), Err)
    }

    /// Whether there is a table of this name.
    pub fn has_table(&mut self, table: &str) -> io::Result<bool> {
        self.is_there(
            |builder, number| nftables::get_table(builder, number, table),
            |_| Ok(()),
        )
    }

    /// Whether there is a chain of this name in a table.
    pub fn has_chain(&mut self, table: &str, chain: &str) -> io::Result<bool> {
        self.is_there(
            |builder, number| nftables::get_chain(builder, number, table, chain),
            |_| Ok(()),
        )
    }

    fn is_there(
        &mut self,
        build: impl FnOnce(&mut Builder, u32),
        each: impl FnMut(&Message<'_>) -> Result<(), Truncated>,
    ) -> io::Result<bool> {
        match self.list(build, each) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// How well a table is kept from others; none where there is no such table. One whose maker is gone counts as what
    /// its maker made.
    pub fn protection(&mut self, table: &str) -> io::Result<Option<Protection>> {
        let mut flags = None;
        let is_there = self.is_there(
            |builder, number| nftables::get_table(builder, number, table),
            |message| {
                flags = flags.or(nftables::parse_table(message)?);
                Ok(())
            },
        )?;
        let is_persistent = flags.unwrap_or_default() & nftables::PERSIST != 0;
        let protection = if is_persistent {
            Protection::Persistent
        } else {
            Protection::None
        };
        Ok(is_there.then_some(protection))
    }

    /// How many elements a set has, whatever their keys are.
    ///
    /// # Errors
    /// ENOENT: no such table or set.
    pub fn count_elements(&mut self, table: &str, set: &str) -> io::Result<usize> {
        let mut count = 0;
        self.list(
            |builder, number| nftables::dump_elements(builder, number, table, set),
            |message| {
                count += nftables::count_elements(message)?;
                Ok(())
            },
        )?;
        Ok(count)
    }

    /// How many rules a chain has; none where there is no such table or chain.
    pub fn count_rules(&mut self, table: &str, chain: &str) -> io::Result<usize> {
        let mut count = 0;
        self.list(
            |builder, number| nftables::dump_rules(builder, number, table, chain),
            |message| {
                count += usize::from(nftables::is_rule(message));
                Ok(())
            },
        )?;
        Ok(count)
    }

    /// Takes over a table that an earlier process left, as it is but for what `change` does.
    ///
    /// # Errors
    /// EPERM at 0: a living process owns the table. ENOENT: there is none.
    pub fn take_table(
        &mut self,
        table: &str,
        protection: Protection,
        change: impl Fn(&mut Batch<'_>),
    ) -> Result<(), Refused> {
        let taken = self.transact(table, |batch| {
            // Without its maker's protection there is nobody whose place is to be taken.
            if protection != Protection::None {
                batch.table(protection.flags());
            }
            change(batch);
        });
        taken.map(drop)
    }

    /// Makes a table in the place of the one of that name, an earlier process's or our own; all of it or nothing.
    /// `fill` adds what is in it. It is protected as well as this kernel can, but no better than `best`.
    ///
    /// # Errors
    /// EPERM at 0: a living process owns the table. EPERM without a place: no CAP_NET_ADMIN.
    pub fn replace_table(
        &mut self,
        table: &str,
        best: Protection,
        fill: impl Fn(&mut Batch<'_>),
    ) -> Result<Protection, Refused> {
        let mut protection = best;
        loop {
            let made = self.make_table(table, protection, &fill);
            match (&made, protection.next_best()) {
                (Err(refused), Some(next))
                    if refused.is_of(1, &[libc::EOPNOTSUPP, libc::EINVAL]) =>
                {
                    protection = next;
                }
                _ => return made.map(|()| protection),
            }
        }
    }

    /// Asks first whether there is one: the kernel takes back a transaction that fails only after all readers have
    /// passed (RCU), which is tens of milliseconds on a busy host, and media is lost as long as there is no table.
    fn make_table(
        &mut self,
        table: &str,
        protection: Protection,
        fill: impl Fn(&mut Batch<'_>),
    ) -> Result<(), Refused> {
        let make = |batch: &mut Batch<'_>| {
            batch.table(protection.flags());
            fill(batch);
        };
        let is_there = self.has_table(table);
        if is_there.map_err(|error| Refused { index: None, error })? {
            let replaced = self.transact(table, |batch| {
                batch.delete_table();
                make(batch);
            });
            match replaced {
                // Somebody has deleted it since.
                Err(refused) if refused.is_of(0, &[libc::ENOENT]) => {}
                other => return other.map(drop),
            }
        }
        // Places are told as if there had been one.
        let made = self.transact(table, make).map_err(|refused| Refused {
            index: refused.index.map(|index| index + 1),
            ..refused
        });
        made.map(drop)
    }

    fn receive(&mut self, mut each: impl FnMut(&Message<'_>) -> io::Result<()>) -> io::Result<()> {
        let length = self
            .socket
            .receive(&mut self.buffer)
            .map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => lost(),
                _ => error,
            })?;
        for message in Messages::new(self.buffer.get(..length).unwrap_or_default()) {
            each(&message.map_err(invalid)?)?;
        }
        Ok(())
    }

    fn take_numbers(&mut self, count: usize) -> u32 {
        // Zero is the kernel's own.
        if self.sequence > u32::MAX / 2 {
            self.sequence = 1;
        }
        let first = self.sequence;
        self.sequence += count as u32;
        first
    }
}

fn index_of(sequence: u32, first: u32, count: usize) -> Option<usize> {
    let index = sequence.checked_sub(first)? as usize;
    (index < count).then_some(index)
}

fn outcome(errno: i32) -> io::Result<()> {
    match errno {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

fn lost() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the kernel has not answered")
}

fn invalid(_: Truncated) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "truncated netlink message")
}
