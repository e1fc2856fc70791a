//! One media line: two legs, what passes between them, when it has been silent too long. Knows nothing of offers, answers
//! or other streams.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::actions::Action;
use super::belief::{Belief, HowLatched, Judgement, Look, Move, Signal};
use super::candidate::Mark;
use super::checks::{self, StunMessage};
use super::codec::Codec;
use super::drops::DropReason;
use super::environment::Tally;
use super::evidence::Rank;
use super::forwarding::FlowEnd;
use super::handover::Handover;
use super::leg::Leg;
use super::settings::{Learning, Settings};
use super::status::Status;
use super::verdict::PacketVerdict;
use crate::counters::Counters;
use crate::moment::{Moment, micros};
use crate::proto::demux::Kind;
use crate::proto::media::MediaType;
use crate::proto::saved::is_usual;
use crate::proto::{Component, Party, PerComponent, PerParty};

/// A datagram at one of a stream's ports.
#[derive(Clone, Copy, Debug)]
pub(super) struct Datagram<'a> {
    /// Whose port it came to.
    pub party: Party,
    pub component: Component,
    pub from: SocketAddr,
    pub data: &'a [u8],
    pub kind: Kind,
}

/// What became of a packet, and what it taught.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    pub verdict: PacketVerdict,
    pub latched: Option<Latched>,
    /// The kernel has this component, and user space should see for itself who is who.
    pub is_claimed: bool,
    /// It was refused, and nothing speaks for who sent it.
    pub is_strange: bool,
    /// It has taught something else that is worth keeping.
    pub is_news: bool,
}

impl From<PacketVerdict> for Outcome {
    fn from(verdict: PacketVerdict) -> Outcome {
        Outcome {
            verdict,
            latched: None,
            is_claimed: false,
            is_strange: false,
            is_news: false,
        }
    }
}

/// A party was found at an address (RFC 7362).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Latched {
    pub party: Party,
    pub address: SocketAddr,
    pub how: HowLatched,
}

/// What packets of a stream have in common (E6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Carries {
    Rtp,
    Udptl,
    /// Nothing that is known.
    #[default]
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

/// What ends a stream if nothing more comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    /// The configuration key.
    pub name: &'static str,
    pub limit: Duration,
    /// When it is reached.
    pub at: Moment,
}

/// The end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StreamEnd {
    pub at: Moment,
    /// The limit that was reached, zero for any other end.
    #[serde(default, with = "micros", skip_serializing_if = "is_usual")]
    pub waited: Duration,
}

/// One media line of a session.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Stream {
    #[serde(rename = "type")]
    pub media_type: MediaType,
    #[serde(skip)]
    carries: Carries,
    pub created: Moment,
    pub legs: PerParty<Leg>,
    /// First answer.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub answered: Option<Moment>,
    /// The answerer gave port 0 in a reply that is not final; another branch may yet take it.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub declined: bool,
    #[serde(default, skip_serializing_if = "is_usual")]
    pub status: Status,
    /// When it ended, and by what limit.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub ended: Option<StreamEnd>,
    #[serde(default, skip_serializing_if = "is_usual")]
    pub first_media: Option<Moment>,
    #[serde(default)]
    pub handovers: PerComponent<Handover>,
    /// Both parties' media has flowed at some time.
    #[serde(default, skip_serializing_if = "is_usual")]
    flowed: bool,
    /// Silence counts from here at the earliest: final answer, hold, resume.
    #[serde(default, skip_serializing_if = "is_usual")]
    watched_since: Option<Moment>,
}

impl Stream {
    /// A proposed stream on freshly bound pairs: the relay's address and RTP port for each party.
    pub(super) fn new(media_type: MediaType, now: Moment, bound: PerParty<SocketAddr>) -> Stream {
        Stream {
            carries: Carries::of(&media_type),
            media_type,
            created: now,
            legs: bound.map(Leg::new),
            answered: None,
            declined: false,
            status: Status::Live,
            ended: None,
            first_media: None,
            handovers: PerComponent::default(),
            flowed: false,
            watched_since: None,
        }
    }

