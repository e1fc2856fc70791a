//! Checks of the host that dispatcher and relay share, and of a running daemon.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::finding::{Finding, fine, problem, warning};
use super::input_chains::{InputRefusal, Protocol, input_refusals};
use super::sockets;
use crate::sys::{file_access, host};

/// Less room than that is worth a warning, and then a problem; bytes.
const LITTLE_ROOM: u64 = 1 << 30;
const TOO_LITTLE_ROOM: u64 = 64 << 20;

/// How far down it is looked for what cannot be used, and at how many entries of each directory.
const MAX_DEPTH: usize = 4;
const MAX_ENTRIES: usize = 10_000;

/// How long a connection may take to come about.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A daemon of ours that runs on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    pub name: &'static str,
    /// The command after which it has read its configuration again.
    pub again: &'static str,
    /// None where this user cannot see it.
    pub pid: Option<i32>,
}

/// Certificates have dates, and calls are accounted by the clock.
pub fn clock() -> Finding {
    let subject = "clock";
    let mend = "timedatectl set-ntp true, or install chrony";
    match host::is_clock_synchronised() {
        Ok(true) => fine(subject, "synchronised"),
        Ok(false) => warning(
            subject,
            format!(
                "no time synchronisation is running: certificates may seem to be out of date, and calls are accounted \
                 at wrong times: {mend}"
            ),
        ),
        Err(error) => warning(
            subject,
            format!("the kernel does not tell ({error}): {mend}"),
        ),
    }
}

/// Where a daemon keeps what must outlive it; `own` is what it has there, as far as that is there already.
pub fn state_dir(directory: &Path, own: &[&str]) -> Vec<Finding> {
    let (subject, shown) = ("state_dir", directory.display());
    if let Err(error) = host::may_write(directory) {
        let command = file_access::remedy_to_write(directory, &error);
        return vec![match error.kind() {
            io::ErrorKind::NotFound => warning(subject, format!("{shown} is not there: {command}")),
            _ => {
                let text = format!("{shown} cannot be written to ({error}): {command}");
                problem(subject, text)
            }
        }];
    }
    let paths = own.iter().map(|name| directory.join(name));
    let refused = paths.filter_map(|path| Some((closed(&path, MAX_DEPTH)?, path)));
    let mut findings: Vec<Finding> = refused
        .map(|((inner, error), path)| {
            let inner = inner.display();
            let path = path.display();
            problem(
                subject,
                format!(
                    "{inner} cannot be read and written ({error}): chown -R mediaproxy: {path}"
                ),
            )
        })
        .collect();
    findings.push(room(directory));
    findings
}

/// The first of all that is at a path and below that this user cannot use.
fn closed(path: &Path, depth: usize) -> Option<(PathBuf, io::Error)> {
    let refused = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => None,
        _ => Some((path.to_owned(), error)),
    };
    if !path.is_dir() {
        return host::may_change(path).err().and_then(refused);
    }
    let entries = host::may_write(path).and_then(|()| fs::read_dir(path));
    let entries = match entries {
        Ok(entries) => entries.flatten(),
        Err(error) => return refused(error),
    };
    let deeper = depth.checked_sub(1)?;
    entries
        .take(MAX_ENTRIES)
        .find_map(|entry| closed(&entry.path(), deeper))
}

fn room(directory: &Path) -> Finding {
    let (subject, shown) = ("state_dir", directory.display());
    let mend = format!("df -h {shown} shows it; make room there or choose another state_dir");
    match host::room(directory) {
        Ok(room) if room < TOO_LITTLE_ROOM => problem(
            subject,
            format!("{shown} has {} MB left: {mend}", room >> 20),
        ),
        Ok(room) if room < LITTLE_ROOM => warning(
            subject,
            format!("{shown} has {} MB left: {mend}", room >> 20),
        ),
        Ok(room) => fine(subject, format!("{shown}, {} MB left", room >> 20)),
        Err(error) => warning(
            subject,
            format!("{shown}: its room is not known ({error}): {mend}"),
        ),
    }
}

/// A TCP port to listen on: free, or that of the daemon that runs.
pub fn port(key: &str, address: SocketAddr, running: Option<&Daemon>) -> Finding {
    match (TcpListener::bind(address), running) {
        (Ok(_), None) => fine(key, format!("{address} is free")),
        (Ok(_), Some(Daemon { name, again, .. })) => warning(
            key,
            format!(
                "{address} is free although {name} runs here: it has another configuration: {again}"
            ),
        ),
        (Err(error), Some(daemon))
            if error.kind() == io::ErrorKind::AddrInUse && has(daemon, address.port()) =>
        {
            let name = daemon.name;
            fine(
                key,
                format!("{address}, in use by the {name} that runs here"),
            )
        }
        (Err(error), _) => problem(
            key,
            match error.kind() {
                io::ErrorKind::AddrInUse => format!(
                    "{address} is taken by another program: ss -ltnp 'sport = :{}' shows which; stop it or set {key}",
                    address.port()
                ),
                io::ErrorKind::AddrNotAvailable => format!(
                    "{address} is on no interface of this host: set {key} to one of those that ip addr shows"
                ),
                _ => format!("{address} cannot be listened on ({error}): set {key}"),
            },
        ),
    }
}

