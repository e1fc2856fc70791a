//! The relay's own nftables table, as transactions (linux/netfilter/nf_tables.h). Pure.
//!
//! A transaction is a batch of messages between two others; the kernel does all of it or nothing. A rule is a
//! list of expressions that work on registers:
//!
//! ```text
//!  BATCH_BEGIN   NEWTABLE   NEWCHAIN..   NEWSET..   NEWRULE..   NEWSETELEM..   BATCH_END
//! ```

use super::wire::{self, Builder};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEWTABLE: u16 = SUBSYSTEM << 8;
const DELTABLE: u16 = SUBSYSTEM << 8 | 2;
const NEWCHAIN: u16 = SUBSYSTEM << 8 | 3;
const NEWRULE: u16 = SUBSYSTEM << 8 | 6;
const NEWSET: u16 = SUBSYSTEM << 8 | 9;
const NEWSETELEM: u16 = SUBSYSTEM << 8 | 12;
const DELSETELEM: u16 = SUBSYSTEM << 8 | 14;

const NFPROTO_UNSPEC: u8 = 0;
const NFPROTO_IPV4: u8 = 2;

const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_ID: u16 = 10;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_KEY: u16 = 1;
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

/// Where a chain is called (NF_INET_*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Prerouting = 0,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// The kind of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    Filter,
    /// Registers the hooks that translate addresses, rules or none.
    Nat,
}

/// What a packet's bytes are compared to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    Equal = 0,
    NotEqual = 1,
    AtMost = 3,
    AtLeast = 5,
}

/// A field of the packet (IPv4 and UDP headers): base, offset, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Source,
    Destination,
    SourcePort,
    DestinationPort,
}

impl Field {
    fn place(self) -> (u32, u32, u32) {
        const NETWORK: u32 = 1;
        const TRANSPORT: u32 = 2;
        match self {
            Field::Source => (NETWORK, 12, 4),
            Field::Destination => (NETWORK, 16, 4),
            Field::SourcePort => (TRANSPORT, 0, 2),
            Field::DestinationPort => (TRANSPORT, 2, 2),
        }
    }
}

/// A step of a rule. All but `Load` into a quarter work on the first register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    Load(Field),
    /// Into one of the register's four quarters, for keys of several fields.
    LoadQuarter(Field, u32),
    LoadProtocol,
    LoadConntrackState,
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
}

/// Builds one transaction on one table.
pub struct Batch<'a> {
    builder: Builder,
    table: &'a str,
    sequence: u32,
}

impl<'a> Batch<'a> {
    /// Messages are numbered from `sequence` on.
    pub fn begin(table: &'a str, sequence: u32) -> Batch<'a> {
        let mut batch = Batch {
            builder: Builder::default(),
            table,
            sequence,
        };
        let number = batch.number();
        batch.builder.message(
            BATCH_BEGIN,
            wire::REQUEST,
            number,
            NFPROTO_UNSPEC,
            SUBSYSTEM,
        );
        batch
    }

    /// The whole batch, and the number of its last message, which the kernel is asked to acknowledge: its answer comes
    /// after all others.
    pub fn end_acknowledged(mut self) -> (Vec<u8>, u32) {
        self.builder.add_flags(wire::ACK);
        let last = self.sequence.wrapping_sub(1);
        (self.end(), last)
    }

    /// The whole batch; send it in one piece.
    fn end(mut self) -> Vec<u8> {
        let number = self.number();
        self.builder
            .message(BATCH_END, wire::REQUEST, number, NFPROTO_UNSPEC, SUBSYSTEM);
        self.builder.bytes().to_vec()
    }

    /// The table; `flags` are NFT_TABLE_F_*.
    pub fn table(&mut self, flags: u32) {
        self.message(NEWTABLE, wire::CREATE);
        self.builder.put_name(NFTA_TABLE_NAME, self.table);
        self.builder.put_be32(NFTA_TABLE_FLAGS, flags);
    }

    /// Deletes the table and all in it.
    pub fn delete_table(&mut self) {
        self.message(DELTABLE, 0);
        self.builder.put_name(NFTA_TABLE_NAME, self.table);
    }

    /// A chain that a hook calls; the lower the priority, the earlier.
    pub fn chain(&mut self, name: &str, kind: ChainKind, hook: Hook, priority: i32) {
        self.message(NEWCHAIN, wire::CREATE);
        self.builder.put_name(NFTA_CHAIN_TABLE, self.table);
        self.builder.put_name(NFTA_CHAIN_NAME, name);
        let kind = match kind {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
        };
        self.builder.put_name(NFTA_CHAIN_TYPE, kind);
        let nest = self.builder.begin(NFTA_CHAIN_HOOK);
        self.builder.put_be32(NFTA_HOOK_HOOKNUM, hook as u32);
        self.builder
            .put(NFTA_HOOK_PRIORITY, &priority.to_be_bytes());
        self.builder.end(nest);
    }

    /// A set; `key_type` is what `nft list` shows its keys by, `id` what rules of this batch call it.
    pub fn set(&mut self, name: &str, id: u32, key_type: u32, key_length: u32) {
        self.message(NEWSET, wire::CREATE);
        self.builder.put_name(NFTA_SET_TABLE, self.table);
        self.builder.put_name(NFTA_SET_NAME, name);
        self.builder.put_be32(NFTA_SET_FLAGS, 0);
        self.builder.put_be32(NFTA_SET_KEY_TYPE, key_type);
        self.builder.put_be32(NFTA_SET_KEY_LEN, key_length);
        self.builder.put_be32(NFTA_SET_ID, id);
    }

    /// A rule at a chain's end.
    pub fn rule(&mut self, chain: &str, steps: &[Step<'_>]) {
        self.message(NEWRULE, wire::CREATE | wire::APPEND);
        self.builder.put_name(NFTA_RULE_TABLE, self.table);
        self.builder.put_name(NFTA_RULE_CHAIN, chain);
        let nest = self.builder.begin(NFTA_RULE_EXPRESSIONS);
        for step in steps {
            put_step(&mut self.builder, step);
        }
        self.builder.end(nest);
    }

    /// Elements for a set; one that is there already is fine.
    pub fn add<'k>(&mut self, set: &str, keys: impl IntoIterator<Item = &'k [u8]>) {
        self.message(NEWSETELEM, wire::CREATE);
        self.elements(set, keys);
    }

    /// Takes elements out; one that is not there fails the whole batch (ENOENT).
    pub fn remove<'k>(&mut self, set: &str, keys: impl IntoIterator<Item = &'k [u8]>) {
        self.message(DELSETELEM, 0);
        self.elements(set, keys);
    }

