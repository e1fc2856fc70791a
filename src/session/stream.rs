//! One m= line: two legs, what each has learned, what was counted, when it has been silent too long. Knows
//! nothing of offers, answers or other streams.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use super::address::is_routable;
use super::belief::{Belief, How, Look, Signal, Verdict};
use super::candidate::Mark;
use super::checks::{self, Message};
use super::drops::{Drop, Dropped};
use super::evidence::{Evidence, Rank};
use super::handover::Handover;
use super::report::{Codec, Counters};
use super::{FlowEnd, Settings};
use crate::proto::demux::Kind;
use crate::proto::media::{Direction, MediaAddress, MediaDescription, MediaType};
use crate::proto::{CallId, Component, Party};

/// STUN packets kept for a party whose address is not known yet.
const WAITING: usize = 4;
/// Longest STUN packet that is kept, bytes.
const WAITING_BYTES: usize = 1500;
/// IPv4 and UDP headers without options: bytes are counted as on the wire, as the kernel counts them.
pub const HEADERS: u64 = 28;

/// What became of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Live,
    Closed,
    Rejected,
    NoTraffic,
    OnHoldTimeout,
    ConntrackTimeout,
    UnselectedIce,
}

/// What to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relay {
    To(SocketAddrV4),
    /// Kept until the other party's address is known.
    Queued,
    Drop(Drop),
}

/// Media kept for a party whose SDP has not come by yet, and for how long: phones send with their answer, which is on its
/// way through the SIP proxy.
const HELD: usize = 8;
const HELD_FOR: Duration = Duration::from_secs(1);

/// A packet of a source that nothing speaks for yet (E10).
#[derive(Clone, Debug)]
pub struct Held {
    pub component: Component,
    pub from: SocketAddrV4,
    pub data: Vec<u8>,
    at: Duration,
}

/// What became of a packet, and what it taught.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub relay: Relay,
    pub learned: Option<Learned>,
    /// The kernel has this component, and user space should see for itself who is who.
    pub is_claimed: bool,
    /// It was refused, and nothing speaks for who sent it.
    pub is_strange: bool,
}

impl From<Relay> for Outcome {
    fn from(relay: Relay) -> Outcome {
        Outcome {
            relay,
            learned: None,
            is_claimed: false,
            is_strange: false,
        }
    }
}

/// A party was found at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Learned {
    pub party: Party,
    pub address: SocketAddrV4,
    pub how: How,
}

/// What packets of a stream have in common (E6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carries {
    Rtp,
    Udptl,
    /// Nothing that is known.
    Plain,
}

impl Carries {
    fn of(media_type: &MediaType) -> Carries {
        match media_type.as_str() {
            "audio" | "video" | "text" => Carries::Rtp,
            "image" => Carries::Udptl,
            _ => Carries::Plain,
        }
    }
}

/// Why a party is somewhere else than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// Another offer was agreed on: the party itself has moved.
    Agreed,
    /// The INVITE that opens the session was answered once more, from somewhere else: this may be another branch of a
    /// fork, and the party that was heard so far a stranger.
    OtherBranch,
}

/// What ends a stream if nothing more comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The configuration key.
    pub name: &'static str,
    pub limit: Duration,
    /// When it is reached.
    pub at: Duration,
}

/// What one party's SDP said of this stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    pub address: MediaAddress,
    pub port: u16,
    /// It names one of this very session's ports: media sent there would come back for ever.
    pub is_own: bool,
}

