//! What MediaProxy 4.1.2 and its python3-application 3.0 read from a spelling, and what we do: facts that were taken down
//! by running its configuration code. What is refused here is in docs/migration.md.

use std::path::Path;
use std::time::Duration;

use mediaproxy::config::{
    self, Backend, DatabaseUri, DispatcherConfig, Host, Loaded, LogLevel, RelayConfig,
};

/// Section, key, spelling, and the value as MediaProxy has it; levels between its names and addresses of a name in the
/// form that ours come down to.
const SAME: &[(&str, &str, &str, &str)] = &[
    ("Dispatcher", "management_use_tls", "yes", "True"),
    ("Dispatcher", "management_use_tls", "No", "False"),
    ("Dispatcher", "management_use_tls", "ON", "True"),
    ("Dispatcher", "management_use_tls", "off", "False"),
    ("Dispatcher", "management_use_tls", "True", "True"),
    ("Dispatcher", "management_use_tls", "FALSE", "False"),
    ("Dispatcher", "management_use_tls", "1", "True"),
    ("Dispatcher", "management_use_tls", "0", "False"),
    ("Relay", "auto_detect_interfaces", "on", "True"),
    ("Relay", "auto_detect_interfaces", "0", "False"),
    ("Relay", "stream_timeout", "90", "90"),
    ("Relay", "stream_timeout", "+90", "90"),
    ("Relay", "stream_timeout", "0_9_0", "90"),
    ("Relay", "stream_timeout", "007", "7"),
    // A time beyond 30 years is as good as ours of 30 years.
    ("Relay", "stream_timeout", "99999999999", "1000000000"),
    ("Relay", "on_hold_timeout", "+60", "60"),
    ("Relay", "traffic_sampling_period", "+5", "5"),
    // Off, both.
    ("Relay", "traffic_sampling_period", "0", "0"),
    ("Relay", "traffic_sampling_period", "-1", "0"),
    ("Relay", "dns_check_interval", "+60", "60"),
    ("Relay", "keepalive_interval", "1_0", "10"),
    ("Relay", "reconnect_delay", "5", "5"),
    ("Relay", "userspace_transmit_every", "2", "no effect"),
    ("Dispatcher", "relay_timeout", "+5", "5"),
    ("Dispatcher", "relay_recover_interval", "0", "0"),
    ("Dispatcher", "cleanup_dead_relays_after", "1_000", "1000"),
    ("Dispatcher", "cleanup_expired_sessions_after", "+1", "1"),
    ("TLS", "verify_interval", "+300", "300"),
    ("TLS", "certs_path", "/tls", "/tls"),
    ("Relay", "log_level", "debug", "DEBUG"),
    // NOTSET shows all.
    ("Relay", "log_level", "NOTSET", "DEBUG"),
    ("Relay", "log_level", "0", "DEBUG"),
    ("Relay", "log_level", "-5", "DEBUG"),
    ("Relay", "log_level", "Info", "INFO"),
    ("Relay", "log_level", "15", "INFO"),
    ("Relay", "log_level", "+20", "INFO"),
    ("Relay", "log_level", "25", "WARNING"),
    ("Relay", "log_level", "error", "ERROR"),
    ("Dispatcher", "log_level", "CRITICAL", "CRITICAL"),
    ("Dispatcher", "log_level", "50", "CRITICAL"),
    ("Dispatcher", "log_level", "0", "DEBUG"),
    ("Relay", "port_range", "40000:60000", "40000:60000"),
    ("Relay", "port_range", "40000 : 50000", "40000:50000"),
    ("Relay", "port_range", "+40000:5_0000", "40000:50000"),
    ("Relay", "port_range", "1024:65536", "1024:65536"),
    ("Relay", "relay_ip", "192.0.2.1", "192.0.2.1"),
    ("Relay", "relay_ip", "none", "none"),
    ("Relay", "advertised_ip", "192.0.2.1", "192.0.2.1"),
    ("Relay", "advertised_ip", "None", "none"),
    ("Relay", "routable_private_ranges", "any", "0.0.0.0/0"),
    ("Relay", "routable_private_ranges", "ANY", "0.0.0.0/0"),
    ("Relay", "routable_private_ranges", "none", ""),
    ("Relay", "routable_private_ranges", "0/0", "0.0.0.0/0"),
    ("Relay", "routable_private_ranges", "0", "0.0.0.0/32"),
    (
        "Relay",
        "routable_private_ranges",
        "10.1.2.3/8",
        "10.0.0.0/8",
    ),
    (
        "Relay",
        "routable_private_ranges",
        "10.0.0.0/08",
        "10.0.0.0/8",
    ),
    (
        "Relay",
        "routable_private_ranges",
        "10.0.0.1",
        "10.0.0.1/32",
    ),
    (
        "Relay",
        "routable_private_ranges",
        "10.0.0.0/8 ,  192.168.0.0/16",
        "10.0.0.0/8 192.168.0.0/16",
    ),
    (
        "Relay",
        "routable_private_ranges",
        "localhost",
        "127.0.0.1/32",
    ),
    // With a warning.
    (
        "Relay",
        "routable_private_ranges",
        "no-such-name.invalid",
        "",
    ),
    ("Relay", "dispatchers", "192.0.2.1", "192.0.2.1 25060 False"),
    ("Relay", "dispatchers", "192.0.2.1:5", "192.0.2.1 5 False"),
    (
        "Relay",
        "dispatchers",
        "a.example, b.example:7  c",
        "a.example 25060 True, b.example 7 True, c 25060 True",
    ),
    ("Dispatcher", "listen", "any", "0.0.0.0:25060"),
    ("Dispatcher", "listen", "Any:5", "0.0.0.0:5"),
    ("Dispatcher", "listen", "default", "0.0.0.0:25060"),
    ("Dispatcher", "listen", "localhost", "127.0.0.1:25060"),
    ("Dispatcher", "listen", "localhost:7", "127.0.0.1:7"),
    ("Dispatcher", "listen", "192.0.2.1:9", "192.0.2.1:9"),
    (
        "Dispatcher",
        "listen_management",
        "localhost",
        "127.0.0.1:25061",
    ),
    (
        "Dispatcher",
        "listen_management",
        "127.0.0.1",
        "127.0.0.1:25061",
    ),
    ("Dispatcher", "accounting", "none", ""),
    ("Dispatcher", "accounting", "", ""),
    ("Dispatcher", "accounting", "radius", "radius"),
    ("Relay", "passport", "none", "none"),
    (
        "Relay",
        "passport",
        "O:Example, CN:relay*",
        "O:Example, CN:relay*",
    ),
    ("Relay", "passport", r"O:a\, b,CN:x", r"O:a\, b, CN:x"),
    ("Dispatcher", "passport", "None", "none"),
    ("Dispatcher", "management_passport", "OU:ops", "OU:ops"),
    ("Dispatcher", "socket_path", "/run/x.sock", "/run/x.sock"),
    ("Radius", "config_file", "/etc/r.conf", "/etc/r.conf"),
    ("Radius", "additional_dictionary", "/d", "/d"),
    ("Database", "dburi", "sqlite:///a%%20b", "/a b"),
    ("Database", "sessions_table", "t", "t"),
    ("Database", "callid_column", "c", "c"),
    ("Database", "fromtag_column", "c", "c"),
    ("Database", "totag_column", "c", "c"),
    ("Database", "info_column", "c", "c"),
    ("OpenSIPS", "socket_path", "/s", "/s"),
    ("OpenSIPS", "location_table", "l", "no effect"),
];

