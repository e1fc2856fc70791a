//! A session as the proxy's updates tell of it.

use std::net::IpAddr;

use super::relay_table::RelayNumber;
use crate::dispatcher::call::{LiveCall, ReceivedUpdate};
use crate::dispatcher::statistics::Statistics;
use crate::moment::{Moment, UnixTime};

/// See the module.
#[derive(Debug)]
pub(super) struct Session {
    pub call: LiveCall,
    pub relay: RelayNumber,
    /// `known.started` on the caller's clock, where that was in this run.
    pub started: Option<Moment>,
    /// Where the SIP of its first message came from.
    pub signaling: Option<IpAddr>,
    /// It counts as one that nobody has answered.
    pub is_ringing: bool,
    /// When it was last made or confirmed by its relay.
    pub serial: u64,
}

impl Session {
    /// Its relay calls it as it is called here.
    pub(super) fn is_named(&self, statistics: &Statistics) -> bool {
        let id = self.call.known.session_id.to_string();
        statistics.session_id.as_ref() == Some(&id)
    }

    /// Nobody has answered it, as far as this dispatcher has seen its beginning, and it is not known to be over.
    pub(super) fn rings(&self) -> bool {
        let call = &self.call;
        call.name.callee.is_none() && call.opening.is_some() && call.known.ended.is_none()
    }

    /// What an update tells of the call, which came at this time: the first one that goes the other way is its
    /// answer (C5), and a reply to what opened it, with a to_tag, the final one (S3). True when there is news of it.
    pub(super) fn learn(&mut self, update: &ReceivedUpdate, at: UnixTime) -> bool {
        let is_reply = update.is_reply();
        let LiveCall {
            name,
            known,
            opening,
            begun_by_reply,
            ..
        } = &mut self.call;
        // A later call may be on its way while the removal of the earlier one is owed; or its relay is back.
        let was_over = known.ended.take().is_some();
        let by_caller = name.caller.as_ref() == Some(&update.from_tag);
        let rings = name.callee.is_none();
        if !is_reply && by_caller && update.to_tag.is_none() && rings {
            *opening = Some(update.cseq);
        }
        let is_to_opening = opening.is_none_or(|cseq| cseq == update.cseq);
        let is_final = rings && is_reply && by_caller && is_to_opening && update.to_tag.is_some();
        if is_final {
            name.callee.clone_from(&update.to_tag);
        }
        let answers = is_final || update.has_media() && is_reply != *begun_by_reply;
        let starts = answers && known.started.is_none();
        if starts {
            known.started = Some(at);
            self.started = Some(update.at);
        }
        let agent = if by_caller == is_reply {
            &mut known.callee_ua
        } else {
            &mut known.caller_ua
        };
        let is_new_agent = agent.is_none();
        agent.get_or_insert_with(|| update.user_agent.clone());
        was_over || is_new_agent || is_final || starts
    }
}