    /// What a state does not say, of a stream that was read from one.
    ///
    /// # Errors
    /// Where it has no ports that it could have.
    pub(super) fn restore(&mut self) -> Result<(), String> {
        self.carries = Carries::of(&self.media_type);
        let is_pair = |leg: &Leg| leg.port != 0 && leg.port.is_multiple_of(2);
        if self.is_live() && !self.legs.iter().all(is_pair) {
            return Err("a live stream has no pair of ports".into());
        }
        let is_live = self.is_live();
        if !self
            .handovers
            .iter()
            .all(|handover| handover.is_sound(is_live))
        {
            return Err("what it says of flows does not fit".into());
        }
        if !self.legs.iter().all(Leg::has_plausible_counts) {
            return Err("nobody relays so much".into());
        }
        Ok(())
    }

    /// Takes in what was counted and heard of a party since the state was saved.
    pub(super) fn catch_up(&mut self, party: Party, tally: &Tally) {
        self.legs[party].catch_up(tally);
        self.first_media = self.first_media.or(tally.last_media);
        self.flowed |= self.legs.iter().all(|leg| leg.last_media.is_some());
    }

    /// For so long before `now` nobody in user space has listened, and what the kernel has relayed is not told yet: that is
    /// nobody's silence.
    pub(super) fn skip_gap(&mut self, unheard: Duration, now: Moment) {
        let known = |since: Moment, is_blind: bool| {
            if is_blind {
                now
            } else {
                since.saturating_add(unheard).min(now)
            }
        };
        let is_blind = self.handovers.iter().any(Handover::may_bypass);
        if let Some(since) = self.quiet_since() {
            self.watched_since = Some(known(since, is_blind));
        }
        let is_blind = self.handovers.rtcp.may_bypass();
        for leg in self.legs.iter_mut() {
            leg.rtcp_port_used = leg.rtcp_port_used.map(|since| known(since, is_blind));
            for belief in leg.beliefs.iter_mut() {
                belief.skip_gap(now);
            }
        }
    }

    fn belief_mut(&mut self, party: Party, component: Component) -> &mut Belief {
        &mut self.legs[party].beliefs[component]
    }

    /// It still has its ports.
    pub(super) fn is_live(&self) -> bool {
        self.status == Status::Live
    }

    /// Either side sends nothing by its own word (C6).
    pub(super) fn on_hold(&self) -> bool {
        self.legs.iter().any(|leg| leg.said.is_hold())
    }

    /// Counts a packet, learns from it, says where it goes (M1, M2, M3).
    pub(super) fn on_packet(
        &mut self,
        packet: &Datagram<'_>,
        settings: &Settings,
        now: Moment,
    ) -> Outcome {
        let &Datagram {
            party,
            component,
            from,
            kind,
            ..
        } = packet;
        if !self.is_live() {
            return Outcome::from(self.legs[party].drop_packet(DropReason::Closed));
        }
        if kind == Kind::Stun && self.legs[party].said.ice {
            return self.on_check(packet, settings, now);
        }
        let signal = self.signal(packet);
        let belief = self.belief_mut(party, component);
        if kind != Kind::Stun && belief.is_known(from, signal, now) {
            return self.pass(packet, settings, now);
        }
        let look = self.look(party, component, settings, now);
        let belief = self.belief_mut(party, component);
        let judgement = belief.judge(from, signal, &look);
        self.follow(packet, judgement, settings, now)
    }

