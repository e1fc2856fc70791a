//! What any relay needs: its configuration, certificates, address, ports and files, and dispatchers to work for.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::host::PROC_NET;
use super::sysctl;
use super::{Finding, Need, Verdict, Wanted};
use crate::config::{DispatcherEntry, Host, Loaded, RelayConfig};
use crate::relay::discovery::{self, System};
use crate::relay::machine::FILES_PER_PAIR;
use crate::relay::{OTHER_FILES, Settings, relay_ip};
use crate::sys::{clock, interfaces, limits, range_lock};
use crate::tls::{Context, Validity};

/// No process may have more files than that.
const MOST_FILES: &str = "fs.nr_open";

/// A certificate that ends sooner is worth a warning.
const SOON: i64 = 14 * 24 * 3600;

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

/// The relay's certificate and key, the CAs and lists beside them.
pub fn certificates(directory: &Path) -> Vec<Finding> {
    let subject = "certificates";
    let (context, warnings) = match Context::load(directory, "relay") {
        Ok(loaded) => loaded,
        Err(error) => return vec![problem(subject, error.explain(directory, "relay"))],
    };
    let warnings = warnings.iter();
    let mut findings: Vec<Finding> = warnings.map(|text| warning(subject, text)).collect();
    let validity = context.own_validity();
    findings.extend(validity.map(|validity| validity_of(directory, &validity)));
    findings
}

fn validity_of(directory: &Path, Validity { seconds_left, end }: &Validity) -> Finding {
    let subject = "certificates";
    let file = directory.join("relay.crt").display().to_string();
    let directory = directory.display();
    let renew = format!("mediaproxy-make-certs {directory} renew relay, or ask who runs your CA");
    match *seconds_left {
        left if left < 0 => problem(
            subject,
            format!("{file} ended on {end}, no dispatcher accepts it: {renew}"),
        ),
        left if left < SOON => warning(
            subject,
            format!("{file} ends on {end}; before that: {renew}"),
        ),
        _ => fine(subject, format!("{file}, valid to {end}")),
    }
}

/// The address that media goes to, as the relay itself will find it.
pub fn address(config: &RelayConfig) -> (Finding, Option<Ipv4Addr>) {
    let subject = "relay_ip";
    let address = match relay_ip(&Settings::from(config)) {
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
    let first = wanted.port_range.0;
    let taken = match range_lock::is_held(first) {
        true => warning(
            "ports",
            format!(
                "a relay with ports from {first} on runs on this host; another one needs a port_range of its own"
            ),
        ),
        false => others(wanted, &bound_udp_ports(wanted.relay_ip)),
    };
    let needed = u64::from(wanted.ports()) + OTHER_FILES;
    let files = match limits::raise_open_files(needed) {
        Ok(limit) => files(limit, sysctl::number(MOST_FILES), wanted),
        Err(error) => warning("open files", format!("the limit cannot be read: {error}")),
    };
    vec![taken, files]
}

/// What of the range other programs have bound.
fn others(wanted: &Wanted, bound: &BTreeSet<u16>) -> Finding {
    let (first, last) = (wanted.port_range.0, wanted.last_port());
    let taken: Vec<u16> = bound.range(first..=last).copied().collect();
    let some: Vec<String> = taken.iter().take(5).map(u16::to_string).collect();
    let some = some.join(", ");
    match taken.len() {
        0 => fine("ports", format!("{first} to {last} are free")),
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

/// The UDP ports that cannot be bound on an address, by /proc/net (proc_pid_net(5)).
fn bound_udp_ports(address: Ipv4Addr) -> BTreeSet<u16> {
    let table = |name| fs::read_to_string(format!("{PROC_NET}/{name}")).unwrap_or_default();
    let own = u32::from_ne_bytes(address.octets());
    let mut ports = parse_udp(&table("udp"), &[format!("{own:08X}"), "0".repeat(8)]);
    ports.extend(parse_udp(&table("udp6"), &["0".repeat(32)]));
    ports
}

/// The ports of sockets with one of these addresses, as they are written there.
fn parse_udp(table: &str, addresses: &[String]) -> BTreeSet<u16> {
    let local = |line: &str| {
        let (address, port) = line.split_whitespace().nth(1)?.split_once(':')?;
        let is_ours = addresses.iter().any(|ours| ours == address);
        u16::from_str_radix(port, 16).ok().filter(|_| is_ours)
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

/// Whether each dispatcher can be found and reached; all at the same time, and not for ever.
pub fn dispatchers(targets: &[DispatcherEntry]) -> Vec<Finding> {
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
    let all = targets.iter().zip(found);
    all.flat_map(|(target, found)| judge(target, found))
        .collect()
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
            discovery::look_up(name, false, &mut System, &mut found)?;
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
    use crate::relay::checks::testing::{in_namespace, shell};

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
    fn certificates_end() {
        let judged = |seconds_left| {
            let end = "2026-11-23 21:00:00 UTC".to_owned();
            validity_of(Path::new("tls"), &Validity { seconds_left, end })
        };
        assert_eq!(judged(SOON).verdict, Verdict::Fine);
        assert_eq!(judged(SOON - 1).verdict, Verdict::Warning);
        let over = judged(-1);
        assert_eq!(over.verdict, Verdict::Problem);
        assert!(over.text.contains("ended on 2026-11-23") && over.text.contains("renew"));
    }

    #[test]
    fn ports_of_others_are_read_from_proc() {
        let table = "  sl  local_address rem_address   st\n\
            12: 00000000:9C40 00000000:0000 07\n 13: 0100007F:9C42 0:0 07\n 14: 0200007F:9C44 0:0 07\n junk\n";
        let own = u32::from_ne_bytes([127, 0, 0, 1]);
        let found = parse_udp(table, &[format!("{own:08X}"), "00000000".to_owned()]);
        let want = if cfg!(target_endian = "little") {
            vec![40000, 40002]
        } else {
            vec![40000]
        };
        assert_eq!(found.iter().copied().collect::<Vec<_>>(), want);
        let finding = others(&wanted(), &BTreeSet::from([39999, 40000, 40002, 40100]));
        assert_eq!(finding.verdict, Verdict::Warning);
        assert!(finding.text.starts_with("2 of 100 ports"), "{finding:?}");
        assert_eq!(
            others(&wanted(), &BTreeSet::from([40100])).verdict,
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
            assert!(bound_udp_ports(Ipv4Addr::LOCALHOST).contains(&port));
            assert!(!bound_udp_ports(Ipv4Addr::new(127, 0, 0, 2)).contains(&port));
        });
    }

    #[test]
    fn a_relay_that_runs_is_named() {
        in_namespace("a relay that runs", || {
            assert_eq!(ports(&wanted())[0].verdict, Verdict::Fine);
            let _held = range_lock::lock(40000).unwrap();
            let finding = &ports(&wanted())[0];
            assert_eq!(finding.verdict, Verdict::Warning);
            assert!(
                finding
                    .text
                    .contains("a relay with ports from 40000 on runs"),
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
        let found = dispatchers(&[
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
    }
}
