//! The offer/answer state of a session (RFC 3264): which offer is agreed on, which ones wait for an answer, and what
//! an SDP that passes means for them. Rules C2 to C4 of docs/protocol.md. Knows nothing of ports or packets.
//!
//! The SIP proxy tells neither the method nor the status of a message, so an SDP is known by the request that carried
//! it or that it answers ([`Number`]):
//!
//! | the SDP is in | an offer of this number came in the request | ... came in a reply to it | none is known |
//! |---|---|---|---|
//! | a request | that offer again | the answer (ACK) | the answer, where the other side's reply brought an offer (PRACK, ACK); else an offer |
//! | a reply | the answer, for the first time or again | that offer again; another SDP is another branch's offer | an offer |

use std::collections::VecDeque;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::description::{Described, Said};
use crate::proto::control::MessageKind;
use crate::proto::media::{MediaAddress, MediaDescription, MediaType};
use crate::proto::saved::{exact, is_usual};
use crate::proto::{CSeq, Party, PerParty, Tag};

/// Offers whose ports are still known when a late retransmission asks for them.
const OFFERS_KEPT: usize = 16;
/// Answers of other branches that are remembered for one offer, so that a repeated 183 of theirs moves nobody.
const ANSWERS_KEPT: usize = 8;

/// Names a SIP request of a session (RFC 3261 section 8.1.1.5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Number {
    /// Whose request it is: each party numbers its own.
    pub party: Party,
    pub cseq: CSeq,
    /// The callee's tag, where the message has one: each branch of a fork is a dialog with numbers of its own.
    #[serde(default, with = "exact", skip_serializing_if = "is_usual")]
    pub tag: Option<Tag>,
}

impl Number {
    /// Returns true if both may name the same request; a message without a tag fits all dialogs.
    fn fits(&self, other: &Number) -> bool {
        self.party == other.party && self.cseq == other.cseq && self.is_in_dialog_of(other)
    }

    fn is_in_dialog_of(&self, other: &Number) -> bool {
        self.tag.is_none() || other.tag.is_none() || self.tag == other.tag
    }
}

/// A SIP message with SDP.
#[derive(Clone, Debug)]
pub(super) struct Message<'a> {
    pub kind: MessageKind,
    /// Of the request that it is or answers.
    pub number: Number,
    /// Whose SDP it is.
    pub sender: Party,
    /// Where this SIP message came from, where the proxy says so.
    pub source: Option<IpAddr>,
    pub media: &'a [MediaDescription],
}

/// What an SDP is. The index is that of the offer that it belongs to, as [`Offers::get`] takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// An offer that is not known yet.
    Offer,
    /// The answer to an offer, for the first time or again.
    Answer(usize),
    /// Nothing new: a retransmission, or what has been replaced meanwhile. It gets that offer's ports.
    Known(usize),
    /// Its offer is not remembered any more.
    Forgotten,
}

/// What became of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OfferState {
    /// It waits for its answer, and changes nothing yet.
    Offered,
    /// It is what the session goes by; one at a time.
    Current,
    /// Refused, given up, or agreed on before another one was.
    Replaced,
}

/// An offer and its answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Offer {
    number: Number,
    kind: MessageKind,
    pub offerer: Party,
    pub lines: Vec<MediaLine>,
    state: OfferState,
    /// Where the offerer is: tells two branches' offers in replies to one request apart.
    place: MediaAddresses,
    /// The request that brought the answer, where the offer came in a reply.
    #[serde(default, skip_serializing_if = "is_usual")]
    answered_by: Option<Number>,
    /// Each with another place; the latest last.
    #[serde(default, skip_serializing_if = "is_usual")]
    answers: Vec<Answer>,
}

/// What one branch has answered to an offer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Answer {
    #[serde(default, skip_serializing_if = "is_usual")]
    source: Option<IpAddr>,
    media: Vec<MediaDescription>,
}

impl Answer {
    /// Returns true if an SDP has this one's addresses and ports.
    fn is_at(&self, media: &[MediaDescription]) -> bool {
        media_addresses(&self.media).eq(media_addresses(media))
    }
}

/// The address and port of each line of an SDP.
fn media_addresses(media: &[MediaDescription]) -> impl Iterator<Item = (&MediaAddress, u16)> {
    media.iter().map(|line| (&line.address, line.port))
}

