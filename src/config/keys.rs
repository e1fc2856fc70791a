//! The table of all keys: name, default, unit, meaning. The parser takes its defaults from it, the sample
//! file `conf/config.ini` is held against it.

/// One key of `config.ini`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub section: &'static str,
    pub name: &'static str,
    /// As it would be written in the file; empty where there is none.
    pub default: &'static str,
    /// Of the value: `seconds` or `MiB`; empty for a plain value.
    pub unit: &'static str,
    /// One or more sentences for the administrator.
    pub meaning: &'static str,
    /// Why a key of MediaProxy is read and has no effect.
    pub ignored: Option<&'static str>,
}

const fn key(
    section: &'static str,
    name: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> Key {
    Key {
        section,
        name,
        default,
        unit: "",
        meaning,
        ignored: None,
    }
}

const fn seconds(
    section: &'static str,
    name: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> Key {
    Key {
        unit: "seconds",
        ..key(section, name, default, meaning)
    }
}

const fn mebibytes(
    section: &'static str,
    name: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> Key {
    Key {
        unit: "MiB",
        ..key(section, name, default, meaning)
    }
}

const fn ignored(
    section: &'static str,
    name: &'static str,
    default: &'static str,
    meaning: &'static str,
    why: &'static str,
) -> Key {
    Key {
        ignored: Some(why),
        ..key(section, name, default, meaning)
    }
}

/// A section of MediaProxy that is read and has no effect, and why.
pub(super) const IGNORED_SECTIONS: [(&str, &str); 1] =
    [("ThorNetwork", "relays are found by [Relay] dispatchers")];

/// Older names of sections, and what they are called now.
pub(super) const RENAMED_SECTIONS: [(&str, &str); 1] = [("OpenSER", "OpenSIPS")];

const RELAY: &str = "Relay";
const DISPATCHER: &str = "Dispatcher";

/// Every key, in the order of the sample file.
pub const KEYS: &[Key] = &[
    key(
        RELAY,
        "dispatchers",
        "",
        "The dispatchers to work for, as host[:port] separated by commas; the port is 25060 where none is \
         given. A host is an IP address, a host name, or a domain whose _sip._udp SRV record names the \
         hosts. The relay does not start without it.",
    ),
    key(
        RELAY,
        "relay_ip",
        "",
        "The address that media is received and sent on. Without it: the address of the interface that has \
         the default route.",
    ),
    key(
        RELAY,
        "advertised_ip",
        "",
        "The address that phones are told instead of relay_ip, for a relay behind a one-to-one NAT. Not \
         together with auto_detect_interfaces.",
    ),
    key(
        RELAY,
        "auto_detect_interfaces",
        "no",
        "On a host with several interfaces: use, for each party of a call, the address of the interface \
         that leads to it.",
    ),
    key(
        RELAY,
        "port_range",
        "40000:60000",
        "The UDP ports for media as start:end; both even, from 1024 to 65536, the end itself is not used. A \
         stream takes four ports.",
    ),
    seconds(
        RELAY,
        "stream_timeout",
        "90",
        "A call whose streams are all silent for so long ends.",
    ),
    seconds(
        RELAY,
        "on_hold_timeout",
        "7200",
        "The same for a stream on hold, where silence is the rule.",
    ),
    seconds(
        RELAY,
        "setup_timeout",
        "300",
        "A call that nobody answers ends after this time.",
    ),
    key(
        RELAY,
        "learning",
        "guarded",
        "Who is believed to be a party. Always at once: who sends from where the party's SDP or SIP says that it is, or \
         has proven itself by ICE. guarded: anybody else who sends one stream for learning_wait, where no better one is \
         heard. strict: nobody else. open: the first who sends anything.",
    ),
    seconds(
        RELAY,
        "learning_wait",
        "0.3",
        "How long a source that nothing speaks for must send one stream, with learning = guarded, before it is believed.",
    ),
    key(
        RELAY,
        "relearn",
        "yes",
        "Follow a party whose NAT gives it another address in mid-call: its stream goes on from there.",
    ),
    seconds(
        RELAY,
        "relearn_after",
        "2",
        "How long the old address must have been silent for that.",
    ),
    key(
        RELAY,
        "routable_private_ranges",
        "",
        "Private addresses that the relay can reach, as ranges such as 10.0.0.0/8 or names of hosts separated by \
         commas; any for all. To other private addresses nothing is sent before a packet came from there.",
    ),
    key(
        RELAY,
        "forwarding",
        "auto",
        "Who forwards media: kernel (netfilter, fastest; needs CAP_NET_ADMIN and net.ipv4.ip_forward = 1), userspace \
         (the relay itself), or auto: the kernel where it can. media-relay --check tells.",
    ),
    key(
        RELAY,
        "mark",
        "0x4d500000",
        "The conntrack mark of media that the kernel forwards, to match it in rules of your own (ct mark).",
    ),
    key(
        RELAY,
        "mark_mask",
        "0xffff0000",
        "The bits of the conntrack mark that belong to the relay; mark must lie within.",
    ),
    key(
        RELAY,
        "passport",
        "",
        "What a dispatcher's certificate must say, as AN:value[, AN:value...] with AN one of O, OU, CN, C, \
         L, ST, EMAIL; a leading or trailing * is a wildcard, a comma in a value is written \\,. Without \
         it: every certificate of our CA will do.",
    ),
    seconds(
        RELAY,
        "dns_check_interval",
        "60",
        "How often the names of dispatchers are looked up; after 0.2, 0.5, 1, 2, 4 .. seconds while one is not found.",
    ),
    seconds(
        RELAY,
        "keepalive_interval",
        "10",
        "How often a dispatcher is asked whether it is there; after three questions without an answer the \
         relay connects again.",
    ),
    seconds(
        RELAY,
        "reconnect_delay",
        "10",
        "The longest time between two attempts to reach a dispatcher. The first ones come after 0.2, 0.5, 1, 2, 4 \
         .. seconds, each up to a quarter more, by chance.",
    ),
    seconds(
        RELAY,
        "traffic_sampling_period",
        "15",
        "The relayed bits per second in the summary are measured over this time; 0 switches it off.",
    ),
    seconds(
        RELAY,
        "adopt_within",
        "60",
        "After SIGQUIT, as of a restart or an upgrade, running calls stay in the kernel for so long, and the relay that \
         starts within that time takes them over. 0: SIGQUIT ends them, as SIGTERM does.",
    ),
    key(
        RELAY,
        "state_dir",
        "/var/lib/mediaproxy",
        "The directory for what must survive a restart.",
    ),
    mebibytes(
        RELAY,
        "journal_limit",
        "256",
        "What ended calls may take in state_dir while they wait to be confirmed by their dispatcher. At the \
         limit the log says what could not be kept.",
    ),
    key(
        RELAY,
        "listen_metrics",
        "",
        "Where Prometheus reads this relay's metrics over plain HTTP, as ip[:port]; the port is 25063 where none is \
         given. Whoever reaches it sees counts, no calls. Without it: nowhere.",
    ),
    key(
        RELAY,
        "log_level",
        "INFO",
        "CRITICAL, ERROR, WARNING, INFO or DEBUG, or Python's number for one: from 0 (all) to 50.",
    ),
    ignored(
        RELAY,
        "userspace_transmit_every",
        "1",
        "Read, and without effect.",
        "every packet is sent",
    ),
    key(
        DISPATCHER,
        "socket_path",
        "dispatcher.sock",
        "The UNIX socket for the SIP proxy; a relative path is under the runtime directory.",
    ),
    key(
        DISPATCHER,
        "socket_mode",
        "0660",
        "Permissions of that socket, octal. The SIP proxy must be able to write to it.",
    ),
    key(
        DISPATCHER,
        "socket_group",
        "auto",
        "Group of that socket. auto is the first that exists of kamailio, opensips and openser, else the \
         dispatcher's own.",
    ),
    key(
        DISPATCHER,
        "listen",
        "0.0.0.0",
        "Where relays connect, as ip[:port]; any is every address, IPv6 is written in brackets, and a name is looked up \
         at the start. The port is 25060 where none is given.",
    ),
    key(
        DISPATCHER,
        "listen_management",
        "0.0.0.0",
        "Where management clients connect, as for listen; the port is 25061 where none is given.",
    ),
    key(
        DISPATCHER,
        "management_use_tls",
        "yes",
        "Whether management clients must use TLS and show a certificate.",
    ),
    key(
        DISPATCHER,
        "management_format",
        "lines",
        "lines: one JSON object a line, then an empty line. array: one JSON array, as MediaProxy 4 answers \
         and CDRTool reads.",
    ),
    key(
        DISPATCHER,
        "listen_metrics",
        "",
        "Where Prometheus reads the dispatcher's metrics over plain HTTP, as ip[:port]; the port is 25062 where none \
         is given. Whoever reaches it sees counts, no calls. Without it: nowhere.",
    ),
    key(
        DISPATCHER,
        "passport",
        "",
        "What a relay's certificate must say; the form is that of [Relay] passport.",
    ),
    key(
        DISPATCHER,
        "management_passport",
        "",
        "What a management client's certificate must say; the form is that of [Relay] passport.",
    ),
    seconds(
        DISPATCHER,
        "relay_timeout",
        "5",
        "A relay that does not answer a request within this time gets no new calls until it is heard of \
         again. What is asked for calls of a relay that is being restarted waits for it this long. \
         Fractions are allowed.",
    ),
    seconds(
        DISPATCHER,
        "relay_retry",
        "0.15",
        "When a relay does not answer a new call within this time, the next one is asked as well. SIP \
         proxies themselves wait 0.5 seconds. Fractions are allowed.",
    ),
    seconds(
        DISPATCHER,
        "relay_recover_interval",
        "60",
        "A relay that timed out and is not heard of for this long is disconnected.",
    ),
    seconds(
        DISPATCHER,
        "cleanup_dead_relays_after",
        "43200",
        "The sessions of a relay that stays away for this long are accounted with what is known, and forgotten.",
    ),
    seconds(
        DISPATCHER,
        "cleanup_expired_sessions_after",
        "86400",
        "A session that timed out on its relay is forgotten after this time, when the SIP proxy never ends \
         it.",
    ),
    key(
        DISPATCHER,
        "max_unanswered_per_address",
        "0",
        "How many calls from one signaling address may be unanswered at a time; further ones are refused. Of IPv6 a /64 \
         is one address. 0: any number. Behind another SIP proxy all calls have that one's address.",
    ),
    key(
        DISPATCHER,
        "max_unanswered_per_user",
        "0",
        "The same for calls of one From user (user@domain).",
    ),
    key(
        DISPATCHER,
        "accounting",
        "",
        "Where finished sessions are recorded: any of file, database and radius, separated by commas.",
    ),
    key(
        DISPATCHER,
        "state_dir",
        "/var/lib/mediaproxy",
        "The directory for what must survive a restart.",
    ),
    mebibytes(
        DISPATCHER,
        "journal_limit",
        "1024",
        "What finished calls may take in state_dir while they wait for a database or another backend that is \
         down. At the limit relays keep their ended calls themselves.",
    ),
    key(
        DISPATCHER,
        "log_level",
        "INFO",
        "CRITICAL, ERROR, WARNING, INFO or DEBUG, or Python's number for one: from 0 (all) to 50.",
    ),
    key(
        "TLS",
        "certs_path",
        "tls",
        "The directory of the certificates; a relative path is under the configuration directory. In it: \
         ca.pem, crl.pem, dispatcher.crt, dispatcher.key, relay.crt, relay.key.",
    ),
    seconds(
        "TLS",
        "verify_interval",
        "300",
        "How often the certificates of connected peers are checked again; a link whose certificate has \
         expired is closed. A changed file (crl.pem, say) counts at once.",
    ),
    key(
        "Database",
        "dburi",
        "",
        "The database as scheme://user:password@host[:port]/database with scheme mysql or postgres, or \
         sqlite:///path. Characters of the password that have a meaning in it are written %%XX, with the \
         hexadecimal code: %%40 is @. After ? and separated by &: sslmode=disable, prefer (the default: TLS where \
         the server has it), require, verify-ca or verify-full (the certificate is of a known CA; and for that \
         host); sslrootcert=FILE with the CAs, else those of the system are known; unix_socket=PATH to use \
         instead of the host. With mysql, localhost without a port and with sslmode disable or prefer is the \
         server's UNIX socket: the first that is there of /run/mysqld/mysqld.sock, /var/lib/mysql/mysql.sock and \
         /tmp/mysql.sock, which the systemd unit hides (PrivateTmp); 127.0.0.1 means TCP. Several databases, \
         separated by blanks, get every session each.",
    ),
    key(
        "Database",
        "sessions_table",
        "media_sessions",
        "The table for sessions.",
    ),
    key(
        "Database",
        "callid_column",
        "call_id",
        "Its column for the Call-ID.",
    ),
    key(
        "Database",
        "fromtag_column",
        "from_tag",
        "Its column for the From tag.",
    ),
    key(
        "Database",
        "totag_column",
        "to_tag",
        "Its column for the To tag.",
    ),
    key(
        "Database",
        "info_column",
        "info",
        "Its column for the statistics, as JSON.",
    ),
    key(
        "Radius",
        "config_file",
        "/etc/opensips/radius/client.conf",
        "The radiusclient configuration with server, secret and dictionary; a relative path is under the \
         configuration directory.",
    ),
    key(
        "Radius",
        "additional_dictionary",
        "radius/dictionary",
        "A dictionary to read after the one named there; a relative path is under the configuration \
         directory.",
    ),
    key(
        "OpenSIPS",
        "socket_path",
        "auto",
        "The datagram socket of OpenSIPS' mi_datagram module, to end the dialogs of calls that timed out. auto \
         is the first that is there of /run/opensips/socket and /run/opensips/opensips.sock.",
    ),
    ignored(
        "OpenSIPS",
        "location_table",
        "location",
        "Read, and without effect.",
        "no location table is used",
    ),
    key(
        "Kamailio",
        "socket_path",
        "auto",
        "The datagram socket of Kamailio's jsonrpcs module, to end the dialogs of calls that timed out. auto \
         is the first that is there of /run/kamailio/kamailio_rpc.sock, where the module listens when it is \
         told nothing, and /run/kamailio/rpc.sock.",
    ),
    key(
        "File",
        "path",
        "/var/log/mediaproxy/sessions.jsonl",
        "The file that accounting = file writes, one JSON object a line.",
    ),
];

/// The key of that section and name, both as written in [`KEYS`].
pub(super) fn find(section: &str, name: &str) -> Option<&'static Key> {
    KEYS.iter()
        .find(|key| key.section == section && key.name == name)
}

/// The section as written in [`KEYS`], by a name in any case, an old one included.
pub(super) fn section(name: &str) -> Option<&'static str> {
    let renamed = RENAMED_SECTIONS
        .iter()
        .find(|(old, _)| old.eq_ignore_ascii_case(name));
    let name = renamed.map_or(name, |&(_, new)| new);
    KEYS.iter()
        .map(|key| key.section)
        .find(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_normal() {
        for (index, key) in KEYS.iter().enumerate() {
            let same = |other: &&Key| (other.section, other.name) == (key.section, key.name);
            assert_eq!(
                KEYS.iter().position(|k| same(&k)),
                Some(index),
                "{}",
                key.name
            );
            assert_eq!(key.name, key.name.to_lowercase().replace('-', "_"));
            assert!(key.meaning.ends_with('.'), "{}", key.name);
        }
    }

    #[test]
    fn sections_by_any_name() {
        assert_eq!(section("openser"), Some("OpenSIPS"));
        assert_eq!(section("RELAY"), Some("Relay"));
        assert_eq!(section("Relays"), None);
    }
}