/// What MediaProxy takes and we refuse: it starts, and does what nobody means.
const REFUSED: &[(&str, &str, &str)] = &[
    // All streams end at once; every request times out.
    ("Relay", "stream_timeout", "0"),
    ("Relay", "stream_timeout", "-1"),
    ("Dispatcher", "relay_timeout", "0"),
    // No call gets its four ports.
    ("Relay", "port_range", "40000:40002"),
    // 0.0.0.0/8 there.
    ("Relay", "routable_private_ranges", "10/8"),
    // Only the first is recorded to there, or none.
    ("Dispatcher", "accounting", "database, foo"),
    // Bound to an address that the system does not take, and then it ends.
    ("Relay", "relay_ip", "127.1"),
    // What it ignores with a warning.
    ("Dispatcher", "management_use_tls", "y"),
    ("Relay", "stream_timeout", "90.0"),
    ("Relay", "log_level", "WARN"),
    ("Relay", "relay_ip", "localhost"),
    ("Relay", "routable_private_ranges", "10.0.0.0/255.0.0.0"),
    ("Relay", "passport", "X:y"),
];

/// The keys of its configuration classes.
const KEYS: [(&str, &[&str]); 6] = [
    (
        "Dispatcher",
        &[
            "socket_path",
            "listen",
            "listen_management",
            "relay_timeout",
            "relay_recover_interval",
            "cleanup_dead_relays_after",
            "cleanup_expired_sessions_after",
            "management_use_tls",
            "accounting",
            "passport",
            "management_passport",
            "log_level",
        ],
    ),
    (
        "Relay",
        &[
            "relay_ip",
            "advertised_ip",
            "auto_detect_interfaces",
            "stream_timeout",
            "on_hold_timeout",
            "traffic_sampling_period",
            "userspace_transmit_every",
            "dispatchers",
            "port_range",
            "dns_check_interval",
            "keepalive_interval",
            "reconnect_delay",
            "passport",
            "routable_private_ranges",
            "log_level",
        ],
    ),
    ("OpenSIPS", &["socket_path", "location_table"]),
    ("Radius", &["config_file", "additional_dictionary"]),
    (
        "Database",
        &[
            "dburi",
            "sessions_table",
            "callid_column",
            "fromtag_column",
            "totag_column",
            "info_column",
        ],
    ),
    ("TLS", &["certs_path", "verify_interval"]),
];

