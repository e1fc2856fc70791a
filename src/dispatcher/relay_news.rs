//! Requests for calls whose relays are away: each waits in its own thread, under its own deadline, and all of them look
//! again where the calls are when there is news of a relay: it is up, or it has told its sessions. Relays come seldom, so
//! that nobody has to be found among those who wait.

use std::sync::{Condvar, Mutex};

use crate::moment::Moment;
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
    waiting: usize,
}

/// One who waits, until this is dropped.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    news: &'a RelayNews,
    /// How much news it has seen.
    seen: u64,
}

impl RelayNews {
    /// Somebody waits from now on: what comes from now on is news. None where too many do.
    pub(super) fn enter(&self) -> Option<Waiting<'_>> {
        let mut state = lock(&self.state);
        if state.waiting >= MAX_WAITING {
            return None;
        }
        state.waiting += 1;
        Some(Waiting {
            news: self,
            seen: state.count,
        })
    }

    /// A relay is up, or has told its sessions.
    pub(super) fn tell(&self) {
        lock(&self.state).count += 1;
        self.told.notify_all();
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        lock(&self.state).waiting
    }
}

impl Waiting<'_> {
    /// Waits for news. False when there is none by the deadline.
    pub(super) fn wait(&mut self, deadline: Moment) -> bool {
        let mut state = lock(&self.news.state);
        while state.count == self.seen && clock::moment() < deadline {
            state = wait_until(&self.news.told, state, deadline);
        }
        let is_news = state.count != self.seen;
        self.seen = state.count;
        is_news
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(&self.news.state).waiting -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn all_who_wait_hear_of_a_relay_and_each_once() {
        let news = RelayNews::default();
        news.tell();
        thread::scope(|scope| {
            let mut waiting: Vec<_> = (0..3).map(|_| news.enter().unwrap()).collect();
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
        let mut one = news.enter().unwrap();
        news.tell();
        assert!(one.wait(Moment::START));
    }

    #[test]
    fn their_number_is_bounded() {
        let news = RelayNews::default();
        let mut all: Vec<_> = (0..MAX_WAITING).map_while(|_| news.enter()).collect();
        assert_eq!(all.len(), MAX_WAITING);
        assert!(news.enter().is_none());
        all.pop();
        assert!(news.enter().is_some());
    }
}
