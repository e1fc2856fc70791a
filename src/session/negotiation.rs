//! Carries out a session's offers and answers: proposes streams, fixes where the parties are, ends what is not used.
//! Rules C3, C4 and C9 of docs/protocol.md; what an SDP is, `offers` says. Binds through [`super::Host`].

use std::net::{IpAddr, SocketAddrV4};
use std::time::Duration;

use log::{info, warn};

use super::call::{Context, Line, Refusal, Session, send_waiting, withdraw};
use super::matching::{Matched, matched};
use super::offers::{Meaning, Message, Said, Slot};
use super::stream::{Described, Move, Status, Stream};
use super::{Action, Place};
use crate::proto::media::{MediaAddress, MediaDescription};
use crate::proto::{Component, Party};

/// Streams that one session may have had; each costs about half a kilobyte until the session ends.
const STREAMS_KEPT: usize = 1024;

impl Session {
    /// An SDP passed: an offer, the answer to it, or either once more. The ports that go on in its place.
    pub(super) fn described(
        &mut self,
        message: &Message<'_>,
        context: &mut Context<'_>,
    ) -> Result<Vec<u16>, Refusal> {
        let index = match self.offers.meaning(message) {
            Meaning::Offer => self.offer(message, context)?,
            Meaning::Answer(index) => {
                self.answer(index, message, context)?;
                index
            }
            Meaning::Known(index) => {
                self.offers.note_early_answer(index, message);
                index
            }
            Meaning::Forgotten => return Err("an old CSeq that is not remembered"),
        };
        Ok(self.ports(index, message.sender.other(), message.media))
    }

    /// The relay's ports towards `receiver` for the m= lines of an offer; 0 where a line has no stream.
    fn ports(&self, offer: usize, receiver: Party, media: &[MediaDescription]) -> Vec<u16> {
        let slots = &self.offers.get(offer).slots;
        let port = |(line, description): (usize, &MediaDescription)| {
            let stream = &self.streams[slots.get(line)?.stream?];
            // What one branch has turned off another one may have on.
            let is_off = description.port == 0 || stream.status == Status::Rejected;
            (!is_off).then(|| stream.leg(receiver).port)
        };
        let lines = media.iter().enumerate();
        lines.map(|line| port(line).unwrap_or(0)).collect()
    }

    /// C3: goes on with the streams last agreed on; what cannot be kept gets fresh ports. Nothing that is agreed changes.
    /// Returns the offer's index.
    fn offer(
        &mut self,
        message: &Message<'_>,
        context: &mut Context<'_>,
    ) -> Result<usize, Refusal> {
        let (offerer, media) = (message.sender, message.media);
        let first_fresh = self.streams.len();
        if first_fresh == 0 {
            // Most sessions never have more than these, and a stream is large: no room for others.
            self.streams.reserve_exact(media.len().min(STREAMS_KEPT));
        }
        let agreed: Vec<_> = self
            .offers
            .agreed()
            .iter()
            .map(|slot| slot.stream)
            .collect();
        let Matched { kept, disabled } = matched(&agreed, &self.streams, offerer, media);
        let mut slots = Vec::with_capacity(media.len());
        for (line, (description, kept)) in media.iter().zip(kept).enumerate() {
            let stream = if description.port == 0 {
                None
            } else if kept.is_some() {
                kept
            } else {
                let proposed = self.propose(offerer, description, context);
                if proposed.is_err() {
                    self.take_back(first_fresh, context);
                }
                Some(proposed?)
            };
            let off = match stream {
                None => disabled[line].or_else(|| {
                    self.never_on(line, offerer, description, context.now.mono.since_start())
                }),
                Some(_) => None,
            };
            slots.push(Slot {
                media_type: description.media_type.clone(),
                stream,
                off,
                said: Said::of(description),
                described: stream.filter(|_| !description.address.is_zero()).map(|_| {
                    let is_own = self.is_own(description, context);
                    described(description, is_own)
                }),
            });
        }
        let index = self.offers.propose(message, slots);
        self.close_unused(context);
        Ok(index)
    }

