//! Pairs of parties on a virtual clock against the engine: many calls at once, offers that are answered,
//! refused or never answered, retransmissions out of order, media lost and reordered on the way to the relay.
//! Whatever happens, a packet goes to the other party of its own call, from the port that this party was told,
//! and once both have shown where they are nothing is dropped. Each seed is a run of its own and repeats.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use mediaproxy::moment::{Moment, Now, UnixTime};
use mediaproxy::proto::control::{PROXY_LIMITS, Remove, Requests, Update};
use mediaproxy::proto::link::{Sequence, UpdateReply};
use mediaproxy::proto::{CallId, Component, Party, PerParty, SessionId, Tag};
use mediaproxy::session::ports::PortPool;
use mediaproxy::session::{
    Action, Asker, Engine, Environment, Owner, PacketVerdict, PortKey, ReplyTo, Settings, Tally,
};

const FIRST_PORT: u16 = 30000;
const LAST_PORT: u32 = 34000;

/// xorshift64*: enough to vary the runs, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

struct FakeMachine {
    pool: PortPool,
    random: Random,
    bound: HashMap<u16, PortKey>,
    now: Moment,
}

impl Environment for FakeMachine {
    fn bind(&mut self, _: IpAddr, place: PortKey) -> Option<u16> {
        let random = self.random.below(usize::MAX >> 1) as u64;
        let port = self.pool.take(random, self.now)?;
        assert!(
            self.bound.insert(port, place).is_none(),
            "a pair in use was given out"
        );
        self.bound.insert(
            port + 1,
            PortKey {
                component: Component::Rtcp,
                ..place
            },
        );
        Some(port)
    }

    fn rebind(&mut self, _: IpAddr, _: u16, _: PortKey) -> bool {
        unreachable!("nothing is taken over here")
    }

    fn tally(&mut self, _: u16, _: SessionId) -> Option<Tally> {
        unreachable!("nothing is taken over here")
    }

    fn local_address(&mut self, _: Option<IpAddr>) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1))
    }

    fn random(&mut self) -> u128 {
        self.random.below(usize::MAX >> 1) as u128
    }
}

/// One party's view of one agreed stream.
#[derive(Clone, Copy)]
struct Line {
    media_type: &'static str,
    /// Where its packets come from as the relay sees them: its NAT's port.
    source: SocketAddr,
    /// What its SDP says: a private address behind the NAT, the same in every call.
    described_port: u16,
    /// Where it was told to send.
    relay_port: u16,
}

struct Call {
    name: String,
    /// What both agreed on last, by party.
    agreed: PerParty<Vec<Line>>,
    cseq: PerParty<u32>,
    /// Updates that passed before, to be retransmitted.
    sent: Vec<(String, UpdateReply)>,
    answered: bool,
}

struct World {
    engine: Engine,
    host: FakeMachine,
    random: Random,
    now: Moment,
    next_source: u32,
    calls: Vec<Call>,
    reply: Option<UpdateReply>,
}

fn private(described_port: u16) -> String {
    format!("192.168.1.10:{described_port}")
}

impl World {
    fn new(seed: u64) -> World {
        let settings = Settings {
            stream_timeout: Duration::from_secs(90),
            on_hold_timeout: Duration::from_secs(7200),
            setup_timeout: Duration::from_secs(300),
            learning: mediaproxy::session::LearningRules {
                learning: mediaproxy::session::Learning::Open,
                ..Default::default()
            },
            advertised_ip: None,
            routable_private_ranges: Vec::new(),
            kernel: Err("forwarding = userspace".into()),
        };
        World {
            engine: Engine::new(settings),
            host: FakeMachine {
                pool: PortPool::new(FIRST_PORT, LAST_PORT),
                random: Random(seed ^ 0xdead_beef),
                bound: HashMap::new(),
                now: Moment::START,
            },
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            now: Moment::after_start(Duration::from_secs(1)),
            next_source: 0,
            calls: Vec::new(),
            reply: None,
        }
    }

