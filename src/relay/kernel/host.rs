//! The requests of [`super::requests`] as netlink messages to this host's kernel.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use super::Settings;
use super::health::Outlook;
use super::requests::{Change, Element, Requests, Set};
use crate::diagnosis::host_facts::{IP_FORWARD, forward_chains};
use crate::diagnosis::requirements::Wanted;
use crate::diagnosis::stuck_flow::{self, StuckFlow};
use crate::diagnosis::sysctl;
use crate::netlink::conntrack::{self, End, Entry, NatEntry, Tuple};
use crate::netlink::gate::{self, Gate};
use crate::netlink::nftables::{self, Batch};
use crate::netlink::socket::{Netfilter, Protection};
use crate::proto::Party;
use crate::session::Counters;

/// This host's kernel.
pub struct Host {
    netfilter: Netfilter,
    settings: Settings,
    table: String,
    /// All addresses of this host.
    locals: Vec<Ipv4Addr>,
    /// How well the table is kept from others; before it is made, how well it should be.
    protection: Protection,
    watched: Option<Watched>,
}

/// A party whose packets are counted at hook forward.
struct Watched {
    entry: NatEntry,
    party: Party,
    /// Packets that had entered when it began.
    entered: Option<u64>,
}

impl Host {
    pub fn new(netfilter: Netfilter, settings: Settings, locals: Vec<Ipv4Addr>) -> Host {
        Host {
            netfilter,
            table: table_name(&settings),
            protection: match settings.protect {
                true => Protection::Persistent,
                false => Protection::None,
            },
            settings,
            locals,
            watched: None,
        }
    }

    pub fn table(&self) -> &str {
        &self.table
    }

    /// How well the table is kept from others.
    pub fn protection(&self) -> Protection {
        self.protection
    }

    /// Makes the table, in one transaction, in place of one that an earlier relay left. Nothing is relayed yet.
    pub fn make_table(&mut self) -> io::Result<()> {
        self.replace_table(|gate, batch| gate.fill(batch))
    }

    fn replace_table(&mut self, fill: impl Fn(&Gate<'_>, &mut Batch<'_>)) -> io::Result<()> {
        let addresses = self.addresses();
        let gate = self.gate(&addresses);
        let made = self
            .netfilter
            .replace_table(&self.table, self.protection, |batch| fill(&gate, batch));
        self.protection = made.map_err(|refused| refused.error)?;
        Ok(())
    }

    fn gate<'a>(&self, addresses: &'a [Ipv4Addr]) -> Gate<'a> {
        let Wanted {
            port_range: range,
            mark,
            mark_mask,
            ..
        } = self.settings.wanted;
        let last = u16::try_from(range.1 - 1).unwrap_or(u16::MAX);
        Gate {
            ports: range.0..=last,
            addresses,
            mark,
            mask: mark_mask,
            // An element for each port, and room for those that could not be removed at once.
            size: 2 * (range.1 - u32::from(range.0)),
        }
    }

    /// Deletes every entry that is this relay's; how many there were. An earlier relay's calls are over.
    pub fn sweep(&mut self) -> io::Result<usize> {
        let mut found = Vec::new();
        self.entries(&mut |entry| found.push((entry.original, Some(entry.id))))?;
        for some in found.chunks(64) {
            self.delete(some)?;
        }
        Ok(found.len())
    }

    /// Packets of this party that have entered.
    fn entered(&mut self, entry: &NatEntry, party: Party) -> Option<u64> {
        let found = self.get(&[entry.original()]).ok()?.pop()?.ok()?;
        let counters = match party {
            Party::Caller => found.sent,
            Party::Callee => found.received,
        };
        Some(counters?.packets)
    }

    /// The addresses that media may come to.
    fn addresses(&self) -> Vec<Ipv4Addr> {
        match self.settings.wanted.auto_detect {
            true => self.locals.clone(),
            false => vec![self.settings.wanted.relay_ip],
        }
    }

    fn is_own_address(&self, address: &Ipv4Addr) -> bool {
        match self.settings.wanted.auto_detect {
            true => self.locals.contains(address),
            false => self.settings.wanted.relay_ip == *address,
        }
    }
}

/// The table of a relay, by its first port: relays on one host have different ones.
pub fn table_name(settings: &Settings) -> String {
    format!("mediaproxy_{}", settings.wanted.port_range.0)
}

impl Requests for Host {
    fn create(&mut self, entries: &[NatEntry], lifetime: u32) -> io::Result<Vec<io::Result<()>>> {
        let mark = self.settings.wanted.mark;
        let results = self.netfilter.requests(entries, |builder, number, entry| {
            conntrack::create(builder, number, entry, mark, lifetime);
        })?;
        Ok(results.into_iter().map(|result| result.map(drop)).collect())
    }

