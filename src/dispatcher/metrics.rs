//! What the dispatcher tells Prometheus (docs/metrics.md).

use std::collections::BTreeMap;

use super::counts::{ASKED, IGNORED, REASONS};
use super::failed_connections::PORTS;
use super::limits::Limit;
use super::registry::RelayState;
use super::shared::Dispatcher;
use crate::logging;
use crate::metrics::{Exposition, process};
use crate::sys::sync::lock;

impl Dispatcher {
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
        let standings = lock(&self.registry).relays.statuses();
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
        for state in RelayState::ALL {
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
            for (cause, count) in lock(self.failures(port)).counts() {
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
        .is(self.call_queues.queued());
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
