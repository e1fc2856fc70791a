//! The rules of docs/protocol.md on a virtual clock: each test names the rule that it holds the engine to.

mod adoption;
mod answers;
mod explain;
mod flows;
mod handover;
mod learning;
mod media;
mod negotiation;
mod offers;
mod reading;
mod shadow;
mod statistics;
mod timers;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;

use self::shadow::{Done, Event, Shadow, drained};
use super::ports::PortPool;
use super::*;
use crate::counters::Counters;
use crate::moment::{Moment, Now, UnixTime};
use crate::proto::control::{Limits, Remove, Requests, Update};
use crate::proto::link::Sequence;
use crate::proto::link::UpdateReply;
use crate::proto::{CallId, Component, Party, PerParty, SessionId, Tag};

const RELAY: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);
pub(super) const CALLER: &str = "198.18.0.1:4000";
pub(super) const CALLEE: &str = "198.18.0.2:5000";

/// The machine as a test wants it.
#[derive(Clone)]
pub(super) struct FakeMachine {
    pool: PortPool,
    random: u128,
    pub bound: HashMap<u16, PortKey>,
    /// Bind so many pairs more, then fail.
    pub binds_left: usize,
    /// What the process before has left, by RTP port.
    pub tallies: HashMap<u16, (SessionId, Tally)>,
    pub last_alive: Option<Moment>,
    /// The process before has left these pairs: they are neither in use nor in the pool.
    pub left: HashSet<u16>,
}

impl Environment for FakeMachine {
    fn bind(&mut self, _: IpAddr, place: PortKey) -> Option<u16> {
        self.binds_left = self.binds_left.checked_sub(1)?;
        let port = self.pool.take(0, Moment::START)?;
        self.bound.insert(port, place);
        let rtcp = PortKey {
            component: Component::Rtcp,
            ..place
        };
        self.bound.insert(port + 1, rtcp);
        Some(port)
    }

    fn rebind(&mut self, _: IpAddr, port: u16, place: PortKey) -> bool {
        if !self.left.remove(&port) && !self.pool.claim(port) {
            return false;
        }
        self.bound.insert(port, place);
        let rtcp = PortKey {
            component: Component::Rtcp,
            ..place
        };
        self.bound.insert(port + 1, rtcp);
        true
    }

    fn tally(&mut self, port: u16, session: SessionId) -> Option<Tally> {
        let (id, tally) = self.tallies.get(&port)?;
        (*id == session).then_some(*tally)
    }

    fn last_alive(&self) -> Option<Moment> {
        self.last_alive
    }

    fn local_address(&mut self, towards: Option<IpAddr>) -> IpAddr {
        match towards {
            Some(IpAddr::V4(ip)) if ip.octets()[0] == 172 => [172, 16, 9, 9].into(),
            _ => RELAY.into(),
        }
    }

    fn random(&mut self) -> u128 {
        self.random += 1;
        self.random
    }
}

/// An engine, its machine and its clock.
pub(super) struct Lab {
    pub settings: Settings,
    pub engine: Engine,
    pub host: FakeMachine,
    pub now: Moment,
    /// All that came out and was not asked for yet.
    pub actions: Vec<Action>,
    /// How many updates there were.
    pub asked: u64,
    /// Each so many steps another engine takes everything over and is to do the same; zero for never.
    pub shadow_every: u64,
    steps: u64,
}

pub(super) fn settings() -> Settings {
    Settings {
        stream_timeout: Duration::from_secs(90),
        on_hold_timeout: Duration::from_secs(7200),
        setup_timeout: Duration::from_secs(300),
        advertised_ip: None,
        routable_private_ranges: Vec::new(),
        learning: LearningRules::default(),
        kernel: Err("forwarding = userspace".into()),
    }
}

/// Where it is of no matter who is believed: the first who sends.
pub(super) fn open() -> Settings {
    Settings {
        learning: LearningRules {
            learning: Learning::Open,
            ..LearningRules::default()
        },
        ..settings()
    }
}

impl Lab {
    pub(super) fn new() -> Lab {
        Lab::with(settings())
    }

    pub(super) fn with(settings: Settings) -> Lab {
        Lab {
            engine: Engine::new(settings.clone()),
            settings,
            host: FakeMachine {
                pool: PortPool::new(40000, 41000),
                random: 0,
                bound: HashMap::new(),
                binds_left: usize::MAX,
                tallies: HashMap::new(),
                last_alive: None,
                left: HashSet::new(),
            },
            now: Moment::after_start(Duration::from_secs(1000)),
            actions: Vec::new(),
            asked: 0,
            shadow_every: 1,
            steps: 0,
        }
    }

