//! The engine under any sequence of updates, packets, removes, kernel events and time. The machine around it
//! is a model that counts along, so that what the engine promises can be checked after every step:
//!
//! - bound are the two pairs of each live stream and nothing else; what failed has kept nothing;
//! - a packet goes out on the other leg of its own stream, and a repeated request gets the same answer;
//! - each session is reported once, after the kernel's last word, with every packet that was relayed;
//! - after `end_all` nothing is left.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use mediaproxy::counters::Counters;
use mediaproxy::moment::{Moment, Now, UnixTime};
use mediaproxy::proto::control::Update;
use mediaproxy::proto::link::{Sequence, UpdateReply};
use mediaproxy::proto::{Component, Party, PerParty, SessionId};
use mediaproxy::session::{
    Action, Asker, Ended, Engine, Environment, FlowId, FlowNews, Installed, Loss, Owner,
    PacketVerdict, PortKey, ReplyTo, SessionKey, Settings,
};

use super::{Choices, words};

const SECONDS: [u64; 9] = [0, 1, 5, 10, 60, 90, 300, 3600, 7200];
const RELAYS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 88, 1, 1)),
    IpAddr::V4(Ipv4Addr::new(192, 88, 2, 1)),
];
/// Pairs are never used twice in one run, so that a port names its stream.
const FIRST_PORT: u16 = 20_000;

/// The first two choices are settings; then one letter for each step:
///
/// ```text
///  u call reply from to cseq cut lines (type address port direction ice)...     an update
///  r call from to         a remove             p port source kind    a packet
///  t seconds              time passes          b pairs               so many binds more, then failure
///  k refused packets      the kernel does the next thing asked of it
///  x flow packets         the kernel relays    l flow                and loses an entry
///  d                      no new sessions
/// ```
pub fn run(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mut lab = Lab::new(&mut choices);
    while let Some(step) = choices.byte() {
        match step {
            b'u' => lab.update(&mut choices),
            b'r' => lab.remove(&mut choices),
            b'p' => lab.packet(&mut choices),
            b't' => lab.pass(*choices.pick(&SECONDS)),
            b'b' => lab.machine.binds_left = choices.below(10),
            b'k' => lab.kernel_step(&mut choices),
            b'x' => lab.kernel_traffic(&mut choices),
            b'l' => lab.kernel_loses(&mut choices),
            b'd' => lab.engine.drain(),
            _ => continue,
        }
        lab.check();
    }
    lab.end();
}

/// What the model knows of one stream.
#[derive(Debug, Default)]
struct Tally {
    /// RTP ports.
    ports: PerParty<u16>,
    /// Packets relayed, by sending party.
    user_space: PerParty<u64>,
    kernel: PerParty<u64>,
}

struct Machine {
    next_port: u16,
    binds_left: usize,
    randoms: u128,
    /// RTP ports; the RTCP port is one above.
    bound: BTreeMap<u16, PortKey>,
    streams: HashMap<(SessionKey, u16), Tally>,
    /// A refused session's key goes to the next one.
    sessions: HashMap<SessionKey, SessionId>,
    /// The update in hand made a session that has bound nothing yet.
    is_new: bool,
}

impl Environment for Machine {
    fn bind(&mut self, address: IpAddr, place: PortKey) -> Option<u16> {
        assert!(RELAYS.contains(&address));
        assert_eq!(place.component, Component::Rtp);
        self.binds_left = self.binds_left.checked_sub(1)?;
        let port = self.next_port;
        self.next_port = port.checked_add(2)?;
        self.bound.insert(port, place);
        let stream = self.streams.entry((place.session, place.stream));
        stream.or_default().ports[place.party] = port;
        if std::mem::take(&mut self.is_new) {
            let id = SessionId::from_random(self.randoms);
            self.sessions.insert(place.session, id);
        }
        Some(port)
    }

    fn rebind(&mut self, address: IpAddr, port: u16, place: PortKey) -> bool {
        assert!(RELAYS.contains(&address));
        self.bound.insert(port, place).is_none()
    }

    fn tally(&mut self, _: u16, _: SessionId) -> Option<mediaproxy::session::Tally> {
        None
    }

    fn local_address(&mut self, towards: Option<IpAddr>) -> IpAddr {
        match towards {
            Some(IpAddr::V4(ip)) if ip.octets()[0] == 10 => RELAYS[1],
            _ => RELAYS[0],
        }
    }

