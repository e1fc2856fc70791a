//! What is asked of the kernel, in which order, and what happens when it refuses. Does not know how it is asked
//! (`requests`) nor what a call is.
//!
//! Whatever fails, the call goes on in user space: a flow that cannot be installed whole is undone, and what cannot be
//! undone is found and removed by a later reading.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use log::{info, warn};

use super::book::{Book, Finding, Flow};
use super::health::Health;
use super::requests::{Change, Element, Requests, Set};
use super::{Key, News};
use crate::logging::sparse::Sparse;
use crate::netlink::conntrack::{End, NatEntry, Tuple};
use crate::proto::Party;
use crate::session::{Counters, FlowEnd, Installed, Loss, Withdrawal};

/// How long an entry lives without this relay, seconds.
pub const LIFETIME: u32 = 3600;
/// One that has fewer seconds left is replaced: the kernel does not prolong one whose time is fixed.
const RENEWED: u32 = 600;

/// Flows in one request; the answers to more would not fit into a socket's buffer.
const TOGETHER: usize = 64;

/// A flow that is to be installed.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub key: Key,
    pub ends: [FlowEnd; 2],
}

/// See the module.
pub struct Forwarder<R> {
    pub requests: R,
    book: Book,
    health: Health,
    /// All addresses of this host.
    locals: HashSet<Ipv4Addr>,
    workers: usize,
    /// What workers are to be told, in order.
    news: Vec<(usize, News)>,
    /// Something could not be taken back: the sets have to be gone through.
    has_debris: bool,
    /// Left by the kernel since the start, packets.
    left: u64,
    refused: Sparse,
    unread: Sparse,
    deleted: Sparse,
    bypassed: Sparse,
}

impl<R: Requests> Forwarder<R> {
    pub fn new(requests: R, workers: usize, locals: Vec<Ipv4Addr>) -> Forwarder<R> {
        Forwarder {
            requests,
            book: Book::default(),
            health: Health::default(),
            locals: locals.into_iter().collect(),
            workers,
            news: Vec::new(),
            has_debris: false,
            left: 0,
            refused: Sparse::default(),
            unread: Sparse::default(),
            deleted: Sparse::default(),
            bypassed: Sparse::default(),
        }
    }

    /// What workers are to be told since this was asked last.
    pub fn take_news(&mut self) -> Vec<(usize, News)> {
        std::mem::take(&mut self.news)
    }

    /// Whether there is anything in the kernel that readings could tell of.
    pub fn has_work(&self) -> bool {
        self.book.len() > 0 || self.has_debris
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
            let flow = Flow::new(NatEntry {
                caller: end(ends[0]),
                callee: end(ends[1]),
            });
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
        let is_here = |end: End| end.remote.ip().is_loopback() || self.locals.contains(end.remote.ip());
        // Such packets take another way through the kernel, where no entry of ours turns them round.
        if is_here(caller) || is_here(callee) {
            return Some(Installed::Never);
        }
        let Forwarder { health, requests, .. } = self;
        let is_admitted = health.admits(now, || requests.is_forwarding());
        (!is_admitted || !self.book.has_room_for(key, flow)).then_some(Installed::NotNow)
    }

