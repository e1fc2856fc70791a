//! What a relay needs beyond `media-relay --check`: that dispatchers accept its certificate, a place for its state.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;

use super::common::{CONNECT_LIMIT, firewall, port, state_dir};
use super::user::User;
use super::{Daemon, Finding, fine, problem, sockets, unusable, warning};
use crate::config::{self, Loaded, RelayConfig};
use crate::relay::checks::{self, Verdict};
use crate::relay::discovery::{Directory, System};
use crate::sys::range_lock;
use crate::tls::{self, Context};

/// The program, as a process's name has it, too.
const NAME: &str = "media-relay";

/// What to do where only the other side knows why.
const LOG: &str = "journalctl -u mediaproxy-dispatcher there says why";

/// Who has the lock of the relay's port range.
#[derive(Debug, PartialEq, Eq)]
enum Holder {
    /// The first ports of the ranges that have one.
    Nobody(Vec<u16>),
    Relay(Daemon),
    /// A program that is no relay, and its process.
    Stranger(String, i32),
}

pub fn look(config_dir: &Path) -> Vec<Finding> {
    // As who asks: the ports tell which relay is this configuration's, and that as whom it is to be read.
    let ports = config::load_relay(config_dir).ok();
    let holder = ports.map(|loaded| holder(loaded.config.port_range.start));
    let daemon = match &holder {
        Some(Holder::Relay(daemon)) => Some(daemon),
        _ => None,
    };
    let user = User::of(daemon);
    let mut findings = vec![user.finding.clone()];
    match user.run(|| config::load_relay(config_dir)) {
        Ok(loaded) => {
            let holder = holder.unwrap_or(Holder::Nobody(Vec::new()));
            findings.extend(look_at(&loaded, &holder, &user));
        }
        Err(error) => findings.extend(unusable(&error)),
    }
    findings
}

fn look_at(loaded: &Loaded<RelayConfig>, holder: &Holder, user: &User) -> Vec<Finding> {
    let config = &loaded.config;
    let files = user.run(|| checks::files(loaded)).into_iter();
    let mut findings: Vec<Finding> = files.map(Finding::from).collect();
    let mut ports = ports(config, holder);
    for found in checks::host(config) {
        let as_found = |found: checks::Finding| Finding {
            verdict: found.weight(config.forwarding),
            ..Finding::from(found)
        };
        findings.push(match found.subject.as_str() {
            "ports" => ports.take().unwrap_or_else(|| as_found(found)),
            _ => as_found(found),
        });
    }
    let (first, end) = (config.port_range.start, config.port_range.end);
    let last = u16::try_from(end.saturating_sub(1)).unwrap_or(u16::MAX);
    findings.extend(firewall("udp", first, last, "media"));
    findings.push(runs(first, holder));
    let daemon = match holder {
        Holder::Relay(daemon) => Some(daemon),
        _ => None,
    };
    let metrics = config.listen_metrics;
    findings.extend(metrics.map(|address| port("listen_metrics", address, daemon)));
    let spool = format!("relay-{first}");
    findings.extend(user.run(|| state_dir(&config.state_dir, &[&spool])));
    findings.extend(handshakes(config, &links(config)));
    findings
}

fn holder(first_port: u16) -> Holder {
    let held = range_lock::held();
    let Some(lock) = held.iter().find(|held| held.first == first_port) else {
        return Holder::Nobody(held.into_iter().map(|held| held.first).collect());
    };
    let pid = lock.pid().or_else(|| sockets::owner(lock.inode));
    let process = pid.and_then(|pid| Some((sockets::name(pid)?, pid)));
    match process {
        Some((name, pid)) if name != NAME => Holder::Stranger(name, pid),
        _ => Holder::Relay(Daemon {
            name: NAME,
            // It ends after its last call, and is started again.
            again: "systemctl reload mediaproxy-relay",
            pid,
        }),
    }
}

/// The ports where the lock is held; where it is not, they are looked at as for a relay that is to start.
fn ports(config: &RelayConfig, holder: &Holder) -> Option<Finding> {
    let first = config.port_range.start;
    let daemon = match holder {
        Holder::Nobody(_) => return None,
        Holder::Stranger(name, pid) => {
            return Some(problem(
                "ports",
                format!(
                    "the relays' lock on ports from {first} on is held by {name}, process {pid}, which is no media-relay: \
                     stop that, or set [Relay] port_range"
                ),
            ));
        }
        Holder::Relay(daemon) => daemon,
    };
    let others = checks::ports_beside(config, || sockets::of(daemon.pid?));
    Some(others.map_or_else(
        || fine("ports", "in use by the media-relay that runs here"),
        Finding::from,
    ))
}

