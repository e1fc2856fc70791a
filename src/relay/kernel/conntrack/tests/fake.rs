//! Netfilter in memory for tests: conntrack entries and two sets as the real one has them, packets that go through
//! them, and requests that fail on demand.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::counters::Counters;
use crate::netlink::conntrack::{Entry, NatEntry, Tuple};
use crate::proto::Party;
use crate::relay::kernel::conntrack::events::Sign;
use crate::relay::kernel::conntrack::requests::{Change, Element, Requests, Set};
use crate::relay::kernel::health::Outlook;

/// A kind of request, to have it fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Request {
    Create,
    Get,
    Delete,
    Entries,
    Alter,
    Elements,
    Left,
    Rebuild,
    Watch,
    Leave,
}

/// How a request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Refused with this number, and nothing was done.
    Refused(i32),
    /// Done, and the answer is lost.
    AnswerLost,
    /// Who asks is dead.
    Dead,
}

#[derive(Clone, Debug)]
struct Tracked {
    reply: Tuple,
    is_translated: bool,
    mark_is_ours: bool,
    timeout: u32,
    sent: u64,
    received: u64,
    id: u32,
}

/// Where a packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Went {
    /// Out, as this.
    On(Tuple),
    ToUserSpace,
    Nowhere,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Fake {
    entries: HashMap<Tuple, Tracked>,
    pub forwarded: HashSet<Tuple>,
    pub leaving: HashMap<Tuple, Counters>,
    pub table_is_gone: bool,
    /// It is of another make.
    pub table_is_other: bool,
    /// How long it is to forward without a relay.
    pub left_for: Option<Duration>,
    /// The FORWARD chain drops everything.
    pub drops: bool,
    /// Faults of the next requests of a kind, the first one next.
    pub faults: HashMap<Request, Vec<Option<Fault>>>,
    /// The relay dies with its request of this number, which is done or not as this says.
    pub dies_at: Option<(usize, Fault)>,
    pub is_dead: bool,
    /// Every request that was made.
    pub log: Vec<Request>,
    pub most_entries: Option<usize>,
    /// Whose packets are counted at hook forward.
    pub watched: Option<(NatEntry, Party)>,
    /// Which flows were explained, and what a watch had told of them.
    pub explained: Vec<(NatEntry, Option<bool>)>,
    /// What is to be heard of the doings of others.
    pub signs: Vec<Sign>,
    ids: u32,
}

impl Fake {
    pub(super) fn entry_count(&self) -> usize {
        self.entries.len()
    }

    /// What is in the kernel when who asked is gone and another one comes.
    pub(super) fn inherited(&mut self) -> Fake {
        let mut left = std::mem::take(self);
        left.faults.clear();
        left.signs.clear();
        left.log.clear();
        (left.dies_at, left.is_dead) = (None, false);
        left
    }

    /// Somebody's `conntrack -F`.
    pub(super) fn flush_entries(&mut self) {
        self.entries.clear();
    }

    /// Somebody's `nft flush ruleset`.
    pub(super) fn flush_table(&mut self) {
        self.signs.push(Sign::Table);
        self.table_is_gone = true;
        self.forwarded.clear();
        self.leaving.clear();
    }

    /// Somebody else's entry.
    pub(super) fn occupy(&mut self, tuple: Tuple, mark_is_ours: bool) {
        let id = self.next_id();
        let tracked = Tracked {
            reply: tuple.inverse(),
            is_translated: false,
            mark_is_ours,
            timeout: 30,
            sent: 1,
            received: 0,
            id,
        };
        self.entries.insert(tuple, tracked);
    }

    /// The entries' time passes.
    pub(super) fn age(&mut self, seconds: u32) {
        self.entries.retain(|_, tracked| tracked.timeout > seconds);
        for tracked in self.entries.values_mut() {
            tracked.timeout -= seconds;
        }
    }

    /// A datagram of 200 bytes enters.
    pub(super) fn packet(&mut self, enters: Tuple) -> Went {
        if self.table_is_gone || !self.forwarded.contains(&enters) {
            return Went::ToUserSpace;
        }
        let by_reply = self.entries.iter_mut().find(|(_, t)| t.reply == enters);
        let leaves = match by_reply {
            Some((original, tracked)) => {
                tracked.received += 1;
                tracked.is_translated.then(|| original.inverse())
            }
            None => match self.entries.get_mut(&enters) {
                Some(tracked) => {
                    tracked.sent += 1;
                    tracked.is_translated.then(|| tracked.reply.inverse())
                }
                None => {
                    self.occupy(enters, true);
                    None
                }
            },
        };
        match leaves {
            None => Went::ToUserSpace,
            Some(_) if self.drops => Went::Nowhere,
            Some(leaves) => {
                if let Some(counters) = self.leaving.get_mut(&leaves) {
                    counters.packets += 1;
                    counters.bytes += 200;
                }
                Went::On(leaves)
            }
        }
    }

