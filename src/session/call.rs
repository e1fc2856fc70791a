//! One session: who it is between, what an update says of it beyond media, when it has been silent too long.
//! What an SDP means is in `offers`, what is done about it in `negotiation`; timers and reports are the engine's.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use log::{debug, info};

use super::offers::{Message, Number, Offers};
use super::stream::{Limit, Status, Stream};
use super::{Action, FlowId, Host, Owner, SessionKey, Settings, Withdrawal};
use crate::moment::Now;
use crate::proto::control::{MessageKind, Update};
use crate::proto::media::{MediaAddress, MediaDescription};
use crate::proto::{CallId, Component, DialogId, Party, SessionId, Tag, Text, control::Remove};

/// A call through this relay.
#[derive(Debug)]
pub struct Session {
    pub key: SessionKey,
    pub id: SessionId,
    pub call_id: CallId,
    pub caller_tag: Tag,
    pub from_uri: Text,
    pub to_uri: Text,
    /// By party.
    pub user_agents: [Option<Text>; 2],
    pub username: Option<Text>,
    /// Where its first message came from, as the SIP proxy says.
    pub signaling: Option<IpAddr>,
    /// The SIP proxy's, for the dispatcher that is told of the session's end: it may not know any more.
    pub dialog_id: Option<DialogId>,
    /// Who is told when the session ends by itself: the dispatcher that spoke of it last.
    pub owner: Owner,
    pub created: Duration,
    /// The first answer (C5).
    pub started: Option<Now>,
    /// The relay's addresses, by party.
    locals: [Ipv4Addr; 2],
    /// All there ever were, in the order in which they were proposed.
    pub streams: Vec<Stream>,
    pub(super) offers: Offers,
    /// Where each party's SIP came from, the latest first.
    signaling_of: [[Option<Ipv4Addr>; 2]; 2],
    /// The log has a line of a stranger at its ports.
    pub(super) stranger_told: bool,
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
            id: update
                .session_id
                .unwrap_or_else(|| SessionId::from_random(context.host.random())),
            call_id: update.call_id.clone(),
            caller_tag: update.from_tag.clone(),
            from_uri: update.from_uri.clone(),
            to_uri: update.to_uri.clone(),
            user_agents: [None, None],
            username: update.signaling.username.clone(),
            signaling: update.signaling.source,
            dialog_id: None,
            owner,
            created: context.now.mono.since_start(),
            started: None,
            locals: local_addresses(update, context.host),
            streams: Vec::new(),
            offers: Offers::default(),
            signaling_of: [[None; 2]; 2],
            stranger_told: false,
        }
    }

    /// Returns true if a message with these tags is about this session. A 1xx reply to the callee's request has the
    /// callee's alone.
    pub fn has_tags(&self, from_tag: &Tag, to_tag: Option<&Tag>) -> bool {
        self.caller_tag == *from_tag
            || match to_tag {
                Some(to_tag) => *to_tag == self.caller_tag,
                None => self.offers.is_of_dialog(from_tag),
            }
    }

    /// The same for a remove. One with the tag of a branch that did not get the call is of that branch's end, which is no
    /// matter of the session's.
    pub fn is_meant_by(&self, remove: &Remove) -> bool {
        let tag = self.callee_of(&remove.from_tag, remove.to_tag.as_ref());
        self.has_tags(&remove.from_tag, remove.to_tag.as_ref()) && !self.offers.is_foreign(tag)
    }

    /// The tag of the callee who has the call; none before the final answer.
    pub fn callee_tag(&self) -> Option<&Tag> {
        self.offers.established()
    }

    /// The callee has finally answered (C5).
    pub fn is_finally_answered(&self) -> bool {
        self.callee_tag().is_some()
    }

    /// A BYE tells the tag of a call whose final answer was missed.
    pub fn note_remove(&mut self, remove: &Remove) {
        let tag = self.callee_of(&remove.from_tag, remove.to_tag.as_ref());
        if let Some(tag) = tag.cloned() {
            self.offers.establish(&tag, None);
        }
    }

    /// Of a message's two tags, the callee's.
    fn callee_of<'a>(&self, from_tag: &'a Tag, to_tag: Option<&'a Tag>) -> Option<&'a Tag> {
        match self.caller_tag == *from_tag {
            true => to_tag,
            false => Some(from_tag),
        }
    }

    /// The request that an update is or answers (C2).
    fn number(&self, update: &Update) -> Number {
        let from_caller = update.from_tag == self.caller_tag;
        let tag = self.callee_of(&update.from_tag, update.to_tag.as_ref());
        self.offers.number(
            match from_caller {
                true => Party::Caller,
                false => Party::Callee,
            },
            update.cseq,
            tag,
        )
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
        let (sender, number) = (self.sender(update), self.number(update));
        let is_foreign = self.offers.is_foreign(number.tag.as_ref());
        if !is_foreign {
            self.offers.note_opening(update.kind, &number);
        }
        let ports = match media {
            Some(media) => {
                let message = Message {
                    kind: update.kind,
                    number: number.clone(),
                    sender,
                    source: update.signaling.source,
                    media,
                };
                self.described(&message, context)?
            }
            None => {
                self.answered_early(update, &number, context)?;
                Vec::new()
            }
        };
        match (is_foreign, &number.tag) {
            (true, Some(tag)) => debug!(
                "[session {}] an update of another branch (tag {}) gets ports and changes nothing",
                self.call_id, tag.0
            ),
            _ => {
                self.note(update, &number, sender, context);
                self.note_whereabouts(update, sender, context.settings);
            }
        }
        Ok(ports)
    }

    /// A final answer without SDP is that of the branch which gave its SDP before (C4).
    fn answered_early(
        &mut self,
        update: &Update,
        number: &Number,
        context: &mut Context<'_>,
    ) -> Result<(), Refusal> {
        let source = update.signaling.source;
        if !self.offers.is_final(update.kind, number) {
            return Ok(());
        }
        let Some((index, media)) = self.offers.early_answer(number, source) else {
            return Ok(());
        };
        let media = media.to_vec();
        let message = Message {
            kind: update.kind,
            number: number.clone(),
            sender: self.sender(update),
            source,
            media: &media,
        };
        self.answer(index, &message, context)
    }

    /// Where the parties' SIP comes from and what their SDP names, for who is to know a party by that (E1). An address of
    /// the relay itself says nothing: a proxy on its host, or a call that passes it twice.
    fn note_whereabouts(&mut self, update: &Update, sender: Party, settings: &Settings) {
        let signaling = &update.signaling;
        let halves = [
            (sender, signaling.source),
            (sender.other(), signaling.destination),
        ];
        for (party, address) in halves {
            let Some(IpAddr::V4(address)) = address else {
                continue;
            };
            let is_own = self.locals.contains(&address) || settings.advertised_ip == Some(address);
            let known = &mut self.signaling_of[party as usize];
            if !is_own && !address.is_loopback() && known[0] != Some(address) {
                *known = [Some(address), known[0]];
            }
        }
        for stream in self.streams.iter_mut().filter(|stream| stream.is_live()) {
            for party in [Party::Caller, Party::Callee] {
                let leg = stream.leg_mut(party);
                leg.signaling = self.signaling_of[party as usize];
                leg.note_sdp();
            }
        }
    }

    /// What every update tells, whatever it says of media.
    fn note(&mut self, update: &Update, number: &Number, sender: Party, context: &mut Context<'_>) {
        self.user_agents[sender as usize] = Some(update.user_agent.clone());
        if update.dialog_id.is_some() {
            self.dialog_id.clone_from(&update.dialog_id);
        }
        let Some(tag) = &number.tag else { return };
        if self.offers.is_final(update.kind, number) {
            self.started.get_or_insert(context.now);
            self.offers.establish(tag, update.media.as_deref());
            let agreed = self.streams.iter_mut().filter(|s| s.answered.is_some());
            agreed.for_each(|stream| stream.watch_from(context.now.mono.since_start()));
            self.close_unused(context);
            self.settle_declined(context);
        } else if self.is_finally_answered() {
            self.settle_declined(context);
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
        let deadlines = live.flat_map(|stream| {
            let proposal = self.is_proposal(stream);
            let setup = proposal.then(|| stream.setup_limit(settings).at);
            [setup, stream.rtcp_deadline(settings)]
        });
        let silence = self.silence_deadline(settings);
        let first = deadlines.chain([silence]).flatten().min();
        first.unwrap_or_else(|| self.empty_deadline(settings))
    }

    /// What ends a live stream. A session is silent when all its streams are, each for its own limit (M7), so the last
    /// of these ends all; a proposal ends alone.
    pub fn limit(&self, stream: &Stream, settings: &Settings) -> Limit {
        if self.is_proposal(stream) {
            return stream.setup_limit(settings);
        }
        let own = stream.silence(settings, !self.is_finally_answered());
        Limit {
            at: self.silence_deadline(settings).unwrap_or(own.at),
            ..own
        }
    }

    /// When the session has been silent for too long; none while nothing is agreed on that could be heard.
    fn silence_deadline(&self, settings: &Settings) -> Option<Duration> {
        let is_ringing = !self.is_finally_answered();
        let counted = self.streams.iter().filter(|stream| self.counts(stream));
        counted
            .map(|stream| stream.silence(settings, is_ringing).at)
            .max()
    }

    /// Returns true if a stream's silence is the session's.
    fn counts(&self, stream: &Stream) -> bool {
        stream.is_live() && !self.is_proposal(stream)
    }

    /// Returns true if a stream waits for its answer in a call that has other streams.
    fn is_proposal(&self, stream: &Stream) -> bool {
        stream.answered.is_none() && !self.offers.agreed().is_empty()
    }

    /// A session whose streams are all closed or rejected waits for the next offer or its end.
    fn empty_deadline(&self, settings: &Settings) -> Duration {
        let ends = self.streams.iter().filter_map(|stream| stream.ended);
        let since = ends.map(|(ended, _)| ended).max().unwrap_or(self.created);
        let limit = match self.is_finally_answered() {
            true => settings.on_hold_timeout,
            false => settings.setup_timeout,
        };
        since + limit
    }

    /// Gives up what nobody answered, and ends the streams when all of them have been silent too long: true then, or
    /// when the session has waited too long for another stream (M7). What the kernel relayed is known as of `heard`:
    /// what it has is not called silent before a later reading says so.
    pub fn expire(
        &mut self,
        settings: &Settings,
        heard: Duration,
        actions: &mut VecDeque<Action>,
        now: Duration,
    ) -> bool {
        if !self.has_live_stream() {
            return self.empty_deadline(settings) <= now;
        }
        for index in 0..self.streams.len() {
            let stream = &self.streams[index];
            let is_due = stream.setup_limit(settings).at <= now;
            if stream.is_live() && is_due && self.is_proposal(stream) {
                self.end_stream(index, Status::Closed, Duration::ZERO, actions, now);
            }
            let stream = &mut self.streams[index];
            if stream.is_live() && stream.rtcp_deadline(settings).is_some_and(|due| due <= now) {
                stream.forget_rtcp();
                withdraw_component(self.key, stream, (index, Component::Rtcp), actions);
            }
        }
        let due = self
            .silence_deadline(settings)
            .filter(|&deadline| deadline <= now);
        let is_known = |deadline: &Duration| {
            heard >= *deadline || !self.streams.iter().any(Stream::is_in_kernel)
        };
        if due.filter(is_known).is_none() {
            return false;
        }
        let is_ringing = !self.is_finally_answered();
        for index in 0..self.streams.len() {
            let stream = &self.streams[index];
            if !self.counts(stream) {
                continue;
            }
            let limit = stream.silence(settings, is_ringing).limit;
            let status = stream.silence_status();
            let line = Line(stream, index);
            info!(
                "[session {}] {line}: {} after {} s",
                self.call_id,
                status.as_str(),
                limit.as_secs()
            );
            self.end_stream(index, status, limit, actions, now);
        }
        true
    }

    pub fn has_live_stream(&self) -> bool {
        self.streams.iter().any(Stream::is_live)
    }

    /// When a stream was answered, which is when the statistics begin to list it. An answer without any SDP, before
    /// which no other came, answers all: MediaProxy's dispatcher takes the relay's address from the first stream of each
    /// call that has started, and must find one.
    pub fn listed_since(&self, stream: &Stream) -> Option<Duration> {
        let is_untold = || self.streams.iter().all(|stream| stream.answered.is_none());
        let of_session = || {
            self.started
                .filter(|_| is_untold())
                .map(|start| start.mono.since_start())
        };
        stream.answered.or_else(of_session)
    }

    /// Whether the kernel still has flows that are to be withdrawn.
    pub fn is_withdrawing(&self) -> bool {
        self.streams.iter().any(|stream| stream.withdrawing > 0)
    }

    /// Since the first answer; zero before it.
    pub fn duration(&self, now: Duration) -> Duration {
        let started = self.started.map_or(now, |start| start.mono.since_start());
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

pub fn withdraw(
    key: SessionKey,
    stream: &mut Stream,
    index: usize,
    actions: &mut VecDeque<Action>,
) {
    for component in [Component::Rtp, Component::Rtcp] {
        withdraw_component(key, stream, (index, component), actions);
    }
}

pub fn withdraw_component(
    key: SessionKey,
    stream: &mut Stream,
    (index, component): (usize, Component),
    actions: &mut VecDeque<Action>,
) {
    let handover = &mut stream.handovers[component as usize];
    if handover.take_back() {
        let flow = FlowId {
            session: key,
            stream: index as u16,
            component,
            turn: handover.turn,
        };
        stream.withdrawing += 1;
        actions.push_back(Action::Withdraw(flow, Withdrawal::Over));
    }
}

fn is_ipv6(media: &MediaDescription) -> bool {
    media.port != 0 && matches!(media.address, MediaAddress::Ip(IpAddr::V6(_)))
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
