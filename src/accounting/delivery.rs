//! Brings records from the journal to one backend: a thread that tries again for as long as it takes.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use log::{debug, error, info, warn};

use super::position::{self, Start};
use super::rejected::Rejected;
use super::{Backend, DeliveryResult, Record};
use crate::journal::{Journal, Position, Reader, Scanned};
use crate::logging::sparse::Sparse;
use crate::moment::Moment;
use crate::sys::clock;
use crate::words::counted;

/// Records in one batch.
const BATCH_RECORDS: usize = 256;

/// Bytes in one batch; one record more still fits.
const BATCH_BYTES: usize = 512 * 1024;

/// A record at which a backend panics so often, one of them in company, is rejected; and where no other record has got
/// through since the last one that was.
const PANICS_PER_RECORD: u32 = 4;
const PANICS_WITHOUT_DELIVERY: u32 = 30;

/// Before a delivery that failed is tried again; doubled each time.
const FIRST_RETRY_DELAY: Duration = Duration::from_millis(500);
const LAST_RETRY_DELAY: Duration = Duration::from_secs(30);

/// A thread with nothing to do looks around now and then.
const IDLE_WAIT: Duration = Duration::from_secs(60);

/// A backend that is down is in the log again after this time.
const REMINDER_INTERVAL: Duration = Duration::from_secs(300);

/// What all deliveries have in common.
#[derive(Debug, Default)]
pub(super) struct Shared {
    stopping: AtomicBool,
    /// Records since the start.
    appended: AtomicU64,
    /// Threads that have ended.
    ended: Mutex<usize>,
    changed: Condvar,
}

/// How far one backend is; for whoever asks.
#[derive(Debug)]
pub struct Progress {
    name: String,
    position: Mutex<Position>,
    /// Records that waited at the start.
    unread: u64,
    settled: AtomicU64,
    delivered: AtomicU64,
    rejected: AtomicU64,
    failures: AtomicU64,
    is_down: AtomicBool,
    shared: Arc<Shared>,
}

/// See the module.
pub(super) struct Delivery {
    backend: Box<dyn Backend>,
    journal: Arc<Journal>,
    position: Position,
    /// The file has it.
    is_saved: bool,
    file: PathBuf,
    rejected: Rejected,
    progress: Arc<Progress>,
    shared: Arc<Shared>,
    retry: Duration,
    /// So many records come one by one.
    alone: usize,
    /// Panics in a row, and how many of them a record may cause.
    panics: u32,
    most_panics: u32,
    down: Option<Down>,
    alarms: Sparse,
}

/// A backend that cannot be reached.
struct Down {
    since: Moment,
    told: Moment,
}

/// Records, and what is too damaged to be one.
struct Batch {
    records: Vec<Record>,
    /// Behind the record of the same index.
    ends: Vec<Position>,
    /// There are no records then.
    damaged: Vec<(Vec<u8>, &'static str)>,
    end: Position,
}

impl Shared {
    pub(super) fn count_appended(&self) {
        self.appended.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        // Under the lock, so that nobody misses it between a look at the flag and the wait.
        drop(self.ended.lock());
        self.changed.notify_all();
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Waits, but not while it is time to stop.
    fn pause(&self, limit: Duration) {
        let guard = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .changed
            .wait_timeout_while(guard, limit, |_| !self.is_stopping());
        drop(waited);
    }

    fn set_ended(&self) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.changed.notify_all();
    }