/// One media line of an offer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct MediaLine {
    #[serde(rename = "type")]
    pub media_type: MediaType,
    /// None where the line had port 0.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub stream: Option<usize>,
    /// What stands for such a line in the statistics.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub off: Option<usize>,
    /// What the offerer said; it holds once the offer is answered.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub said: Said,
    /// Where the offerer is, for a kept stream that was not told so far; holds likewise.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub described: Option<Described>,
}

/// The addresses and ports of an SDP's lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct MediaAddresses(Vec<(MediaAddress, u16)>);

impl MediaAddresses {
    fn of(media: &[MediaDescription]) -> MediaAddresses {
        let lines = media_addresses(media).map(|(address, port)| (address.clone(), port));
        MediaAddresses(lines.collect())
    }
}

/// See the module.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Offers {
    /// By the time they came, the latest last.
    kept: VecDeque<Offer>,
    /// The highest number of each party that came with an SDP.
    highest: PerParty<Option<Number>>,
    /// The INVITE that opens the session. A caller who is challenged or sent elsewhere sends another one.
    #[serde(skip_serializing_if = "is_usual")]
    opening: Option<Number>,
    /// The callee's tag of the first final answer to it: from then on other branches change nothing.
    #[serde(with = "exact", skip_serializing_if = "is_usual")]
    established: Option<Tag>,
}

impl Offers {
    /// Names the request that a message is or answers. A 1xx reply has no tag; within the call it is of its dialog.
    pub(super) fn number(&self, party: Party, cseq: CSeq, tag: Option<&Tag>) -> Number {
        let untold = Number {
            party,
            cseq,
            tag: None,
        };
        let is_opening = self.opens(&untold);
        let established = self.established.as_ref().filter(|_| !is_opening);
        Number {
            tag: tag.or(established).cloned(),
            ..untold
        }
    }

    /// Takes note of a message of the session, with SDP or without: the first one opens it, and so does each INVITE of
    /// the caller that is not within a dialog.
    pub(super) fn note_opening(&mut self, kind: MessageKind, number: &Number) {
        let is_initial = kind == MessageKind::Request
            && number.party == Party::Caller
            && number.tag.is_none()
            && self.established.is_none()
            && self.opening.as_ref().is_none_or(|o| o.cseq < number.cseq);
        if self.opening.is_none() || is_initial {
            self.opening = Some(number.clone());
        }
    }

    /// Returns true if this message is the first final answer (C5): a reply with a To tag to the INVITE that opens the
    /// session. 1xx replies come without one.
    pub(super) fn is_final(&self, kind: MessageKind, number: &Number) -> bool {
        self.established.is_none() && self.answers_opening(kind, number) && number.tag.is_some()
    }

    /// The callee's tag of the first final answer.
    pub(super) fn established(&self) -> Option<&Tag> {
        self.established.as_ref()
    }

    /// Returns true if a callee's tag is that of the session's dialog, as far as that is known.
    pub(super) fn is_of_dialog(&self, tag: &Tag) -> bool {
        let opening = self.opening.as_ref().and_then(|o| o.tag.as_ref());
        self.established.as_ref().or(opening) == Some(tag)
    }

    /// The first final answer: its dialog is the session's, and what other branches offer is given up. `media` is the
    /// SDP that it came with: an offer, where the INVITE had none.
    pub(super) fn establish(&mut self, tag: &Tag, media: Option<&[MediaDescription]>) {
        let established = self.established.get_or_insert_with(|| tag.clone());
        let place = media.map(MediaAddresses::of);
        for offer in &mut self.kept {
            let is_foreign = match &offer.number.tag {
                Some(tag) => tag != established,
                // In a 1xx reply, which tells no branch.
                None => offer.kind == MessageKind::Reply && place.as_ref() != Some(&offer.place),
            };
            if is_foreign && offer.state == OfferState::Offered {
                offer.state = OfferState::Replaced;
            }
        }
    }

    /// Returns true if a message is of another branch than the one that answered finally.
    pub(super) fn is_foreign(&self, tag: Option<&Tag>) -> bool {
        let established = self.established.as_ref();
        established.is_some_and(|established| tag.is_some_and(|tag| tag != established))
    }

