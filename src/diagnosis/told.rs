//! Whether parties can reach the address that they are told: in a cloud a host has a private one, and its public one is
//! the cloud's.

use std::net::{IpAddr, Ipv4Addr};

use super::{Finding, Need, Verdict};
use crate::config::RelayConfig;
use crate::sys::route;

/// How far an address is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Realm {
    Host,
    /// One of the networks of RFC 1918, RFC 6598 and RFC 3927, by its first bytes.
    Private(u8, u8),
    World,
}

fn realm(address: Ipv4Addr) -> Realm {
    match address.octets() {
        [127, ..] => Realm::Host,
        [10, ..] => Realm::Private(10, 0),
        [172, 16..=31, ..] => Realm::Private(172, 16),
        [192, 168, ..] => Realm::Private(192, 168),
        [100, 64..=127, ..] => Realm::Private(100, 64),
        [169, 254, ..] => Realm::Private(169, 254),
        _ => Realm::World,
    }
}

/// What is wrong where parties are told this address and one of their dispatchers is there; none where nothing seems to
/// be. A phone is hardly nearer than its dispatcher.
pub fn out_of_reach(told: Ipv4Addr, dispatcher: IpAddr) -> Option<String> {
    let theirs = match dispatcher.to_canonical() {
        IpAddr::V4(address) => realm(address),
        // Of IPv6 only what is known everywhere tells something (RFC 4291).
        IpAddr::V6(address) if address.segments()[0] & 0xe000 == 0x2000 => Realm::World,
        IpAddr::V6(_) => return None,
    };
    match realm(told) {
        Realm::World => None,
        Realm::Host if theirs == Realm::Host => None,
        Realm::Host => Some(format!(
            "parties are told {told}, which nobody but this host reaches, and dispatcher {dispatcher} is elsewhere, so that \
             calls have no sound: set [Relay] relay_ip to this host's address (ip -4 address), or leave it out"
        )),
        // What this host's own dispatcher serves is not known.
        own if theirs == own || theirs == Realm::Host => None,
        Realm::Private(..) => Some(format!(
            "parties are told {told}, which is private, and dispatcher {dispatcher} is not in that network: who is outside \
             of it hears nothing: set [Relay] advertised_ip to the public address that leads here (in a cloud, the \
             instance's), or to {told} where all parties are inside; without auto_detect_interfaces"
        )),
    }
}

/// The address that parties on the side of a dispatcher are told; none where the administrator has said which.
pub fn told(
    relay_ip: Ipv4Addr,
    advertised_ip: Option<Ipv4Addr>,
    auto_detect: bool,
    dispatcher: IpAddr,
) -> Option<Ipv4Addr> {
    match (advertised_ip, auto_detect, dispatcher.to_canonical()) {
        (Some(_), ..) => None,
        (None, true, IpAddr::V4(dispatcher)) => {
            Some(route::source_towards(dispatcher).unwrap_or(relay_ip))
        }
        (None, ..) => Some(relay_ip),
    }
}

/// The first dispatcher whose side would not reach the relay.
pub fn judge(
    config: &RelayConfig,
    relay_ip: Ipv4Addr,
    mut dispatchers: impl Iterator<Item = IpAddr>,
) -> Option<Finding> {
    let text = dispatchers.find_map(|dispatcher| {
        let told = told(
            relay_ip,
            config.advertised_ip,
            config.auto_detect_interfaces,
            dispatcher,
        );
        out_of_reach(told?, dispatcher)
    })?;
    Some(Finding::new(
        Need::Relay,
        "relay_ip",
        Verdict::Problem,
        text,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_address_is_no_good_for_a_dispatcher_outside() {
        let bad = |told: &str, dispatcher: &str| {
            out_of_reach(told.parse().unwrap(), dispatcher.parse().unwrap())
        };
        for (told, dispatcher) in [
            ("10.0.0.5", "203.0.113.9"),
            ("192.168.1.5", "10.0.0.1"),
            ("172.31.0.5", "172.32.0.1"),
            ("100.64.0.1", "8.8.8.8"),
            ("10.0.0.5", "2001:db8::1"),
            ("10.0.0.5", "::ffff:203.0.113.9"),
        ] {
            let text = bad(told, dispatcher).expect(told);
            assert!(text.contains("set [Relay] advertised_ip"), "{text}");
        }
        for dispatcher in ["203.0.113.9", "192.168.1.1", "10.0.0.1"] {
            let text = bad("127.0.0.1", dispatcher).unwrap();
            assert!(text.contains("set [Relay] relay_ip"), "{text}");
        }
        for (told, dispatcher) in [
            ("127.0.0.1", "127.0.0.2"),
            ("10.0.0.5", "10.200.0.1"),
            ("172.16.0.5", "172.31.0.1"),
            ("192.168.1.5", "127.0.0.1"),
            ("198.51.100.5", "10.0.0.1"),
            ("198.51.100.5", "203.0.113.9"),
            ("10.0.0.5", "fd00::1"),
        ] {
            assert_eq!(bad(told, dispatcher), None, "{told} {dispatcher}");
        }
    }

    #[test]
    fn what_the_administrator_has_said_is_right() {
        let [private, public] =
            ["10.0.0.5", "203.0.113.9"].map(|ip| ip.parse::<Ipv4Addr>().unwrap());
        let outside = IpAddr::V4(public);
        assert_eq!(told(private, None, false, outside), Some(private));
        assert_eq!(told(private, Some(public), false, outside), None);
        assert_eq!(told(private, Some(private), false, outside), None);
        let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert_eq!(told(private, None, true, here), Some(Ipv4Addr::LOCALHOST));
    }
}
