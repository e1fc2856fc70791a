//! The state of all calls, on disk for the process after this one: written as sessions change, a few milliseconds later, so
//! that a crash loses no more than that.
//!
//! ```text
//!  RUNTIME DIRECTORY/relay-FIRST PORT/BOOT/    BOOT as in /proc/sys/kernel/random/boot_id: calls do not survive a boot
//!      0000000001.journal                      the log (see [`KeyedLog`])
//!      tallies                                 whose each pair is, and what was counted there (see [`Tallies`])
//!
//!  session ID DISPATCHER yes|no STATE          yes: the dispatcher confirms what it has recorded
//!  left left MILLISECONDS FOR                  handed over at this moment (of the boot's clock), to be adopted within FOR
//!  over ID                                     the session is over and reported
//! ```
//!
//! One thread writes all of it. Workers leave what has changed under a lock and wait for no disk: where it is slow, only the
//! latest state of each session waits.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use log::{debug, error, info, warn};

use super::tallies::Tallies;
use super::threads;
use crate::journal::{self, Change, KeyedLog, Kind, Line, News, Options};
use crate::moment::Moment;
use crate::proto::SessionId;
use crate::sys::dir_lock::{self, DirLock};
use crate::sys::{clock, host};

/// A call with sound is 2 KB or so: room for the states of 100,000 streams.
const OPTIONS: Options = Options {
    size: 256 << 20,
    segment: 4 << 20,
    memory: 64 << 20,
    moved: 300,
};

/// How often the log is made smaller, and what the disk has refused is tried again.
const TEND_INTERVAL: Duration = Duration::from_secs(1);

/// What a log holds.
struct Calls;

/// What a record is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Session(SessionId),
    /// The hand-over.
    Left,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Session(id) => id.fmt(f),
            Key::Left => f.write_str(LEFT),
        }
    }
}

const SESSION: &str = "session";
const LEFT: &str = "left";

impl Kind for Calls {
    type Key = Key;
    type Value = ();
    const NAME: &'static str = "calls";
    const REMOVED: &'static str = "over";

    fn tell(news: News<'_, Key>) {
        match news {
            News::Refused(why, left_out) => error!(
                "the state of calls cannot be written: {why}; a relay that starts after a crash takes them over as they were \
                 before{left_out}"
            ),
            News::GivenUp(_, left_out) => {
                if let Some(left_out) = left_out {
                    error!(
                        "the state of a call cannot be kept, too much waits for the disk{left_out}"
                    );
                }
            }
            News::Unfit(why, _) => error!("the state of a call cannot be written, {why}"),
            News::TakenAgain => info!("the state of all calls is on disk again"),
            News::Unsynced(error, _) => debug!("the state of calls: {error}"),
            News::Damaged(key) => warn!("the state of session {key} is damaged on disk"),
            News::NotRemoved(error) => {
                warn!("a segment of the state of calls cannot be removed: {error}");
            }
        }
    }
}

/// A session that the process before this one had.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Saved {
    pub id: SessionId,
    pub dispatcher: SocketAddr,
    /// As of [`super::send_queue::SendQueue::confirms`].
    pub confirms: bool,
    pub state: Vec<u8>,
}

/// What the process before this one has left.
#[derive(Debug, Default)]
pub(super) struct Legacy {
    pub sessions: Vec<Saved>,
    /// How long they were to wait for this process, where it is too late: the kernel has stopped forwarding since.
    pub too_late: Option<Duration>,
}

/// Opened, and its thread not started yet.
pub(super) struct Opened {
    /// The other threads' end; what is put there waits for [`Opened::start`].
    pub handle: StateLog,
    log: KeyedLog<Calls>,
    dir: PathBuf,
    lock: DirLock,
    pub tallies: Option<Arc<Tallies>>,
    pub legacy: Legacy,
}

/// Opens the state of the calls of this relay, as it or one before it has left it. The first port tells relays on one host
/// apart.
///
/// # Errors
/// A sentence with the path.
pub(super) fn open(runtime_dir: &Path, range: (u16, u32)) -> Result<Opened, String> {
    let boot = host::boot_id().map_err(|error| format!("boot_id: {error}"))?;
    let parent = runtime_dir.join(format!("relay-{}", range.0));
    let dir = parent.join(&boot);
    let told = |error: io::Error| format!("{}: {error}", dir.display());
    journal::make_directory(&dir).map_err(told)?;
    // Where state_dir is the runtime directory, the parent is the spool's, too.
    let lock = dir_lock::lock(&dir).map_err(told)?;
    remove_other_boots(&parent, &boot);
    // Of each key the last record counts, as in the log: reading each of them there once more takes longer than all else.
    let mut records = HashMap::new();
    let log = KeyedLog::open(&dir, OPTIONS, |text| read(text, &mut records))?;
    let tallies = Tallies::open(&dir.join("tallies"), range);
    let tallies = tallies.inspect_err(|error| {
        let path = dir.join("tallies");
        warn!(
            "{}: {error}; a crash of this relay would lose what it has counted since the last change of each call",
            path.display()
        );
    });
    let legacy = legacy(records, clock::moment());
    Ok(Opened {
        handle: StateLog::knowing(legacy.sessions.iter().map(|saved| saved.id)),
        log,
        dir,
        lock,
        tallies: tallies.ok().map(Arc::new),
        legacy,
    })
}

