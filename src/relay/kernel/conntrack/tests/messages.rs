//! What the kernel makes of the messages: in network namespaces of the test's own, with root only.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, UdpSocket};
use std::process::Command;
use std::time::Duration;

use crate::counters::Counters;
use crate::netlink::conntrack::{self, Entry, NatEntry, Tuple};
use crate::netlink::events::{Event, Events};
use crate::netlink::nftables::{Batch, Element};
use crate::netlink::socket::{Netfilter, Protection, Refused};
use crate::relay::kernel::conntrack::table::{self, FORWARDED, LEAVING, REACHED, RelayTable, key};
use crate::support::skip::{missing, skip_test};
use crate::sys::datagram::undisturbed;
use crate::sys::netlink::{AddressChanges, enter_namespace};
use crate::sys::route;

pub(super) const TABLE: &str = "mediaproxy_40000";
pub(super) const MARK: u32 = 0x4d50_0000;
pub(super) const MASK: u32 = 0xffff_0000;

pub(super) const CALLER: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 2);
pub(super) const CALLER_SIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);
pub(super) const CALLEE: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub(super) const CALLEE_SIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);

/// An IPv4 and a UDP header.
pub(super) const HEADERS: u64 = 28;

/// A thread in a network namespace of its own; none without root.
pub(super) fn in_namespace(test: impl FnOnce(&mut Netfilter) + Send + 'static) {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    if let Some(program) = missing(&["ip", "nft", "iptables", "conntrack"]) {
        return skip_test(&name, &format!("{program} is not installed"));
    }
    let run = move || match enter_namespace() {
        Ok(()) => test(&mut Netfilter::open().unwrap()),
        Err(_) => skip_test(&name, "needs root"),
    };
    std::thread::spawn(run).join().unwrap();
}

/// Runs ip(8) in the namespace of this thread.
fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
}

/// A party in a namespace of its own, with a wire to this thread's: its socket, which keeps the namespace. `name` is
/// the wire's end on this side.
fn party(name: &str, side: Ipv4Addr, address: SocketAddrV4) -> UdpSocket {
    party_with(name, side, vec![address]).remove(0)
}

/// The same with several sockets, all of one address.
pub(super) fn party_with(
    name: &str,
    side: Ipv4Addr,
    addresses: Vec<SocketAddrV4>,
) -> Vec<UdpSocket> {
    let here = std::fs::read_link("/proc/thread-self").unwrap();
    let here = here.file_name().unwrap().to_str().unwrap().to_owned();
    let peer = name.to_owned();
    let there = move || {
        enter_namespace().unwrap();
        ip(&format!(
            "link add wire type veth peer name {peer} netns {here}"
        ));
        ip(&format!("address add {}/24 dev wire", addresses[0].ip()));
        ip("link set wire up");
        ip(&format!("route add default via {side}"));
        let bound = addresses
            .iter()
            .map(|address| UdpSocket::bind(address).unwrap());
        bound.collect::<Vec<_>>()
    };
    let sockets = std::thread::spawn(there).join().unwrap();
    ip(&format!("address add {side}/24 dev {name}"));
    ip(&format!("link set {name} up"));
    for socket in &sockets {
        let limit = Some(Duration::from_secs(10));
        socket.set_read_timeout(limit).unwrap();
    }
    sockets
}

fn flow(caller: SocketAddrV4, callee: SocketAddrV4) -> NatEntry {
    let tuple = |source, local, port| Tuple {
        source,
        destination: SocketAddrV4::new(local, port),
    };
    NatEntry {
        original: tuple(caller, CALLER_SIDE, 40000),
        reply: tuple(callee, CALLEE_SIDE, 40002),
    }
}

pub(super) fn test_table() -> RelayTable<'static> {
    RelayTable {
        ports: 40000..=40099,
        addresses: &[CALLER_SIDE, CALLEE_SIDE],
        mark: MARK,
        mask: MASK,
        size: 200,
    }
}

pub(super) fn fill(batch: &mut Batch<'_>) {
    test_table().fill(batch);
}

pub(super) fn errno(refused: &Refused) -> Option<i32> {
    refused.error.raw_os_error()
}

fn create(netfilter: &mut Netfilter, entry: &NatEntry) {
    let made = netfilter.requests(&[*entry], |b, n, e| conntrack::create(b, n, e, MARK, 3600));
    made.unwrap().remove(0).unwrap();
}

fn delete(netfilter: &mut Netfilter, entry: &NatEntry) -> Entry {
    let gone = netfilter.requests(&[entry.original], |b, n, t| {
        conntrack::delete(b, n, *t, None)
    });
    gone.unwrap().remove(0).unwrap().unwrap()
}

fn install(netfilter: &mut Netfilter, entry: &NatEntry) {
    create(netfilter, entry);
    let add = |batch: &mut Batch<'_>| {
        batch.add(LEAVING, entry.leaving().map(key));
        batch.add(FORWARDED, entry.entering().map(key));
    };
    netfilter.transact(TABLE, add).unwrap();
}