/// One party's side: the relay's ports that it sends to and what is known of it.
#[derive(Debug)]
pub struct Leg {
    /// The relay's address on this side.
    pub local: Ipv4Addr,
    /// The relay's RTP port; RTCP is one above.
    pub port: u16,
    pub described: Option<Described>,
    pub direction: Direction,
    /// The SDP gave 0.0.0.0: hold as of RFC 2543.
    pub zero_address: bool,
    pub ice: bool,
    pub beliefs: [Belief; 2],
    /// Where this party's SIP comes from, the latest first (E1).
    pub(super) signaling: [Option<Ipv4Addr>; 2],
    /// What its SDP named when it was last looked at.
    noted: Option<SocketAddrV4>,
    pub codec: Option<Codec>,
    /// Relayed from this party.
    pub user_space: Counters,
    pub kernel: Counters,
    /// Not relayed from this party.
    pub dropped: Dropped,
    /// Packets from this party that the host did not take.
    pub unsent: u64,
    /// When that was last, and the kernel's number for why.
    pub(super) last_unsent: Option<(Duration, i32)>,
    /// Who was last taken for a stranger here, and when (M2).
    pub(super) stranger: Option<(SocketAddrV4, Duration)>,
    /// The call by which its packets come round, where they do (M11).
    pub(super) round_with: Option<CallId>,
    /// The longest packet of this party that user space has seen, bytes with headers.
    pub(super) longest: u64,
    pub(super) last_media: Option<Duration>,
    pub(super) last_rtcp: Option<Duration>,
    /// Anything on the RTCP port, STUN as well.
    rtcp_port_used: Option<Duration>,
    /// STUN for this party, by component.
    waiting: [Vec<Vec<u8>>; 2],
    /// Media from this party's port that waits for its SDP, the oldest first.
    held: Vec<Held>,
}

impl Leg {
    fn new(local: Ipv4Addr, port: u16) -> Leg {
        Leg {
            local,
            port,
            described: None,
            direction: Direction::SendRecv,
            zero_address: false,
            ice: false,
            beliefs: [Belief::default(), Belief::default()],
            signaling: [None; 2],
            noted: None,
            codec: None,
            user_space: Counters::default(),
            kernel: Counters::default(),
            dropped: Dropped::default(),
            unsent: 0,
            last_unsent: None,
            stranger: None,
            round_with: None,
            longest: 0,
            last_media: None,
            last_rtcp: None,
            rtcp_port_used: None,
            waiting: [Vec::new(), Vec::new()],
            held: Vec::new(),
        }
    }

    /// The relay's port of a component.
    pub fn port_of(&self, component: Component) -> u16 {
        self.port + component as u16
    }

    /// Whether an SDP names the address that this leg already has.
    pub fn is_same(&self, media: &MediaDescription) -> bool {
        self.described
            .as_ref()
            .is_some_and(|d| d.address == media.address && d.port == media.port)
    }

    /// Where to send to: learned, or before that what the SDP says if it can be reached (M1).
    fn destination(
        &self,
        component: Component,
        kind: Kind,
        settings: &Settings,
    ) -> Option<SocketAddrV4> {
        let belief = &self.beliefs[component as usize];
        let learned = match kind {
            Kind::Stun => belief.check_address(),
            _ => belief.address(),
        };
        learned.or_else(|| self.described_address(component, settings))
    }

    pub fn described_address(
        &self,
        component: Component,
        settings: &Settings,
    ) -> Option<SocketAddrV4> {
        let is_own = self.described.as_ref()?.is_own;
        let named = self.named_address(component)?;
        let routable = is_routable(*named.ip(), &settings.routable_private_ranges);
        (routable && !is_own).then_some(named)
    }

    /// What speaks for a source that sends to a port of this party (E1, E7).
    pub fn evidence(&self, component: Component) -> Evidence {
        let is_own = self.described.as_ref().is_some_and(|d| d.is_own);
        let mut evidence = Evidence {
            named: self.named_address(component).filter(|_| !is_own),
            signaling: self.signaling,
            rtp: None,
        };
        if component == Component::Rtcp {
            let of_rtp = &self.beliefs[Component::Rtp as usize];
            let rank = |at| of_rtp.rank(at, &self.evidence(Component::Rtp));
            evidence.rtp = of_rtp.media_address().map(|at| (at, rank(at)));
        }
        evidence
    }

    /// What the SDP names now is what a later one replaces.
    pub fn note_sdp(&mut self) {
        self.noted = self.named_address(Component::Rtp);
    }

