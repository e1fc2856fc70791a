//! Carries out a session's offers and answers: proposes streams, fixes where the parties are, ends what is not used.
//! Rules C3, C4 and C9 of docs/protocol.md; what an SDP is, `offers` says. Binds through [`super::Environment`].

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use log::{info, warn};

use super::actions::Action;
use super::belief::Move;
use super::description::{Described, Said};
use super::environment::Environment;
use super::flows::withdraw;
use super::keys::PortKey;
use super::matching::{Matched, matched};
use super::media::{Media, STREAMS_KEPT};
use super::offers::{Meaning, MediaLine, Message};
use super::refusal::Refusal;
use super::settings::Settings;
use super::status::Status;
use super::stream::{Stream, StreamLine};
use crate::moment::Now;
use crate::proto::media::{MediaAddress, MediaDescription};
use crate::proto::{Component, Party, PerParty, Tag};

/// What a request is handled with.
pub(super) struct Context<'a> {
    pub settings: &'a Settings,
    pub environment: &'a mut dyn Environment,
    pub actions: &'a mut VecDeque<Action>,
    pub now: Now,
}

/// A session's media while a message about them is handled.
pub(super) struct Negotiation<'a, 'b> {
    media: &'a mut Media,
    context: &'a mut Context<'b>,
}

impl<'a, 'b> Negotiation<'a, 'b> {
    pub(super) fn of(media: &'a mut Media, context: &'a mut Context<'b>) -> Negotiation<'a, 'b> {
        Negotiation { media, context }
    }

    /// An SDP passed: an offer, the answer to it, or either once more. The ports that go on in its place.
    pub(super) fn describe(&mut self, message: &Message<'_>) -> Result<Vec<u16>, Refusal> {
        let index = match self.media.offers.meaning(message) {
            Meaning::Offer => self.offer(message)?,
            Meaning::Answer(index) => {
                self.answer(index, message)?;
                index
            }
            Meaning::Known(index) => {
                self.media.offers.note_early_answer(index, message);
                index
            }
            Meaning::Forgotten => return Err(Refusal::OldCSeq),
        };
        Ok(self.ports(index, message.sender.other(), message.media))
    }

    /// The relay's ports towards `receiver` for the media lines of an offer; 0 where a line has no stream.
    fn ports(&self, offer: usize, receiver: Party, media: &[MediaDescription]) -> Vec<u16> {
        let lines = &self.media.offers.get(offer).lines;
        let port = |(line, description): (usize, &MediaDescription)| {
            let stream = &self.media.streams[lines.get(line)?.stream?];
            // What one branch has turned off another one may have on.
            let is_off = description.port == 0 || stream.status == Status::Rejected;
            (!is_off).then(|| stream.legs[receiver].port)
        };
        let lines = media.iter().enumerate();
        lines.map(|line| port(line).unwrap_or(0)).collect()
    }

    /// C3: goes on with the streams last agreed on; what cannot be kept gets fresh ports. Nothing that is agreed changes.
    /// Returns the offer's index.
    fn offer(&mut self, message: &Message<'_>) -> Result<usize, Refusal> {
        let (offerer, media) = (message.sender, message.media);
        let first_fresh = self.media.streams.len();
        if first_fresh == 0 {
            // Most sessions never have more than these, and a stream is large: no room for others.
            self.media
                .streams
                .reserve_exact(media.len().min(STREAMS_KEPT));
        }
        let agreed = self.media.offers.current().iter();
        let agreed: Vec<_> = agreed.map(|offered| offered.stream).collect();
        let Matched { kept, disabled } = matched(&agreed, &self.media.streams, offerer, media);
        let mut lines = Vec::with_capacity(media.len());
        for (line, (description, kept)) in media.iter().zip(kept).enumerate() {
            let stream = if description.port == 0 {
                None
            } else if kept.is_some() {
                kept
            } else {
                let proposed = self.propose(offerer, description);
                if proposed.is_err() {
                    self.take_back(first_fresh);
                }
                Some(proposed?)
            };
            let off = match stream {
                None => disabled[line].or_else(|| self.never_on(line, offerer, description)),
                Some(_) => None,
            };
            lines.push(MediaLine {
                media_type: description.media_type.clone(),
                stream,
                off,
                said: Said::of(description),
                described: stream.filter(|_| !description.address.is_zero()).map(|_| {
                    let is_own = self.is_own(description);
                    Described::of(description, is_own)
                }),
            });
        }
        let index = self.media.offers.propose(message, lines);
        self.close_unused();
        Ok(index)
    }

