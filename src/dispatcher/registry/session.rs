//! A session as the proxy's updates tell of it.

use std::net::IpAddr;

use super::relay_table::RelayNumber;
use crate::dispatcher::call::{Facts, Known};
use crate::dispatcher::statistics::Statistics;
use crate::moment::{Moment, UnixTime};
use crate::proto::control::Remove;
use crate::proto::name::Name;
use crate::proto::{CSeq, DialogId};

/// See the module.
#[derive(Debug)]
pub(super) struct Session {
    /// The callee is in it once it has finally answered (S3).
    pub name: Name,
    pub relay: RelayNumber,
    pub dialog_id: Option<DialogId>,
    /// The number of the request that opened it; none where this dispatcher has not seen that.
    pub opening: Option<CSeq>,
    pub known: Known,
    /// `known.started` on the caller's clock, where that was in this run.
    pub started: Option<Moment>,
    /// It was made by a reply: the callee makes the offer (C8).
    pub begun_by_reply: bool,
    /// Where the SIP of its first message came from.
    pub signaling: Option<IpAddr>,
    /// It counts as one that nobody has answered.
    pub is_ringing: bool,
    /// When it was last made or confirmed by its relay.
    pub serial: u64,
    pub state: SessionState,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum SessionState {
    Live,
    /// The proxy has removed it, its relay has not been told or has not answered.
    Owed(Remove),
}

impl Session {
    /// Its relay calls it as it is called here.
    pub(super) fn is_named(&self, statistics: &Statistics) -> bool {
        let id = self.known.session_id.to_string();
        statistics.session_id.as_ref() == Some(&id)
    }

    /// Nobody has answered it, as far as this dispatcher has seen its beginning, and it is not known to be over.
    pub(super) fn rings(&self) -> bool {
        self.name.callee.is_none() && self.opening.is_some() && self.known.ended.is_none()
    }

    /// What an update tells of the call, which came at this time: the first one that goes the other way is its
    /// answer (C5), and a reply to what opened it, with a to_tag, the final one (S3). True when there is news of it.
    pub(super) fn learn(&mut self, facts: &Facts, at: UnixTime) -> bool {
        let known = &mut self.known;
        // A later call may be on its way while the removal of the earlier one is owed; or its relay is back.
        let was_over = known.ended.take().is_some();
        let by_caller = self.name.caller.as_ref() == Some(&facts.from_tag);
        let rings = self.name.callee.is_none();
        if !facts.is_reply && by_caller && facts.to_tag.is_none() && rings {
            self.opening = Some(facts.cseq);
        }
        let is_to_opening = self.opening.is_none_or(|cseq| cseq == facts.cseq);
        let is_final =
            rings && facts.is_reply && by_caller && is_to_opening && facts.to_tag.is_some();
        if is_final {
            self.name.callee.clone_from(&facts.to_tag);
        }
        let answers = is_final || facts.has_media && facts.is_reply != self.begun_by_reply;
        let starts = answers && known.started.is_none();
        if starts {
            known.started = Some(at);
            self.started = Some(facts.at);
        }
        let agent = if by_caller == facts.is_reply {
            &mut known.callee_ua
        } else {
            &mut known.caller_ua
        };
        let is_new_agent = agent.is_none();
        agent.get_or_insert_with(|| facts.user_agent.clone());
        was_over || is_new_agent || is_final || starts
    }
}
