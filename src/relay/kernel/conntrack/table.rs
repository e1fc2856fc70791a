//! The relay's own nftables table, which decides what of the relay's ports conntrack sees. Pure.
//!
//! A datagram on its way through:
//!
//! ```text
//!  raw_in    prerouting, raw       a flow in `forwarded` goes on to its conntrack entry, but for STUN; the rest for the
//!                                  relay's ports goes past conntrack, so that no entry clashes with ours and no flood
//!                                  fills the table
//!  raw_out   output, raw           what user space sends, and what programs on this host send to the relay, too
//!  leaving   postrouting, last     each flow's element counts what leaves of what bears our mark: what was relayed
//!  nat_in    prerouting, dstnat    an entry that a flow makes whose own was deleted gets our mark, to be found; chains of
//!                                  this type see the first packet of an entry only, so it costs the others nothing
//!  nat_out   postrouting, srcnat   no rules: with nat_in it registers the hooks that translate addresses
//!  reached   forward, first        only while it is found out why a flow's packets do not leave: counts those that
//!                                  come to FORWARD, to tell a loss before it from a loss in it
//!  abandoned prerouting, first     only while no relay is there that has handed over: when nobody has taken over within
//!                                  its time, what comes for the relay's ports goes past conntrack, and so nowhere
//!  refused   output, first         with it, and within that time: no ICMP error says that nobody has the relay's ports,
//!                                  which makes phones hang up
//!  made_..   -                     no rules: its name tells a later relay whether it may take the table over
//! ```
//!
//! Each forwarded packet pays for raw_in's first rule and the one of `leaving`, so these are as short as they can be. On a
//! Zen 3 processor with Linux 6.18 a chain takes about 50 ns, a look-up of a four-tuple 95 (its counter 30 more), a
//! range 45, `meta l4proto` 25, the mark 30, another field that is compared 10.
//!
//! The `ct` expressions register conntrack's own hooks in this network namespace; without them no packet ever
//! finds its entry.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::netlink::conntrack::Tuple;
use crate::netlink::nftables::{Batch, ChainKind, Hook, Key, Set};
use crate::netlink::rule::{Field, Relation, Step};

/// The set of the relay's own addresses, four bytes each.
pub(super) const ADDRESSES: &str = "addresses";
/// The set of the four-tuples that the kernel forwards, as they enter.
pub(super) const FORWARDED: &str = "forwarded";
/// The counted set of the four-tuples that the kernel forwards, as they leave; also a chain.
pub(super) const LEAVING: &str = "leaving";
/// The chain of [`RelayTable::abandon`].
pub(super) const ABANDONED: &str = "abandoned";
/// The other chain of [`RelayTable::abandon`].
pub(super) const REFUSED: &str = "refused";
/// The set of what is still to be forwarded, while nobody is there: UDP, for a time.
pub(super) const UNTIL: &str = "until";
/// The chain of [`watch`].
pub(super) const REACHED: &str = "reached";

const ADDRESSES_ID: u32 = 1;
const FORWARDED_ID: u32 = 2;
const LEAVING_ID: u32 = 3;
const UNTIL_ID: u32 = 4;

/// Types of keys by nft's numbers: an address, a port, and how it joins them (six bits each).
const TYPE_ADDRESS: u32 = 7;
const TYPE_PORT: u32 = 13;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_TUPLE: u32 = TYPE_ADDRESS << 18 | TYPE_PORT << 12 | TYPE_ADDRESS << 6 | TYPE_PORT;

/// Priorities of hooks (NF_IP_PRI_*): the lower, the earlier.
const FIRST: i32 = -301;
const RAW: i32 = -300;
const NAT_DESTINATION: i32 = -100;
const NAT_SOURCE: i32 = 100;
/// After source NAT and after other tables' filters.
const LAST: i32 = 1000;

const UDP: [u8; 1] = [17];
const ICMP: [u8; 1] = [1];
/// Type and code.
const PORT_UNREACHABLE: [u8; 2] = [3, 3];

