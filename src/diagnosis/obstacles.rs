//! What of the relay's host may stand in the way of a call's media: chains that drop what comes in, routes, next hops
//! that do not answer, links that are too narrow. Looked at when somebody asks for a call (docs/protocol.md section 9).

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};

use serde_json::{Map, Value, json};

use super::barrier::{Protocol, barriers};
use super::stuck_flow::{self, Stuck};
use crate::sys::route;

/// Of the calling thread's network namespace.
const ROUTES: &str = "/proc/thread-self/net/route";
const NEIGHBOURS: &str = "/proc/thread-self/net/arp";

/// Parties of a call that are looked at.
const MOST: usize = 16;

/// What is found for all calls alike. Takes a few milliseconds.
pub struct Obstacles {
    input: Value,
    routes: Vec<Route>,
    neighbours: Vec<Neighbour>,
    mark: (u32, u32),
}

impl Obstacles {
    /// `ports` are the relay's, the end not included; `mark` is that of its conntrack entries, with its mask.
    pub fn look((first, end): (u16, u32), mark: (u32, u32)) -> Obstacles {
        let last = u16::try_from(end.saturating_sub(1)).unwrap_or(u16::MAX);
        let barriers = barriers(Protocol::Udp, (first, last)).unwrap_or_default();
        let input = barriers
            .iter()
            .map(|barrier| json!({"refusal": barrier.describe(), "opening": barrier.opening()}));
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Obstacles {
            input: input.collect(),
            routes: routes(&read(ROUTES)),
            neighbours: neighbours(&read(NEIGHBOURS)),
            mark,
        }
    }

    /// Adds to each session of an answer to `explain` what there is for its parties, as `host`.
    pub fn add_to(&self, sessions: &mut [Map<String, Value>]) {
        for session in sessions {
            let streams = session.get("streams").and_then(Value::as_array);
            let streams = streams.map(Vec::as_slice).unwrap_or_default();
            let mut parties: Vec<Ipv4Addr> = streams.iter().flat_map(addresses).collect();
            parties.sort_unstable();
            parties.dedup();
            parties.truncate(MOST);
            let routes: Vec<Value> = parties.into_iter().map(|to| self.way_to(to)).collect();
            let stuck = streams.iter().find_map(stuck);
            let kernel = stuck.map(|stuck| {
                let (mark, mask) = self.mark;
                stuck_flow::explain(&stuck, mark, mask)
            });
            let host = json!({"input": self.input, "routes": routes, "kernel": kernel});
            session.insert("host".to_owned(), host);
        }
    }

