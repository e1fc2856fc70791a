//! Requests for calls whose relays are away: each waits in its own thread, under its own deadline, and all of them look
//! again where the calls are when there is news of a relay: it is up, or it has told its sessions. Relays come seldom, so
//! that nobody has to be found among those who wait.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex};

use crate::moment::Moment;
use crate::proto::control::Remove;
use crate::sys::clock;
use crate::sys::sync::{lock, wait_until};

/// So many may wait at once: each holds a thread and a connection of the SIP proxy, and calls of other relays need some.
const MAX_WAITING: usize = 500;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct RelayNews {
    state: Mutex<State>,
    told: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// How much news there has been.
    count: u64,
    last: u64,
    /// Those who wait; with the removal that one asks for.
    waiting: HashMap<u64, Option<Arc<Remove>>>,
}

/// One who waits, until this is dropped.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    news: &'a RelayNews,
    id: u64,
    /// How much news it has seen.
    seen: u64,
}

impl RelayNews {
    /// Somebody waits from now on: what comes from now on is news. None where too many do.
    pub(super) fn enter(&self, remove: Option<&Remove>) -> Option<Waiting<'_>> {
        let mut state = lock(&self.state);
        if state.waiting.len() >= MAX_WAITING {
            return None;
        }
        state.last += 1;
        let id = state.last;
        state.waiting.insert(id, remove.cloned().map(Arc::new));
        Some(Waiting {
            news: self,
            id,
            seen: state.count,
        })
    }

    /// A relay is up.
    pub(super) fn tell(&self) {
        self.tell_listed(&mut Vec::new());
    }

    /// A relay has told its sessions. The removals that it has missed and that somebody waits for are taken out: who waits
    /// asks for them, and hears what becomes of them.
    pub(super) fn tell_listed(&self, missed: &mut Vec<Remove>) {
        let mut state = lock(&self.state);
        let is_waited_for = |one: &Remove| {
            let mut waiting = state.waiting.values().flatten();
            waiting.any(|remove| **remove == *one)
        };
        missed.retain(|one| !is_waited_for(one));
        state.count += 1;
        drop(state);
        self.told.notify_all();
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        lock(&self.state).waiting.len()
    }
}

impl Waiting<'_> {
    /// Waits for news. False when there is none by the deadline: then it waits no longer, and no removal is left to it.
    pub(super) fn wait(&mut self, deadline: Moment) -> bool {
        let mut state = lock(&self.news.state);
        while state.count == self.seen && clock::moment() < deadline {
            state = wait_until(&self.news.told, state, deadline);
        }
        let is_news = state.count != self.seen;
        self.seen = state.count;
        if !is_news {
            state.waiting.remove(&self.id);
        }
        is_news
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(&self.news.state).waiting.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{CallId, Tag};
    use std::thread;

    fn remove(call_id: &str) -> Remove {
        Remove {
            call_id: CallId(call_id.into()),
            from_tag: Tag("f".into()),
            to_tag: None,
        }
    }

    #[test]
    fn all_who_wait_hear_of_a_relay_and_each_once() {
        let news = RelayNews::default();
        news.tell();
        thread::scope(|scope| {
            let mut waiting: Vec<_> = (0..3).map(|_| news.enter(None).unwrap()).collect();
            assert!(!waiting[0].wait(Moment::START), "that was before");
            for mut one in waiting {
                scope.spawn(move || {
                    assert!(one.wait(Moment::NEVER));
                    assert!(!one.wait(Moment::START), "it was heard");
                });
            }
            news.tell();
        });
        assert_eq!(news.waiting(), 0);
    }

    #[test]
    fn what_came_before_the_deadline_is_heard_after_it() {
        let news = RelayNews::default();
        let mut one = news.enter(None).unwrap();
        news.tell();
        assert!(one.wait(Moment::START));
    }

    #[test]
    fn a_removal_that_is_waited_for_is_left_to_who_waits() {
        let news = RelayNews::default();
        let mut one = news.enter(Some(&remove("one"))).unwrap();
        let mut missed = vec![remove("one"), remove("two")];
        news.tell_listed(&mut missed);
        assert_eq!(missed, [remove("two")]);
        assert!(one.wait(Moment::START), "it has to be told");
        assert!(!one.wait(Moment::START));
        let mut missed = vec![remove("one")];
        news.tell_listed(&mut missed);
        assert_eq!(missed, [remove("one")]);
    }

    #[test]
    fn their_number_is_bounded() {
        let news = RelayNews::default();
        let mut all: Vec<_> = (0..MAX_WAITING).map_while(|_| news.enter(None)).collect();
        assert_eq!(all.len(), MAX_WAITING);
        assert!(news.enter(None).is_none());
        all.pop();
        assert!(news.enter(None).is_some());
    }
}
