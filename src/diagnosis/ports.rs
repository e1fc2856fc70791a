//! The address, ports and open files of a relay: whether the host has them, and how much is left.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use super::finding::{Finding, Severity, fine, problem, warning};
use super::requirements::{FILES_PER_PAIR, OTHER_FILES, PAIRS_PER_STREAM, Wanted, relay_address};
use super::sockets::{Socket, listed};
use super::sysctl;
use crate::config::RelayConfig;
use crate::sys::{interfaces, limits, range_lock};

/// No process may have more files than that.
const FILE_LIMIT_SETTING: &str = "fs.nr_open";

/// The address that media goes to, as the relay itself will find it.
pub fn address(config: &RelayConfig) -> (Finding, Option<Ipv4Addr>) {
    let subject = "relay_ip";
    let address = match relay_address(config.relay_ip, config.auto_detect_interfaces) {
        Ok(address) => address,
        Err(text) => return (problem(subject, text), None),
    };
    let interfaces = interfaces::list().unwrap_or_default();
    // Of the loopback network every address is the host's, listed or not.
    let is_here = address.is_loopback()
        || interfaces
            .iter()
            .any(|one| one.addresses.contains(&address));
    let finding = if is_here {
        fine(subject, address.to_string())
    } else {
        warning(
            subject,
            format!(
                "{address} is on no interface of this host, media to it does not arrive: ip -4 address shows this host's; ip addr add {address} dev IF"
            ),
        )
    };
    (finding, Some(address))
}

/// The port range: who else has it or parts of it, and whether there are files for it.
pub fn look(wanted: &Wanted) -> Vec<Finding> {
    let taken = match range_lock::overlapping(wanted.port_range) {
        Some(held) => warning(
            "ports",
            format!(
                "a relay with ports {held}, runs on this host; another one needs a port_range of its own"
            ),
        ),
        None => taken_by_others(wanted, bound_udp_ports(wanted.relay_ip).into_values()),
    };
    let needed = u64::from(wanted.ports()) + OTHER_FILES;
    let files = match limits::raise_open_files(needed) {
        Ok(limit) => files(limit, sysctl::number(FILE_LIMIT_SETTING), wanted),
        Err(error) => warning("open files", format!("the limit cannot be read: {error}")),
    };
    vec![taken, files]
}

/// What of the range others have than the relay that has these sockets; none where that has all, or cannot be seen.
pub fn of_others(wanted: &Wanted, own: impl FnOnce() -> Option<HashSet<u64>>) -> Option<Finding> {
    let before = bound_udp_ports(wanted.relay_ip);
    let own = own()?;
    // A call that begins or ends at this moment is not to be taken for somebody else's: what was there all the time.
    let after = bound_udp_ports(wanted.relay_ip);
    let foreign = before.into_iter().filter_map(|(inode, port)| {
        let is_foreign = after.contains_key(&inode) && !own.contains(&inode);
        is_foreign.then_some(port)
    });
    let finding = taken_by_others(wanted, foreign);
    (finding.severity != Severity::Fine).then_some(finding)
}

/// How many streams fit into a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streams {
    /// Beside those that it has.
    pub left: u64,
    pub all: u64,
}

