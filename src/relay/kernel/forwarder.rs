//! What is asked of the kernel, in which order, and what happens when it refuses. Does not know how it is asked
//! (`requests`) nor what a call is.
//!
//! Whatever fails, the call goes on in user space: a flow that cannot be installed whole is undone, and what cannot be
//! undone is found and removed by a later reading.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use log::warn;

use super::book::{Book, Flow};
use super::health::Health;
use super::paths::Paths;
use super::reading::Watch;
use super::requests::{Change, Element, Requests, Set};
use super::{Key, News};
use crate::logging::sparse::Sparse;
use crate::netlink::conntrack::{End, NatEntry, Tuple};
use crate::proto::{Component, Party};
use crate::session::{Counters, FlowEnd, Installed, Loss, Withdrawal};

/// How long an entry lives without this relay, seconds.
pub const LIFETIME: u32 = 3600;

/// Flows in one request; the answers to more would not fit into a socket's buffer.
pub const TOGETHER: usize = 64;

/// A flow that is to be installed.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub key: Key,
    pub ends: [FlowEnd; 2],
}

/// See the module.
pub struct Forwarder<R> {
    pub requests: R,
    pub(super) book: Book,
    pub(super) health: Health,
    pub(super) paths: Paths,
    /// All addresses of this host.
    locals: HashSet<Ipv4Addr>,
    pub(super) workers: usize,
    /// What workers are to be told, in order.
    pub(super) news: Vec<(usize, News)>,
    /// Something could not be taken back: the sets have to be gone through.
    pub(super) has_debris: bool,
    /// The table is gone and could not be made again: it is tried with each reading.
    pub(super) table_is_gone: bool,
    /// The flow that is kept a little longer, to find out why it is stuck.
    pub(super) watch: Option<Watch>,
    refused: Sparse,
    /// When all entries were listed last.
    pub(super) listed: Duration,
    /// Since when nothing could be read.
    pub(super) unread_since: Option<Duration>,
    pub(super) unread: Sparse,
    pub(super) deleted: Sparse,
    pub(super) bypassed: Sparse,
}

impl<R: Requests> Forwarder<R> {
    pub fn new(requests: R, workers: usize, locals: Vec<Ipv4Addr>) -> Forwarder<R> {
        Forwarder {
            requests,
            book: Book::default(),
            health: Health::default(),
            paths: Paths::default(),
            locals: locals.into_iter().collect(),
            workers,
            news: Vec::new(),
            has_debris: false,
            table_is_gone: false,
            watch: None,
            refused: Sparse::default(),
            listed: Duration::ZERO,
            unread_since: None,
            unread: Sparse::default(),
            deleted: Sparse::default(),
            bypassed: Sparse::default(),
        }
    }

    /// What workers are to be told since this was asked last.
    pub fn take_news(&mut self) -> Vec<(usize, News)> {
        std::mem::take(&mut self.news)
    }

    /// Flows that the kernel has.
    pub fn flows(&self) -> usize {
        self.book.len()
    }

    /// Whether there is anything in the kernel that readings could tell of.
    pub fn has_work(&self) -> bool {
        self.book.len() > 0 || self.has_debris || self.table_is_gone
    }

    /// Whether an entry of this name is one of the flows'.
    pub fn has_entry(&self, original: &Tuple) -> bool {
        self.book.has_entry(original)
    }

    /// This host has other addresses than before.
    pub fn set_addresses(&mut self, locals: Vec<Ipv4Addr>) {
        if let Err(error) = self.requests.set_addresses(&locals) {
            warn!("the addresses of this host cannot be given to the relay's table: {error}");
        }
        self.locals = locals.into_iter().collect();
    }

    /// Hands flows over.
    pub fn install(&mut self, wanted: &[Wanted], now: Duration) {
        let mut able = Vec::new();
        for Wanted { key, ends } in wanted {
            let (Some(caller), Some(callee)) = (end(ends[0]), end(ends[1])) else {
                self.tell(key, News::Installed(key.flow, Installed::Never));
                continue;
            };
            let flow = Flow::new(NatEntry { caller, callee });
            match self.objection(key, &flow, now) {
                Some(answer) => self.tell(key, News::Installed(key.flow, answer)),
                None => able.push((*key, flow)),
            }
        }
        for some in able.chunks(TOGETHER) {
            self.install_some(some);
        }
    }

    /// Why a flow is not handed over.
    fn objection(&mut self, key: &Key, flow: &Flow, now: Duration) -> Option<Installed> {
        let NatEntry { caller, callee } = flow.entry;
        let is_here =
            |end: End| end.remote.ip().is_loopback() || self.locals.contains(end.remote.ip());
        // Such packets take another way through the kernel, where no entry of ours turns them round.
        if is_here(caller) || is_here(callee) {
            return Some(Installed::Never);
        }
        if self.table_is_gone {
            return Some(Installed::NotNow);
        }
        let Forwarder {
            health,
            paths,
            requests,
            ..
        } = self;
        // RTCP would show for seconds neither that media leaves nor that it does not.
        let has_much = key.flow.component == Component::Rtp;
        let is_admitted = paths.admit(&flow.entry, now, has_much)
            && health.admits(now, has_much, || requests.outlook());
        if !is_admitted {
            return Some(Installed::Suspended);
        }
        (!self.book.has_room_for(key, flow)).then_some(Installed::NotNow)
    }