    /// What the SDP says, whether it can be reached or not.
    pub fn named_address(&self, component: Component) -> Option<SocketAddrV4> {
        let described = self.described.as_ref()?;
        let MediaAddress::Ip(std::net::IpAddr::V4(ip)) = described.address else {
            return None;
        };
        let port = described.port.checked_add(component as u16)?;
        Some(SocketAddrV4::new(ip, port))
    }

    /// What the SDP says, as text: `address:port`.
    pub fn sdp(&self) -> Option<String> {
        let described = self.described.as_ref()?;
        Some(format!("{}:{}", described.address, described.port))
    }

    /// Why nothing can be sent there as long as the party is not learned.
    fn why_not_sent_to(&self, component: Component) -> Drop {
        match &self.described {
            Some(described) if described.is_own => Drop::OwnPort,
            _ if self.named_address(component).is_some() => Drop::NotRoutable,
            _ => Drop::NotLearned,
        }
    }

    /// Keeps a packet that came before the party's SDP; false where that is known.
    fn hold(
        &mut self,
        component: Component,
        from: SocketAddrV4,
        data: &[u8],
        at: Duration,
    ) -> bool {
        if self.described.is_some() || data.len() > WAITING_BYTES {
            return false;
        }
        if self.held.len() == HELD {
            self.held.remove(0);
            self.dropped.add(Drop::Unproven);
        }
        self.held.push(Held {
            component,
            from,
            data: data.to_vec(),
            at,
        });
        true
    }

    /// What was kept, once the party's SDP is there: it is judged anew. What is too old is not sent any more.
    pub fn take_held(&mut self, now: Duration) -> Vec<Held> {
        if self.held.is_empty() || self.described.is_none() {
            return Vec::new();
        }
        let mut held = std::mem::take(&mut self.held);
        let before = held.len();
        held.retain(|packet| now <= packet.at + HELD_FOR);
        (held.len()..before).for_each(|_| self.dropped.add(Drop::Unproven));
        held
    }

    fn drop_packet(&mut self, why: Drop) -> Relay {
        self.dropped.add(why);
        Relay::Drop(why)
    }

    /// Everything that was relayed from this party, by either path.
    pub fn relayed(&self) -> Counters {
        self.user_space + self.kernel
    }
}

/// One m= line of a session.
#[derive(Debug)]
pub struct Stream {
    pub media_type: MediaType,
    carries: Carries,
    pub created: Duration,
    /// By party.
    pub legs: [Leg; 2],
    /// First answer.
    pub answered: Option<Duration>,
    /// The answerer gave port 0 in a reply that is not final; another branch may yet take it.
    pub declined: bool,
    pub status: Status,
    /// When it ended, and the limit that ended it.
    pub ended: Option<(Duration, Duration)>,
    pub first_media: Option<Duration>,
    /// By component.
    pub handovers: [Handover; 2],
    /// Flows that are to be withdrawn, and are not yet.
    pub withdrawing: usize,
    /// Both parties' media has flowed at some time.
    pub flowed: bool,
    /// Silence counts from here at the earliest: final answer, hold, resume.
    pub watched_since: Option<Duration>,
}

impl Stream {
    /// A proposed stream on freshly bound pairs: the relay's address and RTP port for caller and callee.
    pub fn new(
        media_type: MediaType,
        now: Duration,
        caller: SocketAddrV4,
        callee: SocketAddrV4,
    ) -> Stream {
        Stream {
            carries: Carries::of(&media_type),
            media_type,
            created: now,
            legs: [
                Leg::new(*caller.ip(), caller.port()),
                Leg::new(*callee.ip(), callee.port()),
            ],
            answered: None,
            declined: false,
            status: Status::Live,
            ended: None,
            first_media: None,
            handovers: [Handover::new(), Handover::new()],
            withdrawing: 0,
            flowed: false,
            watched_since: None,
        }
    }

    pub fn leg(&self, party: Party) -> &Leg {
        &self.legs[party as usize]
    }

    pub fn leg_mut(&mut self, party: Party) -> &mut Leg {
        &mut self.legs[party as usize]
    }

    /// It still has its ports.
    pub fn is_live(&self) -> bool {
        self.status == Status::Live
    }