/// Those of a relay that runs. `own` are the inodes of its sockets, where they can be seen; else all that is bound in
/// the range counts as its own. `files` is how many it may have open.
pub fn streams(wanted: &Wanted, own: Option<&HashSet<u64>>, files: Option<u64>) -> Streams {
    // With several interfaces it has bound more addresses than one.
    let everywhere = by_inode(listed("udp"));
    let near = bound_udp_ports(wanted.relay_ip);
    let is_own = |inode: &u64| own.is_none_or(|own| own.contains(inode));
    let used = everywhere.iter().filter(|(inode, _)| is_own(inode));
    let pairs = |ports: BTreeSet<u16>| -> BTreeSet<u16> {
        let range = wanted.port_range.0..=wanted.last_port();
        let in_range = ports.into_iter().filter(|port| range.contains(port));
        in_range.map(|port| port & !1).collect()
    };
    let used = pairs(used.map(|(_, port)| *port).collect());
    let taken = pairs(near.into_values().collect());
    let all = u64::from(wanted.ports()) / FILES_PER_PAIR;
    let most = files.map_or(all, |files| {
        all.min(files.saturating_sub(OTHER_FILES) / FILES_PER_PAIR)
    });
    let free = all.saturating_sub(used.union(&taken).count() as u64);
    let left = free.min(most.saturating_sub(used.len() as u64));
    Streams {
        left: left / PAIRS_PER_STREAM as u64,
        all: most / PAIRS_PER_STREAM as u64,
    }
}

/// What of the range other programs have bound.
fn taken_by_others(wanted: &Wanted, bound: impl Iterator<Item = u16>) -> Finding {
    let (first, last) = (wanted.port_range.0, wanted.last_port());
    let taken: BTreeSet<u16> = bound.filter(|port| (first..=last).contains(port)).collect();
    let some: Vec<String> = taken.iter().take(5).map(u16::to_string).collect();
    let some = some.join(", ");
    match taken.len() {
        0 => fine("ports", format!("{first} to {last} are free")),
        _ if !has_stream(wanted, &taken) => problem(
            "ports",
            format!(
                "other programs have ports of {first} to {last}, {some} among them, and no stream fits between them: \
                 every call is refused: ss -lunp shows whose they are; set [Relay] port_range"
            ),
        ),
        count => warning(
            "ports",
            format!(
                "{count} of {} ports are taken by other programs, {some} among them; the relay goes round them: \
                 ss -lunp shows whose they are",
                wanted.ports()
            ),
        ),
    }
}

/// Returns true if there are free pairs for one stream at least.
fn has_stream(wanted: &Wanted, taken: &BTreeSet<u16>) -> bool {
    let pairs = (wanted.port_range.0..=wanted.last_port()).step_by(2);
    let free = pairs.filter(|port| !taken.contains(port) && !taken.contains(&(port | 1)));
    free.take(PAIRS_PER_STREAM).count() == PAIRS_PER_STREAM
}

/// The UDP ports that cannot be bound on an address, by their sockets' inodes.
fn bound_udp_ports(address: Ipv4Addr) -> HashMap<u64, u16> {
    let sockets = listed("udp").chain(listed("udp6"));
    by_inode(sockets.filter(|one| hinders(one.local.ip(), address)))
}

/// Returns true if a socket at the first address keeps others from binding its port at the second one.
fn hinders(bound: IpAddr, address: Ipv4Addr) -> bool {
    bound == address || bound.is_unspecified()
}

fn by_inode(sockets: impl Iterator<Item = Socket>) -> HashMap<u64, u16> {
    sockets.map(|one| (one.inode, one.local.port())).collect()
}

fn files(limit: u64, most: Option<u32>, wanted: &Wanted) -> Finding {
    let subject = "open files";
    let ports = u64::from(wanted.ports());
    let needed = ports + OTHER_FILES;
    if limit >= needed {
        return fine(subject, format!("{limit} may be open, {needed} are enough"));
    }
    let streams = |files: u64| files / FILES_PER_PAIR / 2;
    let raise = match most {
        Some(most) if u64::from(most) < needed => {
            format!("sysctl -w {FILE_LIMIT_SETTING}={needed}, and ")
        }
        _ => String::new(),
    };
    let text = format!(
        "{limit} may be open: {} streams fit, port_range has room for {}: {raise}LimitNOFILE={needed} in the relay's \
         systemd unit, or ulimit -n {needed}",
        streams(limit.saturating_sub(OTHER_FILES)),
        streams(ports)
    );
    warning(subject, text)
}

#[cfg(test)]
mod tests;
