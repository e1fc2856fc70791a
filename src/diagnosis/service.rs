//! What any relay needs: its configuration, address, ports and files, and dispatchers to work for.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::host::PROC_NET;
use super::requirements::{FILES_PER_PAIR, OTHER_FILES, PAIRS_PER_STREAM, Wanted, relay_address};
use super::sysctl;
use super::{Finding, Need, Verdict};
use crate::config::{DispatcherEntry, Host, Loaded, RelayConfig};
use crate::resolver::{self, SystemResolver};
use crate::sys::{clock, interfaces, limits, range_lock};

/// No process may have more files than that.
const MOST_FILES: &str = "fs.nr_open";

/// How long a dispatcher may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// After so long somebody who waits is told for what.
const SILENCE: Duration = Duration::from_secs(2);

/// How long names and connections may take in all.
const PATIENCE: Duration = Duration::from_secs(20);

fn fine(subject: &str, text: impl Into<String>) -> Finding {
    Finding::new(Need::Relay, subject, Verdict::Fine, text)
}

fn warning(subject: &str, text: impl Into<String>) -> Finding {
    Finding::new(Need::Relay, subject, Verdict::Warning, text)
}

fn problem(subject: &str, text: impl Into<String>) -> Finding {
    Finding::new(Need::Relay, subject, Verdict::Problem, text)
}

pub fn configuration(loaded: &Loaded<RelayConfig>) -> Vec<Finding> {
    let subject = "configuration";
    let warnings = loaded.warnings.iter();
    let mut findings: Vec<Finding> = warnings.map(|text| warning(subject, text)).collect();
    if findings.is_empty() {
        findings.push(fine(subject, loaded.path.display().to_string()));
    }
    findings
}

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
    let finding = match is_here {
        true => fine(subject, address.to_string()),
        false => warning(
            subject,
            format!(
                "{address} is on no interface of this host, media to it does not arrive: ip -4 address shows this host's; ip addr add {address} dev IF"
            ),
        ),
    };
    (finding, Some(address))
}

/// The port range: who else has it or parts of it, and whether there are files for it.
pub fn ports(wanted: &Wanted) -> Vec<Finding> {
    let taken = match range_lock::overlapping(wanted.port_range) {
        Some(held) => warning(
            "ports",
            format!(
                "a relay with ports {held}, runs on this host; another one needs a port_range of its own"
            ),
        ),
        None => others(wanted, bound_udp_ports(wanted.relay_ip).into_values()),
    };
    let needed = u64::from(wanted.ports()) + OTHER_FILES;
    let files = match limits::raise_open_files(needed) {
        Ok(limit) => files(limit, sysctl::number(MOST_FILES), wanted),
        Err(error) => warning("open files", format!("the limit cannot be read: {error}")),
    };
    vec![taken, files]
}

