//! The answer to `summary` (docs/protocol.md section 5).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::Ordering;

use serde::Serialize;

use super::shared::Shared;
use super::summing::Share;
use crate::session::Dropped;
use crate::sys::clock;

/// The summary object (docs/protocol.md section 5).
#[derive(Debug, Serialize)]
struct Summary {
    ip: IpAddr,
    /// Ours: as in `hello`.
    name: String,
    version: &'static str,
    status: &'static str,
    /// Seconds.
    uptime: u64,
    session_count: usize,
    stream_count: BTreeMap<String, usize>,
    /// Ours, the three: see [`super::shared_ports::Room`].
    streams_left: usize,
    streams_fit: usize,
    refused_for_ports: u64,
    /// Bits a second over the last sampling period.
    bps_relayed: u64,
    /// Ours, both: see [`Share`].
    unsent_packets: u64,
    dropped_packets: Dropped,
}

/// The answer to `summary`, where all workers together have this.
pub(super) fn write(shared: &Shared, share: Share) -> Vec<u8> {
    let is_draining = shared.draining.load(Ordering::Relaxed);
    let now = clock::moment();
    let room = shared.ports.room(now);
    let summary = Summary {
        ip: shared.identity.relay_ip,
        name: shared.identity.name().to_owned(),
        version: env!("CARGO_PKG_VERSION"),
        status: if is_draining { "halting" } else { "active" },
        uptime: now.since(shared.started).as_secs(),
        session_count: share.sessions,
        stream_count: share.streams,
        streams_left: room.left,
        streams_fit: room.all,
        refused_for_ports: room.refused,
        bps_relayed: shared.bps.load(Ordering::Relaxed),
        unsent_packets: share.unsent,
        dropped_packets: share.dropped,
    };
    // It holds nothing that JSON cannot say.
    serde_json::to_vec(&summary).unwrap_or_else(|_| b"error".to_vec())
}