    /// The closed stream that a line with port 0 is listed as, where it goes on with none that was agreed: what it was
    /// before, else one that never had ports.
    fn never_on(&mut self, line: usize, offerer: Party, media: &MediaDescription) -> Option<usize> {
        let mut before = [self.media.offers.current(), self.media.offers.latest()].into_iter();
        let known = before.find_map(|lines| {
            let offered = lines.get(line)?;
            let same = offered.media_type == media.media_type;
            let index = offered.stream.or(offered.off).filter(|_| same)?;
            (!self.media.streams[index].is_live()).then_some(index)
        });
        let index = self.media.streams.len();
        if known.is_some() || index == STREAMS_KEPT {
            return known;
        }
        let now = self.context.now.mono;
        let unbound = self.media.locals.map(|local| SocketAddr::new(local, 0));
        let mut stream = Stream::new(media.media_type.clone(), now, unbound);
        stream.legs[offerer].describe(media, false);
        stream.end(Status::Closed, Duration::ZERO, now);
        self.media.streams.push(stream);
        Some(index)
    }

    /// A fresh stream on fresh ports, or nothing at all.
    fn propose(&mut self, offerer: Party, media: &MediaDescription) -> Result<usize, Refusal> {
        let index = self.media.streams.len();
        if index == STREAMS_KEPT {
            return Err(Refusal::TooManyStreams);
        }
        let mut bind = |party: Party| {
            let key = PortKey {
                session: self.media.key,
                stream: index as u16,
                party,
                component: Component::Rtp,
            };
            let address = self.media.locals[party];
            let port = self.context.environment.bind(address, key)?;
            Some(SocketAddr::new(address, port))
        };
        let caller = bind(Party::Caller).ok_or(Refusal::NoPorts)?;
        let Some(callee) = bind(Party::Callee) else {
            self.context.actions.push_back(Action::Close {
                port: caller.port(),
            });
            return Err(Refusal::NoPorts);
        };
        let bound = PerParty { caller, callee };
        let mut stream = Stream::new(media.media_type.clone(), self.context.now.mono, bound);
        let leg = &mut stream.legs[offerer];
        leg.describe(media, self.is_own(media));
        leg.said = Said::of(media);
        self.media.streams.push(stream);
        Ok(index)
    }

    /// Ends a stream by what was agreed, not by silence.
    fn close_stream(&mut self, index: usize, status: Status) {
        let now = self.context.now.mono;
        self.media
            .end_stream(index, status, Duration::ZERO, self.context.actions, now);
    }

    /// An offer failed half way: its streams never were.
    fn take_back(&mut self, first: usize) {
        for index in first..self.media.streams.len() {
            self.close_stream(index, Status::Closed);
        }
        self.media.streams.truncate(first);
    }

    /// A final answer without SDP is that of the branch which gave its SDP before (C4).
    pub(super) fn answer_early(&mut self, message: &Message<'_>) -> Result<(), Refusal> {
        let Message {
            kind,
            number,
            source,
            ..
        } = message;
        let offers = &self.media.offers;
        if !offers.is_final(*kind, number) {
            return Ok(());
        }
        let Some((index, media)) = offers.early_answer(number, *source) else {
            return Ok(());
        };
        let media = media.to_vec();
        let early = Message {
            media: &media,
            ..message.clone()
        };
        self.answer(index, &early)
    }

    /// The first final answer, of the callee with this tag (C5); with an SDP, or without.
    pub(super) fn establish(&mut self, tag: &Tag, sdp: Option<&[MediaDescription]>) {
        let Media {
            started,
            offers,
            streams,
            ..
        } = &mut *self.media;
        let now = self.context.now;
        started.get_or_insert(now);
        offers.establish(tag, sdp);
        let agreed = streams.iter_mut().filter(|s| s.answered.is_some());
        agreed.for_each(|stream| stream.watch_from(now.mono));
        self.close_unused();
        self.settle_declined();
    }

    /// C4: fixes the other side of an offer, which is what counts from now on.
    fn answer(&mut self, index: usize, message: &Message<'_>) -> Result<(), Refusal> {
        let (answerer, media) = (message.sender, message.media);
        // A line that either side has turned off has no media whose type could matter.
        let differs = |(offered, answer): (&MediaLine, &MediaDescription)| {
            let is_on = offered.stream.is_some() && answer.port != 0;
            is_on && offered.media_type != answer.media_type
        };
        let offer = self.media.offers.get(index);
        if offer.lines.iter().zip(media).any(differs) {
            return Err(Refusal::OtherMediaTypes);
        }
        let (offerer, lines) = (offer.offerer, offer.lines.clone());
        // Who answers the INVITE may be another branch than the one that did before.
        let why = if self.media.offers.is_opening(index) {
            Move::OtherBranch
        } else {
            Move::Agreed
        };
        self.media.offers.agree(index, message);
        for (line, offered) in lines.iter().enumerate() {
            if let Some(off) = offered.off {
                self.media.streams[off]
                    .answered
                    .get_or_insert(self.context.now.mono);
            }
            let Some(index) = offered.stream else {
                continue;
            };
            match media.get(line).filter(|answer| answer.port != 0) {
                Some(answer) => {
                    self.accept(index, (offerer, offered), (answerer, answer, why));
                }
                None => self.decline(index),
            }
        }
        self.close_unused();
        self.media.started.get_or_insert(self.context.now);
        Ok(())
    }

