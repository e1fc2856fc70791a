//! What the relay has to know, taken from its configuration.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::kernel;
use crate::config::{DispatcherEntry, Forwarding, RelayConfig};
use crate::diagnosis::requirements::Wanted;
use crate::session;
use crate::tls::Passport;

/// What the relay has to know; the configuration keys have the same names.
#[derive(Clone, Debug)]
pub struct Settings {
    pub dispatchers: Vec<DispatcherEntry>,
    pub passport: Option<Passport>,
    /// None is the address of the interface with the default route.
    pub relay_ip: Option<Ipv4Addr>,
    pub auto_detect_interfaces: bool,
    /// First port and the end, which is not included; both even.
    pub port_range: (u16, u32),
    pub dns_check_interval: Duration,
    pub keepalive_interval: Duration,
    pub reconnect_delay: Duration,
    /// Zero switches sampling off.
    pub traffic_sampling_period: Duration,
    pub verify_interval: Duration,
    pub forwarding: Forwarding,
    /// The conntrack mark of what the kernel forwards, and its mask.
    pub mark: (u32, u32),
    /// Time limits and addresses of calls; whether the kernel forwards is decided at start.
    pub session: session::Settings,
    /// Where ended calls are kept until they are confirmed; none keeps them in memory.
    pub state_dir: Option<PathBuf>,
    /// Bytes that they may have there.
    pub journal_limit: u64,
    /// Where the state of calls is kept for the process after this one; none keeps none.
    pub runtime_dir: Option<PathBuf>,
    /// How long calls that are handed over wait for it; zero hands nothing over.
    pub adopt_within: Duration,
    /// Threads that relay; none is one for two processors, four at most.
    pub workers: Option<usize>,
}

impl Settings {
    /// The settings of a configuration, and the runtime directory of the command line.
    pub fn new(config: &RelayConfig, runtime_dir: &Path) -> Settings {
        Settings {
            dispatchers: config.dispatchers.clone(),
            passport: config.passport.clone(),
            relay_ip: config.relay_ip,
            auto_detect_interfaces: config.auto_detect_interfaces,
            port_range: (config.port_range.start, config.port_range.end),
            dns_check_interval: config.dns_check_interval,
            keepalive_interval: config.keepalive_interval,
            reconnect_delay: config.reconnect_delay,
            traffic_sampling_period: config.traffic_sampling_period.unwrap_or_default(),
            verify_interval: config.tls.verify_interval,
            forwarding: config.forwarding,
            mark: (config.mark, config.mark_mask),
            session: session::Settings {
                stream_timeout: config.stream_timeout,
                on_hold_timeout: config.on_hold_timeout,
                setup_timeout: config.setup_timeout,
                learning: session::LearningRules {
                    learning: config.learning,
                    wait: config.learning_wait,
                    relearn: config.relearn.then_some(config.relearn_after),
                },
                advertised_ip: config.advertised_ip.map(IpAddr::V4),
                routable_private_ranges: config.routable_private_ranges.clone(),
                kernel: Err("the relay has not started yet".into()),
            },
            state_dir: Some(config.state_dir.clone()),
            journal_limit: config.journal_limit,
            runtime_dir: Some(runtime_dir.to_owned()),
            adopt_within: config.adopt_within,
            workers: None,
        }
    }

    /// What the kernel's part has to know.
    pub fn kernel(&self, relay_ip: Ipv4Addr) -> kernel::Settings {
        kernel::Settings {
            wanted: Wanted {
                relay_ip,
                auto_detect: self.auto_detect_interfaces,
                port_range: self.port_range,
                mark: self.mark.0,
                mark_mask: self.mark.1,
            },
            protect: true,
            shortest_silence: self
                .session
                .stream_timeout
                .min(self.session.on_hold_timeout),
        }
    }
}
