//! A service manager at the other end of a pair of sockets.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::thread;

use super::*;

const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const LONG: Duration = Duration::from_secs(60);

/// A store and its manager, which keeps so many descriptors.
fn store(room: usize) -> (Arc<SocketStore>, UnixDatagram) {
    let (ours, managers) = UnixDatagram::pair().unwrap();
    managers.set_read_timeout(Some(LONG)).unwrap();
    let manager = FdStore::new(ours, room).unwrap();
    (Arc::new(SocketStore::new(Some(manager))), managers)
}

fn pair() -> Pair {
    [LOCAL; 2].map(|address| MediaSocket::bind(address).unwrap())
}

fn later(length: Duration) -> Moment {
    clock::moment() + length
}

/// What the manager is told next, in one line, and with how many descriptors.
fn told(manager: &UnixDatagram) -> (String, usize) {
    let (text, descriptors) = fd_store::receive(manager).unwrap();
    (text.replace('\n', " "), descriptors.len())
}

fn keeping(port: u16) -> (String, usize) {
    (format!("FDSTORE=1 FDPOLL=0 FDNAME={port}"), 2)
}

fn removing(port: u16) -> (String, usize) {
    (format!("FDSTOREREMOVE=1 FDNAME={port}"), 0)
}

fn barrier() -> (String, usize) {
    ("BARRIER=1".into(), 1)
}

/// Nothing is there to be read.
fn assert_silent(manager: &UnixDatagram, limit: Duration) {
    manager.set_read_timeout(Some(limit)).unwrap();
    let nothing = fd_store::receive(manager).map(|(text, _)| text);
    assert!(nothing.is_err(), "told {nothing:?}");
    manager.set_read_timeout(Some(LONG)).unwrap();
}

#[test]
fn a_pair_is_kept_until_it_is_released() {
    let (store, manager) = store(100);
    store.start().unwrap();
    assert!(store.is_active());
    let pair = pair();
    assert!(store.keep(40000, &pair));
    assert_eq!(told(&manager), keeping(40000));
    assert_eq!(told(&manager), barrier());
    store.release(40000);
    assert_eq!(told(&manager), removing(40000));
    // Of one that is not kept there is nothing to tell.
    store.release(40000);
    store.release(40002);
    store.settle(later(LONG));
    assert_silent(&manager, Duration::from_millis(1));
}

#[test]
fn one_that_is_closed_before_the_manager_heard_of_it_costs_nothing() {
    let (store, manager) = store(100);
    let pair = pair();
    assert!(store.keep(40000, &pair));
    assert!(store.keep(40002, &pair));
    store.release(40000);
    store.start().unwrap();
    assert_eq!(told(&manager), keeping(40002));
}

#[test]
fn the_next_process_gets_them_and_the_rest_is_closed() {
    let (store, manager) = store(100);
    // Even and odd, as a pair is.
    let bound = (20000..30000).step_by(2).find_map(|port| {
        let at = |port| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).ok();
        Some([at(port)?, at(port + 1)?])
    });
    let [rtp, rtcp] = bound.unwrap();
    let address = rtp.local_addr().unwrap();
    let sender = UdpSocket::bind(LOCAL).unwrap();
    sender.send_to(b"meanwhile", address).unwrap();
    let name = address.port().to_string();
    let stray = UdpSocket::bind(LOCAL).unwrap();
    let stray_port = stray.local_addr().unwrap().port();
    store.inherit(vec![
        (name.clone(), rtp.into()),
        (stray_port.to_string(), stray.into()),
        (name, rtcp.into()),
        ("7".into(), UnixDatagram::unbound().unwrap().into()),
    ]);
    // One socket alone is no pair.
    assert!(
        store
            .take(SocketAddr::new(address.ip(), stray_port))
            .is_none()
    );
    let [rtp, _rtcp] = store.take(address).unwrap();
    assert!(store.take(address).is_none(), "taken twice");
    let mut datagrams = crate::sys::udp::Datagrams::new();
    datagrams.receive_one(&rtp).unwrap();
    assert_eq!(datagrams.get(0).unwrap().data, b"meanwhile");

    store.start().unwrap();
    assert_eq!(store.close_untaken(), 2);
    let mut removed = [told(&manager), told(&manager)];
    removed.sort();
    let mut expected = [removing(7), removing(stray_port)];
    expected.sort();
    assert_eq!(removed, expected);
    let again = UdpSocket::bind((Ipv4Addr::LOCALHOST, stray_port));
    assert!(again.is_ok(), "what nobody has taken is still open");
    // What was taken is kept as before.
    store.release(address.port());
    assert_eq!(told(&manager), removing(address.port()));
}

#[test]
fn a_pair_of_another_address_is_none() {
    let (store, _manager) = store(100);
    let sockets = pair();
    let name = |socket: &UdpSocket| socket.local_addr().unwrap().port();
    let descriptors: Vec<_> = sockets
        .iter()
        .map(|socket| {
            let descriptor = socket.duplicate().unwrap();
            let port = name(&UdpSocket::from(descriptor.try_clone().unwrap()));
            (port.to_string(), descriptor)
        })
        .collect();
    let port = descriptors.first().unwrap().0.parse().unwrap();
    store.inherit(descriptors);
    assert!(
        store
            .take(SocketAddr::new([127, 0, 0, 2].into(), port))
            .is_none()
    );
}

#[test]
fn a_manager_that_takes_long_has_time_for_others() {
    let (store, manager) = store(1000);
    let pair = pair();
    let all = AT_ONCE + 1;
    for index in 0..all {
        assert!(store.keep(40000 + 2 * index as u16, &pair));
    }
    store.start().unwrap();
    for index in 0..AT_ONCE {
        assert_eq!(told(&manager), keeping(40000 + 2 * index as u16));
    }
    let (_, held) = fd_store::receive(&manager).unwrap();
    thread::sleep(Duration::from_millis(30));
    drop(held);
    assert_silent(&manager, Duration::from_millis(200));
    // What is to be closed does not wait.
    store.release(40000);
    assert_eq!(told(&manager), removing(40000));
    // Nor does anything when the relay ends.
    let ending = Arc::clone(&store);
    let settled = thread::spawn(move || ending.settle(later(LONG)));
    assert_eq!(told(&manager), keeping(40000 + 2 * AT_ONCE as u16));
    assert_eq!(told(&manager), barrier());
    settled.join().unwrap();
}

#[test]
fn no_more_than_there_is_room_for_and_not_too_many_at_once() {
    let (little, manager) = store(3);
    let pair = pair();
    assert!(little.keep(40000, &pair));
    assert!(!little.keep(40002, &pair));
    little.release(40000);
    assert!(little.keep(40002, &pair));
    drop(manager);

    let (store, _manager) = store(100_000);
    let kept = (0..200_u16).filter(|index| store.keep(40000 + 2 * index, &pair));
    assert_eq!(kept.count(), MOST_WAITING);
}

#[test]
fn a_manager_that_is_gone() {
    let (store, manager) = store(100);
    drop(manager);
    store.start().unwrap();
    let pair = pair();
    assert!(store.keep(40000, &pair));
    store.settle(later(LONG));
    assert!(!store.is_active());
    assert!(!store.keep(40002, &pair));
    store.release(40000);
    store.settle(later(LONG));
}

#[test]
fn without_systemd_nothing_is_kept() {
    let store = Arc::new(SocketStore::none());
    store.start().unwrap();
    assert!(!store.is_active() && !store.keep(40000, &pair()));
    assert!(store.take(LOCAL).is_none());
    assert_eq!(store.close_untaken(), 0);
    store.settle(later(LONG));
}