    fn next_id(&mut self) -> u32 {
        self.ids += 1;
        self.ids
    }

    fn fault(&mut self, request: Request) -> Option<Fault> {
        self.log.push(request);
        if self.is_dead {
            return Some(Fault::Dead);
        }
        if let Some((_, fault)) = self.dies_at.take_if(|(at, _)| *at < self.log.len()) {
            self.is_dead = true;
            return Some(fault);
        }
        let faults = self.faults.get_mut(&request)?;
        if faults.is_empty() {
            return None;
        }
        faults.remove(0)
    }

    fn create_one(&mut self, entry: &NatEntry, timeout: u32) -> io::Result<()> {
        let NatEntry { original, reply } = *entry;
        let is_used = |tuple: &Tuple| {
            self.entries.contains_key(tuple) || self.entries.values().any(|t| t.reply == *tuple)
        };
        if is_used(&original) || is_used(&reply) {
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        }
        if self
            .most_entries
            .is_some_and(|most| self.entries.len() >= most)
        {
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        }
        let id = self.next_id();
        let tracked = Tracked {
            reply,
            is_translated: true,
            mark_is_ours: true,
            timeout,
            sent: 0,
            received: 0,
            id,
        };
        self.entries.insert(original, tracked);
        Ok(())
    }

    fn tell(&self, original: &Tuple) -> Option<Entry> {
        let tracked = self.entries.get(original)?;
        let counted = |packets| {
            Some(Counters {
                packets,
                bytes: 200 * packets,
            })
        };
        Some(Entry {
            original: *original,
            reply: tracked.reply,
            mark: u32::from(tracked.mark_is_ours),
            id: tracked.id,
            timeout: Some(tracked.timeout),
            sent: counted(tracked.sent),
            received: counted(tracked.received),
        })
    }

