//! Reads the chains and rules of other programs' nftables tables, those of iptables-nft among them
//! (linux/netfilter/nf_tables.h): which chain at a hook drops what nobody accepts. Pure.

use super::message::{self, Attributes, Builder, Message, Truncated, be32, find, text};
use super::passage::{self, Step};

const SUBSYSTEM: u16 = 10;
const NEWCHAIN: u16 = SUBSYSTEM << 8 | 3;
const GETCHAIN: u16 = SUBSYSTEM << 8 | 4;
const NEWRULE: u16 = SUBSYSTEM << 8 | 6;
const GETRULE: u16 = SUBSYSTEM << 8 | 7;

const NFPROTO_UNSPEC: u8 = 0;
const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;

const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_CT_DREG: u16 = 1;
const NFTA_CT_KEY: u16 = 2;
const NFTA_MATCH_NAME: u16 = 1;
const NFTA_TARGET_NAME: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;

const NF_DROP: u32 = 0;
const NFT_CT_MARK: u32 = 3;

/// The families whose chains see forwarded IPv4 packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Ip,
    Inet,
}

impl Family {
    /// As `nft` writes it.
    pub fn name(self) -> &'static str {
        match self {
            Family::Ip => "ip",
            Family::Inet => "inet",
        }
    }

    fn of(message: &Message<'_>) -> Result<Option<Family>, Truncated> {
        match *message.body.first().ok_or(Truncated)? {
            NFPROTO_IPV4 => Ok(Some(Family::Ip)),
            NFPROTO_INET => Ok(Some(Family::Inet)),
            _ => Ok(None),
        }
    }

    fn number(self) -> u8 {
        match self {
            Family::Ip => NFPROTO_IPV4,
            Family::Inet => NFPROTO_INET,
        }
    }
}

/// A chain that a hook calls. Names are as they may be printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseChain {
    pub family: Family,
    pub table: String,
    pub name: String,
    /// NF_INET_*, as in [`super::nftables::Hook`].
    pub hook: u32,
    /// What reaches the chain's end is dropped.
    pub policy_drops: bool,
}

/// What of a rule tells whether marked packets pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub chain: String,
    /// It looks at the conntrack mark.
    pub reads_mark: bool,
    /// It drops or rejects whatever comes.
    pub refuses_all: bool,
    /// What it does with packets to this host.
    pub step: Option<Step>,
}

/// Asks for the chains of all families.
pub fn dump_chains(builder: &mut Builder, sequence: u32) {
    let flags = message::REQUEST | message::DUMP;
    builder.message(GETCHAIN, flags, sequence, NFPROTO_UNSPEC, 0);
}

/// Asks for the rules of a family's tables, each chain's in their order.
pub fn dump_rules(builder: &mut Builder, sequence: u32, family: Family) {
    let flags = message::REQUEST | message::DUMP;
    builder.message(GETRULE, flags, sequence, family.number(), 0);
}

/// Reads a chain; none where no hook calls it or no IPv4 packet sees it.
pub fn parse_chain(message: &Message<'_>) -> Result<Option<BaseChain>, Truncated> {
    let Some(family) = Family::of(message)?.filter(|_| message.kind == NEWCHAIN) else {
        return Ok(None);
    };
    let (mut table, mut name) = (String::new(), String::new());
    let (mut hook, mut policy) = (None, None);
    for attribute in message.attributes()? {
        let (kind, value) = attribute?;
        match kind {
            NFTA_CHAIN_TABLE => table = text(value),
            NFTA_CHAIN_NAME => name = text(value),
            NFTA_CHAIN_HOOK => hook = find(value, NFTA_HOOK_HOOKNUM)?.map(be32).transpose()?,
            NFTA_CHAIN_POLICY => policy = Some(be32(value)?),
            _ => {}
        }
    }
    Ok(hook.map(|hook| BaseChain {
        family,
        table,
        name,
        hook,
        policy_drops: policy == Some(NF_DROP),
    }))
}

