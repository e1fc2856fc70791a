//! Accounting: every answered session is recorded once, whatever fails.
//!
//! ```text
//!  Accounting::take   a finished session into the journal, before any backend is tried
//!  Record             what the journal holds and backends get                         record
//!  delivery           one thread per backend: reads the journal from its own position  delivery, position, rejected
//!  Backend            where records go                                                backend: file, database, radius
//! ```
//!
//! In `state_dir`: `accounting/journal/` holds what is not delivered everywhere yet and some history,
//! `accounting/BACKEND.position` where each backend goes on, `accounting/rejected-BACKEND.jsonl` what it refused for
//! good. At least once on the wire, once in the table: a backend that cannot know whether a record arrived gets it
//! again and recognises it by its `session_id`.

pub mod backend;
pub mod database;
mod delivery;
#[cfg(feature = "file")]
pub mod file;
pub mod metrics;
mod open;
pub mod position;
#[cfg(feature = "radius")]
pub mod radius;
pub mod record;
mod recorded;
mod rejected;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use log::{Level, error, info, warn};

pub use backend::{Backend, DeliveryResult, Unavailable};
pub use delivery::Progress;
use delivery::{Delivery, Shared};
pub use open::backends;
pub use record::Record;
use recorded::{Recorded, SessionKey, SessionKeys};

use crate::journal::{Backlog, Journal, Limits, Position, Refused};
use crate::logging::{self, sparse::Sparse};
use crate::moment::Moment;
use crate::proto::record::session_id;
use crate::sys::dir_lock::{self, DirLock};
use crate::sys::thread::run_tenaciously;

/// How often the disk is made to have what was written, and what could not be written is tried again.
const SYNC_INTERVAL: Duration = Duration::from_millis(250);

/// One segment of the journal, bytes.
const SEGMENT_SIZE: u64 = 16 << 20;

/// What is kept of delivered records, bytes at most: a relay that did not hear that its record was taken sends it
/// again, and is recognised.
const HISTORY_SIZE: u64 = 64 << 20;

/// Bytes of records that are kept in memory while the journal refuses them; those that their relays keep, too, because a
/// relay may be killed before its own disk has them, up to half of that.
const MAX_HELD: usize = 32 << 20;

/// So many of those are tried again at a time.
const RETRY_BATCH: usize = 100;

/// Threads of backends need room for their libraries.
const STACK_SIZE: usize = 1 << 20;

/// What became of a finished session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// In the journal.
    Stored,
    /// It was there already.
    Known,
    /// The journal refuses it at the moment. It is held in memory and tried again.
    Refused,
}

/// Whether the relay of a record sends it again until it hears that it was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    Relay,
    Nobody,
}

/// A session that is over, for the journal.
#[derive(Clone, Debug)]
pub struct Ended<'a> {
    /// As its record tells it. One without cannot be recognised when it comes again.
    pub session_id: Option<Cow<'a, str>>,
    /// The record: a JSON object on one line.
    pub info: &'a str,
    pub keeper: Keeper,
}

