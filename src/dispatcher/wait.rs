//! A request of the SIP proxy whose relay is away: what is worth waiting for, and how long. New calls wait for nobody.

use std::sync::Arc;
use std::time::Duration;

use super::link::Link;
use super::registry::CallLocation;
use super::relay_news::Waiting;
use super::shared::Dispatcher;
use crate::moment::Moment;
use crate::proto::CallId;
use crate::proto::control::Remove;
use crate::sys::clock;
use crate::sys::sync::lock;

/// A relay that has been away for longer is not waited for: whoever restarts it has it back by then, and each request that
/// waits keeps a process of the SIP proxy from serving calls of other relays. Nor is one whose calls are given up soon.
const AWAITED: Duration = Duration::from_secs(60);

/// See the module.
pub(super) struct Wait<'a> {
    dispatcher: &'a Dispatcher,
    pub deadline: Moment,
    /// It is of a call that relays may have from before this dispatcher's start.
    may_be_elsewhere: bool,
    remove: Option<&'a Remove>,
    waiting: Option<Waiting<'a>>,
}

impl<'a> Wait<'a> {
    /// Of an update.
    pub(super) fn new(
        dispatcher: &'a Dispatcher,
        deadline: Moment,
        may_be_elsewhere: bool,
    ) -> Self {
        Wait {
            dispatcher,
            deadline,
            may_be_elsewhere,
            remove: None,
            waiting: None,
        }
    }

    /// Of a removal. Its relay has told its sessions before it is asked, as it would be told of it twice otherwise. That of
    /// a call that is not known is told whoever lists the call, and nobody acts on its answer: it waits for nothing.
    pub(super) fn for_removal(
        dispatcher: &'a Dispatcher,
        remove: &'a Remove,
        deadline: Moment,
    ) -> Self {
        Wait {
            remove: Some(remove),
            ..Wait::new(dispatcher, deadline, false)
        }
    }

    /// Waits where the relay of a call that is there is to be waited for. Returns true if there is news: the call is to be
    /// looked for again.
    pub(super) fn goes_on(&mut self, call_id: &CallId, place: &CallLocation<Arc<Link>>) -> bool {
        let dispatcher = self.dispatcher;
        let (now, mut deadline) = (clock::moment(), self.deadline);
        let is_due = match place {
            CallLocation::Away(relay) => {
                let since = lock(&dispatcher.registry).relays.away_since(relay);
                let limit = AWAITED.min(dispatcher.settings.cleanup_dead_relays_after / 2);
                deadline = deadline.min(since.unwrap_or(Moment::START) + limit);
                now < deadline
            }
            // Calls that nobody has answered are in no ledger: their relays tell of them.
            CallLocation::Unknown if self.may_be_elsewhere => {
                deadline = deadline.min(dispatcher.started + dispatcher.settings.relay_timeout);
                now < deadline && lock(&dispatcher.registry).relays.are_lists_due()
            }
            CallLocation::On(id, _) if self.waiting.is_some() && self.remove.is_some() => {
                !lock(&dispatcher.registry).relays.has_listed(*id)
            }
            _ => false,
        };
        is_due && self.for_news(call_id, deadline)
    }

    /// Waits for news of a relay.
    pub(super) fn for_news(&mut self, call_id: &CallId, deadline: Moment) -> bool {
        if let Some(waiting) = &mut self.waiting {
            return waiting.wait(deadline);
        }
        // What has come since the call was looked for is seen by another look.
        self.waiting = self.dispatcher.relay_news.enter(self.remove);
        if self.waiting.is_some() {
            log::info!("[session {call_id}] its relay is away: waits for it");
        }
        self.waiting.is_some()
    }

    /// It is not waited for (any more). Returns since when a relay's silence counts: since then, where it was waited for.
    pub(super) fn over(&self, started: Moment) -> Moment {
        if self.waiting.is_some() {
            clock::moment()
        } else {
            started
        }
    }
}
