//! Whether the rules of other programs' chains let packets from outside come to ports of this host. Pure.
//!
//! Media is untracked where the relay's table is and new where it is not; a TCP connection that begins is new. What a
//! rule asks beyond protocol, port, state and the loopback interface is not understood: it may fit or not, and what
//! comes after it is not certain any more.

use std::collections::HashMap;

use super::message::{self, Attributes, Truncated, be16, be32};

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
/// Of the expressions that load something into a register, meta and payload and ct.
const NFTA_DREG: u16 = 1;
const NFTA_KEY: u16 = 2;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
const NFTA_RANGE_OP: u16 = 2;
const NFTA_RANGE_FROM: u16 = 3;
const NFTA_RANGE_TO: u16 = 4;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;
const NFTA_IMMEDIATE_DATA: u16 = 2;
/// Of targets and matches of iptables.
const NFTA_XT_NAME: u16 = 1;
const NFTA_XT_INFO: u16 = 3;

const NFT_META_IIF: u32 = 4;
const NFT_META_IIFNAME: u32 = 6;
const NFT_META_NFPROTO: u32 = 15;
const NFT_META_L4PROTO: u32 = 16;
const NFT_CT_STATE: u32 = 0;
const NFT_PAYLOAD_NETWORK: u32 = 1;
const NFT_PAYLOAD_TRANSPORT: u32 = 2;
const NFPROTO_IPV4: u8 = 2;

/// Bits of a state (linux/netfilter/nf_conntrack_common.h).
const NEW: u32 = 8;
const UNTRACKED: u32 = 64;

const TCP: u8 = 6;

/// Deeper than the kernel lets chains call each other.
const DEEPEST: usize = 16;

/// First and last port.
pub type Ports = (u16, u16);

const ALL_PORTS: Ports = (0, u16::MAX);

/// A rule of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    when: When,
    then: Then,
}

/// Which packets it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct When {
    protocol: Option<u8>,
    ports: Ports,
    /// The states that it names.
    states: Option<u32>,
    /// For none from outside.
    is_never: bool,
    /// It asks nothing else.
    is_sure: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Then {
    /// The next rule.
    GoOn,
    Accept,
    Refuse,
    Jump(String),
    Goto(String),
    Return,
    /// Nobody knows where it goes from there.
    Other,
}

/// How a rule fits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fit {
    Never,
    Maybe,
    Sure,
}

impl When {
    fn fit(&self, protocol: u8) -> Fit {
        let needed = match protocol {
            TCP => NEW,
            _ => NEW | UNTRACKED,
        };
        let states = self.states.unwrap_or(needed) & needed;
        if self.is_never || self.protocol.is_some_and(|own| own != protocol) || states == 0 {
            return Fit::Never;
        }
        if self.is_sure && states == needed {
            Fit::Sure
        } else {
            Fit::Maybe
        }
    }

    fn narrow(&mut self, first: u16, last: u16) {
        let (from, to) = self.ports;
        self.ports = (from.max(first), to.min(last));
        self.is_never |= self.ports.0 > self.ports.1;
    }
}

/// What a register holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loaded {
    Protocol,
    Family,
    Port,
    Interface,
    State,
    MaskedState(u32),
    Other,
}

