//! Offers and answers (RFC 3264) of a session, told apart by their CSeq numbers: rules C2 to C5 and C9 of
//! docs/protocol.md. Binds through [`super::Host`]; what a stream does with packets is its own matter.

use std::net::{IpAddr, SocketAddrV4};
use std::time::Duration;

use log::{info, warn};

use super::call::{Context, Line, Refusal, Session, send_waiting, withdraw};
use super::matching::{Matched, matched};
use super::stream::{Described, Move, Status, Stream};
use super::{Action, Place};
use crate::proto::control::Update;
use crate::proto::media::{Direction, MediaAddress, MediaDescription, MediaType};
use crate::proto::{CSeq, Component, Party};

/// Offers whose ports are still known when a late retransmission asks for them.
const OFFERS_KEPT: usize = 16;
/// Streams that one session may have had; each costs about half a kilobyte until the session ends.
const STREAMS_KEPT: usize = 1024;

/// An offer, and whether it has been answered.
#[derive(Debug)]
pub(super) struct Offer {
    /// Whose request carried it or asked for it, and its number.
    number: (Party, CSeq),
    offerer: Party,
    slots: Vec<Slot>,
    answered: bool,
}

/// One m= line of an offer.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    media_type: MediaType,
    /// None where the line had port 0.
    stream: Option<usize>,
    /// What stands for such a line in the statistics.
    off: Option<usize>,
    /// What the offerer said; it holds once the offer is answered.
    said: Said,
    /// Where the offerer is, for a kept stream that was not told so far; holds likewise.
    described: Option<Described>,
}

/// What a party says of its side besides where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    direction: Direction,
    zero_address: bool,
    ice: bool,
}

impl Said {
    fn of(media: &MediaDescription) -> Said {
        Said {
            direction: media.direction,
            // With trickle ICE (RFC 8840) 0.0.0.0 says that candidates follow.
            zero_address: media.address.is_zero() && !media.ice,
            ice: media.ice,
        }
    }
}

/// How an update stands to the offers so far (C2).
enum Relation {
    New,
    Current,
    Old(usize),
    Forgotten,
}

impl Session {
    /// An SDP passed: an offer, the answer to it, or either once more. The ports that go on in its place.
    pub(super) fn described(
        &mut self,
        update: &Update,
        sender: Party,
        media: &[MediaDescription],
        context: &mut Context<'_>,
    ) -> Result<Vec<u16>, Refusal> {
        let from_caller = update.from_tag == self.caller_tag;
        let numbered_by = if from_caller {
            Party::Caller
        } else {
            Party::Callee
        };
        let number = (numbered_by, update.cseq);
        let receiver = sender.other();
        let index = match self.relation(number) {
            Relation::New => {
                self.offer(number, sender, media, context)?;
                self.offers.len() - 1
            }
            Relation::Current => {
                let current = self.offers.len() - 1;
                if self.offers[current].offerer != sender {
                    self.answer(sender, media, context)?;
                }
                current
            }
            Relation::Old(index) => index,
            Relation::Forgotten => return Err("an old CSeq that is not remembered"),
        };
        Ok(self.ports(index, receiver, media.len()))
    }

    /// C2: numbers grow for each party by itself, and an offer is known by its number.
    fn relation(&self, number: (Party, CSeq)) -> Relation {
        let (party, cseq) = number;
        let known = self.offers.iter().rposition(|offer| offer.number == number);
        match known {
            Some(index) if index + 1 == self.offers.len() => Relation::Current,
            Some(index) => Relation::Old(index),
            None if self.last_offers[party as usize] >= Some(cseq) => Relation::Forgotten,
            None => Relation::New,
        }
    }

    /// The relay's ports towards `receiver` for the m= lines of an offer; 0 where a line has no stream.
    fn ports(&self, offer: usize, receiver: Party, lines: usize) -> Vec<u16> {
        let port = |slot: &Slot| {
            let stream = &self.streams[slot.stream?];
            let is_off = stream.declined || stream.status == Status::Rejected;
            (!is_off).then(|| stream.leg(receiver).port)
        };
        let slots = &self.offers[offer].slots;
        (0..lines)
            .map(|line| slots.get(line).and_then(port).unwrap_or(0))
            .collect()
    }

