//! One session: who it is between, which messages are about it, what they say of it beyond media. Its media are in `media`,
//! what an SDP means in `offers`, what is done about it in `negotiation`.

use std::net::IpAddr;

use log::{debug, info};
use serde::{Deserialize, Serialize};

use super::actions::Owner;
use super::environment::Environment;
use super::keys::SessionKey;
use super::media::Media;
use super::negotiation::{Context, Negotiation};
use super::offers::{Message, Number};
use super::refusal::Refusal;
use super::settings::Settings;
use crate::moment::{Moment, Now};
use crate::proto::control::{MessageKind, Remove, Update};
use crate::proto::media::{MediaAddress, MediaDescription};
use crate::proto::saved::{exact, is_usual};
use crate::proto::{CallId, DialogId, Party, PerParty, SessionId, Tag, Text, Visible};

/// A call through this relay.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Session {
    pub id: SessionId,
    #[serde(with = "exact")]
    pub caller_tag: Tag,
    #[serde(with = "exact")]
    pub from_uri: Text,
    #[serde(with = "exact")]
    pub to_uri: Text,
    #[serde(default, with = "exact", skip_serializing_if = "is_usual")]
    pub user_agents: PerParty<Option<Text>>,
    #[serde(default, with = "exact", skip_serializing_if = "is_usual")]
    pub username: Option<Text>,
    /// Where its first message came from, as the SIP proxy says.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub signaling: Option<IpAddr>,
    /// The SIP proxy's, for the dispatcher that is told of the session's end: it may not know any more.
    #[serde(default, with = "exact", skip_serializing_if = "is_usual")]
    pub dialog_id: Option<DialogId>,
    /// Who is told when the session ends by itself: the dispatcher that spoke of it last.
    #[serde(skip, default = "Owner::none")]
    pub owner: Owner,
    pub media: Media,
    /// Where each party's SIP came from, the latest first.
    #[serde(default, skip_serializing_if = "is_usual")]
    signaling_of: PerParty<[Option<IpAddr>; 2]>,
    /// The log has a line of a stranger at its ports.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub stranger_told: bool,
    /// When this process took it over from the one before.
    #[serde(skip)]
    pub adopted: Option<Now>,
}

impl Session {
    /// A session for this update, without streams yet.
    pub(super) fn new(
        update: &Update,
        key: SessionKey,
        owner: Owner,
        context: &mut Context<'_>,
    ) -> Session {
        let id = update.session_id;
        let id = id.unwrap_or_else(|| SessionId::from_random(context.environment.random()));
        let locals = local_addresses(update, context.environment);
        Session {
            id,
            caller_tag: update.from_tag.clone(),
            from_uri: update.from_uri.clone(),
            to_uri: update.to_uri.clone(),
            user_agents: PerParty::default(),
            username: update.signaling.username.clone(),
            signaling: update.signaling.source,
            dialog_id: None,
            owner,
            media: Media::new(key, update.call_id.clone(), locals, context.now.mono),
            signaling_of: PerParty::default(),
            stranger_told: false,
            adopted: None,
        }
    }

    /// Returns true if a message with these tags is about this session. A 1xx reply to the callee's request has the
    /// callee's alone.
    pub(super) fn has_tags(&self, from_tag: &Tag, to_tag: Option<&Tag>) -> bool {
        self.caller_tag == *from_tag
            || match to_tag {
                Some(to_tag) => *to_tag == self.caller_tag,
                None => self.media.offers.is_of_dialog(from_tag),
            }
    }

    /// The same for a remove. One with the tag of a branch that did not get the call is of that branch's end, which is no
    /// matter of the session's.
    pub(super) fn is_meant_by(&self, remove: &Remove) -> bool {
        let tag = self.callee_of(&remove.from_tag, remove.to_tag.as_ref());
        self.has_tags(&remove.from_tag, remove.to_tag.as_ref())
            && !self.media.offers.is_foreign(tag)
    }

    pub(super) fn key(&self) -> SessionKey {
        self.media.key
    }

    pub(super) fn call_id(&self) -> &CallId {
        &self.media.call_id
    }

    /// The tag of the callee who has the call; none before the final answer.
    pub(super) fn callee_tag(&self) -> Option<&Tag> {
        self.media.offers.established()
    }

    /// A BYE tells the tag of a call whose final answer was missed.
    pub(super) fn note_remove(&mut self, remove: &Remove) {
        let tag = self.callee_of(&remove.from_tag, remove.to_tag.as_ref());
        if let Some(tag) = tag.cloned() {
            self.media.offers.establish(&tag, None);
        }
    }

    /// Of a message's two tags, the callee's.
    fn callee_of<'a>(&self, from_tag: &'a Tag, to_tag: Option<&'a Tag>) -> Option<&'a Tag> {
        if self.caller_tag == *from_tag {
            to_tag
        } else {
            Some(from_tag)
        }
    }