    /// The closed stream that a line with port 0 is listed as, where it goes on with none that was agreed: what it was
    /// before, else one that never had ports.
    fn never_on(
        &mut self,
        line: usize,
        offerer: Party,
        media: &MediaDescription,
        now: Duration,
    ) -> Option<usize> {
        let mut before = [self.offers.agreed(), self.offers.latest()].into_iter();
        let known = before.find_map(|slots| {
            let slot = slots.get(line)?;
            let same = slot.media_type == media.media_type;
            let index = slot.stream.or(slot.off).filter(|_| same)?;
            (!self.streams[index].is_live()).then_some(index)
        });
        let index = self.streams.len();
        if known.is_some() || index == STREAMS_KEPT {
            return known;
        }
        let local = |party| SocketAddrV4::new(self.local(party), 0);
        let (caller, callee) = (local(Party::Caller), local(Party::Callee));
        let mut stream = Stream::new(media.media_type.clone(), now, caller, callee);
        describe(&mut stream, offerer, media, false);
        stream.end(Status::Closed, Duration::ZERO, now);
        self.streams.push(stream);
        Some(index)
    }

    /// A fresh stream on fresh ports, or nothing at all.
    fn propose(
        &mut self,
        offerer: Party,
        media: &MediaDescription,
        context: &mut Context<'_>,
    ) -> Result<usize, Refusal> {
        let index = self.streams.len();
        if index == STREAMS_KEPT {
            return Err("too many streams in one session");
        }
        let mut bind = |party: Party| {
            let place = Place {
                session: self.key,
                stream: index as u16,
                party,
                component: Component::Rtp,
            };
            let address = self.local(party);
            let port = context.host.bind(address, place)?;
            Some(SocketAddrV4::new(address, port))
        };
        let caller = bind(Party::Caller).ok_or("no ports left")?;
        let Some(callee) = bind(Party::Callee) else {
            context.actions.push_back(Action::Close {
                port: caller.port(),
            });
            return Err("no ports left");
        };
        let mut stream = Stream::new(
            media.media_type.clone(),
            context.now.mono.since_start(),
            caller,
            callee,
        );
        describe(&mut stream, offerer, media, self.is_own(media, context));
        apply(&mut stream, offerer, Said::of(media));
        self.streams.push(stream);
        Ok(index)
    }

    /// Ends a stream by what was agreed, not by silence.
    fn close_stream(&mut self, index: usize, status: Status, context: &mut Context<'_>) {
        let now = context.now.mono.since_start();
        self.end_stream(index, status, Duration::ZERO, context.actions, now);
    }

    /// An offer failed half way: its streams never were.
    fn take_back(&mut self, first: usize, context: &mut Context<'_>) {
        for index in first..self.streams.len() {
            self.close_stream(index, Status::Closed, context);
        }
        self.streams.truncate(first);
    }

    /// C4: fixes the other side of an offer, which is what counts from now on.
    pub(super) fn answer(
        &mut self,
        index: usize,
        message: &Message<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), Refusal> {
        let (answerer, media) = (message.sender, message.media);
        // A line that either side has turned off has no media whose type could matter.
        let differs = |(slot, answer): (&Slot, &MediaDescription)| {
            let is_on = slot.stream.is_some() && answer.port != 0;
            is_on && slot.media_type != answer.media_type
        };
        let offer = self.offers.get(index);
        if offer.slots.iter().zip(media).any(differs) {
            return Err("the answer's media types are not those of the offer");
        }
        let (offerer, slots) = (offer.offerer, offer.slots.clone());
        // Who answers the INVITE may be another branch than the one that did before.
        let why = match self.offers.is_opening(index) {
            true => Move::OtherBranch,
            false => Move::Agreed,
        };
        self.offers.agree(index, message);
        for (line, slot) in slots.iter().enumerate() {
            if let Some(off) = slot.off {
                self.streams[off]
                    .answered
                    .get_or_insert(context.now.mono.since_start());
            }
            let Some(index) = slot.stream else { continue };
            match media.get(line).filter(|answer| answer.port != 0) {
                Some(answer) => {
                    self.accept(index, (offerer, slot), (answerer, answer, why), context);
                }
                None => self.decline(index, context.now.mono.since_start()),
            }
        }
        self.close_unused(context);
        self.started.get_or_insert(context.now);
        Ok(())
    }