    fn accept(
        &mut self,
        index: usize,
        (offerer, offered): (Party, &MediaLine),
        (answerer, answer, why): (Party, &MediaDescription, Move),
    ) {
        let now = self.context.now.mono;
        let is_own = self.is_own(answer);
        // While it rings nobody's silence counts.
        let is_up = self.media.is_finally_answered();
        let stream = &mut self.media.streams[index];
        if !stream.is_live() {
            stream.answered.get_or_insert(now);
            return;
        }
        let was_on_hold = stream.on_hold();
        stream.declined = false;
        if offerer != answerer {
            stream.legs[offerer].said = offered.said;
            // Another branch's answer may have come in between, and moved the offerer's side.
            if let Some(offered) = offered.described.as_ref().filter(|offered| !offered.is_own) {
                let leg = &mut stream.legs[offerer];
                let before = leg.described.replace(offered.clone());
                if before.is_some_and(|before| before != *offered) {
                    stream.move_party(offerer, why, now);
                    withdraw(stream, (self.media.key, index), self.context.actions);
                }
            }
        }
        let leg = &mut stream.legs[answerer];
        // The call passes this relay twice under one name: its own ports say nothing of where the party is.
        let says_nothing = is_own && leg.described.is_some();
        let moved = leg.described.is_some()
            && !leg.is_same(answer)
            && !answer.address.is_zero()
            && !says_nothing;
        if !says_nothing {
            leg.describe(answer, is_own);
        }
        leg.said = Said::of(answer);
        let first = stream.answered.is_none();
        stream.answered.get_or_insert(now);
        if is_up && (first || moved || was_on_hold != stream.on_hold()) {
            stream.watch_from(now);
        }
        if moved {
            info!(
                "[session {}] {answerer} moves {}",
                self.media.call_id,
                StreamLine(stream, index)
            );
            stream.move_party(answerer, why, now);
            withdraw(stream, (self.media.key, index), self.context.actions);
        }
        for party in [offerer, answerer] {
            self.media.streams[index].send_waiting(
                party,
                self.context.settings,
                self.context.actions,
            );
        }
    }

    /// Returns true if an SDP names ports of this session. Those of another are fine: a call may pass this relay twice.
    fn is_own(&self, media: &MediaDescription) -> bool {
        let MediaAddress::Ip(ip) = media.address else {
            return false;
        };
        let live = self.media.streams.iter().filter(|s| s.is_live());
        let is_own = live.flat_map(|s| s.legs.iter()).any(|leg| {
            let is_here = ip == leg.local || self.context.settings.advertised_ip == Some(ip);
            is_here && leg.port.abs_diff(media.port) <= 1
        });
        if is_own {
            let named = SocketAddr::new(ip, media.port);
            warn!(
                "[session {}] an SDP names this session's own {named}",
                self.media.call_id
            );
        }
        is_own
    }

    /// Returns true if it is over is known with the final answer: until then another branch may take the stream.
    fn decline(&mut self, index: usize) {
        let stream = &mut self.media.streams[index];
        stream.declined |= stream.is_live();
        stream.answered.get_or_insert(self.context.now.mono);
    }

    /// With the final answer a declined stream is over, unless an offer is under way that goes on with it: another branch may
    /// have declined it.
    pub(super) fn settle_declined(&mut self) {
        for index in 0..self.media.streams.len() {
            let stream = &self.media.streams[index];
            if stream.is_live() && stream.declined && !self.media.offers.proposes(index) {
                let agreed_before = stream.legs.iter().all(|leg| leg.described.is_some());
                let status = if agreed_before {
                    Status::Closed
                } else {
                    Status::Rejected
                };
                self.close_stream(index, status);
            }
        }
    }

    /// Ends the streams that neither what is agreed on uses nor what may still be.
    fn close_unused(&mut self) {
        for index in 0..self.media.streams.len() {
            if self.media.streams[index].is_live() && !self.media.offers.uses(index) {
                self.close_stream(index, Status::Closed);
            }
        }
    }
}