    /// The entries first: as long as the sets do not name them, packets come to user space.
    fn install_some(&mut self, flows: &[(Key, Flow)]) {
        let entries: Vec<NatEntry> = flows.iter().map(|(_, flow)| flow.entry).collect();
        let made = self.make_entries(&entries);
        let (good, bad): (Vec<_>, Vec<_>) =
            flows.iter().zip(made).partition(|(_, made)| made.is_ok());
        let groups: Vec<Vec<Change>> = good.iter().map(|((_, flow), _)| add(flow)).collect();
        let (counted, _) = self.alter_each(&groups);
        let mut undone: Vec<&Flow> = Vec::new();
        for (((key, flow), _), result) in good.into_iter().zip(counted) {
            match result {
                Ok(()) => {
                    self.book.insert(*key, flow.clone());
                    self.tell(key, News::Installed(key.flow, Installed::Taken));
                }
                Err(error) => {
                    self.say_refused(&error);
                    undone.push(flow);
                    self.tell(key, News::Installed(key.flow, Installed::NotNow));
                }
            }
        }
        for ((key, flow), error) in bad {
            let error = error.err().unwrap_or_else(|| io::ErrorKind::Other.into());
            // Where the answer was lost the entry may be there.
            if error.raw_os_error() != Some(libc::EEXIST) {
                undone.push(flow);
            }
            self.say_refused(&error);
            self.tell(key, News::Installed(key.flow, Installed::NotNow));
        }
        if !undone.is_empty() {
            self.take_out(&undone);
        }
    }

    /// One result for each entry. What is in the way and the relay's own is removed.
    fn make_entries(&mut self, entries: &[NatEntry]) -> Vec<io::Result<()>> {
        let mut results = each(self.requests.create(entries, LIFETIME), entries.len());
        let is_taken = |result: &io::Result<()>| matches!(result, Err(error) if error.raw_os_error() == Some(libc::EEXIST));
        let taken: Vec<usize> = (0..results.len())
            .filter(|&i| is_taken(&results[i]))
            .collect();
        if taken.is_empty() {
            return results;
        }
        let again: Vec<NatEntry> = taken.iter().map(|&index| entries[index]).collect();
        let ways: Vec<Tuple> = again
            .iter()
            .flat_map(|e| [e.original(), e.reply()])
            .collect();
        self.clear(&ways);
        let made = each(self.requests.create(&again, LIFETIME), again.len());
        for (index, result) in taken.into_iter().zip(made) {
            results[index] = result;
        }
        results
    }

    /// Deletes entries of the relay's that are found under these tuples.
    fn clear(&mut self, tuples: &[Tuple]) {
        for some in tuples.chunks(TOGETHER) {
            let Ok(found) = self.requests.get(some) else {
                continue;
            };
            let found = found.into_iter().filter_map(Result::ok);
            let ours: Vec<_> = found
                .filter(|entry| self.requests.is_ours(entry))
                .map(|entry| (entry.original, Some(entry.id)))
                .collect();
            self.delete(&ours);
        }
    }

    /// Takes flows back, as workers want it.
    pub fn withdraw(&mut self, keys: &[(Key, Withdrawal)], now: Duration) {
        let mut flows = Vec::new();
        let mut is_bypassed = false;
        for (key, why) in keys {
            match self.book.remove(key) {
                Some(flow) => {
                    flows.push((*key, flow));
                    // Where it was lost meanwhile, its packets had to come to user space.
                    is_bypassed |= *why == Withdrawal::Bypassed;
                }
                None => self.tell(key, News::Withdrawn(key.flow, [Counters::default(); 2])),
            }
        }
        if is_bypassed {
            self.on_bypass(now);
        }
        for some in flows.chunks(TOGETHER) {
            let last = self.take_out(&some.iter().map(|(_, flow)| flow).collect::<Vec<_>>());
            for ((key, _), last) in some.iter().zip(last) {
                self.tell(key, News::Withdrawn(key.flow, last));
            }
        }
    }

    /// Takes flows out of the kernel; what each relayed since it was read last.
    fn take_out(&mut self, flows: &[&Flow]) -> Vec<[Counters; 2]> {
        let remove =
            |set, tuples: [Tuple; 2]| tuples.map(|tuple| Change::Remove(set, tuple)).to_vec();
        // From here on packets come to user space.
        let barred: Vec<_> = flows
            .iter()
            .map(|f| remove(Set::Forwarded, f.enters()))
            .collect();
        let (results, _) = self.alter_each(&barred);
        self.has_debris |= results.iter().any(Result::is_err);
        let entries: Vec<_> = flows.iter().map(|f| (f.entry.original(), None)).collect();
        self.delete(&entries);
        let counted: Vec<_> = flows
            .iter()
            .map(|f| remove(Set::Leaving, f.leaves()))
            .collect();
        let (results, told) = self.alter_each(&counted);
        self.has_debris |= results.iter().any(Result::is_err);
        let told: HashMap<Tuple, Counters> =
            told.into_iter().map(|e| (e.tuple, e.counters)).collect();
        let last = |flow: &&Flow| {
            let leaves = flow.leaves();
            [Party::Caller, Party::Callee].map(|party| {
                let left = told.get(&leaves[party as usize]);
                left.map_or(Counters::default(), |left| flow.more(party, *left))
            })
        };
        flows.iter().map(last).collect()
    }