/// Reads a rule's expressions.
pub fn read(expressions: &[u8]) -> Result<Step, Truncated> {
    let mut step = Step {
        when: When {
            protocol: None,
            ports: ALL_PORTS,
            states: None,
            is_never: false,
            is_sure: true,
        },
        then: Then::GoOn,
    };
    let mut loaded = Loaded::Other;
    for element in Attributes::nested(expressions) {
        let (kind, expression) = element?;
        if kind != NFTA_LIST_ELEM {
            continue;
        }
        let name = message::find(expression, NFTA_EXPR_NAME)?.map(message::text);
        let data = message::find(expression, NFTA_EXPR_DATA)?.unwrap_or_default();
        let when = &mut step.when;
        match name.as_deref().unwrap_or_default() {
            "meta" | "ct" | "payload" if message::find(data, NFTA_DREG)?.is_none() => {}
            "meta" => loaded = meta(data)?,
            "ct" => loaded = key(data, &[(NFT_CT_STATE, Loaded::State)])?,
            "payload" => loaded = payload(data)?,
            "bitwise" => loaded = masked(loaded, data)?,
            "cmp" => compare(when, loaded, data)?,
            "range" if loaded == Loaded::Port && number(data, NFTA_RANGE_OP)? == Some(0) => {
                let from = value(data, NFTA_RANGE_FROM)?.map(be16).transpose()?;
                let to = value(data, NFTA_RANGE_TO)?.map(be16).transpose()?;
                when.narrow(from.unwrap_or(0), to.unwrap_or(u16::MAX));
            }
            "match" => extension(when, data)?,
            "immediate" => step.then = immediate(data)?.unwrap_or(step.then),
            "reject" => step.then = Then::Refuse,
            "target" => {
                step.then = match message::find(data, NFTA_XT_NAME)?
                    .map(message::text)
                    .as_deref()
                {
                    Some("REJECT" | "DROP") => Then::Refuse,
                    Some("LOG" | "NFLOG" | "CT" | "NOTRACK" | "MARK") => Then::GoOn,
                    _ => Then::Other,
                }
            }
            "counter" | "log" | "notrack" | "objref" => {}
            "queue" => step.then = Then::Other,
            _ => when.is_sure = false,
        }
    }
    Ok(step)
}

fn number(data: &[u8], wanted: u16) -> Result<Option<u32>, Truncated> {
    message::find(data, wanted)?.map(be32).transpose()
}

/// The bytes that a value attribute holds.
fn value(data: &[u8], wanted: u16) -> Result<Option<&[u8]>, Truncated> {
    match message::find(data, wanted)? {
        Some(nested) => message::find(nested, NFTA_DATA_VALUE),
        None => Ok(None),
    }
}

fn key(data: &[u8], known: &[(u32, Loaded)]) -> Result<Loaded, Truncated> {
    let key = number(data, NFTA_KEY)?;
    let found = known.iter().find(|(number, _)| Some(*number) == key);
    Ok(found.map_or(Loaded::Other, |(_, loaded)| *loaded))
}

fn meta(data: &[u8]) -> Result<Loaded, Truncated> {
    let known = [
        (NFT_META_IIF, Loaded::Interface),
        (NFT_META_IIFNAME, Loaded::Interface),
        (NFT_META_NFPROTO, Loaded::Family),
        (NFT_META_L4PROTO, Loaded::Protocol),
    ];
    key(data, &known)
}

fn payload(data: &[u8]) -> Result<Loaded, Truncated> {
    let base = number(data, NFTA_PAYLOAD_BASE)?;
    let offset = number(data, NFTA_PAYLOAD_OFFSET)?;
    Ok(match (base, offset) {
        (Some(NFT_PAYLOAD_TRANSPORT), Some(2)) => Loaded::Port,
        (Some(NFT_PAYLOAD_NETWORK), Some(9)) => Loaded::Protocol,
        _ => Loaded::Other,
    })
}

fn masked(loaded: Loaded, data: &[u8]) -> Result<Loaded, Truncated> {
    let mask = value(data, NFTA_BITWISE_MASK)?.map(host_order);
    Ok(match (loaded, mask) {
        (Loaded::State, Some(Some(mask))) => Loaded::MaskedState(mask),
        _ => Loaded::Other,
    })
}