type Both = (
    Result<Loaded<RelayConfig>, config::ConfigError>,
    Result<Loaded<DispatcherConfig>, config::ConfigError>,
);

fn load(text: &str) -> Both {
    config::read_text(Path::new("/etc/mediaproxy"), text.as_bytes())
}

/// The file with one key, and with what a relay needs besides.
fn with(section: &str, key: &str, spelling: &str) -> Both {
    let mut text = format!("[{section}]\n{key} = {spelling}\n");
    if key != "dispatchers" {
        text.push_str("[Relay]\ndispatchers = a\n");
    }
    load(&text)
}

fn seconds(time: Duration) -> String {
    time.as_secs().to_string()
}

fn boolean(on: bool) -> String {
    let words = ["False", "True"];
    words[usize::from(on)].to_owned()
}

fn or_none<T: ToString>(value: Option<T>) -> String {
    value.map_or("none".to_owned(), |value| value.to_string())
}

fn level(level: LogLevel) -> String {
    format!("{level:?}").to_uppercase()
}

fn of_relay(config: &RelayConfig, key: &str) -> String {
    match key {
        "relay_ip" => or_none(config.relay_ip),
        "advertised_ip" => or_none(config.advertised_ip),
        "auto_detect_interfaces" => boolean(config.auto_detect_interfaces),
        "stream_timeout" => seconds(config.stream_timeout),
        "on_hold_timeout" => seconds(config.on_hold_timeout),
        "traffic_sampling_period" => seconds(config.traffic_sampling_period.unwrap_or_default()),
        "dispatchers" => {
            let shown = config.dispatchers.iter().map(|entry| match &entry.host {
                Host::Address(ip) => format!("{ip} {} False", entry.port),
                Host::Name(name) => format!("{name} {} True", entry.port),
            });
            shown.collect::<Vec<_>>().join(", ")
        }
        "port_range" => format!("{}:{}", config.port_range.start, config.port_range.end),
        "dns_check_interval" => seconds(config.dns_check_interval),
        "keepalive_interval" => seconds(config.keepalive_interval),
        "reconnect_delay" => seconds(config.reconnect_delay),
        "passport" => or_none(config.passport.as_ref()),
        "routable_private_ranges" => {
            let ranges = config.routable_private_ranges.iter();
            ranges
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" ")
        }
        "log_level" => level(config.log_level),
        _ => "no effect".to_owned(),
    }
}