    pub(super) fn moment(&self) -> Now {
        Now {
            mono: self.now,
            unix: UnixTime::since_epoch(
                Duration::from_secs(1_700_000_000) + self.now.since_start(),
            ),
        }
    }

    /// Lets time pass, the engine's timers firing when they are due.
    pub(super) fn pass(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        while let Some(due) = self.engine.next_deadline().filter(|&due| due <= end) {
            self.now = self.now.max(due);
            self.step(&Event::Tick);
        }
        self.now = end;
    }

    pub(super) fn flow_installed(&mut self, flow: FlowId, answer: Installed) {
        self.flow_news(FlowNews::Installed(flow, answer));
    }

    pub(super) fn flow_traffic(&mut self, flow: FlowId, more: [Counters; 2]) {
        self.flow_news(FlowNews::Traffic(flow, more.into()));
    }

    pub(super) fn flow_lost(&mut self, flow: FlowId, loss: Loss, last: [Counters; 2]) {
        self.flow_news(FlowNews::Lost(flow, loss, last.into()));
    }

    pub(super) fn flow_withdrawn(&mut self, flow: FlowId, last: [Counters; 2]) {
        self.flow_news(FlowNews::Withdrawn(flow, last.into()));
    }

    pub(super) fn flows_heard(&mut self, until: Moment) {
        self.flow_news(FlowNews::Heard(until));
    }

    pub(super) fn forwarding_mended(&mut self) {
        self.flow_news(FlowNews::Mended);
    }

    fn flow_news(&mut self, news: FlowNews) {
        self.step(&Event::News(news));
    }

    /// Something happens. Another engine that takes everything over before it must do the same.
    fn step(&mut self, event: &Event<'_>) -> Done {
        self.steps += 1;
        let is_due = self.shadow_every > 0 && self.steps.is_multiple_of(self.shadow_every);
        let shadow = is_due.then(|| Shadow::of(self)).flatten();
        let now = self.moment();
        let (done, actions) = event.happen(&mut self.engine, &mut self.host, now);
        if let Some(shadow) = shadow {
            shadow.compare(event, self, &done, &actions);
        }
        self.actions.extend(actions);
        done
    }

    fn drain_actions(&mut self) {
        let actions = drained(&mut self.engine, &mut self.host, self.now);
        self.actions.extend(actions);
    }

    /// An update as the SIP proxy words it; `media` empty for a message without SDP.
    pub(super) fn update(
        &mut self,
        kind: &str,
        cseq: u32,
        tags: (&str, &str),
        media: &str,
    ) -> UpdateReply {
        self.update_with(kind, cseq, tags, &format!("media: {media}\r\n"))
    }

    pub(super) fn update_with(
        &mut self,
        kind: &str,
        cseq: u32,
        tags: (&str, &str),
        more: &str,
    ) -> UpdateReply {
        self.take(request(kind, cseq, tags, more).as_bytes())
    }

    /// A request `update` as it came, that is answered at once.
    pub(super) fn take(&mut self, request: &[u8]) -> UpdateReply {
        self.ask(request);
        let (_, reply) = self.answers().pop().expect("answered at once");
        reply
    }

    /// The same; answers are in [`Lab::answers`], by how often was asked before.
    pub(super) fn ask(&mut self, request: &[u8]) {
        let mut requests = Requests::new(LIMITS, &[]);
        requests.extend(request);
        let update = Update::parse(requests.next_request().unwrap().unwrap().unwrap()).unwrap();
        let asker = Asker {
            reply_to: ReplyTo {
                link: 1,
                sequence: Sequence(self.asked),
            },
            owner: Owner(0),
            since: self.now,
        };
        self.asked += 1;
        self.step(&Event::Update(&update, asker));
    }

    /// The answers to updates that came and were not asked for yet.
    pub(super) fn answers(&mut self) -> Vec<(u64, UpdateReply)> {
        let is_answer = |action: &mut Action| matches!(action, Action::Updated { .. });
        let answers = self.actions.extract_if(.., is_answer);
        let answer = |action| match action {
            Action::Updated { asker, reply } => Some((asker.reply_to.sequence.0, reply)),
            _ => None,
        };
        answers.filter_map(answer).collect()
    }

    pub(super) fn remove(&mut self, from_tag: &str, to_tag: &str) -> bool {
        let tag = |text: &str| (!text.is_empty()).then(|| Tag(text.into()));
        let remove = Remove {
            call_id: CallId("call".into()),
            from_tag: tag(from_tag).unwrap(),
            to_tag: tag(to_tag),
        };
        let reply_to = ReplyTo {
            link: 1,
            sequence: Sequence(7),
        };
        self.step(&Event::Remove(&remove, reply_to)) == Done::Removed(true)
    }