/// What of the range others have than the relay that has these sockets; none where that has all, or cannot be seen.
pub fn ports_beside(
    wanted: &Wanted,
    own: impl FnOnce() -> Option<HashSet<u64>>,
) -> Option<Finding> {
    let before = bound_udp_ports(wanted.relay_ip);
    let own = own()?;
    // A call that begins or ends at this moment is not to be taken for somebody else's: what was there all the time.
    let after = bound_udp_ports(wanted.relay_ip);
    let foreign = before.into_iter().filter_map(|(inode, port)| {
        let is_foreign = after.contains_key(&inode) && !own.contains(&inode);
        is_foreign.then_some(port)
    });
    let finding = others(wanted, foreign);
    (finding.verdict != Verdict::Fine).then_some(finding)
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
    let everywhere = everywhere();
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
fn others(wanted: &Wanted, bound: impl Iterator<Item = u16>) -> Finding {
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

/// Whether there are free pairs for one stream at least.
fn has_stream(wanted: &Wanted, taken: &BTreeSet<u16>) -> bool {
    let pairs = (wanted.port_range.0..=wanted.last_port()).step_by(2);
    let free = pairs.filter(|port| !taken.contains(port) && !taken.contains(&(port | 1)));
    free.take(PAIRS_PER_STREAM).count() == PAIRS_PER_STREAM
}

/// The UDP ports that cannot be bound on an address, by their sockets' inodes (proc_pid_net(5)).
fn bound_udp_ports(address: Ipv4Addr) -> HashMap<u64, u16> {
    let table = |name| fs::read_to_string(format!("{PROC_NET}/{name}")).unwrap_or_default();
    let own = u32::from_ne_bytes(address.octets());
    let here = [format!("{own:08X}"), "0".repeat(8)];
    let mut ports = parse_udp(&table("udp"), |address| {
        here.iter().any(|one| one == address)
    });
    ports.extend(parse_udp(&table("udp6"), |address| {
        address == "0".repeat(32)
    }));
    ports
}

/// All UDP ports that are bound on IPv4 addresses, by their sockets' inodes.
fn everywhere() -> HashMap<u64, u16> {
    let table = fs::read_to_string(format!("{PROC_NET}/udp")).unwrap_or_default();
    parse_udp(&table, |_| true)
}

/// The ports of sockets with such addresses, as they are written there.
fn parse_udp(table: &str, is_wanted: impl Fn(&str) -> bool) -> HashMap<u64, u16> {
    let local = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let (address, port) = words.next()?.split_once(':')?;
        let inode = words.nth(7)?.parse().ok()?;
        let port = u16::from_str_radix(port, 16).ok()?;
        is_wanted(address).then_some((inode, port))
    };
    table.lines().skip(1).filter_map(local).collect()
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
        Some(most) if u64::from(most) < needed => format!("sysctl -w {MOST_FILES}={needed}, and "),
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

/// Whether each dispatcher can be found and reached, all at the same time, and not for ever; the addresses found.
pub fn dispatchers(targets: &[DispatcherEntry]) -> (Vec<Finding>, BTreeSet<IpAddr>) {
    let (told, answers) = crossbeam_channel::unbounded();
    for (index, target) in targets.iter().enumerate() {
        let (target, told) = (target.clone(), told.clone());
        // A name server that does not answer keeps its thread; the process ends without it.
        let reach = move || report(index, reach(&target), &told);
        let _ = thread::Builder::new().spawn(reach);
    }
    drop(told);
    let found = collect(targets.len(), &answers, |open| {
        let names: Vec<String> = open.iter().map(|index| shown(&targets[*index])).collect();
        eprintln!("still waiting for {} ...", names.join(", "));
    });
    let known = found.iter().flatten().flatten().flatten();
    let addresses = known.map(|(address, _)| address.ip()).collect();
    let all = targets.iter().zip(found);
    let findings = all.flat_map(|(target, found)| judge(target, found));
    (findings.collect(), addresses)
}

type Reached = Result<Vec<(SocketAddr, io::Result<()>)>, String>;

fn report(index: usize, reached: Reached, told: &Sender<(usize, Reached)>) {
    // Nobody waits any more for what comes late.
    let _ = told.send((index, reached));
}

fn reach(target: &DispatcherEntry) -> Reached {
    let addresses: BTreeSet<IpAddr> = match &target.host {
        Host::Address(address) => BTreeSet::from([*address]),
        Host::Name(name) => {
            let mut found = BTreeSet::new();
            resolver::look_up(name, false, &mut SystemResolver, &mut found)?;
            found
        }
    };
    let connect = |address: IpAddr| {
        let address = SocketAddr::new(address, target.port);
        let connected = TcpStream::connect_timeout(&address, CONNECT_LIMIT);
        (address, connected.map(drop))
    };
    Ok(addresses.into_iter().map(connect).collect())
}

/// The answers in their order, none where there is none in time; `slow` is told once who keeps us waiting.
fn collect(
    count: usize,
    answers: &Receiver<(usize, Reached)>,
    slow: impl FnOnce(&[usize]),
) -> Vec<Option<Reached>> {
    let mut found: Vec<Option<Reached>> = (0..count).map(|_| None).collect();
    let start = clock::mono();
    let mut slow = Some(slow);
    loop {
        let limit = if slow.is_some() { SILENCE } else { PATIENCE };
        let left = (start + limit).saturating_sub(clock::mono());
        match answers.recv_timeout(left) {
            Ok((index, reached)) => found[index] = Some(reached),
            Err(RecvTimeoutError::Timeout) => match slow.take() {
                Some(slow) => {
                    let open = (0..count).filter(|index| found[*index].is_none());
                    slow(&open.collect::<Vec<_>>());
                }
                None => return found,
            },
            Err(RecvTimeoutError::Disconnected) => return found,
        }
    }
}

fn judge(target: &DispatcherEntry, found: Option<Reached>) -> Vec<Finding> {
    let subject = "dispatcher";
    let name = shown(target);
    match found {
        None => vec![warning(
            subject,
            format!("{name}: nothing was heard in {} s: is its name server reachable (getent hosts)?", PATIENCE.as_secs()),
        )],
        Some(Err(why)) => vec![warning(
            subject,
            format!("{name} cannot be looked up ({why}): see [Relay] dispatchers, and /etc/resolv.conf"),
        )],
        Some(Ok(all)) => all
            .into_iter()
            .map(|(address, connected)| match connected {
                Ok(()) => fine(subject, format!("{name} ({address}) accepts connections")),
                Err(error) => warning(
                    subject,
                    format!(
                        "{name} ({address}) cannot be reached ({error}): systemctl status mediaproxy-dispatcher there \
                         tells whether it runs; is TCP port {} open?",
                        target.port
                    ),
                ),
            })
            .collect(),
    }
}

fn shown(target: &DispatcherEntry) -> String {
    match &target.host {
        Host::Address(address) => address.to_string(),
        Host::Name(name) => name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::testing::{in_namespace, shell};

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
            12: 00000000:9C40 00000000:0000 07 0:0 00:0 0 0 0 71 2\n 13: 0100007F:9C42 0:0 07 0:0 00:0 0 0 0 72 2\n\
            14: 0200007F:9C44 0:0 07 0:0 00:0 0 0 0 73 2\n 15: 00000000:9C46 0:0 07\n junk\n";
        let own = u32::from_ne_bytes([127, 0, 0, 1]);
        let here = [format!("{own:08X}"), "00000000".to_owned()];
        let found = parse_udp(table, |address| here.iter().any(|one| one == address));
        let want = if cfg!(target_endian = "little") {
            vec![(71, 40000), (72, 40002)]
        } else {
            vec![(71, 40000)]
        };
        assert_eq!(found, want.into_iter().collect());
        let finding = others(&wanted(), [39999, 40000, 40002, 40100].into_iter());
        assert_eq!(finding.verdict, Verdict::Warning);
        assert!(finding.text.starts_with("2 of 100 ports"), "{finding:?}");
        assert_eq!(
            others(&wanted(), [40100].into_iter()).verdict,
            Verdict::Fine
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
            let found = ports_beside(&wanted(), || Some(own.clone())).unwrap();
            let begin = "1 of 100 ports are taken by other programs, 40098 among them";
            assert!(found.text.starts_with(begin), "{found:?}");
            // A port that comes while they are told of, and one that goes.
            let mut passing = Some(bind(40096));
            let all = own.iter().copied().chain([inode(40098)]).collect();
            let found = ports_beside(&wanted(), || {
                drop(passing.take());
                passing = Some(bind(40094));
                Some(all)
            });
            assert_eq!(found, None);
            assert_eq!(ports_beside(&wanted(), || None), None);
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
                let bound = everywhere().into_iter().find(|(_, one)| *one == port);
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
        let verdict = |free: usize| others(&wanted(), rtp.clone().skip(free)).verdict;
        assert_eq!(
            [0, 1, 2].map(verdict),
            [Verdict::Problem, Verdict::Problem, Verdict::Warning]
        );
    }

    #[test]
    fn a_relay_that_runs_is_named() {
        in_namespace("a relay that runs", || {
            assert_eq!(ports(&wanted())[0].verdict, Verdict::Fine);
            let _held = range_lock::lock((40098, 40200)).unwrap();
            let finding = &ports(&wanted())[0];
            assert_eq!(finding.verdict, Verdict::Warning);
            assert!(
                finding.text.contains("a relay with ports 40098 to 40199"),
                "{finding:?}"
            );
        });
    }

    #[test]
    fn nobody_waits_for_ever() {
        let (told, answers) = crossbeam_channel::unbounded();
        told.send((1, Err("gone".to_owned()))).unwrap();
        drop(told);
        let found = collect(2, &answers, |_| panic!("not slow"));
        assert!(found[0].is_none() && found[1].is_some());
    }

    #[test]
    fn files_that_do_not_suffice() {
        assert_eq!(
            files(100 + OTHER_FILES, None, &wanted()).verdict,
            Verdict::Fine
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

    #[test]
    fn dispatchers_that_accept_and_that_do_not() {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = |host, port| DispatcherEntry { host, port };
        let local = || Host::Address(Ipv4Addr::LOCALHOST.into());
        // Nobody listens on port 1; no name has a blank.
        let (found, addresses) = dispatchers(&[
            target(local(), port),
            target(local(), 1),
            target(Host::Name("no such.invalid".to_owned()), port),
        ]);
        let verdicts: Vec<Verdict> = found.iter().map(|finding| finding.verdict).collect();
        assert_eq!(
            verdicts,
            [Verdict::Fine, Verdict::Warning, Verdict::Warning],
            "{found:?}"
        );
        assert_eq!(addresses, BTreeSet::from([Ipv4Addr::LOCALHOST.into()]));
    }
}