    /// Either side sends nothing by its own word (C6).
    pub fn on_hold(&self) -> bool {
        self.legs.iter().any(|leg| {
            leg.zero_address || matches!(leg.direction, Direction::SendOnly | Direction::Inactive)
        })
    }

    /// A packet from `from` on `party`'s port. Counts it, learns from it, says where it goes (M1, M2, M3).
    pub fn on_packet(
        &mut self,
        at: (Party, Component),
        from: SocketAddrV4,
        data: &[u8],
        kind: Kind,
        (settings, now): (&Settings, Duration),
    ) -> Outcome {
        let (party, component) = at;
        if !self.is_live() {
            return Outcome::from(self.leg_mut(party).drop_packet(Drop::Closed));
        }
        if kind == Kind::Stun && self.leg(party).ice {
            return self.on_check(at, from, data, (settings, now));
        }
        let signal = self.signal(component, kind, data);
        let belief = &mut self.legs[party as usize].beliefs[component as usize];
        if kind != Kind::Stun && belief.is_known(from, signal, now) {
            return Outcome::from(self.pass(at, data, kind, (settings, now)));
        }
        let look = self.look(at, settings, now);
        let belief = &mut self.legs[party as usize].beliefs[component as usize];
        let verdict = belief.judge(from, signal, &look);
        self.follow_verdict(at, from, data, kind, verdict, (settings, now))
    }

    fn follow_verdict(
        &mut self,
        at: (Party, Component),
        from: SocketAddrV4,
        data: &[u8],
        kind: Kind,
        verdict: Verdict,
        (settings, now): (&Settings, Duration),
    ) -> Outcome {
        let (party, component) = at;
        match verdict {
            Verdict::Known => Outcome::from(self.pass(at, data, kind, (settings, now))),
            Verdict::Passing => Outcome::from(self.send_on(at, data, kind, settings)),
            Verdict::Learned(how) => Outcome {
                relay: self.pass(at, data, kind, (settings, now)),
                learned: Some(Learned {
                    party,
                    address: from,
                    how,
                }),
                ..Outcome::from(Relay::Queued)
            },
            Verdict::Refused(why) | Verdict::Claimed(why) => {
                let is_claimed = matches!(verdict, Verdict::Claimed(_));
                let leg = &mut self.legs[party as usize];
                if is_claimed {
                    leg.beliefs[component as usize].on_taken_back(&settings.learning, now);
                }
                if why == Drop::Unproven
                    && kind != Kind::Stun
                    && leg.hold(component, from, data, now)
                {
                    return Outcome::from(Relay::Queued);
                }
                let is_strange = matches!(why, Drop::WrongSource | Drop::Unproven);
                if why != Drop::Straggler {
                    leg.stranger = Some((from, now));
                }
                Outcome {
                    relay: leg.drop_packet(why),
                    is_claimed,
                    is_strange,
                    ..Outcome::from(Relay::Queued)
                }
            }
        }
    }

    /// ICE (E5): a check goes to the other party whoever sends it, and its answer to exactly who asked.
    fn on_check(
        &mut self,
        at: (Party, Component),
        from: SocketAddrV4,
        data: &[u8],
        (settings, now): (&Settings, Duration),
    ) -> Outcome {
        let (party, component) = at;
        let message = checks::message(data);
        if let Message::Response(id, success) = message {
            let asking = &self.legs[party.other() as usize].beliefs[component as usize];
            if let Some(asker) = asking.asker(id, now) {
                return self.on_answer(at, from, data, (asker, success), (settings, now));
            }
        }
        let look = self.look(at, settings, now);
        let belief = &mut self.legs[party as usize].beliefs[component as usize];
        let mut verdict = belief.judge(from, Signal::Check, &look);
        if let Message::Request(id) = message {
            let is_strange = matches!(verdict, Verdict::Refused(_) | Verdict::Claimed(_));
            if is_strange && belief.checks().may_pass(now) {
                verdict = Verdict::Passing;
            }
            if !matches!(verdict, Verdict::Refused(_)) {
                belief.checks().note(id, from, is_strange, now);
            }
        }
        self.follow_verdict(at, from, data, Kind::Stun, verdict, (settings, now))
    }

