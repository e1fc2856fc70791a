//! `[Relay]`: the relay's settings and the rules between them.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::shared::{self, TlsSection};
use super::values::{self, DispatcherEntry, Forwarding, LogLevel, PortRange, RELAY_METRICS_PORT};
use super::{Problem, Source, names};
use crate::session::Learning;
use crate::session::address::Range;
use crate::tls::Passport;

/// What the relay reads. What each setting means to the administrator is in [`super::KEYS`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayConfig {
    /// At least one, each once.
    pub dispatchers: Vec<DispatcherEntry>,
    /// None: the address of the interface that has the default route, for the relay to find.
    pub relay_ip: Option<Ipv4Addr>,
    /// Goes into SDP instead; never together with `auto_detect_interfaces`.
    pub advertised_ip: Option<Ipv4Addr>,
    pub auto_detect_interfaces: bool,
    pub port_range: PortRange,
    pub stream_timeout: Duration,
    pub on_hold_timeout: Duration,
    pub setup_timeout: Duration,
    pub learning: Learning,
    pub learning_wait: Duration,
    pub relearn: bool,
    pub relearn_after: Duration,
    pub routable_private_ranges: Vec<Range>,
    pub forwarding: Forwarding,
    /// Conntrack mark, within `mark_mask`.
    pub mark: u32,
    pub mark_mask: u32,
    /// What a dispatcher's subject must be.
    pub passport: Option<Passport>,
    pub dns_check_interval: Duration,
    pub keepalive_interval: Duration,
    pub reconnect_delay: Duration,
    /// None: no sampling.
    pub traffic_sampling_period: Option<Duration>,
    /// Zero: a relay hands nothing over.
    pub adopt_within: Duration,
    pub state_dir: PathBuf,
    /// Bytes.
    pub journal_limit: u64,
    /// For Prometheus; none: nowhere.
    pub listen_metrics: Option<SocketAddr>,
    pub log_level: LogLevel,
    pub tls: TlsSection,
}

pub(super) fn read(source: &mut Source) -> Option<RelayConfig> {
    let tls = shared::tls(source);
    let (dir, look_up) = (source.dir, source.look_up);
    let mut section = source.section("Relay");
    let dispatchers = section.value("dispatchers", values::dispatchers);
    let relay_ip = section.optional("relay_ip", values::ipv4);
    let advertised_ip = section.optional("advertised_ip", values::ipv4);
    let auto_detect_interfaces = section.value("auto_detect_interfaces", values::boolean);
    let port_range = section.value("port_range", values::port_range);
    let stream_timeout = section.value("stream_timeout", values::seconds(1));
    let on_hold_timeout = section.value("on_hold_timeout", values::seconds(1));
    let setup_timeout = section.value("setup_timeout", values::seconds(1));
    let learning = section.value("learning", values::learning);
    let learning_wait = section.value("learning_wait", values::decimal_seconds);
    let relearn = section.value("relearn", values::boolean);
    let relearn_after = section.value("relearn_after", values::decimal_seconds);
    let routable_private_ranges = section.value("routable_private_ranges", names::ranges(look_up));
    let forwarding = section.value("forwarding", values::forwarding);
    let mark = section.value("mark", values::mark);
    let mark_mask = section.value("mark_mask", values::mark);
    let passport = section.value("passport", values::passport);
    let dns_check_interval = section.value("dns_check_interval", values::seconds(1));
    let keepalive_interval = section.value("keepalive_interval", values::seconds(1));
    let reconnect_delay = section.value("reconnect_delay", values::seconds(1));
    let traffic_sampling_period = section.value("traffic_sampling_period", values::period);
    let adopt_within = section.value("adopt_within", values::seconds(0));
    let state_dir = section.value("state_dir", values::path(dir));
    let journal_limit = section.value("journal_limit", values::mebibytes);
    let listen_metrics =
        section.optional("listen_metrics", names::listen(look_up, RELAY_METRICS_PORT));
    let log_level = section.value("log_level", values::log_level);

    if matches!(
        (advertised_ip, auto_detect_interfaces),
        (Some(Some(_)), Some(true))
    ) {
        section.conflict(
            "advertised_ip",
            "set together with auto_detect_interfaces = yes; allowed: one of the two",
        );
    }
    if let (Some(mark), Some(mask)) = (mark, mark_mask) {
        if mark & !mask != 0 {
            let text = format!(
                "{mark:#x} has bits outside of mark_mask {mask:#x}; allowed: a mark within the mask"
            );
            section.conflict("mark", &text);
        }
    }
    let (routable_private_ranges, unknown_names) = routable_private_ranges?;
    let config = RelayConfig {
        dispatchers: dispatchers?,
        relay_ip: relay_ip?,
        advertised_ip: advertised_ip?,
        auto_detect_interfaces: auto_detect_interfaces?,
        port_range: port_range?,
        stream_timeout: stream_timeout?,
        on_hold_timeout: on_hold_timeout?,
        setup_timeout: setup_timeout?,
        learning: learning?,
        learning_wait: learning_wait?,
        relearn: relearn?,
        relearn_after: relearn_after?,
        routable_private_ranges,
        forwarding: forwarding?,
        mark: mark?,
        mark_mask: mark_mask?,
        passport: passport?,
        dns_check_interval: dns_check_interval?,
        keepalive_interval: keepalive_interval?,
        reconnect_delay: reconnect_delay?,
        traffic_sampling_period: traffic_sampling_period?,
        adopt_within: adopt_within?,
        state_dir: state_dir?,
        journal_limit: journal_limit?,
        listen_metrics: listen_metrics?,
        log_level: log_level?,
        tls: tls?,
    };
    let lines = [
        "on_hold_timeout",
        "routable_private_ranges",
        "listen_metrics",
    ];
    let [on_hold_line, ranges_line, metrics_line] = lines.map(|name| section.line(name));
    warn_of_short_hold(&config, on_hold_line, source.warnings);
    source
        .warnings
        .extend(unknown_names.into_iter().map(|name| {
            let text =
                format!("[Relay] routable_private_ranges: ignored until the next start: {name}");
            Problem::new(ranges_line, text)
        }));
    let exposed = shared::exposed_metrics("Relay", config.listen_metrics, metrics_line);
    source.warnings.extend(exposed);
    Some(config)
}

fn warn_of_short_hold(config: &RelayConfig, line: Option<usize>, warnings: &mut Vec<Problem>) {
    if config.on_hold_timeout < config.stream_timeout {
        let text = format!(
            "[Relay] on_hold_timeout: {} seconds are less than stream_timeout, {} seconds: calls on hold end \
             sooner than others",
            config.on_hold_timeout.as_secs(),
            config.stream_timeout.as_secs()
        );
        warnings.push(Problem::new(line, text));
    }
}
