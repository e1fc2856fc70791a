//! One session: its streams by offer and answer (RFC 3264) as the CSeq numbers tell them apart. Knows the
//! rules C1 to C9 of docs/protocol.md; binds through [`Host`] and leaves timers to the engine.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use log::{debug, info};

use super::stream::{Described, Path, Status, Stream};
use super::{Action, FlowId, Host, Owner, Place, SessionKey, Settings};
use crate::moment::Now;
use crate::proto::control::{MessageKind, Update};
use crate::proto::media::{Direction, MediaAddress, MediaDescription, MediaType};
use crate::proto::{CSeq, CallId, Component, Party, SessionId, Tag, Text, control::Remove};

/// Offers whose ports are still known when a late retransmission asks for them.
const OFFERS_KEPT: usize = 16;
/// Streams that one session may have had; each costs about half a kilobyte until the session ends.
const STREAMS_KEPT: usize = 1024;

/// A call through this relay.
#[derive(Debug)]
pub struct Session {
    pub key: SessionKey,
    pub id: SessionId,
    pub call_id: CallId,
    pub caller_tag: Tag,
    pub callee_tag: Option<Tag>,
    pub from_uri: Text,
    pub to_uri: Text,
    /// By party.
    pub user_agents: [Option<Text>; 2],
    pub username: Option<Text>,
    /// Who is told when the session ends by itself: the dispatcher that spoke of it last.
    pub owner: Owner,
    pub created: Duration,
    /// The first answer (C5).
    pub started: Option<Now>,
    /// A to_tag was seen.
    pub finally_answered: bool,
    /// The relay's addresses, by party.
    locals: [Ipv4Addr; 2],
    /// All there ever were, in the order in which they were proposed.
    pub streams: Vec<Stream>,
    /// The latest last.
    offers: VecDeque<Offer>,
    /// The m= lines of the last answered offer.
    agreed: Vec<Slot>,
}

/// An offer, and whether it has been answered.
#[derive(Debug)]
struct Offer {
    /// Whose request carried it or asked for it, and its number.
    number: (Party, CSeq),
    offerer: Party,
    slots: Vec<Slot>,
    answered: bool,
}

/// One m= line of an offer.
#[derive(Clone, Debug)]
struct Slot {
    media_type: MediaType,
    /// None where the line had port 0.
    stream: Option<usize>,
    /// What the offerer said; it holds once the offer is answered.
    said: Said,
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
            zero_address: is_zero(&media.address),
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

/// What a session needs of the engine while it handles a request.
pub struct Context<'a> {
    pub settings: &'a Settings,
    pub host: &'a mut dyn Host,
    pub actions: &'a mut VecDeque<Action>,
    pub now: Now,
}

/// Why a request could not be served; nothing of it was kept.
pub type Refusal = &'static str;

impl Session {
    /// A session for this update, without streams yet.
    pub fn new(
        update: &Update,
        key: SessionKey,
        owner: Owner,
        context: &mut Context<'_>,
    ) -> Session {
        Session {
            key,
            id: SessionId::from_random(context.host.random()),
            call_id: update.call_id.clone(),
            caller_tag: update.from_tag.clone(),
            callee_tag: None,
            from_uri: update.from_uri.clone(),
            to_uri: update.to_uri.clone(),
            user_agents: [None, None],
            username: update.signaling.username.clone(),
            owner,
            created: context.now.mono,
            started: None,
            finally_answered: false,
            locals: local_addresses(update, context.host),
            streams: Vec::new(),
            offers: VecDeque::new(),
            agreed: Vec::new(),
        }
    }

    /// Whether a request with these tags is about this session.
    pub fn has_tags(&self, from_tag: &Tag, to_tag: Option<&Tag>) -> bool {
        self.caller_tag == *from_tag || to_tag == Some(&self.caller_tag)
    }

    /// The same for a remove, which may come with the callee's tag alone.
    pub fn is_meant_by(&self, remove: &Remove) -> bool {
        self.has_tags(&remove.from_tag, remove.to_tag.as_ref())
            || self.callee_tag.as_ref() == Some(&remove.from_tag)
    }

    /// The relay's address on a party's side.
    pub fn local(&self, party: Party) -> Ipv4Addr {
        self.locals[party as usize]
    }