    fn random(&mut self) -> u128 {
        self.randoms += 1;
        self.is_new = true;
        self.randoms
    }
}

enum KernelCommand {
    Install(FlowId),
    Withdraw(FlowId),
}

struct Lab {
    engine: Engine,
    machine: Machine,
    now: Moment,
    kernel: bool,
    commands: VecDeque<KernelCommand>,
    /// What the kernel forwards.
    installed: Vec<FlowId>,
    removes: usize,
    /// Answers to updates.
    replies: Vec<UpdateReply>,
    reported: BTreeSet<String>,
    /// Sessions that there were.
    accepted: usize,
}

impl Lab {
    fn new(choices: &mut Choices<'_>) -> Lab {
        let kernel = choices.yes();
        let private = choices.yes();
        let ranges: &[&str] = if private { &["10.0.0.0/8"] } else { &[] };
        let settings = Settings {
            stream_timeout: Duration::from_secs(90),
            on_hold_timeout: Duration::from_secs(7200),
            setup_timeout: Duration::from_secs(300),
            learning: mediaproxy::session::LearningRules::default(),
            advertised_ip: None,
            routable_private_ranges: ranges.iter().flat_map(|range| range.parse()).collect(),
            kernel: if kernel { Ok(()) } else { Err("".into()) },
        };
        Lab {
            engine: Engine::new(settings),
            machine: Machine {
                next_port: FIRST_PORT,
                binds_left: 1000,
                randoms: 0,
                bound: BTreeMap::new(),
                streams: HashMap::new(),
                sessions: HashMap::new(),
                is_new: false,
            },
            now: Moment::after_start(Duration::from_secs(1000)),
            kernel,
            commands: VecDeque::new(),
            installed: Vec::new(),
            removes: 0,
            replies: Vec::new(),
            reported: BTreeSet::new(),
            accepted: 0,
        }
    }

    fn moment(&self) -> Now {
        Now {
            mono: self.now,
            unix: UnixTime::since_epoch(
                Duration::from_secs(1_700_000_000) + self.now.since_start(),
            ),
        }
    }

    /// An update, and the same once more.
    fn update(&mut self, choices: &mut Choices<'_>) {
        let update = words::update(choices);
        let before = self.machine.bound.clone();
        let sessions = self.engine.sessions().live_count();
        let reply = self.ask(&update);
        if !matches!(reply, UpdateReply::Ports(..)) {
            assert_eq!(self.machine.bound, before, "a failed update kept something");
            assert_eq!(self.engine.sessions().live_count(), sessions);
            return;
        }
        self.accepted += self.engine.sessions().live_count() - sessions;
        let after = self.machine.bound.clone();
        let again = self.ask(&update);
        assert_eq!(again, reply, "the same request again");
        assert_eq!(self.machine.bound, after);
    }

    fn ask(&mut self, update: &Update) -> UpdateReply {
        self.machine.is_new = false;
        let now = self.moment();
        let asker = Asker {
            reply_to: ReplyTo {
                link: 1,
                sequence: Sequence(8),
            },
            owner: Owner(0),
            since: self.now,
        };
        self.engine.update(update, asker, &mut self.machine, now);
        self.act();
        // What is to leave the kernel is waited for, and nothing else.
        while self.replies.is_empty() && !self.commands.is_empty() {
            self.kernel_does(true, 0);
        }
        let reply = self.replies.pop().expect("an answer");
        assert!(self.replies.is_empty(), "answered twice");
        if let UpdateReply::Ports(address, ports) = &reply {
            assert!(RELAYS.contains(address));
            let lines = update.media.as_ref().map_or(0, Vec::len);
            assert_eq!(ports.len(), lines, "a port for each line");
            assert!(ports.iter().all(|port| port % 2 == 0));
        }
        reply
    }

    fn remove(&mut self, choices: &mut Choices<'_>) {
        let remove = words::remove(choices);
        let reply_to = ReplyTo {
            link: 1,
            sequence: Sequence(7),
        };
        let now = self.moment();
        self.removes += usize::from(self.engine.remove(&remove, reply_to, now));
        self.act();
    }

