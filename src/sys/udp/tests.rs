//! Tests of media sockets over loopback.

use super::super::epoll::{Epoll, Events, Trigger};
use super::*;
use std::net::IpAddr;
use std::time::Duration;

const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn socket() -> (MediaSocket, SocketAddr) {
    let socket = MediaSocket::bind(LOCAL).unwrap();
    let std = std::net::UdpSocket::from(socket.fd.try_clone().unwrap());
    let address = std.local_addr().unwrap();
    (socket, address)
}

fn wait_for(socket: &MediaSocket) {
    let epoll = Epoll::new().unwrap();
    epoll.add(socket, 1, Trigger::Level).unwrap();
    let mut events = Events::new();
    epoll
        .wait(&mut events, Some(Duration::from_secs(5)))
        .unwrap();
    assert_eq!(events.token(0), Some(1), "nothing arrived");
}

#[test]
fn dscp_and_ttl_are_kept_by_both_ways_of_sending_and_receiving() {
    let ((mut a, at_a), (b, at_b)) = (socket(), socket());
    let mut datagrams = Datagrams::new();
    for dscp in [0xb8, 0x88, 0] {
        let marks = Marks { dscp, ttl: 7 };
        a.send(b"media", at_b, marks).unwrap();
        wait_for(&b);
        datagrams.receive_one(&b).unwrap();
        let one = Datagram {
            from: at_a,
            marks,
            data: b"media",
        };
        assert_eq!(datagrams.get(0), Some(one));
        let (mut c, at_c) = socket();
        let unsent = c.send_many(
            &datagrams,
            &[(0, at_b), (0, at_b)],
            Marks { ttl: 9, ..marks },
        );
        assert!(unsent.indices.is_empty());
        wait_for(&b);
        datagrams.receive_many(&b).unwrap();
        assert_eq!(datagrams.len(), 2);
        let one = Datagram {
            from: at_c,
            marks: Marks { ttl: 9, ..marks },
            ..one
        };
        assert_eq!(datagrams.get(1), Some(one));
    }
}

#[test]
fn congestion_bits_are_not_passed_on() {
    let ((mut a, _), (b, at_b)) = (socket(), socket());
    set_option(&a.fd, libc::IP_TOS, 0xb9).unwrap();
    a.dscp = 0xb8;
    a.send(
        b"x",
        at_b,
        Marks {
            dscp: 0xb8,
            ttl: 64,
        },
    )
    .unwrap();
    wait_for(&b);
    let mut datagrams = Datagrams::new();
    datagrams.receive_one(&b).unwrap();
    assert_eq!(datagrams.get(0).unwrap().marks.dscp, 0xb8);
}

#[test]
fn nothing_is_cut() {
    let ((mut a, _), (b, at_b)) = (socket(), socket());
    let longest = vec![0x5a; 65_507];
    let mut datagrams = Datagrams::new();
    a.send(&longest, at_b, Marks::FRESH).unwrap();
    wait_for(&b);
    datagrams.receive_one(&b).unwrap();
    assert_eq!(datagrams.get(0).unwrap().data, longest);
    a.send(&longest, at_b, Marks::FRESH).unwrap();
    a.send(b"", at_b, Marks::FRESH).unwrap();
    wait_for(&b);
    datagrams.receive_many(&b).unwrap();
    assert_eq!(datagrams.get(0).unwrap().data, longest);
    assert_eq!(datagrams.get(1).unwrap().data, b"");
    assert_eq!(datagrams.get(2), None);
}

#[test]
fn a_flood_comes_in_batches_and_in_order() {
    let ((mut a, _), (b, at_b)) = (socket(), socket());
    for n in 0..50u8 {
        a.send(&[n], at_b, Marks::FRESH).unwrap();
    }
    let mut datagrams = Datagrams::new();
    let mut seen = Vec::new();
    let mut calls = 0;
    while seen.len() < 50 {
        wait_for(&b);
        datagrams.receive_many(&b).unwrap();
        calls += 1;
        seen.extend((0..datagrams.len()).map(|i| datagrams.get(i).unwrap().data[0]));
    }
    assert_eq!(seen, (0..50).collect::<Vec<u8>>());
    assert!(calls <= 3, "{calls}");
    datagrams.receive_many(&b).unwrap();
    assert!(datagrams.is_empty());
    datagrams.receive_one(&b).unwrap();
    assert!(datagrams.is_empty());
}

#[test]
fn one_that_cannot_be_sent_does_not_hold_up_the_others() {
    let ((mut a, at_a), (b, at_b)) = (socket(), socket());
    for data in [b"0", b"1", b"2"] {
        a.send(data, at_b, Marks::FRESH).unwrap();
    }
    wait_for(&b);
    let mut datagrams = Datagrams::new();
    datagrams.receive_many(&b).unwrap();
    assert_eq!(datagrams.len(), 3);
    let nowhere = LOCAL;
    let unsent = a.send_many(
        &datagrams,
        &[(0, nowhere), (1, at_b), (2, nowhere)],
        Marks::FRESH,
    );
    assert_eq!(unsent.indices, [0, 2]);
    assert!(unsent.error.is_some());
    wait_for(&b);
    datagrams.receive_many(&b).unwrap();
    assert_eq!(datagrams.len(), 1);
    let one = datagrams.get(0).unwrap();
    assert_eq!((one.from, one.data), (at_a, &b"1"[..]));
}

#[test]
fn an_address_that_is_taken_is_refused() {
    let (_a, at_a) = socket();
    let error = MediaSocket::bind(at_a).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn where_the_kernel_tells_no_ttl_it_is_the_usual_one_and_media_goes_on() {
    let ((mut a, at_a), (b, at_b)) = (socket(), socket());
    set_option(&b.fd, libc::IP_RECVTTL, 0).unwrap();
    let mut datagrams = Datagrams::new();
    a.send(b"media", at_b, Marks { dscp: 0xb8, ttl: 5 })
        .unwrap();
    wait_for(&b);
    datagrams.receive_one(&b).unwrap();
    let one = Datagram {
        from: at_a,
        marks: Marks {
            dscp: 0xb8,
            ttl: 64,
        },
        data: b"media",
    };
    assert_eq!(datagrams.get(0), Some(one));
    // Nor does one that the kernel refuses stop it: 0 is refused.
    a.send(b"more", at_b, Marks { dscp: 0, ttl: 0 }).unwrap();
    wait_for(&b);
    datagrams.receive_many(&b).unwrap();
    assert_eq!(datagrams.get(0).unwrap().data, b"more");
}