    /// Who sent the SDP (or would have): C1.
    pub fn sender(&self, update: &Update) -> Party {
        let from_caller = update.from_tag == self.caller_tag;
        let downstream = from_caller == (update.kind == MessageKind::Request);
        if downstream {
            Party::Caller
        } else {
            Party::Callee
        }
    }

    /// A SIP message passed the proxy. The ports that its SDP is to carry on, one for each m= line.
    pub fn update(
        &mut self,
        update: &Update,
        context: &mut Context<'_>,
    ) -> Result<Vec<u16>, Refusal> {
        let media = update.media.as_deref();
        if media.is_some_and(|list| list.iter().any(is_ipv6)) {
            return Err("IPv6 media is not relayed");
        }
        let sender = self.sender(update);
        let ports = match media {
            Some(media) => self.described(update, sender, media, context)?,
            None => Vec::new(),
        };
        self.note(update, sender, context);
        Ok(ports)
    }

    /// What every update tells, whatever it says of media.
    fn note(&mut self, update: &Update, sender: Party, context: &mut Context<'_>) {
        self.user_agents[sender as usize] = Some(update.user_agent.clone());
        if update.from_tag != self.caller_tag {
            self.callee_tag = Some(update.from_tag.clone());
        } else if update.to_tag.is_some() {
            self.callee_tag = update.to_tag.clone();
        }
        if update.kind == MessageKind::Reply && update.to_tag.is_some() && update.media.is_none() {
            self.started.get_or_insert(context.now);
        }
        if update.to_tag.is_some() && !self.finally_answered {
            self.finally_answered = true;
            let agreed = self.streams.iter_mut().filter(|s| s.answered.is_some());
            agreed.for_each(|stream| stream.watch_from(context.now.mono));
        }
        if self.finally_answered {
            self.settle_declined(context);
        }
    }