    fn packet(&mut self, choices: &mut Choices<'_>) {
        let index = choices.below(2 * self.machine.bound.len().max(1));
        let Some((&port, &place)) = self.machine.bound.iter().nth(index / 2) else {
            return;
        };
        let component = [Component::Rtp, Component::Rtcp][index % 2];
        let place = PortKey { component, ..place };
        let from = SocketAddr::new([198, 41, 0, 4].into(), 4000 + choices.below(4) as u16);
        let data = words::datagram(choices);
        let verdict = self.engine.packet(place, from, &data, self.now);
        if let PacketVerdict::Forward { from_port, to } = verdict {
            assert!(to.port() != 0 && !to.ip().is_unspecified());
            let (out, stream) = self.leg(from_port);
            let want = PortKey {
                party: place.party.other(),
                ..place
            };
            assert_eq!(out, want, "in on {port}, out on {from_port}");
            stream.user_space[place.party] += 1;
        }
        self.act();
    }

    /// Which leg a bound port is, and its stream.
    fn leg(&mut self, port: u16) -> (PortKey, &mut Tally) {
        let place = self.machine.bound.get(&(port & !1));
        let place = *place.unwrap_or_else(|| panic!("{port} is not bound"));
        let component = [Component::Rtp, Component::Rtcp][usize::from(port % 2)];
        let stream = self.machine.streams.get_mut(&(place.session, place.stream));
        let stream = stream.unwrap_or_else(|| panic!("{place:?} is no stream"));
        (PortKey { component, ..place }, stream)
    }

    /// The engine's timers fire when they are due.
    fn pass(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        while let Some(due) = self.engine.next_deadline().filter(|&due| due <= end) {
            self.now = self.now.max(due);
            self.engine
                .on_flow_news(FlowNews::Heard(self.now), self.moment());
            self.engine.tick(self.moment());
            self.act();
            assert!(
                self.engine
                    .next_deadline()
                    .is_none_or(|next| next > self.now)
            );
        }
        self.now = end;
    }

    /// Does what the engine asked for.
    fn act(&mut self) {
        while let Some(action) = self.engine.poll_action() {
            match action {
                Action::Close { port } => {
                    let closed = self.machine.bound.remove(&port);
                    assert!(closed.is_some(), "{port} was not bound");
                }
                Action::Send {
                    from_port, data, ..
                } => {
                    assert!(data.len() <= 1500);
                    let (out, stream) = self.leg(from_port);
                    stream.user_space[out.party.other()] += 1;
                }
                Action::Install { flow, .. } => {
                    assert!(self.kernel);
                    self.commands.push_back(KernelCommand::Install(flow));
                }
                Action::Withdraw(flow) => {
                    self.commands.push_back(KernelCommand::Withdraw(flow));
                }
                Action::Suspect(_) => {}
                Action::Updated { reply, .. } => self.replies.push(reply),
                Action::Removed { ended, .. } => {
                    self.removes = self.removes.checked_sub(1).expect("a remove to answer");
                    self.ended(&ended);
                }
                Action::Expired { ended, .. } => self.ended(&ended),
            }
        }
    }

    fn kernel_step(&mut self, choices: &mut Choices<'_>) {
        let taken = !choices.yes();
        let packets = choices.below(3) as u64;
        self.kernel_does(taken, packets);
    }

    fn kernel_does(&mut self, taken: bool, packets: u64) {
        match self.commands.pop_front() {
            Some(KernelCommand::Install(flow)) => {
                if taken {
                    assert!(!self.installed.contains(&flow), "installed twice");
                    self.installed.push(flow);
                }
                let answer = match (taken, packets) {
                    (true, _) => Installed::Taken,
                    (false, 0) => Installed::Never,
                    (false, _) => Installed::NotNow,
                };
                self.engine
                    .on_flow_news(FlowNews::Installed(flow, answer), self.moment());
            }
            Some(KernelCommand::Withdraw(flow)) => {
                let index = self.installed.iter().position(|f| *f == flow);
                let last = match index {
                    Some(index) => self.counted(self.installed[index], packets),
                    None => PerParty::default(),
                };
                index.map(|index| self.installed.swap_remove(index));
                self.engine
                    .on_flow_news(FlowNews::Withdrawn(flow, last), self.moment());
            }
            None => {}
        }
        self.act();
    }

    fn kernel_traffic(&mut self, choices: &mut Choices<'_>) {
        let index = choices.below(8);
        let packets = choices.below(3) as u64;
        if let Some(&flow) = self.installed.get(index) {
            let more = self.counted(flow, packets);
            self.engine
                .on_flow_news(FlowNews::Traffic(flow, more), self.moment());
            self.act();
        }
    }