    fn elements<'k>(&mut self, set: &str, keys: impl IntoIterator<Item = &'k [u8]>) {
        let builder = &mut self.builder;
        builder.put_name(NFTA_SET_ELEM_LIST_TABLE, self.table);
        builder.put_name(NFTA_SET_ELEM_LIST_SET, set);
        let list = builder.begin(NFTA_SET_ELEM_LIST_ELEMENTS);
        for key in keys {
            let element = builder.begin(NFTA_LIST_ELEM);
            put_data(builder, NFTA_SET_ELEM_KEY, key);
            builder.end(element);
        }
        builder.end(list);
    }

    fn message(&mut self, kind: u16, flags: u16) {
        let number = self.number();
        let flags = flags | wire::REQUEST;
        self.builder.message(kind, flags, number, NFPROTO_IPV4, 0);
    }

    fn number(&mut self) -> u32 {
        let number = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        number
    }
}

fn put_data(builder: &mut Builder, kind: u16, value: &[u8]) {
    let nest = builder.begin(kind);
    builder.put(NFTA_DATA_VALUE, value);
    builder.end(nest);
}

fn put_step(builder: &mut Builder, step: &Step<'_>) {
    match *step {
        Step::Load(field) => put_payload(builder, field, REGISTER),
        Step::LoadQuarter(field, quarter) => put_payload(builder, field, 8 + quarter),
        Step::LoadProtocol => expression(builder, "meta", |b| {
            const KEY_L4PROTO: u32 = 16;
            b.put_be32(2, KEY_L4PROTO);
            b.put_be32(1, REGISTER);
        }),
        Step::LoadConntrackState => put_conntrack_load(builder, CT_STATE),
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
        Step::Count => expression(builder, "counter", |_| ()),
        Step::Accept => expression(builder, "immediate", |b| {
            b.put_be32(1, REGISTER_VERDICT);
            let data = b.begin(2);
            let verdict = b.begin(NFTA_DATA_VERDICT);
            b.put_be32(NFTA_VERDICT_CODE, NF_ACCEPT);
            b.end(verdict);
            b.end(data);
        }),
    }
}

/// NFT_CT_STATE and NFT_CT_MARK.
const CT_STATE: u32 = 0;
const CT_MARK: u32 = 3;

/// The bit of a conntrack state that says that this packet makes the entry (NF_CT_STATE_BIT(IP_CT_NEW)).
pub const STATE_NEW: u32 = 8;

