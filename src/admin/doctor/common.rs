//! What both daemons need of a host.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use super::{Finding, fine, problem, warning};
use crate::relay::checks::{self, Wall};
use crate::sys::{host, remedy};
use crate::tls::{Context, Validity};

/// Less room than that is worth a warning, and then a problem; bytes.
const LITTLE: u64 = 1 << 30;
const TOO_LITTLE: u64 = 64 << 20;

/// A certificate that ends sooner is worth a warning.
const SOON: i64 = 14 * 24 * 3600;

/// How long a connection may take to come about.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Certificates have dates, and calls are accounted by the clock.
pub fn clock() -> Finding {
    let subject = "clock";
    let mend = "timedatectl set-ntp true, or install chrony";
    match host::is_clock_synchronised() {
        Ok(true) => fine(subject, "synchronised"),
        Ok(false) => warning(
            subject,
            format!(
                "nothing keeps it right: certificates may seem to be out of date, and calls are accounted at wrong \
                 times: {mend}"
            ),
        ),
        Err(error) => warning(
            subject,
            format!("the kernel does not tell ({error}): {mend}"),
        ),
    }
}

/// Where a daemon keeps what must outlive it.
pub fn state_dir(directory: &Path) -> Vec<Finding> {
    let (subject, shown) = ("state_dir", directory.display());
    if !directory.is_dir() {
        let command = remedy::to_write(directory, &io::Error::from_raw_os_error(libc::ENOENT));
        let text = format!("{shown} is not there: {command}");
        return vec![warning(subject, text)];
    }
    if let Err(error) = host::may_write(directory) {
        let command = remedy::to_write(directory, &error);
        let text = format!("{shown} cannot be written to ({error}): {command}");
        return vec![problem(subject, text)];
    }
    let mend = format!("df -h {shown} shows it; make room there or choose another state_dir");
    vec![match host::room(directory) {
        Ok(room) if room < TOO_LITTLE => problem(
            subject,
            format!("{shown} has {} MB left: {mend}", room >> 20),
        ),
        Ok(room) if room < LITTLE => warning(
            subject,
            format!("{shown} has {} MB left: {mend}", room >> 20),
        ),
        Ok(room) => fine(subject, format!("{shown}, {} MB left", room >> 20)),
        Err(error) => warning(
            subject,
            format!("{shown}: its room is not known ({error}): {mend}"),
        ),
    }]
}

/// A daemon's certificate and key, the CAs and lists beside them, their dates.
pub fn certificates(directory: &Path, role: &str) -> (Vec<Finding>, Option<Context>) {
    let subject = "certificates";
    let (context, warnings) = match Context::load(directory, role) {
        Ok(loaded) => loaded,
        Err(error) => {
            let text = error.explain(directory, role);
            return (vec![problem(subject, text)], None);
        }
    };
    let mut findings: Vec<Finding> = warnings.iter().map(|text| warning(subject, text)).collect();
    findings.extend(
        context
            .own_validity()
            .map(|validity| dates(directory, role, &validity)),
    );
    (findings, Some(context))
}

fn dates(directory: &Path, role: &str, validity: &Validity) -> Finding {
    let subject = "certificates";
    let Validity { seconds_left, end } = validity;
    let directory = directory.display();
    let mend = format!("mediaproxy-make-certs {directory} renew {role}, or ask who runs your CA");
    match *seconds_left {
        left if left < 0 => problem(
            subject,
            format!("{directory}/{role}.crt ended on {end}, nobody accepts it: {mend}"),
        ),
        left if left < SOON => warning(
            subject,
            format!("{directory}/{role}.crt ends on {end}; before that: {mend}"),
        ),
        _ => fine(subject, format!("{directory}/{role}.crt, valid to {end}")),
    }
}

/// Chains of this host that refuse what no rule of theirs accepts: whether one does so for these ports they do not say.
/// Only who may use netfilter sees them.
pub fn firewall(protocol: &str, first: u16, last: u16, what: &str) -> Vec<Finding> {
    let subject = "firewall";
    let Some(walls) = checks::walls_to_here() else {
        return Vec::new();
    };
    if walls.is_empty() {
        return vec![fine(subject, format!("no nftables chain keeps {what} out"))];
    }
    let hint = |wall: &Wall| {
        let (table, chain) = (&wall.table, &wall.chain);
        let opening = wall.opening(protocol, first, last);
        warning(
            subject,
            format!(
                "chain {chain} of table {table} refuses what no rule accepts; if none accepts {protocol} ports {first} to \
                 {last}, {what} cannot get in: {opening}"
            ),
        )
    };
    walls.iter().map(hint).collect()
}

/// Whether something accepts connections there.
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
    use crate::relay::checks::Verdict;
    use crate::relay::checks::testing::{in_namespace, shell};

    #[test]
    fn dates_are_judged() {
        let judged = |seconds_left| {
            let end = "2026-11-23 21:00:00 UTC".to_owned();
            dates(Path::new("tls"), "relay", &Validity { seconds_left, end })
        };
        assert_eq!(judged(SOON).verdict, Verdict::Fine);
        assert_eq!(judged(SOON - 1).verdict, Verdict::Warning);
        assert_eq!(judged(-1).verdict, Verdict::Problem);
        assert!(judged(-1).text.contains("renew relay"));
    }

    #[test]
    fn a_missing_state_dir_comes_with_the_command_that_makes_it() {
        let found = state_dir(Path::new("/nonexistent/state"));
        assert_eq!(found[0].verdict, Verdict::Warning);
        let command = "install -d -m 750 -o mediaproxy -g mediaproxy /nonexistent/state";
        assert!(found[0].text.ends_with(command), "{found:?}");
        assert_eq!(state_dir(&std::env::temp_dir()).len(), 1);
    }

    #[test]
    fn chains_that_keep_media_out_come_with_the_rule_to_add() {
        in_namespace("a firewall at hook input", || {
            let found = firewall("udp", 40000, 59999, "media");
            assert_eq!(found[0].verdict, Verdict::Fine, "{found:?}");
            shell("iptables -P INPUT DROP");
            let found = firewall("udp", 40000, 59999, "media");
            assert_eq!(found[0].verdict, Verdict::Warning);
            let mend = "iptables -I INPUT -p udp --dport 40000:59999 -j ACCEPT";
            assert!(found[0].text.ends_with(mend), "{found:?}");
            shell(mend);
            shell(
                "iptables -P INPUT ACCEPT; nft add table inet a
                 nft add chain inet a in '{ type filter hook input priority 0; policy drop; }'",
            );
            let found = firewall("tcp", 25060, 25060, "relays");
            let (_, mend) = found[0].text.rsplit_once(": ").unwrap();
            assert_eq!(
                mend,
                "nft insert rule inet a in tcp dport 25060-25060 accept"
            );
            shell(mend);
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
