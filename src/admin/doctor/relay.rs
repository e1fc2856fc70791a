//! What a relay needs beyond `media-relay --check`: that dispatchers accept its certificate, a place for its state.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};

use super::common::{CONNECT_LIMIT, firewall, state_dir};
use super::dispatcher::port;
use super::{Finding, fine};
use crate::config::{Host, Loaded, RelayConfig};
use crate::relay::checks::{self, Verdict};
use crate::sys::range_lock;
use crate::tls::{self, Context};

/// What to do where only the other side knows why.
const LOG: &str = "journalctl -u mediaproxy-dispatcher there says why";

pub fn look(loaded: &Loaded<RelayConfig>) -> Vec<Finding> {
    let config = &loaded.config;
    let links = links(config);
    let held = range_lock::lock(config.port_range.start);
    let is_held = matches!(&held, Err(error) if error.kind() == io::ErrorKind::AddrInUse);
    drop(held);
    let is_running = is_held || links.iter().any(|(_, is_up)| *is_up);
    let mut findings: Vec<Finding> = checks::look(loaded)
        .into_iter()
        .map(|found| {
            let verdict = found.weight(config.forwarding);
            if is_running && found.subject == "ports" {
                return fine("ports", "in use by the media-relay that runs here");
            }
            Finding::new(verdict, &found.subject, found.text)
        })
        .collect();
    let (first, end) = (config.port_range.start, config.port_range.end);
    let last = u16::try_from(end.saturating_sub(1)).unwrap_or(u16::MAX);
    findings.extend(firewall("udp", first, last, "media"));
    // What a relay that runs has cannot be told from what others have.
    if let Some(address) = config.listen_metrics.filter(|_| !is_running) {
        findings.push(port("listen_metrics", address, None));
    }
    findings.extend(state_dir(&config.state_dir));
    findings.extend(handshakes(config, &links));
    findings
}

/// The dispatchers' addresses, and whether this host has a link there.
fn links(config: &RelayConfig) -> Vec<(SocketAddr, bool)> {
    let table = fs::read_to_string("/proc/thread-self/net/tcp").unwrap_or_default();
    let addresses = config.dispatchers.iter().flat_map(|target| {
        let host = match &target.host {
            Host::Address(address) => address.to_string(),
            Host::Name(name) => name.clone(),
        };
        // One that is not known has been named already.
        let found = (host.as_str(), target.port).to_socket_addrs();
        found.into_iter().flatten()
    });
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
