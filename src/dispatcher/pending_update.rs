//! An `update` that relays were asked for: its thread waits here, the threads that read from relays wake it.

use std::sync::{Condvar, Mutex};

use super::call::ReceivedUpdate;
use super::relay_id::LinkId;
use crate::moment::Moment;
use crate::sys::clock;
use crate::sys::sync::{lock, wait_until};

/// Why a relay did not take a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpdateFailure {
    /// And why, where it has told.
    Error(Box<str>),
    Halting,
    LinkLost,
}

impl std::fmt::Display for UpdateFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            UpdateFailure::Error(why) if why.is_empty() => f.write_str("answered error"),
            UpdateFailure::Error(why) => write!(f, "answered error: {why}"),
            UpdateFailure::Halting => f.write_str("is halting"),
            UpdateFailure::LinkLost => f.write_str("lost its link"),
        }
    }
}

/// What became of an `update` that one or more relays were asked.
#[derive(Debug, PartialEq, Eq)]
pub enum UpdateNews {
    /// The line for the proxy, without its end.
    Answer(LinkId, String),
    Failed(LinkId, UpdateFailure),
    /// The deadline came first.
    Silence,
}

/// An `update` under way. The first relay that gives ports decides it; what comes after that is late.
#[derive(Debug)]
pub struct PendingUpdate {
    pub update: ReceivedUpdate,
    /// The call has no relay yet.
    pub is_new: bool,
    /// What went wrong on the way.
    troubles: Mutex<Vec<String>>,
    state: Mutex<State>,
    ready: Condvar,
}

#[derive(Debug, Default)]
struct State {
    decided: bool,
    answer: Option<(LinkId, String)>,
    failures: Vec<(LinkId, UpdateFailure)>,
}

impl PendingUpdate {
    pub fn new(update: ReceivedUpdate, is_new: bool) -> Self {
        PendingUpdate {
            update,
            is_new,
            troubles: Mutex::default(),
            state: Mutex::new(State::default()),
            ready: Condvar::new(),
        }
    }

    /// Notes what has gone wrong.
    pub fn trouble(&self, what: &str) {
        lock(&self.troubles).push(what.to_owned());
    }

    /// All of that, in the order in which it came.
    pub fn troubles(&self) -> String {
        lock(&self.troubles).join("; ")
    }

    /// A relay has given ports. `commit` runs where this decides the update, before anybody hears of it;
    /// false when it is too late.
    pub fn succeed(&self, link: LinkId, answer: String, commit: impl FnOnce()) -> bool {
        let mut state = lock(&self.state);
        if state.decided {
            return false;
        }
        commit();
        state.decided = true;
        state.answer = Some((link, answer));
        drop(state);
        self.ready.notify_one();
        true
    }

    /// A relay will not give ports.
    pub fn fail(&self, link: LinkId, failure: UpdateFailure) {
        let mut state = lock(&self.state);
        if !state.decided {
            state.failures.push((link, failure));
            drop(state);
            self.ready.notify_one();
        }
    }

    /// Waits for what comes next.
    pub fn next(&self, deadline: Moment) -> UpdateNews {
        let mut state = lock(&self.state);
        loop {
            if let Some((link, answer)) = state.answer.take() {
                return UpdateNews::Answer(link, answer);
            }
            if let Some((link, failure)) = state.failures.pop() {
                return UpdateNews::Failed(link, failure);
            }
            if clock::moment() >= deadline {
                return UpdateNews::Silence;
            }
            state = wait_until(&self.ready, state, deadline);
        }
    }

    /// Nobody waits any longer: from here on a success is late. One that came just before is returned.
    pub fn give_up(&self) -> Option<(LinkId, String)> {
        let mut state = lock(&self.state);
        state.decided = true;
        state.answer.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::control::{MessageKind, Signaling, Update};
    use crate::proto::{CallId, SessionId, Tag};

    fn updating() -> PendingUpdate {
        let update = ReceivedUpdate {
            update: Update {
                kind: MessageKind::Request,
                call_id: CallId("a".into()),
                cseq: crate::proto::CSeq(1),
                from_uri: "x@example.com".into(),
                to_uri: "y@example.com".into(),
                from_tag: Tag("f".into()),
                to_tag: None,
                user_agent: "phone".into(),
                signaling: Signaling::default(),
                dialog_id: None,
                session_id: None,
                media: Some(Vec::new()),
            },
            session_id: SessionId::from_random(1),
            at: Moment::START,
        };
        PendingUpdate::new(update, true)
    }

    #[test]
    fn the_first_success_decides() {
        let updating = updating();
        let mut commits = 0;
        updating.fail(LinkId(1), UpdateFailure::Error("".into()));
        assert!(updating.succeed(LinkId(2), "two".into(), || commits += 1));
        assert!(!updating.succeed(LinkId(3), "three".into(), || commits += 1));
        assert_eq!(commits, 1);
        let news = updating.next(Moment::START);
        assert_eq!(news, UpdateNews::Answer(LinkId(2), "two".into()));
    }

    #[test]
    fn a_success_after_giving_up_is_late() {
        let late = updating();
        assert_eq!(late.next(Moment::START), UpdateNews::Silence);
        assert_eq!(late.give_up(), None);
        assert!(!late.succeed(LinkId(1), "one".into(), || panic!("late")));
        let just_in_time = updating();
        just_in_time.succeed(LinkId(1), "one".into(), || ());
        assert_eq!(just_in_time.give_up(), Some((LinkId(1), "one".into())));
    }
}
