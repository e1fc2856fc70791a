//! What the dispatcher counts, and what it tells Prometheus (docs/metrics.md).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::finished::{Finished, Reason};
use super::limits::Limit;
use super::ports::PORTS;
use super::registry::{Source, State};
use super::waiting::lock;
use super::{Dispatcher, Running};
use crate::logging;
use crate::metrics::{Counter, Exposition, Gauge, Histogram, Listener, process};
use crate::sys::clock;

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

const ASKED: [(Asked, &str); 4] = [
    (Asked::NewCall, "new_call"),
    (Asked::Update, "update"),
    (Asked::Remove, "remove"),
    (Asked::Invalid, "invalid"),
];

const REASONS: [(Reason, &str); 5] = [
    (Reason::Removed, "removed"),
    (Reason::Expired, "expired"),
    (Reason::LostRelay, "lost_relay"),
    (Reason::Purged, "purged"),
    (Reason::Ended, "administrator"),
];

/// What a relay says and what changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// Of a session that another relay was given.
    Foreign,
    /// An answer to no request.
    Unasked,
    /// Ends of unknown sessions beyond what is taken at once.
    TooMany,
}

const IGNORED: [(Ignored, &str); 3] = [
    (Ignored::Foreign, "foreign"),
    (Ignored::Unasked, "unasked"),
    (Ignored::TooMany, "too_many"),
];

/// Counted since the start by whoever does it; nobody waits.
#[derive(Debug, Default)]
pub struct Counts {
    /// Of each kind: answered; answered `error`; how long it took.
    requests: [(Counter, Counter, Histogram); ASKED.len()],
    /// A new call was offered to one more relay.
    pub retries: Counter,
    /// New calls that were refused for the unanswered ones of their address, and of their user.
    limited: [Counter; 2],
    ended: [Counter; REASONS.len()],
    timed_out: Counter,
    cut_off: [Counter; Limit::ALL.len()],
    ignored: [Counter; IGNORED.len()],
    /// Connections of the SIP proxy, and of management clients.
    pub proxies: Gauge,
    pub clients: Gauge,
}

impl Counts {
    /// A request was answered, so long after it was read.
    pub fn request(&self, asked: Asked, is_error: bool, took: Duration) {
        if let Some((all, errors, times)) = self.requests.get(asked as usize) {
            let counter = if is_error { errors } else { all };
            counter.add(1);
            times.observe(took);
        }
    }

    /// A relay was cut off, since it went beyond a limit.
    pub fn cut_off(&self, limit: Limit) {
        if let Some(counter) = self.cut_off.get(limit as usize) {
            counter.add(1);
        }
    }

    pub fn ignored(&self, what: Ignored) {
        if let Some(counter) = self.ignored.get(what as usize) {
            counter.add(1);
        }
    }

    /// A new call was refused: too many of this source are unanswered.
    pub fn limited(&self, source: &Source) {
        let [by_address, by_user] = &self.limited;
        match source {
            Source::Address(_) => by_address.add(1),
            Source::User(_) => by_user.add(1),
        }
    }

    fn ended(&self, reason: Reason, timed_out: bool) {
        if let Some(counter) = self.ended.get(reason as usize) {
            counter.add(1);
        }
        self.timed_out.add(u64::from(timed_out));
    }
}

/// What became of dialogs that were to be ended, since the start.
#[derive(Debug, Default)]
pub struct Dialogs {
    pub ended: Counter,
    pub gone: Counter,
    pub refused: Counter,
    pub unanswered: Counter,
    pub unasked: Counter,
}

impl Dialogs {
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

impl Running {
    /// Answers scrapes on a port from now on.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub fn serve_metrics(&self, listener: Listener) -> Result<(), String> {
        let dispatcher = Arc::clone(&self.dispatcher);
        listener.serve(move || dispatcher.metrics())
    }
}

impl Dispatcher {
    /// Hands over ended sessions; for each: false where it comes again.
    pub(super) fn hand_over(&self, ended: Vec<Finished>) -> Vec<bool> {
        if ended.is_empty() {
            return Vec::new();
        }
        {
            let now = clock::mono();
            let mut past = lock(&self.past);
            ended.iter().for_each(|one| past.end(one, now));
        }
        let how = |one: &Finished| (one.reason, one.timed_out, one.is_kept);
        let how: Vec<_> = ended.iter().map(how).collect();
        let recorded = self.finisher.finish(ended);
        for ((reason, timed_out, is_kept), is_recorded) in how.into_iter().zip(&recorded) {
            // What its relay does not keep is told once.
            if *is_recorded || !is_kept {
                self.counts.ended(reason, timed_out);
            }
        }
        recorded
    }

    /// All metrics as text.
    pub fn metrics(&self) -> String {
        let mut text = Exposition::default();
        self.write_relays(&mut text);
        self.write_failures(&mut text);
        self.write_requests(&mut text);
        self.write_sessions(&mut text);
        self.finisher.write_metrics(&mut text);
        self.write_process(&mut text);
        text.finish()
    }

