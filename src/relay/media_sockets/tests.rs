//! Tests of binding with ports that this test occupies itself.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use super::*;
use crate::proto::Party;
use crate::proto::control::{Frame, LINK_LIMITS, Requests, Update};
use crate::proto::link::Sequence;
use crate::session::{Asker, Engine, Owner, ReplyTo, Settings};
use crate::sys::epoll::Events;
use crate::sys::fd_store::{self, FdStore};

const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn sockets(range: (u16, u32)) -> MediaSockets {
    sockets_with(SharedPorts::new(range, usize::MAX))
}

fn sockets_with(ports: SharedPorts) -> MediaSockets {
    let addresses = Addresses {
        relay_ip: LOCAL.into(),
        auto_detect: false,
    };
    let epoll = Arc::new(Epoll::new().unwrap());
    let store = Arc::new(SocketStore::none());
    MediaSockets::new(addresses, Arc::new(ports), store, epoll, None)
}

/// A place to bind for: what an engine passes when it makes a session.
fn place() -> PortKey {
    struct Catch(Option<PortKey>);
    impl Environment for Catch {
        fn bind(&mut self, _: IpAddr, place: PortKey) -> Option<u16> {
            self.0 = Some(place);
            None
        }
        fn rebind(&mut self, _: IpAddr, _: u16, _: PortKey) -> bool {
            unreachable!("nothing is taken over here")
        }

        fn tally(&mut self, _: u16, _: SessionId) -> Option<Tally> {
            unreachable!("nothing is taken over here")
        }

        fn local_address(&mut self, _: Option<IpAddr>) -> IpAddr {
            LOCAL.into()
        }
        fn random(&mut self) -> u128 {
            0
        }
    }
    let mut engine = Engine::new(Settings {
        stream_timeout: Duration::from_secs(90),
        on_hold_timeout: Duration::from_secs(90),
        setup_timeout: Duration::from_secs(90),
        learning: Default::default(),
        advertised_ip: None,
        routable_private_ranges: Vec::new(),
        kernel: Err("forwarding = userspace".into()),
    });
    let text = "update\r\ntype: request\r\ncall_id: c\r\ncseq: 1\r\nfrom_uri: a\r\nto_uri: b\r\nfrom_tag: f\r\n\
                user_agent: u\r\nmedia: audio:192.0.2.1:4000:sendrecv:ice=no\r\n\r\n";
    let mut requests = Requests::new(LINK_LIMITS, &[]);
    requests.extend(text.as_bytes());
    let frame: &Frame = requests.next_request().unwrap().unwrap().unwrap();
    let update = Update::parse(frame).unwrap();
    let mut host = Catch(None);
    let asker = Asker {
        reply_to: ReplyTo {
            link: 0,
            sequence: Sequence(1),
        },
        owner: Owner(0),
        since: clock::moment(),
    };
    engine.update(&update, asker, &mut host, clock::now());
    host.0.unwrap()
}

/// The port range that all tests use, each on an address of its own.
const START: u16 = 20_000;

/// An address that no other test or process binds.
fn own_address() -> Ipv4Addr {
    static COUNT: AtomicU8 = AtomicU8::new(10);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    Ipv4Addr::new(127, 64 | high | middle, low, count)
}

#[test]
fn c9_pairs_that_others_have_are_put_aside_and_another_is_taken() {
    let here = own_address();
    let occupy = |port| UdpSocket::bind((here, port)).unwrap();
    let mut others: Vec<UdpSocket> = (START..START + 8).map(occupy).collect();
    let mut sockets = sockets((START, u32::from(START) + 8));
    // Free again: both ports of the second pair, and the RTP port alone of the third.
    for offset in [4, 3, 2] {
        drop(others.remove(offset));
    }
    let port = sockets.bind(here.into(), place()).unwrap();
    assert_eq!(port, START + 2);
    assert_eq!(sockets.bind(here.into(), place()), None);
    assert!(sockets.pair(port).is_some());
    assert!(UdpSocket::bind((here, port + 1)).is_err(), "RTCP is bound");
    assert!(
        UdpSocket::bind((here, START + 4)).is_ok(),
        "half a pair is given back"
    );
    // What was put aside is tried again.
    drop(others.drain(0..2));
    assert_eq!(sockets.bind(here.into(), place()), Some(START));
}

#[test]
fn c9_a_closed_pair_can_be_bound_again() {
    let here = own_address();
    let mut sockets = sockets((START, u32::from(START) + 2));
    let port = sockets.bind(here.into(), place()).unwrap();
    assert_eq!(sockets.bind(here.into(), place()), None);
    sockets.close(port);
    sockets.close(port);
    assert!(sockets.pair(port).is_none());
    assert_eq!(sockets.bind(here.into(), place()), Some(port));
    assert_eq!(sockets.bind(here.into(), place()), None, "given back once");
}

#[test]
fn where_every_port_is_in_use_no_file_is_missing() {
    let here = own_address();
    let mut sockets = sockets((START, u32::from(START) + 2));
    sockets.bind(here.into(), place()).unwrap();
    assert_eq!(sockets.bind(here.into(), place()), None);
    assert!(sockets.ports.enter(), "the log tells of the ports");
}

