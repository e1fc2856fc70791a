//! The requests of [`super::requests`] as netlink messages to this host's netfilter.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use log::{debug, info};

use super::events::{Events, Sign};
use super::requests::{Change, Element, Requests, Set};
use super::table::{self, ABANDONED, REFUSED, RelayTable, UNTIL, key, table_name, tuple};
use crate::diagnosis::host_facts::{IP_FORWARD, forward_chains};
use crate::diagnosis::requirements::Wanted;
use crate::diagnosis::stuck_flow::{self, StuckFlow};
use crate::diagnosis::sysctl;
use crate::netlink::conntrack::{self, Entry, NatEntry, Tuple};
use crate::netlink::nftables::{self, Batch};
use crate::netlink::socket::{Netfilter, Protection};
use crate::proto::Party;
use crate::relay::kernel::health::Outlook;
use crate::relay::kernel::settings::Settings;
use crate::sys::clock;

/// How long a dead process may take to let go of its table, and how often it is looked at.
const OWNER_ENDS_WITHIN: Duration = Duration::from_secs(1);
const OWNER_LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// Netfilter of this host.
pub(crate) struct HostNetfilter {
    netfilter: Netfilter,
    events: Events,
    settings: Settings,
    table: String,
    /// All IPv4 addresses of this host.
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

impl HostNetfilter {
    pub(crate) fn new(
        netfilter: Netfilter,
        events: Events,
        settings: Settings,
        locals: &[IpAddr],
    ) -> HostNetfilter {
        HostNetfilter {
            netfilter,
            events,
            table: table_name(settings.wanted.port_range.0),
            protection: if settings.protect {
                Protection::Persistent
            } else {
                Protection::None
            },
            settings,
            locals: ipv4(locals),
            watched: None,
        }
    }

    /// Makes the table, in one transaction, in place of one that an earlier relay left. Nothing is relayed yet.
    fn make_table(&mut self) -> io::Result<()> {
        self.replace_table(|table, batch| {
            table.fill(batch);
            batch.note(&table.maker());
        })
    }

    /// Takes the table over that an earlier relay left, with all that is in it. Returns why not, where that cannot be.
    fn take_table(&mut self) -> io::Result<Result<(), &'static str>> {
        let Some(protection) = self.netfilter.protection(&self.table)? else {
            return Ok(Err("it is gone"));
        };
        let addresses = self.addresses();
        let maker = self.relay_table(&addresses).maker();
        if !self.netfilter.has_chain(&self.table, &maker)? {
            return Ok(Err("it is another version's, or made for other settings"));
        }
        for (chain, rules) in table::RULES {
            if self.netfilter.count_rules(&self.table, chain)? != rules {
                return Ok(Err("somebody has changed it"));
            }
        }
        let is_abandoned = self.netfilter.has_chain(&self.table, ABANDONED)?;
        if is_abandoned && self.netfilter.count_elements(&self.table, UNTIL)? == 0 {
            return Ok(Err("its time was up (adopt_within)"));
        }
        let is_watched = self.netfilter.has_chain(&self.table, table::REACHED)?;
        let own: Vec<_> = addresses.iter().map(Ipv4Addr::octets).collect();
        let taken = self.netfilter.take_table(&self.table, protection, |batch| {
            if is_abandoned {
                batch.delete_chain(ABANDONED);
                batch.delete_chain(REFUSED);
                batch.delete_set(UNTIL);
            }
            if is_watched {
                batch.delete_chain(table::REACHED);
            }
            batch.empty(table::ADDRESSES);
            batch.add(table::ADDRESSES, &own);
        });
        taken.map_err(|refused| refused.error)?;
        self.protection = protection;
        Ok(Ok(()))
    }

    fn replace_table(&mut self, fill: impl Fn(&RelayTable<'_>, &mut Batch<'_>)) -> io::Result<()> {
        let addresses = self.addresses();
        let table = self.relay_table(&addresses);
        let made = self
            .netfilter
            .replace_table(&self.table, self.protection, |batch| fill(&table, batch));
        self.protection = made.map_err(|refused| refused.error)?;
        Ok(())
    }