    /// The answer to a check of the other party.
    fn on_answer(
        &mut self,
        at: (Party, Component),
        from: SocketAddrV4,
        data: &[u8],
        (asker, success): (SocketAddrV4, bool),
        (settings, now): (&Settings, Duration),
    ) -> Outcome {
        let (party, component) = at;
        let look = self.look(at, settings, now);
        let of_asker = self
            .look((party.other(), component), settings, now)
            .evidence;
        let [responder, asking] = match party {
            Party::Caller => {
                let [caller, callee] = &mut self.legs;
                [caller, callee]
            }
            Party::Callee => {
                let [caller, callee] = &mut self.legs;
                [callee, caller]
            }
        };
        let belief = &mut responder.beliefs[component as usize];
        let is_ranked = belief.rank(from, &look.evidence) >= Rank::Near;
        let is_known = belief.address() == Some(from);
        let is_on_trial = belief.check_address() == Some(from);
        if !(is_ranked || is_on_trial) {
            responder.stranger = Some((from, now));
            return Outcome {
                relay: responder.drop_packet(Drop::Unproven),
                is_strange: true,
                ..Outcome::from(Relay::Queued)
            };
        }
        let taught = match belief.judge(from, Signal::Check, &look) {
            Verdict::Learned(how) => Some(Learned {
                party,
                address: from,
                how,
            }),
            _ => None,
        };
        responder.user_space.add(1, data.len() as u64 + HEADERS);
        let belief = &mut asking.beliefs[component as usize];
        let is_proof = success
            && match is_ranked || is_known {
                true => belief.prove(asker, &of_asker, now),
                false => {
                    settings.learning.learning != super::Learning::Strict
                        && belief.trust(asker, &of_asker, now)
                }
            };
        let proof = Learned {
            party: party.other(),
            address: asker,
            how: How::First,
        };
        Outcome {
            relay: Relay::To(asker),
            learned: is_proof.then_some(proof).or(taught),
            ..Outcome::from(Relay::Queued)
        }
    }

    fn look(
        &self,
        (party, component): (Party, Component),
        settings: &Settings,
        now: Duration,
    ) -> Look {
        let handover = &self.handovers[component as usize];
        Look {
            rules: settings.learning,
            evidence: self.leg(party).evidence(component),
            blind: self.withdrawing > 0 || handover.may_bypass(),
            expected: self.answered,
            now,
        }
    }

    /// What a packet is to who decides whom to believe (E6).
    fn signal(&self, component: Component, kind: Kind, data: &[u8]) -> Signal {
        if kind == Kind::Stun {
            return Signal::Check;
        }
        match (self.carries, kind) {
            (Carries::Rtp, Kind::Rtp(rtp)) if component == Component::Rtp => {
                Signal::Media(Some(Mark::Rtp {
                    ssrc: rtp.ssrc,
                    sequence: rtp.sequence,
                }))
            }
            (Carries::Rtp, Kind::Other) => Signal::Noise,
            (Carries::Udptl, _) => match data {
                [high, low, ..] => Signal::Media(Some(Mark::Udptl {
                    sequence: u16::from_be_bytes([*high, *low]),
                })),
                _ => Signal::Noise,
            },
            (Carries::Plain, _) if component == Component::Rtp => Signal::Media(Some(Mark::Plain)),
            _ => Signal::Media(None),
        }
    }

    /// From the party: it is alive, and this goes on.
    fn pass(
        &mut self,
        (party, component): (Party, Component),
        data: &[u8],
        kind: Kind,
        (settings, now): (&Settings, Duration),
    ) -> Relay {
        let leg = &mut self.legs[party as usize];
        leg.longest = leg.longest.max(data.len() as u64 + HEADERS);
        self.note_life(party, component, kind, now);
        self.send_on((party, component), data, kind, settings)
    }

