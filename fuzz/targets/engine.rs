//! The engine under any sequence of updates, packets, removes, kernel events and time. The machine around it
//! is a model that counts along, so that what the engine promises can be checked after every step:
//!
//! - bound are the two pairs of each live stream and nothing else; what failed has kept nothing;
//! - a packet goes out on the other leg of its own stream, and a repeated request gets the same answer;
//! - each session is reported once, after the kernel's last word, with every packet that was relayed;
//! - a process that takes over from the states that were saved, which are older than packets and readings, knows every
//!   packet all the same, and everything above goes on to hold;
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
    PacketVerdict, PortKey, ReplyTo, SessionKey, Settings, Tally,
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
///  a seconds              the process is killed, and the next one takes over after so long
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
            b'a' => lab.take_over(*choices.pick(&SECONDS)),
            _ => continue,
        }
        lab.check();
    }
    lab.end();
}

/// What the model knows of one stream.
#[derive(Debug, Default)]
struct Relayed {
    /// RTP ports.
    ports: PerParty<u16>,
    /// Packets relayed, by sending party.
    user_space: PerParty<u64>,
    kernel: PerParty<u64>,
}

/// The name of a session in the model: the process in which it began, and its key there.
type Name = (u32, SessionKey);

struct Machine {
    next_port: u16,
    binds_left: usize,
    randoms: u128,
    /// RTP ports; the RTCP port is one above.
    bound: BTreeMap<u16, PortKey>,
    streams: HashMap<(Name, u16), Relayed>,
    /// A refused session's key goes to the next one.
    sessions: HashMap<Name, SessionId>,
    /// The update in hand made a session that has bound nothing yet.
    is_new: bool,
    /// The number of processes before this one, and the names of the sessions that it has taken over.
    process: u32,
    names: HashMap<SessionKey, Name>,
    /// The pairs of the process before that nobody has taken over yet.
    left: BTreeMap<u16, Name>,
    tallies: HashMap<u16, (SessionId, Tally)>,
    alive: Option<Moment>,
}

impl Machine {
    fn name(&self, session: SessionKey) -> Name {
        let known = self.names.get(&session).copied();
        known.unwrap_or((self.process, session))
    }
}

impl Environment for Machine {
    fn bind(&mut self, address: IpAddr, place: PortKey) -> Option<u16> {
        assert!(RELAYS.contains(&address));
        assert_eq!(place.component, Component::Rtp);
        self.binds_left = self.binds_left.checked_sub(1)?;
        let port = self.next_port;
        self.next_port = port.checked_add(2)?;
        self.bound.insert(port, place);
        let name = self.name(place.session);
        let stream = self.streams.entry((name, place.stream));
        stream.or_default().ports[place.party] = port;
        if std::mem::take(&mut self.is_new) {
            let id = SessionId::from_random(self.randoms);
            self.sessions.insert(name, id);
        }
        Some(port)
    }

    fn rebind(&mut self, address: IpAddr, port: u16, place: PortKey) -> bool {
        assert!(RELAYS.contains(&address));
        let name = self.left.remove(&port);
        self.names
            .insert(place.session, name.expect("it was bound"));
        self.bound.insert(port, place).is_none()
    }

    fn tally(&mut self, port: u16, session: SessionId) -> Option<Tally> {
        let (id, tally) = self.tallies.get(&port)?;
        (*id == session).then_some(*tally)
    }

    fn last_alive(&self) -> Option<Moment> {
        self.alive
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
    settings: Settings,
    engine: Engine,
    machine: Machine,
    now: Moment,
    kernel: bool,
    commands: VecDeque<KernelCommand>,
    /// The flows in the kernel, with their counters.
    installed: Vec<(FlowId, PerParty<u64>)>,
    /// The state of each session as it was saved last.
    disk: BTreeMap<String, Vec<u8>>,
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
            engine: Engine::new(settings.clone()),
            settings,
            machine: Machine {
                next_port: FIRST_PORT,
                binds_left: 1000,
                randoms: 0,
                bound: BTreeMap::new(),
                streams: HashMap::new(),
                sessions: HashMap::new(),
                is_new: false,
                process: 0,
                names: HashMap::new(),
                left: BTreeMap::new(),
                tallies: HashMap::new(),
                alive: None,
            },
            now: Moment::after_start(Duration::from_secs(1000)),
            kernel,
            commands: VecDeque::new(),
            installed: Vec::new(),
            disk: BTreeMap::new(),
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
        if let Some(tally) = self.engine.tally(place) {
            self.machine.tallies.insert(port, tally);
        }
    }