/// Who cannot see whose a port is takes it for the daemon's.
fn has(daemon: &Daemon, port: u16) -> bool {
    let seen = daemon.pid.and_then(|pid| sockets::listens(pid, port));
    seen.unwrap_or(true)
}

/// Chains of this host that refuse packets to these ports. Only who may use netfilter sees them.
pub fn firewall(protocol: Protocol, first: u16, last: u16, what: &str) -> Vec<Finding> {
    let subject = "firewall";
    let Some(barriers) = input_refusals(protocol, (first, last)) else {
        return Vec::new();
    };
    if barriers.is_empty() {
        return vec![fine(subject, format!("no nftables chain keeps {what} out"))];
    }
    let told = |barrier: &InputRefusal| {
        let (description, opening) = (barrier.describe(), barrier.opening());
        if barrier.is_sure() {
            problem(
                subject,
                format!(
                    "{description}, {what} cannot get in: {opening}, and the same in the firewall's own files"
                ),
            )
        } else {
            warning(
                subject,
                format!("{description}; if none does, {what} cannot get in: {opening}"),
            )
        }
    };
    barriers.iter().map(told).collect()
}

/// Connects to something that should accept connections there.
///
/// # Errors
/// Why not, in a few words.
pub fn reach(host: &str, port: u16) -> Result<(SocketAddr, TcpStream), String> {
    let found = (host, port).to_socket_addrs();
    let found = found.map_err(|error| format!("{host} cannot be looked up ({error})"))?;
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in found {
        match TcpStream::connect_timeout(&address, CONNECT_LIMIT) {
            Ok(socket) => return Ok((address, socket)),
            Err(error) => last = error,
        }
    }
    Err(format!("{host} port {port} cannot be reached ({last})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::finding::Severity;
    use crate::diagnosis::tests::namespace::{in_namespace, shell};

    #[test]
    fn ports_are_free_taken_or_our_own() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let of = |pid| Daemon {
            name: "media-relay",
            again: "systemctl reload mediaproxy-relay",
            pid: Some(pid),
        };
        let ours = of(i32::try_from(std::process::id()).unwrap());
        let taken = port("listen", address, None);
        assert_eq!(taken.severity, Severity::Problem);
        assert!(taken.text.contains("ss -ltnp"), "{taken:?}");
        assert_eq!(
            port("listen", address, Some(&ours)).severity,
            Severity::Fine
        );
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let another = of(i32::try_from(child.id()).unwrap());
        // From its fork to its exec it has all our files.
        while port("listen", address, Some(&another)).severity == Severity::Fine {
            std::thread::yield_now();
        }
        child.kill().and_then(|()| child.wait()).unwrap();
        let nowhere = port("listen", "203.0.113.9:1".parse().unwrap(), None);
        assert!(nowhere.text.contains("is on no interface"), "{nowhere:?}");
    }

    #[test]
    fn a_missing_state_dir_comes_with_the_command_that_makes_it() {
        let found = state_dir(Path::new("/nonexistent/state"), &[]);
        assert_eq!(found[0].severity, Severity::Warning);
        let command = "install -d -m 750 -o mediaproxy -g mediaproxy /nonexistent/state";
        assert!(found[0].text.ends_with(command), "{found:?}");
        assert_eq!(state_dir(&std::env::temp_dir(), &["no such"]).len(), 1);
    }

    #[test]
    fn chains_that_keep_media_out_come_with_the_rule_to_add() {
        in_namespace("a firewall at hook input", || {
            let media = || firewall(Protocol::Udp, 40000, 59999, "media").remove(0);
            assert_eq!(media().severity, Severity::Fine);
            shell("iptables -P INPUT DROP");
            let found = media();
            assert_eq!(found.severity, Severity::Problem);
            let mend = "iptables -I INPUT -p udp --dport 40000:59999 -j ACCEPT";
            assert!(found.text.contains(mend), "{found:?}");
            shell(mend);
            assert_eq!(media().severity, Severity::Fine);
            shell(
                "iptables -P INPUT ACCEPT; nft add table inet a
                 nft add chain inet a in '{ type filter hook input priority 0; policy drop; }'
                 nft add rule inet a in ip saddr 198.51.100.7 accept",
            );
            let relays = || firewall(Protocol::Tcp, 25060, 25060, "relays").remove(0);
            let found = relays();
            assert_eq!(found.severity, Severity::Warning, "some may get in");
            let (_, mend) = found.text.rsplit_once(": ").unwrap();
            assert_eq!(
                mend,
                "nft insert rule inet a in tcp dport 25060-25060 accept"
            );
            shell(mend);
            assert_eq!(relays().severity, Severity::Fine);
        });
    }

    #[test]
    fn nobody_there() {
        let why = reach("127.0.0.1", 1).unwrap_err();
        assert!(
            why.starts_with("127.0.0.1 port 1 cannot be reached ("),
            "{why}"
        );
    }
}