    fn send_on(
        &mut self,
        (party, component): (Party, Component),
        data: &[u8],
        kind: Kind,
        settings: &Settings,
    ) -> Relay {
        let other = &self.legs[party.other() as usize];
        match other.destination(component, kind, settings) {
            Some(to) => {
                let leg = &mut self.legs[party as usize];
                leg.user_space.add(1, data.len() as u64 + HEADERS);
                Relay::To(to)
            }
            None => self.cannot_send(party, component, data, kind),
        }
    }

    /// Media and RTCP are life; STUN never is (M3, M6, M7).
    fn note_life(&mut self, party: Party, component: Component, kind: Kind, now: Duration) {
        let leg = &mut self.legs[party as usize];
        if component == Component::Rtcp {
            leg.rtcp_port_used = Some(now);
        }
        match (component, kind) {
            (_, Kind::Stun) => {}
            (Component::Rtcp, _) | (Component::Rtp, Kind::Rtcp) => leg.last_rtcp = Some(now),
            (Component::Rtp, kind) => {
                leg.last_media = Some(now);
                if let Kind::Rtp(rtp) = kind {
                    leg.codec.get_or_insert(Codec(rtp.payload_type));
                }
                self.first_media.get_or_insert(now);
                let both = self.legs.iter().all(|leg| leg.last_media.is_some());
                self.flowed = self.flowed || both;
            }
        }
    }

    fn cannot_send(
        &mut self,
        party: Party,
        component: Component,
        data: &[u8],
        kind: Kind,
    ) -> Relay {
        let receiver = &mut self.legs[party.other() as usize];
        let waiting = &mut receiver.waiting[component as usize];
        if kind == Kind::Stun && waiting.len() < WAITING && data.len() <= WAITING_BYTES {
            waiting.push(data.to_vec());
            return Relay::Queued;
        }
        let why = receiver.why_not_sent_to(component);
        self.legs[party as usize].drop_packet(why)
    }

    /// STUN that waited for this party's address, once there is one. It counts as relayed from the other.
    pub fn take_waiting(
        &mut self,
        party: Party,
        component: Component,
        settings: &Settings,
    ) -> Option<(SocketAddrV4, Vec<Vec<u8>>)> {
        let leg = &mut self.legs[party as usize];
        if leg.waiting[component as usize].is_empty() {
            return None;
        }
        let to = leg.destination(component, Kind::Stun, settings)?;
        let packets = std::mem::take(&mut leg.waiting[component as usize]);
        let sender = &mut self.legs[party.other() as usize].user_space;
        for packet in &packets {
            sender.add(1, packet.len() as u64 + HEADERS);
        }
        Some((to, packets))
    }

    /// Both ends of a component, once both have sent media from there and the kernel may be asked (M4).
    pub fn ready_for_kernel(
        &self,
        component: Component,
        (now, welcome): (Duration, Duration),
    ) -> Option<[FlowEnd; 2]> {
        if !self.is_live() || !self.handovers[component as usize].may_offer(now, welcome) {
            return None;
        }
        let end = |leg: &Leg| {
            let belief = &leg.beliefs[component as usize];
            let is_settled = match self.withdrawing {
                0 => belief.is_settled(now),
                _ => !belief.is_claimed(),
            };
            let remote = belief.media_address().filter(|_| is_settled)?;
            let local = SocketAddrV4::new(leg.local, leg.port_of(component));
            Some(FlowEnd { remote, local })
        };
        Some([end(&self.legs[0])?, end(&self.legs[1])?])
    }

    /// Whether user space does not see all of it.
    pub fn is_in_kernel(&self) -> bool {
        self.handovers.iter().any(Handover::is_in_kernel)
    }

    /// The kernel relayed this much more from a party.
    pub fn on_kernel_traffic(
        &mut self,
        party: Party,
        component: Component,
        more: Counters,
        now: Duration,
    ) {
        if more.packets == 0 {
            return;
        }
        let leg = &mut self.legs[party as usize];
        leg.kernel += more;
        leg.beliefs[component as usize].on_kernel_traffic(more.packets, now);
        let kind = match component {
            Component::Rtp => Kind::Other,
            Component::Rtcp => Kind::Rtcp,
        };
        self.note_life(party, component, kind, now);
    }

