//! What a relay needs beyond `media-relay --check`: that it runs, does something and has ports left, that dispatchers
//! accept its certificate, a place for its state.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::unusable;
use crate::config::{self, Loaded, RelayConfig};
use crate::diagnosis::daemon::{CONNECT_LIMIT, Daemon, firewall, port, state_dir};
use crate::diagnosis::file_user::FileUser;
use crate::diagnosis::finding::{Finding, Severity, fine, problem, strict, warning};
use crate::diagnosis::input_chains::Protocol;
use crate::diagnosis::ports::Streams;
use crate::diagnosis::sockets::{self, Socket, connection_to};
use crate::diagnosis::{processes, relay_host};
use crate::resolver::{Directory, SystemResolver};
use crate::sys::range_lock;
use crate::tls::{self, Context};

/// The program, as a process's name has it, too.
const NAME: &str = "media-relay";

/// Of the streams that fit, fewer left than one in so many are worth a warning.
const FEW_LEFT: u64 = 10;

/// How long a relay that runs may be without a link to a dispatcher that would have it, beside its own pause, as far as
/// that is short.
const LINK_LIMIT: Duration = Duration::from_secs(2);
const PAUSE_LIMIT: Duration = Duration::from_secs(10);
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// For so long it may leave unread what a dispatcher says.
const READ_LIMIT: Duration = Duration::from_secs(2);

/// What to do where only the other side knows why.
const LOG_THERE: &str = "journalctl -u mediaproxy-dispatcher there says why";

/// Who has the lock of the relay's port range.
#[derive(Debug, PartialEq, Eq)]
enum Holder {
    /// The first ports of the ranges that have one.
    Nobody(Vec<u16>),
    Relay(Daemon),
    /// A program that is no relay, and its process.
    Stranger(String, i32),
}

