//! A question for all that is known of a call, on its way to the thread that answers.

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::proto::CallId;
use crate::session::ReplyTo;

/// Questions that may wait.
const MOST_WAITING: usize = 32;

/// Somebody wants to know about a call.
pub(super) struct Question {
    /// The one that would have it.
    pub worker: usize,
    pub call_id: CallId,
    pub reply_to: ReplyTo,
}

/// Where questions are put; none ends the thread.
pub(super) type Questions = Sender<Option<Question>>;

/// Where questions go, and where they come out.
pub(super) fn channel() -> (Questions, Receiver<Option<Question>>) {
    bounded(MOST_WAITING)
}