    fn way_to(&self, to: Ipv4Addr) -> Value {
        let (mtu, error) = match route::mtu_towards(to) {
            Ok(mtu) => (Some(mtu), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let next_hop = next_hop(&self.routes, to);
        let mut known = self.neighbours.iter();
        let silent = known.any(|one| Some(one.address) == next_hop && !one.is_complete);
        json!({"to": to, "mtu": mtu, "error": error, "next_hop": next_hop, "next_hop_silent": silent})
    }
}

/// Where a stream's parties are, by their SDP or by what was learned.
fn addresses(stream: &Value) -> Vec<Ipv4Addr> {
    let texts = ["caller_sdp", "callee_sdp", "caller_remote", "callee_remote"];
    let texts = texts
        .into_iter()
        .filter_map(|key| stream.get(key)?.as_str());
    let found = texts.filter_map(|text| text.parse::<SocketAddrV4>().ok());
    found.map(|address| *address.ip()).collect()
}

/// The flow of a stream's RTP, where it entered the kernel and did not leave.
fn stuck(stream: &Value) -> Option<Stuck> {
    let rtp = stream.get("rtp")?;
    let why = rtp.get("why")?.as_str()?;
    if !why.contains("not leave") {
        return None;
    }
    let address = |value: Option<&Value>| value?.as_str()?.parse::<SocketAddrV4>().ok();
    let learned = |party: &str| address(rtp.get(party)?.get("address"));
    Some(Stuck {
        from: learned("caller")?,
        local: address(stream.get("caller_local"))?,
        to: learned("callee")?,
        reached_forward: None,
    })
}

/// A line of the main routing table.
#[derive(Debug, PartialEq, Eq)]
struct Route {
    network: u32,
    mask: u32,
    gateway: Option<Ipv4Addr>,
}

/// Of /proc/net/route: interface, destination, gateway, flags, .., mask; addresses as the processor has them.
fn routes(table: &str) -> Vec<Route> {
    let route = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let address = |index: usize| {
            let number = u32::from_str_radix(words.get(index)?, 16).ok()?;
            Some(u32::from_be_bytes(number.to_ne_bytes()))
        };
        let gateway = Ipv4Addr::from(address(2)?);
        Some(Route {
            network: address(1)?,
            mask: address(7)?,
            gateway: (!gateway.is_unspecified()).then_some(gateway),
        })
    };
    table.lines().skip(1).filter_map(route).collect()
}

/// Who gets a packet first on its way; none where no route of the main table leads there.
fn next_hop(routes: &[Route], to: Ipv4Addr) -> Option<Ipv4Addr> {
    let leads = |route: &&Route| u32::from(to) & route.mask == route.network;
    let best = routes.iter().filter(leads).max_by_key(|route| route.mask)?;
    Some(best.gateway.unwrap_or(to))
}

/// Somebody on the same link.
#[derive(Debug, PartialEq, Eq)]
struct Neighbour {
    address: Ipv4Addr,
    /// It has answered.
    is_complete: bool,
}

/// Of /proc/net/arp: address, type, flags, hardware address, mask, interface.
fn neighbours(table: &str) -> Vec<Neighbour> {
    let neighbour = |line: &str| {
        let mut words = line.split_whitespace();
        Some(Neighbour {
            address: words.next()?.parse().ok()?,
            is_complete: words.nth(1)? != "0x0",
        })
    };
    table.lines().skip(1).filter_map(neighbour).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::testing::{in_namespace, shell};

    const TABLE: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
        eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        eth0\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";

    #[test]
    fn the_next_hop_is_the_gateway_or_the_party() {
        let routes = routes(TABLE);
        assert_eq!(routes.len(), 2);
        let hop = |to: [u8; 4]| next_hop(&routes, to.into());
        assert_eq!(hop([8, 8, 8, 8]), Some([10, 0, 0, 1].into()));
        assert_eq!(hop([10, 0, 0, 7]), Some([10, 0, 0, 7].into()));
        assert_eq!(next_hop(&routes[1..], [8, 8, 8, 8].into()), None);
    }

    #[test]
    fn neighbours_that_do_not_answer_are_told_from_others() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
            10.0.0.1         0x1         0x2         02:00:00:00:00:01     *        eth0\n\
            10.0.0.9         0x1         0x0         00:00:00:00:00:00     *        eth0\n\nodd\n";
        let neighbours = neighbours(table);
        let silent: Vec<bool> = neighbours.iter().map(|one| !one.is_complete).collect();
        assert_eq!(silent, [false, true]);
    }

    #[test]
    fn a_host_with_a_closed_input_chain_and_a_dead_gateway() {
        in_namespace("what stands in the way of media", || {
            shell(
                "ip link set lo up; ip link add v0 mtu 1400 type veth peer name v1; ip link set v0 up
                 ip link set v1 up; ip addr add 192.0.2.1/24 dev v0; ip route add default via 192.0.2.9
                 nft add table inet f
                 nft add chain inet f in '{ type filter hook input priority 0; policy drop; }'",
            );
            // Somebody sends to the gateway, which does not answer.
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.send_to(b"x", "8.8.8.8:9").unwrap();
            let found = Obstacles::look((40_000, 40_100), (1, 1));
            let session = json!({"streams": [{"caller_sdp": "8.8.8.8:4000", "callee_sdp": "Unknown",
                "callee_remote": "192.0.2.7:5000"}, 7]});
            let mut sessions = vec![session.as_object().unwrap().clone()];
            found.add_to(&mut sessions);
            let host = &sessions[0]["host"];
            let opening = host["input"][0]["opening"].as_str().unwrap();
            assert!(opening.starts_with("nft insert rule inet f in udp dport "));
            shell(opening);
            let [far, near] = &host["routes"].as_array().unwrap()[..] else {
                panic!("{host}")
            };
            assert_eq!(far["next_hop"], "192.0.2.9");
            assert_eq!(
                (&far["next_hop_silent"], &far["mtu"]),
                (&true.into(), &1400.into())
            );
            assert_eq!(near["next_hop_silent"], false);
            assert_eq!(host["kernel"], Value::Null);
            shell("ip route del default");
            let found = Obstacles::look((40_000, 40_100), (1, 1));
            found.add_to(&mut sessions);
            let gone = sessions[0]["host"]["routes"][0]["error"].as_str().unwrap();
            assert!(gone.contains("unreachable"), "{gone}");
        });
    }
}
