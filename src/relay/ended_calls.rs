//! How dispatchers are told of calls that have ended, and what is kept until they confirm it.

use std::sync::Arc;

use log::error;

use super::dispatcher::Dispatcher;
use super::dispatchers::Dispatchers;
use super::send_queue::owner_of;
use super::spool::{How, Spool};
use crate::session::{Ended, Owner, ReplyTo};

/// See the module.
pub(super) struct EndedCalls {
    dispatchers: Arc<Dispatchers>,
    /// None where the state directory cannot be written.
    pub spool: Option<Spool>,
}

impl EndedCalls {
    pub(super) fn new(dispatchers: Arc<Dispatchers>, spool: Option<Spool>) -> EndedCalls {
        EndedCalls { dispatchers, spool }
    }

    /// Answers a removal.
    pub(super) fn removed(&self, to: ReplyTo, ended: &Ended) {
        self.dispatchers.with(owner_of(to), |dispatcher| {
            self.keep(dispatcher, How::Removed, ended);
            dispatcher.queue.reply(to, &ended.statistics);
        });
    }

    /// Tells a dispatcher that a session of its has ended.
    pub(super) fn expired(&self, owner: Owner, ended: &Ended) {
        self.dispatchers.with(owner, |dispatcher| {
            if self.keep(dispatcher, How::Expired, ended) {
                let line = [b"expired ", ended.statistics.as_slice(), b"\r\n"].concat();
                return dispatcher.queue.say(&line);
            }
            let dropped = dispatcher.queue.notify(&ended.statistics);
            if dropped > 0 {
                let call_id = &ended.call_id;
                error!(
                    "[session {call_id}] {dispatcher}: no room for more ended calls, {dropped} given up"
                );
            }
        });
    }

    /// Has a session kept until its dispatcher has recorded it. False where that is not to be, or cannot.
    fn keep(&self, dispatcher: &Dispatcher, how: How, ended: &Ended) -> bool {
        let Some(spool) = &self.spool else {
            return false;
        };
        // A call that was never answered is not accounted.
        let is_wanted = ended.is_answered && dispatcher.queue.confirms();
        is_wanted && spool.keep(dispatcher.address, how, ended.session_id, &ended.statistics)
    }
}
