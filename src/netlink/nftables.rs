//! The relay's own nftables table, as transactions and listings (linux/netfilter/nf_tables.h). Pure.
//!
//! A transaction is a batch of messages between two others; the kernel does all of it or nothing:
//!
//! ```text
//!  BATCH_BEGIN   NEWTABLE   NEWCHAIN..   NEWSET..   NEWSETELEM..   NEWRULE..   BATCH_END
//! ```

use std::time::Duration;

use super::message::{self, Attributes, Builder, Message, Truncated, be32, be64};
use super::rule::{Step, put_counter, put_data, put_step};
use crate::counters::Counters;

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEWTABLE: u16 = SUBSYSTEM << 8;
const GETTABLE: u16 = SUBSYSTEM << 8 | 1;
const DELTABLE: u16 = SUBSYSTEM << 8 | 2;
const NEWCHAIN: u16 = SUBSYSTEM << 8 | 3;
const GETCHAIN: u16 = SUBSYSTEM << 8 | 4;
const DELCHAIN: u16 = SUBSYSTEM << 8 | 5;
const NEWRULE: u16 = SUBSYSTEM << 8 | 6;
const GETRULE: u16 = SUBSYSTEM << 8 | 7;
const NEWSET: u16 = SUBSYSTEM << 8 | 9;
const DELSET: u16 = SUBSYSTEM << 8 | 11;
const NEWSETELEM: u16 = SUBSYSTEM << 8 | 12;
const GETSETELEM: u16 = SUBSYSTEM << 8 | 13;
/// Of echoes.
pub const DELSETELEM: u16 = SUBSYSTEM << 8 | 14;
const NEWGEN: u16 = SUBSYSTEM << 8 | 15;

/// Multicast group of changes to any table (NFNLGRP_NFTABLES).
pub const GROUP_CHANGES: u32 = 7;

/// Only the socket that makes or takes over the table may change it; without [`PERSIST`] it ends with that socket
/// (NFT_TABLE_F_OWNER, Linux 5.12).
pub const OWNER: u32 = 2;
/// The table outlives its owner, and anybody may then change it or take it over (NFT_TABLE_F_PERSIST, Linux 6.9).
pub const PERSIST: u32 = 4;

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
const NFTA_SET_DESC: u16 = 9;
const NFTA_SET_ID: u16 = 10;
const NFTA_SET_EXPR: u16 = 17;
const NFTA_SET_DESC_SIZE: u16 = 1;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_TIMEOUT: u16 = 4;
const NFTA_SET_ELEM_EXPR: u16 = 7;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_COUNTER_BYTES: u16 = 1;
const NFTA_COUNTER_PACKETS: u16 = 2;

/// NFT_SET_TIMEOUT: elements may have a time to live.
const SET_TIMEOUT: u32 = 0x10;

/// Keys in one message: an attribute's length has 16 bits, and a key of 16 bytes takes 28.
const KEYS_AT_ONCE: usize = 2000;

/// Where a chain is called (NF_INET_*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Prerouting = 0,
    Input = 1,
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

/// A set as it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set<'s> {
    pub name: &'s str,
    /// What rules of the same batch call it.
    pub id: u32,
    /// What `nft list` shows its keys by.
    pub key_type: u32,
    /// Bytes.
    pub key_length: u32,
    /// Elements at most; the kernel then takes a hash table of fixed size, and ENFILE is the answer to one more.
    pub size: Option<u32>,
    /// Every element counts the packets that a rule finds in the set.
    pub counted: bool,
    /// Elements may go by themselves after a time.
    pub expires: bool,
}

/// A four-tuple as a key: source, source port, destination, destination port, each in four bytes.
pub type Key = [u8; 16];

/// An element of a counted set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element {
    pub key: Key,
    /// Bytes with IP headers.
    pub counters: Counters,
}

/// Builds one transaction on one table.
pub struct Batch<'a> {
    builder: Builder,
    table: &'a str,
    sequence: u32,
    /// The number of the last message between the two that frame the batch.
    last: Option<u32>,
}