fn expression(builder: &mut Builder, name: &str, fill: impl FnOnce(&mut Builder)) {
    let nest = builder.begin(NFTA_LIST_ELEM);
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
    use crate::netlink::vectors::bytes;
    use crate::netlink::wire::Messages;

    const TABLE: &str = "mediaproxy_40000";

    /// The bodies of the messages between the two that frame the batch.
    fn bodies(batch: Batch<'_>) -> Vec<Vec<u8>> {
        let bytes = batch.end();
        let messages: Result<Vec<_>, _> = Messages::new(&bytes).collect();
        let messages = messages.unwrap();
        let (first, last) = (messages.first().unwrap(), messages.last().unwrap());
        assert_eq!((first.kind, last.kind), (BATCH_BEGIN, BATCH_END));
        assert_eq!(first.body, [0, 0, 0, 10]);
        messages[1..messages.len() - 1]
            .iter()
            .map(|m| m.body.to_vec())
            .collect()
    }

    /// `nft -f` of a file with
    ///
    /// ```text
    /// table ip mediaproxy_40000 {
    ///   chain raw_in {
    ///     type filter hook prerouting priority raw
    ///     ip daddr @addresses udp dport 40000-59999 ip saddr . udp sport . ip daddr . udp dport != @forwarded notrack
    ///   }
    ///   chain strays {
    ///     type filter hook prerouting priority mangle
    ///     ip daddr @addresses udp dport 40000-59999 ct state new ct mark set 0x4d500000
    ///   }
    /// }
    /// ```
    ///
    /// and the two sets; nft 1.0.6, what it passed to sendmsg().
    const CHAIN: &str = "
        02000000150001006d6564696170726f78795f3430303030000000000b0003007261775f696e00000b00070066696c74
        6572000014000480080001000000000008000200fffffed4";
    const RULE: &str = "
        02000000150001006d6564696170726f78795f3430303030000000000b0002007261775f696e00006402048034000180
        0c0001007061796c6f616400240002800800010000000001080002000000000108000300000000100800040000000004
        340001800b0001006c6f6f6b757000002400028008000200000000010e00010061646472657373657300000008000400
        0000000124000180090001006d6574610000000014000280080002000000001008000100000000012c00018008000100
        636d700020000280080001000000000108000200000000000c0003800500010011000000340001800c0001007061796c
        6f6164002400028008000100000000010800020000000002080003000000000208000400000000022c00018008000100
        636d700020000280080001000000000108000200000000050c000380060001009c4000002c00018008000100636d7000
        20000280080001000000000108000200000000030c00038006000100ea5f0000340001800c0001007061796c6f616400
        2400028008000100000000010800020000000001080003000000000c0800040000000004340001800c0001007061796c
        6f616400240002800800010000000009080002000000000208000300000000000800040000000002340001800c000100
        7061796c6f61640024000280080001000000000a08000200000000010800030000000010080004000000000434000180
        0c0001007061796c6f61640024000280080001000000000b080002000000000208000300000000020800040000000002
        3c0001800b0001006c6f6f6b757000002c00028008000200000000010e000100666f7277617264656400000008000400
        000000020800050000000001100001800c0001006e6f747261636b00";
    const STRAYS: &str = "
        02000000150001006d6564696170726f78795f3430303030000000000b00020073747261797300002402048034000180
        0c0001007061796c6f616400240002800800010000000001080002000000000108000300000000100800040000000004
        340001800b0001006c6f6f6b757000002400028008000200000000010e00010061646472657373657300000008000400
        0000000124000180090001006d6574610000000014000280080002000000001008000100000000012c00018008000100
        636d700020000280080001000000000108000200000000000c0003800500010011000000340001800c0001007061796c
        6f6164002400028008000100000000010800020000000002080003000000000208000400000000022c00018008000100
        636d700020000280080001000000000108000200000000050c000380060001009c4000002c00018008000100636d7000
        20000280080001000000000108000200000000030c00038006000100ea5f000020000180070001006374000014000280
        08000200000000000800010000000001440001800c000100626974776973650034000280080001000000000108000200
        0000000108000300000000040c00048008000100080000000c00058008000100000000002c00018008000100636d7000
        20000280080001000000000108000200000000010c00038008000100000000002c0001800e000100696d6d6564696174
        650000001800028008000100000000010c000280080001000000504d2000018007000100637400001400028008000200
        000000030800040000000001";

    fn to_range() -> [Step<'static>; 7] {
        [
            Step::Load(Field::Destination),
            Step::In {
                set: "addresses",
                id: 1,
            },
            Step::LoadProtocol,
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
        steps.extend([
            Step::LoadConntrackState,
            Step::And(STATE_NEW),
            Step::Compare(Relation::NotEqual, &[0; 4]),
            Step::SetConntrackMark(0x4d50_0000),
        ]);
        batch.rule("strays", &steps);
        let bodies = bodies(batch);
        assert_eq!(bodies[0], bytes(CHAIN));
        assert_eq!(bodies[1], bytes(RULE));
        assert_eq!(bodies[2], bytes(STRAYS));
    }

    /// `nft 'delete element ip mediaproxy_40000 forwarded { 192.0.2.1 . 30000 . 10.0.0.1 . 40000 }'`; nft 1.0.6.
    #[test]
    fn elements_are_taken_out_as_nft_does() {
        let key = bytes("c0000201 75300000 0a000001 9c400000");
        let mut batch = Batch::begin(TABLE, 7);
        batch.remove("forwarded", [&key[..]]);
        let want = "02000000 15000100 6d6564696170726f78795f3430303030 00000000 0e000200 666f727761726465640000 00
            20000380 1c000180 18000180 14000100 c0000201 75300000 0a000001 9c400000";
        assert_eq!(bodies(batch), [bytes(want)]);
    }
}
