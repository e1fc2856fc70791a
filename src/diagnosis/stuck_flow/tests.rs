//! The judgement, and each cause for real: a flow between two phones is broken, named, mended by the command that
//! the sentence names, and flows again.

use std::fs;
use std::net::UdpSocket;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::*;
use crate::diagnosis::testing::{in_namespace, shell};
use crate::netlink::conntrack::{self, NatEntry, Tuple};
use crate::netlink::nftables::{Batch, ChainKind, Hook};
use crate::netlink::rule::Step;
use crate::netlink::socket::Netfilter;
use crate::sys::datagram::undisturbed;
use crate::sys::netlink::enter_namespace;

const MARK: u32 = 0x4d50_0000;
const MASK: u32 = 0xffff_0000;
/// Only a failing test waits for it.
const LONG: Duration = Duration::from_secs(10);

fn at(text: &str) -> SocketAddrV4 {
    text.parse().unwrap()
}

fn stuck(reached_forward: Option<bool>) -> Stuck {
    Stuck {
        from: at("10.1.0.2:30000"),
        local: at("10.1.0.1:40000"),
        to: at("10.2.0.2:31000"),
        reached_forward,
    }
}

fn interface(name: &str, address: [u8; 4]) -> Interface {
    Interface {
        name: name.to_owned(),
        is_loopback: false,
        addresses: vec![address.into()],
        has_routes: true,
        is_forwarding: true,
        is_strict: true,
        sends_redirects: false,
    }
}

fn facts() -> Facts {
    Facts {
        ip_forward: true,
        interfaces: vec![
            interface("a", [10, 1, 0, 1]),
            interface("b.7", [10, 2, 0, 1]),
        ],
        towards_receiver: Ok([10, 2, 0, 1].into()),
        towards_sender: Ok([10, 1, 0, 1].into()),
        walls: Walls::default(),
    }
}

fn cause(reached_forward: Option<bool>, facts: &Facts) -> String {
    judge(&stuck(reached_forward), facts, MARK, MASK)
}

#[test]
fn nothing_to_be_seen_is_a_rule_somewhere() {
    for (reached, place) in [
        (None, "at or after hook forward"),
        (Some(true), "at or after hook forward"),
        (Some(false), "before hook forward"),
    ] {
        let text = cause(reached, &facts());
        assert!(text.starts_with(&format!("dropped {place}")), "{text}");
    }
}

#[test]
fn what_reached_hook_forward_was_not_dropped_before_it() {
    let mut facts = facts();
    facts.ip_forward = false;
    facts.walls.has_legacy = true;
    assert!(cause(None, &facts).starts_with("net.ipv4.ip_forward is 0"));
    assert!(cause(Some(false), &facts).starts_with("net.ipv4.ip_forward is 0"));
    assert!(cause(Some(true), &facts).contains("iptables-legacy -I FORWARD"));
    facts.ip_forward = true;
    assert!(cause(Some(false), &facts).starts_with("dropped before"));
    assert!(cause(None, &facts).contains("iptables-legacy -I FORWARD"));
}

#[test]
fn one_interface_may_be_closed() {
    let mut facts = facts();
    facts.interfaces[0].is_forwarding = false;
    let text = cause(None, &facts);
    assert!(
        text.starts_with("net.ipv4.conf.a.forwarding is 0: sysctl -w net.ipv4.conf.a.forwarding=1"),
        "{text}"
    );
}

#[test]
fn strict_drops_only_what_another_interface_leads_to() {
    let mut facts = facts();
    facts.towards_sender = Err(io::ErrorKind::NetworkUnreachable.into());
    assert!(cause(None, &facts).contains("no route leads there"));
    facts.interfaces[0].is_strict = false;
    assert!(cause(None, &facts).starts_with("dropped"));
}

/// A phone in a network namespace of its own, behind the relay's interface `v<n>` with 10.<n>.0.1; its socket is
/// bound to 10.<n>.0.2. The namespace goes away with the socket.
fn phone(n: u8, port: u16) -> UdpSocket {
    let (named, name) = mpsc::channel();
    let (moved, is_moved) = mpsc::channel();
    let inside = thread::spawn(move || {
        enter_namespace().unwrap();
        let task = fs::read_link("/proc/thread-self").unwrap();
        let id = task.file_name().unwrap().to_str().unwrap().to_owned();
        named.send(id).unwrap();
        is_moved.recv().unwrap();
        shell(&format!(
            "ip addr add 10.{n}.0.2/24 dev p{n}; ip link set p{n} up; ip route add default via 10.{n}.0.1"
        ));
        let socket = UdpSocket::bind((Ipv4Addr::new(10, n, 0, 2), port)).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        socket
    });
    let id = name.recv().unwrap();
    shell(&format!(
        "ip link add v{n} type veth peer name p{n}; ip link set p{n} netns {id}
         ip addr add 10.{n}.0.1/24 dev v{n}; ip link set v{n} up"
    ));
    moved.send(()).unwrap();
    inside.join().unwrap()
}

/// A flow that the kernel forwards between two phones.
struct Flow {
    caller: UdpSocket,
    callee: UdpSocket,
    netfilter: Netfilter,
    entry: NatEntry,
    sent: u64,
}