fn of_dispatcher(config: &DispatcherConfig, section: &str, key: &str) -> String {
    let path = |path: &Path| path.display().to_string();
    match (section, key) {
        ("TLS", "certs_path") => path(&config.tls.certs_path),
        ("TLS", _) => seconds(config.tls.verify_interval),
        ("Radius", "config_file") => path(&config.radius.config_file),
        ("Radius", _) => path(&config.radius.additional_dictionary),
        ("Database", "dburi") => match &config.database.databases[0] {
            DatabaseUri::Sqlite(file) => path(file),
            DatabaseUri::Server(uri) => uri.database.clone(),
        },
        ("Database", "sessions_table") => config.database.sessions_table.clone(),
        ("Database", "callid_column") => config.database.callid_column.clone(),
        ("Database", "fromtag_column") => config.database.fromtag_column.clone(),
        ("Database", "totag_column") => config.database.totag_column.clone(),
        ("Database", _) => config.database.info_column.clone(),
        ("OpenSIPS", "socket_path") => config.opensips.socket.to_string(),
        ("OpenSIPS", _) => "no effect".to_owned(),
        (_, "socket_path") => path(&config.socket_path),
        (_, "listen") => config.listen.to_string(),
        (_, "listen_management") => config.listen_management.to_string(),
        (_, "relay_timeout") => seconds(config.relay_timeout),
        (_, "relay_recover_interval") => seconds(config.relay_recover_interval),
        (_, "cleanup_dead_relays_after") => seconds(config.cleanup_dead_relays_after),
        (_, "cleanup_expired_sessions_after") => seconds(config.cleanup_expired_sessions_after),
        (_, "management_use_tls") => boolean(config.management_use_tls),
        (_, "accounting") => {
            let names = config.accounting.iter().map(|backend| match backend {
                Backend::File => "file",
                Backend::Database => "database",
                Backend::Radius => "radius",
            });
            names.collect::<Vec<_>>().join(" ")
        }
        (_, "passport") => or_none(config.passport.as_ref()),
        (_, "management_passport") => or_none(config.management_passport.as_ref()),
        (_, key) => {
            assert_eq!(key, "log_level");
            level(config.log_level)
        }
    }
}

#[test]
fn every_spelling_means_what_it_meant() {
    for (section, key, spelling, expected) in SAME {
        let (relay, dispatcher) = with(section, key, spelling);
        let read = match *section {
            "Relay" => relay.map(|loaded| of_relay(&loaded.config, key)),
            _ => dispatcher.map(|loaded| of_dispatcher(&loaded.config, section, key)),
        };
        assert_eq!(
            read.as_deref(),
            Ok(*expected),
            "[{section}] {key} = {spelling}"
        );
    }
}

#[test]
fn every_key_is_tried() {
    for (section, keys) in KEYS {
        for key in keys {
            let tried = SAME.iter().any(|row| (row.0, row.1) == (section, *key));
            assert!(tried, "[{section}] {key}");
        }
    }
}

#[test]
fn what_is_refused_says_what_is_allowed() {
    for (section, key, spelling) in REFUSED {
        let (relay, dispatcher) = with(section, key, spelling);
        let error = match *section {
            "Relay" => relay.map(drop).unwrap_err(),
            _ => dispatcher.map(drop).unwrap_err(),
        };
        let error = error.to_string();
        let told = format!("config.ini:2: [{section}] {key}: read \"{spelling}\"");
        assert!(
            error.contains(&told) && error.contains("; allowed: "),
            "{error}"
        );
    }
}

#[test]
fn a_name_without_an_address_is_a_warning_for_ranges_and_an_error_where_one_listens() {
    let (relay, _) = with(
        "Relay",
        "routable_private_ranges",
        "10.0.0.0/8, gone.invalid",
    );
    let warnings = relay.unwrap().warnings;
    let said = "config.ini:2: [Relay] routable_private_ranges: ignored until the next start: gone.invalid: ";
    assert!(
        warnings.len() == 1 && warnings[0].contains(said),
        "{warnings:?}"
    );
    for key in ["listen", "listen_management", "listen_metrics"] {
        let (_, dispatcher) = with("Dispatcher", key, "gone.invalid");
        let error = dispatcher.unwrap_err().to_string();
        assert!(
            error.contains(&format!("{key}: read \"gone.invalid\"")),
            "{error}"
        );
        assert!(error.contains("; gone.invalid: "), "{error}");
    }
}