/// Goes on if the packet is UDP.
const IS_UDP: [Step<'static>; 2] = [
    Step::Load(Field::Protocol),
    Step::Compare(Relation::Equal, &UDP),
];

/// The magic cookie of STUN (RFC 8489 section 5). Checks go by user space, which knows them from media.
const STUN: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

/// The table of a relay, by its first port: relays on one host have different ones.
pub(super) fn table_name(first_port: u16) -> String {
    format!("mediaproxy_{first_port}")
}

/// How many rules each chain has: one that somebody has emptied is not taken over.
pub(super) const RULES: [(&str, usize); 4] =
    [("raw_in", 2), ("raw_out", 2), (LEAVING, 1), ("nat_in", 1)];

/// What the table is made of besides its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RelayTable<'a> {
    /// The relay's ports.
    pub ports: RangeInclusive<u16>,
    /// The relay's own addresses.
    pub addresses: &'a [Ipv4Addr],
    /// The mark of our conntrack entries.
    pub mark: u32,
    /// The bits of a mark that tell ours from others.
    pub mask: u32,
    /// Four-tuples at most, in each of the two sets.
    pub size: u32,
}

impl RelayTable<'_> {
    /// Adds all that is in the table to a transaction that has made it. Only where nothing is relayed yet: the hooks
    /// of a chain are called from the moment on that a transaction is prepared, and its rules when all of it is done.
    /// Meanwhile conntrack would see what user space sends, and give it other ports.
    pub(super) fn fill(&self, batch: &mut Batch<'_>) {
        self.shut(batch);
        self.open(batch);
    }

    /// The part that keeps all of the relay's ports from conntrack, and the set of what may pass, empty.
    pub(super) fn shut(&self, batch: &mut Batch<'_>) {
        let (first, last) = self.range();
        let ports = Ports {
            first: &first,
            last: &last,
        };
        batch.chain("raw_in", ChainKind::Filter, Hook::Prerouting, RAW);
        batch.chain("raw_out", ChainKind::Filter, Hook::Output, RAW);
        batch.set(&Set {
            name: ADDRESSES,
            id: ADDRESSES_ID,
            key_type: TYPE_ADDRESS,
            key_length: 4,
            size: None,
            counted: false,
            expires: false,
        });
        batch.add(ADDRESSES, self.addresses.iter().map(Ipv4Addr::octets));
        batch.set(&self.forwarded());
        add_entry_rules(batch, ports);
    }

    /// The part that makes conntrack see and translate what passes, and that counts it.
    pub(super) fn open(&self, batch: &mut Batch<'_>) {
        use ChainKind::{Filter, Nat};
        batch.chain(LEAVING, Filter, Hook::Postrouting, LAST);
        batch.chain("nat_in", Nat, Hook::Prerouting, NAT_DESTINATION);
        batch.chain("nat_out", Nat, Hook::Postrouting, NAT_SOURCE);
        batch.set(&Set {
            name: LEAVING,
            id: LEAVING_ID,
            counted: true,
            ..self.forwarded()
        });
        let (first, last) = self.range();
        let ports = Ports {
            first: &first,
            last: &last,
        };
        self.add_watch_rules(batch, ports);
    }

    /// Has the kernel forward for so long and no longer: for who ends and expects another one to take over.
    pub(super) fn abandon(&self, time: Duration, batch: &mut Batch<'_>) {
        self.end_after(time, batch);
        self.refuse_nothing(batch);
    }

    fn end_after(&self, time: Duration, batch: &mut Batch<'_>) {
        batch.set(&Set {
            name: UNTIL,
            id: UNTIL_ID,
            key_type: TYPE_PROTOCOL,
            key_length: 1,
            size: None,
            counted: false,
            expires: true,
        });
        batch.add_for(UNTIL, &UDP, time);
        batch.chain(ABANDONED, ChainKind::Filter, Hook::Prerouting, FIRST);
        let (first, last) = self.range();
        let ports = Ports {
            first: &first,
            last: &last,
        };
        let is_over = [
            Step::Load(Field::Protocol),
            Step::NotIn {
                set: UNTIL,
                id: UNTIL_ID,
            },
            Step::Notrack,
        ];
        let to_ports = ports.of(Field::DestinationPort);
        let parts = [&to_ports[..], &ours(Field::Destination), &is_over];
        batch.rule(ABANDONED, &parts.concat());
    }

    /// Has it send no ICMP error within that time about the relay's ports.
    fn refuse_nothing(&self, batch: &mut Batch<'_>) {
        let (first, last) = self.range();
        batch.chain(REFUSED, ChainKind::Filter, Hook::Output, FIRST);
        let is_about = [
            Step::Load(Field::Protocol),
            Step::Compare(Relation::Equal, &ICMP),
            Step::Load(Field::IcmpKind),
            Step::Compare(Relation::Equal, &PORT_UNREACHABLE),
            Step::Load(Field::RefusedProtocol),
            Step::In {
                set: UNTIL,
                id: UNTIL_ID,
            },
            Step::Load(Field::RefusedDestinationPort),
            Step::Compare(Relation::AtLeast, &first),
            Step::Compare(Relation::AtMost, &last),
        ];
        let parts = [
            &is_about[..],
            &ours(Field::RefusedDestination),
            &[Step::Drop],
        ];
        batch.rule(REFUSED, &parts.concat());
    }

    /// The chain whose name tells what the table is made of, but for the addresses: only a relay that would make the same
    /// one may take it over as it is.
    pub(super) fn maker(&self) -> String {
        let mut batch = Batch::begin("", 0);
        let same = RelayTable {
            addresses: &[],
            ..self.clone()
        };
        same.fill(&mut batch);
        let (bytes, _) = batch.end_acknowledged().unwrap_or_default();
        // FNV-1a: the same in every version.
        let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("made_{hash:016x}")
    }

    fn range(&self) -> ([u8; 2], [u8; 2]) {
        let (first, last) = (self.ports.start(), self.ports.end());
        (first.to_be_bytes(), last.to_be_bytes())
    }

    /// The set [`FORWARDED`].
    fn forwarded(&self) -> Set<'static> {
        Set {
            name: FORWARDED,
            id: FORWARDED_ID,
            key_type: TYPE_TUPLE,
            key_length: size_of::<Key>() as u32,
            size: Some(self.size),
            counted: false,
            expires: false,
        }
    }

    /// Those that mark and count.
    fn add_watch_rules(&self, batch: &mut Batch<'_>, ports: Ports<'_>) {
        // What user space sends leaves by the same tuples, untracked and so without a mark. All that has our mark is
        // UDP, but for ICMP errors about it: their type, code and checksum are no ports of the flow's.
        let mark = (self.mark & self.mask).to_ne_bytes();
        let counted = [
            &marked(self.mask, &mark)[..],
            &tuple_in(LEAVING, LEAVING_ID),
        ];
        batch.rule(LEAVING, &counted.concat());

        let to_ports = ports.of(Field::DestinationPort);
        let mark = [Step::SetConntrackMark(self.mark)];
        let parts = [&to_ports[..], &ours(Field::Destination), &mark];
        batch.rule("nat_in", &parts.concat());
    }
}