    /// Waits until so many have ended, or until the deadline.
    pub(super) fn wait_ended(&self, count: usize, deadline: Moment) {
        let limit = deadline.since(clock::moment());
        let guard = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .changed
            .wait_timeout_while(guard, limit, |ended| *ended < count);
        drop(waited);
    }
}

impl Progress {
    /// The backend's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Before the first record that it has not got.
    pub fn position(&self) -> Position {
        *self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that it has not got yet.
    pub fn waiting(&self) -> u64 {
        let all = self.unread + self.shared.appended.load(Ordering::Relaxed);
        all.saturating_sub(self.settled.load(Ordering::Relaxed))
    }

    /// Records that it got since the start.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Records that it refused for good since the start.
    pub fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// Attempts that failed since the start.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// The last attempt failed.
    pub fn is_down(&self) -> bool {
        self.is_down.load(Ordering::Relaxed)
    }
}

impl Delivery {
    /// # Errors
    /// When the position cannot be written: a sentence with the file.
    pub(super) fn new(
        dir: &Path,
        backend: Box<dyn Backend>,
        journal: Arc<Journal>,
        start: Start,
        shared: Arc<Shared>,
    ) -> Result<Delivery, String> {
        let file = position::path(dir, backend.name());
        position::write(&file, start.position)
            .map_err(|error| format!("{}: {error}", file.display()))?;
        if start.unread > 0 {
            info!(
                "accounting: {} queued for {}",
                counted(start.unread, "record"),
                backend.name()
            );
        }
        Ok(Delivery {
            progress: Arc::new(Progress {
                name: backend.name().to_owned(),
                position: Mutex::new(start.position),
                unread: start.unread,
                settled: AtomicU64::new(0),
                delivered: AtomicU64::new(0),
                rejected: AtomicU64::new(0),
                failures: AtomicU64::new(0),
                is_down: AtomicBool::new(false),
                shared: Arc::clone(&shared),
            }),
            rejected: Rejected::new(dir, backend.name()),
            backend,
            journal,
            position: start.position,
            is_saved: true,
            file,
            shared,
            retry: FIRST_RETRY_DELAY,
            alone: 0,
            panics: 0,
            most_panics: PANICS_PER_RECORD,
            down: None,
            alarms: Sparse::default(),
        })
    }

    pub(super) fn name(&self) -> &str {
        self.backend.name()
    }

    pub(super) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Delivers until it is time to stop.
    pub(super) fn run(mut self) {
        let prepared = catch_unwind(AssertUnwindSafe(|| self.backend.prepare()));
        match prepared {
            Ok(Ok(())) => {}
            Ok(Err(why)) => self.failed(&why.0),
            Err(_) => self.failed("internal error: a panic"),
        }
        loop {
            let has_work = !self.is_saved || self.wait();
            let is_stopping = self.shared.is_stopping();
            if is_stopping && (!has_work || self.down.is_some()) {
                break;
            }
            if !has_work {
                continue;
            }
            let settled = self.progress.settled.load(Ordering::Relaxed);
            match self.attempt() {
                Ok(()) => self.succeeded(),
                Err(why) => {
                    self.failed(&why);
                    // A slow one is not down: it would only be slower if it were left alone for longer.
                    if self.progress.settled.load(Ordering::Relaxed) > settled {
                        self.retry = FIRST_RETRY_DELAY;
                        self.progress.is_down.store(false, Ordering::Relaxed);
                    }
                    self.shared.pause(self.retry);
                    self.retry = (self.retry * 2).min(LAST_RETRY_DELAY);
                }
            }
        }
        self.shared.set_ended();
    }

    /// A fault of a backend or its library costs an attempt, and no other backend anything. The records come one by
    /// one then, and the one at which it happens again and again is rejected; but not one after the other where none
    /// gets through, because then it is not the record.
    fn attempt(&mut self) -> Result<(), String> {
        let before = self.progress.delivered();
        let attempt = catch_unwind(AssertUnwindSafe(|| self.deliver()));
        if self.progress.delivered() > before {
            self.panics = 0;
            self.most_panics = PANICS_PER_RECORD;
        }
        if let Ok(delivered) = attempt {
            self.alone = self.alone.saturating_sub(1);
            return delivered;
        }
        self.alone = BATCH_RECORDS;
        self.panics += 1;
        if self.panics < self.most_panics {
            return Err("internal error: a panic; the records come one by one now".to_owned());
        }
        self.panics = 0;
        self.most_panics = PANICS_WITHOUT_DELIVERY;
        self.reject_next()
    }