pub(super) fn look(config_dir: &Path) -> Vec<Finding> {
    // As who asks: the ports tell which relay is this configuration's, and that as whom it is to be read.
    let ports = config::load_relay(config_dir).ok();
    let holder = ports.map(|loaded| holder(loaded.config.port_range.start));
    let daemon = match &holder {
        Some(Holder::Relay(daemon)) => Some(daemon),
        _ => None,
    };
    let user = FileUser::of(daemon);
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

fn look_at(loaded: &Loaded<RelayConfig>, holder: &Holder, user: &FileUser) -> Vec<Finding> {
    let config = &loaded.config;
    let files = user.run(|| relay_host::files(loaded)).into_iter();
    let mut findings: Vec<Finding> = files.map(strict).collect();
    let mut ports = ports(config, holder);
    for found in relay_host::host(config) {
        findings.push(match ports.take_if(|_| found.subject == "ports") {
            Some(ports) => ports,
            None => found.with_forwarding(config.forwarding),
        });
    }
    all_unreachable(&mut findings);
    let (first, end) = (config.port_range.start, config.port_range.end);
    let last = u16::try_from(end.saturating_sub(1)).unwrap_or(u16::MAX);
    // What comes from this host itself no firewall looks at.
    if !config.relay_ip.is_some_and(|ip| ip.is_loopback()) {
        findings.extend(firewall(Protocol::Udp, first, last, "media"));
    }
    findings.push(runs(first, holder));
    let daemon = match holder {
        Holder::Relay(daemon) => Some(daemon),
        _ => None,
    };
    findings.extend(daemon.and_then(|daemon| room(config, daemon)));
    let metrics = config.listen_metrics;
    findings.extend(metrics.map(|address| port("listen_metrics", address, daemon)));
    let spool = format!("relay-{first}");
    findings.extend(user.run(|| state_dir(&config.state_dir, &[&spool])));
    let dispatchers = dispatchers(config);
    findings.extend(handshakes(config, &dispatchers, daemon));
    findings
}

/// Where not one dispatcher can be reached, no call is.
fn all_unreachable(findings: &mut [Finding]) {
    let is_of_one = |finding: &&mut Finding| finding.subject == "dispatcher";
    let is_reached = |finding: &Finding| finding.severity == Severity::Fine;
    if findings
        .iter()
        .any(|one| one.subject == "dispatcher" && is_reached(one))
    {
        return;
    }
    for finding in findings.iter_mut().filter(is_of_one) {
        finding.severity = Severity::Problem;
    }
}

/// How much still fits into the relay that runs.
fn room(config: &RelayConfig, daemon: &Daemon) -> Option<Finding> {
    let own = daemon.pid.and_then(sockets::of);
    let files = daemon.pid.and_then(processes::open_files);
    let streams = relay_host::streams(config, own.as_ref(), files)?;
    let Streams { left, all } = streams;
    let range = &config.port_range;
    let more = format!(
        "set a wider [Relay] port_range than {}:{} (and LimitNOFILE where open files are few) and systemctl restart \
         mediaproxy-relay when it has no calls, or add a relay",
        range.start, range.end
    );
    let subject = "streams";
    Some(match left {
        0 => problem(
            subject,
            format!("none of {all} streams that fit is left, calls are refused: {more}"),
        ),
        left if left < all / FEW_LEFT => warning(
            subject,
            format!("{left} of {all} streams that fit are left: {more}"),
        ),
        left => fine(subject, format!("{left} of {all} that fit are left")),
    })
}

fn holder(first_port: u16) -> Holder {
    let held = range_lock::held();
    let Some(lock) = held.iter().find(|held| held.first == first_port) else {
        return Holder::Nobody(held.into_iter().map(|held| held.first).collect());
    };
    let pid = lock.pid().or_else(|| sockets::owner(lock.inode));
    let process = pid.and_then(|pid| Some((processes::name(pid)?, pid)));
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
    let others = relay_host::ports_beside(config, || sockets::of(daemon.pid?));
    let none = || fine("ports", "in use by the media-relay that runs here");
    Some(others.unwrap_or_else(none))
}

fn runs(first_port: u16, holder: &Holder) -> Finding {
    let subject = "daemon";
    match holder {
        Holder::Relay(Daemon { pid: Some(pid), .. }) if processes::is_stopped(*pid) => problem(
            subject,
            format!(
                "media-relay, process {pid}, is stopped and relays nothing: kill -CONT {pid}, or systemctl restart \
                 mediaproxy-relay"
            ),
        ),
        Holder::Relay(Daemon { pid: Some(pid), .. }) => {
            fine(subject, format!("media-relay runs, process {pid}"))
        }
        Holder::Relay(_) => fine(subject, "media-relay runs"),
        Holder::Nobody(others) if !others.is_empty() => {
            let others: Vec<String> = others.iter().map(u16::to_string).collect();
            problem(
                subject,
                format!(
                    "no media-relay has ports from {first_port} on; one runs with those from {} on: where it has read another \
                     configuration, systemctl reload mediaproxy-relay",
                    others.join(", ")
                ),
            )
        }
        Holder::Nobody(_) | Holder::Stranger(..) => problem(
            subject,
            "media-relay does not run here: systemctl start mediaproxy-relay; where it has ended, journalctl -u \
             mediaproxy-relay says why",
        ),
    }
}

/// The dispatchers' addresses as the relay finds them. One that is not known has been named already.
fn dispatchers(config: &RelayConfig) -> Vec<SocketAddr> {
    let mut directory = Directory::new(&config.dispatchers);
    directory.refresh(&mut SystemResolver);
    directory.dispatchers().into_keys().collect()
}

/// Looks whether each dispatcher that can be reached accepts our certificate, and we its. Nothing is said to it. Where the
/// relay itself has a link they do, and to older dispatchers a second one would replace it.
fn handshakes(
    config: &RelayConfig,
    dispatchers: &[SocketAddr],
    daemon: Option<&Daemon>,
) -> Vec<Finding> {
    let context = Context::load(&config.tls.certs_path, "relay");
    let look = |address: &SocketAddr| {
        if let Some(link) = connection_to(*address) {
            return Some(linked(*address, link));
        }
        // What is wrong with the files has been said already, and so has who cannot be reached.
        let (context, _) = context.as_ref().ok()?;
        let socket = TcpStream::connect_timeout(address, CONNECT_LIMIT).ok()?;
        Some(match handshake(socket, context, config) {
            Ok(()) => accepted(*address, daemon, config.reconnect_delay),
            Err(why) => problem("TLS", format!("{address}: {why}")),
        })
    };
    dispatchers.iter().filter_map(look).collect()
}

/// A link that stands; what comes over it should be read.
fn linked(address: SocketAddr, mut link: Socket) -> Finding {
    let mut waited = Duration::ZERO;
    while link.unread > 0 && waited < READ_LIMIT {
        thread::sleep(LOOK_INTERVAL);
        waited += LOOK_INTERVAL;
        match connection_to(address) {
            Some(now) if now.inode == link.inode => link = now,
            _ => link.unread = 0,
        }
    }
    match link.unread {
        0 => fine("TLS", format!("{address}: the relay has a link there")),
        bytes => problem(
            "TLS",
            format!(
                "{address}: the relay has a link there and does not read what comes over it ({bytes} bytes wait), as if it \
                 hangs or has no processor time: systemctl restart mediaproxy-relay"
            ),
        ),
    }
}

/// It would have the relay; one that runs should have a link soon.
fn accepted(address: SocketAddr, daemon: Option<&Daemon>, pause: Duration) -> Finding {
    let Some(Daemon { name, pid, .. }) = daemon else {
        return fine("TLS", format!("{address}: both certificates are accepted"));
    };
    let limit = if pid.is_some_and(processes::is_stopped) {
        Duration::ZERO
    } else {
        pause.min(PAUSE_LIMIT) + LINK_LIMIT
    };
    let mut waited = Duration::ZERO;
    loop {
        if connection_to(address).is_some() {
            return fine("TLS", format!("{address}: the relay has a link there"));
        }
        if waited >= limit {
            break;
        }
        thread::sleep(LOOK_INTERVAL);
        waited += LOOK_INTERVAL;
    }
    problem(
        "TLS",
        format!(
            "{address}: both certificates are accepted, and the {name} that runs here has no link there: journalctl -u \
             mediaproxy-relay says why; where it does not, systemctl restart mediaproxy-relay"
        ),
    )
}

fn handshake(socket: TcpStream, context: &Context, config: &RelayConfig) -> Result<(), String> {
    let shaken = tls::connect(socket, context, config.passport.as_ref(), CONNECT_LIMIT);
    let (mut reader, _writer, _) = shaken.map_err(|error| {
        format!(
            "{error}: is it a dispatcher, are both certificates of one CA, both clocks right, and does [Relay] passport \
             fit? {LOG_THERE}"
        )
    })?;
    // In TLS 1.3 only this shows whether it accepts us; a dispatcher speaks first.
    let read = reader
        .set_timeout(Some(CONNECT_LIMIT))
        .and_then(|()| reader.read(&mut [0; 64]));
    match read {
        Ok(1..) => Ok(()),
        Ok(0) => Err(format!(
            "it closes the connection: its [Dispatcher] passport does not fit our certificate, or too many relays are \
             connected: {LOG_THERE}"
        )),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(format!(
            "it does not accept our certificate ({error}): {LOG_THERE}"
        )),
        Err(error) => Err(format!(
            "it accepts the connection and says nothing ({error}): {LOG_THERE}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_dispatcher_that_is_reached_is_enough_for_calls() {
        let verdicts = |reached: &[Finding]| {
            let mut findings = reached.to_vec();
            all_unreachable(&mut findings);
            findings.iter().map(|one| one.severity).collect::<Vec<_>>()
        };
        let gone = || warning("dispatcher", "cannot be reached");
        let other = || warning("clock", "wrong");
        assert_eq!(
            verdicts(&[fine("dispatcher", "accepts"), gone()]),
            [Severity::Fine, Severity::Warning]
        );
        assert_eq!(
            verdicts(&[gone(), other(), gone()]),
            [Severity::Problem, Severity::Warning, Severity::Problem]
        );
    }
}
