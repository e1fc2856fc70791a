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
mod tests {
    use super::*;
    use crate::diagnosis::sockets::parse;
    use crate::diagnosis::tests::namespace::{in_namespace, shell};

    fn wanted() -> Wanted {
        Wanted {
            relay_ip: Ipv4Addr::LOCALHOST,
            auto_detect: false,
            port_range: (40000, 40100),
            mark: 0,
            mark_mask: 0,
        }
    }

    #[test]
    fn ports_of_others_are_read_from_proc() {
        let table = "  sl  local_address rem_address   st\n\
            12: 00000000:9C40 00000000:0000 07 0:0 00:0 0 0 0 71 2\n 13: 0100007F:9C42 00000000:0000 07 0:0 00:0 0 0 0 72 2\n\
            14: 0200007F:9C44 00000000:0000 07 0:0 00:0 0 0 0 73 2\n 15: 00000000:9C46 00000000:0000 07\n junk\n";
        let found = parse(table).into_iter();
        let found = by_inode(found.filter(|one| hinders(one.local.ip(), Ipv4Addr::LOCALHOST)));
        let want = if cfg!(target_endian = "little") {
            vec![(71, 40000), (72, 40002)]
        } else {
            vec![(71, 40000)]
        };
        assert_eq!(found, want.into_iter().collect());
        let finding = taken_by_others(&wanted(), [39999, 40000, 40002, 40100].into_iter());
        assert_eq!(finding.severity, Severity::Warning);
        assert!(finding.text.starts_with("2 of 100 ports"), "{finding:?}");
        assert_eq!(
            taken_by_others(&wanted(), [40100].into_iter()).severity,
            Severity::Fine
        );
    }

    #[test]
    fn a_bound_port_is_seen() {
        // Where nobody else binds: a socket that goes hides another one from who reads on.
        in_namespace("bound ports", || {
            shell("ip link set lo up");
            let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = socket.local_addr().unwrap().port();
            let seen = |address| {
                bound_udp_ports(address)
                    .into_values()
                    .any(|one| one == port)
            };
            assert!(seen(Ipv4Addr::LOCALHOST) && !seen(Ipv4Addr::new(127, 0, 0, 2)));
        });
    }

    #[test]
    fn ports_beside_a_relay_are_those_of_others() {
        in_namespace("ports beside a relay", || {
            shell("ip link set lo up");
            let bind = |port| std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
            let _sockets = [40000, 40002, 40098].map(bind);
            let inode = |port| {
                let bound = bound_udp_ports(Ipv4Addr::LOCALHOST);
                let mut bound = bound.into_iter().filter(|(_, one)| *one == port);
                bound.next().unwrap().0
            };
            let own = HashSet::from([40000, 40002].map(inode));
            let found = of_others(&wanted(), || Some(own.clone())).unwrap();
            let begin = "1 of 100 ports are taken by other programs, 40098 among them";
            assert!(found.text.starts_with(begin), "{found:?}");
            // A port that comes while they are told of, and one that goes.
            let mut passing = Some(bind(40096));
            let all = own.iter().copied().chain([inode(40098)]).collect();
            let found = of_others(&wanted(), || {
                drop(passing.take());
                passing = Some(bind(40094));
                Some(all)
            });
            assert_eq!(found, None);
            assert_eq!(of_others(&wanted(), || None), None);
        });
    }

    #[test]
    fn what_fits_is_what_is_neither_bound_nor_without_files() {
        in_namespace("room of a relay", || {
            shell("ip link set lo up");
            let bind = |port| std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
            let streams = |own: Option<&HashSet<u64>>, files| {
                let Streams { left, all } = streams(&wanted(), own, files);
                (left, all)
            };
            assert_eq!(streams(None, None), (25, 25));
            let _other = bind(40_099);
            assert_eq!(streams(Some(&HashSet::new()), None), (24, 25));
            let sockets: Vec<_> = (40_000..40_096).map(bind).collect();
            let inodes = |socket: &std::net::UdpSocket| {
                let port = socket.local_addr().unwrap().port();
                let bound = by_inode(listed("udp"))
                    .into_iter()
                    .find(|(_, one)| *one == port);
                bound.unwrap().0
            };
            let own: HashSet<u64> = sockets.iter().map(inodes).collect();
            assert_eq!(streams(Some(&own), None), (0, 25), "one pair is no stream");
            assert_eq!(streams(None, None), (0, 25), "whose they are is not seen");
            let files = |count: u64| Some(OTHER_FILES + count);
            assert_eq!(streams(Some(&own), files(96)), (0, 24));
            drop(sockets);
            assert_eq!(streams(Some(&own), files(40)), (10, 10));
        });
    }

    #[test]
    fn a_range_that_others_have_is_a_problem() {
        let rtp = (40_000..40_100).step_by(2);
        let verdict = |free: usize| taken_by_others(&wanted(), rtp.clone().skip(free)).severity;
        assert_eq!(
            [0, 1, 2].map(verdict),
            [Severity::Problem, Severity::Problem, Severity::Warning]
        );
    }

    #[test]
    fn a_relay_that_runs_is_named() {
        in_namespace("a relay that runs", || {
            assert_eq!(look(&wanted())[0].severity, Severity::Fine);
            let _held = range_lock::lock((40098, 40200)).unwrap();
            let finding = &look(&wanted())[0];
            assert_eq!(finding.severity, Severity::Warning);
            assert!(
                finding.text.contains("a relay with ports 40098 to 40199"),
                "{finding:?}"
            );
        });
    }

    #[test]
    fn files_that_do_not_suffice() {
        assert_eq!(
            files(100 + OTHER_FILES, None, &wanted()).severity,
            Severity::Fine
        );
        let finding = files(40 + OTHER_FILES, Some(1_000_000), &wanted());
        assert!(
            finding.text.contains("10 streams fit") && finding.text.contains("room for 25"),
            "{finding:?}"
        );
        assert!(!finding.text.contains("sysctl"), "{finding:?}");
        let finding = files(40 + OTHER_FILES, Some(99), &wanted());
        assert!(
            finding
                .text
                .contains("sysctl -w fs.nr_open=228, and LimitNOFILE=228")
        );
    }
}
