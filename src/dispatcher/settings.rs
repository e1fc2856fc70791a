//! What the dispatcher has to know, taken from its configuration and from where it runs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::registry::Limits;
use crate::config::{DispatcherConfig, ManagementFormat};
use crate::tls::Passport;

/// The management socket's file in the runtime directory.
const MANAGEMENT_SOCKET: &str = "management.sock";

/// A group for the sockets' files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its number.
    pub id: u32,
    /// Without the right to give files to it the daemon does not start; else it warns.
    pub is_required: bool,
}

/// The configuration keys have the same names.
#[derive(Clone, Debug)]
pub struct Settings {
    pub socket_path: PathBuf,
    pub socket_mode: u32,
    /// Group of both sockets' files; none leaves them the daemon's own.
    pub socket_group: Option<Group>,
    /// The management port's UNIX socket.
    pub management_path: PathBuf,
    /// What must survive a restart.
    pub state_dir: PathBuf,
    pub listen: SocketAddr,
    pub listen_management: SocketAddr,
    pub management_use_tls: bool,
    pub management_format: ManagementFormat,
    pub passport: Option<Passport>,
    pub management_passport: Option<Passport>,
    pub relay_timeout: Duration,
    pub relay_retry: Duration,
    pub relay_recover_interval: Duration,
    pub cleanup_dead_relays_after: Duration,
    pub cleanup_expired_sessions_after: Duration,
    pub verify_interval: Duration,
    /// Of unanswered calls.
    pub limits: Limits,
}

impl Settings {
    /// The settings of a daemon that keeps its sockets in this directory, for this group.
    pub fn new(config: &DispatcherConfig, runtime_dir: &Path, socket_group: Option<Group>) -> Self {
        Settings {
            socket_path: runtime_dir.join(&config.socket_path),
            socket_mode: config.socket_mode,
            socket_group,
            management_path: runtime_dir.join(MANAGEMENT_SOCKET),
            state_dir: config.state_dir.clone(),
            listen: config.listen,
            listen_management: config.listen_management,
            management_use_tls: config.management_use_tls,
            management_format: config.management_format,
            passport: config.passport.clone(),
            management_passport: config.management_passport.clone(),
            relay_timeout: config.relay_timeout,
            relay_retry: config.relay_retry,
            relay_recover_interval: config.relay_recover_interval,
            cleanup_dead_relays_after: config.cleanup_dead_relays_after,
            cleanup_expired_sessions_after: config.cleanup_expired_sessions_after,
            verify_interval: config.tls.verify_interval,
            limits: Limits {
                max_unanswered_per_address: config.max_unanswered_per_address,
                max_unanswered_per_user: config.max_unanswered_per_user,
            },
        }
    }
}