    fn reject_next(&mut self) -> Result<(), String> {
        let batch = self.read().map_err(in_journal)?;
        let why = "internal error: a panic of the backend";
        let verdicts = vec![DeliveryResult::Rejected(why.to_owned()); batch.records.len()];
        self.settle(&batch, &verdicts, true)?;
        self.save()
    }

    /// True when there is a record to deliver.
    fn wait(&self) -> bool {
        let is_over = || self.shared.is_stopping();
        self.journal.wait_past(self.position, IDLE_WAIT, is_over)
    }

    /// One batch; what is settled of it is so when this returns, whatever comes of the rest.
    fn deliver(&mut self) -> Result<(), String> {
        // Not before the disk knows of the last one: no more than one batch can come twice after a crash.
        self.save()?;
        let batch = self.read().map_err(in_journal)?;
        let mut verdicts = Vec::with_capacity(batch.records.len());
        let delivered = if batch.records.is_empty() {
            Ok(())
        } else {
            self.backend.deliver(&batch.records, &mut verdicts)
        };
        verdicts.truncate(batch.records.len());
        let is_whole = verdicts.len() == batch.records.len();
        let settled = self.settle(&batch, &verdicts, is_whole);
        self.save()?;
        settled?;
        match delivered {
            Err(why) => Err(why.0),
            Ok(()) if !is_whole => Err("it has not told what became of all records".to_owned()),
            Ok(()) => Ok(()),
        }
    }

    fn read(&self) -> io::Result<Batch> {
        let mut reader = Reader::new(&self.journal, self.position);
        let mut batch = Batch {
            records: Vec::new(),
            ends: Vec::new(),
            damaged: Vec::new(),
            end: self.position,
        };
        let mut bytes = 0;
        let most = if self.alone > 0 { 1 } else { BATCH_RECORDS };
        while batch.records.len() < most && bytes < BATCH_BYTES {
            let Some(found) = reader.next_record()? else {
                // It may have gone on to a segment without a record in it: there is nothing more to wait for before.
                batch.end = reader.position();
                break;
            };
            let (end, text, damage) = match found {
                Scanned::Record(end, text) => match std::str::from_utf8(&text).map(Record::parse) {
                    Ok(Ok(_)) if !batch.damaged.is_empty() => break,
                    Ok(Ok(record)) => {
                        bytes += text.len();
                        batch.end = end;
                        batch.ends.push(end);
                        batch.records.push(record);
                        continue;
                    }
                    _ => (end, text, "it is no record of a session"),
                },
                Scanned::Damaged(end, bytes) => {
                    self.journal.keep_damaged(end.segment);
                    (end, bytes, "it was damaged in the journal")
                }
            };
            // Not with records: what becomes of them does not hang on whether it can be put down.
            if !batch.records.is_empty() {
                break;
            }
            bytes += text.len();
            batch.end = end;
            batch.damaged.push((text, damage));
        }
        Ok(batch)
    }

    /// Brings the position to disk.
    fn save(&mut self) -> Result<(), String> {
        if !self.is_saved {
            position::write(&self.file, self.position)
                .map_err(|error| format!("{}: {error}", self.file.display()))?;
            self.is_saved = true;
            let position = self.progress.position.lock();
            *position.unwrap_or_else(PoisonError::into_inner) = self.position;
        }
        Ok(())
    }

