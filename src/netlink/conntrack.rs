//! Conntrack entries that forward one component both ways (linux/netfilter/nfnetlink_conntrack.h). Pure.
//!
//! An entry as it is asked for, from the caller to the callee:
//!
//! ```text
//!  CTA_TUPLE_ORIG   caller -> relay's caller-side port
//!  CTA_TUPLE_REPLY  its plain inverse; the kernel derives the real one from the NAT attributes
//!  CTA_NAT_DST      to the callee
//!  CTA_NAT_SRC      from the relay's callee-side port
//!  CTA_STATUS       seen both ways, assured (a full table evicts no live call), fixed time-out
//!  CTA_TIMEOUT      seconds
//!  CTA_MARK         whose it is
//! ```

use std::net::SocketAddrV4;

use super::message::{self, Attributes, Builder, Message, Truncated, be16, be32, be64};
use crate::counters::Counters;

/// NFNL_SUBSYS_CTNETLINK.
const SUBSYSTEM: u16 = 1;
/// IPCTNL_MSG_CT_NEW, also of events and of answers.
pub const NEW: u16 = SUBSYSTEM << 8;
/// IPCTNL_MSG_CT_GET.
pub const GET: u16 = SUBSYSTEM << 8 | 1;
/// IPCTNL_MSG_CT_DELETE, also of events.
pub const DELETE: u16 = SUBSYSTEM << 8 | 2;

/// Multicast group of DESTROY events (NFNLGRP_CONNTRACK_DESTROY).
pub const GROUP_DESTROY: u32 = 3;

const AF_INET: u8 = 2;
const UDP: u8 = 17;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_NAT_SRC: u16 = 6;
const CTA_TIMEOUT: u16 = 7;
const CTA_MARK: u16 = 8;
const CTA_COUNTERS_ORIG: u16 = 9;
const CTA_COUNTERS_REPLY: u16 = 10;
const CTA_ID: u16 = 12;
const CTA_NAT_DST: u16 = 13;
const CTA_MARK_MASK: u16 = 21;

const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_NAT_V4_MINIP: u16 = 1;
const CTA_NAT_PROTO: u16 = 3;
const CTA_PROTONAT_PORT_MIN: u16 = 1;
const CTA_PROTONAT_PORT_MAX: u16 = 2;
const CTA_COUNTERS_PACKETS: u16 = 1;
const CTA_COUNTERS_BYTES: u16 = 2;

/// enum ip_conntrack_status: packets were seen both ways, a full table does not evict it, it is in the table,
/// its time-out is not changed by packets.
const STATUS: u32 = 0x2 | 0x4 | 0x8 | 0x400;

/// Where a datagram comes from and goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    pub source: SocketAddrV4,
    pub destination: SocketAddrV4,
}

impl Tuple {
    /// A datagram the other way.
    pub fn inverse(self) -> Tuple {
        Tuple {
            source: self.destination,
            destination: self.source,
        }
    }
}

/// An entry that forwards both ways: what its datagrams are like as they enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatEntry {
    /// The caller's; names the entry.
    pub original: Tuple,
    /// The callee's.
    pub reply: Tuple,
}

impl NatEntry {
    /// Datagrams as they enter, the caller's first.
    pub fn entering(&self) -> [Tuple; 2] {
        [self.original, self.reply]
    }

    /// The same datagrams as they leave.
    pub fn leaving(&self) -> [Tuple; 2] {
        [self.reply.inverse(), self.original.inverse()]
    }
}

/// An entry as the kernel tells of it, in a dump, an answer or an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub original: Tuple,
    pub reply: Tuple,
    pub mark: u32,
    /// Tells two entries with the same tuples apart.
    pub id: u32,
    /// Seconds left; none in an event.
    pub timeout: Option<u32>,
    /// From the source of `original`; none where accounting was off when it was made.
    pub sent: Option<Counters>,
    /// From the source of `reply`.
    pub received: Option<Counters>,
}

/// Asks for an entry; EEXIST when one of its tuples is in use.
pub fn create(builder: &mut Builder, sequence: u32, entry: &NatEntry, mark: u32, timeout: u32) {
    let flags = message::REQUEST | message::ACK | message::CREATE | message::EXCL;
    builder.message(NEW, flags, sequence, AF_INET, 0);
    put_tuple(builder, CTA_TUPLE_ORIG, entry.original);
    put_tuple(builder, CTA_TUPLE_REPLY, entry.original.inverse());
    builder.put_be32(CTA_STATUS, STATUS);
    builder.put_be32(CTA_TIMEOUT, timeout);
    builder.put_be32(CTA_MARK, mark);
    put_nat(builder, CTA_NAT_SRC, entry.reply.destination);
    put_nat(builder, CTA_NAT_DST, entry.reply.source);
}

