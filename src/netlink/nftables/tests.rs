//! Transactions and listings byte for byte as nft's, and what the kernel answers.

use super::*;
use crate::netlink::message::Messages;
use crate::netlink::tests::vectors::{bodies, bytes};

const TABLE: &str = "mediaproxy_40000";

/// `nft 'delete element ip mediaproxy_40000 forwarded { 192.0.2.1 . 30000 . 10.0.0.1 . 40000 }'`; nft 1.0.6.
#[test]
fn elements_are_taken_out_as_nft_does() {
    let key = bytes("c0000201 75300000 0a000001 9c400000");
    let mut batch = Batch::begin(TABLE, 7);
    batch.remove("forwarded", [&key]);
    let want = "02000000 15000100 6d6564696170726f78795f3430303030 00000000 0e000200 666f727761726465640000 00
        20000380 1c000180 18000180 14000100 c0000201 75300000 0a000001 9c400000";
    assert_eq!(bodies(batch), [bytes(want)]);
}

/// `nft delete chain ip mediaproxy_40000 reached`; nft 1.0.6.
#[test]
fn a_chain_is_deleted_as_nft_does() {
    let mut batch = Batch::begin(TABLE, 7);
    batch.delete_chain("reached");
    let want =
        "02000000 15000100 6d6564696170726f78795f3430303030 00000000 0c000300 7265616368656400";
    assert_eq!(bodies(batch), [bytes(want)]);
}

/// `nft add chain ip mediaproxy_40000 made_1` and `nft delete set ip mediaproxy_40000 until`; nft 1.0.6.
#[test]
fn a_chain_that_nothing_calls_and_a_set_that_goes_are_as_nft_has_them() {
    let mut batch = Batch::begin(TABLE, 7);
    batch.note("made_1");
    batch.delete_set("until");
    let want = [
        "02000000 15000100 6d6564696170726f78795f3430303030 00000000 0b000300 6d6164655f3100 00",
        "02000000 15000100 6d6564696170726f78795f3430303030 00000000 0a000200 756e74696c00 0000",
    ];
    assert_eq!(bodies(batch), want.map(bytes));
}

/// `nft flush set ip mediaproxy_40000 addresses`; nft 1.0.6, which names the set first.
#[test]
fn a_set_is_emptied_as_nft_does() {
    let mut batch = Batch::begin(TABLE, 7);
    batch.empty("addresses");
    let want = "02000000 15000100 6d6564696170726f78795f3430303030 00000000
        0e000200 616464726573736573 00 0000";
    assert_eq!(bodies(batch), [bytes(want)]);
}

/// `nft list table ip mediaproxy_40000`, `nft list set ip mediaproxy_40000 leaving` and
/// `nft list chain ip mediaproxy_40000 reached`; nft 1.0.6, which leaves the padding as it finds it.
#[test]
fn listings_are_asked_for_as_nft_does() {
    let mut builder = Builder::default();
    get_table(&mut builder, 0, TABLE);
    dump_elements(&mut builder, 0, TABLE, "leaving");
    dump_rules(&mut builder, 0, TABLE, "reached");
    let want = "
        2c000000 010a 0500 00000000 00000000 02000000 15000100 6d6564696170726f78795f3430303030 00000000
        38000000 0d0a 0103 00000000 00000000 02000000 0c000200 6c656176696e6700
        15000100 6d6564696170726f78795f3430303030 00000000
        38000000 070a 0103 00000000 00000000 02000000 15000100 6d6564696170726f78795f3430303030 00000000
        0c000200 7265616368656400";
    assert_eq!(builder.bytes(), bytes(want));
}

/// Of the answers to these two, what the kernel (6.18) told of
///
/// ```text
/// 10.0.0.1 . 40002 . 192.0.2.2 . 31000 counter packets 5 bytes 900
/// 10.0.0.1 . 40000 . 192.0.2.1 . 30000 counter packets 0 bytes 0
/// ct mark 0x4d500000/16 ip saddr 192.0.2.1 @th,0,32 0x75307918 ip daddr 192.0.2.2 counter packets 7 bytes 1400
/// ```
const ELEMENTS: &str = "
    cc0000000c0a020000000000b607000002000003150001006d6564696170726f78795f3430303030000000000c000200
    6c656176696e6700940003004800010018000100140001000a0000019c400000c0000201753000002c0007000c000100
    636f756e746572001c0002000c00010000000000000000000c0002000000000000000000480001001800010014000100
    0a0000019c420000c0000202791800002c0007000c000100636f756e746572001c0002000c0001000000000000000384
    0c0002000000000000000005";