    fn relay_table<'a>(&self, addresses: &'a [Ipv4Addr]) -> RelayTable<'a> {
        let Wanted {
            port_range: range,
            mark,
            mark_mask,
            ..
        } = self.settings.wanted;
        let last = u16::try_from(range.1 - 1).unwrap_or(u16::MAX);
        RelayTable {
            ports: range.0..=last,
            addresses,
            mark,
            mask: mark_mask,
            // An element for each port, and room for those that could not be removed at once.
            size: 2 * (range.1 - u32::from(range.0)),
        }
    }

    /// Deletes every entry that is this relay's; how many there were. An earlier relay's calls are over.
    fn sweep(&mut self) -> io::Result<usize> {
        let mut found = Vec::new();
        self.entries(&mut |entry| found.push((entry.original, Some(entry.id))))?;
        for some in found.chunks(64) {
            self.delete(some)?;
        }
        Ok(found.len())
    }

    /// Removes the table, if there is one, and the entries of an earlier relay; how many there were of these.
    pub(super) fn clear(&mut self) -> io::Result<usize> {
        if self.netfilter.has_table(&self.table)? {
            let name = self.table.clone();
            once_free(&name, || {
                let deleted = self.netfilter.transact(&name, |batch| batch.delete_table());
                deleted.map(drop).map_err(|refused| refused.error)
            })?;
        }
        self.sweep()
    }

    fn say_protection(&self) {
        let table = &self.table;
        match self.protection {
            Protection::None => info!(
                "the kernel forwards (nftables table ip {table}); it cannot protect the table: after a flush of the \
                 ruleset it is made again"
            ),
            Protection::Persistent => {
                info!("the kernel forwards (nftables table ip {table}, protected from others)");
            }
        }
    }

    /// Packets of this party that have entered.
    fn entered(&mut self, entry: &NatEntry, party: Party) -> Option<u64> {
        let found = self.get(&[entry.original]).ok()?.pop()?.ok()?;
        let counters = match party {
            Party::Caller => found.sent,
            Party::Callee => found.received,
        };
        Some(counters?.packets)
    }

    /// The addresses that media may come to.
    fn addresses(&self) -> Vec<Ipv4Addr> {
        if self.settings.wanted.auto_detect {
            self.locals.clone()
        } else {
            vec![self.settings.wanted.relay_ip]
        }
    }

    fn is_own_address(&self, address: &Ipv4Addr) -> bool {
        if self.settings.wanted.auto_detect {
            self.locals.contains(address)
        } else {
            self.settings.wanted.relay_ip == *address
        }
    }
}

impl Requests for HostNetfilter {
    fn start(&mut self) -> Result<usize, String> {
        let told = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
        let table = self.table.clone();
        once_free(&table, || self.make_table()).map_err(told("nftables table"))?;
        let swept = self.sweep().map_err(told("conntrack"))?;
        if swept > 0 {
            info!("removed {swept} conntrack entries that an earlier relay left");
        }
        self.say_protection();
        Ok(swept)
    }

    fn take_over(&mut self) -> bool {
        let table = self.table.clone();
        let why = match once_free(&table, || self.take_table()) {
            Ok(Ok(())) => {
                self.say_protection();
                return true;
            }
            Ok(Err(why)) => why.to_owned(),
            Err(error) => error.to_string(),
        };
        info!("nftables table ip {table} of an earlier relay is not taken over: {why}");
        false
    }

    fn stop(&mut self) {
        // Where there is no such set nothing is forwarded.
        let _ = self
            .netfilter
            .transact(&self.table, |batch| batch.empty(table::FORWARDED));
    }

    fn leave(&mut self, time: Duration) -> io::Result<()> {
        let addresses = self.addresses();
        let table = self.relay_table(&addresses);
        let left = self
            .netfilter
            .transact(&self.table, |batch| table.abandon(time, batch));
        left.map(drop).map_err(|refused| refused.error)
    }

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

