//! Which addresses of an SDP can be sent to before the party has shown where it is.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

/// A range of IPv4 addresses, `192.168.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    network: u32,
    mask: u32,
}

impl Range {
    const fn new(network: [u8; 4], prefix: u32) -> Range {
        let mask = match prefix {
            0 => 0,
            bits => u32::MAX << (32 - bits),
        };
        let network = u32::from_be_bytes(network) & mask;
        Range { network, mask }
    }

    /// That of one host; none for an address of IPv6.
    pub fn of_one(address: IpAddr) -> Option<Range> {
        match address {
            IpAddr::V4(address) => Some(Range::new(address.octets(), 32)),
            IpAddr::V6(_) => None,
        }
    }

    /// Returns true if the address lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => u32::from(address) & self.mask == self.network,
            IpAddr::V6(_) => false,
        }
    }
}

/// Why a text is no range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRange;

impl fmt::Display for BadRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an IPv4 range such as 192.168.0.0/16")
    }
}

impl FromStr for Range {
    type Err = BadRange;

    /// `address/prefix`; an address alone is a range of one.
    fn from_str(text: &str) -> Result<Range, BadRange> {
        let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
        let address: Ipv4Addr = address.parse().map_err(|_| BadRange)?;
        let prefix = prefix.parse().ok().filter(|&bits| bits <= 32);
        Ok(Range::new(address.octets(), prefix.ok_or(BadRange)?))
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}",
            Ipv4Addr::from(self.network),
            self.mask.count_ones()
        )
    }
}

/// The IANA registry of special-purpose addresses (RFC 6890, with the multicast and class E ranges): a packet
/// sent there from a relay reaches nobody, or the wrong host.
const SPECIAL: [Range; 15] = [
    Range::new([0, 0, 0, 0], 8),
    Range::new([10, 0, 0, 0], 8),
    Range::new([100, 64, 0, 0], 10),
    Range::new([127, 0, 0, 0], 8),
    Range::new([169, 254, 0, 0], 16),
    Range::new([172, 16, 0, 0], 12),
    Range::new([192, 0, 0, 0], 24),
    Range::new([192, 0, 2, 0], 24),
    Range::new([192, 88, 99, 0], 24),
    Range::new([192, 168, 0, 0], 16),
    Range::new([198, 18, 0, 0], 15),
    Range::new([198, 51, 100, 0], 24),
    Range::new([203, 0, 113, 0], 24),
    Range::new([224, 0, 0, 0], 4),
    Range::new([240, 0, 0, 0], 4),
];

/// Returns true if media may be sent to an address only because an SDP names it. `allowed` are the private ranges
/// that this relay reaches (`routable_private_ranges`). No range allows what is nobody's address: 0.0.0.0 is hold in an
/// SDP, and the kernel sends it to this host.
pub fn is_routable(address: IpAddr, allowed: &[Range]) -> bool {
    let is_nobodys = match address {
        IpAddr::V4(address) => {
            address.is_unspecified() || address.is_multicast() || address.is_broadcast()
        }
        // Not relayed.
        IpAddr::V6(_) => true,
    };
    if is_nobodys {
        return false;
    }
    let special = SPECIAL.iter().any(|range| range.contains(address));
    !special || allowed.iter().any(|range| range.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m1_special_ranges_are_not_sent_to() {
        let special = [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.1.1",
            "172.31.255.255",
            "192.168.1.1",
            "198.19.0.1",
            "224.0.0.1",
            "239.1.1.1",
            "255.255.255.255",
        ];
        for text in special {
            assert!(!is_routable(text.parse().unwrap(), &[]), "{text}");
        }
        for text in [
            "8.8.8.8",
            "100.128.0.1",
            "172.32.0.1",
            "192.167.1.1",
            "11.0.0.1",
        ] {
            assert!(is_routable(text.parse().unwrap(), &[]), "{text}");
        }
    }

    #[test]
    fn m1_but_to_private_ranges_that_are_allowed() {
        let allowed = [
            "10.11.0.0/16".parse().unwrap(),
            "127.0.0.1".parse().unwrap(),
        ];
        assert!(is_routable("10.11.3.4".parse().unwrap(), &allowed));
        assert!(is_routable("127.0.0.1".parse().unwrap(), &allowed));
        assert!(!is_routable("10.12.3.4".parse().unwrap(), &allowed));
        assert!(!is_routable("127.0.0.2".parse().unwrap(), &allowed));
    }

    #[test]
    fn m1_no_range_allows_what_is_no_hosts_address() {
        let any = ["0.0.0.0/0".parse().unwrap()];
        for (text, expected) in [
            ("192.168.1.1", true),
            ("8.8.8.8", true),
            ("0.0.0.0", false),
            ("239.1.1.1", false),
            ("255.255.255.255", false),
        ] {
            assert_eq!(is_routable(text.parse().unwrap(), &any), expected, "{text}");
        }
    }

    #[test]
    fn ranges_are_read_and_shown() {
        let range: Range = "192.168.77.1/16".parse().unwrap();
        assert_eq!(range.to_string(), "192.168.0.0/16");
        assert!(
            "0.0.0.0/0"
                .parse::<Range>()
                .unwrap()
                .contains([9, 9, 9, 9].into())
        );
        for text in [
            "",
            "10.0.0.0/33",
            "10.0.0/8",
            "10.0.0.0/",
            "10.0.0.0/-1",
            "::/0",
        ] {
            assert_eq!(text.parse::<Range>(), Err(BadRange), "{text}");
        }
    }
}