    /// What an SDP is: the table above.
    pub(super) fn meaning(&self, message: &Message<'_>) -> Meaning {
        if self.is_late(message) {
            return self.ports_of(&message.number);
        }
        let meaning = match message.kind {
            MessageKind::Request => self.of_request(message),
            MessageKind::Reply => self.of_reply(message),
        };
        match meaning {
            Meaning::Offer if self.is_old(&message.number) => Meaning::Forgotten,
            meaning => meaning,
        }
    }

    /// A message of a branch that lost, or a 1xx reply that comes after the final one.
    fn is_late(&self, message: &Message<'_>) -> bool {
        let is_provisional = message.number.tag.is_none()
            && self.established.is_some()
            && self.answers_opening(message.kind, &message.number);
        is_provisional || self.is_foreign(message.number.tag.as_ref())
    }

    /// The offer whose ports a message gets that changes nothing: its own, else the one agreed on, else the latest.
    fn ports_of(&self, number: &Number) -> Meaning {
        let is_it =
            |offer: &Offer| offer.number.party == number.party && offer.number.cseq == number.cseq;
        let own = self.kept.iter().rposition(is_it);
        own.or_else(|| self.current_index())
            .or_else(|| self.kept.len().checked_sub(1))
            .map_or(Meaning::Forgotten, Meaning::Known)
    }

    fn of_request(&self, message: &Message<'_>) -> Meaning {
        let number = &message.number;
        if let Some(index) = self.find(|o| o.is_of(MessageKind::Request, number)) {
            return Meaning::Known(index);
        }
        let brought = |o: &Offer| o.answered_by.as_ref().is_some_and(|by| by.fits(number));
        if let Some(index) = self.find(brought) {
            return self.if_current(index);
        }
        // Who owes an answer sends no offer before it (RFC 3264 section 4).
        let owed = |o: &Offer| {
            o.kind == MessageKind::Reply
                && o.state == OfferState::Offered
                && o.number.party == message.sender
                && o.number.is_in_dialog_of(number)
                && o.number.cseq <= number.cseq
        };
        self.find(owed).map_or(Meaning::Offer, Meaning::Answer)
    }

    fn of_reply(&self, message: &Message<'_>) -> Meaning {
        let number = &message.number;
        if let Some(index) = self.find(|o| o.is_of(MessageKind::Request, number)) {
            return self.answer_to(index, message);
        }
        // The request was taken for the answer to an offer, and was one itself: its answer says where its sender is.
        let brought = |o: &Offer| o.answered_by.as_ref().is_some_and(|by| by.fits(number));
        let same = |o: &Offer| o.is_of(MessageKind::Reply, number);
        if self.find(same).is_none() {
            if let Some(index) = self.find(brought) {
                return self.if_current(index);
            }
            return Meaning::Offer;
        }
        let place = MediaAddresses::of(message.media);
        let again = self.find(|o| same(o) && o.place == place);
        match again {
            // The branch that answers finally offered before another one did.
            Some(index) if self.kept[index].state == OfferState::Replaced => {
                if self.is_final(message.kind, number) {
                    Meaning::Offer
                } else {
                    Meaning::Known(index)
                }
            }
            Some(index) => Meaning::Known(index),
            None => Meaning::Offer,
        }
    }

    /// A reply to a request that carried an offer.
    fn answer_to(&self, index: usize, message: &Message<'_>) -> Meaning {
        let offer = &self.kept[index];
        let is_final = self.is_final(message.kind, &message.number);
        match offer.state {
            OfferState::Offered => Meaning::Answer(index),
            OfferState::Current if is_final => Meaning::Answer(index),
            OfferState::Current => {
                // A branch's 183 once more, after another branch's.
                let mut before = offer.answers.iter().rev().skip(1);
                if message.number.tag.is_none() && before.any(|a| a.is_at(message.media)) {
                    Meaning::Known(index)
                } else {
                    Meaning::Answer(index)
                }
            }
            // One branch has agreed on a later offer (UPDATE), and another one answers.
            OfferState::Replaced if is_final && !self.is_current_with(&message.number) => {
                Meaning::Answer(index)
            }
            OfferState::Replaced => Meaning::Known(index),
        }
    }

