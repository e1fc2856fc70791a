//! What an engine asks of its surroundings while it handles a request.

use std::net::IpAddr;

use super::keys::PortKey;

/// Ports, addresses and chance.
pub trait Environment {
    /// Binds a pair on an address and returns its RTP port; packets there belong to `port`, those one port
    /// above to its RTCP. None when no pair can be bound.
    fn bind(&mut self, address: IpAddr, port: PortKey) -> Option<u16>;

    /// The relay's own address towards somebody, or the usual one.
    fn local_address(&mut self, towards: Option<IpAddr>) -> IpAddr;

    /// Bits that nobody can guess.
    fn random(&mut self) -> u128;
}