    fn described(
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
            None => {
                let newer = |offer: &Offer| offer.number.0 == party && offer.number.1 > cseq;
                if self.offers.iter().any(newer) {
                    Relation::Forgotten
                } else {
                    Relation::New
                }
            }
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

    /// C3: matches the lines to those last agreed on; what cannot be kept gets fresh ports.
    fn offer(
        &mut self,
        number: (Party, CSeq),
        offerer: Party,
        media: &[MediaDescription],
        context: &mut Context<'_>,
    ) -> Result<(), Refusal> {
        let first_fresh = self.streams.len();
        let mut slots = Vec::with_capacity(media.len());
        for (line, description) in media.iter().enumerate() {
            let stream = if description.port == 0 {
                None
            } else if let Some(kept) = self.kept(line, offerer, description) {
                Some(kept)
            } else {
                let proposed = self.propose(offerer, description, context);
                if proposed.is_err() {
                    self.take_back(first_fresh, context);
                }
                Some(proposed?)
            };
            slots.push(Slot {
                media_type: description.media_type.clone(),
                stream,
                said: Said::of(description),
            });
        }
        self.close_disabled(media, context);
        self.give_up_unanswered(first_fresh, &slots, context);
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

    /// The live stream that a line of a new offer goes on with.
    fn kept(&self, line: usize, offerer: Party, media: &MediaDescription) -> Option<usize> {
        let slot = self.agreed.get(line)?;
        let index = slot.stream?;
        let stream = &self.streams[index];
        let leg = stream.leg(offerer);
        let same_place = leg.is_same(media) || leg.described.is_none() || is_zero(&media.address);
        let same = stream.media_type == media.media_type && same_place;
        (same && stream.is_live() && !stream.declined).then_some(index)
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
            let address = self.locals[party as usize];
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
        describe(&mut stream, offerer, media);
        apply(&mut stream, offerer, Said::of(media));
        self.streams.push(stream);
        Ok(index)
    }

    /// An offer failed half way: its streams never were.
    fn take_back(&mut self, first: usize, context: &mut Context<'_>) {
        for index in first..self.streams.len() {
            self.end_stream(
                index,
                Status::Closed,
                Duration::ZERO,
                context.actions,
                context.now.mono,
            );
        }
        self.streams.truncate(first);
    }

    /// Port 0 in an offer closes what was there at once.
    fn close_disabled(&mut self, media: &[MediaDescription], context: &mut Context<'_>) {
        let disabled = |(line, slot): (usize, &Slot)| {
            let off = media.get(line).is_some_and(|m| m.port == 0);
            slot.stream.filter(|_| off)
        };
        let closed: Vec<usize> = self
            .agreed
            .iter()
            .enumerate()
            .filter_map(disabled)
            .collect();
        for index in closed {
            self.end_stream(
                index,
                Status::Closed,
                Duration::ZERO,
                context.actions,
                context.now.mono,
            );
        }
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
                self.end_stream(
                    index,
                    Status::Closed,
                    Duration::ZERO,
                    context.actions,
                    context.now.mono,
                );
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
        let mut pairs = offer.slots.iter().zip(media);
        if pairs.any(|(slot, answer)| slot.media_type != answer.media_type) {
            return Err("the answer's media types are not those of the offer");
        }
        let first = !std::mem::replace(&mut offer.answered, true);
        let (offerer, slots) = (offer.offerer, offer.slots.clone());
        for (line, slot) in slots.iter().enumerate() {
            let Some(index) = slot.stream else { continue };
            match media.get(line).filter(|answer| answer.port != 0) {
                Some(answer) => {
                    self.accept(index, (offerer, slot.said), (answerer, answer), context)
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
        (offerer, said): (Party, Said),
        (answerer, answer): (Party, &MediaDescription),
        context: &mut Context<'_>,
    ) {
        let now = context.now.mono;
        let stream = &mut self.streams[index];
        if !stream.is_live() {
            return;
        }
        let was_on_hold = stream.on_hold();
        stream.declined = false;
        apply(stream, offerer, said);
        let leg = stream.leg(answerer);
        let moved = leg.described.is_some() && !leg.is_same(answer) && !is_zero(&answer.address);
        describe(stream, answerer, answer);
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
            stream.move_party(answerer, now);
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

    /// Whether it is over is known with the final answer: until then another branch may take the stream.
    fn decline(&mut self, index: usize, now: Duration) {
        let stream = &mut self.streams[index];
        if stream.is_live() {
            stream.declined = true;
            stream.answered.get_or_insert(now);
        }
    }

    fn settle_declined(&mut self, context: &mut Context<'_>) {
        for index in 0..self.streams.len() {
            let stream = &self.streams[index];
            if stream.is_live() && stream.declined {
                let agreed_before = stream.legs.iter().all(|leg| leg.described.is_some());
                let status = if agreed_before {
                    Status::Closed
                } else {
                    Status::Rejected
                };
                self.end_stream(
                    index,
                    status,
                    Duration::ZERO,
                    context.actions,
                    context.now.mono,
                );
            }
        }
    }

    /// The answered offer is the one that counts; streams that it does not use are over.
    fn replace_agreed(&mut self, slots: Vec<Slot>, context: &mut Context<'_>) {
        let replaced = std::mem::replace(&mut self.agreed, slots);
        for index in replaced.iter().filter_map(|slot| slot.stream) {
            if !self.agreed.iter().any(|slot| slot.stream == Some(index)) {
                self.end_stream(
                    index,
                    Status::Closed,
                    Duration::ZERO,
                    context.actions,
                    context.now.mono,
                );
            }
        }
    }

    /// Ends a live stream and gives up its ports and kernel entries.
    pub fn end_stream(
        &mut self,
        index: usize,
        status: Status,
        waited: Duration,
        actions: &mut VecDeque<Action>,
        now: Duration,
    ) {
        let stream = &mut self.streams[index];
        if !stream.is_live() {
            return;
        }
        debug!(
            "[session {}] {} ends: {}",
            self.call_id,
            Line(stream, index),
            status.as_str()
        );
        withdraw(self.key, stream, index, actions);
        actions.extend(
            stream
                .legs
                .iter()
                .map(|leg| Action::Close { port: leg.port }),
        );
        stream.end(status, waited, now);
    }

    /// When something is to be looked at if nothing more happens.
    pub fn deadline(&self, settings: &Settings) -> Duration {
        let live = self.streams.iter().filter(|stream| stream.is_live());
        let deadlines =
            live.flat_map(|s| [Some(s.deadline(settings).1), s.rtcp_deadline(settings)]);
        deadlines
            .flatten()
            .min()
            .unwrap_or_else(|| self.empty_deadline(settings))
    }

    /// A session whose streams are all closed or rejected waits for the next offer or its end.
    fn empty_deadline(&self, settings: &Settings) -> Duration {
        let ends = self.streams.iter().filter_map(|stream| stream.ended);
        let since = ends.map(|(ended, _)| ended).max().unwrap_or(self.created);
        let limit = match self.finally_answered {
            true => settings.on_hold_timeout,
            false => settings.setup_timeout,
        };
        since + limit
    }

    /// Ends what has been silent too long. True when that was the session's last stream (M7).
    pub fn expire(
        &mut self,
        settings: &Settings,
        actions: &mut VecDeque<Action>,
        now: Duration,
    ) -> bool {
        if !self.has_live_stream() {
            return self.empty_deadline(settings) <= now;
        }
        for index in 0..self.streams.len() {
            let stream = &mut self.streams[index];
            if !stream.is_live() {
                continue;
            }
            let (limit, deadline) = stream.deadline(settings);
            if deadline <= now {
                let status = stream.silence_status();
                let line = Line(stream, index);
                info!(
                    "[session {}] {line}: {} after {} s",
                    self.call_id,
                    status.as_str(),
                    limit.as_secs()
                );
                self.end_stream(index, status, limit, actions, now);
            } else if stream.rtcp_deadline(settings).is_some_and(|due| due <= now) {
                stream.forget_rtcp();
                withdraw_component(self.key, stream, (index, Component::Rtcp), actions);
            }
        }
        !self.has_live_stream()
    }

    pub fn has_live_stream(&self) -> bool {
        self.streams.iter().any(Stream::is_live)
    }

    /// Since the first answer; zero before it.
    pub fn duration(&self, now: Duration) -> Duration {
        let started = self.started.map_or(now, |start| start.mono);
        now.saturating_sub(started)
    }
}

/// A stream in a log line: its place among the session's streams and its type.
pub struct Line<'a>(pub &'a Stream, pub usize);

impl std::fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "stream {} ({})", self.1 + 1, self.0.media_type)
    }
}

/// Sends the STUN that waited for a party, once it can be reached.
pub fn send_waiting(
    stream: &mut Stream,
    party: Party,
    settings: &Settings,
    actions: &mut VecDeque<Action>,
) {
    for component in [Component::Rtp, Component::Rtcp] {
        if let Some((to, packets)) = stream.take_waiting(party, component, settings) {
            let from_port = stream.leg(party).port_of(component);
            let send = |data| Action::Send {
                from_port,
                to,
                data,
            };
            actions.extend(packets.into_iter().map(send));
        }
    }
}

fn withdraw(key: SessionKey, stream: &mut Stream, index: usize, actions: &mut VecDeque<Action>) {
    for component in [Component::Rtp, Component::Rtcp] {
        withdraw_component(key, stream, (index, component), actions);
    }
}

fn withdraw_component(
    key: SessionKey,
    stream: &mut Stream,
    (index, component): (usize, Component),
    actions: &mut VecDeque<Action>,
) {
    let path = std::mem::replace(&mut stream.paths[component as usize], Path::UserSpace);
    if matches!(path, Path::Installing | Path::Kernel) {
        actions.push_back(Action::Withdraw(FlowId {
            session: key,
            stream: index as u16,
            component,
        }));
    }
}

fn apply(stream: &mut Stream, party: Party, said: Said) {
    let leg = stream.leg_mut(party);
    leg.direction = said.direction;
    leg.zero_address = said.zero_address;
    leg.ice = said.ice;
}

/// Takes the address of an SDP; 0.0.0.0 is a hold and says nothing of where the party is.
fn describe(stream: &mut Stream, party: Party, media: &MediaDescription) {
    if !is_zero(&media.address) {
        stream.leg_mut(party).described = Some(Described {
            address: media.address.clone(),
            port: media.port,
        });
    }
}

fn is_zero(address: &MediaAddress) -> bool {
    *address == MediaAddress::Ip(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

fn is_ipv6(media: &MediaDescription) -> bool {
    matches!(media.address, MediaAddress::Ip(IpAddr::V6(_)))
}

/// The relay's address for each party, from where this message came from and goes to.
fn local_addresses(update: &Update, host: &mut dyn Host) -> [Ipv4Addr; 2] {
    let ipv4 = |ip: Option<IpAddr>| match ip {
        Some(IpAddr::V4(ip)) => Some(ip),
        _ => None,
    };
    let source = host.local_address(ipv4(update.signaling.source));
    let destination = match ipv4(update.signaling.destination) {
        Some(ip) => host.local_address(Some(ip)),
        None => source,
    };
    match update.kind {
        MessageKind::Request => [source, destination],
        MessageKind::Reply => [destination, source],
    }
}
