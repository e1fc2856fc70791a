//! The mechanism: what is asked of netfilter, in which order, and what happens when it refuses. Does not know how it is
//! asked (`requests`).
//!
//! A flow that cannot be installed whole is undone, and what cannot be undone is found and removed by a later reading.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use log::{debug, info, warn};

use super::entry;
use super::events::Sign;
use super::index::{EntryState, Index};
use super::remains::Remains;
use super::requests::{Change, Element, Requests, Set};
use crate::counters::Counters;
use crate::logging::sparse::Sparse;
use crate::moment::Moment;
use crate::netlink::conntrack::{NatEntry, Tuple};
use crate::proto::{Party, PerParty};
use crate::relay::kernel::flow::{Ends, Flow, FlowKey};
use crate::relay::kernel::flows::Flows;
use crate::relay::kernel::health::Outlook;
use crate::relay::kernel::mechanism::{
    Adopted, Adoption, Found, Heard, Mechanism, Refusal, Removal, Repaired, Unread, Words,
};

/// How long an entry lives without this relay, seconds.
pub(super) const LIFETIME: u32 = 3600;

/// An entry that has fewer seconds left is replaced: the kernel does not prolong one whose time is fixed.
const RENEWED_BELOW: u32 = 600;

/// Entries in one request; the answers to more would not fit into a socket's buffer.
pub(super) const REQUEST_SIZE: usize = 64;

/// Elements that are taken out in one transaction.
const MOST_REMOVED: usize = 1024;

/// So many flows are asked for one by one: to list all entries, the kernel goes through the whole of its hash table, 10 ms
/// for the 262,144 buckets of a usual host, while an entry by name is a few microseconds.
const MOST_BY_NAME: usize = 256;

/// All entries are listed this often all the same, to find what is no flow's.
const LISTING_INTERVAL: Duration = Duration::from_secs(5);

/// How long what a removed flow has counted stays in the kernel, too: should this process be killed before anybody has written
/// down that the flow was removed, the next one finds it there.
const LINGERS: Duration = Duration::from_secs(1);

/// Whether the relay's table is as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    Whole,
    /// Somebody has changed it: it may be gone.
    Doubtful,
    Missing,
    /// It could not be made again: that is tried with each reading.
    Lost,
}

/// What is the relay's and no flow's.
#[derive(Debug, Default)]
struct Debris {
    entries: Vec<(Tuple, Option<u32>)>,
    leaving: Vec<Tuple>,
    /// The set of what enters has to be gone through, too.
    is_in_forwarded: bool,
}

/// See the module.
pub(crate) struct Conntrack<R> {
    pub requests: R,
    index: Index,
    table: Table,
    /// Something could not be taken back: the sets have to be gone through.
    has_debris: bool,
    /// What the last reading has found of it.
    debris: Debris,
    removed: Vec<(FlowKey, PerParty<Counters>)>,
    /// Elements of removed flows, which only tell what these have counted, and until when they stay.
    lingering: HashMap<Tuple, Moment>,
    /// What an earlier relay had left when this one started, until it is known whose that is.
    remains: Option<Remains>,
    /// It is there still and may be somebody's.
    is_unclaimed: bool,
    /// Entries that were removed at the start.
    swept: usize,
    /// When all entries were listed last.
    listed: Moment,
    lost: Sparse,
}

impl<R: Requests> Conntrack<R> {
    pub(crate) fn new(requests: R) -> Conntrack<R> {
        Conntrack {
            requests,
            index: Index::default(),
            table: Table::Whole,
            has_debris: false,
            debris: Debris::default(),
            removed: Vec::new(),
            lingering: HashMap::new(),
            remains: None,
            is_unclaimed: false,
            swept: 0,
            listed: Moment::START,
            lost: Sparse::default(),
        }
    }

