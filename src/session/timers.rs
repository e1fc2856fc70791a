//! One timer for each session, set to its earliest deadline.

use std::collections::BTreeSet;

use super::keys::SessionKey;
use crate::moment::Moment;

/// A session's own timer.
#[derive(Debug, Default)]
pub(super) struct Timer(Option<Moment>);

impl Timer {
    pub(super) fn has_fired(&mut self) {
        self.0 = None;
    }
}

/// The timers of all sessions.
#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(Moment, SessionKey)>);

impl Timers {
    /// Sets a session's timer, where it is not set to an earlier time: that a deadline has become later is found out
    /// when it fires.
    pub(super) fn set(&mut self, session: SessionKey, timer: &mut Timer, deadline: Moment) {
        if timer.0.is_none_or(|due| deadline < due) {
            self.clear(session, timer);
            timer.0 = Some(deadline);
            self.0.insert((deadline, session));
        }
    }

    pub(super) fn clear(&mut self, session: SessionKey, timer: &mut Timer) {
        if let Some(due) = timer.0.take() {
            self.0.remove(&(due, session));
        }
    }

    /// A session whose timer is due; it is to be told by [`Timer::has_fired`].
    pub(super) fn take_due(&mut self, now: Moment) -> Option<SessionKey> {
        let due = self.0.first().filter(|(due, _)| *due <= now).copied()?;
        self.0.remove(&due);
        Some(due.1)
    }

    /// When the first of them is due.
    pub(super) fn next(&self) -> Option<Moment> {
        self.0.first().map(|(due, _)| *due)
    }
}