impl Flow {
    fn new() -> Flow {
        let (caller, callee) = (phone(1, 30000), phone(2, 31000));
        shell(
            "sysctl -qw net.ipv4.ip_forward=1 net.netfilter.nf_conntrack_acct=1
             sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.v1.rp_filter=0",
        );
        let mut netfilter = Netfilter::open().unwrap();
        netfilter.transact("relay", hooks).unwrap();
        let tuple = |source, destination| Tuple {
            source: at(source),
            destination: at(destination),
        };
        let entry = NatEntry {
            original: tuple("10.1.0.2:30000", "10.1.0.1:40000"),
            reply: tuple("10.2.0.2:31000", "10.2.0.1:40002"),
        };
        let made = netfilter
            .requests(&[entry], |b, n, e| conntrack::create(b, n, e, MARK, 60))
            .unwrap();
        assert!(made[0].is_ok(), "{made:?}");
        Flow {
            caller,
            callee,
            netfilter,
            entry,
            sent: 0,
        }
    }

    /// Sends a packet and waits until it has entered; its number.
    fn send(&mut self) -> u64 {
        self.sent += 1;
        let to = self.entry.original.destination;
        self.caller.send_to(&self.sent.to_be_bytes(), to).unwrap();
        for _ in 0..1000 {
            if self.entered() >= self.sent {
                return self.sent;
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("packet {} did not enter", self.sent);
    }

    fn entered(&mut self) -> u64 {
        let name = self.entry.original;
        let got = self
            .netfilter
            .requests(&[name], |b, n, name| conntrack::get(b, n, *name))
            .unwrap();
        let entry = got[0].as_ref().unwrap().unwrap();
        entry.sent.unwrap().packets
    }

    /// The number of the next packet that the callee gets, and where it came from.
    fn received(&self) -> (u64, SocketAddrV4) {
        let mut buffer = [0; 8];
        let (_, from) = undisturbed(|| self.callee.recv_from(&mut buffer)).unwrap();
        (u64::from_be_bytes(buffer), at(&from.to_string()))
    }

    /// Breaks the flow, has it explained, and mends it by the command in the sentence that has this text.
    fn breaks_and_mends(&mut self, breaking: &str, reached_forward: bool, wanted: &str) {
        shell(breaking);
        let lost = self.send();
        for reached in [None, Some(reached_forward)] {
            let text = explain(&stuck(reached), MARK, MASK);
            assert!(text.contains(wanted), "{text}");
        }
        let text = explain(&stuck(None), MARK, MASK);
        shell(command_in(&text));
        let next = self.send();
        assert_eq!(next, lost + 1);
        assert_eq!(
            self.received(),
            (next, self.entry.reply.destination),
            "{text}"
        );
    }
}

/// The command of a sentence, which ends with it or goes on with what holds after the next boot.
fn command_in(text: &str) -> &str {
    let starts = ["sysctl ", "nft ", "iptables "];
    let start = starts
        .iter()
        .filter_map(|word| text.find(word))
        .min()
        .unwrap();
    let command = &text[start..];
    command.split(", and").next().unwrap()
}

/// What makes the kernel look entries up and translate.
fn hooks(batch: &mut Batch<'_>) {
    batch.table(0);
    batch.chain("relayed", ChainKind::Filter, Hook::Forward, -10);
    batch.chain("nat_in", ChainKind::Nat, Hook::Prerouting, -100);
    batch.chain("nat_out", ChainKind::Nat, Hook::Postrouting, 100);
    batch.rule("relayed", &[Step::LoadConntrackMark, Step::Count]);
}

#[test]
fn every_cause_is_named_and_its_command_mends_it() {
    in_namespace("why packets of a forwarded flow do not leave", || {
        let mut flow = Flow::new();
        let first = flow.send();
        assert_eq!(flow.received(), (first, flow.entry.reply.destination));
        flow.breaks_and_mends(
            "sysctl -qw net.ipv4.ip_forward=0",
            false,
            "net.ipv4.ip_forward is 0",
        );
        flow.breaks_and_mends(
            "sysctl -qw net.ipv4.conf.v1.forwarding=0",
            false,
            "net.ipv4.conf.v1.forwarding is 0",
        );
        flow.breaks_and_mends(
            "ip route add 10.1.0.2/32 dev v2; sysctl -qw net.ipv4.conf.v1.rp_filter=1",
            false,
            "rp_filter on v1 drops what comes from 10.1.0.2, since v2 leads there",
        );
        flow.breaks_and_mends(
            "ip route del 10.1.0.2/32 dev v2; iptables -P FORWARD DROP",
            true,
            "chain FORWARD of table ip filter at hook forward has policy drop",
        );
        flow.breaks_and_mends(
            "nft add table inet wall
             nft add chain inet wall through '{ type filter hook forward priority 5; policy drop; }'",
            true,
            "chain through of table inet wall at hook forward has policy drop",
        );
    });
}

#[test]
fn a_missing_route_is_named() {
    in_namespace("no route to a party", || {
        let mut flow = Flow::new();
        shell("ip route del 10.2.0.0/24");
        flow.send();
        let text = explain(&stuck(None), MARK, MASK);
        assert!(
            text.starts_with("packets of 10.1.0.2:30000 to 10.1.0.1:40000 do not leave to 10.2.0.2:31000: there is no route to 10.2.0.2 ("),
            "{text}"
        );
    });
}
