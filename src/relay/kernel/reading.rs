//! What readings of the kernel's counters tell: what was relayed, which flows are gone, whose packets do not leave, and
//! what is left of flows that are no more.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use log::{info, warn};

use super::book::{Book, Finding};
use super::forwarder::{Forwarder, LIFETIME, TOGETHER, add};
use super::paths::{self, Way};
use super::requests::{Change, Requests, Set};
use super::{Key, News};
use crate::netlink::conntrack::{Entry, NatEntry, Tuple};
use crate::proto::Party;
use crate::session::{Loss, SessionKey};

/// An entry that has fewer seconds left is replaced: the kernel does not prolong one whose time is fixed.
const RENEWED: u32 = 600;

/// So many flows are asked for one by one: to list all entries, the kernel goes through the whole of its hash table, 10 ms
/// for the 262,144 buckets of a usual host, while an entry by name is a few microseconds.
const FEW: usize = 256;

/// All entries are listed this often all the same, to find what is no flow's.
const LISTED: Duration = Duration::from_secs(5);

/// How long flows are left alone that cannot be read.
const BLIND: Duration = Duration::from_secs(10);

/// How long a stuck flow shows how far its packets come: one of a usual stream or two, which are lost.
pub const WATCHED: Duration = Duration::from_millis(30);

/// A stuck flow of which it is found out how far its packets come.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    key: Key,
    entry: NatEntry,
    party: Party,
    /// How many flows were stuck.
    count: usize,
    loss: Loss,
    until: Duration,
}