const RULES: &str = "
    2c020000060a0208000000003853000002000003150001006d6564696170726f78795f3430303030000000000c000200
    72656163686564000c0003000000000000000010e8010400200001000700010063740000140002000800010000000001
    08000200000000034c0001000c00010062697477697365003c0002000800010000000001080002000000000108000300
    0000000408000600000000000c000400080001000000ffff0c00050008000100000000002c00010008000100636d7000
    20000200080001000000000108000200000000000c000300080001000000504d340001000c0001007061796c6f616400
    2400020008000100000000010800020000000001080003000000000c08000400000000042c00010008000100636d7000
    20000200080001000000000108000200000000000c00030008000100c0000201340001000c0001007061796c6f616400
    2400020008000100000000010800020000000002080003000000000008000400000000042c00010008000100636d7000
    20000200080001000000000108000200000000000c0003000800010075307918340001000c0001007061796c6f616400
    2400020008000100000000010800020000000001080003000000001008000400000000042c00010008000100636d7000
    20000200080001000000000108000200000000000c00030008000100c00002022c0001000c000100636f756e74657200
    1c0002000c00010000000000000005780c0002000000000000000007";
/// What it told `nft monitor` of `nft delete table ip mediaproxy_40000`, and of the ruleset's next generation.
const DELETED: &str = "
    40000000020a000001000000ac0c000002000003150001006d6564696170726f78795f34303030300000000008000300
    000000000c0004000000000000000001";
const GENERATION: &str = "
    2c0000000f0a000001000000ac0c00000000000308000100000000030800020000000cac080003006e667400";

/// What is read of one message, and of the same cut after each byte.
fn whole_and_cut<T>(message: &[u8], read: impl Fn(&Message<'_>) -> T) -> (T, Vec<T>) {
    let whole = Messages::new(message).next().unwrap().unwrap();
    let cut = |end| Message {
        body: &whole.body[..end],
        ..whole
    };
    let parts = (0..whole.body.len()).map(|end| read(&cut(end)));
    (read(&whole), parts.collect())
}

#[test]
fn what_the_kernel_tells_of_elements_and_rules() {
    let (elements, cut) = whole_and_cut(&bytes(ELEMENTS), |message| {
        let mut found = Vec::new();
        parse_elements(message, &mut found).map(|()| found)
    });
    let key = |hex| bytes(hex).try_into().unwrap();
    let element = |key, packets, bytes| Element {
        key,
        counters: Counters { packets, bytes },
    };
    let want = [
        element(key("0a000001 9c400000 c0000201 75300000"), 0, 0),
        element(key("0a000001 9c420000 c0000202 79180000"), 5, 900),
    ];
    assert_eq!(elements.unwrap(), want);
    // Whole are only those that end before the list.
    assert!(cut.iter().flatten().all(Vec::is_empty));

    let (rules, cut) = whole_and_cut(&bytes(RULES), |message| {
        let mut found = Vec::new();
        parse_rules(message, &mut found).map(|()| found)
    });
    let (packets, bytes) = (7, 1400);
    assert_eq!(rules.unwrap(), [Counters { packets, bytes }]);
    assert!(cut.iter().flatten().all(Vec::is_empty));
}

#[test]
fn a_change_is_of_the_table_that_it_names() {
    let is_change = |table| move |message: &Message<'_>| is_change_of(message, table);
    let (deleted, cut) = whole_and_cut(&bytes(DELETED), is_change(TABLE));
    assert_eq!(deleted, Ok(true));
    // The name is whole after 4 + 4 + 17 bytes.
    assert!(cut[4..25].iter().all(|read| *read == Err(Truncated)));
    for other in ["mediaproxy_4000", "mediaproxy_400000", ""] {
        assert_eq!(
            whole_and_cut(&bytes(DELETED), is_change(other)).0,
            Ok(false)
        );
    }
    let (generation, _) = whole_and_cut(&bytes(GENERATION), is_change("\0\0\0\u{3}"));
    assert_eq!(generation, Ok(false));
}
