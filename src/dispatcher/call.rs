//! What is known of a call: what an update of the proxy tells, what is kept of it, what is noted on disk.

use std::ops::Deref;
use std::time::Duration;

use super::relay_id::RelayKey;
use crate::moment::{Moment, UnixTime};
use crate::proto::control::{Remove, Update};
use crate::proto::name::Name;
use crate::proto::{CSeq, DialogId, SessionId, Text};

/// An `update` of the proxy.
#[derive(Clone, Debug)]
pub struct ReceivedUpdate {
    pub update: Update,
    /// What a session that it makes is called.
    pub session_id: SessionId,
    /// When it was read.
    pub at: Moment,
}

impl Deref for ReceivedUpdate {
    type Target = Update;

    fn deref(&self) -> &Update {
        &self.update
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
    pub fn told_by(update: &ReceivedUpdate, is_callees: bool) -> Known {
        let agent = Some(update.user_agent.clone());
        let (caller_ua, callee_ua) = if update.is_reply() == is_callees {
            (agent, None)
        } else {
            (None, agent)
        };
        let (from_uri, to_uri) = if is_callees {
            (&update.to_uri, &update.from_uri)
        } else {
            (&update.from_uri, &update.to_uri)
        };
        Known {
            session_id: update.session_id,
            from_uri: from_uri.clone(),
            to_uri: to_uri.clone(),
            caller_ua,
            callee_ua,
            username: update.signaling.username.clone(),
            started: None,
            ended: None,
        }
    }
}

/// A call that is not over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveCall {
    /// With the callee where it has finally answered (S3).
    pub name: Name,
    pub dialog_id: Option<DialogId>,
    /// The number of the request that opened it; none where this dispatcher has not seen that.
    pub opening: Option<CSeq>,
    /// It was made by a reply: the callee makes the offer (C8).
    pub begun_by_reply: bool,
    pub known: Known,
    /// The proxy has removed it; its relay has not been told, or has not answered.
    pub owed: Option<Remove>,
}

/// The note of an answered call on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallNote {
    pub call: LiveCall,
    pub relay: RelayKey,
    /// How long its relay had been away when the dispatcher before this one was last seen.
    pub away: Duration,
    /// Later news of it has a higher one.
    pub order: u64,
}
