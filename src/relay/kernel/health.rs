//! Whether the kernel's forwarding can be trusted: where media entered and none left, new flows wait in user space
//! for a while, then one of them tries. Pure.

use std::time::Duration;

const FIRST_WAIT: Duration = Duration::from_secs(15);
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// A trial that has brought neither media nor trouble by then was of a call that ended.
const TRIAL: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Good,
    /// Until this time.
    Suspended(Duration),
    /// Since this time one flow tries.
    Trial(Duration),
}

/// See the module.
#[derive(Debug)]
pub struct Health {
    state: State,
    wait: Duration,
}

impl Default for Health {
    fn default() -> Health {
        Health {
            state: State::Good,
            wait: FIRST_WAIT,
        }
    }
}

impl Health {
    /// Whether a flow may be handed over now. `is_ready` tells whether it is worth a trial.
    pub fn admits(&mut self, now: Duration, is_ready: impl FnOnce() -> bool) -> bool {
        let may_try = match self.state {
            State::Good => return true,
            State::Suspended(until) => now >= until,
            State::Trial(since) => now >= since + TRIAL,
        };
        if may_try && !is_ready() {
            self.state = State::Suspended(now + FIRST_WAIT);
            return false;
        }
        if may_try {
            self.state = State::Trial(now);
        }
        may_try
    }

    /// Media enters, and none leaves. True where that is news.
    pub fn on_trouble(&mut self, now: Duration) -> bool {
        let is_news = self.state == State::Good;
        if !matches!(self.state, State::Suspended(_)) {
            self.state = State::Suspended(now + self.wait);
            self.wait = (self.wait * 2).min(LONGEST_WAIT);
        }
        is_news
    }

    /// Media has left by the kernel. True where that is news.
    pub fn on_media(&mut self) -> bool {
        let was_trial = matches!(self.state, State::Trial(_));
        if was_trial {
            *self = Health::default();
        }
        was_trial
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn trouble_suspends_and_one_flow_at_a_time_tries_again() {
        let mut health = Health::default();
        assert!(health.admits(at(0), || panic!("nothing to try")));
        assert!(health.on_trouble(at(0)));
        assert!(!health.on_trouble(at(1)), "no news");
        assert!(!health.admits(at(14), || true));
        assert!(health.admits(at(15), || true), "the trial");
        assert!(!health.admits(at(15), || true), "one is enough");
        assert!(!health.on_trouble(at(16)), "still no news");
        assert!(!health.admits(at(16 + 29), || true), "twice as long");
        assert!(health.admits(at(16 + 30), || true));
        assert!(health.on_media());
        assert!(!health.on_media());
        assert!(health.admits(at(50), || panic!("as before")));
    }

    #[test]
    fn a_trial_whose_call_ended_is_followed_by_another() {
        let mut health = Health::default();
        health.on_trouble(at(0));
        assert!(health.admits(at(20), || true));
        assert!(!health.admits(at(29), || true));
        assert!(health.admits(at(30), || true));
    }

    #[test]
    fn nothing_is_tried_while_it_is_known_not_to_work() {
        let mut health = Health::default();
        health.on_trouble(at(0));
        assert!(!health.admits(at(20), || false));
        assert!(!health.admits(at(34), || true), "looked at again later");
        assert!(health.admits(at(35), || true));
    }
}