/// A whole file each, and the `stream_timeout` that MediaProxy has of it.
#[test]
fn forms_of_the_file() {
    for (text, expected) in [
        ("[Relay]\nstream_timeout: 7", 7),
        ("[Relay]\nstream-timeout = 7", 7),
        ("[Relay]\n  stream_timeout = 7", 7),
        ("[Relay]\nx = 1\n stream_timeout = 7", 90),
        ("[Relay] ; c\nstream_timeout = 7", 7),
        ("[Relay]\r\nstream_timeout = 7\r\n", 7),
        ("[DEFAULT]\nstream_timeout = 7\n[Relay]", 7),
        (
            "[DEFAULT]\nstream_timeout = 7\n[Relay]\nstream_timeout = 8",
            8,
        ),
        ("[Relay]\nx = 7\nstream_timeout = %(x)s", 7),
        ("[DEFAULT]\nx = 7\n[Relay]\nstream_timeout = %(x)s", 7),
        // Not read there: docs/migration.md.
        ("[relay]\nStream_Timeout = 7", 7),
        ("\u{feff}[Relay]\nstream_timeout = 7", 7),
    ] {
        let (relay, _) = load(&format!("{text}\n[Relay]\ndispatchers = a\n"));
        let config = relay.unwrap().config;
        assert_eq!(
            seconds(config.stream_timeout),
            expected.to_string(),
            "{text:?}"
        );
    }
    // No start there either; the last two take the default there, with a warning.
    for text in [
        "stream_timeout = 7\nstream-timeout = 8",
        "bare",
        "stream_timeout = %(x)s",
        "stream_timeout = 7 ; s",
        "stream_timeout = 7 # s",
    ] {
        let (relay, _) = load(&format!("[Relay]\ndispatchers = a\n{text}\n"));
        assert!(relay.is_err(), "{text:?}");
    }
}

#[test]
fn what_is_for_all_sections_is_for_none_in_particular() {
    let (relay, dispatcher) =
        load("[DEFAULT]\nlog_level = DEBUG\nlog_levle = 1\n[Relay]\ndispatchers = a\n");
    let (relay, dispatcher) = (relay.unwrap(), dispatcher.unwrap());
    // A key that others refer to has its use.
    let (named, _) = load(
        "[DEFAULT]\nbase = /srv\n[TLS]\nplace = %(base)s/x\ncerts_path = %(place)s/tls\n[Relay]\ndispatchers = a\n",
    );
    let named = named.unwrap();
    assert_eq!(named.warnings, [""; 0]);
    assert_eq!(named.config.tls.certs_path, Path::new("/srv/x/tls"));
    assert_eq!(relay.config.log_level, LogLevel::Debug);
    assert_eq!(dispatcher.config.log_level, LogLevel::Debug);
    for warnings in [relay.warnings, dispatcher.warnings] {
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].ends_with("[DEFAULT] unknown key \"log_levle\", ignored"));
    }
}

/// What the pages recommend is no warning at each start.
#[test]
fn addresses_that_the_pages_recommend_are_no_warning() {
    let warnings = |lines: &str| {
        load(&format!("[Dispatcher]\n{lines}\n"))
            .1
            .unwrap()
            .warnings
    };
    for quiet in [
        "listen_metrics = 192.0.2.10",
        "listen_metrics = 10.0.0.5",
        "listen_metrics = 127.0.0.1",
        "listen_management = 10.0.0.5\nmanagement_use_tls = no",
        "listen_management = 127.0.0.1\nmanagement_use_tls = no",
        "listen_management = [fd00::5]\nmanagement_use_tls = no",
        "listen_management = 192.0.2.10",
    ] {
        assert_eq!(warnings(quiet), [""; 0], "{quiet}");
    }
    for told in [
        "listen_metrics = any",
        "listen_management = any\nmanagement_use_tls = no",
        "listen_management = 8.8.8.8\nmanagement_use_tls = no",
        "listen_management = [2001:db8::1]\nmanagement_use_tls = no",
    ] {
        assert_eq!(warnings(told).len(), 1, "{told}");
    }
}