/// Adds the chain [`REACHED`] to a table, with one rule: it counts what comes to hook forward on its way `from` one party
/// `to` the other, whose address the packets have by then.
pub(super) fn watch(
    batch: &mut Batch<'_>,
    mark: u32,
    mask: u32,
    from: SocketAddrV4,
    to: SocketAddrV4,
) {
    let mark = (mark & mask).to_ne_bytes();
    let (source, destination) = (from.ip().octets(), to.ip().octets());
    let ([a, b], [c, d]) = (from.port().to_be_bytes(), to.port().to_be_bytes());
    let ports = [a, b, c, d];
    let of_flow = [
        Step::Load(Field::Source),
        Step::Compare(Relation::Equal, &source),
        Step::Load(Field::Ports),
        Step::Compare(Relation::Equal, &ports),
        Step::Load(Field::Destination),
        Step::Compare(Relation::Equal, &destination),
        Step::Count,
    ];
    batch.chain(REACHED, ChainKind::Filter, Hook::Forward, RAW);
    batch.rule(REACHED, &[&marked(mask, &mark)[..], &of_flow].concat());
}

/// A four-tuple as the sets have it: source and destination, each an address, a port and two bytes of nothing.
pub(super) fn key(tuple: Tuple) -> Key {
    let mut key = Key::default();
    for (half, end) in key
        .chunks_exact_mut(8)
        .zip([tuple.source, tuple.destination])
    {
        half[..4].copy_from_slice(&end.ip().octets());
        half[4..6].copy_from_slice(&end.port().to_be_bytes());
    }
    key
}

