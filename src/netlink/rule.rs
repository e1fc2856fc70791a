//! The expressions of nftables rules (linux/netfilter/nf_tables.h). Pure.
//!
//! A rule is a list of expressions that work on registers; each here is a [`Step`].

use super::message::Builder;

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;

/// NFT_REG_1, sixteen bytes; its four quarters are also NFT_REG32_00 to 03, numbered from 8.
const REGISTER: u32 = 1;
const REGISTER_VERDICT: u32 = 0;
const NF_ACCEPT: u32 = 1;
const NF_DROP: u32 = 0;

/// NFT_CT_MARK.
const CT_MARK: u32 = 3;

/// What a packet's bytes are compared to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    Equal = 0,
    NotEqual = 1,
    AtMost = 3,
    AtLeast = 5,
}

/// A field of the packet (IPv4, UDP and ICMP headers): base, offset, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// What the datagram carries (IPPROTO_*).
    Protocol,
    Source,
    Destination,
    SourcePort,
    DestinationPort,
    /// Both ports at once, the source's first.
    Ports,
    /// Four bytes of a datagram where STUN has its magic cookie (RFC 8489 section 5); a rule ends where it is shorter.
    Cookie,
    /// Type and code of an ICMP message, and of the UDP datagram that it is about (RFC 792; a header without options).
    IcmpKind,
    RefusedProtocol,
    RefusedDestination,
    RefusedDestinationPort,
}

impl Field {
    fn place(self) -> (u32, u32, u32) {
        const NETWORK: u32 = 1;
        const TRANSPORT: u32 = 2;
        match self {
            Field::Protocol => (NETWORK, 9, 1),
            Field::Source => (NETWORK, 12, 4),
            Field::Destination => (NETWORK, 16, 4),
            Field::SourcePort => (TRANSPORT, 0, 2),
            Field::DestinationPort => (TRANSPORT, 2, 2),
            Field::Ports => (TRANSPORT, 0, 4),
            Field::Cookie => (TRANSPORT, 12, 4),
            Field::IcmpKind => (TRANSPORT, 0, 2),
            Field::RefusedProtocol => (TRANSPORT, 17, 1),
            Field::RefusedDestination => (TRANSPORT, 24, 4),
            Field::RefusedDestinationPort => (TRANSPORT, 30, 2),
        }
    }
}

/// A step of a rule. All but `Load` into a quarter work on the first register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    Load(Field),
    /// Into one of the register's four quarters, for keys of several fields.
    LoadQuarter(Field, u32),
    LoadConntrackMark,
    /// Keeps the bits of `mask`, which is in the host's byte order.
    And(u32),
    Compare(Relation, &'a [u8]),
    /// Goes on only if what was loaded is in the set.
    In {
        set: &'a str,
        id: u32,
    },
    NotIn {
        set: &'a str,
        id: u32,
    },
    SetConntrackMark(u32),
    Notrack,
    Count,
    Accept,
    Drop,
}

/// Data of a key or a comparison.
pub(super) fn put_data(builder: &mut Builder, kind: u16, value: &[u8]) {
    let nest = builder.begin(kind);
    builder.put(NFTA_DATA_VALUE, value);
    builder.end(nest);
}