    /// A datagram from `from` to a relay port.
    pub(super) fn packet(&mut self, from: &str, port: u16, data: &[u8]) -> PacketVerdict {
        let Some(&place) = self.host.bound.get(&port) else {
            return PacketVerdict::Drop(DropReason::Closed);
        };
        match self.step(&Event::Packet(place, addr(from), data)) {
            Done::Packet(verdict) => verdict,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn rtp(&mut self, from: &str, port: u16) -> PacketVerdict {
        self.packet(from, port, &rtp(8))
    }

    /// A call that was offered and answered: audio, both addresses routable only once learned. The relay's
    /// port for the caller to send to, and the callee's.
    pub(super) fn call(&mut self) -> (u16, u16) {
        let callee_side = ports(&self.update("request", 1, ("A", ""), &audio(CALLER)))[0];
        let caller_side = ports(&self.update("reply", 1, ("A", "B"), &audio(CALLEE)))[0];
        (caller_side, callee_side)
    }

    /// The same with media from both.
    pub(super) fn talking(&mut self) -> (u16, u16) {
        let (caller_side, callee_side) = self.call();
        self.rtp(CALLER, caller_side);
        self.rtp(CALLEE, callee_side);
        (caller_side, callee_side)
    }

    /// Returns true if the log has a line of a stranger at the only session's ports.
    pub(super) fn stranger_is_told(&self) -> bool {
        let mut live = self.engine.sessions().live_from(0);
        live.next()
            .is_some_and(|(_, session)| session.stranger_told)
    }

    /// The statistics of the only session, as `sessions` shows them.
    pub(super) fn statistics(&self) -> Value {
        let mut out = b"[".to_vec();
        assert_eq!(
            self.engine
                .write_sessions(&mut out, |_| true, 0, (100, usize::MAX), self.moment()),
            None
        );
        *out.last_mut().unwrap() = b']';
        let mut list: Vec<Value> = serde_json::from_slice(&out).unwrap();
        assert_eq!(list.len(), 1);
        list.remove(0)
    }

    /// The statistics of the session that ended by itself, if one did.
    pub(super) fn expired(&mut self) -> Option<Value> {
        let ended = |action: &Action| matches!(action, Action::Expired { .. });
        let index = self.actions.iter().position(ended)?;
        match self.actions.remove(index) {
            Action::Expired { ended, .. } => {
                Some(serde_json::from_slice(&ended.statistics).unwrap())
            }
            _ => None,
        }
    }

    pub(super) fn removed(&mut self) -> Option<Value> {
        let ended = |action: &Action| matches!(action, Action::Removed { .. });
        let index = self.actions.iter().position(ended)?;
        match self.actions.remove(index) {
            Action::Removed { ended, .. } => {
                Some(serde_json::from_slice(&ended.statistics).unwrap())
            }
            _ => None,
        }
    }
}

/// An update as the SIP proxy words it, with more header lines.
pub(super) fn request(kind: &str, cseq: u32, tags: (&str, &str), more: &str) -> String {
    let (from, to) = tags;
    format!(
        "update\r\ntype: {kind}\r\ncall_id: call\r\ncseq: {cseq}\r\nfrom_uri: a@x\r\nto_uri: b@x\r\n\
             from_tag: {from}\r\nto_tag: {to}\r\nuser_agent: agent-{kind}\r\n{more}\r\n"
    )
}

const LIMITS: Limits = crate::proto::control::PROXY_LIMITS;

pub(super) fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// One item of `media`, `type:ip:port:direction`.
pub(super) fn item(kind: &str, address: &str, direction: &str) -> String {
    format!("{kind}:{address}:{direction}:ice=no")
}

pub(super) fn audio(address: &str) -> String {
    item("audio", address, "sendrecv")
}

#[track_caller]
pub(super) fn ports(reply: &UpdateReply) -> Vec<u16> {
    match reply {
        UpdateReply::Ports(_, ports) => ports.clone(),
        other => panic!("{other}"),
    }
}

pub(super) fn rtp(payload_type: u8) -> Vec<u8> {
    let mut data = vec![0; 172];
    data[0] = 0x80;
    data[1] = payload_type;
    data
}

pub(super) fn rtcp() -> Vec<u8> {
    let mut data = vec![0; 52];
    data[..2].copy_from_slice(&[0x80, 200]);
    data
}

pub(super) fn stun() -> Vec<u8> {
    let mut data = vec![0; 20];
    data[4..8].copy_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
    data
}

/// A packet that goes on.
pub(super) fn to(from_port: u16, address: &str) -> PacketVerdict {
    PacketVerdict::Forward {
        from_port,
        to: addr(address),
    }
}