    /// A party gives another address: nothing learned of it holds (C4, M5), unless that is where it was seen all the
    /// time: its media are no stragglers then.
    pub fn move_party(&mut self, party: Party, why: Move, now: Duration) {
        let leg = self.leg_mut(party);
        for component in [Component::Rtp, Component::Rtcp] {
            let evidence = leg.evidence(component);
            let above = |at: SocketAddrV4| {
                let port = at.port().checked_add(component as u16)?;
                Some(SocketAddrV4::new(*at.ip(), port))
            };
            let superseded = leg.noted.and_then(above);
            leg.beliefs[component as usize].moved(why, superseded, &evidence, now);
        }
    }

    /// A party's RTP comes from elsewhere now: so will its RTCP (E7).
    pub fn rtp_has_moved(&mut self, party: Party) {
        let leg = self.leg_mut(party);
        let rtcp = &mut leg.beliefs[Component::Rtcp as usize];
        rtcp.forget();
    }

    /// Silence that was excused until now counts from here.
    pub fn watch_from(&mut self, now: Duration) {
        self.watched_since = Some(now);
    }

    /// The limit in force and when it is reached if nothing more comes (C6, C7, M7).
    pub fn silence(&self, settings: &Settings, is_ringing: bool) -> Limit {
        let (name, limit) = match self.on_hold() && !is_ringing {
            true => ("on_hold_timeout", settings.on_hold_timeout),
            false => ("stream_timeout", settings.stream_timeout),
        };
        let setup = self.setup_limit(settings);
        match self.quiet_since() {
            Some(since) if !is_ringing || since + limit > setup.at => Limit {
                name,
                limit,
                at: since + limit,
            },
            _ => setup,
        }
    }

    /// The time for an answer.
    pub fn setup_limit(&self, settings: &Settings) -> Limit {
        Limit {
            name: "setup_timeout",
            limit: settings.setup_timeout,
            at: self.created + settings.setup_timeout,
        }
    }

    /// Since when nothing has come that counts as life; none before it was answered or heard (C7).
    fn quiet_since(&self) -> Option<Duration> {
        let lives = self
            .legs
            .iter()
            .flat_map(|leg| [leg.last_media, leg.last_rtcp]);
        lives.chain([self.watched_since]).flatten().max()
    }

    /// How a stream that fell silent has ended (M7, M8).
    pub fn silence_status(&self) -> Status {
        if self.legs.iter().all(|leg| leg.ice) {
            Status::UnselectedIce
        } else if self.on_hold() {
            Status::OnHoldTimeout
        } else if self.flowed {
            Status::ConntrackTimeout
        } else {
            Status::NoTraffic
        }
    }

    /// When silent RTCP is to be forgotten; none where nothing was learned of it. ICE checks keep its addresses:
    /// they go on while there is nothing to report (RFC 7675).
    pub fn rtcp_deadline(&self, settings: &Settings) -> Option<Duration> {
        let learned = |leg: &Leg| {
            leg.beliefs[Component::Rtcp as usize]
                .check_address()
                .is_some()
        };
        if !self.legs.iter().any(learned) {
            return None;
        }
        let last = self.legs.iter().filter_map(|leg| leg.rtcp_port_used).max();
        Some(last.unwrap_or(self.created) + settings.stream_timeout)
    }

    /// RTCP fell silent: its addresses are learned anew when it comes back (M7).
    pub fn forget_rtcp(&mut self) {
        for leg in &mut self.legs {
            leg.beliefs[Component::Rtcp as usize].forget();
        }
    }

    /// The end; `waited` is the limit that was reached, zero for any other end.
    pub fn end(&mut self, status: Status, waited: Duration, now: Duration) {
        self.status = status;
        self.ended = Some((now, waited));
        for leg in &mut self.legs {
            leg.waiting = [Vec::new(), Vec::new()];
            leg.held = Vec::new();
        }
    }
}