/// Adds the expressions of one step to the list that was begun.
pub(super) fn put_step(builder: &mut Builder, step: &Step<'_>) {
    match *step {
        Step::Load(field) => put_payload(builder, field, REGISTER),
        Step::LoadQuarter(field, quarter) => put_payload(builder, field, 8 + quarter),
        Step::LoadConntrackMark => put_conntrack_load(builder, CT_MARK),
        Step::And(mask) => expression(builder, "bitwise", |b| {
            b.put_be32(1, REGISTER);
            b.put_be32(2, REGISTER);
            b.put_be32(3, 4);
            put_data(b, 4, &mask.to_ne_bytes());
            put_data(b, 5, &[0; 4]);
        }),
        Step::Compare(relation, value) => expression(builder, "cmp", |b| {
            b.put_be32(1, REGISTER);
            b.put_be32(2, relation as u32);
            put_data(b, 3, value);
        }),
        Step::In { set, id } => put_lookup(builder, set, id, false),
        Step::NotIn { set, id } => put_lookup(builder, set, id, true),
        Step::SetConntrackMark(mark) => {
            expression(builder, "immediate", |b| {
                b.put_be32(1, REGISTER);
                put_data(b, 2, &mark.to_ne_bytes());
            });
            expression(builder, "ct", |b| {
                b.put_be32(2, CT_MARK);
                b.put_be32(4, REGISTER);
            });
        }
        Step::Notrack => {
            let nest = builder.begin(NFTA_LIST_ELEM);
            builder.put_name(NFTA_EXPR_NAME, "notrack");
            builder.end(nest);
        }
        Step::Count => put_counter(builder, NFTA_LIST_ELEM),
        Step::Accept => put_verdict(builder, NF_ACCEPT),
        Step::Drop => put_verdict(builder, NF_DROP),
    }
}

fn put_verdict(builder: &mut Builder, code: u32) {
    expression(builder, "immediate", |b| {
        b.put_be32(1, REGISTER_VERDICT);
        let data = b.begin(2);
        let verdict = b.begin(NFTA_DATA_VERDICT);
        b.put_be32(NFTA_VERDICT_CODE, code);
        b.end(verdict);
        b.end(data);
    });
}

fn expression(builder: &mut Builder, name: &str, fill: impl FnOnce(&mut Builder)) {
    expression_in(builder, NFTA_LIST_ELEM, name, fill);
}

/// A counter that begins at zero, in an attribute of this kind.
pub(super) fn put_counter(builder: &mut Builder, kind: u16) {
    expression_in(builder, kind, "counter", |_| ());
}

fn expression_in(builder: &mut Builder, kind: u16, name: &str, fill: impl FnOnce(&mut Builder)) {
    let nest = builder.begin(kind);
    builder.put_name(NFTA_EXPR_NAME, name);
    let data = builder.begin(NFTA_EXPR_DATA);
    fill(builder);
    builder.end(data);
    builder.end(nest);
}

fn put_payload(builder: &mut Builder, field: Field, register: u32) {
    let (base, offset, length) = field.place();
    expression(builder, "payload", |b| {
        b.put_be32(1, register);
        b.put_be32(2, base);
        b.put_be32(3, offset);
        b.put_be32(4, length);
    });
}

fn put_conntrack_load(builder: &mut Builder, key: u32) {
    expression(builder, "ct", |b| {
        b.put_be32(2, key);
        b.put_be32(1, REGISTER);
    });
}