/// The four-tuple of a set's key.
pub(super) fn tuple(key: &Key) -> Tuple {
    let end = |at: usize| {
        let ip = Ipv4Addr::new(key[at], key[at + 1], key[at + 2], key[at + 3]);
        SocketAddrV4::new(ip, u16::from_be_bytes([key[at + 4], key[at + 5]]))
    };
    Tuple {
        source: end(0),
        destination: end(8),
    }
}

/// Those that let flows through to conntrack and keep the rest from it.
fn add_entry_rules(batch: &mut Batch<'_>, ports: Ports<'_>) {
    let to_ports = ports.of(Field::DestinationPort);
    let from_ports = ports.of(Field::SourcePort);
    let notrack = [Step::Notrack];
    let not_stun = [
        Step::Load(Field::Cookie),
        Step::Compare(Relation::NotEqual, &STUN),
    ];
    // The range is not asked for: no tuple of the set has another port.
    let forwarded = tuple_in(FORWARDED, FORWARDED_ID);
    let pass = [&IS_UDP[..], &forwarded, &not_stun, &[Step::Accept]];
    batch.rule("raw_in", &pass.concat());
    let rules = [
        (
            "raw_in",
            [&to_ports[..], &ours(Field::Destination), &notrack],
        ),
        ("raw_out", [&ours(Field::Source), &from_ports, &notrack]),
        ("raw_out", [&ours(Field::Destination), &to_ports, &notrack]),
    ];
    for (chain, parts) in rules {
        batch.rule(chain, &parts.concat());
    }
}

/// The relay's ports as a packet has them.
#[derive(Clone, Copy)]
struct Ports<'p> {
    first: &'p [u8; 2],
    last: &'p [u8; 2],
}

impl<'p> Ports<'p> {
    /// Goes on if the packet is UDP and this port of it is in the range.
    fn of(self, field: Field) -> [Step<'p>; 5] {
        [
            IS_UDP[0],
            IS_UDP[1],
            Step::Load(field),
            Step::Compare(Relation::AtLeast, self.first),
            Step::Compare(Relation::AtMost, self.last),
        ]
    }
}

/// Goes on if the packet's conntrack entry has this mark, in the host's byte order, under this mask.
fn marked(mask: u32, mark: &[u8; 4]) -> [Step<'_>; 3] {
    [
        Step::LoadConntrackMark,
        Step::And(mask),
        Step::Compare(Relation::Equal, mark),
    ]
}

/// Goes on if this address of the packet is one of the relay's.
fn ours(field: Field) -> [Step<'static>; 2] {
    let set = Step::In {
        set: ADDRESSES,
        id: ADDRESSES_ID,
    };
    [Step::Load(field), set]
}