    /// Entries first: as long as the sets do not name them, packets come to user space. One result for each.
    fn install_some(&mut self, flows: &[(FlowKey, NatEntry)]) -> Vec<io::Result<()>> {
        let entries: Vec<NatEntry> = flows.iter().map(|(_, entry)| *entry).collect();
        let mut results = self.make_entries(&entries);
        let made: Vec<usize> = (0..results.len()).filter(|&i| results[i].is_ok()).collect();
        let groups: Vec<Vec<Change>> = made.iter().map(|&i| self.put_in(&entries[i])).collect();
        let (counted, _) = self.alter_each(&groups);
        let mut undone = Vec::new();
        for (&index, result) in made.iter().zip(counted) {
            match result {
                Ok(()) => self.index.insert(flows[index].0, entries[index]),
                Err(_) => undone.push(entries[index]),
            }
            results[index] = result;
        }
        for (index, result) in results.iter().enumerate() {
            // Where the answer was lost the entry may be there.
            let is_doubtful = !made.contains(&index) && !is(result, libc::EEXIST);
            if is_doubtful && result.is_err() {
                undone.push(entries[index]);
            }
        }
        if !undone.is_empty() {
            self.bar(&undone);
            let counted: Vec<_> = undone
                .iter()
                .map(|entry| remove(Set::Leaving, entry.leaving()))
                .collect();
            let (results, _) = self.alter_each(&counted);
            self.has_debris |= results.iter().any(Result::is_err);
        }
        results
    }

    /// What hands a flow's packets over, and has them counted from nothing.
    fn put_in(&mut self, entry: &NatEntry) -> Vec<Change> {
        let leaving = entry.leaving().into_iter();
        let stale = leaving.filter(|way| self.lingering.remove(way).is_some());
        let stale: Vec<_> = stale.map(|way| Change::Remove(Set::Leaving, way)).collect();
        [stale, add(entry)].concat()
    }

    /// One result for each entry. What is in the way and the relay's own is removed.
    fn make_entries(&mut self, entries: &[NatEntry]) -> Vec<io::Result<()>> {
        let mut results = each(self.requests.create(entries, LIFETIME), entries.len());
        let taken: Vec<usize> = (0..results.len())
            .filter(|&i| is(&results[i], libc::EEXIST))
            .collect();
        // What is in the way may be another flow's, which is told apart when those are claimed.
        if taken.is_empty() || self.is_unclaimed {
            return results;
        }
        let again: Vec<NatEntry> = taken.iter().map(|&index| entries[index]).collect();
        let ways: Vec<Tuple> = again.iter().flat_map(NatEntry::entering).collect();
        self.clear(&ways);
        let made = each(self.requests.create(&again, LIFETIME), again.len());
        for (index, result) in taken.into_iter().zip(made) {
            results[index] = result;
        }
        results
    }