/// Nothing of them is alive.
fn remove_other_boots(parent: &Path, boot: &str) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_boot = |name: &str| name.parse::<SessionId>().is_ok();
        if name
            .to_str()
            .is_some_and(|name| name != boot && is_boot(name))
        {
            let path = entry.path();
            info!(
                "{}: of another boot of this host: no call in it can be alive, removed",
                path.display()
            );
            if let Err(error) = fs::remove_dir_all(&path) {
                warn!("{}: {error}", path.display());
            }
        }
    }
}

/// What the log has at the start.
fn legacy(records: HashMap<Key, Record>, now: Moment) -> Legacy {
    let mut legacy = Legacy::default();
    for record in records.into_values() {
        match record {
            Record::Session(saved) => legacy.sessions.push(saved),
            Record::Left(at, limit) if now > at + limit => legacy.too_late = Some(limit),
            Record::Left(..) => {}
        }
    }
    legacy
}

/// What a record says, but for removals.
#[derive(Debug, PartialEq, Eq)]
enum Record {
    Session(Saved),
    Left(Moment, Duration),
}

impl Record {
    fn parse(text: &[u8]) -> Option<Record> {
        let (word, rest) = split(text)?;
        if word == LEFT.as_bytes() {
            let (_, rest) = split(rest)?;
            let (at, limit) = std::str::from_utf8(rest).ok()?.split_once(' ')?;
            let milliseconds = |text: &str| text.parse().ok().map(Duration::from_millis);
            let at = Moment::after_start(milliseconds(at)?);
            return Some(Record::Left(at, milliseconds(limit)?));
        }
        let rest = (word == SESSION.as_bytes()).then_some(rest)?;
        let ((id, rest), text) = (split(rest)?, std::str::from_utf8);
        let (dispatcher, rest) = split(rest)?;
        let (confirms, state) = split(rest)?;
        Some(Record::Session(Saved {
            id: text(id).ok()?.parse().ok()?,
            dispatcher: text(dispatcher).ok()?.parse().ok()?,
            confirms: confirms == b"yes",
            state: state.to_vec(),
        }))
    }
}

/// Reads a line of the log, and keeps the record that counts of its key.
fn read(text: &[u8], records: &mut HashMap<Key, Record>) -> Line<Calls> {
    if let Some(id) = text.strip_prefix(b"over ") {
        let id = std::str::from_utf8(id).ok();
        let key = match id.and_then(|id| id.parse().ok()) {
            Some(id) => Key::Session(id),
            None if id == Some(LEFT) => Key::Left,
            None => return Line::Other,
        };
        records.remove(&key);
        return Line::Remove(key);
    }
    let Some(record) = Record::parse(text) else {
        return Line::Other;
    };
    let key = match &record {
        Record::Session(saved) => Key::Session(saved.id),
        Record::Left(..) => Key::Left,
    };
    records.insert(key, record);
    Line::Put(key, ())
}

/// At the first blank.
fn split(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let blank = text.iter().position(|b| *b == b' ')?;
    Some((text.get(..blank)?, text.get(blank + 1..)?))
}

/// The record of a session.
pub(super) fn record(
    id: SessionId,
    dispatcher: SocketAddr,
    confirms: bool,
    state: &[u8],
) -> Vec<u8> {
    let confirms = if confirms { "yes" } else { "no" };
    let mut record = format!("{SESSION} {id} {dispatcher} {confirms} ").into_bytes();
    record.extend_from_slice(state);
    record
}

/// What becomes of the log at the end.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The calls wait so long for another process.
    Leave(Duration),
    /// There is no call.
    Remove,
}

/// What the workers have left for the thread.
#[derive(Default)]
struct Pending {
    /// The record of each session that has changed; none where it is over.
    changes: HashMap<SessionId, Option<Vec<u8>>>,
    /// Those that the log knows.
    written: HashSet<SessionId>,
    end: Option<(End, Sender<()>)>,
    /// The thread has nothing to do.
    waits: bool,
}

/// The other threads' end of it.
#[derive(Clone)]
pub(super) struct StateLog {
    pending: Arc<(Mutex<Pending>, Condvar)>,
}