    fn follow(
        &mut self,
        packet: &Datagram<'_>,
        judgement: Judgement,
        settings: &Settings,
        now: Moment,
    ) -> Outcome {
        let &Datagram {
            party,
            component,
            from,
            data,
            kind,
        } = packet;
        match judgement {
            Judgement::Known => self.pass(packet, settings, now),
            Judgement::Passing => Outcome::from(self.send_on(packet, settings)),
            Judgement::Latched(how) => Outcome {
                latched: Some(Latched {
                    party,
                    address: from,
                    how,
                }),
                ..self.pass(packet, settings, now)
            },
            Judgement::Refused(why) | Judgement::Claimed(why) => {
                let is_claimed = matches!(judgement, Judgement::Claimed(_));
                let leg = &mut self.legs[party];
                if is_claimed {
                    leg.beliefs[component].on_taken_back(&settings.learning, now);
                }
                if why == DropReason::Unproven
                    && kind != Kind::Stun
                    && leg.hold(component, from, data, now)
                {
                    return Outcome::from(PacketVerdict::Queued);
                }
                if why != DropReason::Straggler {
                    leg.incidents_mut().stranger = Some((from, now));
                }
                Outcome {
                    is_claimed,
                    is_strange: matches!(why, DropReason::WrongSource | DropReason::Unproven),
                    ..Outcome::from(leg.drop_packet(why))
                }
            }
        }
    }

    /// ICE (E5): a check goes to the other party whoever sends it, and its answer to exactly who asked.
    fn on_check(&mut self, packet: &Datagram<'_>, settings: &Settings, now: Moment) -> Outcome {
        let &Datagram {
            party,
            component,
            from,
            ..
        } = packet;
        let message = checks::message(packet.data);
        if let StunMessage::Response(id, success) = message {
            let asking = &self.legs[party.other()].beliefs[component];
            if let Some(asker) = asking.asker(id, now) {
                return self.on_answer(packet, (asker, success), settings, now);
            }
        }
        let look = self.look(party, component, settings, now);
        let belief = self.belief_mut(party, component);
        let mut judgement = belief.judge(from, Signal::Check, &look);
        if let StunMessage::Request(id) = message {
            let is_strange = matches!(judgement, Judgement::Refused(_) | Judgement::Claimed(_));
            if is_strange && belief.checks().may_pass(now) {
                judgement = Judgement::Passing;
            }
            if !matches!(judgement, Judgement::Refused(_)) {
                belief.checks().note(id, from, is_strange, now);
            }
        }
        self.follow(packet, judgement, settings, now)
    }

    /// The answer to a check of the other party.
    fn on_answer(
        &mut self,
        packet: &Datagram<'_>,
        (asker, success): (SocketAddr, bool),
        settings: &Settings,
        now: Moment,
    ) -> Outcome {
        let &Datagram {
            party,
            component,
            from,
            ..
        } = packet;
        let look = self.look(party, component, settings, now);
        let of_asker = self.legs[party.other()].evidence(component);
        let (responder, asking) = self.legs.pair_mut(party);
        let belief = &mut responder.beliefs[component];
        let is_ranked = belief.rank(from, &look.evidence) >= Rank::Near;
        let is_known = belief.address() == Some(from);
        let is_on_trial = belief.check_address() == Some(from);
        if !(is_ranked || is_on_trial) {
            responder.incidents_mut().stranger = Some((from, now));
            return Outcome {
                is_strange: true,
                ..Outcome::from(responder.drop_packet(DropReason::Unproven))
            };
        }
        let taught = match belief.judge(from, Signal::Check, &look) {
            Judgement::Latched(how) => Some(Latched {
                party,
                address: from,
                how,
            }),
            _ => None,
        };
        responder.user_space += responder.datagram(packet.data.len());
        let belief = &mut asking.beliefs[component];
        let is_news = success && (is_ranked || is_known) && !belief.is_proven(asker);
        let is_proof = success
            && if is_ranked || is_known {
                belief.prove(asker, &of_asker, now)
            } else {
                settings.learning.learning != Learning::Strict
                    && belief.trust(asker, &of_asker, now)
            };
        let proof = Latched {
            party: party.other(),
            address: asker,
            how: HowLatched::First,
        };
        let verdict = PacketVerdict::Forward {
            from_port: asking.port_of(component),
            to: asker,
        };
        Outcome {
            latched: is_proof.then_some(proof).or(taught),
            is_news,
            ..Outcome::from(verdict)
        }
    }

    fn look(&self, party: Party, component: Component, settings: &Settings, now: Moment) -> Look {
        Look {
            rules: settings.learning,
            evidence: self.legs[party].evidence(component),
            blind: self.is_withdrawing() || self.handovers[component].may_bypass(),
            expected: self.answered,
            now,
        }
    }