    fn get(&mut self, tuples: &[Tuple]) -> io::Result<Vec<io::Result<Entry>>> {
        let results = self.netfilter.requests(tuples, |builder, number, tuple| {
            conntrack::get(builder, number, *tuple);
        })?;
        let there = |entry: Option<Entry>| entry.ok_or_else(|| io::ErrorKind::NotFound.into());
        Ok(results
            .into_iter()
            .map(|result| result.and_then(there))
            .collect())
    }

    fn delete(&mut self, entries: &[(Tuple, Option<u32>)]) -> io::Result<Vec<io::Result<()>>> {
        let results = self
            .netfilter
            .requests(entries, |builder, number, (tuple, id)| {
                conntrack::delete(builder, number, *tuple, *id);
            })?;
        Ok(results.into_iter().map(|result| result.map(drop)).collect())
    }

    fn is_ours(&self, entry: &Entry) -> bool {
        let Wanted {
            port_range: range,
            mark,
            mark_mask,
            ..
        } = &self.settings.wanted;
        let destination = entry.original.destination;
        let port = destination.port();
        entry.mark & mark_mask == mark & mark_mask
            && port >= range.0
            && u32::from(port) < range.1
            && self.is_own_address(destination.ip())
    }

    fn entries(&mut self, each: &mut dyn FnMut(Entry)) -> io::Result<()> {
        let (mark, mask) = (self.settings.wanted.mark, self.settings.wanted.mark_mask);
        let mut found = Vec::new();
        self.netfilter
            .dump(mark & mask, mask, |entry| found.push(entry))?;
        found
            .into_iter()
            .filter(|entry| self.is_ours(entry))
            .for_each(each);
        Ok(())
    }

    fn alter(&mut self, changes: &[Change]) -> io::Result<Vec<Element>> {
        let told = self
            .netfilter
            .transact(&self.table, |batch| put_changes(batch, changes));
        let told = told.map_err(|refused| refused.error)?;
        Ok(told.iter().map(element).collect())
    }

    fn elements(&mut self, set: Set, each: &mut dyn FnMut(Element)) -> io::Result<()> {
        let found = self.netfilter.elements(&self.table, name(set))?;
        found.iter().map(element).for_each(each);
        Ok(())
    }

    fn rebuild(&mut self, elements: &[Change]) -> io::Result<()> {
        self.replace_table(|gate, batch| gate.shut(batch))?;
        let addresses = self.addresses();
        let gate = self.gate(&addresses);
        let opened = self.netfilter.transact(&self.table, |batch| {
            gate.open(batch);
            put_changes(batch, elements);
        });
        opened.map(drop).map_err(|refused| refused.error)
    }

    fn set_addresses(&mut self, addresses: &[Ipv4Addr]) -> io::Result<()> {
        let before = self.addresses();
        self.locals = addresses.to_vec();
        let now = self.addresses();
        let gone: Vec<_> = before
            .iter()
            .filter(|a| !now.contains(a))
            .map(Ipv4Addr::octets)
            .collect();
        let new: Vec<_> = now
            .iter()
            .filter(|a| !before.contains(a))
            .map(Ipv4Addr::octets)
            .collect();
        let changed = self.netfilter.transact(&self.table, |batch| {
            if !gone.is_empty() {
                batch.remove(gate::ADDRESSES, &gone);
            }
            if !new.is_empty() {
                batch.add(gate::ADDRESSES, &new);
            }
        });
        changed.map(drop).map_err(|refused| refused.error)
    }

    fn remove_all(&mut self) -> io::Result<()> {
        let swept = self.sweep();
        let removed = self
            .netfilter
            .transact(&self.table, |batch| batch.delete_table());
        removed.map_err(|refused| refused.error)?;
        swept.map(drop)
    }

    fn outlook(&self) -> Outlook {
        if sysctl::number(IP_FORWARD) != Some(1) {
            return Outlook::Closed;
        }
        let chains = forward_chains().chains.unwrap_or_default();
        match chains.iter().all(|chain| chain.knows_mark) {
            true => Outlook::Open,
            false => Outlook::Walled,
        }
    }

    fn watch(&mut self, entry: &NatEntry, party: Party) -> io::Result<()> {
        let Wanted {
            mark, mark_mask, ..
        } = self.settings.wanted;
        let (sender, receiver) = ways(entry, party);
        // Where the answer is lost the chain may be there: its end is due all the same.
        self.watched = Some(Watched {
            entry: *entry,
            party,
            entered: None,
        });
        let made = self.netfilter.transact(&self.table, |batch| {
            gate::watch(batch, mark, mark_mask, sender.remote, receiver.remote);
        });
        made.map_err(|refused| refused.error)?;
        let entered = self.entered(entry, party);
        if let Some(watched) = &mut self.watched {
            watched.entered = entered;
        }
        Ok(())
    }