#[test]
fn no_more_pairs_are_bound_than_there_are_files_for() {
    let here = own_address();
    let ports = SharedPorts::new((START, u32::from(START) + 20), 2);
    let mut sockets = sockets_with(ports);
    // What fails takes nobody's place.
    for _ in 0..3 {
        assert_eq!(
            sockets.bind(Ipv4Addr::new(192, 0, 2, 1).into(), place()),
            None
        );
    }
    let first = sockets.bind(here.into(), place()).unwrap();
    sockets.bind(here.into(), place()).unwrap();
    assert_eq!(sockets.bind(here.into(), place()), None);
    sockets.close(first);
    sockets.close(first);
    sockets.bind(here.into(), place()).unwrap();
    assert_eq!(sockets.bind(here.into(), place()), None, "given back once");
}

#[test]
fn an_address_of_another_host_spoils_no_port() {
    let here = own_address();
    let mut sockets = sockets((START, u32::from(START) + 2));
    assert_eq!(
        sockets.bind(Ipv4Addr::new(192, 0, 2, 1).into(), place()),
        None
    );
    assert_eq!(sockets.bind(here.into(), place()), Some(START));
}

#[test]
fn nobodys_address_is_not_taken_for_this_host() {
    let epoll = Arc::new(Epoll::new().unwrap());
    let addresses = Addresses {
        relay_ip: IpAddr::from([192, 0, 2, 7]),
        auto_detect: true,
    };
    let ports = Arc::new(SharedPorts::new((START, u32::from(START) + 2), usize::MAX));
    let store = Arc::new(SocketStore::none());
    let mut sockets = MediaSockets::new(addresses, ports, store, epoll, None);
    for unknown in [None, Some(Ipv4Addr::UNSPECIFIED.into())] {
        assert_eq!(sockets.local_address(unknown), addresses.relay_ip);
    }
    let own = IpAddr::V4(LOCAL);
    assert_eq!(sockets.local_address(Some(own)), own);
}

/// Sends to a port, and lets the pair there know.
fn hears(sockets: &mut MediaSockets, to: (Ipv4Addr, u16), now: Moment) {
    let (store, (_, port)) = (Arc::clone(&sockets.store), to);
    let sender = UdpSocket::bind((LOCAL, 0)).unwrap();
    sender.send_to(b"media", to).unwrap();
    let pair = sockets.pair(port).unwrap();
    pair.keep_if_heard(now, &store);
}

#[test]
fn what_media_comes_to_for_a_while_is_kept_and_reported_no_more_once_it_is_closed() {
    let (ours, manager) = UnixDatagram::pair().unwrap();
    let store = FdStore::new(ours, 100).unwrap();
    let here = own_address();
    let mut sockets = sockets((START, u32::from(START) + 4));
    sockets.store = Arc::new(SocketStore::new(Some(store)));
    sockets.store.start().unwrap();
    let [long, short] = [(); 2].map(|()| sockets.bind(here.into(), place()).unwrap());
    let begun = clock::moment();
    hears(&mut sockets, (here, short), begun);
    sockets.close(short);
    hears(&mut sockets, (here, long | 1), begun);
    hears(&mut sockets, (here, long | 1), begun + HEARD_FOR / 2);
    hears(&mut sockets, (here, long), begun + HEARD_FOR);
    let (text, held) = fd_store::receive(&manager).unwrap();
    assert_eq!(text, format!("FDSTORE=1\nFDPOLL=0\nFDNAME={long}"));
    let epoll = Arc::clone(&sockets.epoll);
    let mut events = Events::new();
    epoll
        .wait(&mut events, Some(Duration::from_secs(60)))
        .unwrap();
    assert!(!events.is_empty(), "media waits in the sockets");
    sockets.close(long);
    epoll.wait(&mut events, Some(Duration::ZERO)).unwrap();
    assert!(events.is_empty(), "reported after it was closed");
    let messages = std::iter::repeat_with(|| fd_store::receive(&manager).unwrap().0);
    let removal = format!("FDSTOREREMOVE=1\nFDNAME={long}");
    assert!(messages.take(2).any(|text| text == removal));
    drop(held);
}

#[test]
fn ports_outside_the_range_are_nobodys() {
    let mut sockets = sockets((20_000, 20_004));
    for port in [0, 19_999, 20_000, 20_004, 65_535] {
        assert!(sockets.pair(port).is_none());
        sockets.close(port);
    }
}

#[test]
fn ports_know_their_component_and_their_rounds() {
    let here = own_address();
    let mut sockets = sockets((START, u32::from(START) + 2));
    let mut expected = place();
    expected.party = Party::Caller;
    let port = sockets.bind(here.into(), expected).unwrap();
    let pair = sockets.pair(port).unwrap();
    assert_eq!(pair.place(port).component, Component::Rtp);
    assert_eq!(pair.place(port + 1).component, Component::Rtcp);
    assert!(!pair.is_flood(port, 5));
    assert!(pair.is_flood(port, 6));
    assert!(!pair.is_flood(port + 1, 7));
    assert!(!pair.is_flood(port, 8));
}