    pub(super) fn delete(&mut self, entries: &[(Tuple, Option<u32>)]) {
        if entries.is_empty() {
            return;
        }
        for result in each(self.requests.delete(entries), entries.len()) {
            match result {
                Err(error) if error.raw_os_error() != Some(libc::ENOENT) => self.has_debris = true,
                _ => {}
            }
        }
    }

    /// Makes groups of changes, each whole or not at all: all at once where that goes, else group by group. What
    /// removed elements had counted comes with it.
    fn alter_each(&mut self, groups: &[Vec<Change>]) -> (Vec<io::Result<()>>, Vec<Element>) {
        if groups.is_empty() || self.table_is_gone {
            // Nothing is handed over then, and there is nothing to take out.
            return (groups.iter().map(|_| Ok(())).collect(), Vec::new());
        }
        if let Ok(told) = self.requests.alter(&groups.concat()) {
            return (groups.iter().map(|_| Ok(())).collect(), told);
        }
        let mut told = Vec::new();
        let mut results = Vec::new();
        for group in groups {
            results.push(self.alter_one(group, &mut told));
        }
        (results, told)
    }

    /// What is not there needs no removing.
    fn alter_one(&mut self, group: &[Change], told: &mut Vec<Element>) -> io::Result<()> {
        let mut result = Ok(());
        match self.requests.alter(group) {
            Ok(elements) => told.extend(elements),
            Err(error) if group.iter().any(|change| matches!(change, Change::Add(..))) => {
                return Err(error);
            }
            Err(_) => {
                for change in group {
                    match self.requests.alter(std::slice::from_ref(change)) {
                        Ok(elements) => told.extend(elements),
                        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                        Err(error) => result = Err(error),
                    }
                }
            }
        }
        result
    }

    /// Takes flows out that are no good any more, and tells their workers.
    pub(super) fn lose(&mut self, keys: &[Key], loss: Loss) {
        for some in keys.chunks(TOGETHER) {
            let flows: Vec<(Key, Flow)> = some
                .iter()
                .filter_map(|key| Some((*key, self.book.remove(key)?)))
                .collect();
            let last = self.take_out(&flows.iter().map(|(_, flow)| flow).collect::<Vec<_>>());
            // Packets that came after the entry was gone have made others in its place.
            let ways: Vec<Tuple> = flows.iter().flat_map(|(_, flow)| flow.enters()).collect();
            self.clear(&ways);
            // And what was under way then does.
            self.has_debris = true;
            for ((key, _), last) in flows.iter().zip(last) {
                self.tell(key, News::Lost(key.flow, loss, last));
            }
        }
    }

    /// Takes everything back and leaves nothing behind.
    pub fn quit(&mut self) {
        let keys: Vec<_> = self
            .book
            .keys()
            .into_iter()
            .map(|key| (key, Withdrawal::Over))
            .collect();
        self.withdraw(&keys, Duration::ZERO);
        if let Err(error) = self.requests.remove_all() {
            warn!("the relay's nftables table stays behind: {error}");
        }
    }

    fn say_refused(&mut self, error: &io::Error) {
        if let Some(left_out) = self.refused.due() {
            let why = self.requests.explain_refusal(error);
            warn!("a flow stays in user space: {why}{left_out}");
        }
    }

    /// Flows that wait may be offered again.
    pub(super) fn tell_mended(&mut self) {
        let workers = 0..self.workers;
        self.news
            .extend(workers.map(|worker| (worker, News::Mended)));
    }

    pub(super) fn tell(&mut self, key: &Key, news: News) {
        self.news.push((key.worker, news));
    }
}

/// What hands a flow's packets over.
pub fn add(flow: &Flow) -> Vec<Change> {
    let counted = flow.leaves().map(|tuple| Change::Add(Set::Leaving, tuple));
    let forwarded = flow
        .enters()
        .map(|tuple| Change::Add(Set::Forwarded, tuple));
    counted.into_iter().chain(forwarded).collect()
}

/// One result each, where a request may have failed as a whole.
fn each<T>(results: io::Result<Vec<io::Result<T>>>, count: usize) -> Vec<io::Result<T>> {
    match results {
        Ok(results) => results,
        Err(error) => (0..count).map(|_| Err(copy(&error))).collect(),
    }
}

/// An error cannot be cloned.
fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// None where it is of IPv6.
fn end(end: FlowEnd) -> Option<End> {
    match (end.remote, end.local) {
        (SocketAddr::V4(remote), SocketAddr::V4(local)) => Some(End { remote, local }),
        _ => None,
    }
}