/// Goes on if the packet's four-tuple is in a set.
fn tuple_in(set: &'static str, id: u32) -> [Step<'static>; 5] {
    [
        Step::Load(Field::Source),
        Step::LoadQuarter(Field::SourcePort, 1),
        Step::LoadQuarter(Field::Destination, 2),
        Step::LoadQuarter(Field::DestinationPort, 3),
        Step::In { set, id },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::conntrack::NatEntry;
    use crate::netlink::message::{Message, Messages};
    use crate::netlink::tests::vectors::bytes;

    /// What `nft -f` passed to sendmsg() for the table below; nft 1.0.6. A paragraph is a message.
    ///
    /// ```text
    /// table ip mediaproxy_40000 {
    ///   set addresses { type ipv4_addr; elements = { 10.0.0.1, 127.0.0.1 }; }
    ///   set forwarded { type ipv4_addr . inet_service . ipv4_addr . inet_service; size 8000; }
    ///   set leaving { type ipv4_addr . inet_service . ipv4_addr . inet_service; size 8000; counter; }
    ///   chain raw_in {
    ///     type filter hook prerouting priority raw;
    ///     ip protocol udp ip saddr . udp sport . ip daddr . udp dport @forwarded \
    ///       @th,96,32 != 0x2112a442 accept
    ///     ip protocol udp udp dport 40000-59999 ip daddr @addresses notrack
    ///   }
    ///   chain raw_out {
    ///     type filter hook output priority raw;
    ///     ip saddr @addresses ip protocol udp udp sport 40000-59999 notrack
    ///     ip daddr @addresses ip protocol udp udp dport 40000-59999 notrack
    ///   }
    ///   chain leaving {
    ///     type filter hook postrouting priority 1000;
    ///     ct mark & 0xffff0000 == 0x4d500000 ip saddr . th sport . ip daddr . th dport @leaving
    ///   }
    ///   chain nat_in {
    ///     type nat hook prerouting priority dstnat;
    ///     ip protocol udp udp dport 40000-59999 ip daddr @addresses ct mark set 0x4d500000
    ///   }
    ///   chain nat_out { type nat hook postrouting priority srcnat; }
    /// }
    /// ```
    const TABLE: &str = include_str!("tests/table.hex");

    /// The same for this, added to it:
    ///
    /// ```text
    /// table ip mediaproxy_40000 {
    ///   chain reached {
    ///     type filter hook forward priority raw;
    ///     ct mark & 0xffff0000 == 0x4d500000 ip saddr 192.0.2.1 th sport 30000 ip daddr 192.0.2.2 th dport 31000 counter
    ///   }
    /// }
    /// ```
    const WATCH: &str = include_str!("tests/watch.hex");

    /// The same for this, with the numbers of sets that the relay gives them:
    ///
    /// ```text
    /// table ip mediaproxy_40000 {
    ///   set until { type inet_proto; flags timeout; elements = { udp timeout 60s }; }
    ///   chain abandoned {
    ///     type filter hook prerouting priority -301;
    ///     ip protocol udp udp dport 40000-59999 ip daddr @addresses ip protocol != @until notrack
    ///   }
    /// }
    /// ```
    const ABANDONED_TABLE: &str = include_str!("tests/abandoned.hex");

    /// What nft adds and the kernel does not need, by message, depth and attribute: how it shows a set
    /// (NFTA_SET_USERDATA), a set's number beside its name (NFTA_SET_ELEM_LIST_SET_ID), the usual operation of
    /// `bitwise` (NFTA_BITWISE_OP).
    const LEFT_OUT: [(u16, usize, u16); 3] = [(0x0a09, 0, 13), (0x0a0c, 0, 4), (0x0a06, 3, 6)];

    /// The attributes of a message's body: depth, type, value of those that hold no others. nft numbers the members
    /// of a list, which nobody reads.
    fn attributes(message: u16, body: &[u8], depth: usize) -> Vec<(usize, u16, Vec<u8>)> {
        let mut list = Vec::new();
        let mut rest = body;
        while let [low, high, kind_low, kind_high, ..] = *rest {
            let length = usize::from(u16::from_ne_bytes([low, high]));
            let kind = u16::from_ne_bytes([kind_low, kind_high]);
            let value = &rest[4..length];
            if kind & 0x8000 != 0 {
                let kind = if depth == 1 { 1 } else { kind & 0x7fff };
                list.push((depth, kind, Vec::new()));
                list.extend(attributes(message, value, depth + 1));
            } else if !LEFT_OUT.contains(&(message, depth, kind)) {
                list.push((depth, kind, value.to_vec()));
            }
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
        list
    }

    const OWN: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::LOCALHOST];

    fn table() -> RelayTable<'static> {
        RelayTable {
            ports: 40000..=59999,
            addresses: &OWN,
            mark: 0x4d50_0000,
            mask: 0xffff_0000,
            size: 8000,
        }
    }

    /// Whoever changes the table finds this changed: after an upgrade from a version with another one, calls go by user
    /// space for a moment.
    #[test]
    fn a_table_is_known_by_what_it_is_made_of() {
        assert_eq!(table().maker(), "made_80389dc2f081b1c6");
        let moved = RelayTable {
            addresses: &[],
            ..table()
        };
        assert_eq!(moved.maker(), table().maker(), "addresses come and go");
        let wider = RelayTable {
            ports: 40000..=60001,
            ..table()
        };
        assert_ne!(wider.maker(), table().maker());
    }

    #[test]
    fn what_is_left_for_a_time_is_as_nft_makes_it() {
        let mut batch = Batch::begin("mediaproxy_40000", 0);
        batch.table(0);
        table().end_after(Duration::from_secs(60), &mut batch);
        assert_as_sent(batch, ABANDONED_TABLE);
    }

    #[test]
    fn the_table_is_as_nft_makes_it() {
        let mut batch = Batch::begin("mediaproxy_40000", 0);
        batch.table(0);
        table().fill(&mut batch);
        assert_as_sent(batch, TABLE);
    }

    #[test]
    fn a_way_is_watched_as_nft_would() {
        let mut batch = Batch::begin("mediaproxy_40000", 0);
        let [from, to] = ["192.0.2.1:30000", "192.0.2.2:31000"].map(|end| end.parse().unwrap());
        batch.table(0);
        watch(&mut batch, 0x4d50_0000, 0xffff_0000, from, to);
        assert_as_sent(batch, WATCH);
    }

    /// Messages of one kind are in nft's order; which kind comes first is our own affair.
    fn assert_as_sent(batch: Batch<'_>, sent: &str) {
        let (ours, _) = batch.end_acknowledged().unwrap();
        let shown = |batch: &[u8]| {
            let messages: Vec<_> = Messages::new(batch).map(Result::unwrap).collect();
            let shown = |message: &Message<'_>| {
                let attributes = attributes(message.kind, &message.body[4..], 0);
                (message.kind, attributes)
            };
            let mut shown: Vec<_> = messages[1..messages.len() - 1].iter().map(shown).collect();
            shown.sort_by_key(|(kind, _)| *kind);
            shown
        };
        let (ours, theirs) = (shown(&ours), shown(&bytes(sent)));
        assert_eq!(ours.len(), theirs.len());
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn a_flow_is_known_by_its_tuples_as_it_enters_and_as_it_leaves() {
        let tuple = |source: &str, destination: &str| Tuple {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        };
        let entry = NatEntry {
            original: tuple("192.0.2.1:30000", "10.0.0.1:40000"),
            reply: tuple("192.0.2.2:31000", "10.0.0.1:40002"),
        };
        for way in entry.entering() {
            assert_eq!(super::tuple(&key(way)), way);
        }
        let [from_caller, from_callee] = entry.entering().map(key);
        assert_eq!(
            from_caller[..],
            bytes("c0000201 75300000 0a000001 9c400000")
        );
        assert_eq!(
            from_callee[..],
            bytes("c0000202 79180000 0a000001 9c420000")
        );
        let [to_callee, to_caller] = entry.leaving().map(key);
        assert_eq!(to_callee[..], bytes("0a000001 9c420000 c0000202 79180000"));
        assert_eq!(to_caller[..], bytes("0a000001 9c400000 c0000201 75300000"));
    }
}
