//! What the dispatcher counts.

use std::time::Duration;

use super::ended_call::Reason;
use super::limits::Limit;
use super::registry::Source;
use crate::metrics::{Counter, Exposition, Gauge, Histogram};

/// What the SIP proxy asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The update that makes a call, or was to.
    NewCall,
    Update,
    Remove,
    /// Something that cannot be read.
    Invalid,
}

pub(super) const ASKED: [(Asked, &str); 4] = [
    (Asked::NewCall, "new_call"),
    (Asked::Update, "update"),
    (Asked::Remove, "remove"),
    (Asked::Invalid, "invalid"),
];

pub(super) const REASONS: [(Reason, &str); 5] = [
    (Reason::Removed, "removed"),
    (Reason::Expired, "expired"),
    (Reason::LostRelay, "lost_relay"),
    (Reason::Purged, "purged"),
    (Reason::Ended, "administrator"),
];

/// What a relay says and what changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ignored {
    /// Of a session that another relay was given.
    Foreign,
    /// An answer to no request.
    Unasked,
    /// Ends of unknown sessions beyond what is taken at once.
    TooMany,
}

pub(super) const IGNORED: [(Ignored, &str); 3] = [
    (Ignored::Foreign, "foreign"),
    (Ignored::Unasked, "unasked"),
    (Ignored::TooMany, "too_many"),
];

/// Counted since the start by whoever does it; nobody waits.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Of each kind: answered; answered `error`; how long it took.
    pub(super) requests: [(Counter, Counter, Histogram); ASKED.len()],
    /// A new call was offered to one more relay.
    pub retries: Counter,
    /// New calls that were refused for the unanswered ones of their address, and of their user.
    pub(super) limited: [Counter; 2],
    pub(super) ended: [Counter; REASONS.len()],
    pub(super) timed_out: Counter,
    pub(super) cut_off: [Counter; Limit::ALL.len()],
    pub(super) ignored: [Counter; IGNORED.len()],
    /// Connections of the SIP proxy, and of management clients.
    pub proxies: Gauge,
    pub clients: Gauge,
}

impl Counts {
    /// A request was answered, so long after it was read.
    pub(super) fn request(&self, asked: Asked, is_error: bool, took: Duration) {
        if let Some((all, errors, times)) = self.requests.get(asked as usize) {
            let counter = if is_error { errors } else { all };
            counter.add(1);
            times.observe(took);
        }
    }

    /// A relay was cut off, since it went beyond a limit.
    pub(super) fn cut_off(&self, limit: Limit) {
        if let Some(counter) = self.cut_off.get(limit as usize) {
            counter.add(1);
        }
    }

    pub(super) fn ignored(&self, what: Ignored) {
        if let Some(counter) = self.ignored.get(what as usize) {
            counter.add(1);
        }
    }

    /// A new call was refused: too many of this source are unanswered.
    pub(super) fn limited(&self, source: &Source) {
        let [by_address, by_user] = &self.limited;
        match source {
            Source::Address(_) => by_address.add(1),
            Source::User(_) => by_user.add(1),
        }
    }

    pub(super) fn ended(&self, reason: Reason, timed_out: bool) {
        if let Some(counter) = self.ended.get(reason as usize) {
            counter.add(1);
        }
        self.timed_out.add(u64::from(timed_out));
    }
}

/// What became of dialogs that were to be ended, since the start.
#[derive(Debug, Default)]
pub struct DialogCounts {
    pub ended: Counter,
    pub gone: Counter,
    pub refused: Counter,
    pub unanswered: Counter,
    pub unasked: Counter,
}

impl DialogCounts {
    pub fn write(&self, text: &mut Exposition) {
        text.counter(
            "mediaproxy_dispatcher_dialogs_ended_total",
            "Dialogs whose media died, by what became of them at the SIP proxy: ended, gone already, refused, \
             unanswered, or unasked since that was not possible.",
        )
        .with(&[("result", "ended")], self.ended.get())
        .with(&[("result", "gone")], self.gone.get())
        .with(&[("result", "refused")], self.refused.get())
        .with(&[("result", "unanswered")], self.unanswered.get())
        .with(&[("result", "unasked")], self.unasked.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_at_their_numbers() {
        for (at, (asked, _)) in ASKED.iter().enumerate() {
            assert_eq!(*asked as usize, at);
        }
        for (at, (reason, _)) in REASONS.iter().enumerate() {
            assert_eq!(*reason as usize, at);
        }
        for (at, (limit, _)) in Limit::ALL.iter().enumerate() {
            assert_eq!(*limit as usize, at);
        }
        for (at, (what, _)) in IGNORED.iter().enumerate() {
            assert_eq!(*what as usize, at);
        }
    }

    #[test]
    fn requests_are_counted_by_kind_and_result() {
        let counts = Counts::default();
        counts.request(Asked::NewCall, false, Duration::from_millis(3));
        counts.request(Asked::NewCall, true, Duration::from_millis(3));
        counts.request(Asked::Invalid, true, Duration::ZERO);
        let shown: Vec<(u64, u64, u64)> = counts
            .requests
            .iter()
            .map(|(ok, errors, times)| (ok.get(), errors.get(), times.snapshot().count))
            .collect();
        assert_eq!(shown, [(1, 1, 2), (0, 0, 0), (0, 0, 0), (0, 1, 1)]);
    }

    #[test]
    fn ends_are_counted_by_reason() {
        let counts = Counts::default();
        counts.ended(Reason::Removed, false);
        counts.ended(Reason::Expired, true);
        counts.ended(Reason::Purged, false);
        let ended: Vec<u64> = counts.ended.iter().map(Counter::get).collect();
        assert_eq!((ended, counts.timed_out.get()), (vec![1, 1, 0, 1, 0], 1));
    }
}
