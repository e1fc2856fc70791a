//! One session: who it is between, what an update says of it beyond media, when it has been silent too long.
//! Its offers and answers are in `negotiation`; timers and reports are the engine's.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use log::{debug, info};

use super::negotiation::{Offer, Slot};
use super::stream::{Status, Stream};
use super::{Action, FlowId, Host, Owner, SessionKey, Settings, Withdrawal};
use crate::moment::Now;
use crate::proto::control::{MessageKind, Update};
use crate::proto::media::{MediaAddress, MediaDescription};
use crate::proto::{
    CSeq, CallId, Component, DialogId, Party, SessionId, Tag, Text, control::Remove,
};

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
    /// Where its first message came from, as the SIP proxy says.
    pub signaling: Option<IpAddr>,
    /// The SIP proxy's, for the dispatcher that is told of the session's end: it may not know any more.
    pub dialog_id: Option<DialogId>,
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
    /// The highest CSeq of each party that came with an offer.
    pub(super) last_offers: [Option<CSeq>; 2],
    /// The latest last.
    pub(super) offers: VecDeque<Offer>,
    /// The m= lines of the last answered offer.
    pub(super) agreed: Vec<Slot>,
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
            callee_tag: None,
            from_uri: update.from_uri.clone(),
            to_uri: update.to_uri.clone(),
            user_agents: [None, None],
            username: update.signaling.username.clone(),
            signaling: update.signaling.source,
            dialog_id: None,
            owner,
            created: context.now.mono,
            started: None,
            finally_answered: false,
            locals: local_addresses(update, context.host),
            streams: Vec::new(),
            last_offers: [None, None],
            offers: VecDeque::new(),
            agreed: Vec::new(),
            signaling_of: [[None; 2]; 2],
            stranger_told: false,
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
        self.note_whereabouts(update, sender, context.settings);
        Ok(ports)
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
    fn note(&mut self, update: &Update, sender: Party, context: &mut Context<'_>) {
        self.user_agents[sender as usize] = Some(update.user_agent.clone());
        if update.dialog_id.is_some() {
            self.dialog_id.clone_from(&update.dialog_id);
        }
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

    /// Ends what has been silent too long. True when that was the session's last stream (M7). What the kernel relayed
    /// is known as of `heard`: what it has is not called silent before a later reading says so.
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
            let stream = &mut self.streams[index];
            if !stream.is_live() {
                continue;
            }
            let (limit, deadline) = stream.deadline(settings);
            if deadline <= now && heard < deadline && stream.is_in_kernel() {
                continue;
            }
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

    /// When a stream was answered, which is when the statistics begin to list it. An answer without any SDP, before
    /// which no other came, answers all: MediaProxy's dispatcher takes the relay's address from the first stream of each
    /// call that has started, and must find one.
    pub fn listed_since(&self, stream: &Stream) -> Option<Duration> {
        let is_untold = || self.streams.iter().all(|stream| stream.answered.is_none());
        let of_session = || self.started.filter(|_| is_untold()).map(|start| start.mono);
        stream.answered.or_else(of_session)
    }

    /// Whether the kernel still has flows that are to be withdrawn.
    pub fn is_withdrawing(&self) -> bool {
        self.streams.iter().any(|stream| stream.withdrawing > 0)
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
