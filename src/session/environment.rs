//! What an engine asks of its surroundings while it handles a request or takes over a session.

use std::net::IpAddr;

use super::keys::PortKey;
use crate::counters::Counters;
use crate::moment::Moment;
use crate::proto::SessionId;

/// Ports, addresses and chance.
pub trait Environment {
    /// Binds a pair on an address and returns its RTP port; packets there belong to `port`, those one port
    /// above to its RTCP. None when no pair can be bound.
    fn bind(&mut self, address: IpAddr, port: PortKey) -> Option<u16>;

    /// Binds this very pair, named by its RTP port, which a session that is taken over has had. False where that cannot be.
    fn rebind(&mut self, address: IpAddr, port: u16, place: PortKey) -> bool;

    /// What the process before has counted at this RTP port in user space, where that may be newer than the session's state.
    fn tally(&mut self, port: u16, session: SessionId) -> Option<Tally>;

    /// When the process before was last known to be there.
    fn last_alive(&self) -> Option<Moment> {
        None
    }

    /// The relay's own address towards somebody, or the usual one.
    fn local_address(&mut self, towards: Option<IpAddr>) -> IpAddr;

    /// Bits that nobody can guess.
    fn random(&mut self) -> u128;
}

/// What was counted of one party in user space, and when it was last heard there. It is noted with each batch of packets in
/// memory that outlives the process, so that a session's state need not be saved for packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub user_space: Counters,
    pub last_media: Option<Moment>,
    pub last_rtcp: Option<Moment>,
}
