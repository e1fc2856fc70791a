//! What the relay tells Prometheus (docs/metrics.md).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Running;
use super::message::Message;
use super::request_counts::{Answered, Asked};
use super::shared::Shared;
use crate::config::Forwarding;
use crate::metrics::{Counter, Exposition, Listener, process};
use crate::session::DropReason;
use crate::sys::clock;
use crate::{logging, metrics};

/// How long a worker may take to count its streams; one that is busier is left out.
const WORKER_LIMIT: Duration = Duration::from_secs(1);

/// The types that have a name of their own: what else phones invent is counted together.
const MEDIA_TYPES: [&str; 5] = ["audio", "video", "image", "text", "application"];
const OTHER: &str = "other";

impl Running {
    /// Answers scrapes on a port from now on.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub fn serve_metrics(&self, listener: Listener) -> Result<(), String> {
        let shared = Arc::clone(&self.shared);
        listener.serve(move || shared.metrics())
    }
}

impl Shared {
    /// All of it as text.
    fn metrics(&self) -> String {
        let mut text = Exposition::default();
        self.write_sessions(&mut text);
        self.write_media(&mut text);
        self.write_kernel(&mut text);
        self.write_take_over(&mut text);
        self.write_ports(&mut text);
        self.write_links(&mut text);
        self.write_requests(&mut text);
        self.write_spool(&mut text);
        self.write_process(&mut text);
        text.finish()
    }

    fn write_sessions(&self, text: &mut Exposition) {
        text.gauge(
            "mediaproxy_relay_sessions",
            "Calls on this relay that are not over and reported.",
        )
        .is(self.workers.sessions());
        text.counter(
            "mediaproxy_relay_sessions_started_total",
            "Calls that began here.",
        )
        .is(self.workers.sum(|counts| &counts.started));
        text.counter(
            "mediaproxy_relay_sessions_ended_total",
            "Calls that ended: removed by the SIP proxy, or expired without it for want of media or by the relay's end.",
        )
        .with(&[("how", "removed")], self.workers.sum(|counts| &counts.removed))
        .with(&[("how", "expired")], self.workers.sum(|counts| &counts.expired));
        let mut family = text.gauge("mediaproxy_relay_streams", "Live streams by media type.");
        for (media_type, count) in self.streams() {
            family.with(&[("media_type", media_type)], count);
        }
    }