    fn is_current_with(&self, number: &Number) -> bool {
        let agreed = self.current_index().map(|index| &self.kept[index].number);
        agreed.is_none_or(|agreed| agreed.is_in_dialog_of(number))
    }

    fn if_current(&self, index: usize) -> Meaning {
        match self.kept[index].state {
            OfferState::Current => Meaning::Answer(index),
            OfferState::Offered | OfferState::Replaced => Meaning::Known(index),
        }
    }

    /// The latest offer that is meant.
    fn find(&self, is_it: impl Fn(&Offer) -> bool) -> Option<usize> {
        self.kept.iter().rposition(is_it)
    }

    /// Returns true if a number may be that of the INVITE that opens the session.
    fn opens(&self, number: &Number) -> bool {
        let opening = self.opening.as_ref();
        opening.is_some_and(|opening| opening.fits(number))
    }

    fn answers_opening(&self, kind: MessageKind, number: &Number) -> bool {
        kind == MessageKind::Reply && self.opens(number)
    }

    fn is_old(&self, number: &Number) -> bool {
        let highest = self.highest[number.party].as_ref();
        highest.is_some_and(|highest| {
            highest.is_in_dialog_of(number)
                && number.cseq <= highest.cseq
                // Another SDP in the reply to a request that had none: another branch's offer.
                && self.find(|o| o.is_of(MessageKind::Reply, number)).is_none()
        })
    }

    /// An offer that was not known. It waits for its answer; what its sender offered before with another number is
    /// given up: a party has one offer at a time, so that one was refused.
    pub(super) fn propose(&mut self, message: &Message<'_>, lines: Vec<MediaLine>) -> usize {
        let opening = self.opening.as_ref();
        let is_opening = |number: &Number| opening.is_some_and(|o| o.fits(number));
        for offer in &mut self.kept {
            let is_refused = offer.state == OfferState::Offered
                && offer.offerer == message.sender
                && !offer.number.fits(&message.number)
                // An INVITE may still be answered by another branch.
                && (!is_opening(&offer.number) || is_opening(&message.number));
            if is_refused {
                offer.state = OfferState::Replaced;
            }
        }
        self.raise(&message.number);
        self.kept.push_back(Offer {
            number: message.number.clone(),
            kind: message.kind,
            offerer: message.sender,
            lines,
            state: OfferState::Offered,
            place: MediaAddresses::of(message.media),
            answered_by: None,
            answers: Vec::new(),
        });
        if self.kept.len() > OFFERS_KEPT {
            self.forget_one();
        }
        self.kept.len() - 1
    }

    /// Makes room: the oldest that is over, else the oldest that waits and is not the opening one.
    fn forget_one(&mut self) {
        let is_over = |o: &Offer| o.state == OfferState::Replaced && !self.is_kept_for_branches(o);
        let waits = |o: &Offer| o.state == OfferState::Offered && !self.is_kept_for_branches(o);
        let oldest = self.kept.iter().position(is_over);
        if let Some(index) = oldest.or_else(|| self.kept.iter().position(waits)) {
            self.kept.remove(index);
        }
    }

    /// The opening offer, as long as any branch may answer it.
    fn is_kept_for_branches(&self, offer: &Offer) -> bool {
        self.established.is_none() && self.opens(&offer.number)
    }

    /// An answer was taken: its offer is what counts, and those before it are given up. One that came later still waits:
    /// its sender may have sent it after this answer, which it has overtaken. The answer to what is agreed on already,
    /// once more, gives up nothing.
    pub(super) fn agree(&mut self, index: usize, message: &Message<'_>) {
        if self.kept[index].state != OfferState::Current {
            for (other, offer) in self.kept.iter_mut().enumerate() {
                if other < index || offer.state == OfferState::Current {
                    offer.state = OfferState::Replaced;
                }
            }
        }
        self.raise(&message.number);
        let offer = &mut self.kept[index];
        offer.state = OfferState::Current;
        if message.kind == MessageKind::Request {
            offer.answered_by = Some(message.number.clone());
        }
        offer.answers.retain(|answer| !answer.is_at(message.media));
        offer.note_answer(message);
    }

