//! Why packets of a flow that the kernel forwards enter the relay's host and do not leave it: the cause and what mends
//! it, in one sentence for the log.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use super::host::{IP_FORWARD, Interface, Walls, interfaces, walls};
use super::kernel::set;
use super::sysctl::{number, of_interface};
use crate::sys::route;

/// One direction of a flow whose packets do not leave.
#[derive(Clone, Copy, Debug)]
pub struct Stuck {
    /// Who sends them.
    pub from: SocketAddrV4,
    /// The relay's address that they are sent to.
    pub local: SocketAddrV4,
    /// Who does not get them.
    pub to: SocketAddrV4,
    /// Whether they have come as far as the chains of hook forward, where that is known.
    pub reached_forward: Option<bool>,
}

/// What the host's settings say about it.
#[derive(Debug)]
struct Facts {
    ip_forward: bool,
    interfaces: Vec<Interface>,
    /// The relay's address on the way to the receiver, and on the way to the sender.
    towards_receiver: io::Result<Ipv4Addr>,
    towards_sender: io::Result<Ipv4Addr>,
    walls: Walls,
}

/// Looks at the host, in the calling thread's network namespace, and names the cause. `mark` and `mask` are those of
/// the relay's conntrack entries. Takes a few milliseconds, more where there are very many firewall rules.
pub fn explain(stuck: &Stuck, mark: u32, mask: u32) -> String {
    let facts = Facts {
        ip_forward: number(IP_FORWARD) == Some(1),
        interfaces: interfaces(),
        towards_receiver: route::source_towards(*stuck.to.ip()),
        towards_sender: route::source_towards(*stuck.from.ip()),
        walls: walls(),
    };
    let Stuck {
        from, local, to, ..
    } = stuck;
    let cause = judge(stuck, &facts, mark, mask);
    format!("packets of {from} to {local} do not leave to {to}: {cause}")
}

fn judge(stuck: &Stuck, facts: &Facts, mark: u32, mask: u32) -> String {
    let before = (stuck.reached_forward != Some(true)).then(|| before_forward(stuck, facts));
    let within = || (stuck.reached_forward != Some(false)).then(|| in_forward(facts, mark, mask));
    let cause = before.flatten().or_else(|| within().flatten());
    cause.unwrap_or_else(|| {
        let place = match stuck.reached_forward {
            Some(false) => {
                "before hook forward, by a rule of this host in prerouting, or since they are too large for the next \
                 link"
            }
            _ => "at or after hook forward, by a rule of this host",
        };
        format!("dropped {place}: nft list ruleset and iptables-save show the rules, nft monitor trace their way")
    })
}

/// What the kernel's routing drops.
fn before_forward(stuck: &Stuck, facts: &Facts) -> Option<String> {
    let incoming = facts.with_address(*stuck.local.ip());
    if !facts.ip_forward {
        return Some(format!("{IP_FORWARD} is 0: {}", set(IP_FORWARD, "1")));
    }
    if let Some(closed) = incoming.filter(|interface| !interface.is_forwarding) {
        let name = of_interface(&closed.name, "forwarding");
        return Some(format!("{name} is 0: {}", set(&name, "1")));
    }
    if let Err(error) = &facts.towards_receiver {
        let to = stuck.to.ip();
        return Some(format!(
            "there is no route to {to} ({error}): ip route get {to}"
        ));
    }
    let way_back = facts.towards_sender.as_ref().ok();
    let way_back = way_back.and_then(|address| facts.with_address(*address));
    let strict = incoming.filter(|incoming| incoming.is_strict)?;
    let other = way_back.map(|interface| &interface.name);
    if other == Some(&strict.name) {
        return None;
    }
    let (from, name) = (stuck.from.ip(), &strict.name);
    let leads = other.map_or("no route leads".to_owned(), |other| {
        format!("{other} leads")
    });
    Some(format!(
        "rp_filter on {name} drops what comes from {from}, since {leads} there: sysctl -w {}=2",
        of_interface(name, "rp_filter")
    ))
}

/// What a firewall drops at hook forward.
fn in_forward(facts: &Facts, mark: u32, mask: u32) -> Option<String> {
    let mut chains = facts.walls.chains.iter().flatten();
    if let Some(wall) = chains.find(|wall| !wall.knows_mark) {
        let (what, remedy) = (wall.describe(), wall.remedy(mark, mask));
        return Some(format!("{what}: {remedy}"));
    }
    facts.walls.has_legacy.then(|| {
        format!(
            "dropped at or after hook forward, perhaps by iptables-legacy, whose rules only itself can tell \
             (iptables-legacy -S FORWARD): iptables-legacy -I FORWARD -m connmark --mark {mark:#x}/{mask:#x} -j ACCEPT"
        )
    })
}

impl Facts {
    fn with_address(&self, address: Ipv4Addr) -> Option<&Interface> {
        let mut interfaces = self.interfaces.iter();
        interfaces.find(|interface| interface.addresses.contains(&address))
    }
}

#[cfg(test)]
mod tests;