impl<R: Requests> Forwarder<R> {
    /// Reads all counters, tells what was relayed, and finds out what is not as it should be.
    pub fn read(&mut self, now: Duration) {
        if self.table_is_gone {
            self.restore();
        }
        let strangers = match self.read_all(now) {
            Ok(strangers) => strangers,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                self.restore();
                return;
            }
            Err(error) => return self.on_unread(&error, now),
        };
        // What goes wrong from here on is looked at by the next reading.
        let had_debris = std::mem::take(&mut self.has_debris);
        self.unread_since = None;
        let findings = self.book.conclude(RENEWED);
        if findings
            .iter()
            .any(|(_, finding)| *finding == Finding::Uncounted)
        {
            self.restore();
            return;
        }
        self.act_on(&findings, now);
        self.tidy(&strangers, had_debris);
        for worker in 0..self.workers {
            self.news.push((worker, News::Heard(now)));
        }
    }

    /// Without readings no silence is ever noticed: after a while user space takes over.
    fn on_unread(&mut self, error: &io::Error, now: Duration) {
        if let Some(left_out) = self.unread.due() {
            warn!("the kernel's counters cannot be read: {error}{left_out}");
        }
        let since = *self.unread_since.get_or_insert(now);
        if now >= since + BLIND {
            warn!("user space takes over what cannot be watched");
            self.health.on_trouble(now);
            self.lose_all();
        }
    }

    /// The entries before what has left: so what is under way in between looks like more, never like a loss. Returns
    /// what is the relay's and no flow's.
    fn read_all(&mut self, now: Duration) -> io::Result<Strangers> {
        let is_due = now >= self.listed + LISTED;
        let wants_list = is_due || self.has_debris || self.book.len() > FEW;
        let Forwarder { requests, book, .. } = self;
        let mut strangers = Strangers::default();
        if wants_list {
            requests.entries(&mut |entry| {
                if !note(book, &entry) {
                    strangers.entries.push((entry.original, Some(entry.id)));
                }
            })?;
            self.listed = now;
        } else {
            ask_for_each(requests, book)?;
        }
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
                        self.tell(key, News::Traffic(key.flow, *more));
                    }
                }
                Finding::Gone => gone.push(*key),
                Finding::Stuck(_) if self.is_watched(key) => {}
                Finding::Stuck(party) => stuck.push((*key, *party)),
                Finding::Uncounted => {}
            }
        }
        if has_left && self.health.on_media(now) {
            info!(
                "media leaves by the kernel again: running calls go back to it within seconds, new ones are handed over \
                 as before"
            );
            self.tell_mended();
        }
        self.paths.tidy(now);
        let ways = match stuck.is_empty() && self.paths.is_empty() {
            true => HashSet::new(),
            false => self.ways_that_leave(findings),
        };
        self.note_mended(&ways, now);
        if !stuck.is_empty() && has_left {
            self.on_some_stuck(&stuck, &ways, now);
        } else if !stuck.is_empty() {
            self.on_all_stuck(&stuck, now);
        }
        self.lose(&gone, Loss::Deleted);
        if !gone.is_empty() {
            if let Some(left_out) = self.deleted.due() {
                let count = gone.len();
                info!(
                    "{count} flows are not in conntrack any more: media comes by user space until they are installed again{left_out}"
                );
            }
        }
    }

    /// The ways on which media has left since the last reading.
    fn ways_that_leave(&self, findings: &[(Key, Finding)]) -> HashSet<Way> {
        let mut ways = HashSet::new();
        for (key, finding) in findings {
            if let (Finding::Fine(more), Some(flow)) = (finding, self.book.get(key)) {
                let left = [Party::Caller, Party::Callee].into_iter();
                let left = left.filter(|party| more[*party as usize].packets > 0);
                ways.extend(left.map(|party| paths::way(&flow.entry, party)));
            }
        }
        ways
    }

    fn note_mended(&mut self, ways: &HashSet<Way>, now: Duration) {
        let is_mended = |way: &&Way| self.paths.on_media(**way, now);
        let mended: Vec<&Way> = ways.iter().filter(is_mended).collect();
        let Some((from, to)) = mended.first() else {
            return;
        };
        let more = match mended.len() - 1 {
            0 => String::new(),
            count => format!(", and that of {count} other pairs of hosts"),
        };
        info!(
            "media from {from} to {to} leaves by the kernel again{more}: running calls go back to it within seconds"
        );
        self.tell_mended();
    }

    /// Packets enter and nothing leaves at all: user space takes over all flows, and new ones wait. The first that is
    /// stuck shows how far its next packets come, and is taken over after that.
    fn on_all_stuck(&mut self, stuck: &[(Key, Party)], now: Duration) {
        let is_news = self.health.on_trouble(now);
        let first = stuck.first().filter(|_| is_news);
        let keys = self.book.keys();
        self.take_over(
            keys,
            first.map(|first| (*first, stuck.len())),
            Loss::Suspended,
            now,
        );
    }

    /// Packets of some enter and do not leave: user space takes over, the other flows of these calls included, whose
    /// packets are few (RTCP) and go the same way. Where nothing leaves from host to host, new flows between these
    /// wait; else it is the trouble of these calls alone.
    fn on_some_stuck(&mut self, stuck: &[(Key, Party)], ways: &HashSet<Way>, now: Duration) {
        let (mut of_hosts, mut of_calls) = (HashSet::new(), HashSet::new());
        let mut first = None;
        for &(key, party) in stuck {
            let way = self
                .book
                .get(&key)
                .map(|flow| paths::way(&flow.entry, party));
            let blocked = way.filter(|way| !ways.contains(way));
            let is_news = match blocked.and_then(|way| self.paths.on_trouble(way, now)) {
                Some(is_news) => {
                    of_hosts.insert(call_of(&key));
                    is_news
                }
                None => of_calls.insert(call_of(&key)),
            };
            first = first.or(is_news.then_some(((key, party), stuck.len())));
        }
        let keys = self.book.keys();
        let of = |calls: &HashSet<_>, key: &Key| calls.contains(&call_of(key));
        let (own, keys): (Vec<_>, Vec<_>) = keys.into_iter().partition(|key| of(&of_calls, key));
        let shared: Vec<_> = keys.into_iter().filter(|key| of(&of_hosts, key)).collect();
        let is_own = first.is_some_and(|((key, _), _)| of(&of_calls, &key));
        let (first_own, first_shared) = match is_own {
            true => (first, None),
            false => (None, first),
        };
        self.take_over(own, first_own, Loss::Stuck, now);
        self.take_over(shared, first_shared, Loss::Suspended, now);
    }

    /// Takes flows over; `first` of so many is watched for a moment and then said to be stuck.
    fn take_over(
        &mut self,
        mut keys: Vec<Key>,
        first: Option<((Key, Party), usize)>,
        loss: Loss,
        now: Duration,
    ) {
        let first = first.and_then(|((key, party), count)| {
            Some(Watch {
                key,
                entry: self.book.get(&key)?.entry,
                party,
                count,
                loss,
                until: now + WATCHED,
            })
        });
        let unwatched = first.filter(|watch| !self.begin_watch(watch));
        keys.retain(|key| !self.is_watched(key));
        self.lose(&keys, loss);
        if let Some(watch) = unwatched {
            self.say_stuck(&watch, None);
        }
    }

    /// False where it cannot be.
    fn begin_watch(&mut self, watch: &Watch) -> bool {
        if self.watch.is_some() {
            return false;
        }
        if self.requests.watch(&watch.entry, watch.party).is_err() {
            self.requests.end_watch();
            return false;
        }
        self.watch = Some(*watch);
        true
    }

    fn is_watched(&self, key: &Key) -> bool {
        self.watch.as_ref().is_some_and(|watch| watch.key == *key)
    }

    /// When [`Forwarder::end_watch`] has something to do.
    pub fn watch_ends(&self) -> Option<Duration> {
        Some(self.watch.as_ref()?.until)
    }

    /// Takes the flow over that was watched, once it was for long enough, and says why it is stuck.
    pub fn end_watch(&mut self, now: Duration) {
        if let Some(watch) = self.watch.take_if(|watch| now >= watch.until) {
            let reached_forward = self.requests.end_watch();
            self.lose(&[watch.key], watch.loss);
            self.say_stuck(&watch, reached_forward);
        }
    }

    fn say_stuck(&mut self, watch: &Watch, reached_forward: Option<bool>) {
        let Watch {
            entry,
            party,
            count,
            ..
        } = watch;
        let why = self.requests.explain(entry, *party, reached_forward);
        warn!(
            "{count} flows enter the kernel and do not leave it, user space takes them over: {why}"
        );
    }

    /// Packets that should be the kernel's come to user space.
    pub(super) fn on_bypass(&mut self, now: Duration) {
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

    /// Removes what is the relay's and no flow's: what could not be taken back, or what packets have made in between.
    fn tidy(&mut self, strangers: &Strangers, had_debris: bool) {
        for some in strangers.entries.chunks(TOGETHER) {
            self.delete(some);
        }
        for tuple in &strangers.leaving {
            // The next reading finds it again.
            let _ = self.requests.alter(&[Change::Remove(Set::Leaving, *tuple)]);
        }
        if had_debris {
            self.has_debris |= self.tidy_forwarded().is_err();
        }
    }

    fn tidy_forwarded(&mut self) -> io::Result<()> {
        let wanted: HashSet<Tuple> = self
            .book
            .flows_mut()
            .flat_map(|(_, flow)| flow.enters())
            .collect();
        let mut unwanted = Vec::new();
        self.requests.elements(Set::Forwarded, &mut |element| {
            if !wanted.contains(&element.tuple) {
                unwanted.push(element.tuple);
            }
        })?;
        for tuple in unwanted {
            self.requests
                .alter(&[Change::Remove(Set::Forwarded, tuple)])?;
        }
        Ok(())
    }

    /// Somebody has changed the relay's table: makes it again where it is gone.
    pub fn check_table(&mut self) {
        match self.requests.elements(Set::Leaving, &mut |_| ()) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => self.restore(),
            // A reading looks again.
            Err(_) => self.has_debris = true,
            Ok(()) => {}
        }
    }

    /// Somebody has taken the relay's table away: makes it again, with all flows, at once.
    pub fn restore(&mut self) {
        let flows = self.book.flows_mut();
        let elements: Vec<Change> = flows
            .flat_map(|(_, flow)| {
                flow.restart_counting();
                add(flow)
            })
            .collect();
        let count = self.book.len();
        match self.requests.rebuild(&elements) {
            Ok(()) => match std::mem::take(&mut self.table_is_gone) {
                true => {
                    info!("the relay's nftables table is back: flows are handed over again");
                    self.tell_mended();
                }
                false => warn!(
                    "somebody removed the relay's nftables table (a firewall reload?); it is back, with {count} \
                         flows: packets that came meanwhile are lost, and counted only as far as they were read"
                ),
            },
            Err(error) => {
                if let Some(left_out) = self.unread.due() {
                    warn!(
                        "the relay's nftables table is gone and cannot be made again: {error}; user space takes \
                         over, it is tried again{left_out}"
                    );
                }
                self.table_is_gone = true;
                self.lose_all();
            }
        }
    }

    /// Without the table nothing is forwarded: user space takes over.
    fn lose_all(&mut self) {
        let keys = self.book.keys();
        self.lose(&keys, Loss::Deleted);
    }
}

/// What flows of one call have in common.
fn call_of(key: &Key) -> (usize, SessionKey) {
    (key.worker, key.flow.session)
}

/// Asks for the entry of each flow. One that is not there is not noted.
fn ask_for_each<R: Requests>(requests: &mut R, book: &mut Book) -> io::Result<()> {
    let originals = book.originals();
    for some in originals.chunks(TOGETHER) {
        for found in requests.get(some)? {
            match found {
                Ok(entry) => {
                    note(book, &entry);
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// False where the entry is no flow's.
fn note(book: &mut Book, entry: &Entry) -> bool {
    let counted = [entry.sent, entry.received];
    let timeout = entry.timeout.unwrap_or(LIFETIME);
    book.note_entry(&entry.original, &entry.reply, timeout, counted)
}

/// What is the relay's and no flow's.
#[derive(Debug, Default)]
struct Strangers {
    entries: Vec<(Tuple, Option<u32>)>,
    leaving: Vec<Tuple>,
}