    /// The request that an update is or answers (C2).
    fn number(&self, update: &Update) -> Number {
        let tag = self.callee_of(&update.from_tag, update.to_tag.as_ref());
        let party = if update.from_tag == self.caller_tag {
            Party::Caller
        } else {
            Party::Callee
        };
        self.media.offers.number(party, update.cseq, tag)
    }

    /// Who sent the SDP (or would have): C1.
    pub(super) fn sender(&self, update: &Update) -> Party {
        let from_caller = update.from_tag == self.caller_tag;
        let downstream = from_caller == (update.kind == MessageKind::Request);
        if downstream {
            Party::Caller
        } else {
            Party::Callee
        }
    }

    /// A SIP message passed the proxy. The ports that its SDP is to carry on, one for each media line.
    pub(super) fn update(
        &mut self,
        update: &Update,
        context: &mut Context<'_>,
    ) -> Result<Vec<u16>, Refusal> {
        let media = update.media.as_deref();
        if media.is_some_and(|list| list.iter().any(is_ipv6)) {
            return Err(Refusal::Ipv6Media);
        }
        let (sender, number) = (self.sender(update), self.number(update));
        let is_foreign = self.media.offers.is_foreign(number.tag.as_ref());
        if !is_foreign {
            self.media.offers.note_opening(update.kind, &number);
        }
        let message = Message {
            kind: update.kind,
            number: number.clone(),
            sender,
            source: update.signaling.source,
            media: media.unwrap_or_default(),
        };
        let mut negotiation = Negotiation::of(&mut self.media, context);
        let ports = if media.is_some() {
            negotiation.describe(&message)?
        } else {
            negotiation.answer_early(&message)?;
            Vec::new()
        };
        match (is_foreign, &number.tag) {
            (true, Some(tag)) => debug!(
                "[session {}] an update of another branch (tag {}) gets ports and changes nothing",
                self.call_id(),
                tag.0
            ),
            _ => {
                self.note(update, &number, sender, context);
                self.note_whereabouts(update, sender, context.settings);
            }
        }
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
            let Some(address) = address.filter(IpAddr::is_ipv4) else {
                continue;
            };
            let is_own = self.media.locals.iter().any(|local| *local == address)
                || settings.advertised_ip == Some(address);
            let known = &mut self.signaling_of[party];
            if !is_own && !address.is_loopback() && known[0] != Some(address) {
                *known = [Some(address), known[0]];
            }
        }
        for stream in self.media.streams.iter_mut().filter(|s| s.is_live()) {
            for party in Party::BOTH {
                let leg = &mut stream.legs[party];
                leg.signaling = self.signaling_of[party];
                leg.note_sdp();
            }
        }
    }

    /// What every update tells, whatever it says of media.
    fn note(&mut self, update: &Update, number: &Number, sender: Party, context: &mut Context<'_>) {
        self.user_agents[sender] = Some(update.user_agent.clone());
        if update.dialog_id.is_some() {
            self.dialog_id.clone_from(&update.dialog_id);
        }
        let Some(tag) = &number.tag else { return };
        if self.media.offers.is_final(update.kind, number) {
            let sdp = update.media.as_deref();
            Negotiation::of(&mut self.media, context).establish(tag, sdp);
        } else if self.media.is_finally_answered() {
            Negotiation::of(&mut self.media, context).settle_declined();
        }
    }

    /// The log line of the session's end; `how` it came about. The statistics are in the dispatcher's log.
    pub(super) fn log_end(&self, how: &str, statistics: &[u8], now: Moment) {
        let (call_id, streams) = (self.call_id(), &self.media.streams);
        // As its last stream tells.
        let last = streams.iter().max_by_key(|s| s.ended.map(|end| end.at));
        let why = last.map_or("no streams", |stream| stream.status.as_str());
        let sum = |party| -> u64 {
            let legs = streams.iter().map(|stream| &stream.legs[party]);
            legs.map(|leg| leg.relayed().packets).sum()
        };
        info!(
            "[session {call_id}] {how} ({why}) after {} s: {} packets relayed from the caller, {} from the callee",
            self.media.duration(now).as_secs(),
            sum(Party::Caller),
            sum(Party::Callee)
        );
        debug!("[session {call_id}] statistics {}", Visible(statistics));
    }
}

fn is_ipv6(media: &MediaDescription) -> bool {
    media.port != 0 && matches!(media.address, MediaAddress::Ip(IpAddr::V6(_)))
}

/// The relay's address for each party, from where this message came from and goes to.
fn local_addresses(update: &Update, environment: &mut dyn Environment) -> PerParty<IpAddr> {
    let towards = |address: Option<IpAddr>| address.filter(IpAddr::is_ipv4);
    let source = environment.local_address(towards(update.signaling.source));
    let destination = match towards(update.signaling.destination) {
        Some(address) => environment.local_address(Some(address)),
        None => source,
    };
    PerParty::from(match update.kind {
        MessageKind::Request => [source, destination],
        MessageKind::Reply => [destination, source],
    })
}