    /// C3: goes on with the streams last agreed on; what cannot be kept gets fresh ports.
    fn offer(
        &mut self,
        number: (Party, CSeq),
        offerer: Party,
        media: &[MediaDescription],
        context: &mut Context<'_>,
    ) -> Result<(), Refusal> {
        let first_fresh = self.streams.len();
        if first_fresh == 0 {
            // Most sessions never have more than these, and a stream is large: no room for others.
            self.streams.reserve_exact(media.len().min(STREAMS_KEPT));
        }
        let agreed: Vec<_> = self.agreed.iter().map(|slot| slot.stream).collect();
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
                None => disabled[line]
                    .or_else(|| self.never_on(line, offerer, description, context.now.mono)),
                Some(_) => None,
            };
            slots.push(Slot {
                media_type: description.media_type.clone(),
                stream,
                off,
                said: Said::of(description),
                described: stream.and_then(|index| {
                    let untold = self.streams[index].leg(offerer).described.is_none();
                    (untold && !description.address.is_zero())
                        .then(|| described(description, self.is_own(description, context)))
                }),
            });
        }
        for index in disabled.into_iter().flatten() {
            self.close_stream(index, Status::Closed, context);
        }
        self.give_up_unanswered(first_fresh, &slots, context);
        self.last_offers[number.0 as usize] = Some(number.1);
        self.offers.push_back(Offer {
            number,
            offerer,
            slots,
            answered: false,
        });
        if self.offers.len() > OFFERS_KEPT {
            self.offers.pop_front();
        }
        Ok(())
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
        let offered = self.offers.back().map(|offer| &offer.slots);
        let mut before = [Some(&self.agreed), offered].into_iter().flatten();
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
        let mut stream = Stream::new(media.media_type.clone(), context.now.mono, caller, callee);
        describe(&mut stream, offerer, media, self.is_own(media, context));
        apply(&mut stream, offerer, Said::of(media));
        self.streams.push(stream);
        Ok(index)
    }

    /// Ends a stream by what was agreed, not by silence.
    fn close_stream(&mut self, index: usize, status: Status, context: &mut Context<'_>) {
        let now = context.now.mono;
        self.end_stream(index, status, Duration::ZERO, context.actions, now);
    }

    /// An offer failed half way: its streams never were.
    fn take_back(&mut self, first: usize, context: &mut Context<'_>) {
        for index in first..self.streams.len() {
            self.close_stream(index, Status::Closed, context);
        }
        self.streams.truncate(first);
    }

    /// A newer offer replaces one that nobody answered: that one's own streams are not needed.
    fn give_up_unanswered(
        &mut self,
        first_fresh: usize,
        slots: &[Slot],
        context: &mut Context<'_>,
    ) {
        for index in 0..first_fresh {
            let in_use = slots
                .iter()
                .chain(&self.agreed)
                .any(|slot| slot.stream == Some(index));
            if !in_use && self.streams[index].answered.is_none() {
                self.close_stream(index, Status::Closed, context);
            }
        }
    }

    /// C4: fixes the other side of the current offer.
    fn answer(
        &mut self,
        answerer: Party,
        media: &[MediaDescription],
        context: &mut Context<'_>,
    ) -> Result<(), Refusal> {
        let Some(offer) = self.offers.back_mut() else {
            return Err("an answer without an offer");
        };
        // A line that either side has turned off has no media whose type could matter.
        let differs = |(slot, answer): (&Slot, &MediaDescription)| {
            let is_on = slot.stream.is_some() && answer.port != 0;
            is_on && slot.media_type != answer.media_type
        };
        if offer.slots.iter().zip(media).any(differs) {
            return Err("the answer's media types are not those of the offer");
        }
        let first = !std::mem::replace(&mut offer.answered, true);
        let (offerer, slots) = (offer.offerer, offer.slots.clone());
        for (line, slot) in slots.iter().enumerate() {
            if let Some(off) = slot.off {
                self.streams[off].answered.get_or_insert(context.now.mono);
            }
            let Some(index) = slot.stream else { continue };
            match media.get(line).filter(|answer| answer.port != 0) {
                Some(answer) => {
                    let why = if first {
                        Move::Agreed
                    } else {
                        Move::OtherBranch
                    };
                    self.accept(index, (offerer, slot), (answerer, answer, why), context);
                }
                None => self.decline(index, context.now.mono),
            }
        }
        if first {
            self.replace_agreed(slots, context);
        }
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
        let now = context.now.mono;
        let is_own = self.is_own(answer, context);
        let stream = &mut self.streams[index];
        if !stream.is_live() {
            stream.answered.get_or_insert(now);
            return;
        }
        let was_on_hold = stream.on_hold();
        stream.declined = false;
        apply(stream, offerer, slot.said);
        let offering = stream.leg_mut(offerer);
        if offering.described.is_none() {
            offering.described.clone_from(&slot.described);
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
        if was_on_hold != stream.on_hold() || (first && self.finally_answered) {
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

    /// With the final answer a declined stream is over.
    pub(super) fn settle_declined(&mut self, context: &mut Context<'_>) {
        for index in 0..self.streams.len() {
            let stream = &self.streams[index];
            if stream.is_live() && stream.declined {
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

    /// The answered offer is the one that counts; streams that it does not use are over.
    fn replace_agreed(&mut self, slots: Vec<Slot>, context: &mut Context<'_>) {
        let replaced = std::mem::replace(&mut self.agreed, slots);
        for index in replaced.iter().filter_map(|slot| slot.stream) {
            if !self.agreed.iter().any(|slot| slot.stream == Some(index)) {
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