    fn end_watch(&mut self) -> Option<bool> {
        let watched = self.watched.take()?;
        // Those that entered first: so what is under way is not taken for lost.
        let entered = self.entered(&watched.entry, watched.party);
        let counted = self.netfilter.rule_counters(&self.table, gate::REACHED);
        // Gone with the table where somebody took that away. What stays is there until the next watch ends.
        let _ = self
            .netfilter
            .transact(&self.table, |batch| batch.delete_chain(gate::REACHED));
        // One that could not be deleted has older rules, too.
        let reached = counted.ok()?.last()?.packets;
        (reached > 0 || entered? > watched.entered?).then_some(reached > 0)
    }

    fn explain(&mut self, entry: &NatEntry, party: Party, reached_forward: Option<bool>) -> String {
        let (sender, receiver) = ways(entry, party);
        let stuck = StuckFlow {
            from: sender.remote,
            local: sender.local,
            to: receiver.remote,
            reached_forward,
        };
        let Wanted {
            mark, mark_mask, ..
        } = self.settings.wanted;
        stuck_flow::explain(&stuck, mark, mark_mask)
    }

    fn explain_refusal(&mut self, error: &io::Error) -> String {
        match error.raw_os_error() {
            Some(libc::ENOMEM | libc::ENOBUFS | libc::ENFILE) => format!(
                "the kernel has no room for another conntrack entry ({error}): see net.netfilter.nf_conntrack_count \
                 and raise net.netfilter.nf_conntrack_max"
            ),
            Some(libc::EEXIST) => "somebody else's conntrack entry has its addresses (conntrack -L); it is tried again".to_owned(),
            Some(libc::EPERM) => format!("{error}: the relay needs CAP_NET_ADMIN (AmbientCapabilities=CAP_NET_ADMIN)"),
            _ => error.to_string(),
        }
    }
}

/// This party's end of an entry, and the other one.
fn ways(entry: &NatEntry, party: Party) -> (End, End) {
    match party {
        Party::Caller => (entry.caller, entry.callee),
        Party::Callee => (entry.callee, entry.caller),
    }
}

fn name(set: Set) -> &'static str {
    match set {
        Set::Forwarded => gate::FORWARDED,
        Set::Leaving => gate::LEAVING,
    }
}

/// Each kind of change in one message: a batch is as short as it can be.
fn put_changes(batch: &mut Batch<'_>, changes: &[Change]) {
    let keys = |wanted: fn(Tuple) -> Change| -> Vec<nftables::Key> {
        let tuple = |change: &Change| match *change {
            Change::Add(_, tuple) | Change::Remove(_, tuple) => tuple,
        };
        changes
            .iter()
            .filter(|change| wanted(tuple(change)) == **change)
            .map(|c| key(tuple(c)))
            .collect()
    };
    let removed = keys(|tuple| Change::Remove(Set::Forwarded, tuple));
    let told = keys(|tuple| Change::Remove(Set::Leaving, tuple));
    let counted = keys(|tuple| Change::Add(Set::Leaving, tuple));
    let forwarded = keys(|tuple| Change::Add(Set::Forwarded, tuple));
    if !removed.is_empty() {
        batch.remove(gate::FORWARDED, &removed);
    }
    if !told.is_empty() {
        batch.remove_echoed(gate::LEAVING, &told);
    }
    if !counted.is_empty() {
        batch.add(gate::LEAVING, &counted);
    }
    if !forwarded.is_empty() {
        batch.add(gate::FORWARDED, &forwarded);
    }
}

fn element(found: &nftables::Element) -> Element {
    let counted = found.counters;
    Element {
        tuple: tuple(&found.key),
        counters: Counters {
            packets: counted.packets,
            bytes: counted.bytes,
        },
    }
}

/// As the sets have it: source and destination, each an address, a port and two bytes of nothing.
fn key(tuple: Tuple) -> nftables::Key {
    let mut key = nftables::Key::default();
    for (half, end) in key
        .chunks_exact_mut(8)
        .zip([tuple.source, tuple.destination])
    {
        half[..4].copy_from_slice(&end.ip().octets());
        half[4..6].copy_from_slice(&end.port().to_be_bytes());
    }
    key
}

fn tuple(key: &nftables::Key) -> Tuple {
    let end = |at: usize| {
        let ip = Ipv4Addr::new(key[at], key[at + 1], key[at + 2], key[at + 3]);
        SocketAddrV4::new(ip, u16::from_be_bytes([key[at + 4], key[at + 5]]))
    };
    Tuple {
        source: end(0),
        destination: end(8),
    }
}