    /// What a packet is to who decides whom to believe (E6).
    fn signal(&self, packet: &Datagram<'_>) -> Signal {
        let &Datagram {
            component, kind, ..
        } = packet;
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
            (Carries::Udptl, _) => match packet.data {
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
    fn pass(&mut self, packet: &Datagram<'_>, settings: &Settings, now: Moment) -> Outcome {
        let leg = &mut self.legs[packet.party];
        leg.longest = leg.longest.max(leg.datagram(packet.data.len()).bytes);
        let is_news = self.note_life(packet.party, packet.component, packet.kind, now);
        Outcome {
            is_news,
            ..Outcome::from(self.send_on(packet, settings))
        }
    }

    fn send_on(&mut self, packet: &Datagram<'_>, settings: &Settings) -> PacketVerdict {
        let &Datagram {
            component,
            data,
            kind,
            ..
        } = packet;
        let (leg, other) = self.legs.pair_mut(packet.party);
        if let Some(to) = other.destination(component, kind, settings) {
            leg.user_space += leg.datagram(data.len());
            return PacketVerdict::Forward {
                from_port: other.port_of(component),
                to,
            };
        }
        match other.keep_waiting(component, kind, data) {
            Ok(()) => PacketVerdict::Queued,
            Err(why) => leg.drop_packet(why),
        }
    }

    /// Media and RTCP are life; STUN never is (M3, M6, M7). Returns true for the first of a kind.
    fn note_life(&mut self, party: Party, component: Component, kind: Kind, now: Moment) -> bool {
        let leg = &mut self.legs[party];
        if component == Component::Rtcp {
            leg.rtcp_port_used = Some(now);
        }
        match (component, kind) {
            (_, Kind::Stun) => false,
            (Component::Rtcp, _) | (Component::Rtp, Kind::Rtcp) => {
                leg.last_rtcp.replace(now).is_none()
            }
            (Component::Rtp, kind) => {
                let mut is_first = leg.last_media.replace(now).is_none();
                if let Kind::Rtp(rtp) = kind {
                    is_first |= leg.codec.is_none();
                    leg.codec.get_or_insert(Codec(rtp.payload_type));
                }
                self.first_media.get_or_insert(now);
                let both = self.legs.iter().all(|leg| leg.last_media.is_some());
                self.flowed = self.flowed || both;
                is_first
            }
        }
    }

    /// Sends the STUN that waited for a party, once it can be reached. It counts as relayed from the other.
    pub(super) fn send_waiting(
        &mut self,
        party: Party,
        settings: &Settings,
        actions: &mut VecDeque<Action>,
    ) {
        let (leg, sender) = self.legs.pair_mut(party);
        for component in Component::BOTH {
            let Some((to, packets)) = leg.take_waiting(component, settings) else {
                continue;
            };
            let from_port = leg.port_of(component);
            for data in packets {
                sender.user_space += sender.datagram(data.len());
                actions.push_back(Action::Send {
                    from_port,
                    to,
                    data,
                });
            }
        }
    }

    /// Both ends of a component, once both have sent media from there and the kernel may be asked (M4).
    pub(super) fn ready_for_kernel(
        &self,
        component: Component,
        (now, welcome): (Moment, Moment),
    ) -> Option<PerParty<FlowEnd>> {
        if !self.is_live() || !self.handovers[component].may_offer(now, welcome) {
            return None;
        }
        let end = |leg: &Leg| {
            let belief = &leg.beliefs[component];
            let is_settled = if self.is_withdrawing() {
                !belief.is_claimed()
            } else {
                belief.is_settled(now)
            };
            let remote = belief.media_address().filter(|_| is_settled)?;
            let local = SocketAddr::new(leg.local, leg.port_of(component));
            Some(FlowEnd { remote, local })
        };
        Some(PerParty {
            caller: end(&self.legs.caller)?,
            callee: end(&self.legs.callee)?,
        })
    }

    /// Returns true if the kernel still has flows that are to be withdrawn.
    pub(super) fn is_withdrawing(&self) -> bool {
        self.handovers.iter().any(Handover::is_withdrawing)
    }

    /// Returns true if user space does not see all of it.
    pub(super) fn is_in_kernel(&self) -> bool {
        self.handovers.iter().any(Handover::is_in_kernel)
    }

    /// The kernel relayed this much more from a party.
    pub(super) fn on_kernel_traffic(
        &mut self,
        party: Party,
        component: Component,
        more: Counters,
        now: Moment,
    ) {
        if more.packets == 0 {
            return;
        }
        let leg = &mut self.legs[party];
        leg.kernel += more;
        leg.beliefs[component].on_kernel_traffic(more.packets, now);
        let kind = match component {
            Component::Rtp => Kind::Other,
            Component::Rtcp => Kind::Rtcp,
        };
        self.note_life(party, component, kind, now);
    }

    /// A party gives another address: nothing learned of it holds (C4, M5), unless that is where it was seen all the
    /// time: its media are no stragglers then.
    pub(super) fn move_party(&mut self, party: Party, why: Move, now: Moment) {
        let leg = &mut self.legs[party];
        for component in Component::BOTH {
            let evidence = leg.evidence(component);
            let superseded = leg.superseded_address(component);
            leg.beliefs[component].moved(why, superseded, &evidence, now);
        }
    }

    /// A party's RTP comes from elsewhere now: so will its RTCP (E7).
    pub(super) fn rtp_has_moved(&mut self, party: Party) {
        self.legs[party].beliefs.rtcp.forget();
    }

    /// Silence that was excused until now counts from here.
    pub(super) fn watch_from(&mut self, now: Moment) {
        self.watched_since = Some(now);
    }

    /// The limit in force and when it is reached if nothing more comes (C6, C7, M7).
    pub(super) fn silence(&self, settings: &Settings, is_ringing: bool) -> Limit {
        let (name, limit) = if self.on_hold() && !is_ringing {
            ("on_hold_timeout", settings.on_hold_timeout)
        } else {
            ("stream_timeout", settings.stream_timeout)
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
    pub(super) fn setup_limit(&self, settings: &Settings) -> Limit {
        Limit {
            name: "setup_timeout",
            limit: settings.setup_timeout,
            at: self.created + settings.setup_timeout,
        }
    }

    /// Since when nothing has come that counts as life; none before it was answered or heard (C7).
    fn quiet_since(&self) -> Option<Moment> {
        let lives = self
            .legs
            .iter()
            .flat_map(|leg| [leg.last_media, leg.last_rtcp]);
        lives.chain([self.watched_since]).flatten().max()
    }

    /// How a stream that fell silent has ended (M7, M8).
    pub(super) fn silence_status(&self) -> Status {
        if self.legs.iter().all(|leg| leg.said.ice) {
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
    pub(super) fn rtcp_deadline(&self, settings: &Settings) -> Option<Moment> {
        let is_latched = |leg: &Leg| leg.beliefs.rtcp.check_address().is_some();
        if !self.legs.iter().any(is_latched) {
            return None;
        }
        let last = self.legs.iter().filter_map(|leg| leg.rtcp_port_used).max();
        Some(last.unwrap_or(self.created) + settings.stream_timeout)
    }

    /// RTCP fell silent: its addresses are learned anew when it comes back (M7).
    pub(super) fn forget_rtcp(&mut self) {
        for leg in self.legs.iter_mut() {
            leg.beliefs.rtcp.forget();
        }
    }

    /// The end; `waited` is the limit that was reached, zero for any other end.
    pub(super) fn end(&mut self, status: Status, waited: Duration, now: Moment) {
        self.status = status;
        self.ended = Some(StreamEnd { at: now, waited });
        self.legs.iter_mut().for_each(Leg::forget_packets);
    }
}

/// A stream in a log line: its place among the session's streams and its type.
pub(super) struct StreamLine<'a>(pub &'a Stream, pub usize);

impl fmt::Display for StreamLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream {} ({})", self.1 + 1, self.0.media_type)
    }
}
