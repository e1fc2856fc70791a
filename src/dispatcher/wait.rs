//! An update of the SIP proxy whose relay is away: what is worth waiting for, and how long. New calls wait for no relay
//! where there is one.

use std::sync::Arc;
use std::time::Duration;

use super::link::Link;
use super::registry::CallLocation;
use super::relay_news::Waiting;
use super::shared::Dispatcher;
use crate::moment::Moment;
use crate::proto::CallId;
use crate::sys::clock;
use crate::sys::sync::lock;

/// A relay that has been away for longer is not waited for. One that is restarted is back by then, and so is one that has lost
/// the dispatcher (L4); and a process of the SIP proxy that waits, or that has given up waiting and leaves the dispatcher alone
/// for ten seconds, serves no call of other relays. Nor is one whose calls are given up soon.
const AWAITED: Duration = Duration::from_secs(15);

/// So long a new call waits where no relay at all has come yet after the start: the proxy itself gives up after 500 ms, and
/// relays try again 200 ms after they lost the dispatcher before.
const FIRST_RELAY: Duration = Duration::from_millis(400);

/// See the module.
pub(super) struct Wait<'a> {
    dispatcher: &'a Dispatcher,
    pub deadline: Moment,
    /// It is of a call that relays may have from before this dispatcher's start.
    may_be_elsewhere: bool,
    waiting: Option<Waiting<'a>>,
}

impl<'a> Wait<'a> {
    pub(super) fn new(
        dispatcher: &'a Dispatcher,
        deadline: Moment,
        may_be_elsewhere: bool,
    ) -> Self {
        Wait {
            dispatcher,
            deadline,
            may_be_elsewhere,
            waiting: None,
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
            CallLocation::Unknown | CallLocation::Expired => {
                let patience = dispatcher.settings.relay_timeout;
                deadline = deadline.min(dispatcher.started + patience);
                // Calls that nobody has answered are in no ledger: their relays tell of them.
                let is_sought = self.may_be_elsewhere && matches!(place, CallLocation::Unknown);
                if !is_sought {
                    deadline = deadline.min(self.deadline.saturating_sub(patience) + FIRST_RELAY);
                }
                now < deadline && {
                    let relays = &lock(&dispatcher.registry).relays;
                    if is_sought {
                        relays.are_lists_due()
                    } else {
                        relays.counts().0 == 0
                    }
                }
            }
            CallLocation::On(..) => false,
        };
        is_due && self.for_news(call_id, deadline)
    }

    /// Waits for news of a relay.
    pub(super) fn for_news(&mut self, call_id: &CallId, deadline: Moment) -> bool {
        if let Some(waiting) = &mut self.waiting {
            return waiting.wait(deadline);
        }
        // What has come since the call was looked for is seen by another look.
        self.waiting = self.dispatcher.relay_news.enter();
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