impl<'a> Ended<'a> {
    /// One of which nothing but the record is known.
    pub fn read(info: &'a str, keeper: Keeper) -> Ended<'a> {
        Ended {
            session_id: session_id(info.as_bytes()),
            info,
            keeper,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Accounting {
    journal: Arc<Journal>,
    keys: SessionKeys,
    state: Mutex<State>,
    progress: Vec<Arc<Progress>>,
    shared: Arc<Shared>,
    syncing: (Mutex<bool>, Condvar),
    /// Held while the journal is synced.
    one_sync: Mutex<()>,
    /// How often that has begun, and the last time that it succeeded.
    begun: AtomicU64,
    synced: AtomicU64,
    _lock: DirLock,
}

#[derive(Debug, Default)]
struct State {
    recorded: Recorded,
    /// Records that the journal refused, and their sessions.
    held: Backlog<Held>,
    held_keys: HashSet<SessionKey>,
    is_refusing: bool,
    refusals: Sparse,
    sync_failures: Sparse,
    near_limit: Sparse,
}

/// A record that the journal refused.
#[derive(Debug)]
struct Held {
    info: String,
    key: Option<SessionKey>,
    keeper: Keeper,
}

/// Where accounting keeps its files, and how much of them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `state_dir` of the configuration.
    pub state_dir: PathBuf,
    /// Bytes that the journal may have.
    pub journal_limit: u64,
}

impl Accounting {
    /// Opens the journal and starts a thread for each backend.
    ///
    /// # Errors
    /// A sentence that names what cannot be opened.
    pub fn start(
        settings: &Settings,
        backends: Vec<Box<dyn Backend>>,
    ) -> Result<Arc<Accounting>, String> {
        let dir = settings.state_dir.join("accounting");
        let lock = lock(&dir)?;
        let limits = Limits {
            size: settings.journal_limit,
            segment: SEGMENT_SIZE.min(settings.journal_limit / 8),
            history: HISTORY_SIZE.min(settings.journal_limit / 4),
        };
        let (keys, mut recorded) = (SessionKeys::default(), Recorded::default());
        let mut unread = position::Unread::new(&dir, &backends)?;
        let each = |at: Position, text: &[u8]| {
            if let Some(key) = keys.of_record(text) {
                recorded.add(key, at.segment);
            }
            unread.count(at);
        };
        let journal = Arc::new(Journal::open(&dir.join("journal"), limits, each)?);
        let shared = Arc::new(Shared::default());
        let (starts, left) = unread.finish(journal.start(), journal.end());
        let mut progress = Vec::new();
        let mut deliveries = Vec::new();
        for (backend, start) in backends.into_iter().zip(starts) {
            let delivery = Delivery::new(
                &dir,
                backend,
                Arc::clone(&journal),
                start,
                Arc::clone(&shared),
            )?;
            progress.push(delivery.progress());
            deliveries.push(delivery);
        }
        left.settle();
        let accounting = Arc::new(Accounting {
            journal,
            keys,
            state: Mutex::new(State {
                recorded,
                ..State::default()
            }),
            progress,
            shared,
            syncing: (Mutex::new(true), Condvar::new()),
            one_sync: Mutex::default(),
            begun: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            _lock: lock,
        });
        for delivery in deliveries {
            let name = format!("to {}", delivery.name());
            spawn(&name, move || delivery.run())?;
        }
        let shared = Arc::clone(&accounting);
        spawn("journal", move || {
            run_tenaciously("journal", || shared.keep_synced());
        })?;
        Ok(accounting)
    }

    /// Puts a finished session into the journal. Writes to the disk's cache, waits for nobody.
    pub fn take(&self, info: &str, keeper: Keeper) -> Outcome {
        let outcomes = self.take_all(&[Ended::read(info, keeper)]);
        outcomes.first().copied().unwrap_or(Outcome::Refused)
    }

    /// The same for several of them, which are written together.
    pub fn take_all(&self, records: &[Ended<'_>]) -> Vec<Outcome> {
        let key_of = |one: &Ended<'_>| one.session_id.as_deref().map(|id| self.keys.of(id));
        let keys: Vec<Option<SessionKey>> = records.iter().map(key_of).collect();
        let mut state = self.lock();
        let is_one = records.len() == 1;
        let mut seen = HashSet::new();
        let mut is_known =
            |key: SessionKey| state.recorded.has(key) || (!is_one && !seen.insert(key));
        let is_known = |key: &Option<SessionKey>| key.is_some_and(&mut is_known);
        let known: Vec<bool> = keys.iter().map(is_known).collect();
        let new = records.iter().zip(&known).filter(|(_, known)| !**known);
        let new: Vec<&[u8]> = new.map(|(one, _)| one.info.as_bytes()).collect();
        let mut results = self.journal.append_all(&new).into_iter();
        let mut outcomes = Vec::with_capacity(records.len());
        for ((one, key), is_known) in records.iter().zip(keys).zip(known) {
            let info = one.info;
            let result = (!is_known).then(|| results.next()).flatten();
            outcomes.push(match result {
                None if key.is_some_and(|key| state.recorded.has(key)) => Outcome::Known,
                // It is twice among these, and the first one was.
                None => Outcome::Refused,
                Some(Ok(at)) => {
                    if let Some(key) = key {
                        state.recorded.add(key, at.segment);
                    }
                    self.shared.count_appended();
                    Outcome::Stored
                }
                Some(Err(Refused::Unfit(why))) => {
                    error!("accounting: a record cannot be kept ({why}): {info}");
                    Outcome::Stored
                }
                Some(Err(why)) => {
                    state.refuse(&why, info, key, one.keeper);
                    Outcome::Refused
                }
            });
        }
        outcomes
    }

    /// Whether the session with this id has been taken.
    pub fn has(&self, session_id: &str) -> bool {
        let key = self.keys.of(session_id);
        self.lock().recorded.has(key)
    }

    /// How far each backend is.
    pub fn progress(&self) -> &[Arc<Progress>] {
        &self.progress
    }

    /// Bytes that the journal has on disk.
    pub fn journal_size(&self) -> u64 {
        self.journal.size()
    }

    /// Records that wait in memory because the journal refuses them.
    pub fn held(&self) -> usize {
        self.lock().held.len()
    }

    /// Delivers what can be delivered until the deadline, then stops. What is left is delivered after the next
    /// start.
    pub fn stop(&self, deadline: Moment) {
        self.retry_held();
        self.shared.stop();
        self.journal.wake();
        self.shared.wait_ended(self.progress.len(), deadline);
        self.sync();
        let (running, changed) = &self.syncing;
        *running.lock().unwrap_or_else(PoisonError::into_inner) = false;
        changed.notify_all();
        let held = std::mem::take(&mut self.lock().held);
        let lost = held.iter().filter(|one| one.keeper == Keeper::Nobody);
        let lines = lost.map(|one| {
            format!(
                "accounting: not recorded, the journal refuses it: {}",
                one.info
            )
        });
        logging::log_all(Level::Error, lines);
    }

    fn keep_synced(&self) {
        let (running, changed) = &self.syncing;
        loop {
            let guard = running.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = changed.wait_timeout_while(guard, SYNC_INTERVAL, |running| *running);
            if !*waited.unwrap_or_else(PoisonError::into_inner).0 {
                return;
            }
            self.retry_held();
            self.sync();
            self.release();
        }
    }

    /// Brings the journal to the disk.
    pub fn sync(&self) {
        let _one = self.one_sync.lock().unwrap_or_else(PoisonError::into_inner);
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        match self.journal.sync() {
            Ok(_) => self.synced.store(number, Ordering::SeqCst),
            Err(error) => {
                if let Some(left_out) = self.lock().sync_failures.due() {
                    error!(
                        "accounting: the journal cannot be synced: {error}; relays keep their records until it can, a \
                         crash of this host may lose others{left_out}"
                    );
                }
            }
        }
    }

    /// The disk has what has been taken until now when [`Accounting::synced`] has come to this.
    pub fn mark(&self) -> u64 {
        self.begun.load(Ordering::SeqCst) + 1
    }

    /// See [`Accounting::mark`].
    pub fn synced(&self) -> u64 {
        self.synced.load(Ordering::SeqCst)
    }

    fn retry_held(&self) {
        while self.retry_some() {
            thread::yield_now();
        }
    }

    /// A few of what is held, so that nobody waits for long who has a new one; whether there are more.
    fn retry_some(&self) -> bool {
        let mut guard = self.lock();
        let state = &mut *guard;
        let (recorded, held_keys) = (&mut state.recorded, &mut state.held_keys);
        let tried = state.held.retry(RETRY_BATCH, |one| {
            // Its relay may have told of the same session meanwhile.
            if !one.key.is_some_and(|key| recorded.has(key)) {
                let at = self.journal.append(one.info.as_bytes())?;
                if let Some(key) = one.key {
                    recorded.add(key, at.segment);
                }
                self.shared.count_appended();
            }
            if let Some(key) = &one.key {
                held_keys.remove(key);
            }
            Ok::<(), Refused>(())
        });
        if tried.is_err() {
            return false;
        }
        if state.is_refusing && state.held.is_empty() && self.journal.has_room() {
            state.is_refusing = false;
            info!("accounting: the journal takes records again");
        }
        !state.held.is_empty()
    }

    /// Gives back what every backend has.
    fn release(&self) {
        let positions = self.progress.iter().map(|progress| progress.position());
        let until = positions.min().unwrap_or_else(|| self.journal.end());
        if let Err(error) = self.journal.release(until) {
            warn!("accounting: a journal segment cannot be removed: {error}");
        }
        let start = self.journal.start().segment;
        let mut state = self.lock();
        let forgotten = state.recorded.forget_before(start);
        if self.journal.is_nearly_full() {
            if let Some(left_out) = state.near_limit.due() {
                let size = self.journal.size() >> 20;
                warn!(
                    "accounting: the journal has {size} MiB, more than three quarters of journal_limit: is a \
                     backend down?{left_out}"
                );
            }
        }
        drop(state);
        drop(forgotten);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn refuse(&mut self, why: &Refused, info: &str, key: Option<SessionKey>, keeper: Keeper) {
        self.is_refusing = true;
        if let Some(left_out) = self.refusals.due() {
            error!(
                "accounting: the journal refuses records: {why}; they are kept and tried again{left_out}"
            );
        }
        if key.is_some_and(|key| self.held_keys.contains(&key)) {
            return;
        }
        let (limit, is_lost) = match keeper {
            Keeper::Relay => (MAX_HELD / 2, false),
            Keeper::Nobody => (MAX_HELD, true),
        };
        let held = Held {
            info: info.to_owned(),
            key,
            keeper,
        };
        if self.held.push(held, info.len(), limit) {
            self.held_keys.extend(key);
        } else if is_lost {
            error!("accounting: not recorded, too much waits already: {info}");
        }
    }
}

fn lock(dir: &Path) -> Result<DirLock, String> {
    let told = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock => format!(
            "state_dir: {}: another dispatcher uses it; allowed: one for each",
            dir.display()
        ),
        _ => format!("state_dir: {}: {error}", dir.display()),
    };
    crate::journal::make_directory(dir).map_err(told)?;
    dir_lock::lock(dir).map_err(told)
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let builder = thread::Builder::new().name(name.to_owned());
    let spawned = builder.stack_size(STACK_SIZE).spawn(run);
    spawned
        .map(drop)
        .map_err(|error| format!("cannot start the thread {name}: {error}"))
}
