//! Forwarding by conntrack: an entry with address translation for each flow, and a table of nftables that decides what of
//! the relay's ports conntrack sees, and counts what leaves.
//!
//! Packets find their entry only while their four-tuple is in the set `forwarded`; all others are not tracked and come to
//! user space. So the order is: entry, then set, to hand over; set, then entry, to take back; and at no moment is a packet
//! lost.
//!
//! ```text
//!  forwarding   the mechanism: what is asked for in which order, and what happens when the kernel refuses
//!  index        the flows by what netfilter calls them, and what a reading says of each
//!  remains      what an earlier relay has left, and whose it is
//!  requests     what is asked of netfilter; netfilter asks the real one, tests one in memory
//!  table        what the relay's table is made of
//!  events       what others do to entries and table
//! ```

mod events;
mod forwarding;
mod index;
mod netfilter;
mod remains;
mod requests;
mod table;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;

use log::warn;

use self::events::Events;
use self::forwarding::Conntrack;
use self::netfilter::HostNetfilter;
use super::flow::Ends;
use super::settings::Settings;
use crate::diagnosis::relay_host;
use crate::netlink::conntrack::{NatEntry, Tuple};
use crate::netlink::socket::Netfilter;
use crate::session::FlowEnd;
use crate::sys::route;

/// Sees to it that this host's kernel can forward.
///
/// # Errors
/// Why it cannot forward, and what to do.
pub(super) fn open(settings: &Settings) -> Result<Conntrack<HostNetfilter>, String> {
    let wanted = &settings.wanted;
    let findings = relay_host::prepare(wanted);
    if let Some(why) = relay_host::problems_for_kernel(&findings) {
        return Err(why);
    }
    for finding in relay_host::warnings(&findings) {
        warn!("{}", finding.text);
    }
    let told = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let netfilter = Netfilter::open().map_err(told("netlink"))?;
    // Before the first entry is made, or nothing is told of that.
    let events = Events::open(&netfilter, settings).map_err(told("netlink events"))?;
    let locals = route::addresses().map_err(told("addresses of this host"))?;
    let host = HostNetfilter::new(netfilter, events, settings.clone(), &locals);
    Ok(Conntrack::new(host))
}

/// Removes what an earlier relay has left, where the kernel forwards nothing any more; how many entries there were.
///
/// # Errors
/// Where it cannot be removed.
pub(super) fn clear(settings: &Settings) -> io::Result<usize> {
    let netfilter = Netfilter::open()?;
    let events = Events::open(&netfilter, settings)?;
    let locals = route::addresses()?;
    HostNetfilter::new(netfilter, events, settings.clone(), &locals).clear()
}

/// What a flow's entry is like: datagrams of a party come from its address to the relay's that it sends to. None where an
/// address is of IPv6.
fn entry(ends: &Ends) -> Option<NatEntry> {
    let tuple = |end: FlowEnd| match (end.remote, end.local) {
        (SocketAddr::V4(source), SocketAddr::V4(destination)) => Some(Tuple {
            source,
            destination,
        }),
        _ => None,
    };
    Some(NatEntry {
        original: tuple(ends.caller)?,
        reply: tuple(ends.callee)?,
    })
}

/// The flow that an entry forwards.
fn ends(entry: &NatEntry) -> Ends {
    let end = |tuple: Tuple| FlowEnd {
        remote: tuple.source.into(),
        local: tuple.destination.into(),
    };
    entry.entering().map(end).into()
}