    fn write_relays(&self, text: &mut Exposition) {
        let standings = lock(&self.registry).standings();
        // By what they are called here: no two samples may have the same labels.
        let mut relays: BTreeMap<(String, String), (bool, usize, usize)> = BTreeMap::new();
        for standing in &standings {
            let address = standing.relay.address.to_string();
            let name = standing
                .relay
                .name
                .as_deref()
                .unwrap_or(&address)
                .to_owned();
            let (is_up, sessions, unanswered) = relays.entry((name, address)).or_default();
            *is_up |= standing.state.is_connected();
            *sessions += standing.sessions;
            *unanswered += standing.unanswered;
        }
        let mut family = text.gauge(
            "mediaproxy_dispatcher_relays",
            "Known relays by state: active ones take new calls, drained ones do not by the administrator's \
             word, halting ones by their own, timed_out ones owe an answer, \
             away ones have no link, and calls of theirs are still known.",
        );
        for state in State::ALL {
            let count = standings.iter().filter(|one| one.state == state).count();
            family.with(&[("state", state.as_str())], count);
        }
        let mut family = text.gauge(
            "mediaproxy_dispatcher_relay_up",
            "Whether a relay is connected; one of which no call is known is forgotten when it goes.",
        );
        for ((relay, address), (is_up, ..)) in &relays {
            family.with(&[("relay", relay), ("address", address)], *is_up);
        }
        let mut family = text.gauge(
            "mediaproxy_dispatcher_sessions",
            "Calls by the relay that has them.",
        );
        for ((relay, address), (_, sessions, _)) in &relays {
            family.with(&[("relay", relay), ("address", address)], *sessions);
        }
        let mut family = text.gauge(
            "mediaproxy_dispatcher_sessions_unanswered",
            "Those of them that nobody has answered, as far as this dispatcher has seen them begin.",
        );
        for ((relay, address), (_, _, unanswered)) in &relays {
            family.with(&[("relay", relay), ("address", address)], *unanswered);
        }
    }

    fn write_failures(&self, text: &mut Exposition) {
        let mut family = text.counter(
            "mediaproxy_dispatcher_failed_connections_total",
            "Connections to the relays' port and to the management port that came to nothing, by cause.",
        );
        for (port, name) in PORTS {
            for (cause, count) in self.failures(port).counts() {
                family.with(&[("port", name), ("cause", cause)], count);
            }
        }
    }

    fn write_requests(&self, text: &mut Exposition) {
        let counts = &self.counts;
        let mut family = text.counter(
            "mediaproxy_dispatcher_relays_cut_off_total",
            "Links that were closed since their relay went beyond what a relay can have, by the limit; the log says which.",
        );
        for ((_, limit), counter) in Limit::ALL.iter().zip(&counts.cut_off) {
            family.with(&[("limit", limit)], counter.get());
        }
        let mut family = text.counter(
            "mediaproxy_dispatcher_relay_reports_ignored_total",
            "What relays said and what changed nothing: of calls that another relay was given (foreign), answers to no \
             request (unasked), and ends of unknown calls beyond what is taken at once (too_many).",
        );
        for ((_, what), counter) in IGNORED.iter().zip(&counts.ignored) {
            family.with(&[("what", what)], counter.get());
        }
        let kinds = || ASKED.iter().zip(&counts.requests);
        let mut family = text.counter(
            "mediaproxy_dispatcher_requests_total",
            "Requests of the SIP proxy by kind and result; new_call is the update that makes a call.",
        );
        for ((_, request), (ok, errors, _)) in kinds() {
            family.with(&[("request", request), ("result", "ok")], ok.get());
            family.with(&[("request", request), ("result", "error")], errors.get());
        }
        let mut family = text.histogram(
            "mediaproxy_dispatcher_request_duration_seconds",
            "Time from the reading of a request to its answer; a SIP proxy waits 0.5 s.",
        );
        for ((_, request), (_, _, times)) in kinds() {
            family.with(&[("request", request)], &times.snapshot());
        }
        text.gauge(
            "mediaproxy_dispatcher_requests_waiting",
            "Requests that wait for an earlier one of their call.",
        )
        .is(self.turns.queued());
        text.counter(
            "mediaproxy_dispatcher_relay_retries_total",
            "New calls that were offered to one more relay, since one refused or was silent.",
        )
        .is(counts.retries.get());
        let [by_address, by_user] = &counts.limited;
        text.counter(
            "mediaproxy_dispatcher_calls_limited_total",
            "New calls that were refused since too many of their signaling address, or From user, are unanswered.",
        )
        .with(&[("limit", "address")], by_address.get())
        .with(&[("limit", "user")], by_user.get());
        text.gauge(
            "mediaproxy_dispatcher_proxy_connections",
            "Connections of the SIP proxy.",
        )
        .is(counts.proxies.get());
        text.gauge(
            "mediaproxy_dispatcher_management_clients",
            "Clients of the management port and socket.",
        )
        .is(counts.clients.get());
    }

    fn write_sessions(&self, text: &mut Exposition) {
        let mut family = text.counter(
            "mediaproxy_dispatcher_sessions_ended_total",
            "Calls that ended: removed by the SIP proxy, expired on their relay, with a relay that stayed away \
             (lost_relay) or came back without them (purged), or by the administrator.",
        );
        for ((_, reason), counter) in REASONS.iter().zip(&self.counts.ended) {
            family.with(&[("reason", reason)], counter.get());
        }
        text.counter(
            "mediaproxy_dispatcher_sessions_timed_out_total",
            "Calls that their relay ended without the SIP proxy, as a rule for want of media.",
        )
        .is(self.counts.timed_out.get());
    }

    fn write_process(&self, text: &mut Exposition) {
        let mut family = text.gauge(
            "mediaproxy_dispatcher_certificate_expiry_timestamp_seconds",
            "End of the validity of the dispatcher's certificate, or of one between it and the CA, seconds since 1970.",
        );
        if let Some(end) = self.store.current().own_end() {
            family.is(end as f64);
        }
        let mut family = text.counter(
            "mediaproxy_dispatcher_log_messages_total",
            "Errors and warnings that were logged.",
        );
        for (level, count) in logging::counts() {
            family.with(&[("level", level)], count);
        }
        text.gauge(
            "mediaproxy_dispatcher_build_info",
            "1; the version is the label.",
        )
        .with(&[("version", env!("CARGO_PKG_VERSION"))], true);
        process::write(text);
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