fn runs(first_port: u16, holder: &Holder) -> Finding {
    let subject = "daemon";
    match holder {
        Holder::Relay(Daemon { pid: Some(pid), .. }) => {
            fine(subject, format!("media-relay runs, process {pid}"))
        }
        Holder::Relay(_) => fine(subject, "media-relay runs"),
        Holder::Nobody(others) if !others.is_empty() => {
            let others: Vec<String> = others.iter().map(u16::to_string).collect();
            warning(
                subject,
                format!(
                    "no media-relay has ports from {first_port} on; one runs with those from {} on: where it has read another \
                     configuration, systemctl reload mediaproxy-relay",
                    others.join(", ")
                ),
            )
        }
        Holder::Nobody(_) | Holder::Stranger(..) => warning(
            subject,
            "media-relay does not run here: systemctl start mediaproxy-relay; where it has ended, journalctl -u \
             mediaproxy-relay says why",
        ),
    }
}

/// The dispatchers' addresses, and whether this host has a link there.
fn links(config: &RelayConfig) -> Vec<(SocketAddr, bool)> {
    let table = fs::read_to_string("/proc/thread-self/net/tcp").unwrap_or_default();
    // As the relay finds them. One that is not known has been named already.
    let mut directory = Directory::new(&config.dispatchers);
    directory.refresh(&mut System);
    let addresses = directory.dispatchers().into_keys();
    let is_up = |address: SocketAddr| (address, has_link(&table, address));
    addresses.map(is_up).collect()
}

/// Whether a table of /proc/net/tcp (proc_pid_net(5)) has an established connection to there.
fn has_link(table: &str, to: SocketAddr) -> bool {
    let IpAddr::V4(ip) = to.ip() else {
        return false;
    };
    let wanted = format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), to.port());
    table.lines().skip(1).any(|line| {
        let mut words = line.split_whitespace().skip(2);
        (words.next(), words.next()) == (Some(wanted.as_str()), Some("01"))
    })
}

/// Whether each dispatcher that can be reached accepts our certificate, and we its. Nothing is said to it. Where the
/// relay itself has a link they do, and to older dispatchers a second one would replace it.
fn handshakes(config: &RelayConfig, links: &[(SocketAddr, bool)]) -> Vec<Finding> {
    let Ok((context, _)) = Context::load(&config.tls.certs_path, "relay") else {
        // Said already.
        return Vec::new();
    };
    let look = |(address, is_up): &(SocketAddr, bool)| {
        if *is_up {
            return Some(fine(
                "TLS",
                format!("{address}: the relay has a link there"),
            ));
        }
        // One that cannot be reached has been named already.
        let socket = TcpStream::connect_timeout(address, CONNECT_LIMIT).ok()?;
        Some(match handshake(socket, &context, config) {
            Ok(()) => fine("TLS", format!("{address}: both certificates are accepted")),
            Err((verdict, why)) => Finding::new(verdict, "TLS", format!("{address}: {why}")),
        })
    };
    links.iter().filter_map(look).collect()
}

fn handshake(
    socket: TcpStream,
    context: &Context,
    config: &RelayConfig,
) -> Result<(), (Verdict, String)> {
    let bad = |why: String| (Verdict::Problem, why);
    let shaken = tls::connect(socket, context, config.passport.as_ref(), CONNECT_LIMIT);
    let (mut reader, _writer, _) = shaken.map_err(|error| {
        bad(format!(
            "{error}: is it a dispatcher, are both certificates of one CA, both clocks right, and does [Relay] passport \
             fit? {LOG}"
        ))
    })?;
    // In TLS 1.3 only this shows whether it accepts us; a dispatcher speaks first.
    let read = reader
        .set_timeout(Some(CONNECT_LIMIT))
        .and_then(|()| reader.read(&mut [0; 64]));
    match read {
        Ok(1..) => Ok(()),
        Ok(0) => Err(bad(format!(
            "it closes the connection: its [Dispatcher] passport does not fit our certificate, or too many relays are \
             connected: {LOG}"
        ))),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(bad(format!(
            "it does not accept our certificate ({error}): {LOG}"
        ))),
        Err(error) => Err((
            Verdict::Warning,
            format!("it accepts the connection and says nothing ({error}): {LOG}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_seen_in_the_kernels_table() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let table = || fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
        assert!(!has_link(&table(), address), "it only listens");
        let _link = TcpStream::connect(address).unwrap();
        assert!(has_link(&table(), address));
        assert!(!has_link("junk\n\n 0: x", address));
    }
}