    fn apply(&mut self, changes: &[Change]) -> io::Result<Vec<Element>> {
        if self.table_is_gone {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        let is_missing = |change: &Change| match change {
            Change::Remove(Set::Forwarded, tuple) => !self.forwarded.contains(tuple),
            Change::Remove(Set::Leaving, tuple) => !self.leaving.contains_key(tuple),
            Change::Add(..) => false,
        };
        if changes.iter().any(is_missing) {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        let mut told = Vec::new();
        for change in changes {
            match *change {
                Change::Add(Set::Forwarded, tuple) => {
                    self.forwarded.insert(tuple);
                }
                Change::Add(Set::Leaving, tuple) => {
                    self.leaving.entry(tuple).or_default();
                }
                Change::Remove(Set::Forwarded, tuple) => {
                    self.forwarded.remove(&tuple);
                }
                Change::Remove(Set::Leaving, tuple) => {
                    let counters = self.leaving.remove(&tuple).unwrap_or_default();
                    told.push(Element { tuple, counters });
                }
            }
        }
        Ok(told)
    }
}

/// Does what was asked, unless it is to fail.
fn with<T>(fault: Option<Fault>, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    match fault {
        None => act(),
        Some(Fault::Refused(code)) => Err(io::Error::from_raw_os_error(code)),
        Some(Fault::Dead) => Err(io::ErrorKind::BrokenPipe.into()),
        Some(Fault::AnswerLost) => {
            let _ = act();
            Err(io::ErrorKind::TimedOut.into())
        }
    }
}

impl Requests for Fake {
    fn start(&mut self) -> Result<usize, String> {
        let before = self.entries.len();
        self.entries.retain(|_, tracked| !tracked.mark_is_ours);
        self.forwarded.clear();
        self.leaving.clear();
        self.table_is_gone = false;
        Ok(before - self.entries.len())
    }

    fn take_over(&mut self) -> bool {
        !self.table_is_gone && !self.table_is_other
    }

    fn stop(&mut self) {
        self.forwarded.clear();
    }

    fn leave(&mut self, time: Duration) -> io::Result<()> {
        let fault = self.fault(Request::Leave);
        with(fault, || {
            self.left_for = Some(time);
            Ok(())
        })
    }

    fn create(&mut self, entries: &[NatEntry], lifetime: u32) -> io::Result<Vec<io::Result<()>>> {
        match self.fault(Request::Create) {
            // The first one is refused, the others are not asked about it.
            Some(Fault::Refused(code)) => {
                let mut results = vec![Err(io::Error::from_raw_os_error(code))];
                results.extend(
                    entries
                        .iter()
                        .skip(1)
                        .map(|entry| self.create_one(entry, lifetime)),
                );
                Ok(results)
            }
            fault => with(fault, || {
                Ok(entries
                    .iter()
                    .map(|entry| self.create_one(entry, lifetime))
                    .collect())
            }),
        }
    }

    fn get(&mut self, tuples: &[Tuple]) -> io::Result<Vec<io::Result<Entry>>> {
        let fault = self.fault(Request::Get);
        let find = |tuple: &Tuple| {
            let by_reply = self.entries.iter().find(|(_, t)| t.reply == *tuple);
            let original = by_reply.map_or(tuple, |(original, _)| original);
            self.tell(original)
                .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
        };
        with(fault, || Ok(tuples.iter().map(find).collect()))
    }

    fn delete(&mut self, entries: &[(Tuple, Option<u32>)]) -> io::Result<Vec<io::Result<()>>> {
        let fault = self.fault(Request::Delete);
        let mut delete = |(tuple, id): &(Tuple, Option<u32>)| match self.entries.get(tuple) {
            Some(tracked) if id.is_none_or(|id| id == tracked.id) => {
                self.entries.remove(tuple);
                Ok(())
            }
            _ => Err(io::Error::from_raw_os_error(libc::ENOENT)),
        };
        with(fault, || Ok(entries.iter().map(&mut delete).collect()))
    }

    fn is_ours(&self, entry: &Entry) -> bool {
        entry.mark == 1
    }

    fn entries(&mut self, each: &mut dyn FnMut(Entry)) -> io::Result<()> {
        let fault = self.fault(Request::Entries);
        let told = self
            .entries
            .keys()
            .filter_map(|original| self.tell(original));
        with(fault, || {
            told.filter(|entry| entry.mark == 1).for_each(each);
            Ok(())
        })
    }

    fn alter(&mut self, changes: &[Change]) -> io::Result<Vec<Element>> {
        let fault = self.fault(Request::Alter);
        with(fault, || self.apply(changes))
    }

    fn elements(&mut self, set: Set, each: &mut dyn FnMut(Element)) -> io::Result<()> {
        let fault = self.fault(Request::Elements);
        with(fault, || {
            if self.table_is_gone {
                return Err(io::Error::from_raw_os_error(libc::ENOENT));
            }
            let none = Counters::default();
            match set {
                Set::Forwarded => self.forwarded.iter().for_each(|&tuple| {
                    each(Element {
                        tuple,
                        counters: none,
                    })
                }),
                Set::Leaving => self
                    .leaving
                    .iter()
                    .for_each(|(&tuple, &counters)| each(Element { tuple, counters })),
            }
            Ok(())
        })
    }

    fn left(&mut self, tuples: &[Tuple]) -> io::Result<Vec<Element>> {
        let fault = self.fault(Request::Left);
        let find = |tuple: &Tuple| match self.leaving.get(tuple) {
            Some(&counters) => Ok(Element {
                tuple: *tuple,
                counters,
            }),
            None => Err(io::Error::from_raw_os_error(libc::ENOENT)),
        };
        with(fault, || tuples.iter().map(find).collect())
    }

    fn rebuild(&mut self, elements: &[Change]) -> io::Result<()> {
        let fault = self.fault(Request::Rebuild);
        with(fault, || {
            self.table_is_gone = false;
            self.forwarded.clear();
            self.leaving.clear();
            self.apply(elements).map(drop)
        })
    }

    fn set_addresses(&mut self, _: &[IpAddr]) -> io::Result<()> {
        Ok(())
    }

    fn remove_all(&mut self) -> io::Result<()> {
        self.table_is_gone = true;
        self.entries.retain(|_, tracked| !tracked.mark_is_ours);
        Ok(())
    }

    fn outlook(&self) -> Outlook {
        if self.drops {
            Outlook::Closed
        } else {
            Outlook::Open
        }
    }

    fn watch(&mut self, entry: &NatEntry, party: Party) -> io::Result<()> {
        assert!(self.watched.is_none(), "one at a time");
        let fault = self.fault(Request::Watch);
        with(fault, || {
            self.watched = Some((*entry, party));
            Ok(())
        })
    }

    fn end_watch(&mut self) -> Option<bool> {
        self.watched.take().map(|_| true)
    }

    fn explain(&mut self, entry: &NatEntry, _: Party, reached_forward: Option<bool>) -> String {
        self.explained.push((*entry, reached_forward));
        "the fake drops".to_owned()
    }

    fn explain_refusal(&self, error: &io::Error) -> String {
        error.to_string()
    }

    fn sources(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    fn hear(&mut self, each: &mut dyn FnMut(Sign)) -> io::Result<()> {
        self.signs.drain(..).for_each(each);
        Ok(())
    }
}