    fn kernel_loses(&mut self, choices: &mut Choices<'_>) {
        let index = choices.below(8);
        if index < self.installed.len() {
            let flow = self.installed.swap_remove(index);
            let losses = [Loss::Deleted, Loss::Stuck, Loss::Suspended];
            let loss = losses[choices.below(3)];
            let last = self.counted(flow, choices.below(3) as u64);
            self.engine
                .on_flow_news(FlowNews::Lost(flow, loss, last), self.moment());
            self.act();
        }
    }

    /// So many packets from the caller through the kernel, one less from the callee.
    fn counted(&mut self, flow: FlowId, packets: u64) -> PerParty<Counters> {
        let relayed = PerParty {
            caller: packets,
            callee: packets.saturating_sub(1),
        };
        if let Some(stream) = self.machine.streams.get_mut(&(flow.session, flow.stream)) {
            stream.kernel.caller += relayed.caller;
            stream.kernel.callee += relayed.callee;
        }
        relayed.map(|packets| Counters {
            packets,
            bytes: packets * 200,
        })
    }

    /// A session's report: once, on one line, every packet in it.
    fn ended(&mut self, ended: &Ended) {
        assert!(!ended.statistics.contains(&b'\n'));
        assert!(self.reported.insert(ended.session_id.to_string()));
        let json: serde_json::Value =
            serde_json::from_slice(&ended.statistics).expect("statistics are JSON");
        assert_eq!(json["session_id"], ended.session_id.to_string());
        // A session may have had no streams.
        let mut sessions = self.machine.sessions.iter();
        let Some((&key, _)) = sessions.find(|(_, id)| **id == ended.session_id) else {
            return;
        };
        for flow in self
            .installed
            .iter()
            .chain(self.commands.iter().map(flow_of))
        {
            assert!(
                flow.session != key,
                "reported before the kernel's last word"
            );
        }
        for stream in json["streams"].as_array().expect("streams are a list") {
            let port = |name: &str| -> u16 {
                let local: SocketAddr = stream[name].as_str().unwrap().parse().unwrap();
                local.port()
            };
            let ports = PerParty {
                caller: port("caller_local"),
                callee: port("callee_local"),
            };
            // A line that was off in its offer never had ports.
            if ports == PerParty::default() {
                assert_eq!(stream["status"], "closed");
                continue;
            }
            let mut streams = self.machine.streams.iter();
            let found = streams.find(|((session, _), t)| *session == key && t.ports == ports);
            let (_, tally) = found.unwrap_or_else(|| panic!("no stream has {ports:?}"));
            for (party, name) in [(Party::Caller, "caller"), (Party::Callee, "callee")] {
                let (user, kernel) = (tally.user_space[party], tally.kernel[party]);
                assert_eq!(stream[format!("{name}_packets_user_space")], user);
                assert_eq!(stream[format!("{name}_packets_kernel")], kernel);
                assert_eq!(stream[format!("{name}_packets")], user + kernel);
            }
        }
    }

    fn check(&self) {
        let live: usize = self.engine.sessions().stream_counts().values().sum();
        assert_eq!(
            self.machine.bound.len(),
            2 * live,
            "two pairs a live stream"
        );
        let sessions = self.engine.sessions().live_count();
        assert_eq!(self.engine.next_deadline().is_some(), sessions > 0);
    }

    fn end(&mut self) {
        self.engine.end_all(self.moment());
        self.act();
        assert!(self.machine.bound.is_empty(), "ports left");
        while !self.commands.is_empty() {
            self.kernel_step(&mut Choices::new(b"02"));
        }
        assert!(self.installed.is_empty(), "entries left in the kernel");
        assert_eq!(self.engine.sessions().live_count(), 0);
        assert_eq!(self.engine.next_deadline(), None);
        assert_eq!(self.removes, 0, "removes not answered");
        assert_eq!(self.reported.len(), self.accepted, "sessions reported");
        assert_eq!(
            self.engine
                .write_sessions(&mut Vec::new(), |_| true, 0, (9, 999), self.moment()),
            None
        );
    }
}

fn flow_of(command: &KernelCommand) -> &FlowId {
    match command {
        KernelCommand::Install(flow) | KernelCommand::Withdraw(flow) => flow,
    }
}
