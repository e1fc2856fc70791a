//! Where a thread waits for a relay's answer; the thread that reads from the relay wakes it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::registry::{Facts, LinkId};
use crate::sys::clock;

/// Takes a lock; a thread that panicked while it held it has left plain data behind.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a notice or the deadline; spurious wake-ups are the caller's to tell.
pub fn wait_until<'a, T>(
    ready: &Condvar,
    guard: MutexGuard<'a, T>,
    deadline: Duration,
) -> MutexGuard<'a, T> {
    let left = deadline.saturating_sub(clock::mono());
    let (guard, _) = ready
        .wait_timeout(guard, left)
        .unwrap_or_else(PoisonError::into_inner);
    guard
}

/// One value that one thread puts and another waits for.
#[derive(Debug)]
pub struct Slot<T> {
    value: Mutex<Option<T>>,
    ready: Condvar,
}

impl<T> Slot<T> {
    pub fn new() -> Self {
        Slot {
            value: Mutex::new(None),
            ready: Condvar::new(),
        }
    }

    pub fn put(&self, value: T) {
        *lock(&self.value) = Some(value);
        self.ready.notify_one();
    }

    /// The value, or none when the deadline came first.
    pub fn take_until(&self, deadline: Duration) -> Option<T> {
        let mut value = lock(&self.value);
        loop {
            if value.is_some() || clock::mono() >= deadline {
                return value.take();
            }
            value = wait_until(&self.ready, value, deadline);
        }
    }
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Slot::new()
    }
}

/// Why a relay did not take a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// And why, where it has told.
    Error(Box<str>),
    Halting,
    LinkLost,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Error(why) if why.is_empty() => f.write_str("answered error"),
            Failure::Error(why) => write!(f, "answered error: {why}"),
            Failure::Halting => f.write_str("is halting"),
            Failure::LinkLost => f.write_str("lost its link"),
        }
    }
}

/// What became of an `update` that one or more relays were asked.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// The line for the proxy, without its end.
    Answer(LinkId, String),
    Failed(LinkId, Failure),
    /// The deadline came first.
    Silence,
}

/// An `update` under way. The first relay that gives ports decides it; what comes after that is late.
#[derive(Debug)]
pub struct Updating {
    pub facts: Facts,
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
    failures: Vec<(LinkId, Failure)>,
}

impl Updating {
    pub fn new(facts: Facts, is_new: bool) -> Self {
        Updating {
            facts,
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
    pub fn fail(&self, link: LinkId, failure: Failure) {
        let mut state = lock(&self.state);
        if !state.decided {
            state.failures.push((link, failure));
            drop(state);
            self.ready.notify_one();
        }
    }

    /// Waits for what comes next.
    pub fn next(&self, deadline: Duration) -> News {
        let mut state = lock(&self.state);
        loop {
            if let Some((link, answer)) = state.answer.take() {
                return News::Answer(link, answer);
            }
            if let Some((link, failure)) = state.failures.pop() {
                return News::Failed(link, failure);
            }
            if clock::mono() >= deadline {
                return News::Silence;
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
    use crate::proto::{CallId, SessionId, Tag};

    fn updating() -> Updating {
        let facts = Facts {
            call_id: CallId("a".into()),
            dialog_id: None,
            from_tag: Tag("f".into()),
            to_tag: None,
            cseq: crate::proto::CSeq(1),
            has_media: true,
            session_id: SessionId::from_random(1),
            is_reply: false,
            from_uri: "x@example.com".into(),
            to_uri: "y@example.com".into(),
            user_agent: "phone".into(),
            username: None,
            signaling: None,
            at: Duration::ZERO,
        };
        Updating::new(facts, true)
    }

    #[test]
    fn the_first_success_decides() {
        let updating = updating();
        let mut commits = 0;
        updating.fail(LinkId(1), Failure::Error("".into()));
        assert!(updating.succeed(LinkId(2), "two".into(), || commits += 1));
        assert!(!updating.succeed(LinkId(3), "three".into(), || commits += 1));
        assert_eq!(commits, 1);
        let news = updating.next(Duration::ZERO);
        assert_eq!(news, News::Answer(LinkId(2), "two".into()));
    }

    #[test]
    fn a_success_after_giving_up_is_late() {
        let late = updating();
        assert_eq!(late.next(Duration::ZERO), News::Silence);
        assert_eq!(late.give_up(), None);
        assert!(!late.succeed(LinkId(1), "one".into(), || panic!("late")));
        let just_in_time = updating();
        just_in_time.succeed(LinkId(1), "one".into(), || ());
        assert_eq!(just_in_time.give_up(), Some((LinkId(1), "one".into())));
    }
}