    /// The entries first: as long as the sets do not name them, packets come to user space.
    fn install_some(&mut self, flows: &[(Key, Flow)]) {
        let entries: Vec<NatEntry> = flows.iter().map(|(_, flow)| flow.entry).collect();
        let made = self.make_entries(&entries);
        let (good, bad): (Vec<_>, Vec<_>) = flows.iter().zip(made).partition(|(_, made)| made.is_ok());
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
        let is_taken = |result: &io::Result<()>| {
            matches!(result, Err(error) if error.raw_os_error() == Some(libc::EEXIST))
        };
        let taken: Vec<usize> = (0..results.len()).filter(|&i| is_taken(&results[i])).collect();
        if taken.is_empty() {
            return results;
        }
        let again: Vec<NatEntry> = taken.iter().map(|&index| entries[index]).collect();
        let ways: Vec<Tuple> = again.iter().flat_map(|e| [e.original(), e.reply()]).collect();
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
        for (key, why) in keys {
            match self.book.remove(key) {
                Some(flow) => flows.push((*key, flow)),
                None => self.tell(key, News::Withdrawn(key.flow, [Counters::default(); 2])),
            }
            if *why == Withdrawal::Bypassed {
                self.on_bypass(now);
            }
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
        let remove = |set, tuples: [Tuple; 2]| tuples.map(|tuple| Change::Remove(set, tuple)).to_vec();
        // From here on packets come to user space.
        let barred: Vec<_> = flows.iter().map(|f| remove(Set::Forwarded, f.enters())).collect();
        let (results, _) = self.alter_each(&barred);
        self.has_debris |= results.iter().any(Result::is_err);
        let entries: Vec<_> = flows.iter().map(|f| (f.entry.original(), None)).collect();
        self.delete(&entries);
        let counted: Vec<_> = flows.iter().map(|f| remove(Set::Leaving, f.leaves())).collect();
        let (results, told) = self.alter_each(&counted);
        self.has_debris |= results.iter().any(Result::is_err);
        let told: HashMap<Tuple, Counters> = told.into_iter().map(|e| (e.tuple, e.counters)).collect();
        let last = |flow: &&Flow| {
            let leaves = flow.leaves();
            [Party::Caller, Party::Callee].map(|party| {
                let left = told.get(&leaves[party as usize]);
                left.map_or(Counters::default(), |left| flow.more(party, *left))
            })
        };
        let last: Vec<[Counters; 2]> = flows.iter().map(last).collect();
        self.left += last.iter().flatten().map(|more| more.packets).sum::<u64>();
        last
    }

    fn delete(&mut self, entries: &[(Tuple, Option<u32>)]) {
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
        if groups.is_empty() {
            return (Vec::new(), Vec::new());
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

    /// Reads all counters, tells what was relayed, and finds out what is not as it should be.
    pub fn read(&mut self, now: Duration) {
        let strangers = match self.read_all() {
            Ok(strangers) => strangers,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                self.restore();
                return;
            }
            Err(error) => {
                if let Some(left_out) = self.unread.due() {
                    warn!("the kernel's counters cannot be read: {error}{left_out}");
                }
                return;
            }
        };
        let findings = self.book.conclude(RENEWED);
        if findings.iter().any(|(_, finding)| *finding == Finding::Uncounted) {
            self.restore();
            return;
        }
        self.act_on(&findings, now);
        self.tidy(&strangers);
        for worker in 0..self.workers {
            self.news.push((worker, News::Heard(now)));
        }
    }

    /// The entries before what has left: so what is under way in between looks like more, never like a loss. Returns
    /// what is the relay's and no flow's.
    fn read_all(&mut self) -> io::Result<Strangers> {
        let Forwarder { requests, book, .. } = self;
        let mut strangers = Strangers::default();
        requests.entries(&mut |entry| {
            let counted = [entry.sent, entry.received];
            let timeout = entry.timeout.unwrap_or(LIFETIME);
            if !book.note_entry(&entry.original, &entry.reply, timeout, counted) {
                strangers.entries.push((entry.original, Some(entry.id)));
            }
        })?;
        requests.elements(Set::Leaving, &mut |element| {
            if !book.note_left(&element.tuple, element.counters) {
                strangers.leaving.push(element.tuple);
            }
        })?;
        Ok(strangers)
    }

    fn act_on(&mut self, findings: &[(Key, Finding)], now: Duration) {
        let (mut gone, mut stuck) = (Vec::new(), Vec::new());
        let mut has_left = false;
        for (key, finding) in findings {
            match finding {
                Finding::Fine(more) => {
                    let packets = more[0].packets + more[1].packets;
                    if packets > 0 {
                        has_left = true;
                        self.left += packets;
                        self.tell(key, News::Traffic(key.flow, *more));
                    }
                }
                Finding::Gone => gone.push(*key),
                Finding::Stuck(party) => stuck.push((*key, *party)),
                Finding::Uncounted => {}
            }
        }
        if has_left && self.health.on_media() {
            info!("media leaves by the kernel again: flows are handed over as before");
        }
        if !stuck.is_empty() {
            self.on_stuck(&stuck, has_left, now);
        }
        self.lose(&gone, Loss::Deleted);
        if !gone.is_empty() {
            if let Some(left_out) = self.deleted.due() {
                let count = gone.len();
                info!("{count} flows are not in conntrack any more: media comes by user space until they are installed again{left_out}");
            }
        }
    }

    /// Packets enter and do not leave: user space takes over. New flows wait where nothing leaves at all.
    fn on_stuck(&mut self, stuck: &[(Key, Party)], has_left: bool, now: Duration) {
        let first = stuck.first().and_then(|(key, party)| Some((self.book.get(key)?.entry, *party)));
        let is_news = !has_left && self.health.on_trouble(now);
        if let Some((entry, party)) = first {
            if has_left || is_news {
                let (count, why) = (stuck.len(), self.requests.explain(&entry, party, self.left));
                warn!("{count} flows enter the kernel and do not leave it, user space takes them over: {why}");
            }
        }
        let keys: Vec<Key> = stuck.iter().map(|(key, _)| *key).collect();
        self.lose(&keys, Loss::Stuck);
    }

    /// Packets that should be the kernel's come to user space.
    fn on_bypass(&mut self, now: Duration) {
        let entered: u64 = self.book.flows_mut().map(|(_, flow)| flow.entered()).sum();
        let is_news = entered == 0 && self.health.on_trouble(now);
        let left_out = self.bypassed.due();
        if let Some(left_out) = left_out.filter(|_| entered > 0 || is_news) {
            warn!(
                "packets of a flow do not reach its conntrack entry: some other rule of this host says notrack, \
                 or its chain drops what is not tracked (nft list ruleset); user space relays them{left_out}"
            );
        }
    }

    /// Takes flows out that are no good any more, and tells their workers.
    fn lose(&mut self, keys: &[Key], loss: Loss) {
        for some in keys.chunks(TOGETHER) {
            let flows: Vec<(Key, Flow)> = some
                .iter()
                .filter_map(|key| Some((*key, self.book.remove(key)?)))
                .collect();
            let last = self.take_out(&flows.iter().map(|(_, flow)| flow).collect::<Vec<_>>());
            // Packets that came after the entry was gone have made others in its place.
            let ways: Vec<Tuple> = flows.iter().flat_map(|(_, flow)| flow.enters()).collect();
            self.clear(&ways);
            for ((key, _), last) in flows.iter().zip(last) {
                self.tell(key, News::Lost(key.flow, loss, last));
            }
        }
    }

    /// Removes what is the relay's and no flow's: what could not be taken back, or what packets have made in between.
    fn tidy(&mut self, strangers: &Strangers) {
        for some in strangers.entries.chunks(TOGETHER) {
            self.delete(some);
        }
        for tuple in &strangers.leaving {
            // The next reading finds it again.
            let _ = self.requests.alter(&[Change::Remove(Set::Leaving, *tuple)]);
        }
        if std::mem::take(&mut self.has_debris) {
            self.has_debris = self.tidy_forwarded().is_err();
        }
    }

    fn tidy_forwarded(&mut self) -> io::Result<()> {
        let wanted: HashSet<Tuple> = self.book.flows_mut().flat_map(|(_, flow)| flow.enters()).collect();
        let mut unwanted = Vec::new();
        self.requests.elements(Set::Forwarded, &mut |element| {
            if !wanted.contains(&element.tuple) {
                unwanted.push(element.tuple);
            }
        })?;
        for tuple in unwanted {
            self.requests.alter(&[Change::Remove(Set::Forwarded, tuple)])?;
        }
        Ok(())
    }

    /// Somebody has changed the relay's table: makes it again where it is gone.
    pub fn check_table(&mut self) {
        let found = self.requests.elements(Set::Leaving, &mut |_| ());
        if found.is_err_and(|error| error.raw_os_error() == Some(libc::ENOENT)) {
            self.restore();
        }
    }

    /// Somebody has taken the relay's table away: makes it again, with all flows, at once.
    pub fn restore(&mut self) {
        let flows = self.book.flows_mut();
        let elements: Vec<Change> = flows.flat_map(|(_, flow)| {
            flow.restart_counting();
            add(flow)
        }).collect();
        let count = self.book.len();
        match self.requests.rebuild(&elements) {
            Ok(()) => warn!(
                "somebody removed the relay's nftables table (a firewall reload?); it is back, with {count} flows: \
                 packets that came meanwhile are lost, and counted only as far as they were read"
            ),
            Err(error) => {
                if let Some(left_out) = self.unread.due() {
                    warn!("the relay's nftables table is gone and cannot be made again: {error}{left_out}");
                }
                self.lose_all();
            }
        }
    }

    /// Without the table nothing is forwarded: user space takes over.
    fn lose_all(&mut self) {
        let keys = self.book.keys();
        self.lose(&keys, Loss::Deleted);
    }

    /// Takes everything back and leaves nothing behind.
    pub fn quit(&mut self) {
        let keys: Vec<_> = self.book.keys().into_iter().map(|key| (key, Withdrawal::Over)).collect();
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

    fn tell(&mut self, key: &Key, news: News) {
        self.news.push((key.worker, news));
    }
}

/// What is the relay's and no flow's.
#[derive(Debug, Default)]
struct Strangers {
    entries: Vec<(Tuple, Option<u32>)>,
    leaving: Vec<Tuple>,
}

/// What hands a flow's packets over.
fn add(flow: &Flow) -> Vec<Change> {
    let counted = flow.leaves().map(|tuple| Change::Add(Set::Leaving, tuple));
    let forwarded = flow.enters().map(|tuple| Change::Add(Set::Forwarded, tuple));
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

fn end(end: FlowEnd) -> End {
    let FlowEnd { remote, local } = end;
    let _: SocketAddrV4 = remote;
    End { remote, local }
}