    fn accept(
        &mut self,
        index: usize,
        (offerer, slot): (Party, &Slot),
        (answerer, answer, why): (Party, &MediaDescription, Move),
        context: &mut Context<'_>,
    ) {
        let now = context.now.mono.since_start();
        let is_own = self.is_own(answer, context);
        // While it rings nobody's silence counts.
        let is_up = self.is_finally_answered();
        let stream = &mut self.streams[index];
        if !stream.is_live() {
            stream.answered.get_or_insert(now);
            return;
        }
        let was_on_hold = stream.on_hold();
        stream.declined = false;
        if offerer != answerer {
            apply(stream, offerer, slot.said);
            // Another branch's answer may have come in between, and moved the offerer's side.
            if let Some(offered) = slot.described.as_ref().filter(|offered| !offered.is_own) {
                let leg = stream.leg_mut(offerer);
                let before = leg.described.replace(offered.clone());
                if before.is_some_and(|before| before != *offered) {
                    stream.move_party(offerer, why, now);
                    withdraw(self.key, stream, index, context.actions);
                }
            }
        }
        let leg = stream.leg(answerer);
        // The call passes this relay twice under one name: its own ports say nothing of where the party is.
        let says_nothing = is_own && leg.described.is_some();
        let moved = leg.described.is_some()
            && !leg.is_same(answer)
            && !answer.address.is_zero()
            && !says_nothing;
        if !says_nothing {
            describe(stream, answerer, answer, is_own);
        }
        apply(stream, answerer, Said::of(answer));
        let first = stream.answered.is_none();
        stream.answered.get_or_insert(now);
        if is_up && (first || moved || was_on_hold != stream.on_hold()) {
            stream.watch_from(now);
        }
        if moved {
            info!(
                "[session {}] {answerer} moves {}",
                self.call_id,
                Line(stream, index)
            );
            stream.move_party(answerer, why, now);
            withdraw(self.key, stream, index, context.actions);
        }
        for party in [offerer, answerer] {
            send_waiting(
                &mut self.streams[index],
                party,
                context.settings,
                context.actions,
            );
        }
    }

    /// Whether an SDP names ports of this session. Those of another are fine: a call may pass this relay twice.
    fn is_own(&self, media: &MediaDescription, context: &Context<'_>) -> bool {
        let MediaAddress::Ip(IpAddr::V4(ip)) = media.address else {
            return false;
        };
        let legs = self
            .streams
            .iter()
            .filter(|s| s.is_live())
            .flat_map(|s| &s.legs);
        let is_own = legs.into_iter().any(|leg| {
            let is_here = ip == leg.local || context.settings.advertised_ip == Some(ip);
            is_here && leg.port.abs_diff(media.port) <= 1
        });
        if is_own {
            let port = media.port;
            warn!(
                "[session {}] an SDP names this session's own {ip}:{port}",
                self.call_id
            );
        }
        is_own
    }

    /// Whether it is over is known with the final answer: until then another branch may take the stream.
    fn decline(&mut self, index: usize, now: Duration) {
        let stream = &mut self.streams[index];
        stream.declined |= stream.is_live();
        stream.answered.get_or_insert(now);
    }

    /// With the final answer a declined stream is over, unless an offer is under way that goes on with it: another branch may
    /// have declined it.
    pub(super) fn settle_declined(&mut self, context: &mut Context<'_>) {
        for index in 0..self.streams.len() {
            let stream = &self.streams[index];
            if stream.is_live() && stream.declined && !self.offers.proposes(index) {
                let agreed_before = stream.legs.iter().all(|leg| leg.described.is_some());
                let status = if agreed_before {
                    Status::Closed
                } else {
                    Status::Rejected
                };
                self.close_stream(index, status, context);
            }
        }
    }

    /// Ends the streams that neither what is agreed on uses nor what may still be.
    pub(super) fn close_unused(&mut self, context: &mut Context<'_>) {
        for index in 0..self.streams.len() {
            if self.streams[index].is_live() && !self.offers.uses(index) {
                self.close_stream(index, Status::Closed, context);
            }
        }
    }
}

fn apply(stream: &mut Stream, party: Party, said: Said) {
    let leg = stream.leg_mut(party);
    leg.direction = said.direction;
    leg.zero_address = said.zero_address;
    leg.ice = said.ice;
}

/// Takes the address of an SDP; 0.0.0.0 is a hold and says nothing of where the party is.
fn describe(stream: &mut Stream, party: Party, media: &MediaDescription, is_own: bool) {
    if !media.address.is_zero() {
        stream.leg_mut(party).described = Some(described(media, is_own));
    }
}

fn described(media: &MediaDescription, is_own: bool) -> Described {
    Described {
        address: media.address.clone(),
        port: media.port,
        is_own,
    }
}
