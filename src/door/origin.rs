//! Where a connection comes from. Pure.

use std::net::{IpAddr, Ipv6Addr};

/// Where a connection comes from: what one stranger can have many of counts as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// An IPv4 address, or the first address of an IPv6 /64.
    Address(IpAddr),
    /// A user of this host.
    User(u32),
}

impl Origin {
    /// Of an address as an IPv4 or an IPv6 socket tells it.
    pub fn of(address: IpAddr) -> Origin {
        Origin::Address(match address.to_canonical() {
            IpAddr::V6(address) => {
                Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
            }
            address => address,
        })
    }
}
