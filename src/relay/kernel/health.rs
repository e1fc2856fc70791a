//! Whether the kernel's forwarding can be trusted: where media entered and none left, flows wait in user space for a
//! while, then one of them tries. Pure.

use std::time::Duration;

use crate::moment::Moment;

/// How long flows wait after the first trouble, and at most.
const FIRST_WAIT: Duration = Duration::from_secs(15);
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// A trial that has brought neither media nor trouble by then was of a call that ended.
const TRIAL_LIMIT: Duration = Duration::from_secs(10);
/// Trouble that comes back sooner than this is the same trouble.
const STEADY: Duration = Duration::from_secs(300);
/// After so many of these it is not tried before its time, whatever the host looks like.
const MOST_RELAPSES: u32 = 2;
/// How often the host is looked at while flows wait.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// What the host's settings let expect of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outlook {
    /// It cannot work.
    Closed,
    /// A chain drops what none of its rules accepts, and no rule names the relay's mark. Others may accept it.
    Walled,
    Open,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Since this time.
    Good(Moment),
    /// Until this time.
    Suspended(Moment),
    /// Since this time one flow tries.
    Trial(Moment),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Health {
    phase: Phase,
    wait: Duration,
    /// How often trouble came back soon.
    relapses: u32,
    /// When the host was looked at last, while flows wait, and what there was to see.
    seen: Option<(Moment, Outlook)>,
}

impl Default for Health {
    fn default() -> Health {
        Health {
            phase: Phase::Good(Moment::START),
            wait: FIRST_WAIT,
            relapses: 0,
            seen: None,
        }
    }
}

impl Health {
    /// Whether a flow may be handed over now. Where flows wait, one that has much to send may try; `look` tells whether
    /// that is worth it.
    pub(super) fn admits(
        &mut self,
        now: Moment,
        has_much: bool,
        look: impl FnOnce() -> Outlook,
    ) -> bool {
        let is_due = match self.phase {
            Phase::Good(_) => return true,
            Phase::Suspended(until) => now >= until,
            Phase::Trial(since) if now < since + TRIAL_LIMIT => return false,
            Phase::Trial(_) => true,
        };
        if !has_much {
            return false;
        }
        let (outlook, is_better) = self.look(now, look);
        let may_try =
            outlook != Outlook::Closed && (is_due || (is_better && self.relapses < MOST_RELAPSES));
        if may_try {
            self.phase = Phase::Trial(now);
        }
        may_try
    }

    /// What the host lets expect, and whether that is more than when it was looked at before.
    fn look(&mut self, now: Moment, look: impl FnOnce() -> Outlook) -> (Outlook, bool) {
        match self.seen {
            Some((at, outlook)) if now < at + LOOK_INTERVAL => (outlook, false),
            before => {
                let outlook = look();
                self.seen = Some((now, outlook));
                (outlook, before.is_some_and(|(_, before)| outlook > before))
            }
        }
    }

    /// Media enters, and none leaves. True where that is news.
    pub(super) fn on_trouble(&mut self, now: Moment) -> bool {
        let good_since = match self.phase {
            Phase::Good(since) => Some(since),
            Phase::Suspended(_) => return false,
            Phase::Trial(_) => None,
        };
        match good_since {
            Some(since) if now < since + STEADY => self.relapses += 1,
            Some(_) => (self.wait, self.relapses) = (FIRST_WAIT, 0),
            None => {}
        }
        self.phase = Phase::Suspended(now + self.wait);
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        good_since.is_some()
    }

    /// Media has left by the kernel. True where that is news.
    pub(super) fn on_media(&mut self, now: Moment) -> bool {
        let was_trial = matches!(self.phase, Phase::Trial(_));
        if was_trial {
            self.phase = Phase::Good(now);
            self.seen = None;
        }
        was_trial
    }

    /// Whether it is long ago: all is well, or nobody has tried for long.
    pub(super) fn is_past(&self, now: Moment) -> bool {
        match self.phase {
            Phase::Good(since) => now >= since + STEADY,
            Phase::Suspended(at) | Phase::Trial(at) => now >= at + LONGEST_WAIT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::after_start(Duration::from_secs(1000 + seconds))
    }

    fn tries(health: &mut Health, now: u64) -> bool {
        health.admits(at(now), true, || Outlook::Open)
    }

    #[test]
    fn trouble_suspends_and_one_flow_at_a_time_tries_again() {
        let mut health = Health::default();
        assert!(health.admits(at(0), true, || panic!("nothing to try")));
        assert!(health.on_trouble(at(0)));
        assert!(!health.on_trouble(at(1)), "no news");
        assert!(!tries(&mut health, 14));
        assert!(!health.admits(at(15), false, || panic!("it would show nothing for long")));
        assert!(tries(&mut health, 15), "the trial");
        assert!(!tries(&mut health, 15), "one is enough");
        assert!(!health.on_trouble(at(16)), "still no news");
        assert!(!tries(&mut health, 16 + 29), "twice as long");
        assert!(tries(&mut health, 16 + 30));
        assert!(health.on_media(at(47)));
        assert!(!health.on_media(at(48)));
        assert!(health.admits(at(50), false, || panic!("as before")));
    }

    #[test]
    fn a_trial_whose_call_ended_is_followed_by_another() {
        let mut health = Health::default();
        health.on_trouble(at(0));
        assert!(tries(&mut health, 20));
        assert!(!tries(&mut health, 29));
        assert!(tries(&mut health, 30));
    }

    #[test]
    fn nothing_is_tried_while_it_is_known_not_to_work() {
        let mut health = Health::default();
        health.on_trouble(at(0));
        assert!(!health.admits(at(600), true, || Outlook::Closed));
        assert!(!health.admits(at(604), true, || panic!("looked at again later")));
        assert!(tries(&mut health, 605));
    }

    #[test]
    fn what_can_be_seen_to_be_mended_is_tried_at_once() {
        let mut health = Health::default();
        health.on_trouble(at(0));
        assert!(
            health.admits(at(15), true, || Outlook::Walled),
            "it may pass"
        );
        health.on_trouble(at(16));
        assert!(!health.admits(at(20), true, || Outlook::Walled));
        assert!(!health.admits(at(25), true, || Outlook::Walled));
        assert!(!health.admits(at(29), true, || panic!("not so often")));
        assert!(tries(&mut health, 30), "long before its time");
        health.on_trouble(at(31));
        assert!(!tries(&mut health, 36), "it was open before");
    }

    #[test]
    fn a_host_that_changes_again_and_again_is_not_believed() {
        let mut health = Health::default();
        for (round, tries_early) in [true, true, false].into_iter().enumerate() {
            let now = 100 * round as u64;
            health.on_trouble(at(now));
            assert!(!health.admits(at(now + 1), true, || Outlook::Walled));
            assert_eq!(tries(&mut health, now + 6), tries_early, "{round}");
            health.on_media(at(now + 7));
        }
    }

    #[test]
    fn trouble_that_comes_back_soon_waits_longer_and_longer() {
        let mut health = Health::default();
        let mut now = 0;
        for wait in [15, 30, 60, 120, 240, 480, 600, 600] {
            assert!(health.on_trouble(at(now)), "it was well again: news");
            assert!(!tries(&mut health, now + wait - 1), "{wait}");
            assert!(tries(&mut health, now + wait), "{wait}");
            health.on_media(at(now + wait));
            now += wait + 299;
        }
        now += 1;
        assert!(health.is_past(at(now)));
        health.on_trouble(at(now));
        assert!(tries(&mut health, now + 15), "well for five minutes");
    }
}