/// Reads a rule of a table; none where it is of another one.
pub fn parse_rule(message: &Message<'_>, table: &str) -> Result<Option<Rule>, Truncated> {
    let mut rule = Rule {
        chain: String::new(),
        reads_mark: false,
        refuses_all: false,
        step: None,
    };
    let mut is_of_table = false;
    if message.kind == NEWRULE {
        for attribute in message.attributes()? {
            let (kind, value) = attribute?;
            match kind {
                NFTA_RULE_TABLE => is_of_table = text(value) == table,
                NFTA_RULE_CHAIN => rule.chain = text(value),
                NFTA_RULE_EXPRESSIONS => {
                    (rule.reads_mark, rule.refuses_all) = judge(value)?;
                    rule.step = Some(passage::read(value)?);
                }
                _ => {}
            }
        }
    }
    Ok(is_of_table.then_some(rule))
}

/// What one expression of a rule does, as far as it matters here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    ReadsMark,
    Refuses,
    /// Counts or logs; every packet goes on.
    Notes,
    Other,
}

/// Whether these expressions read the mark, and whether they refuse every packet.
fn judge(expressions: &[u8]) -> Result<(bool, bool), Truncated> {
    let (mut reads_mark, mut refuses, mut is_bound) = (false, false, false);
    for element in Attributes::nested(expressions) {
        let (kind, expression) = element?;
        if kind != NFTA_LIST_ELEM {
            continue;
        }
        match effect(expression)? {
            Effect::ReadsMark => reads_mark = true,
            Effect::Refuses => refuses = true,
            Effect::Notes => {}
            Effect::Other => is_bound = true,
        }
    }
    Ok((reads_mark, refuses && !is_bound && !reads_mark))
}

fn effect(expression: &[u8]) -> Result<Effect, Truncated> {
    let name = find(expression, NFTA_EXPR_NAME)?.map(text);
    let data = find(expression, NFTA_EXPR_DATA)?.unwrap_or_default();
    let effect = match name.as_deref() {
        Some("counter" | "log") => Effect::Notes,
        Some("reject") => Effect::Refuses,
        Some("immediate") if verdict(data)? == Some(NF_DROP) => Effect::Refuses,
        Some("target") => match find(data, NFTA_TARGET_NAME)?.map(text).as_deref() {
            Some("REJECT" | "DROP") => Effect::Refuses,
            Some("LOG") => Effect::Notes,
            _ => Effect::Other,
        },
        Some("match") if find(data, NFTA_MATCH_NAME)?.map(text).as_deref() == Some("connmark") => {
            Effect::ReadsMark
        }
        Some("ct") => {
            let key = find(data, NFTA_CT_KEY)?.map(be32).transpose()?;
            match find(data, NFTA_CT_DREG)? {
                Some(_) if key == Some(NFT_CT_MARK) => Effect::ReadsMark,
                _ => Effect::Other,
            }
        }
        _ => Effect::Other,
    };
    Ok(effect)
}