    /// Rejected records go to their file first, then the position moves on.
    fn settle(
        &mut self,
        batch: &Batch,
        mut verdicts: &[DeliveryResult],
        mut is_whole: bool,
    ) -> Result<(), String> {
        let is_rejected = |verdict: &DeliveryResult| matches!(verdict, DeliveryResult::Rejected(_));
        let mut rejected = verdicts.iter().filter(|v| is_rejected(v)).count();
        let mut failed = Ok(());
        let damaged = &batch.damaged;
        if rejected + damaged.len() > 0 {
            failed = self.reject(batch.records.iter().zip(verdicts), damaged);
        }
        if failed.is_err() {
            // Those before the first one that cannot be put down need not come again.
            let first = verdicts.iter().position(is_rejected).unwrap_or(0);
            (verdicts, is_whole, rejected) = (&verdicts[..first], false, 0);
        }
        let end = match (is_whole, verdicts.len().checked_sub(1)) {
            (true, _) => batch.end,
            (false, Some(last)) => batch.ends.get(last).copied().unwrap_or(self.position),
            (false, None) => return failed,
        };
        self.position = end;
        self.is_saved = false;
        let progress = &self.progress;
        let settled = (verdicts.len() + damaged.len()) as u64;
        progress.settled.fetch_add(settled, Ordering::Relaxed);
        let delivered = (verdicts.len() - rejected) as u64;
        progress.delivered.fetch_add(delivered, Ordering::Relaxed);
        let refused = (rejected + damaged.len()) as u64;
        progress.rejected.fetch_add(refused, Ordering::Relaxed);
        debug!(
            "accounting: {}: {} delivered",
            self.name(),
            counted(delivered, "record")
        );
        failed
    }

    fn reject<'a>(
        &mut self,
        pairs: impl Iterator<Item = (&'a Record, &'a DeliveryResult)>,
        damaged: &'a [(Vec<u8>, &'static str)],
    ) -> Result<(), String> {
        let refused = pairs.filter_map(|(record, verdict)| match verdict {
            DeliveryResult::Rejected(reason) => Some((record, reason.as_str())),
            DeliveryResult::Delivered | DeliveryResult::Known => None,
        });
        let refused: Vec<(&Record, &str)> = refused.collect();
        let texts = refused
            .iter()
            .map(|(record, reason)| (record.info.as_bytes(), *reason));
        let damaged = damaged.iter().map(|(text, why)| (text.as_slice(), *why));
        let count = damaged.len();
        self.rejected
            .add(texts.chain(damaged))
            .map_err(|error| format!("{}: {error}", self.rejected.path().display()))?;
        let path = self.rejected.path().display().to_string();
        for (record, reason) in refused {
            if let Some(left_out) = self.alarms.due() {
                error!(
                    "[session {}] accounting: {} refuses the record: {reason}; it is in {path}{left_out}",
                    record.call_id.escape_debug(),
                    self.progress.name
                );
            }
        }
        if count > 0 {
            let records = counted(count, "damaged record");
            error!("accounting: {records} of the journal put into {path}");
        }
        Ok(())
    }

    fn succeeded(&mut self) {
        self.retry = FIRST_RETRY_DELAY;
        self.progress.is_down.store(false, Ordering::Relaxed);
        if let Some(down) = self.down.take() {
            let seconds = (clock::moment() - down.since).as_secs();
            info!(
                "accounting: {} takes records again after {seconds} s; {} queued",
                self.name(),
                counted(self.progress.waiting(), "record")
            );
        }
    }

    /// The first failure is in the log at once, later ones now and then.
    fn failed(&mut self, why: &str) {
        self.progress.failures.fetch_add(1, Ordering::Relaxed);
        self.progress.is_down.store(true, Ordering::Relaxed);
        let now = clock::moment();
        let told = self.down.as_ref().map(|down| down.told);
        if told.is_some_and(|told| now < told + REMINDER_INTERVAL) {
            debug!("accounting: {}: {why}", self.name());
            return;
        }
        let since = self.down.as_ref().map_or(now, |down| down.since);
        self.down = Some(Down { since, told: now });
        warn!(
            "accounting: {}: {why}; {} queued; retrying, at most every {} s",
            self.name(),
            counted(self.progress.waiting(), "record"),
            LAST_RETRY_DELAY.as_secs()
        );
    }
}

fn in_journal(error: io::Error) -> String {
    format!("the journal: {error}")
}