fn host_order(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

fn compare(when: &mut When, loaded: Loaded, data: &[u8]) -> Result<(), Truncated> {
    /// NFT_CMP_*.
    const EQ: u32 = 0;
    const NEQ: u32 = 1;
    const LT: u32 = 2;
    const LTE: u32 = 3;
    const GT: u32 = 4;
    const GTE: u32 = 5;
    let bytes = value(data, NFTA_CMP_DATA)?.unwrap_or_default();
    let operator = number(data, NFTA_CMP_OP)?.unwrap_or(u32::MAX);
    match (loaded, operator) {
        (Loaded::Protocol, EQ) => when.protocol = bytes.first().copied(),
        (Loaded::Family, EQ) => when.is_never |= bytes.first() != Some(&NFPROTO_IPV4),
        (Loaded::Port, EQ) => when.narrow(be16(bytes)?, be16(bytes)?),
        (Loaded::Port, LT) => when.narrow(0, be16(bytes)?.saturating_sub(1)),
        (Loaded::Port, LTE) => when.narrow(0, be16(bytes)?),
        (Loaded::Port, GT) => when.narrow(be16(bytes)?.saturating_add(1), u16::MAX),
        (Loaded::Port, GTE) => when.narrow(be16(bytes)?, u16::MAX),
        (Loaded::Interface, EQ) if is_loopback(bytes) => when.is_never = true,
        (Loaded::Interface, NEQ) if is_loopback(bytes) => {}
        (Loaded::MaskedState(mask), NEQ) if bytes.iter().all(|byte| *byte == 0) => {
            when.states = Some(mask);
        }
        _ => when.is_sure = false,
    }
    Ok(())
}

/// Its name, or its number, which is 1 in every network namespace.
fn is_loopback(bytes: &[u8]) -> bool {
    bytes == 1u32.to_ne_bytes()
        || bytes
            .strip_prefix(b"lo")
            .is_some_and(|rest| rest.iter().all(|byte| *byte == 0))
}

fn immediate(data: &[u8]) -> Result<Option<Then>, Truncated> {
    let nested = message::find(data, NFTA_IMMEDIATE_DATA)?.unwrap_or_default();
    let Some(verdict) = message::find(nested, NFTA_DATA_VERDICT)? else {
        return Ok(None);
    };
    let chain = || {
        message::find(verdict, NFTA_VERDICT_CHAIN)
            .map(|name| name.map(message::text).unwrap_or_default())
    };
    // NF_* and NFT_* (linux/netfilter.h, linux/netfilter/nf_tables.h).
    Ok(
        match number(verdict, NFTA_VERDICT_CODE)?.map(u32::cast_signed) {
            Some(0) => Some(Then::Refuse),
            Some(1) => Some(Then::Accept),
            Some(-1) => Some(Then::GoOn),
            Some(-3) => Some(Then::Jump(chain()?)),
            Some(-4) => Some(Then::Goto(chain()?)),
            Some(-5) => Some(Then::Return),
            _ => Some(Then::Other),
        },
    )
}

/// A match of iptables (linux/netfilter/xt_conntrack.h, xt_multiport.h, xt_tcpudp.h).
fn extension(when: &mut When, data: &[u8]) -> Result<(), Truncated> {
    let name = message::find(data, NFTA_XT_NAME)?.map(message::text);
    let info = message::find(data, NFTA_XT_INFO)?.unwrap_or_default();
    let number = |at: usize| {
        info.get(at..at + 2)
            .and_then(|two| two.try_into().ok())
            .map(u16::from_ne_bytes)
    };
    match name.as_deref() {
        Some("comment") => {}
        // Only the state is asked for, and not its opposite.
        Some("conntrack") if (number(146), number(148)) == (Some(1), Some(0)) => {
            when.states = number(150).map(u32::from);
        }
        // One stretch, of the destination, not its opposite.
        Some("multiport")
            if info.get(..2) == Some(&[1, 2])
                && info.get(32..34) == Some(&[1, 0])
                && info.get(47) == Some(&0) =>
        {
            when.narrow(number(2).unwrap_or(0), number(4).unwrap_or(u16::MAX));
        }
        // All source ports, nothing inverted.
        Some("udp")
            if (number(0), number(2), info.get(8)) == (Some(0), Some(u16::MAX), Some(&0)) =>
        {
            when.narrow(number(4).unwrap_or(0), number(6).unwrap_or(u16::MAX));
        }
        _ => when.is_sure = false,
    }
    Ok(())
}

/// What a chain that a hook calls refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub ports: Ports,
    /// No rule of the chain says it.
    pub by_policy: bool,
    /// No rule before it can have let packets in.
    pub is_sure: bool,
}

/// The rules of one table.
pub struct Passage<'r> {
    /// Of each chain in their order, by its name.
    pub rules: &'r HashMap<String, Vec<Step>>,
    /// As IP numbers it.
    pub protocol: u8,
}

/// How far packets have come.
#[derive(Clone, Default)]
struct Way {
    /// Those that no rule has decided on.
    left: Vec<Ports>,
    refusals: Vec<Refusal>,
    /// Some may have been let in by rules that are not understood.
    is_unsure: bool,
}

