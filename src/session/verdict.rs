//! What becomes of a packet.

use std::net::SocketAddr;

use super::drops::DropReason;

/// What to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketVerdict {
    Forward {
        from_port: u16,
        to: SocketAddr,
    },
    /// Kept until the other party's address is known, or the sender's SDP.
    Queued,
    Drop(DropReason),
}