/// The verdict that an `immediate` expression gives, if it gives one.
fn verdict(data: &[u8]) -> Result<Option<u32>, Truncated> {
    let Some(value) = find(data, NFTA_IMMEDIATE_DATA)? else {
        return Ok(None);
    };
    let Some(verdict) = find(value, NFTA_DATA_VERDICT)? else {
        return Ok(None);
    };
    find(verdict, NFTA_VERDICT_CODE)?.map(be32).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::tests::vectors::bytes;

    /// `strace -xx nft list ruleset`; nft 1.0.6. The header's number is not its.
    #[test]
    fn chains_and_rules_are_asked_for_as_nft_does() {
        let mut builder = Builder::default();
        dump_chains(&mut builder, 0);
        dump_rules(&mut builder, 0, Family::Ip);
        let want = "14000000 040a 0103 00000000 00000000 00000000
                    14000000 070a 0103 00000000 00000000 02000000";
        assert_eq!(builder.bytes(), bytes(want));
    }

    fn message(kind: u16, body: &[u8]) -> Message<'_> {
        Message {
            kind,
            flags: 0,
            sequence: 0,
            port: 0,
            body,
        }
    }

    /// The kernel's answer after `iptables -P FORWARD DROP` (iptables 1.8.9, nf_tables).
    const FORWARD: &str = "02000005
        0b000100 66696c7465720000 0c000300 464f525741524400 0c000200 0000000000000001
        14000480 08000100 00000002 08000200 00000000 08000500 00000000 0b000700 66696c7465720000
        1c000880 0c000200 0000000000000000 0c000100 0000000000000000 08000a00 00000001 08000600 00000003";

    #[test]
    fn a_chain_with_policy_drop() {
        let body = bytes(FORWARD);
        let chain = parse_chain(&message(NEWCHAIN, &body)).unwrap().unwrap();
        let want = BaseChain {
            family: Family::Ip,
            table: "filter".to_owned(),
            name: "FORWARD".to_owned(),
            hook: 2,
            policy_drops: true,
        };
        assert_eq!(chain, want);
        // Cut anywhere it is no panic, and within a value an error.
        for end in 0..body.len() {
            let _ = parse_chain(&message(NEWCHAIN, &body[..end]));
        }
        let cut = parse_chain(&message(NEWCHAIN, &body[..body.len() - 1]));
        assert_eq!(cut, Err(Truncated));
        let mut other = body.clone();
        other[0] = 10;
        assert_eq!(parse_chain(&message(NEWCHAIN, &other)), Ok(None));
        assert_eq!(parse_chain(&message(NEWRULE, &body)), Ok(None));
    }

    /// The kernel's answer after `iptables -A FORWARD` with `-m connmark --mark 0x4d500000/0xffff0000 -j ACCEPT`,
    /// `-j REJECT` and `-j DROP`: table, chain and expressions.
    const RULES: [&str; 3] = [
        "a0000480 40000180 0a000100 6d61746368000000 30000280 0d000100 636f6e6e6d61726b00000000
            08000200 00000001 14000300 0000504d 0000ffff 00000000 00000000
         2c000180 0c000100 636f756e74657200 1c000280 0c000100 0000000000000000 0c000200 0000000000000000
         30000180 0e000100 696d6d6564696174650000001c000280 08000100 00000000 10000280 0c000280 08000100 00000001",
        "64000480 2c000180 0c000100 636f756e74657200 1c000280 0c000100 0000000000000000 0c000200 0000000000000000
         34000180 0b000100 7461726765740000 24000280 0b000100 52454a4543540000 08000200 00000000
            0c000300 0300000000000000",
        "60000480 2c000180 0c000100 636f756e74657200 1c000280 0c000100 0000000000000000 0c000200 0000000000000000
         30000180 0e000100 696d6d6564696174650000001c000280 08000100 00000000 10000280 0c000280 08000100 00000000",
    ];

    #[test]
    fn rules_that_read_the_mark_and_rules_that_refuse_all() {
        let effects = RULES.map(|rule| {
            let head = "02000005 0b000100 66696c7465720000 0c000200 464f525741524400";
            let body = bytes(&format!("{head} {rule}"));
            for end in 0..body.len() {
                let _ = parse_rule(&message(NEWRULE, &body[..end]), "filter");
            }
            let message = message(NEWRULE, &body);
            assert_eq!(parse_rule(&message, "nat"), Ok(None));
            let rule = parse_rule(&message, "filter").unwrap().unwrap();
            assert_eq!(rule.chain, "FORWARD");
            (rule.reads_mark, rule.refuses_all)
        });
        assert_eq!(effects, [(true, false), (false, true), (false, true)]);
    }

    #[test]
    fn names_cannot_disturb_a_terminal() {
        assert_eq!(text(b"a\x1b[2J\xff\0b"), "a\\u{1b}[2J\u{fffd}");
    }
}