    /// Deletes entries of the relay's that are found under these tuples.
    fn clear(&mut self, tuples: &[Tuple]) {
        for some in tuples.chunks(REQUEST_SIZE) {
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

    /// Takes entries out of the kernel: from here on packets come to user space.
    fn bar(&mut self, entries: &[NatEntry]) {
        let barred: Vec<_> = entries
            .iter()
            .map(|entry| remove(Set::Forwarded, entry.entering()))
            .collect();
        let (results, _) = self.alter_each(&barred);
        self.has_debris |= results.iter().any(Result::is_err);
        let names: Vec<_> = entries.iter().map(|entry| (entry.original, None)).collect();
        self.delete(&names);
    }

    /// Takes entries out as [`Conntrack::bar`] does; what left by each in all, by party.
    fn take_out(&mut self, entries: &[NatEntry], now: Moment) -> Vec<PerParty<Counters>> {
        self.bar(entries);
        let ways: Vec<Tuple> = entries.iter().flat_map(NatEntry::leaving).collect();
        let told = self.left(&ways);
        let until = now + LINGERS;
        self.lingering.extend(told.keys().map(|way| (*way, until)));
        let left = |way: Tuple| told.get(&way).copied().unwrap_or_default();
        entries
            .iter()
            .map(|entry| entry.leaving().map(left).into())
            .collect()
    }

    /// What has left these ways, as far as that can be found out.
    fn left(&mut self, ways: &[Tuple]) -> HashMap<Tuple, Counters> {
        let mut told = HashMap::new();
        let mut note = |element: Element| {
            told.insert(element.tuple, element.counters);
        };
        match self.requests.left(ways) {
            Ok(found) => found.into_iter().for_each(note),
            Err(_) => {
                // One that is not there has the others not told.
                let wanted: HashSet<&Tuple> = ways.iter().collect();
                let listed = self.requests.elements(Set::Leaving, &mut |element| {
                    if wanted.contains(&element.tuple) {
                        note(element);
                    }
                });
                self.has_debris |= listed.is_err();
            }
        }
        told
    }

    fn delete(&mut self, entries: &[(Tuple, Option<u32>)]) {
        if entries.is_empty() {
            return;
        }
        for result in each(self.requests.delete(entries), entries.len()) {
            self.has_debris |= result.is_err() && !is(&result, libc::ENOENT);
        }
    }

    /// Makes groups of changes, each whole or not at all: all at once where that goes, else group by group. What
    /// removed elements had counted comes with it.
    fn alter_each(&mut self, groups: &[Vec<Change>]) -> (Vec<io::Result<()>>, Vec<Element>) {
        if groups.is_empty() || self.table == Table::Lost {
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

    /// The entries before what has left: so what is under way in between looks like more, never like a loss. Returns
    /// what is the relay's and no flow's.
    fn read_all(&mut self, now: Moment) -> io::Result<Debris> {
        let is_due = now >= self.listed + LISTING_INTERVAL;
        let wants_list = is_due || self.has_debris || self.index.len() > MOST_BY_NAME;
        let mut debris = Debris::default();
        self.lingering.retain(|_, until| now < *until);
        let Conntrack {
            requests,
            index,
            is_unclaimed,
            lingering,
            ..
        } = self;
        index.begin_reading();
        if wants_list {
            requests.entries(&mut |entry| {
                if !index.note_entry(&entry, LIFETIME) && !*is_unclaimed {
                    debris.entries.push((entry.original, Some(entry.id)));
                }
            })?;
            self.listed = now;
        } else {
            ask_for_each(requests, index)?;
        }
        requests.elements(Set::Leaving, &mut |element| {
            let is_flows = index.note_left(&element.tuple, element.counters);
            if !is_flows && !*is_unclaimed && !lingering.contains_key(&element.tuple) {
                debris.leaving.push(element.tuple);
            }
        })?;
        Ok(debris)
    }

    /// Removes what is the relay's and no flow's: what could not be taken back, or what packets have made in between.
    fn tidy(&mut self) {
        let debris = std::mem::take(&mut self.debris);
        for some in debris.entries.chunks(REQUEST_SIZE) {
            self.delete(some);
        }
        // What cannot be removed is found again by the next reading.
        self.take_from(Set::Leaving, &debris.leaving);
        if debris.is_in_forwarded && !self.is_unclaimed {
            self.has_debris |= self.tidy_forwarded().is_err();
        }
    }

    fn tidy_forwarded(&mut self) -> io::Result<()> {
        let entries = self.index.entries();
        let wanted: HashSet<Tuple> = entries.flat_map(|entry| entry.entering()).collect();
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

    /// What there is of an earlier relay's flows.
    fn look_at_remains(&mut self) -> io::Result<Remains> {
        let mut remains = Remains::default();
        self.requests
            .entries(&mut |entry| remains.note_entry(entry))?;
        // Those that enter first: what packets have made in between is then missing in neither.
        let forwarded = self.requests.elements(Set::Forwarded, &mut |element| {
            remains.note_forwarded(&element)
        });
        let leaving = self
            .requests
            .elements(Set::Leaving, &mut |element| remains.note_leaving(&element));
        for read in [forwarded, leaving] {
            match read {
                Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
                _ => {}
            }
        }
        // A listing may miss entries while somebody resizes the kernel's hash table.
        for some in remains.without_entry().chunks(REQUEST_SIZE) {
            for entry in self.requests.get(some)?.into_iter().filter_map(Result::ok) {
                if self.requests.is_ours(&entry) {
                    remains.note_entry(entry);
                }
            }
        }
        Ok(remains)
    }

    /// Removes what is no flow's, in the order of every removal; how many flows there may have been of it. What cannot be
    /// removed is tried again by a later reading.
    fn sweep(&mut self, remains: &Remains) -> usize {
        let unclaimed = remains.unclaimed(|entry| self.index.has(entry));
        self.has_debris |= !self.take_from(Set::Forwarded, &unclaimed.forwarded);
        for some in unclaimed.entries.chunks(REQUEST_SIZE) {
            self.delete(some);
        }
        self.has_debris |= !self.take_from(Set::Leaving, &unclaimed.leaving);
        unclaimed.flows()
    }

    /// Takes elements out. Returns false if some are there still.
    fn take_from(&mut self, set: Set, tuples: &[Tuple]) -> bool {
        let mut are_gone = true;
        for some in tuples.chunks(MOST_REMOVED) {
            let groups: Vec<_> = some
                .iter()
                .map(|tuple| vec![Change::Remove(set, *tuple)])
                .collect();
            let (results, _) = self.alter_each(&groups);
            are_gone &= results.iter().all(Result::is_ok);
        }
        are_gone
    }

    /// Finds out what became of a table that somebody has changed.
    fn look_at_table(&mut self) {
        self.table = match self.requests.elements(Set::Leaving, &mut |_| ()) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Table::Missing,
            Err(_) => {
                // A reading looks again.
                self.has_debris = true;
                Table::Whole
            }
            Ok(()) => Table::Whole,
        }
    }

    /// Makes the table again, with all flows, at once.
    fn restore(&mut self) -> Repaired {
        let elements: Vec<Change> = self.index.entries().flat_map(|entry| add(&entry)).collect();
        let count = self.index.len();
        self.lingering.clear();
        match self.requests.rebuild(&elements) {
            Ok(()) => {
                let was_out = self.table == Table::Lost;
                self.table = Table::Whole;
                if was_out {
                    info!("the relay's nftables table is back: flows are handed over again");
                } else {
                    warn!(
                        "somebody removed the relay's nftables table (a firewall reload?); it is back, with {count} \
                         flows: packets that came meanwhile are lost, and counted only as far as they were read"
                    );
                }
                Repaired::Anew { was_out }
            }
            Err(error) => {
                if let Some(left_out) = self.lost.due() {
                    warn!(
                        "the relay's nftables table is gone and cannot be made again: {error}; user space takes \
                         over, it is tried again{left_out}"
                    );
                }
                self.table = Table::Lost;
                Repaired::Out
            }
        }
    }
}

impl<R: Requests> Mechanism for Conntrack<R> {
    fn words(&self) -> Words {
        Words {
            gone: "flows are not in conntrack any more: media comes by user space until they are installed again",
            bypassed: "packets of a flow do not reach its conntrack entry: some other rule of this host says notrack, \
                       or its chain drops what is not tracked (nft list ruleset); user space relays them",
        }
    }

    fn start(&mut self, keep: bool) -> Result<Vec<Found>, String> {
        self.is_unclaimed = keep && self.requests.take_over();
        if keep && !self.is_unclaimed {
            // What it has counted in all is known once it forwards no more.
            self.requests.stop();
        }
        let remains = self.look_at_remains().unwrap_or_else(|error| {
            debug!("what an earlier relay has left in the kernel cannot be read: {error}");
            Remains::default()
        });
        if !self.is_unclaimed {
            self.swept = self.requests.start()?;
        }
        let found = remains.found();
        if keep {
            self.remains = Some(remains);
        }
        Ok(found)
    }

    fn adopt(&mut self, flows: &[Flow]) -> Adoption {
        let before = self.remains.take().unwrap_or_default();
        let mut swept = std::mem::take(&mut self.swept);
        let mut now = Remains::default();
        if std::mem::take(&mut self.is_unclaimed) {
            match self.look_at_remains() {
                Ok(remains) => now = remains,
                Err(error) => {
                    // A reading looks again, and removes what is nobody's.
                    self.has_debris = true;
                    warn!(
                        "the flows of an earlier relay cannot be read and are not taken over: {error}"
                    );
                }
            }
        }
        let mut claimed = HashSet::new();
        let mut adopted = Vec::new();
        for flow in flows {
            // Of two that claim the same, one has relayed it.
            let entry = entry(&flow.ends).filter(|entry| claimed.insert(entry.original));
            adopted.push(
                match entry.and_then(|entry| Some((entry, now.running(&entry)?))) {
                    Some((entry, sample)) if self.index.has_room_for(&entry) => {
                        self.index.insert(flow.key, entry);
                        Adopted::Running(sample)
                    }
                    _ => {
                        let left = entry.and_then(|e| now.left(&e).or_else(|| before.left(&e)));
                        Adopted::Gone(left.unwrap_or_default())
                    }
                },
            );
        }
        swept += self.sweep(&now);
        Adoption {
            flows: adopted,
            swept,
        }
    }

    fn leave(&mut self, time: Duration) -> io::Result<()> {
        self.requests.leave(time)
    }

    fn is_able(&self) -> bool {
        self.table != Table::Lost
    }

    fn has_debris(&self) -> bool {
        self.has_debris || !self.lingering.is_empty()
    }

    fn install(&mut self, flows: &[Flow]) -> Vec<Result<(), Refusal>> {
        let mut results: Vec<Result<(), Refusal>> = Vec::new();
        let (mut able, mut places) = (Vec::new(), Vec::new());
        for (place, flow) in flows.iter().enumerate() {
            let refusal = match entry(&flow.ends) {
                None => Refusal::Never,
                Some(entry) => {
                    if self.index.has_room_for(&entry) {
                        able.push((flow.key, entry));
                        places.push(place);
                    }
                    Refusal::InUse
                }
            };
            results.push(Err(refusal));
        }
        for (some, places) in able.chunks(REQUEST_SIZE).zip(places.chunks(REQUEST_SIZE)) {
            for (&place, result) in places.iter().zip(self.install_some(some)) {
                results[place] = result.map_err(Refusal::Failed);
            }
        }
        results
    }

    fn explain_refusal(&self, error: &io::Error) -> String {
        self.requests.explain_refusal(error)
    }

    fn remove(&mut self, flows: &[FlowKey], why: Removal, now: Moment) {
        for some in flows.chunks(REQUEST_SIZE) {
            let there = |key: &FlowKey| Some((*key, self.index.remove(key)?));
            let (keys, entries): (Vec<_>, Vec<_>) = some.iter().filter_map(there).unzip();
            let totals = self.take_out(&entries, now);
            self.removed.extend(keys.into_iter().zip(totals));
            if why == Removal::Failed {
                // Packets that came after the entry was gone have made others in its place.
                let ways: Vec<Tuple> = entries.iter().flat_map(NatEntry::entering).collect();
                self.clear(&ways);
                // And what was under way then does.
                self.has_debris = true;
            }
        }
    }

    fn take_removed(&mut self, _: Moment) -> Vec<(FlowKey, PerParty<Counters>)> {
        std::mem::take(&mut self.removed)
    }

    /// They are read right behind the removal.
    fn removed_at(&self) -> Option<Moment> {
        None
    }

    fn read(&mut self, flows: &mut Flows, now: Moment) -> Result<(), Unread> {
        let mut debris = match self.read_all(now) {
            Ok(debris) => debris,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Err(self.broken()),
            Err(error) => return Err(Unread::Failed(error)),
        };
        if self
            .index
            .states(RENEWED_BELOW)
            .any(|(_, state)| state == EntryState::Uncounted)
        {
            return Err(self.broken());
        }
        // What goes wrong from here on is looked at by the next reading.
        debris.is_in_forwarded = std::mem::take(&mut self.has_debris);
        for (key, state) in self.index.states(RENEWED_BELOW) {
            if let EntryState::There(sample) = state {
                flows.note(key, sample);
            }
        }
        self.debris = debris;
        Ok(())
    }

    fn repair(&mut self) -> Repaired {
        if self.table == Table::Doubtful {
            self.look_at_table();
        }
        if self.table != Table::Whole {
            return self.restore();
        }
        self.tidy();
        Repaired::Kept
    }

    fn set_addresses(&mut self, addresses: &[IpAddr]) {
        if let Err(error) = self.requests.set_addresses(addresses) {
            warn!("the addresses of this host cannot be given to the relay's table: {error}");
        }
    }

    fn outlook(&self) -> Outlook {
        self.requests.outlook()
    }

    /// A packet of a flow goes past its entry only where others' rules have it so.
    fn is_bypassed(&mut self, _: &FlowKey) -> bool {
        true
    }

    fn watch(&mut self, flow: &FlowKey, party: Party) -> io::Result<()> {
        let entry = self.index.get(flow).ok_or(io::ErrorKind::NotFound)?;
        self.requests.watch(&entry, party)
    }

    fn end_watch(&mut self) -> Option<bool> {
        self.requests.end_watch()
    }

    fn explain_stuck(
        &mut self,
        ends: &Ends,
        party: Party,
        reached_forward: Option<bool>,
    ) -> String {
        let entry = entry(ends);
        entry.map_or_else(String::new, |entry| {
            self.requests.explain(&entry, party, reached_forward)
        })
    }

    fn sources(&self) -> Vec<BorrowedFd<'_>> {
        self.requests.sources()
    }

    fn hear(&mut self) -> io::Result<Heard> {
        let Conntrack {
            requests, index, ..
        } = self;
        let mut heard = Heard::default();
        requests.hear(&mut |sign| match sign {
            Sign::Ended(original) => heard.has_ended |= index.has_entry(&original),
            Sign::Table => heard.is_changed = true,
            Sign::Overrun => (heard.has_ended, heard.is_changed) = (true, true),
        })?;
        if heard.is_changed && self.table == Table::Whole {
            self.table = Table::Doubtful;
        }
        Ok(heard)
    }

    fn close(&mut self) {
        if let Err(error) = self.requests.remove_all() {
            warn!("the relay's nftables table stays behind: {error}");
        }
    }
}

impl<R> Conntrack<R> {
    /// The table is not there.
    fn broken(&mut self) -> Unread {
        if self.table != Table::Lost {
            self.table = Table::Missing;
        }
        Unread::Broken
    }
}

/// What hands a flow's packets over.
fn add(entry: &NatEntry) -> Vec<Change> {
    let counted = entry
        .leaving()
        .map(|tuple| Change::Add(Set::Leaving, tuple));
    let forwarded = entry
        .entering()
        .map(|tuple| Change::Add(Set::Forwarded, tuple));
    counted.into_iter().chain(forwarded).collect()
}

fn remove(set: Set, tuples: [Tuple; 2]) -> Vec<Change> {
    tuples.map(|tuple| Change::Remove(set, tuple)).to_vec()
}

/// Asks for the entry of each flow. One that is not there is not noted.
fn ask_for_each<R: Requests>(requests: &mut R, index: &mut Index) -> io::Result<()> {
    let originals = index.originals();
    for some in originals.chunks(REQUEST_SIZE) {
        for found in requests.get(some)? {
            match found {
                Ok(entry) => {
                    index.note_entry(&entry, LIFETIME);
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

fn is(result: &io::Result<()>, code: i32) -> bool {
    matches!(result, Err(error) if error.raw_os_error() == Some(code))
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
