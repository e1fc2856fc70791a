//! What all threads of the dispatcher share.
//!
//! Lock order: an update under way, then the registry, then a link's queue.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use super::banned_relays::BannedRelays;
use super::call_queues::CallQueues;
use super::concurrency_limit::ConcurrencyLimit;
use super::counts::Counts;
use super::dialog::Enders;
use super::drained::Drained;
use super::ended_call::EndedCall;
use super::failed_connections::{FailedConnections, PORTS};
use super::finisher::Finisher;
use super::ledger::Earlier;
use super::link::Link;
use super::recent_calls::RecentCalls;
use super::registry::{Registry, Timeouts};
use super::relay_news::RelayNews;
use super::settings::Settings;
use crate::daemon::Pulse;
use crate::logging::sparse::Sparse;
use crate::moment::Moment;
use crate::sys::clock;
use crate::sys::sync::lock;
use crate::tls::Store;

/// Ended sessions that are recorded together at most.
const MAX_RECORDED_TOGETHER: usize = 256;

/// Clients that may list sessions at once: each listing is megabytes for a moment.
const MAX_LISTINGS: usize = 4;

/// What all its threads share.
pub struct Dispatcher {
    pub(super) settings: Settings,
    pub(super) store: Arc<Store>,
    pub(super) registry: Mutex<Registry<Arc<Link>>>,
    pub(super) call_queues: CallQueues,
    /// Requests whose relays are away.
    pub(super) relay_news: RelayNews,
    pub(super) started: Moment,
    pub(super) finisher: Arc<dyn Finisher>,
    pub(super) counts: Counts,
    pub(super) drained: Drained,
    /// Calls that are over, for who asks why.
    pub(super) recent_calls: Mutex<RecentCalls>,
    /// Relays that were cut off.
    pub(super) banned_relays: Mutex<BannedRelays>,
    /// Lines about links that are refused: their relays try again and again.
    pub(super) refusals: Mutex<Sparse>,
    /// Lines about lists that are refused: a client may ask again at once.
    pub(super) unlisted: Mutex<Sparse>,
    /// Connections to the ports that came to nothing: the relays' and the management port.
    pub(super) failures: [Mutex<FailedConnections>; PORTS.len()],
    /// Lines about callers with too many unanswered calls.
    pub(super) limited: Mutex<Sparse>,
    /// Answers to `sessions` that are being read by a client.
    pub(super) listings: Arc<ConcurrencyLimit>,
    /// Where the administrator has dialogs ended.
    pub(super) enders: OnceLock<Arc<Enders>>,
    pub(super) random: (RandomState, AtomicU64),
    pub(super) stopping: AtomicBool,
    /// Beats with each round of the upkeep thread.
    pub(super) upkeep: Pulse,
}

impl Dispatcher {
    /// A dispatcher that does nothing yet. It goes on with the calls that one before it has noted.
    pub(super) fn new(
        settings: Settings,
        store: Arc<Store>,
        finisher: Arc<dyn Finisher>,
        earlier: &Earlier,
    ) -> Dispatcher {
        let patience = Timeouts {
            relay_recover_interval: settings.relay_recover_interval,
            cleanup_dead_relays_after: settings.cleanup_dead_relays_after,
            cleanup_expired_sessions_after: settings.cleanup_expired_sessions_after,
        };
        let drained = Drained::open(&settings.state_dir);
        let mut registry = registry(patience, finisher.records(), &drained, earlier);
        registry.calls.live.limit_unanswered(settings.limits);
        Dispatcher {
            settings,
            store,
            registry: Mutex::new(registry),
            drained,
            recent_calls: Mutex::default(),
            banned_relays: Mutex::default(),
            refusals: Mutex::new(Sparse::every(Duration::from_secs(60))),
            unlisted: Mutex::default(),
            limited: Mutex::default(),
            call_queues: CallQueues::default(),
            relay_news: RelayNews::default(),
            started: clock::moment(),
            finisher,
            counts: Counts::default(),
            failures: Default::default(),
            listings: ConcurrencyLimit::new(MAX_LISTINGS, MAX_LISTINGS),
            enders: OnceLock::new(),
            random: (RandomState::new(), AtomicU64::new(0)),
            stopping: AtomicBool::new(false),
            upkeep: Pulse::default(),
        }
    }

    /// Hands over ended sessions. No lock is held here.
    pub(super) fn finish(&self, ended: impl IntoIterator<Item = EndedCall>) {
        let mut ended = ended.into_iter().peekable();
        while ended.peek().is_some() {
            // Nobody else has them: what cannot be recorded now is held there and tried again.
            self.hand_over(ended.by_ref().take(MAX_RECORDED_TOGETHER).collect());
        }
    }

    /// Hands over ended sessions; for each: false where it comes again.
    pub(super) fn hand_over(&self, ended: Vec<EndedCall>) -> Vec<bool> {
        if ended.is_empty() {
            return Vec::new();
        }
        {
            let now = clock::moment();
            let mut past = lock(&self.recent_calls);
            ended.iter().for_each(|one| past.end(one, now));
        }
        let how = |one: &EndedCall| (one.reason, one.timed_out, one.is_kept);
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

    /// Marks a relay that owes an answer for longer than `relay_timeout`. Looks and marks under the registry's
    /// lock: a ping that comes meanwhile counts as later, and clears the mark.
    pub(super) fn look_for_silence(&self, link: &Link, now: Moment) {
        let timeout = self.settings.relay_timeout;
        let Some(limit) = now.checked_sub(timeout) else {
            return;
        };
        let mut registry = lock(&self.registry);
        let is_news = link.is_overdue(limit) && registry.relays.timed_out(link.id, now);
        drop(registry);
        if is_news {
            log::warn!(
                "relay {link} has not answered for {} s: no new calls until it answers again",
                timeout.as_secs_f32()
            );
        }
    }

    /// Brings to disk which relays are drained.
    ///
    /// # Errors
    /// A sentence with the path.
    pub fn keep_drained(&self) -> Result<(), String> {
        self.drained.keep(|| lock(&self.registry).relays.drained())
    }

    /// Unpredictable enough to spread calls.
    pub(super) fn random(&self) -> u64 {
        let (state, count) = &self.random;
        state.hash_one(count.fetch_add(1, Ordering::Relaxed))
    }
}

/// It knows the calls that a dispatcher before this one has left, and which relays were drained.
fn registry(
    patience: Timeouts,
    is_noting: bool,
    drained: &Drained,
    earlier: &Earlier,
) -> Registry<Arc<Link>> {
    let mut registry = Registry::new(patience);
    for relay in drained.relays() {
        registry.relays.drain(&relay);
    }
    let now = clock::now();
    registry.calls.live.set_wall(now);
    if !earlier.is_known {
        registry.calls.set_blind_before(now.unix);
    }
    if is_noting {
        registry.calls.live.note_calls();
    }
    registry.restore(earlier.calls.iter().cloned(), now.mono);
    let dialogs = earlier.dialogs.iter();
    registry
        .calls
        .restore_ended(dialogs.map(|due| due.name.clone()), now.mono);
    registry
}

/// For the log: connections end because this daemon does.
pub(super) fn is_stopping(dispatcher: &Dispatcher) -> bool {
    dispatcher.stopping.load(Ordering::Relaxed)
}