impl StateLog {
    /// Of a log that has these sessions.
    fn knowing(written: impl Iterator<Item = SessionId>) -> StateLog {
        let pending = Pending {
            written: written.collect(),
            ..Pending::default()
        };
        StateLog {
            pending: Arc::new((Mutex::new(pending), Condvar::new())),
        }
    }

    /// These sessions have these records now; none where they are over. Waits for no disk.
    pub(super) fn put(&self, changes: impl IntoIterator<Item = (SessionId, Option<Vec<u8>>)>) {
        let mut pending = self.lock();
        for (id, record) in changes {
            if record.is_some() || pending.written.contains(&id) {
                pending.changes.insert(id, record);
            } else {
                // The disk has never heard of it.
                pending.changes.remove(&id);
            }
        }
        self.wake(&mut pending);
    }

    /// Writes what is left, and that the calls wait so long for the next process.
    pub(super) fn leave(&self, within: Duration, limit: Duration) {
        self.end(End::Leave(within), limit);
    }

    /// Removes all of it: no call is left.
    pub(super) fn remove(&self, limit: Duration) {
        self.end(End::Remove, limit);
    }

    fn end(&self, end: End, limit: Duration) {
        let (done, is_done) = bounded(1);
        let mut pending = self.lock();
        pending.end = Some((end, done));
        self.wake(&mut pending);
        drop(pending);
        if is_done.recv_timeout(limit).is_err() {
            warn!("the state of calls could not be written in time");
        }
    }

    /// A system call, so only where the thread waits.
    fn wake(&self, pending: &mut Pending) {
        let has_work = !pending.changes.is_empty() || pending.end.is_some();
        if has_work && mem::take(&mut pending.waits) {
            self.pending.1.notify_one();
        }
    }

    /// Waits this long for something to do, and takes it.
    fn take(&self, limit: Duration) -> (Changes, Option<(End, Sender<()>)>) {
        let mut pending = self.lock();
        if pending.changes.is_empty() && pending.end.is_none() {
            pending.waits = true;
            let waited = self.pending.1.wait_timeout(pending, limit);
            pending = waited.unwrap_or_else(PoisonError::into_inner).0;
            pending.waits = false;
        }
        let changes = mem::take(&mut pending.changes);
        for (id, record) in &changes {
            match record {
                Some(_) => pending.written.insert(*id),
                None => pending.written.remove(id),
            };
        }
        (changes, pending.end.take())
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

type Changes = HashMap<SessionId, Option<Vec<u8>>>;

impl Opened {
    /// Starts the thread. The hand-over is over.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn start(self) -> Result<(), String> {
        self.log.remove(Key::Left);
        let Opened {
            handle,
            log,
            dir,
            lock,
            ..
        } = self;
        let mut writer = Writer {
            handle,
            log,
            dir,
            lock: Some(lock),
        };
        threads::start("state", move || writer.run())
    }
}

/// The thread.
struct Writer {
    handle: StateLog,
    log: KeyedLog<Calls>,
    dir: PathBuf,
    lock: Option<DirLock>,
}

impl Writer {
    fn run(&mut self) {
        let mut tend_at = clock::moment() + TEND_INTERVAL;
        loop {
            let (changes, end) = self.handle.take(tend_at.since(clock::moment()));
            self.write(changes);
            if let Some((end, done)) = end {
                self.end(end);
                // Who hears of it may start the next process at once.
                self.lock = None;
                let _ = done.send(());
                return;
            }
            let now = clock::moment();
            if now >= tend_at {
                self.log.tend();
                // Calls do not survive the machine, and a slow disk must not hold up what is written next.
                self.log.skip_sync();
                tend_at = now + TEND_INTERVAL;
            }
        }
    }

    fn write(&self, changes: Changes) {
        if changes.is_empty() {
            return;
        }
        // The disk may take records again.
        self.log.retry();
        let changes = changes.into_iter().map(|(id, record)| {
            let key = Key::Session(id);
            match record {
                Some(record) => Change::Put(key, (), record),
                None => Change::Remove(key),
            }
        });
        self.log.apply(changes);
    }

    fn end(&mut self, end: End) {
        match end {
            End::Leave(within) => {
                let at = clock::moment().since_start().as_millis();
                let record = format!("{LEFT} {LEFT} {at} {}", within.as_millis());
                self.log.put(Key::Left, (), record.into_bytes());
                self.log.retry();
                match self.log.in_memory().len() {
                    0 => {}
                    left => error!(
                        "the state of {left} calls cannot be written: they are not handed over as they are now"
                    ),
                }
            }
            End::Remove => {
                if let Err(error) = fs::remove_dir_all(&self.dir) {
                    warn!("{}: {error}", self.dir.display());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