/// Asks for one entry, by either of its tuples as datagrams enter.
pub fn get(builder: &mut Builder, sequence: u32, tuple: Tuple) {
    builder.message(GET, message::REQUEST | message::ACK, sequence, AF_INET, 0);
    put_tuple(builder, CTA_TUPLE_ORIG, tuple);
}

/// Deletes an entry by the tuple that names it. The answer repeats it with its last counters, but, with
/// `nf_conntrack_events` = 2, only if somebody in this network namespace listened to events when it was made.
pub fn delete(builder: &mut Builder, sequence: u32, tuple: Tuple, id: Option<u32>) {
    let flags = message::REQUEST | message::ACK | message::ECHO;
    builder.message(DELETE, flags, sequence, AF_INET, 0);
    put_tuple(builder, CTA_TUPLE_ORIG, tuple);
    if let Some(id) = id {
        builder.put_be32(CTA_ID, id);
    }
}

/// Asks for all entries whose mark, masked, is `mark`.
pub fn dump(builder: &mut Builder, sequence: u32, mark: u32, mask: u32) {
    builder.message(GET, message::REQUEST | message::DUMP, sequence, AF_INET, 0);
    builder.put_be32(CTA_MARK, mark);
    builder.put_be32(CTA_MARK_MASK, mask);
}

/// Reads an entry from an answer or an event; none where it is another subsystem's, not IPv4 or has no ports.
pub fn parse(message: &Message<'_>) -> Result<Option<Entry>, Truncated> {
    if message.kind >> 8 != SUBSYSTEM {
        return Ok(None);
    }
    let (mut original, mut reply) = (None, None);
    let (mut mark, mut id, mut timeout) = (0, 0, None);
    let (mut sent, mut received) = (None, None);
    for attribute in message.attributes()? {
        let (kind, value) = attribute?;
        match kind {
            CTA_TUPLE_ORIG => original = parse_tuple(value)?,
            CTA_TUPLE_REPLY => reply = parse_tuple(value)?,
            CTA_MARK => mark = be32(value)?,
            CTA_ID => id = be32(value)?,
            CTA_TIMEOUT => timeout = Some(be32(value)?),
            CTA_COUNTERS_ORIG => sent = Some(parse_counters(value)?),
            CTA_COUNTERS_REPLY => received = Some(parse_counters(value)?),
            _ => {}
        }
    }
    let (Some(original), Some(reply)) = (original, reply) else {
        return Ok(None);
    };
    Ok(Some(Entry {
        original,
        reply,
        mark,
        id,
        timeout,
        sent,
        received,
    }))
}

fn put_tuple(builder: &mut Builder, kind: u16, tuple: Tuple) {
    let nest = builder.begin(kind);
    let addresses = builder.begin(CTA_TUPLE_IP);
    builder.put_ip(CTA_IP_V4_SRC, *tuple.source.ip());
    builder.put_ip(CTA_IP_V4_DST, *tuple.destination.ip());
    builder.end(addresses);
    let protocol = builder.begin(CTA_TUPLE_PROTO);
    builder.put_u8(CTA_PROTO_NUM, UDP);
    builder.put_be16(CTA_PROTO_SRC_PORT, tuple.source.port());
    builder.put_be16(CTA_PROTO_DST_PORT, tuple.destination.port());
    builder.end(protocol);
    builder.end(nest);
}

fn put_nat(builder: &mut Builder, kind: u16, to: SocketAddrV4) {
    let nest = builder.begin(kind);
    builder.put_ip(CTA_NAT_V4_MINIP, *to.ip());
    let protocol = builder.begin(CTA_NAT_PROTO);
    builder.put_be16(CTA_PROTONAT_PORT_MIN, to.port());
    builder.put_be16(CTA_PROTONAT_PORT_MAX, to.port());
    builder.end(protocol);
    builder.end(nest);
}

fn parse_tuple(value: &[u8]) -> Result<Option<Tuple>, Truncated> {
    let (mut source, mut destination) = (None, None);
    let (mut source_port, mut destination_port) = (None, None);
    for attribute in Attributes::nested(value) {
        let (kind, value) = attribute?;
        for attribute in Attributes::nested(value) {
            let (inner, value) = attribute?;
            match (kind, inner) {
                (CTA_TUPLE_IP, CTA_IP_V4_SRC) => source = Some(message::ip(value)?),
                (CTA_TUPLE_IP, CTA_IP_V4_DST) => destination = Some(message::ip(value)?),
                (CTA_TUPLE_PROTO, CTA_PROTO_SRC_PORT) => source_port = Some(be16(value)?),
                (CTA_TUPLE_PROTO, CTA_PROTO_DST_PORT) => destination_port = Some(be16(value)?),
                _ => {}
            }
        }
    }
    let end = |ip: Option<_>, port: Option<_>| Some(SocketAddrV4::new(ip?, port?));
    let tuple = |source, destination| Tuple {
        source,
        destination,
    };
    Ok(end(source, source_port)
        .zip(end(destination, destination_port))
        .map(|(source, destination)| tuple(source, destination)))
}