    /// A reply to the opening offer that changes nothing now, because another branch has agreed on a later one: its branch
    /// may yet answer finally.
    pub(super) fn note_early_answer(&mut self, index: usize, message: &Message<'_>) {
        let is_early = self.answers_opening(message.kind, &message.number)
            && message.number.tag.is_none()
            && self.established.is_none();
        let offer = &mut self.kept[index];
        if is_early && offer.kind == MessageKind::Request {
            offer.note_answer(message);
        }
    }

    /// The answer that a branch gave to the opening offer in an earlier reply, where its final reply has no SDP (RFC 3262
    /// section 5) and another branch has answered since: the last one whose SIP came from the same address, as a 1xx reply
    /// has no tag. None where what is agreed on is that branch's already. The index is that of the offer.
    pub(super) fn early_answer(
        &self,
        number: &Number,
        source: Option<IpAddr>,
    ) -> Option<(usize, &[MediaDescription])> {
        let agreed = &self.kept[self.current_index()?];
        let is_in_dialog = agreed.number.tag.is_some() || agreed.number.party == Party::Callee;
        if is_in_dialog && agreed.number.is_in_dialog_of(number) {
            return None;
        }
        let index = self.find(|o| o.is_of(MessageKind::Request, number))?;
        let offer = &self.kept[index];
        let own = offer.answers.iter().rposition(|a| a.source == source)?;
        let is_latest = own + 1 == offer.answers.len() && offer.state == OfferState::Current;
        (!is_latest).then(|| (index, &offer.answers[own].media[..]))
    }

    /// Returns true if an offer that waits for its answer would go on with a stream.
    pub(super) fn proposes(&self, stream: usize) -> bool {
        self.goes_on(stream, |o| o.state == OfferState::Offered)
    }

    fn raise(&mut self, number: &Number) {
        let highest = &mut self.highest[number.party];
        let is_higher =
            |before: &Number| !before.is_in_dialog_of(number) || before.cseq < number.cseq;
        if highest.as_ref().is_none_or(is_higher) {
            *highest = Some(number.clone());
        }
    }

    pub(super) fn get(&self, index: usize) -> &Offer {
        &self.kept[index]
    }

    /// Returns true if an offer is that of the INVITE that opens the session: each branch answers it by itself.
    pub(super) fn is_opening(&self, index: usize) -> bool {
        self.opens(&self.kept[index].number)
    }

    fn current_index(&self) -> Option<usize> {
        self.kept
            .iter()
            .position(|o| o.state == OfferState::Current)
    }

    /// The media lines that are agreed on; none before the first answer.
    pub(super) fn current(&self) -> &[MediaLine] {
        self.current_index()
            .map_or(&[], |index| &self.kept[index].lines)
    }

    /// The media lines of the latest offer.
    pub(super) fn latest(&self) -> &[MediaLine] {
        self.kept.back().map_or(&[], |offer| &offer.lines)
    }

    /// Returns true if a stream belongs to what is agreed on or to what may still be.
    pub(super) fn uses(&self, stream: usize) -> bool {
        self.goes_on(stream, |o| {
            o.state != OfferState::Replaced || self.is_kept_for_branches(o)
        })
    }

    /// The places of all streams that an offer names.
    pub(super) fn streams(&self) -> impl Iterator<Item = usize> {
        let lines = self.kept.iter().flat_map(|offer| &offer.lines);
        lines.flat_map(|line| line.stream.into_iter().chain(line.off))
    }

    /// Returns true if one of these offers has a line with this stream.
    fn goes_on(&self, stream: usize, is_meant: impl Fn(&Offer) -> bool) -> bool {
        let offers = self.kept.iter().filter(|offer| is_meant(offer));
        let mut lines = offers.flat_map(|offer| &offer.lines);
        lines.any(|line| line.stream == Some(stream))
    }
}

impl Offer {
    /// Remembers an answer, unless it is known.
    fn note_answer(&mut self, message: &Message<'_>) {
        if self.answers.iter().any(|a| a.is_at(message.media)) {
            return;
        }
        if self.answers.len() == ANSWERS_KEPT {
            self.answers.remove(0);
        }
        self.answers.push(Answer {
            source: message.source,
            media: message.media.to_vec(),
        });
    }

    /// Returns true if the offer came in a request of this number, or in a reply to it.
    fn is_of(&self, kind: MessageKind, number: &Number) -> bool {
        self.kind == kind && self.number.fits(number)
    }
}

#[cfg(test)]
mod tests;