    fn moment(&self) -> Now {
        Now {
            mono: self.now,
            unix: UnixTime::since_epoch(self.now.since_start()),
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.host.now = self.now;
        self.engine.tick(self.moment());
        self.act();
    }

    fn act(&mut self) {
        while let Some(action) = self.engine.poll_action() {
            match action {
                Action::Close { port } => {
                    assert!(self.host.bound.remove(&port).is_some(), "closed twice");
                    self.host.bound.remove(&(port + 1));
                    self.host.pool.give_back(port, self.now);
                }
                Action::Updated { reply, .. } => self.reply = Some(reply),
                _ => {}
            }
        }
    }

    fn send(&mut self, text: &str) -> UpdateReply {
        let mut requests = Requests::new(PROXY_LIMITS, &[]);
        requests.extend(text.as_bytes());
        let update = Update::parse(requests.next_request().unwrap().unwrap().unwrap()).unwrap();
        let now = self.moment();
        let asker = Asker {
            reply_to: ReplyTo {
                link: 1,
                sequence: Sequence(1),
            },
            owner: Owner(0),
            since: self.now,
        };
        self.engine.update(&update, asker, &mut self.host, now);
        self.act();
        self.reply.take().unwrap()
    }

    /// A mapping that no other stream has: every NAT gives one per socket.
    fn fresh_source(&mut self) -> SocketAddr {
        self.next_source += 1;
        let host = Ipv4Addr::from(0x0b00_0000 + self.next_source / 1000);
        SocketAddr::new(host.into(), 10_000 + 2 * (self.next_source % 1000) as u16)
    }

    fn line(&mut self, media_type: &'static str, described_port: u16) -> Line {
        Line {
            media_type,
            source: self.fresh_source(),
            described_port,
            relay_port: 0,
        }
    }

    /// One offer and, if it is answered, what comes of it.
    fn negotiate(
        &mut self,
        index: usize,
        offerer: Party,
        offer: Vec<Line>,
        direction: &str,
        outcome: Outcome,
    ) {
        let call = &mut self.calls[index];
        call.cseq[offerer] += 1;
        let cseq = call.cseq[offerer];
        let tags = match (offerer, call.answered) {
            (Party::Caller, false) => ("A", ""),
            (Party::Caller, true) => ("A", "B"),
            (Party::Callee, _) => ("B", "A"),
        };
        let name = call.name.clone();
        let text = |kind: &str, to_tag: &str, lines: &[Line], direction: &str| {
            let items = lines.iter().map(|l| {
                format!(
                    "{}:{}:{direction}:ice=no",
                    l.media_type,
                    private(l.described_port)
                )
            });
            let media = items.collect::<Vec<_>>().join(",");
            format!(
                "update\r\ntype: {kind}\r\ncall_id: {name}\r\ncseq: {cseq}\r\nfrom_uri: a\r\nto_uri: b\r\n\
                 from_tag: {}\r\nto_tag: {to_tag}\r\nuser_agent: x\r\nmedia: {media}\r\n\r\n",
                tags.0
            )
        };
        let request = text("request", tags.1, &offer, direction);
        let UpdateReply::Ports(_, to_answerer) = self.send(&request) else {
            panic!("refused: {request}")
        };
        self.calls[index].sent.push((
            request,
            UpdateReply::Ports([10, 0, 0, 1].into(), to_answerer.clone()),
        ));
        self.retransmit(index);
        if outcome == Outcome::Refused {
            return;
        }
        let answer = self.answer_lines(index, offerer.other(), &offer, &to_answerer);
        let to_tag = if offerer == Party::Caller { "B" } else { "A" };
        let reply = text("reply", to_tag, &answer, "sendrecv");
        let UpdateReply::Ports(_, to_offerer) = self.send(&reply) else {
            panic!("refused: {reply}")
        };
        self.calls[index].sent.push((
            reply,
            UpdateReply::Ports([10, 0, 0, 1].into(), to_offerer.clone()),
        ));
        let mut offered = offer;
        for (line, port) in offered.iter_mut().zip(&to_offerer) {
            line.relay_port = *port;
        }
        let call = &mut self.calls[index];
        call.answered = true;
        call.agreed[offerer] = offered;
        call.agreed[offerer.other()] = answer;
        self.retransmit(index);
    }

    /// The answerer's lines: sockets it has already, or fresh ones for new streams.
    fn answer_lines(
        &mut self,
        index: usize,
        answerer: Party,
        offer: &[Line],
        ports: &[u16],
    ) -> Vec<Line> {
        let mut lines = Vec::new();
        for (i, (offered, port)) in offer.iter().zip(ports).enumerate() {
            let had = self.calls[index].agreed[answerer].get(i).copied();
            let same = had.filter(|line| line.media_type == offered.media_type);
            let mut line =
                same.unwrap_or_else(|| self.line(offered.media_type, 7000 + 2 * i as u16));
            // The relay proposed a fresh stream: the NAT has no mapping towards its port yet.
            if line.relay_port != *port {
                line.source = self.fresh_source();
            }
            line.relay_port = *port;
            lines.push(line);
        }
        lines
    }

    /// Any message so far may come once more, at any time: it gets the ports that it got before.
    fn retransmit(&mut self, index: usize) {
        if !self.random.chance(40) {
            return;
        }
        let recent = self.calls[index].sent.len().min(8);
        let pick = self.calls[index].sent.len() - 1 - self.random.below(recent);
        let (text, first_reply) = self.calls[index].sent[pick].clone();
        let reply = self.send(&text);
        assert_eq!(reply, first_reply, "other ports the second time: {text}");
    }

    /// Every party of every call sends; all of it in any order, some of it lost on the way to the relay.
    /// Packets that the relay dropped.
    fn media(&mut self, lost_percent: usize) -> usize {
        let mut packets = Vec::new();
        for (index, call) in self.calls.iter().enumerate() {
            for party in [Party::Caller, Party::Callee] {
                for line in 0..call.agreed[party].len() {
                    for component in [Component::Rtp, Component::Rtcp] {
                        packets.push((index, party, line, component));
                    }
                }
            }
        }
        self.random.shuffle(&mut packets);
        let mut dropped = 0;
        for (index, party, line, component) in packets {
            if !self.random.chance(lost_percent) {
                dropped += usize::from(!self.packet(index, party, line, component));
            }
        }
        dropped
    }

    /// One packet through the relay. False when it was dropped; where it goes must be right.
    fn packet(&mut self, index: usize, party: Party, line: usize, component: Component) -> bool {
        let call = &self.calls[index];
        let sender = call.agreed[party][line];
        let receiver = call.agreed[party.other()][line];
        let up = component as u16;
        let source = SocketAddr::new(sender.source.ip(), sender.source.port() + up);
        let target = SocketAddr::new(receiver.source.ip(), receiver.source.port() + up);
        let place = *self
            .host
            .bound
            .get(&(sender.relay_port + up))
            .expect("told a port that is not bound");
        let data = match component {
            Component::Rtp => [0x80, 8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
            Component::Rtcp => [0x80, 200, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        };
        let verdict = self.engine.packet(place, source, &data, self.now);
        self.act();
        match verdict {
            PacketVerdict::Forward { from_port, to } => {
                assert_eq!(to, target, "to somebody else");
                assert_eq!(
                    from_port,
                    receiver.relay_port + up,
                    "from a port it was not told"
                );
                true
            }
            PacketVerdict::Drop(_) => false,
            PacketVerdict::Queued => panic!("queued what is not STUN"),
        }
    }

    fn step(&mut self) {
        let index = self.random.below(self.calls.len());
        let offerer = if self.random.chance(50) {
            Party::Caller
        } else {
            Party::Callee
        };
        let mut offer = self.calls[index].agreed[offerer].clone();
        let mut direction = "sendrecv";
        match self.random.below(5) {
            0 => {}
            1 => direction = "sendonly",
            2 => {
                let line = self.random.below(offer.len());
                let port = 20_000 + 2 * self.random.below(10_000) as u16;
                offer[line] = self.line(offer[line].media_type, port);
            }
            3 if offer.len() < 4 => {
                let added = self.line("video", 9000 + 2 * offer.len() as u16);
                offer.push(added);
            }
            _ => {
                let last = offer.len() - 1;
                let media_type = if offer[last].media_type == "image" {
                    "video"
                } else {
                    "image"
                };
                offer[last] = self.line(media_type, offer[last].described_port);
            }
        }
        let outcome = if self.random.chance(25) {
            Outcome::Refused
        } else {
            Outcome::Answered
        };
        self.negotiate(index, offerer, offer, direction, outcome);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Answered,
    Refused,
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    for number in 0..6 {
        let offer = vec![world.line("audio", 7000)];
        world.calls.push(Call {
            name: format!("call-{number}"),
            agreed: PerParty::default(),
            cseq: PerParty::default(),
            sent: Vec::new(),
            answered: false,
        });
        world.negotiate(number, Party::Caller, offer, "sendrecv", Outcome::Answered);
    }
    for _ in 0..40 {
        world.step();
        world.media(30);
        // One round without loss shows everybody where everybody is; then nothing may be dropped.
        world.media(0);
        assert_eq!(world.media(0), 0, "dropped after both were known");
        let wait = Duration::from_millis(20 + world.random.below(20_000) as u64);
        world.pass(wait);
    }
    finish(&mut world);
}

/// Every call hangs up: nothing is left.
fn finish(world: &mut World) {
    for index in 0..world.calls.len() {
        let remove = Remove {
            call_id: CallId(world.calls[index].name.as_str().into()),
            from_tag: Tag("A".into()),
            to_tag: Some(Tag("B".into())),
        };
        let reply_to = ReplyTo {
            link: 0,
            sequence: Sequence(index as u64),
        };
        let now = world.moment();
        assert!(world.engine.remove(&remove, reply_to, now));
        world.act();
    }
    assert_eq!(world.engine.sessions().live_count(), 0);
    assert!(world.host.bound.is_empty());
    assert_eq!(world.engine.next_deadline(), None);
    let all = (LAST_PORT as usize - usize::from(FIRST_PORT)) / 2;
    assert_eq!(world.host.pool.free(), all);
}

#[test]
fn pairs_hear_each_other_whatever_happens() {
    for seed in 1..=150 {
        if std::panic::catch_unwind(|| run(seed)).is_err() {
            panic!("seed {seed}");
        }
    }
}
