//! What is known of a call: what an update of the proxy tells, what is kept of it, what is noted on disk.

use std::net::IpAddr;
use std::time::Duration;

use super::relay_id::RelayKey;
use crate::moment::{Moment, UnixTime};
use crate::proto::control::Remove;
use crate::proto::name::{Mention, Name};
use crate::proto::{CSeq, CallId, DialogId, SessionId, Tag, Text};

/// What the registry has to know of an `update`.
#[derive(Clone, Debug)]
pub struct Facts {
    pub call_id: CallId,
    pub dialog_id: Option<DialogId>,
    pub from_tag: Tag,
    /// Given in what comes after the callee's first answer, an early one included.
    pub to_tag: Option<Tag>,
    pub cseq: CSeq,
    /// It has media, so that its success makes a session.
    pub has_media: bool,
    /// What a session that it makes is called.
    pub session_id: SessionId,
    /// It is the reply to a request of the one with the from_tag.
    pub is_reply: bool,
    pub from_uri: Text,
    pub to_uri: Text,
    pub user_agent: Text,
    pub username: Option<Text>,
    /// Where its SIP came from.
    pub signaling: Option<IpAddr>,
    /// When it was read.
    pub at: Moment,
}

impl Facts {
    /// The session that it means.
    pub fn mention(&self) -> Mention<'_> {
        Mention {
            call_id: &self.call_id,
            from_tag: &self.from_tag,
            to_tag: self.to_tag.as_ref(),
        }
    }

    /// What takes back a session that this update has made.
    pub fn removal(&self) -> Remove {
        Remove {
            call_id: self.call_id.clone(),
            from_tag: self.from_tag.clone(),
            to_tag: self.to_tag.clone(),
        }
    }
}

/// What the SIP proxy's requests tell of a session: enough to account it when its relay is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub session_id: SessionId,
    pub from_uri: Text,
    pub to_uri: Text,
    pub caller_ua: Option<Text>,
    pub callee_ua: Option<Text>,
    pub username: Option<Text>,
    /// The first answer.
    pub started: Option<UnixTime>,
    /// When it ended, as far as can be told.
    pub ended: Option<UnixTime>,
}

impl Known {
    /// What the update tells that makes a session; `is_callees` tells whether its tags are the other way round.
    pub fn told_by(facts: &Facts, is_callees: bool) -> Known {
        let agent = Some(facts.user_agent.clone());
        let (caller_ua, callee_ua) = if facts.is_reply == is_callees {
            (agent, None)
        } else {
            (None, agent)
        };
        let (from_uri, to_uri) = if is_callees {
            (&facts.to_uri, &facts.from_uri)
        } else {
            (&facts.from_uri, &facts.to_uri)
        };
        Known {
            session_id: facts.session_id,
            from_uri: from_uri.clone(),
            to_uri: to_uri.clone(),
            caller_ua,
            callee_ua,
            username: facts.username.clone(),
            started: None,
            ended: None,
        }
    }
}

/// A call that was answered and is not over, or whose relay has not been told so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveCall {
    /// With the callee where it has finally answered.
    pub name: Name,
    pub dialog_id: Option<DialogId>,
    /// The number of the request that opened it, where that was seen.
    pub opening: Option<CSeq>,
    /// The callee made the offer (C8).
    pub begun_by_reply: bool,
    pub relay: RelayKey,
    pub known: Known,
    /// The proxy has removed it, its relay was away.
    pub owed: Option<Remove>,
    /// How long its relay had been away when the dispatcher before this one was last seen.
    pub away: Duration,
    /// Later news of it has a higher one.
    pub order: u64,
}