    fn left(&mut self, tuples: &[Tuple]) -> io::Result<Vec<Element>> {
        let keys: Vec<_> = tuples.iter().copied().map(key).collect();
        let found = self
            .netfilter
            .some_elements(&self.table, table::LEAVING, &keys)?;
        Ok(found.iter().map(element).collect())
    }

    fn rebuild(&mut self, elements: &[Change]) -> io::Result<()> {
        self.replace_table(|table, batch| table.shut(batch))?;
        let addresses = self.addresses();
        let table = self.relay_table(&addresses);
        let opened = self.netfilter.transact(&self.table, |batch| {
            table.open(batch);
            batch.note(&table.maker());
            put_changes(batch, elements);
        });
        opened.map(drop).map_err(|refused| refused.error)
    }

    fn set_addresses(&mut self, addresses: &[IpAddr]) -> io::Result<()> {
        let before = self.addresses();
        self.locals = ipv4(addresses);
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
                batch.remove(table::ADDRESSES, &gone);
            }
            if !new.is_empty() {
                batch.add(table::ADDRESSES, &new);
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
        if chains.iter().all(|chain| chain.knows_mark) {
            Outlook::Open
        } else {
            Outlook::Walled
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
            table::watch(batch, mark, mark_mask, sender.source, receiver.source);
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
        let counted = self.netfilter.rule_counters(&self.table, table::REACHED);
        // Gone with the table where somebody took that away. What stays is there until the next watch ends.
        let _ = self
            .netfilter
            .transact(&self.table, |batch| batch.delete_chain(table::REACHED));
        // One that could not be deleted has older rules, too.
        let reached = counted.ok()?.last()?.packets;
        (reached > 0 || entered? > watched.entered?).then_some(reached > 0)
    }

    fn explain(&mut self, entry: &NatEntry, party: Party, reached_forward: Option<bool>) -> String {
        let (sender, receiver) = ways(entry, party);
        let stuck = StuckFlow {
            from: sender.source,
            local: sender.destination,
            to: receiver.source,
            reached_forward,
        };
        let Wanted {
            mark, mark_mask, ..
        } = self.settings.wanted;
        stuck_flow::explain(&stuck, mark, mark_mask)
    }

    fn explain_refusal(&self, error: &io::Error) -> String {
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

    fn sources(&self) -> Vec<BorrowedFd<'_>> {
        self.events.sources().to_vec()
    }

    fn hear(&mut self, each: &mut dyn FnMut(Sign)) -> io::Result<()> {
        self.events.take(each)
    }
}

/// Tries what needs a table whose owner may be on its way out: the kernel frees a dead process's table a moment after its
/// port range.
fn once_free<T>(table: &str, mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let end = clock::moment() + OWNER_ENDS_WITHIN;
    loop {
        match attempt() {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) && clock::moment() < end => {
                debug!("nftables table ip {table} is owned still: {error}");
                std::thread::sleep(OWNER_LOOK_INTERVAL);
            }
            result => return result,
        }
    }
}

fn ipv4(addresses: &[IpAddr]) -> Vec<Ipv4Addr> {
    let v4 = |address: &IpAddr| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    };
    addresses.iter().filter_map(v4).collect()
}

/// This party's datagrams as they enter, and the other one's.
fn ways(entry: &NatEntry, party: Party) -> (Tuple, Tuple) {
    match party {
        Party::Caller => (entry.original, entry.reply),
        Party::Callee => (entry.reply, entry.original),
    }
}

fn name(set: Set) -> &'static str {
    match set {
        Set::Forwarded => table::FORWARDED,
        Set::Leaving => table::LEAVING,
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
        batch.remove(table::FORWARDED, &removed);
    }
    if !told.is_empty() {
        batch.remove_echoed(table::LEAVING, &told);
    }
    if !counted.is_empty() {
        batch.add(table::LEAVING, &counted);
    }
    if !forwarded.is_empty() {
        batch.add(table::FORWARDED, &forwarded);
    }
}

fn element(found: &nftables::Element) -> Element {
    Element {
        tuple: tuple(&found.key),
        counters: found.counters,
    }
}