impl<'a> Batch<'a> {
    /// Messages are numbered from `sequence` on.
    pub fn begin(table: &'a str, sequence: u32) -> Batch<'a> {
        let mut batch = Batch {
            builder: Builder::default(),
            table,
            sequence,
            last: None,
        };
        let number = batch.number();
        batch.builder.message(
            BATCH_BEGIN,
            message::REQUEST,
            number,
            NFPROTO_UNSPEC,
            SUBSYSTEM,
        );
        batch
    }

    /// The whole batch, to be sent in one piece, and the number of its last message, which the kernel is asked to
    /// acknowledge: its answer comes after all others. None where nothing was added.
    pub fn end_acknowledged(mut self) -> Option<(Vec<u8>, u32)> {
        let last = self.last?;
        self.builder.add_flags(message::ACK);
        let number = self.number();
        self.builder.message(
            BATCH_END,
            message::REQUEST,
            number,
            NFPROTO_UNSPEC,
            SUBSYSTEM,
        );
        Some((self.builder.into_bytes(), last))
    }

    /// The table; `flags` are [`OWNER`] and [`PERSIST`].
    pub fn table(&mut self, flags: u32) {
        self.message(NEWTABLE, message::CREATE);
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
        self.message(NEWCHAIN, message::CREATE);
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

    /// A chain that nothing calls: its name says something.
    pub fn note(&mut self, name: &str) {
        self.message(NEWCHAIN, message::CREATE);
        self.builder.put_name(NFTA_CHAIN_TABLE, self.table);
        self.builder.put_name(NFTA_CHAIN_NAME, name);
    }

    /// Deletes a chain and its rules.
    pub fn delete_chain(&mut self, name: &str) {
        self.message(DELCHAIN, 0);
        self.builder.put_name(NFTA_CHAIN_TABLE, self.table);
        self.builder.put_name(NFTA_CHAIN_NAME, name);
    }

    pub fn set(&mut self, set: &Set<'_>) {
        self.message(NEWSET, message::CREATE);
        let builder = &mut self.builder;
        builder.put_name(NFTA_SET_TABLE, self.table);
        builder.put_name(NFTA_SET_NAME, set.name);
        builder.put_be32(NFTA_SET_FLAGS, if set.expires { SET_TIMEOUT } else { 0 });
        builder.put_be32(NFTA_SET_KEY_TYPE, set.key_type);
        builder.put_be32(NFTA_SET_KEY_LEN, set.key_length);
        builder.put_be32(NFTA_SET_ID, set.id);
        if let Some(size) = set.size {
            let nest = builder.begin(NFTA_SET_DESC);
            builder.put_be32(NFTA_SET_DESC_SIZE, size);
            builder.end(nest);
        }
        if set.counted {
            put_counter(builder, NFTA_SET_EXPR);
        }
    }

    /// Deletes a set that no rule names any more.
    pub fn delete_set(&mut self, name: &str) {
        self.message(DELSET, 0);
        self.builder.put_name(NFTA_SET_TABLE, self.table);
        self.builder.put_name(NFTA_SET_NAME, name);
    }

    /// A rule at a chain's end.
    pub fn rule(&mut self, chain: &str, steps: &[Step<'_>]) {
        self.message(NEWRULE, message::CREATE | message::APPEND);
        self.builder.put_name(NFTA_RULE_TABLE, self.table);
        self.builder.put_name(NFTA_RULE_CHAIN, chain);
        let nest = self.builder.begin(NFTA_RULE_EXPRESSIONS);
        for step in steps {
            put_step(&mut self.builder, step);
        }
        self.builder.end(nest);
    }

    /// Elements for a set; one that is there already is fine.
    pub fn add(&mut self, set: &str, keys: impl IntoIterator<Item = impl AsRef<[u8]>>) {
        self.elements(NEWSETELEM, message::CREATE, set, keys);
    }

    /// An element that goes by itself after this time.
    pub fn add_for(&mut self, set: &str, key: &[u8], time: Duration) {
        self.elements_message(NEWSETELEM, message::CREATE, set);
        let builder = &mut self.builder;
        let list = builder.begin(NFTA_SET_ELEM_LIST_ELEMENTS);
        let element = builder.begin(NFTA_LIST_ELEM);
        // None is forever.
        let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
        builder.put_be64(NFTA_SET_ELEM_TIMEOUT, milliseconds);
        put_data(builder, NFTA_SET_ELEM_KEY, key);
        builder.end(element);
        builder.end(list);
    }

    /// Takes all elements out.
    pub fn empty(&mut self, set: &str) {
        self.elements_message(DELSETELEM, 0, set);
    }

    /// Takes elements out; one that is not there fails the whole batch (ENOENT).
    pub fn remove(&mut self, set: &str, keys: impl IntoIterator<Item = impl AsRef<[u8]>>) {
        self.elements(DELSETELEM, 0, set, keys);
    }

    /// Takes elements out as [`Batch::remove`] does; the answer repeats them with their last counters.
    pub fn remove_echoed(&mut self, set: &str, keys: impl IntoIterator<Item = impl AsRef<[u8]>>) {
        self.elements(DELSETELEM, message::ECHO, set, keys);
    }

    /// As many messages as the keys need: none without keys, since DELSETELEM with none empties the set.
    fn elements(
        &mut self,
        kind: u16,
        flags: u16,
        set: &str,
        keys: impl IntoIterator<Item = impl AsRef<[u8]>>,
    ) {
        let mut keys = keys.into_iter().peekable();
        while keys.peek().is_some() {
            self.elements_message(kind, flags, set);
            put_keys(&mut self.builder, keys.by_ref().take(KEYS_AT_ONCE));
        }
    }

    fn elements_message(&mut self, kind: u16, flags: u16, set: &str) {
        self.message(kind, flags);
        self.builder.put_name(NFTA_SET_ELEM_LIST_TABLE, self.table);
        self.builder.put_name(NFTA_SET_ELEM_LIST_SET, set);
    }

    fn message(&mut self, kind: u16, flags: u16) {
        let number = self.number();
        self.last = Some(number);
        let flags = flags | message::REQUEST;
        self.builder.message(kind, flags, number, NFPROTO_IPV4, 0);
    }

    fn number(&mut self) -> u32 {
        let number = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        number
    }
}

fn put_keys(builder: &mut Builder, keys: impl IntoIterator<Item = impl AsRef<[u8]>>) {
    let list = builder.begin(NFTA_SET_ELEM_LIST_ELEMENTS);
    for key in keys {
        let element = builder.begin(NFTA_LIST_ELEM);
        put_data(builder, NFTA_SET_ELEM_KEY, key.as_ref());
        builder.end(element);
    }
    builder.end(list);
}

/// Asks for a table, with an acknowledgement after it; ENOENT where there is none.
pub fn get_table(builder: &mut Builder, sequence: u32, table: &str) {
    let flags = message::REQUEST | message::ACK;
    builder.message(GETTABLE, flags, sequence, NFPROTO_IPV4, 0);
    builder.put_name(NFTA_TABLE_NAME, table);
}

/// Asks for a chain, with an acknowledgement after it; ENOENT where there is no such table or chain.
pub fn get_chain(builder: &mut Builder, sequence: u32, table: &str, chain: &str) {
    let flags = message::REQUEST | message::ACK;
    builder.message(GETCHAIN, flags, sequence, NFPROTO_IPV4, 0);
    builder.put_name(NFTA_CHAIN_TABLE, table);
    builder.put_name(NFTA_CHAIN_NAME, chain);
}

/// Asks for all elements of a set; ENOENT where there is no such table or set.
pub fn dump_elements(builder: &mut Builder, sequence: u32, table: &str, set: &str) {
    let flags = message::REQUEST | message::DUMP;
    builder.message(GETSETELEM, flags, sequence, NFPROTO_IPV4, 0);
    builder.put_name(NFTA_SET_ELEM_LIST_SET, set);
    builder.put_name(NFTA_SET_ELEM_LIST_TABLE, table);
}

/// Asks for these elements of a set, with an acknowledgement after them; ENOENT where one is not there.
pub fn get_elements(builder: &mut Builder, sequence: u32, table: &str, set: &str, keys: &[Key]) {
    let flags = message::REQUEST | message::ACK;
    builder.message(GETSETELEM, flags, sequence, NFPROTO_IPV4, 0);
    builder.put_name(NFTA_SET_ELEM_LIST_TABLE, table);
    builder.put_name(NFTA_SET_ELEM_LIST_SET, set);
    put_keys(builder, keys);
}

/// Asks for all rules of a chain; none come where there is no such table or chain.
pub fn dump_rules(builder: &mut Builder, sequence: u32, table: &str, chain: &str) {
    let flags = message::REQUEST | message::DUMP;
    builder.message(GETRULE, flags, sequence, NFPROTO_IPV4, 0);
    builder.put_name(NFTA_RULE_TABLE, table);
    builder.put_name(NFTA_RULE_CHAIN, chain);
}

/// The elements that a dump or an echo tells of. Keys that are no four-tuples are passed over; without a counter it
/// is zero.
pub fn parse_elements(message: &Message<'_>, found: &mut Vec<Element>) -> Result<(), Truncated> {
    if !matches!(message.kind, NEWSETELEM | DELSETELEM) {
        return Ok(());
    }
    for attribute in message.attributes()? {
        let (NFTA_SET_ELEM_LIST_ELEMENTS, list) = attribute? else {
            continue;
        };
        for element in Attributes::nested(list) {
            found.extend(parse_element(element?.1)?);
        }
    }
    Ok(())
}

/// The flags of the table that an answer tells of.
pub fn parse_table(message: &Message<'_>) -> Result<Option<u32>, Truncated> {
    if message.kind != NEWTABLE {
        return Ok(None);
    }
    for attribute in message.attributes()? {
        if let (NFTA_TABLE_FLAGS, value) = attribute? {
            return be32(value).map(Some);
        }
    }
    Ok(None)
}

/// How many elements a dump tells of, whatever their keys are.
pub fn count_elements(message: &Message<'_>) -> Result<usize, Truncated> {
    let mut count = 0;
    if message.kind == NEWSETELEM {
        for attribute in message.attributes()? {
            if let (NFTA_SET_ELEM_LIST_ELEMENTS, list) = attribute? {
                count += Attributes::nested(list).count();
            }
        }
    }
    Ok(count)
}

/// Returns true if a message of a dump tells of a rule.
pub fn is_rule(message: &Message<'_>) -> bool {
    message.kind == NEWRULE
}

/// The counters of the rules that a dump tells of, in order.
pub fn parse_rules(message: &Message<'_>, found: &mut Vec<Counters>) -> Result<(), Truncated> {
    if message.kind != NEWRULE {
        return Ok(());
    }
    for attribute in message.attributes()? {
        let (NFTA_RULE_EXPRESSIONS, list) = attribute? else {
            continue;
        };
        for expression in Attributes::nested(list) {
            found.extend(parse_counter(expression?.1)?);
        }
    }
    Ok(())
}

/// Whether a message of [`GROUP_CHANGES`] tells of a change to this table or in it.
pub fn is_change_of(message: &Message<'_>, table: &str) -> Result<bool, Truncated> {
    let of_nftables = message.kind >> 8 == SUBSYSTEM && message.kind != NEWGEN;
    if !of_nftables || message.body.first() != Some(&NFPROTO_IPV4) {
        return Ok(false);
    }
    // All kinds of messages name their table first, by the same attribute.
    let (kind, name) = message.attributes()?.next().ok_or(Truncated)??;
    Ok(kind == NFTA_TABLE_NAME && name.strip_suffix(&[0]) == Some(table.as_bytes()))
}

fn parse_element(value: &[u8]) -> Result<Option<Element>, Truncated> {
    let (mut key, mut counters) = (None, Counters::default());
    for attribute in Attributes::nested(value) {
        match attribute? {
            (NFTA_SET_ELEM_KEY, value) => {
                for data in Attributes::nested(value) {
                    if let (NFTA_DATA_VALUE, value) = data? {
                        key = value.try_into().ok();
                    }
                }
            }
            (NFTA_SET_ELEM_EXPR, value) => counters = parse_counter(value)?.unwrap_or_default(),
            _ => {}
        }
    }
    Ok(key.map(|key| Element { key, counters }))
}

/// What a counter has counted; none where it is another expression.
fn parse_counter(expression: &[u8]) -> Result<Option<Counters>, Truncated> {
    let mut is_counter = false;
    let mut counters = Counters::default();
    for attribute in Attributes::nested(expression) {
        match attribute? {
            (NFTA_EXPR_NAME, name) => is_counter = name == b"counter\0",
            (NFTA_EXPR_DATA, data) if is_counter => {
                for attribute in Attributes::nested(data) {
                    match attribute? {
                        (NFTA_COUNTER_BYTES, value) => counters.bytes = be64(value)?,
                        (NFTA_COUNTER_PACKETS, value) => counters.packets = be64(value)?,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Ok(is_counter.then_some(counters))
}

#[cfg(test)]
mod tests;