/// Sends datagrams of so many bytes; the other party gets all of them from this address.
fn send(
    from: &UdpSocket,
    to: SocketAddrV4,
    sizes: &[usize],
    other: &UdpSocket,
    seen: SocketAddrV4,
) {
    let mut buffer = [0; 2048];
    for &size in sizes {
        from.send_to(&buffer[..size], to).unwrap();
        let (length, source) = undisturbed(|| other.recv_from(&mut buffer)).unwrap();
        assert_eq!((length, source), (size, seen.into()));
    }
}

fn counters(sizes: &[usize]) -> Counters {
    Counters {
        packets: sizes.len() as u64,
        bytes: sizes.iter().map(|&size| size as u64 + HEADERS).sum(),
    }
}

#[test]
fn a_flow_is_translated_both_ways_and_all_counters_agree() {
    in_namespace(|netfilter| {
        for setting in ["ipv4/ip_forward", "netfilter/nf_conntrack_acct"] {
            std::fs::write(format!("/proc/sys/net/{setting}"), "1").unwrap();
        }
        let (at_caller, at_callee) = (
            SocketAddrV4::new(CALLER, 30000),
            SocketAddrV4::new(CALLEE, 31000),
        );
        let caller = party("caller", CALLER_SIDE, at_caller);
        let callee = party("callee", CALLEE_SIDE, at_callee);
        // Without a listener an entry is deleted without an echo.
        let own = netfilter.port().unwrap();
        let _listener = Events::of_entries(own, MARK, MASK).unwrap();
        let entry = flow(at_caller, at_callee);
        netfilter
            .replace_table(TABLE, Protection::Persistent, fill)
            .unwrap();
        install(netfilter, &entry);
        let watched = netfilter.transact(TABLE, |batch| {
            table::watch(batch, MARK, MASK, at_caller, at_callee);
        });
        watched.unwrap();

        let (to_callee, to_caller) = ([172, 172, 40], [1000, 8]);
        send(
            &caller,
            entry.original.destination,
            &to_callee,
            &callee,
            entry.reply.destination,
        );
        send(
            &callee,
            entry.reply.destination,
            &to_caller,
            &caller,
            entry.original.destination,
        );

        let [callee_key, caller_key] = entry.leaving().map(key);
        let (sent, received) = (counters(&to_callee), counters(&to_caller));
        let mut want = [(callee_key, sent), (caller_key, received)]
            .map(|(key, counters)| Element { key, counters });
        want.sort_by_key(|element| element.key);
        let sorted = |mut elements: Vec<Element>| {
            elements.sort_by_key(|element| element.key);
            elements
        };
        assert_eq!(sorted(netfilter.elements(TABLE, LEAVING).unwrap()), want);
        // The way that is watched, and not the other one.
        assert_eq!(netfilter.rule_counters(TABLE, REACHED).unwrap(), [sent]);
        netfilter
            .transact(TABLE, |batch| batch.delete_chain(REACHED))
            .unwrap();
        assert_eq!(netfilter.rule_counters(TABLE, REACHED).unwrap(), []);
        let mut listed = Vec::new();
        netfilter
            .dump(MARK, MASK, |entry| listed.push(entry))
            .unwrap();
        assert_eq!(
            (listed[0].sent, listed[0].received),
            (Some(sent), Some(received))
        );
        assert_eq!(
            (listed[0].original, listed[0].reply),
            (entry.original, entry.reply)
        );
        assert_eq!(listed.len(), 1);

        netfilter
            .transact(TABLE, |batch| {
                batch.remove(FORWARDED, entry.entering().map(key))
            })
            .unwrap();
        let last = delete(netfilter, &entry);
        assert_eq!((last.sent, last.received), (Some(sent), Some(received)));
        let gone = netfilter.transact(TABLE, |batch| {
            batch.remove_echoed(LEAVING, entry.leaving().map(key))
        });
        assert_eq!(sorted(gone.unwrap()), want);
        assert_eq!(netfilter.elements(TABLE, LEAVING).unwrap(), []);
    });
}

#[test]
fn what_is_not_of_a_flow_goes_past_conntrack() {
    in_namespace(|netfilter| {
        let at_caller = SocketAddrV4::new(CALLER, 30000);
        let caller = party("caller", CALLER_SIDE, at_caller);
        netfilter
            .replace_table(TABLE, Protection::Persistent, fill)
            .unwrap();
        let relay = UdpSocket::bind((CALLER_SIDE, 40000)).unwrap();
        relay
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let local = SocketAddrV4::new(CALLER_SIDE, 40000);
        send(&caller, local, &[20], &relay, at_caller);
        send(&relay, at_caller, &[20], &caller, local);
        // One that may be tracked shows that the rules are what keeps the others out.
        let other = UdpSocket::bind((CALLER_SIDE, 50000)).unwrap();
        other
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        send(
            &caller,
            SocketAddrV4::new(CALLER_SIDE, 50000),
            &[20],
            &other,
            at_caller,
        );
        let mut listed = Vec::new();
        netfilter
            .dump(0, 0, |entry| listed.push(entry.original.destination.port()))
            .unwrap();
        assert_eq!(listed, [50000]);
    });
}