fn put_lookup(builder: &mut Builder, set: &str, id: u32, inverted: bool) {
    expression(builder, "lookup", |b| {
        b.put_be32(2, REGISTER);
        b.put_name(1, set);
        b.put_be32(4, id);
        if inverted {
            b.put_be32(5, 1);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::nftables::{Batch, ChainKind, Hook};
    use crate::netlink::tests::vectors::{bodies, bytes};

    const TABLE: &str = "mediaproxy_40000";

    /// `nft -f` of a file with
    ///
    /// ```text
    /// table ip mediaproxy_40000 {
    ///   chain raw_in {
    ///     type filter hook prerouting priority raw
    ///     ip daddr @addresses ip protocol udp udp dport 40000-59999 \
    ///       ip saddr . udp sport . ip daddr . udp dport != @forwarded notrack
    ///   }
    ///   chain nat_in {
    ///     type nat hook prerouting priority dstnat
    ///     ip daddr @addresses ip protocol udp udp dport 40000-59999 ct mark set 0x4d500000
    ///   }
    /// }
    /// ```
    ///
    /// and the two sets; nft 1.0.6, what it passed to sendmsg().
    const CHAIN: &str = "
        02000000150001006d6564696170726f78795f3430303030000000000b0003007261775f696e00000b00070066696c74
        6572000014000480080001000000000008000200fffffed4";
    const RULE: &str = "
        02000000150001006d6564696170726f78795f3430303030000000000b0002007261775f696e00007402048034000180
        0c0001007061796c6f616400240002800800010000000001080002000000000108000300000000100800040000000004
        340001800b0001006c6f6f6b757000002400028008000200000000010e00010061646472657373657300000008000400
        00000001340001800c0001007061796c6f61640024000280080001000000000108000200000000010800030000000009
        08000400000000012c00018008000100636d700020000280080001000000000108000200000000000c00038005000100
        11000000340001800c0001007061796c6f61640024000280080001000000000108000200000000020800030000000002
        08000400000000022c00018008000100636d700020000280080001000000000108000200000000050c00038006000100
        9c4000002c00018008000100636d700020000280080001000000000108000200000000030c00038006000100ea5f0000
        340001800c0001007061796c6f6164002400028008000100000000010800020000000001080003000000000c08000400
        00000004340001800c0001007061796c6f61640024000280080001000000000908000200000000020800030000000000
        0800040000000002340001800c0001007061796c6f61640024000280080001000000000a080002000000000108000300
        000000100800040000000004340001800c0001007061796c6f61640024000280080001000000000b0800020000000002
        080003000000000208000400000000023c0001800b0001006c6f6f6b757000002c00028008000200000000010e000100
        666f7277617264656400000008000400000000020800050000000001100001800c0001006e6f747261636b00";
    const MARKING: &str = "
        02000000150001006d6564696170726f78795f3430303030000000000b0002006e61745f696e0000a401048034000180
        0c0001007061796c6f616400240002800800010000000001080002000000000108000300000000100800040000000004
        340001800b0001006c6f6f6b757000002400028008000200000000010e00010061646472657373657300000008000400
        00000001340001800c0001007061796c6f61640024000280080001000000000108000200000000010800030000000009
        08000400000000012c00018008000100636d700020000280080001000000000108000200000000000c00038005000100
        11000000340001800c0001007061796c6f61640024000280080001000000000108000200000000020800030000000002
        08000400000000022c00018008000100636d700020000280080001000000000108000200000000050c00038006000100
        9c4000002c00018008000100636d700020000280080001000000000108000200000000030c00038006000100ea5f0000
        2c0001800e000100696d6d6564696174650000001800028008000100000000010c000280080001000000504d20000180
        07000100637400001400028008000200000000030800040000000001";

    fn to_range() -> [Step<'static>; 7] {
        [
            Step::Load(Field::Destination),
            Step::In {
                set: "addresses",
                id: 1,
            },
            Step::Load(Field::Protocol),
            Step::Compare(Relation::Equal, &[17]),
            Step::Load(Field::DestinationPort),
            Step::Compare(Relation::AtLeast, &[0x9c, 0x40]),
            Step::Compare(Relation::AtMost, &[0xea, 0x5f]),
        ]
    }

    #[test]
    fn chains_and_rules_are_as_nft_sends_them() {
        let mut batch = Batch::begin(TABLE, 0);
        batch.chain("raw_in", ChainKind::Filter, Hook::Prerouting, -300);
        let mut steps = to_range().to_vec();
        steps.extend([
            Step::Load(Field::Source),
            Step::LoadQuarter(Field::SourcePort, 1),
            Step::LoadQuarter(Field::Destination, 2),
            Step::LoadQuarter(Field::DestinationPort, 3),
            Step::NotIn {
                set: "forwarded",
                id: 2,
            },
            Step::Notrack,
        ]);
        batch.rule("raw_in", &steps);
        let mut steps = to_range().to_vec();
        steps.push(Step::SetConntrackMark(0x4d50_0000));
        batch.rule("nat_in", &steps);
        let bodies = bodies(batch);
        assert_eq!(bodies[0], bytes(CHAIN));
        assert_eq!(bodies[1], bytes(RULE));
        assert_eq!(bodies[2], bytes(MARKING));
    }
}
