//! `config.ini` as the daemons read it: files as they are in use, every error in its exact words, warnings.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mediaproxy::config::{
    self, Backend, ConfigError, DispatcherConfig, Forwarding, Host, KEYS, Loaded, LogLevel,
    ManagementFormat, ProxySocket, RelayConfig, SocketGroup,
};

/// A configuration directory, gone when dropped.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "mediaproxy-config-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Dir(path)
    }

    fn with(text: impl AsRef<[u8]>) -> Dir {
        let dir = Dir::new();
        fs::write(dir.0.join("config.ini"), text).unwrap();
        let closed = std::os::unix::fs::PermissionsExt::from_mode(0o640);
        fs::set_permissions(dir.0.join("config.ini"), closed).unwrap();
        dir
    }

    /// Messages with the file's path left out.
    fn short(&self, messages: &[String]) -> Vec<String> {
        let path = self.0.join("config.ini").display().to_string();
        messages
            .iter()
            .map(|message| {
                let rest = message.strip_prefix(&path).expect(message);
                rest.strip_prefix(':').unwrap().trim_start().to_owned()
            })
            .collect()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn relay(text: &str) -> Loaded<RelayConfig> {
    config::load_relay(&Dir::with(text).0).unwrap()
}

fn dispatcher(text: &str) -> Loaded<DispatcherConfig> {
    config::load_dispatcher(&Dir::with(text).0).unwrap()
}

fn errors<T>(
    load: impl Fn(&Path) -> Result<Loaded<T>, ConfigError>,
    text: impl AsRef<[u8]>,
) -> Vec<String> {
    let dir = Dir::with(text);
    match load(&dir.0) {
        Ok(_) => Vec::new(),
        Err(error) => dir.short(&error.messages()),
    }
}

#[test]
fn relay_defaults() {
    let loaded = relay("[Relay]\ndispatchers = sip.example.com");
    assert_eq!(loaded.warnings, [""; 0]);
    let config = loaded.config;
    assert_eq!(config.dispatchers.len(), 1);
    assert_eq!(
        config.dispatchers[0].host,
        Host::Name("sip.example.com".into())
    );
    assert_eq!(config.dispatchers[0].port, 25060);
    assert_eq!(config.relay_ip, None);
    assert_eq!(config.advertised_ip, None);
    assert!(!config.auto_detect_interfaces);
    assert_eq!(
        (config.port_range.start, config.port_range.end),
        (40000, 60000)
    );
    let seconds = [
        config.stream_timeout,
        config.on_hold_timeout,
        config.setup_timeout,
        config.dns_check_interval,
        config.keepalive_interval,
        config.reconnect_delay,
        config.traffic_sampling_period.unwrap(),
        config.adopt_within,
        config.tls.verify_interval,
    ];
    assert_eq!(
        seconds.map(|s| s.as_secs()),
        [90, 7200, 300, 60, 10, 10, 15, 60, 300]
    );
    assert_eq!(config.routable_private_ranges, []);
    assert_eq!(config.forwarding, Forwarding::Auto);
    assert_eq!((config.mark, config.mark_mask), (0x4d50_0000, 0xffff_0000));
    assert_eq!(config.passport, None);
    assert_eq!(config.state_dir, Path::new("/var/lib/mediaproxy"));
    assert_eq!(config.log_level, LogLevel::Info);
    assert!(config.tls.certs_path.is_absolute());
    assert!(config.tls.certs_path.ends_with("tls"));
}

#[test]
fn dispatcher_defaults() {
    let config = dispatcher("").config;
    assert_eq!(config.socket_path, Path::new("dispatcher.sock"));
    assert_eq!(config.socket_mode, 0o660);
    assert_eq!(config.socket_group, SocketGroup::Auto);
    assert_eq!(config.listen, "0.0.0.0:25060".parse().unwrap());
    assert_eq!(config.listen_management, "0.0.0.0:25061".parse().unwrap());
    assert!(config.management_use_tls);
    assert_eq!(config.management_format, ManagementFormat::Lines);
    assert_eq!((config.passport, config.management_passport), (None, None));
    assert_eq!(config.relay_timeout, Duration::from_secs(5));
    assert_eq!(config.relay_retry, Duration::from_millis(150));
    assert_eq!(config.relay_recover_interval, Duration::from_secs(60));
    assert_eq!(config.cleanup_dead_relays_after, Duration::from_secs(43200));
    assert_eq!(
        config.cleanup_expired_sessions_after,
        Duration::from_secs(86400)
    );
    assert_eq!(config.max_unanswered_per_address, 0);
    assert_eq!(config.max_unanswered_per_user, 0);
    assert_eq!(config.accounting, []);
    assert_eq!(config.database.databases, []);
    assert_eq!(config.database.sessions_table, "media_sessions");
    assert_eq!(config.database.callid_column, "call_id");
    assert_eq!(config.database.fromtag_column, "from_tag");
    assert_eq!(config.database.totag_column, "to_tag");
    assert_eq!(config.database.info_column, "info");
    assert_eq!(
        config.radius.config_file,
        Path::new("/etc/opensips/radius/client.conf")
    );
    assert!(
        config
            .radius
            .additional_dictionary
            .ends_with("radius/dictionary")
    );
    let auto = |paths: [&str; 2]| ProxySocket {
        paths: paths.map(PathBuf::from).to_vec(),
        is_set: false,
    };
    let opensips = auto(["/run/opensips/socket", "/run/opensips/opensips.sock"]);
    assert_eq!(config.opensips.socket, opensips);
    let kamailio = auto(["/run/kamailio/kamailio_rpc.sock", "/run/kamailio/rpc.sock"]);
    assert_eq!(config.kamailio.socket, kamailio);
    assert_eq!(
        config.file.path,
        Path::new("/var/log/mediaproxy/sessions.jsonl")
    );
}

#[test]
fn a_file_in_use() {
    let text = b"; h\xf4te de m\xe9dias\r\n[Relay]\r\ndispatchers = 192.0.2.1, sip.example.com:25070,\r\n   [2001:db8::5]\r\npassport = O:Example\\, Inc.,CN:dispatcher*\r\n;relay_ip =\r\nrelay_ip = default\r\nAdvertised-IP: 198.51.100.7\r\nport_range=50000:50100\r\nlog_level = 10\r\nstream_timeout = 60\r\nrouteable = x\r\nroutable_private_ranges = 10.0.0.0/8, 192.168.0.0/16\r\nuserspace_transmit_every = 2\r\ntraffic_sampling_period = 0\r\npassport-x = None\r\n[Dispatcher]\r\nlisten = any\r\nmanagement_use_tls = nonsense of the other daemon\r\n[TLS]\r\ncerts_path = /srv/100%%/tls\r\n[ThorNetwork]\r\ndomain = example.com\r\nnode_ip =\r\n[Relais]\r\na = b\r\n";
    let dir = Dir::with(text);
    let loaded = config::load_relay(&dir.0).unwrap();
    assert_eq!(loaded.path, dir.0.join("config.ini"));
    let config = loaded.config;
    assert_eq!(config.dispatchers.len(), 3);
    assert_eq!(config.dispatchers[1].port, 25070);
    assert_eq!(
        config
            .passport
            .map(|passport| passport.to_string())
            .as_deref(),
        Some("O:Example\\, Inc., CN:dispatcher*")
    );
    assert_eq!(config.relay_ip, None);
    assert_eq!(config.advertised_ip, Some(Ipv4Addr::new(198, 51, 100, 7)));
    assert_eq!(config.port_range.count(), 100);
    assert_eq!(config.log_level, LogLevel::Debug);
    assert_eq!(config.stream_timeout, Duration::from_secs(60));
    assert_eq!(config.routable_private_ranges.len(), 2);
    assert_eq!(config.traffic_sampling_period, None);
    assert_eq!(config.tls.certs_path, Path::new("/srv/100%/tls"));
    assert_eq!(
        dir.short(&loaded.warnings),
        [
            "12: [Relay] unknown key \"routeable\", ignored",
            "14: [Relay] userspace_transmit_every: has no effect: every packet is sent",
            "16: [Relay] unknown key \"passport_x\", ignored; is passport meant?",
            "22: [ThorNetwork] has no effect: relays are found by [Relay] dispatchers",
            "25: unknown section \"Relais\", ignored with all its keys; is [Relay] meant?",
        ]
    );
}

#[test]
fn sections_in_any_case_and_in_parts() {
    let config = dispatcher(
        "[dispatcher]\nlisten = 127.0.0.1\n[OPENSER]\nsocket_path = /run/ser\nlocation_table = l\n\
         [Dispatcher]\naccounting = database file\n[database]\ndburi = mysql://u:p%%40@h/d\n\
         [Kamailio]\nsocket_path = /run/kamailio/rpc\n",
    );
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
    assert!(
        config.warnings[0].ends_with("location_table: has no effect: no location table is used")
    );
    let config = config.config;
    assert_eq!(config.listen.to_string(), "127.0.0.1:25060");
    assert_eq!(config.accounting, [Backend::Database, Backend::File]);
    let set = |path: &str| ProxySocket {
        paths: vec![PathBuf::from(path)],
        is_set: true,
    };
    assert_eq!(config.opensips.socket, set("/run/ser"));
    assert_eq!(config.kamailio.socket, set("/run/kamailio/rpc"));
    let words =
        dispatcher("[Dispatcher]\n[OpenSIPS]\nsocket_path = AUTO\n[Kamailio]\nsocket_path =\n")
            .config;
    assert!(!words.opensips.socket.is_set && !words.kamailio.socket.is_set);
    assert_eq!(config.database.databases.len(), 1);
}

#[test]
fn a_missing_file() {
    let dir = Dir::new();
    let error = config::load_relay(&dir.0).unwrap_err();
    assert_eq!(
        dir.short(&error.messages()),
        [
            "cannot be read: No such file or directory (os error 2); it must say at least [Relay] dispatchers"
        ]
    );
    let loaded = config::load_dispatcher(&dir.0).unwrap();
    assert_eq!(
        dir.short(&loaded.warnings),
        ["not found: all defaults hold"]
    );
}

#[test]
fn a_file_that_is_none() {
    let dir = Dir::new();
    fs::create_dir(dir.0.join("config.ini")).unwrap();
    let error = config::load_dispatcher(&dir.0).unwrap_err().to_string();
    assert!(
        error.ends_with("cannot be read: Is a directory (os error 21)"),
        "{error}"
    );
    assert_eq!(
        errors(config::load_dispatcher, vec![b'\n'; 256 * 1024 + 1]),
        ["cannot be read: larger than 256 KiB; allowed: a configuration file"]
    );
}

#[test]
fn errors_of_the_relay() {
    let table: &[(&str, &[&str])] = &[
        (
            "",
            &["[Relay] dispatchers: not set; allowed: at least one host[:port]"],
        ),
        (
            "dispatchers = None",
            &["[Relay] dispatchers: not set; allowed: at least one host[:port]"],
        ),
        (
            "dispatchers = a, b:x",
            &[
                "2: [Relay] dispatchers: read \"a, b:x\"; allowed: a list of host[:port] where host is an address (IPv6 in brackets), a name or a domain (not \"b:x\")",
            ],
        ),
        (
            "dispatchers = a\nstream_timeout = 90 ; seconds",
            &[
                "3: [Relay] stream_timeout: read \"90 ; seconds\" (a comment must stand on a line of its own); allowed: whole seconds from 1 to 1000000000",
            ],
        ),
        (
            "dispatchers = a\nstream_timeout = 90\n on_hold_timeout = 60",
            &[
                "3: [Relay] stream_timeout: read \"90 on_hold_timeout = 60\" (a line that begins with blanks continues the one above); allowed: whole seconds from 1 to 1000000000",
            ],
        ),
        (
            "dispatchers = a\nport_range = 40001:50000\nport-range = 40000:50000\nlog_level = loud",
            &[
                "3: [Relay] port_range: read \"40001:50000\"; allowed: start:end, both even, from 1024 to 65536, end at least 4 above start",
                "4: [Relay] port_range: given a second time, first in line 3; allowed: once",
                "5: [Relay] log_level: read \"loud\"; allowed: CRITICAL, ERROR, WARNING, INFO or DEBUG, or a number from 0 (all) to 50 (CRITICAL)",
            ],
        ),
        (
            "dispatchers = a\nauto_detect_interfaces = yes\nadvertised_ip = 192.0.2.1",
            &[
                "4: [Relay] advertised_ip: set together with auto_detect_interfaces = yes; allowed: one of the two",
            ],
        ),
        (
            "dispatchers = a\nmark = 0x4d510001",
            &[
                "3: [Relay] mark: 0x4d510001 has bits outside of mark_mask 0xffff0000; allowed: a mark within the mask",
            ],
        ),
        (
            "dispatchers = a\nmark_mask = 0xff",
            &[
                "[Relay] mark: 0x4d500000 has bits outside of mark_mask 0xff; allowed: a mark within the mask",
            ],
        ),
        (
            "dispatchers = a\nrelay_ip = ::1\nforwarding = nft\npassport = relay\nbare",
            &[
                "3: [Relay] relay_ip: read \"::1\"; allowed: the IPv4 address of one host",
                "4: [Relay] forwarding: read \"nft\"; allowed: auto, kernel or userspace",
                "5: [Relay] passport: read \"relay\"; allowed: AN:value[, AN:value...] with AN one of O, OU, CN, C, L, ST or EMAIL, or None",
                "6: read \"bare\"; allowed: [Section], key = value, or a comment that begins with ; or #",
            ],
        ),
    ];
    for (text, expected) in table {
        let text = format!("[Relay]\n{text}");
        assert_eq!(errors(config::load_relay, &text), *expected, "{text}");
    }
}

#[test]
fn errors_of_the_dispatcher() {
    let table: &[(&str, &[&str])] = &[
        (
            "listen = eth/0\nsocket_mode = 888\nsocket_group = a b\nmanagement_format = xml",
            &[
                "2: [Dispatcher] listen: read \"eth/0\"; allowed: ip[:port] with an address of this host (IPv6 in brackets), its name, or any[:port]",
                "3: [Dispatcher] socket_mode: read \"888\"; allowed: octal permissions such as 0660",
                "4: [Dispatcher] socket_group: read \"a b\"; allowed: auto, or the name of a group",
                "5: [Dispatcher] management_format: read \"xml\"; allowed: lines or array",
            ],
        ),
        (
            "max_unanswered_per_address = -1\nmax_unanswered_per_user = few",
            &[
                "2: [Dispatcher] max_unanswered_per_address: read \"-1\"; allowed: a whole number from 0 to 4294967295",
                "3: [Dispatcher] max_unanswered_per_user: read \"few\"; allowed: a whole number from 0 to 4294967295",
            ],
        ),
        (
            "relay_retry = 0\nmanagement_use_tls = maybe",
            &[
                "2: [Dispatcher] relay_retry: read \"0\"; allowed: seconds such as 5 or 0.15, from 0.001 to 1000000000",
                "3: [Dispatcher] management_use_tls: read \"maybe\"; allowed: yes or no",
            ],
        ),
        (
            "listen_management = 127.0.0.1:25060",
            &[
                "2: [Dispatcher] listen_management: 127.0.0.1:25060 is taken by listen; allowed: another port",
            ],
        ),
        (
            "listen_metrics = 127.0.0.1:25061\nlisten_management = 127.0.0.1",
            &[
                "2: [Dispatcher] listen_metrics: 127.0.0.1:25061 is taken by listen_management; allowed: another port",
            ],
        ),
        (
            "listen_metrics = any:0",
            &[
                "2: [Dispatcher] listen_metrics: read \"any:0\"; allowed: ip[:port] with an address of this host (IPv6 in brackets), its name, or any[:port]",
            ],
        ),
        (
            "accounting = database",
            &[
                "2: [Dispatcher] accounting: names database, and [Database] dburi is not set; allowed: both or neither",
            ],
        ),
        (
            "[Database]\ndburi = oracle://u:secret@h/d\ninfo_column = a;drop",
            &[
                "3: [Database] dburi: read \"oracle://u:***@h/d\"; allowed: mysql://user:password@host[:port]/database, the same with postgres, or sqlite:///path; after ? sslmode=disable, prefer, require, verify-ca or verify-full, sslrootcert=FILE, unix_socket=PATH",
                "4: [Database] info_column: read \"a;drop\" (a comment must stand on a line of its own); allowed: a name of letters, digits and underscores",
            ],
        ),
        (
            "[TLS]\nverify_interval = 0\ncerts_path = a\n b\n[Relay]\na = 1\nA = 2",
            &[
                "3: [TLS] verify_interval: read \"0\"; allowed: whole seconds from 1 to 1000000000",
                "4: [TLS] certs_path: read \"a b\" (a line that begins with blanks continues the one above); allowed: a path on one line",
                "8: [Relay] a: given a second time, first in line 7; allowed: once",
            ],
        ),
        (
            "[a\x1b]\n\x1b = 1\n\x1b = %(x)s",
            &[
                "4: [a\\x1b] \\x1b: refers to key \"x\", which is not set in this section; allowed: one that is, or %%( for these characters",
                "4: [a\\x1b] \\x1b: given a second time, first in line 3; allowed: once",
            ],
        ),
        (
            "[OpenSER]\nsocket_path = /a\n[OpenSIPS]\nsocket_path = /b",
            &["5: [OpenSIPS] socket_path: given a second time, first in line 3; allowed: once"],
        ),
    ];
    for (text, expected) in table {
        let text = format!("[Dispatcher]\n{text}");
        assert_eq!(errors(config::load_dispatcher, &text), *expected, "{text}");
    }
}

/// As much as a file may hold, of what costs most: bounded in time and in words.
#[test]
fn full_of_nonsense() {
    for piece in [
        "a=1\n",
        "[x]\n",
        "[Relay]\n",
        "bcdefg = 1\n ;\n",
        "x\n",
        "\u{ff} = 1\n",
        "[Relay]\nport_rang=\n",
    ] {
        let text = format!("[Relay]\n{}", piece.repeat(256 * 1024 / piece.len()));
        let messages = errors(config::load_relay, text);
        assert!((1..=51).contains(&messages.len()));
    }
}

#[test]
fn every_key_is_read() {
    for key in KEYS.iter().filter(|key| key.ignored.is_none()) {
        let load = |dir: &Path| match key.section {
            "Relay" => config::load_relay(dir).map(drop),
            _ => config::load_dispatcher(dir).map(drop),
        };
        let others = match (key.section, key.name) {
            ("Relay", "dispatchers") | ("Dispatcher", _) => "",
            ("Relay", _) => "dispatchers = a\n",
            _ => "",
        };
        let dir = Dir::with(format!(
            "[{}]\n{others}{} = \x07%%\n",
            key.section, key.name
        ));
        let error = load(&dir.0).expect_err(key.name).to_string();
        let name = format!("[{}] {}: read \"\\x07%\"", key.section, key.name);
        assert!(error.contains(&name), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

/// What is missing may stand there under a wrong name.
#[test]
fn warnings_beside_errors() {
    let dir = Dir::with("[Relay]\ndispatcher = a\n");
    let error = config::load_relay(&dir.0).unwrap_err().to_string();
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].contains("[Relay] dispatchers: not set"), "{error}");
    assert!(lines[1].starts_with("warning: "), "{error}");
    assert!(
        lines[1].ends_with(
            "config.ini:2: [Relay] unknown key \"dispatcher\", ignored; is dispatchers meant?"
        ),
        "{error}"
    );
}

/// The file has to be for the daemons alone where a password is in it.
#[test]
fn a_password_that_others_may_read() {
    let dir = Dir::with("[Database]\ndburi = mysql://u:secret@h/x\n");
    let set = |path: &Path, mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(path, mode).unwrap();
    };
    set(&dir.0, 0o755);
    let file = dir.0.join("config.ini");
    let warnings = || config::load_dispatcher(&dir.0).unwrap().warnings;
    for (mode, what) in [
        (0o644, "read"),
        (0o662, "change"),
        (0o666, "read and change"),
    ] {
        set(&file, mode);
        let [warning] = &dir.short(&warnings())[..] else {
            panic!("{mode:o}: {:?}", warnings());
        };
        let text = format!(
            "2: [Database] dburi: its password is in a file that is open: every user of this host may {what} it (mode {mode:04o}): "
        );
        assert!(warning.starts_with(&text), "{warning}");
        assert!(
            warning.ends_with(&format!("chmod 640 {}", file.display())),
            "{warning}"
        );
        assert!(!warning.contains("secret"), "{warning}");
    }
    for dburi in ["mysql://u@h/x", "sqlite:///a:b@c"] {
        fs::write(&file, format!("[Database]\ndburi = {dburi}\n")).unwrap();
        assert_eq!(warnings(), [""; 0], "{dburi}: no password");
    }
    fs::write(&file, "[Database]\ndburi = mysql://u:secret@h/x\n").unwrap();
    set(&dir.0, 0o750);
    assert_eq!(warnings(), [""; 0], "nobody else gets there");
}

#[test]
fn warnings() {
    let dir = Dir::with(
        "[Dispatcher]\nmanagement_use_tls = no\nrelay_retry = 5\nport_range = 1\nlisen = any\n[Relay]\nnone = 1\n",
    );
    let loaded = config::load_dispatcher(&dir.0).unwrap();
    assert_eq!(
        dir.short(&loaded.warnings),
        [
            "2: [Dispatcher] management_use_tls: no, and 0.0.0.0:25061 is no private address: whoever reaches that port sees and ends all calls",
            "3: [Dispatcher] relay_retry: not below relay_timeout: a call whose relay is silent gets no other one",
            "4: [Dispatcher] unknown key \"port_range\", ignored; it belongs to [Relay]",
            "5: [Dispatcher] unknown key \"lisen\", ignored; is listen meant?",
        ]
    );
    for quiet in [
        "[Dispatcher]\nmanagement_use_tls = no\nlisten_management = 127.0.0.1",
        "[Dispatcher]\nmanagement_use_tls = no\nlisten_management = [::1]:5",
    ] {
        assert_eq!(dispatcher(quiet).warnings, [""; 0]);
    }
    let short_hold = relay("[Relay]\ndispatchers = a\non_hold_timeout = 60").warnings;
    assert_eq!(short_hold.len(), 1);
    assert!(
        short_hold[0].contains("config.ini:3: [Relay] on_hold_timeout: 60 seconds are less"),
        "{short_hold:?}"
    );
}
