//! Packets and bytes, one type for user space and the kernel.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The headers of a datagram without options, bytes: IPv4 has 20 and IPv6 40, UDP 8.
const IPV4_AND_UDP: u64 = 28;
const IPV6_AND_UDP: u64 = 48;

/// Packets, and bytes with their IP and UDP headers: as on the wire, as the kernel counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    pub packets: u64,
    pub bytes: u64,
}

impl Counters {
    /// One datagram with so many bytes of payload, to or from an address of this family.
    pub fn datagram(payload: usize, address: IpAddr) -> Counters {
        let headers = if address.is_ipv4() {
            IPV4_AND_UDP
        } else {
            IPV6_AND_UDP
        };
        Counters {
            packets: 1,
            bytes: payload as u64 + headers,
        }
    }

    /// Returns the difference to an earlier count, never below zero.
    pub fn since(self, before: Counters) -> Counters {
        Counters {
            packets: self.packets.saturating_sub(before.packets),
            bytes: self.bytes.saturating_sub(before.bytes),
        }
    }

    /// Subtracts what was counted and turned out not to have been relayed.
    pub fn take_back(&mut self, counted: Counters) {
        self.packets = self.packets.saturating_sub(counted.packets);
        self.bytes = self.bytes.saturating_sub(counted.bytes);
    }
}

impl std::ops::Add for Counters {
    type Output = Counters;

    fn add(self, more: Counters) -> Counters {
        Counters {
            packets: self.packets + more.packets,
            bytes: self.bytes + more.bytes,
        }
    }
}

impl std::ops::AddAssign for Counters {
    fn add_assign(&mut self, more: Counters) {
        *self = *self + more;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_on_the_wire() {
        let bytes = |address: &str| Counters::datagram(160, address.parse().unwrap()).bytes;
        assert_eq!((bytes("192.0.2.1"), bytes("2001:db8::1")), (188, 208));
    }
}