impl Passage<'_> {
    /// What a base chain of the table refuses of these ports.
    pub fn refused(&self, chain: &str, policy_drops: bool, ports: Ports) -> Vec<Refusal> {
        let mut way = Way {
            left: vec![ports],
            ..Way::default()
        };
        self.walk(chain, &mut way, 0);
        if policy_drops {
            let is_sure = !way.is_unsure;
            let refusal = |ports: &Ports| Refusal {
                ports: *ports,
                by_policy: true,
                is_sure,
            };
            way.refusals.extend(way.left.iter().map(refusal));
        }
        way.refusals
    }

    /// Goes through a chain; what it returns is left.
    fn walk(&self, chain: &str, way: &mut Way, depth: usize) {
        if depth > DEEPEST {
            way.is_unsure = true;
            return;
        }
        // What returns for certain, and what may.
        let (mut back, mut may_be_back) = (Vec::new(), Vec::new());
        for Step { when, then } in self.rules.get(chain).into_iter().flatten() {
            let fit = when.fit(self.protocol);
            let hit = cut(&way.left, when.ports);
            if fit == Fit::Never || hit.is_empty() {
                continue;
            }
            let is_sure = fit == Fit::Sure;
            let mut through = Way {
                left: hit.clone(),
                is_unsure: way.is_unsure,
                ..Way::default()
            };
            match then {
                Then::GoOn => continue,
                Then::Accept => through.left.clear(),
                Then::Refuse => {
                    let is_sure = !way.is_unsure;
                    let refusal = |ports: &Ports| Refusal {
                        ports: *ports,
                        by_policy: false,
                        is_sure,
                    };
                    through.refusals.extend(hit.iter().map(refusal));
                    through.left.clear();
                }
                Then::Return if is_sure => back.append(&mut through.left),
                Then::Return => {
                    may_be_back.append(&mut through.left);
                    way.is_unsure = true;
                    continue;
                }
                Then::Jump(to) => self.walk(to, &mut through, depth + 1),
                Then::Goto(to) => {
                    self.walk(to, &mut through, depth + 1);
                    let returned = if is_sure { &mut back } else { &mut may_be_back };
                    returned.append(&mut through.left.clone());
                    if is_sure {
                        through.left.clear();
                    }
                }
                Then::Other => {
                    through.is_unsure = true;
                    through.left.clear();
                }
            }
            if is_sure {
                way.left = without(&way.left, when.ports);
                way.left.append(&mut through.left);
                way.refusals.append(&mut through.refusals);
                way.is_unsure = through.is_unsure;
            } else {
                // Of those for which it fits, what was neither refused nor is left has got in.
                let refused = through.refusals.iter().map(|one| one.ports);
                let got_in = count(refused) + count(through.left) < count(hit);
                way.is_unsure |= through.is_unsure || got_in;
            }
        }
        way.left.append(&mut back);
        if !may_be_back.is_empty() {
            let goes_on = |one: &Refusal| !one.is_sure && !cut(&may_be_back, one.ports).is_empty();
            way.refusals.retain(|one| !goes_on(one));
            for ports in may_be_back {
                way.left = without(&way.left, ports);
                way.left.push(ports);
            }
            way.is_unsure = true;
        }
    }
}

/// Stretches may overlap, and there may be any number.
fn count(all: impl IntoIterator<Item = Ports>) -> u64 {
    let one = |(first, last): Ports| (u64::from(last) + 1).saturating_sub(first.into());
    all.into_iter().map(one).fold(0, u64::saturating_add)
}

/// What of these ports is in a stretch.
fn cut(all: &[Ports], (first, last): Ports) -> Vec<Ports> {
    let both = all
        .iter()
        .map(|(from, to)| ((*from).max(first), (*to).min(last)));
    both.filter(|(from, to)| from <= to).collect()
}

/// What of them is not.
fn without(all: &[Ports], (first, last): Ports) -> Vec<Ports> {
    let before = first.checked_sub(1).map(|end| cut(all, (0, end)));
    let after = last.checked_add(1).map(|begin| cut(all, (begin, u16::MAX)));
    [before, after].into_iter().flatten().flatten().collect()
}