    /// Each worker is asked, once.
    fn streams(&self) -> BTreeMap<&'static str, usize> {
        let (answer, answers) = crossbeam_channel::bounded(self.workers.count());
        let asked = (0..self.workers.count()).filter(|worker| {
            // One that is gone has no streams.
            self.workers.send(*worker, Message::Streams(answer.clone()))
        });
        let asked = asked.count();
        let names = MEDIA_TYPES.iter().chain([&OTHER]);
        let mut streams: BTreeMap<&str, usize> = names.map(|name| (*name, 0)).collect();
        let deadline = clock::moment() + WORKER_LIMIT;
        for _ in 0..asked {
            let left = deadline.since(clock::moment());
            let Ok(counts) = answers.recv_timeout(left) else {
                break;
            };
            for (media_type, count) in counts {
                let known = MEDIA_TYPES.iter().find(|known| **known == media_type);
                *streams.entry(known.copied().unwrap_or(OTHER)).or_default() += count;
            }
        }
        streams
    }

    fn write_media(&self, text: &mut Exposition) {
        text.counter(
            "mediaproxy_relay_relayed_packets_total",
            "Packets that were passed on, by the relay itself or by the kernel.",
        )
        .with(
            &[("path", "user_space")],
            self.workers.sum(|counts| &counts.user_space.packets),
        )
        .with(
            &[("path", "kernel")],
            self.workers.sum(|counts| &counts.kernel.packets),
        );
        text.counter(
            "mediaproxy_relay_relayed_bytes_total",
            "The same in bytes, IP and UDP headers included.",
        )
        .with(
            &[("path", "user_space")],
            self.workers.sum(|counts| &counts.user_space.bytes),
        )
        .with(
            &[("path", "kernel")],
            self.workers.sum(|counts| &counts.kernel.bytes),
        );
        let mut family = text.counter(
            "mediaproxy_relay_dropped_packets_total",
            "Packets that were not passed on, by reason.",
        );
        for (at, why) in DropReason::ALL.iter().enumerate() {
            let counts = self
                .workers
                .all_counts()
                .filter_map(|counts| counts.dropped.get(at));
            let reason = why.as_str().replace(' ', "_");
            family.with(
                &[("reason", &reason)],
                counts.map(Counter::get).sum::<u64>(),
            );
        }
        text.counter(
            "mediaproxy_relay_unsent_packets_total",
            "Packets that this host did not take: no route, a firewall, a full queue.",
        )
        .is(self.workers.sum(|counts| &counts.unsent));
    }

    fn write_kernel(&self, text: &mut Exposition) {
        text.gauge(
            "mediaproxy_relay_kernel_forwarding_wanted",
            "1 where forwarding is auto or kernel, 0 where it is userspace.",
        )
        .is(self.settings.forwarding != Forwarding::Userspace);
        text.gauge(
            "mediaproxy_relay_kernel_forwarding_active",
            "1 where the kernel forwards media, 0 where the relay alone does.",
        )
        .is(self.kernel.orders.is_some());
        text.gauge(
            "mediaproxy_relay_kernel_flows",
            "Flows that the kernel forwards: two for each stream with RTP and RTCP.",
        )
        .is(self.kernel.flows.get());
        text.counter(
            "mediaproxy_relay_kernel_flows_taken_total",
            "Flows that the kernel took over.",
        )
        .is(self.workers.sum(|counts| &counts.flows.taken));
        text.counter(
            "mediaproxy_relay_kernel_flows_refused_total",
            "Flows that stay in user space: for a while (not_now), while nothing leaves the kernel (suspended), or because a \
             party is on this host (never).",
        )
        .with(&[("reason", "not_now")], self.workers.sum(|counts| &counts.flows.not_now))
        .with(&[("reason", "suspended")], self.workers.sum(|counts| &counts.flows.suspended))
        .with(&[("reason", "never")], self.workers.sum(|counts| &counts.flows.never));
        text.counter(
            "mediaproxy_relay_kernel_flows_lost_total",
            "Flows that came back to user space: others deleted them, packets did not leave the kernel (stuck), or did \
             not reach them (bypassed).",
        )
        .with(&[("reason", "deleted")], self.workers.sum(|counts| &counts.flows.deleted))
        .with(&[("reason", "stuck")], self.workers.sum(|counts| &counts.flows.stuck))
        .with(&[("reason", "bypassed")], self.workers.sum(|counts| &counts.flows.bypassed));
    }

    /// What became of the calls and flows of the process before this one.
    fn write_take_over(&self, text: &mut Exposition) {
        let calls = self.taken_over.get().copied().unwrap_or_default();
        text.gauge(
            "mediaproxy_relay_take_over_sessions",
            "Calls of the relay before this one at this one's start: they go on (adopted), or could not and were ended (lost).",
        )
        .with(&[("result", "adopted")], calls.adopted)
        .with(&[("result", "lost")], calls.lost);
        text.gauge(
            "mediaproxy_relay_take_over_flows",
            "Flows that it had left in the kernel: they go on (adopted), were of such a call and gone (lost), or were no call's \
             and removed (swept).",
        )
        .with(&[("result", "adopted")], self.kernel.takeover.adopted.get())
        .with(&[("result", "lost")], self.kernel.takeover.lost.get())
        .with(&[("result", "swept")], self.kernel.takeover.swept.get());
        text.gauge(
            "mediaproxy_relay_take_over_seconds",
            "How long that took, until new requests were taken.",
        )
        .is(calls.took.as_secs_f64());
        text.gauge(
            "mediaproxy_relay_state_kept",
            "1 where the state of calls is kept for the process after this one, 0 where calls end with this one.",
        )
        .is(self.state.is_some());
    }

    fn write_ports(&self, text: &mut Exposition) {
        let (census, available) = self.ports.census(clock::moment());
        let unused = census.ready + census.resting + census.bad;
        text.gauge(
            "mediaproxy_relay_port_pairs",
            "RTP/RTCP port pairs of port_range by state; a stream takes two. Bad ones are another program's.",
        )
        .with(&[("state", "free")], census.ready)
        .with(&[("state", "resting")], census.resting)
        .with(&[("state", "bad")], census.bad)
        .with(&[("state", "used")], self.ports.pairs().saturating_sub(unused));
        text.gauge(
            "mediaproxy_relay_port_pairs_available",
            "Port pairs that new streams could take now; the limit on open files counts, too.",
        )
        .is(available);
    }

    fn write_links(&self, text: &mut Exposition) {
        let dispatchers = self.dispatchers.all();
        let named: Vec<_> = dispatchers
            .iter()
            .filter(|known| !known.queue.is_finishing())
            .map(|known| (known.address.to_string(), known))
            .collect();
        let mut family = text.gauge(
            "mediaproxy_relay_link_up",
            "Whether the dispatcher is connected.",
        );
        for (dispatcher, known) in &named {
            family.with(&[("dispatcher", dispatcher)], known.queue.is_connected());
        }
        let mut family = text.counter(
            "mediaproxy_relay_link_losses_total",
            "Connections to the dispatcher that were lost.",
        );
        for (dispatcher, known) in &named {
            family.with(&[("dispatcher", dispatcher)], known.losses.get());
        }
        let mut family = text.counter(
            "mediaproxy_relay_link_failures_total",
            "Attempts to connect to the dispatcher that failed.",
        );
        for (dispatcher, known) in &named {
            family.with(&[("dispatcher", dispatcher)], known.failures.get());
        }
    }

    fn write_requests(&self, text: &mut Exposition) {
        let mut family = text.counter(
            "mediaproxy_relay_requests_total",
            "Requests of dispatchers by command and result.",
        );
        for (asked, command) in Asked::ALL {
            for (answered, result) in Answered::ALL {
                // Only new calls are answered so.
                if answered == Answered::Halting && asked != Asked::Update {
                    continue;
                }
                let count = self.requests.get(asked, answered);
                family.with(&[("command", command), ("result", result)], count);
            }
        }
        text.histogram(
            "mediaproxy_relay_update_duration_seconds",
            "Time from the reading of an update to its answer.",
        )
        .with(&[], &self.requests.updates.snapshot());
    }

    fn write_spool(&self, text: &mut Exposition) {
        let spool = self.ended.spool.as_ref();
        text.gauge(
            "mediaproxy_relay_spool_active",
            "1 where ended calls are kept on disk until a dispatcher confirms them, 0 where state_dir cannot be written.",
        )
        .is(spool.is_some());
        text.gauge(
            "mediaproxy_relay_spool_records",
            "Ended calls that no dispatcher has confirmed yet.",
        )
        .is(spool.map_or(0, super::spool::Spool::open));
        text.gauge(
            "mediaproxy_relay_spool_bytes",
            "Bytes of the spool on disk.",
        )
        .is(spool.map_or(0, super::spool::Spool::size));
        text.gauge(
            "mediaproxy_relay_spool_limit_bytes",
            "What the spool may have: journal_limit.",
        )
        .is(self.settings.journal_limit);
    }

    fn write_process(&self, text: &mut Exposition) {
        text.gauge(
            "mediaproxy_relay_draining",
            "1 while the relay takes no new calls.",
        )
        .is(self.draining.load(Ordering::Relaxed));
        let mut family = text.counter(
            "mediaproxy_relay_worker_cpu_seconds_total",
            "CPU time of each thread that relays in user space.",
        );
        for (index, spent) in process::thread_cpu("worker").into_iter().enumerate() {
            family.with(&[("worker", &index.to_string())], spent);
        }
        let mut family = text.gauge(
            "mediaproxy_relay_certificate_expiry_timestamp_seconds",
            "End of the validity of the relay's certificate, or of one between it and the CA, seconds since 1970.",
        );
        if let Some(end) = self.store.current().own_end() {
            family.is(end as f64);
        }
        let mut family = text.counter(
            "mediaproxy_relay_log_messages_total",
            "Errors and warnings that were logged.",
        );
        for (level, count) in logging::counts() {
            family.with(&[("level", level)], count);
        }
        text.gauge(
            "mediaproxy_relay_build_info",
            "1; the version is the label.",
        )
        .with(&[("version", env!("CARGO_PKG_VERSION"))], true);
        metrics::process::write(text);
    }
}
