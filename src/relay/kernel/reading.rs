//! What a reading of all flows means: what was relayed, which flows are gone, whose packets do not leave and whether that
//! is their own trouble, that of two hosts or everybody's. Pure, but for the log.

use std::collections::HashSet;

use log::info;

use super::flow::FlowKey;
use super::flows::{Finding, Flows};
use super::paths::{self, Way};
use super::trust::Trust;
use crate::counters::Counters;
use crate::moment::Moment;
use crate::proto::{Party, PerParty};
use crate::session::{Loss, SessionKey};

/// What is to be done about a reading, in this order.
#[derive(Debug, Default)]
pub(super) struct Judged {
    /// Relayed since the last reading; none with nothing.
    pub traffic: Vec<(FlowKey, PerParty<Counters>)>,
    /// The kernel forwards again what it could not.
    pub is_mended: bool,
    pub takeovers: Vec<Takeover>,
    pub gone: Vec<FlowKey>,
}

/// Flows that user space takes over.
#[derive(Debug)]
pub(super) struct Takeover {
    pub keys: Vec<FlowKey>,
    /// The one of which the log is to tell why it is stuck, where that is news.
    pub first: Option<FirstStuck>,
    pub loss: Loss,
}

/// The first of so many flows that are stuck.
#[derive(Clone, Copy, Debug)]
pub(super) struct FirstStuck {
    pub key: FlowKey,
    pub party: Party,
    pub count: usize,
}

/// Judges a reading. The flow that is `watched` is known to be stuck.
pub(super) fn judge(
    findings: &[(FlowKey, Finding)],
    flows: &Flows,
    trust: &mut Trust,
    watched: Option<FlowKey>,
    now: Moment,
) -> Judged {
    let mut judged = Judged::default();
    let mut stuck = Vec::new();
    for (key, finding) in findings {
        match finding {
            Finding::Fine(more) if more.iter().any(|way| way.packets > 0) => {
                judged.traffic.push((*key, *more));
            }
            Finding::Fine(_) => {}
            Finding::Gone => judged.gone.push(*key),
            Finding::Stuck(_) if watched == Some(*key) => {}
            Finding::Stuck(party) => stuck.push((*key, *party)),
        }
    }
    let has_left = !judged.traffic.is_empty();
    if has_left && trust.health.on_media(now) {
        info!(
            "media leaves by the kernel again: running calls go back to it within seconds, new ones are handed over \
             as before"
        );
        judged.is_mended = true;
    }
    trust.paths.tidy(now);
    let ways = if stuck.is_empty() && trust.paths.is_empty() {
        HashSet::new()
    } else {
        ways_that_leave(&judged.traffic, flows)
    };
    judged.is_mended |= note_mended(&ways, trust, now);
    if !stuck.is_empty() {
        judged.takeovers = if has_left {
            some_stuck(&stuck, &ways, flows, trust, now)
        } else {
            vec![all_stuck(&stuck, flows, trust, now)]
        };
    }
    judged
}

/// The ways on which media has left since the last reading.
fn ways_that_leave(traffic: &[(FlowKey, PerParty<Counters>)], flows: &Flows) -> HashSet<Way> {
    let mut ways = HashSet::new();
    for (key, more) in traffic {
        if let Some(flow) = flows.get(key) {
            let left = Party::BOTH.into_iter();
            let left = left.filter(|party| more[*party].packets > 0);
            ways.extend(left.map(|party| paths::way(&flow.ends, party)));
        }
    }
    ways
}

/// Returns true if media leaves again between hosts of which it did not.
fn note_mended(ways: &HashSet<Way>, trust: &mut Trust, now: Moment) -> bool {
    let is_mended = |way: &&Way| trust.paths.on_media(**way, now);
    let mended: Vec<&Way> = ways.iter().filter(is_mended).collect();
    let Some((from, to)) = mended.first() else {
        return false;
    };
    let more = match mended.len() - 1 {
        0 => String::new(),
        count => format!(", and that of {count} other pairs of hosts"),
    };
    info!(
        "media from {from} to {to} leaves by the kernel again{more}: running calls go back to it within seconds"
    );
    true
}

/// Packets enter and nothing leaves at all: user space takes over all flows, and new ones wait. The first that is
/// stuck shows how far its next packets come, and is taken over after that.
fn all_stuck(
    stuck: &[(FlowKey, Party)],
    flows: &Flows,
    trust: &mut Trust,
    now: Moment,
) -> Takeover {
    let is_news = trust.health.on_trouble(now);
    let first = stuck.first().filter(|_| is_news);
    let first = first.map(|(key, party)| FirstStuck {
        key: *key,
        party: *party,
        count: stuck.len(),
    });
    Takeover {
        keys: flows.keys(),
        first,
        loss: Loss::Suspended,
    }
}

/// Packets of some enter and do not leave: user space takes over, the other flows of these calls included, whose
/// packets are few (RTCP) and go the same way. Where nothing leaves from host to host, new flows between these
/// wait; else it is the trouble of these calls alone.
fn some_stuck(
    stuck: &[(FlowKey, Party)],
    ways: &HashSet<Way>,
    flows: &Flows,
    trust: &mut Trust,
    now: Moment,
) -> Vec<Takeover> {
    let (mut of_hosts, mut of_calls) = (HashSet::new(), HashSet::new());
    let mut first: Option<FirstStuck> = None;
    for &(key, party) in stuck {
        let way = flows.get(&key).map(|flow| paths::way(&flow.ends, party));
        let blocked = way.filter(|way| !ways.contains(way));
        let is_news = match blocked.and_then(|way| trust.paths.on_trouble(way, now)) {
            Some(is_news) => {
                of_hosts.insert(call_of(&key));
                is_news
            }
            None => of_calls.insert(call_of(&key)),
        };
        let count = stuck.len();
        first = first.or(is_news.then_some(FirstStuck { key, party, count }));
    }
    let of = |calls: &HashSet<_>, key: &FlowKey| calls.contains(&call_of(key));
    let keys = flows.keys().into_iter();
    let (own, keys): (Vec<_>, Vec<_>) = keys.partition(|key| of(&of_calls, key));
    let shared: Vec<_> = keys.into_iter().filter(|key| of(&of_hosts, key)).collect();
    let is_own = |first: &FirstStuck| of(&of_calls, &first.key);
    let (first_own, first_shared) = (first.filter(is_own), first.filter(|first| !is_own(first)));
    let own = Takeover {
        keys: own,
        first: first_own,
        loss: Loss::Stuck,
    };
    let shared = Takeover {
        keys: shared,
        first: first_shared,
        loss: Loss::Suspended,
    };
    vec![own, shared]
}

/// What flows of one call have in common.
fn call_of(key: &FlowKey) -> (usize, SessionKey) {
    (key.worker, key.flow.session)
}
