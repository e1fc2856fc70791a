//! `[Dispatcher]`: the dispatcher's settings and the rules between them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::shared::{
    self, DatabaseSection, FileSection, KamailioSection, OpenSipsSection, RadiusSection, TlsSection,
};
use super::values::{
    self, Backend, DISPATCHER_METRICS_PORT, LogLevel, MANAGEMENT_PORT, ManagementFormat,
    RELAY_LINK_PORT, SocketGroup,
};
use super::{Problem, Source, names};
use crate::tls::Passport;

/// What the dispatcher reads. What each setting means to the administrator is in [`super::KEYS`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DispatcherConfig {
    /// As written: to be joined to the runtime directory.
    pub socket_path: PathBuf,
    /// Permission bits.
    pub socket_mode: u32,
    pub socket_group: SocketGroup,
    /// For relays.
    pub listen: SocketAddr,
    pub listen_management: SocketAddr,
    pub management_use_tls: bool,
    pub management_format: ManagementFormat,
    /// For Prometheus; none: nowhere.
    pub listen_metrics: Option<SocketAddr>,
    /// What a relay's subject must be.
    pub passport: Option<Passport>,
    /// What a management client's subject must be.
    pub management_passport: Option<Passport>,
    pub relay_timeout: Duration,
    pub relay_retry: Duration,
    pub relay_recover_interval: Duration,
    pub cleanup_dead_relays_after: Duration,
    pub cleanup_expired_sessions_after: Duration,
    /// 0 is any number.
    pub max_unanswered_per_address: u32,
    pub max_unanswered_per_user: u32,
    /// Each once.
    pub accounting: Vec<Backend>,
    pub state_dir: PathBuf,
    /// Bytes.
    pub journal_limit: u64,
    pub log_level: LogLevel,
    pub tls: TlsSection,
    pub database: DatabaseSection,
    pub radius: RadiusSection,
    pub opensips: OpenSipsSection,
    pub kamailio: KamailioSection,
    pub file: FileSection,
}

pub(super) fn read(source: &mut Source) -> Option<DispatcherConfig> {
    let tls = shared::tls(source);
    let database = shared::database(source);
    let radius = shared::radius(source);
    let opensips = shared::opensips(source);
    let kamailio = shared::kamailio(source);
    let file = shared::file(source);
    let (dir, look_up) = (source.dir, source.look_up);
    let mut section = source.section("Dispatcher");
    let socket_path = section.value("socket_path", values::path(Path::new("")));
    let socket_mode = section.value("socket_mode", values::mode);
    let socket_group = section.value("socket_group", values::group);
    let listen = section.value("listen", names::listen(look_up, RELAY_LINK_PORT));
    let listen_management =
        section.value("listen_management", names::listen(look_up, MANAGEMENT_PORT));
    let management_use_tls = section.value("management_use_tls", values::boolean);
    let management_format = section.value("management_format", values::management_format);
    let listen_metrics = section.optional(
        "listen_metrics",
        names::listen(look_up, DISPATCHER_METRICS_PORT),
    );
    let passport = section.value("passport", values::passport);
    let management_passport = section.value("management_passport", values::passport);
    let relay_timeout = section.value("relay_timeout", values::decimal_seconds);
    let relay_retry = section.value("relay_retry", values::decimal_seconds);
    let relay_recover_interval = section.value("relay_recover_interval", values::seconds(0));
    let cleanup_dead_relays_after = section.value("cleanup_dead_relays_after", values::seconds(0));
    let cleanup_expired_sessions_after =
        section.value("cleanup_expired_sessions_after", values::seconds(0));
    let max_unanswered_per_address = section.value("max_unanswered_per_address", values::count);
    let max_unanswered_per_user = section.value("max_unanswered_per_user", values::count);
    let accounting = section.value("accounting", values::backends);
    let state_dir = section.value("state_dir", values::path(dir));
    let journal_limit = section.value("journal_limit", values::mebibytes);
    let log_level = section.value("log_level", values::log_level);

    let needs_uri = accounting
        .as_ref()
        .is_some_and(|a| a.contains(&Backend::Database));
    if needs_uri
        && database
            .as_ref()
            .is_some_and(|database| database.databases.is_empty())
    {
        section.conflict(
            "accounting",
            "names database, and [Database] dburi is not set; allowed: both or neither",
        );
    }
    if let (Some(relays), Some(management)) = (listen, listen_management) {
        if overlap(relays, management) {
            let text = format!("{management} is taken by listen; allowed: another port");
            section.conflict("listen_management", &text);
        }
    }
    for (key, taken) in [("listen", listen), ("listen_management", listen_management)] {
        if let (Some(Some(metrics)), Some(taken)) = (listen_metrics, taken) {
            if overlap(taken, metrics) {
                let text = format!("{metrics} is taken by {key}; allowed: another port");
                section.conflict("listen_metrics", &text);
            }
        }
    }
    let config = DispatcherConfig {
        socket_path: socket_path?,
        socket_mode: socket_mode?,
        socket_group: socket_group?,
        listen: listen?,
        listen_management: listen_management?,
        management_use_tls: management_use_tls?,
        management_format: management_format?,
        listen_metrics: listen_metrics?,
        passport: passport?,
        management_passport: management_passport?,
        relay_timeout: relay_timeout?,
        relay_retry: relay_retry?,
        relay_recover_interval: relay_recover_interval?,
        cleanup_dead_relays_after: cleanup_dead_relays_after?,
        cleanup_expired_sessions_after: cleanup_expired_sessions_after?,
        max_unanswered_per_address: max_unanswered_per_address?,
        max_unanswered_per_user: max_unanswered_per_user?,
        accounting: accounting?,
        state_dir: state_dir?,
        journal_limit: journal_limit?,
        log_level: log_level?,
        tls: tls?,
        database: database?,
        radius: radius?,
        opensips: opensips?,
        kamailio: kamailio?,
        file: file?,
    };
    let lines = ["management_use_tls", "relay_retry", "listen_metrics"];
    let [use_tls_line, retry_line, metrics_line] = lines.map(|name| section.line(name));
    warn(&config, [use_tls_line, retry_line], source.warnings);
    let exposed = shared::exposed_metrics("Dispatcher", config.listen_metrics, metrics_line);
    source.warnings.extend(exposed);
    Some(config)
}

fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let (a, b) = (one.ip(), other.ip());
    one.port() == other.port() && (a == b || a.is_unspecified() || b.is_unspecified())
}

fn warn(config: &DispatcherConfig, lines: [Option<usize>; 2], warnings: &mut Vec<Problem>) {
    let [use_tls_line, retry_line] = lines;
    if !config.management_use_tls && shared::is_public(config.listen_management.ip()) {
        let text = format!(
            "[Dispatcher] management_use_tls: no, and {} is no private address: whoever reaches that port \
             sees and ends all calls",
            config.listen_management
        );
        warnings.push(Problem::new(use_tls_line, text));
    }
    if config.relay_retry >= config.relay_timeout {
        let text = "[Dispatcher] relay_retry: not below relay_timeout: a call whose relay is silent gets no \
                    other one";
        warnings.push(Problem::new(retry_line, text));
    }
}