#[test]
fn what_others_do_to_entries_and_table_is_told() {
    in_namespace(|netfilter| {
        let own = netfilter.port().unwrap();
        let mut entries = Events::of_entries(own, MARK, MASK).unwrap();
        let mut table = Events::of_table(own, TABLE).unwrap();
        let read = |events: &mut Events| {
            let mut told = Vec::new();
            events.read(|event| told.push(event)).unwrap();
            told
        };
        let entry = flow(
            "192.0.2.1:30000".parse().unwrap(),
            "192.0.2.2:31000".parse().unwrap(),
        );
        netfilter
            .replace_table(TABLE, Protection::None, fill)
            .unwrap();
        install(netfilter, &entry);
        delete(netfilter, &entry);
        assert_eq!((read(&mut entries), read(&mut table)), (vec![], vec![]));

        let mut other = Netfilter::open().unwrap();
        create(netfilter, &entry);
        let last = delete(&mut other, &entry);
        let told = read(&mut entries);
        assert!(
            matches!(told[..], [Event::Ended(ended)] if ended.original == last.original && ended.mark == MARK)
        );
        other
            .replace_table("another", Protection::None, fill)
            .unwrap();
        assert_eq!(read(&mut table), []);
        other
            .transact(TABLE, |batch| {
                batch.remove(FORWARDED, entry.entering().map(key))
            })
            .unwrap();
        assert!(read(&mut table).contains(&Event::TableChanged));
        other.transact(TABLE, |batch| batch.delete_table()).unwrap();
        assert!(read(&mut table).contains(&Event::TableChanged));
    });
}

#[test]
fn events_that_were_lost_are_told() {
    in_namespace(|netfilter| {
        let mut events = Events::of_entries(0, MARK, MASK).unwrap();
        // The kernel makes of it the least that it allows: about two kilobytes, a few events.
        events.set_buffers(1).unwrap();
        for port in 0..100 {
            let entry = flow(
                SocketAddrV4::new(CALLER, 30000 + port),
                SocketAddrV4::new(CALLEE, 31000),
            );
            create(netfilter, &entry);
            delete(netfilter, &entry);
        }
        let (mut ended, mut overruns) = (0, 0);
        let count = |event| match event {
            Event::Ended(_) => ended += 1,
            Event::Overrun => overruns += 1,
            Event::TableChanged => panic!("no table"),
        };
        events.read(count).unwrap();
        assert!(
            (1..100).contains(&ended) && overruns == 1,
            "{ended} {overruns}"
        );
    });
}

#[test]
fn addresses_that_come_and_go_are_told() {
    in_namespace(|_| {
        let mut changes = AddressChanges::open().unwrap();
        assert!(!changes.read().unwrap());
        ip("address add 10.9.9.9/32 dev lo");
        assert!(changes.read().unwrap());
        assert!(!changes.read().unwrap());
        assert!(
            route::addresses()
                .unwrap()
                .contains(&IpAddr::from([10, 9, 9, 9]))
        );
        ip("address delete 10.9.9.9/32 dev lo");
        assert!(changes.read().unwrap());
        assert!(
            !route::addresses()
                .unwrap()
                .contains(&IpAddr::from([10, 9, 9, 9]))
        );
    });
}

#[test]
fn entries_are_made_listed_and_deleted() {
    in_namespace(|netfilter| {
        let entry = |port| {
            let callee = SocketAddrV4::new(CALLEE, port + 1000);
            flow(SocketAddrV4::new(CALLER, port), callee)
        };
        let entries = [entry(30000), entry(30002), entry(30000)];
        let made = netfilter
            .requests(&entries, |b, n, e| conntrack::create(b, n, e, MARK, 60))
            .unwrap();
        assert!(made[0].is_ok() && made[1].is_ok(), "{made:?}");
        let clash = made[2].as_ref().unwrap_err();
        assert_eq!(clash.raw_os_error(), Some(libc::EEXIST));
        netfilter
            .dump(MARK + 1, u32::MAX, |entry| panic!("{entry:?}"))
            .unwrap();
        let mut listed = Vec::new();
        let count = |entry: Entry| listed.push((entry.original, entry.reply));
        netfilter.dump(MARK, MASK, count).unwrap();
        assert_eq!(listed.len(), 2);
        for entry in &entries {
            assert!(listed.contains(&(entry.original, entry.reply)));
        }
        let names: Vec<Tuple> = entries[..2].iter().map(|entry| entry.original).collect();
        let got = netfilter
            .requests(&names, |b, n, t| conntrack::get(b, n, *t))
            .unwrap();
        let got = got[1].as_ref().unwrap().unwrap();
        assert_eq!(got.reply, entries[1].reply);
        let ends = [Ok(()), Err(Some(libc::ENOENT))];
        for want in ends {
            let gone = netfilter.requests(&names, |b, n, t| conntrack::delete(b, n, *t, None));
            for result in gone.unwrap() {
                assert_eq!(result.map(drop).map_err(|error| error.raw_os_error()), want);
            }
        }
    });
}
