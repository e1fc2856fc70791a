//! Tests of binding with ports that this test occupies itself.

use std::net::UdpSocket;
use std::time::Duration;

use super::*;
use crate::proto::Party;
use crate::proto::control::{Frame, LINK_LIMITS, Requests, Update};
use crate::session::{Engine, Settings};

const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn machine(range: (u16, u32)) -> Machine {
    let addresses = Addresses {
        relay_ip: LOCAL,
        auto_detect: false,
    };
    let epoll = Arc::new(Epoll::new().unwrap());
    Machine::new(addresses, Arc::new(SharedPorts::new(range)), epoll)
}

/// A place to bind for: what an engine passes when it makes a session.
fn place() -> Place {
    struct Catch(Option<Place>);
    impl Host for Catch {
        fn bind(&mut self, _: Ipv4Addr, place: Place) -> Option<u16> {
            self.0 = Some(place);
            None
        }
        fn local_address(&mut self, _: Option<Ipv4Addr>) -> Ipv4Addr {
            LOCAL
        }
        fn random(&mut self) -> u128 {
            0
        }
    }
    let mut engine = Engine::new(Settings {
        stream_timeout: Duration::from_secs(90),
        on_hold_timeout: Duration::from_secs(90),
        setup_timeout: Duration::from_secs(90),
        advertised_ip: None,
        routable_private_ranges: Vec::new(),
        kernel: false,
    });
    let text = "update\r\ntype: request\r\ncall_id: c\r\ncseq: 1\r\nfrom_uri: a\r\nto_uri: b\r\nfrom_tag: f\r\n\
                user_agent: u\r\nmedia: audio:192.0.2.1:4000:sendrecv:ice=no\r\n\r\n";
    let mut requests = Requests::new(LINK_LIMITS, &[]);
    requests.extend(text.as_bytes());
    let frame: &Frame = requests.next_request().unwrap().unwrap().unwrap();
    let update = Update::parse(frame).unwrap();
    let mut host = Catch(None);
    engine.update(&update, crate::session::Owner(0), &mut host, clock::now());
    host.0.unwrap()
}

/// Four pairs in a row that nobody has, held by this test.
fn four_pairs() -> (u16, Vec<UdpSocket>) {
    for start in (20_000..32_000).step_by(8) {
        let bound: Result<Vec<UdpSocket>, _> = (start..start + 8)
            .map(|port| UdpSocket::bind((LOCAL, port)))
            .collect();
        if let Ok(sockets) = bound {
            return (start, sockets);
        }
    }
    panic!("no eight free ports in a row");
}

#[test]
fn c9_pairs_that_others_have_are_put_aside_and_another_is_taken() {
    let (start, mut sockets) = four_pairs();
    let mut machine = machine((start, u32::from(start) + 8));
    // Free again: both ports of the second pair, and the RTP port alone of the third.
    for offset in [4, 3, 2] {
        drop(sockets.remove(offset));
    }
    let port = machine.bind(LOCAL, place()).unwrap();
    assert_eq!(port, start + 2);
    assert_eq!(machine.bind(LOCAL, place()), None);
    assert!(machine.pair(port).is_some());
    assert!(UdpSocket::bind((LOCAL, port + 1)).is_err(), "RTCP is bound");
    assert!(
        UdpSocket::bind((LOCAL, start + 4)).is_ok(),
        "half a pair is given back"
    );
    // What was put aside is tried again.
    drop(sockets.drain(0..2));
    assert_eq!(machine.bind(LOCAL, place()), Some(start));
}

#[test]
fn c9_a_closed_pair_can_be_bound_again() {
    let (start, sockets) = four_pairs();
    drop(sockets);
    let mut machine = machine((start, u32::from(start) + 2));
    let port = machine.bind(LOCAL, place()).unwrap();
    assert_eq!(machine.bind(LOCAL, place()), None);
    machine.close(port);
    machine.close(port);
    assert!(machine.pair(port).is_none());
    assert_eq!(machine.bind(LOCAL, place()), Some(port));
    assert_eq!(machine.bind(LOCAL, place()), None, "given back once");
}

#[test]
fn an_address_of_another_host_spoils_no_port() {
    let (start, sockets) = four_pairs();
    drop(sockets);
    let mut machine = machine((start, u32::from(start) + 2));
    assert_eq!(machine.bind(Ipv4Addr::new(192, 0, 2, 1), place()), None);
    assert_eq!(machine.bind(LOCAL, place()), Some(start));
}

#[test]
fn ports_outside_the_range_are_nobodys() {
    let mut machine = machine((20_000, 20_004));
    for port in [0, 19_999, 20_000, 20_004, 65_535] {
        assert!(machine.pair(port).is_none());
        machine.close(port);
    }
}

#[test]
fn ports_know_their_component_and_their_rounds() {
    let (start, sockets) = four_pairs();
    drop(sockets);
    let mut machine = machine((start, u32::from(start) + 2));
    let mut expected = place();
    expected.party = Party::Caller;
    let port = machine.bind(LOCAL, expected).unwrap();
    let pair = machine.pair(port).unwrap();
    assert_eq!(pair.place(port).component, Component::Rtp);
    assert_eq!(pair.place(port + 1).component, Component::Rtcp);
    assert!(!pair.is_flood(port, 5));
    assert!(pair.is_flood(port, 6));
    assert!(!pair.is_flood(port + 1, 7));
    assert!(!pair.is_flood(port, 8));
}