    /// Which leg a bound port is, and its stream.
    fn leg(&mut self, port: u16) -> (PortKey, &mut Relayed) {
        let place = self.machine.bound.get(&(port & !1));
        let place = *place.unwrap_or_else(|| panic!("{port} is not bound"));
        let component = [Component::Rtp, Component::Rtcp][usize::from(port % 2)];
        let name = self.machine.name(place.session);
        let stream = self.machine.streams.get_mut(&(name, place.stream));
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
                    let mut installed = self.installed.iter();
                    assert!(
                        installed.all(|(other, _)| *other != flow),
                        "installed twice"
                    );
                    self.installed.push((flow, PerParty::default()));
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
                let index = self.installed.iter().position(|(f, _)| *f == flow);
                let last = match index {
                    Some(index) => self.counted(index, packets),
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
        if let Some(&(flow, _)) = self.installed.get(index) {
            let more = self.counted(index, packets);
            self.engine
                .on_flow_news(FlowNews::Traffic(flow, more), self.moment());
            self.act();
        }
    }

    fn kernel_loses(&mut self, choices: &mut Choices<'_>) {
        let index = choices.below(8);
        if index < self.installed.len() {
            let losses = [Loss::Deleted, Loss::Stuck, Loss::Suspended];
            let loss = losses[choices.below(3)];
            let last = self.counted(index, choices.below(3) as u64);
            let (flow, _) = self.installed.swap_remove(index);
            self.engine
                .on_flow_news(FlowNews::Lost(flow, loss, last), self.moment());
            self.act();
        }
    }

    /// So many packets from the caller through the kernel, one less from the callee.
    fn counted(&mut self, index: usize, packets: u64) -> PerParty<Counters> {
        let relayed = PerParty {
            caller: packets,
            callee: packets.saturating_sub(1),
        };
        let (flow, total) = &mut self.installed[index];
        total.caller += relayed.caller;
        total.callee += relayed.callee;
        let name = self.machine.name(flow.session);
        if let Some(stream) = self.machine.streams.get_mut(&(name, flow.stream)) {
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
        let installed = self.installed.iter().map(|(flow, _)| flow);
        for flow in installed.chain(self.commands.iter().map(flow_of)) {
            assert!(
                self.machine.name(flow.session) != key,
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
            // A session that had no stream when it was taken over has had another name since.
            let is_its = |name: &Name| *name == key || self.machine.process > 0;
            let found = streams.find(|((name, _), t)| is_its(name) && t.ports == ports);
            let (_, tally) = found.unwrap_or_else(|| panic!("no stream has {ports:?}"));
            for (party, name) in [(Party::Caller, "caller"), (Party::Callee, "callee")] {
                let (user, kernel) = (tally.user_space[party], tally.kernel[party]);
                assert_eq!(stream[format!("{name}_packets_user_space")], user);
                assert_eq!(stream[format!("{name}_packets_kernel")], kernel);
                assert_eq!(stream[format!("{name}_packets")], user + kernel);
            }
        }
    }

    /// The process is killed: what the kernel was asked for is forgotten, and what it does goes on. The next one has the
    /// states that were saved, and what was noted with each packet.
    fn take_over(&mut self, seconds: u64) {
        self.machine.alive = seconds.is_multiple_of(2).then_some(self.now);
        self.now += Duration::from_secs(seconds);
        self.commands.clear();
        self.removes = 0;
        let mut running: Vec<(Name, FlowId, PerParty<u64>)> = Vec::new();
        for (flow, total) in self.installed.drain(..) {
            running.push((self.machine.name(flow.session), flow, total));
        }
        let bound = std::mem::take(&mut self.machine.bound);
        let named = bound.into_iter();
        let named = named.map(|(port, place)| (port, self.machine.name(place.session)));
        self.machine.left = named.collect();
        self.machine.names.clear();
        self.machine.process += 1;
        self.engine = Engine::new(self.settings.clone());
        let now = self.moment();
        let mut news = Vec::new();
        for (id, state) in std::mem::take(&mut self.disk) {
            let flows = self.engine.adopt(&state, Owner(0), &mut self.machine, now);
            let mut sessions = self.machine.sessions.iter();
            let name = sessions.find(|(_, other)| other.to_string() == id);
            let name = name.map(|(name, _)| *name);
            for adopted in flows.expect("a state of ours") {
                let name = name.expect("who has flows has streams");
                let flow = adopted.flow;
                let name = *self.machine.names.entry(flow.session).or_insert(name);
                let is_it = |(other, old, _): &(Name, FlowId, PerParty<u64>)| {
                    let same = (old.stream, old.component, old.turn);
                    *other == name && same == (flow.stream, flow.component, flow.turn)
                };
                let Some(index) = running.iter().position(is_it) else {
                    news.push(FlowNews::Lost(flow, Loss::Deleted, PerParty::default()));
                    continue;
                };
                let (_, _, total) = running.swap_remove(index);
                self.installed.push((flow, total));
                let rest = PerParty::of(|party| {
                    let packets = total[party] - adopted.counted[party].packets;
                    Counters {
                        packets,
                        bytes: packets * 200,
                    }
                });
                news.push(FlowNews::Traffic(flow, rest));
            }
        }
        assert!(running.is_empty(), "nobody claims what the kernel has");
        assert!(self.machine.left.is_empty(), "nobody has these ports");
        for news in news {
            self.engine.on_flow_news(news, now);
        }
        self.act();
    }

    fn check(&mut self) {
        let disk = &mut self.disk;
        self.engine.take_changes(|id, _, state| {
            assert!(state.is_none_or(|state| !state.contains(&b'\n')));
            let before = match state {
                Some(state) => {
                    disk.insert(id.to_string(), state.to_vec());
                    None
                }
                None => Some(disk.remove(&id.to_string())),
            };
            assert_ne!(before, Some(None), "an end of what was never saved");
        });
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
