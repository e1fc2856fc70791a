//! Answers to updates that wait until the kernel has let go of what they replace: a packet that is sent at the answer's
//! word must not take the former path. Does not know what is waited for.

use std::collections::VecDeque;
use std::time::Duration;

use super::actions::Asker;
use super::keys::SessionKey;
use crate::moment::Moment;
use crate::proto::link::UpdateReply;

/// The longest that an answer waits: the kernel takes a tenth of a millisecond as a rule, and the SIP proxy gives up
/// after 500 ms.
pub(super) const LONGEST_HOLD: Duration = Duration::from_millis(10);

/// An answer that is ready.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub session: SessionKey,
    pub asker: Asker,
    pub reply: UpdateReply,
}

/// Answers that wait, the oldest first, which is also the first to have waited too long.
#[derive(Debug, Default)]
pub(super) struct Answers {
    waiting: VecDeque<(Moment, Answer)>,
}

impl Answers {
    /// Keeps an answer, from now on.
    pub(super) fn hold(&mut self, answer: Answer, now: Moment) {
        self.waiting.push_back((now + LONGEST_HOLD, answer));
    }

    /// Those of a session, in the order of its requests: nothing is waited for any more.
    pub(super) fn release(&mut self, session: SessionKey) -> Vec<Answer> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        let (due, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition::<VecDeque<_>, _>(|(_, answer)| answer.session == session);
        self.waiting = waiting;
        due.into_iter().map(|(_, answer)| answer).collect()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The next that has waited too long.
    pub(super) fn take_late(&mut self, now: Moment) -> Option<Answer> {
        let is_late = self.next_late().is_some_and(|due| due <= now);
        let late = is_late.then(|| self.waiting.pop_front()).flatten();
        late.map(|(_, answer)| answer)
    }

    /// When there is one at the earliest.
    pub(super) fn next_late(&self) -> Option<Moment> {
        self.waiting.front().map(|(due, _)| *due)
    }
}