fn parse_counters(value: &[u8]) -> Result<Counters, Truncated> {
    let mut counters = Counters::default();
    for attribute in Attributes::nested(value) {
        let (kind, value) = attribute?;
        match kind {
            CTA_COUNTERS_PACKETS => counters.packets = be64(value)?,
            CTA_COUNTERS_BYTES => counters.bytes = be64(value)?,
            _ => {}
        }
    }
    Ok(counters)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::message::Messages;
    use crate::netlink::tests::vectors::bytes;

    fn entry() -> NatEntry {
        let tuple = |source: &str, destination: &str| Tuple {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        };
        NatEntry {
            original: tuple("192.0.2.1:30000", "10.0.0.1:40000"),
            reply: tuple("192.0.2.2:31000", "10.0.0.1:40002"),
        }
    }

    /// `strace -xx conntrack -I -p udp -s 192.0.2.1 -d 10.0.0.1 --sport 30000 --dport 40000
    ///  --dst-nat 192.0.2.2:31000 --src-nat 10.0.0.1:40002 --timeout 60 --mark 77`; conntrack 1.4.7. The header,
    /// the status (which that command cannot set) and the padding, which it leaves as it finds it, are not its.
    const CREATED: &str = "
        3400 0180 1400 0180 0800 0100 c0000201 0800 0200 0a000001
                  1c00 0280 0500 0100 11000000 0600 0200 75300000 0600 0300 9c400000
        3400 0280 1400 0180 0800 0100 0a000001 0800 0200 c0000201
                  1c00 0280 0500 0100 11000000 0600 0200 9c400000 0600 0300 75300000";
    const STATUS_ATTRIBUTE: &str = "0800 0300 0000040e";
    const CREATED_REST: &str = "
        0800 0700 0000003c
        0800 0800 0000004d
        2000 0680 0800 0100 0a000001 1400 0380 0600 0100 9c420000 0600 0200 9c420000
        2000 0d80 0800 0100 c0000202 1400 0380 0600 0100 79180000 0600 0200 79180000";

    #[test]
    fn an_entry_is_asked_for_as_conntrack_does() {
        let mut builder = Builder::default();
        create(&mut builder, 1, &entry(), 77, 60);
        let want = [bytes(CREATED), bytes(STATUS_ATTRIBUTE), bytes(CREATED_REST)].concat();
        assert_eq!(builder.bytes()[20..], want);
        let header = &builder.bytes()[..20];
        assert_eq!(header[..8], bytes("d4000000 0001 0506"));
        assert_eq!(header[16..], [2, 0, 0, 0]);
    }

    /// `strace -xx conntrack -L --mark 77/0xff`; conntrack 1.4.7, which asks for every family.
    #[test]
    fn a_dump_is_asked_for_as_conntrack_does() {
        let mut builder = Builder::default();
        dump(&mut builder, 0x6b04_b8b4, 77, 0xff);
        let want = bytes(
            "24000000 0101 0103 b4b8046b 00000000 02000000 08000800 0000004d 08001500 000000ff",
        );
        assert_eq!(builder.bytes(), want);
    }

    #[test]
    fn what_the_kernel_tells_of_an_entry() {
        let mut builder = Builder::default();
        builder.message(NEW, 0, 1, AF_INET, 0);
        put_tuple(&mut builder, CTA_TUPLE_ORIG, entry().original);
        put_tuple(&mut builder, CTA_TUPLE_REPLY, entry().reply);
        let counters = builder.begin(CTA_COUNTERS_ORIG);
        builder.put_be64(CTA_COUNTERS_PACKETS, 1 << 33);
        builder.put_be64(CTA_COUNTERS_BYTES, 1 << 40);
        builder.end(counters);
        builder.put_be32(CTA_MARK, 77);
        builder.put_be32(CTA_ID, 9);
        builder.put_be32(CTA_TIMEOUT, 59);
        let message = Messages::new(builder.bytes()).next().unwrap().unwrap();
        let read = parse(&message).unwrap().unwrap();
        assert_eq!(
            (read.original, read.reply),
            (entry().original, entry().reply)
        );
        assert_eq!((read.mark, read.id, read.timeout), (77, 9, Some(59)));
        let sent = Counters {
            packets: 1 << 33,
            bytes: 1 << 40,
        };
        assert_eq!((read.sent, read.received), (Some(sent), None));
        for end in 0..message.body.len() {
            let cut = Message {
                body: &message.body[..end],
                ..message
            };
            assert!(
                !matches!(parse(&cut), Ok(Some(entry)) if entry.timeout.is_some()),
                "{end}"
            );
        }
    }
}
