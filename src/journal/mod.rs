//! A journal: records on disk, appended in order, that survive a crash. The dispatcher keeps finished sessions in one
//! until every backend has them, a relay keeps those that no dispatcher has confirmed.
//!
//! ```text
//!  DIR/0000000001.journal     segments, oldest first; a record a line                 record, scan, segments
//!  DIR/0000000002.journal     the last one is appended to
//!  DIR/*.damaged              copies of segments with a damaged record
//!  Position                   segment and offset: where a reader goes on               position, reader
//!  KeyedLog                   of each key the last record counts, until it is removed  keyed
//!  Backlog                    what a journal refused, until it takes it                backlog
//! ```
//!
//! A record is in the kernel's hands when [`Journal::append`] returns, so that the end of this process does not hurt
//! it; the disk has it after [`Journal::sync`], which a thread calls every fraction of a second. A torn end, as a
//! crash of the machine leaves it, is cut off at the next start. A disk that is full or a journal at its limit refuses
//! records: whoever has them keeps them.

mod backlog;
mod keyed;
mod position;
mod reader;
mod record;
mod scan;
mod segments;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use backlog::Backlog;
pub use keyed::{Change, KeyedLog, Kind, Line, News, Options};
pub use position::Position;
pub use reader::Reader;
pub use record::{MAX_RECORD, Unfit};
pub use scan::Scanned;
use segments::Segments;
pub use segments::make_directory;

/// Lines that are written together are no more than this, and the one that passes it, bytes.
const WRITE_SIZE: usize = 64 * 1024;

/// How large a journal may become.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// All segments together, bytes.
    pub size: u64,
    /// One segment, bytes; a record that begins below it may pass it.
    pub segment: u64,
    /// What is kept of segments that nobody needs any more, bytes: to recognise records that come a second time.
    pub history: u64,
}

/// Why a record was not kept.
#[derive(Debug)]
pub enum Refused {
    /// The journal has reached its limit.
    Full,
    Unfit(Unfit),
    Io(io::Error),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Full => f.write_str("the journal has reached its size limit"),
            Refused::Unfit(why) => why.fmt(f),
            Refused::Io(error) => error.fmt(f),
        }
    }
}

/// See the module. Shared by who appends, who reads and who syncs.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    limits: Limits,
    /// The first line of each segment, where they are to have one.
    header: Vec<u8>,
    state: Mutex<State>,
    appended: Condvar,
}

#[derive(Debug)]
struct State {
    segments: Segments,
    /// The last segment, open for writing.
    file: Arc<File>,
    end: Position,
    unsynced: Vec<Unsynced>,
    /// Records before this are needed by nobody.
    released: Position,
    readers_wait: usize,
    /// A part of a line may be behind the end.
    is_torn: bool,
    /// The last segment has another header than the next record is to stand behind.
    is_outdated: bool,
}

/// A file with something that the disk may not have yet.
#[derive(Debug)]
struct Unsynced {
    file: Arc<File>,
    /// Which it is; none for the directory.
    segment: Option<u64>,
    /// The disk has refused it.
    has_failed: bool,
}

impl Journal {
    /// Opens the journal in this directory and makes what is missing. `each` gets every record that is there.
    ///
    /// # Errors
    /// A sentence with the path: what cannot be read, made or repaired.
    pub fn open(
        dir: &Path,
        limits: Limits,
        mut each: impl FnMut(Position, &[u8]),
    ) -> Result<Journal, String> {
        let told = |error: io::Error| format!("{}: {error}", dir.display());
        segments::make_directory(dir).map_err(told)?;
        let mut segments = Segments::list(dir).map_err(told)?;
        let mut end = Position::default();
        for number in segments.numbers() {
            let path = segments::path(dir, number);
            let told = |error: io::Error| format!("{}: {error}", path.display());
            let length = segments::repair(dir, number, &mut each).map_err(told)?;
            segments.set_length(number, length);
            end = Position {
                segment: number,
                offset: length,
            };
        }
        let file = if end.segment == 0 {
            end.segment = 1;
            let (file, directory) = segments::create(dir, 1).map_err(told)?;
            directory.sync_all().map_err(told)?;
            segments.add(1);
            file
        } else {
            segments::reopen(dir, end).map_err(told)?
        };
        let released = Position {
            segment: segments.first().unwrap_or(end.segment),
            offset: 0,
        };
        let file = Arc::new(file);
        Ok(Journal {
            dir: dir.to_owned(),
            limits,
            header: Vec::new(),
            state: Mutex::new(State {
                segments,
                end,
                // A process that was killed may have left something.
                unsynced: vec![Unsynced {
                    file: Arc::clone(&file),
                    segment: Some(end.segment),
                    has_failed: false,
                }],
                file,
                released,
                readers_wait: 0,
                is_torn: false,
                is_outdated: false,
            }),
            appended: Condvar::new(),
        })
    }

    /// The same journal, in which each segment from now on begins with this record. Where the last one does not, the next
    /// record begins another.
    ///
    /// # Errors
    /// What no journal can hold.
    fn with_header(mut self, text: &[u8]) -> Result<Journal, Unfit> {
        record::write(&mut self.header, text)?;
        let end = self.end();
        let first = self.read_at(Position { offset: 0, ..end });
        self.lock().is_outdated = end.offset > 0 && first.as_deref() != Some(text);
        Ok(self)
    }

    /// Adds a record at the end; where it begins.
    ///
    /// # Errors
    /// When it cannot be kept; the journal is as before.
    pub fn append(&self, text: &[u8]) -> Result<Position, Refused> {
        let mut line = Vec::new();
        record::write(&mut line, text).map_err(Refused::Unfit)?;
        self.write(&line)
    }

    /// The same for several records, each with its own result: where they fit, they are written together.
    pub fn append_all(&self, texts: &[&[u8]]) -> Vec<Result<Position, Refused>> {
        let mut results = Vec::with_capacity(texts.len());
        let mut lines = Vec::new();
        // Where in the lines each of them begins.
        let mut starts = Vec::new();
        for text in texts {
            let start = lines.len();
            match record::write(&mut lines, text) {
                Ok(()) => starts.push(start),
                Err(why) => {
                    self.write_all(&mut lines, &mut starts, &mut results);
                    results.push(Err(Refused::Unfit(why)));
                }
            }
            if lines.len() >= WRITE_SIZE {
                self.write_all(&mut lines, &mut starts, &mut results);
            }
        }
        self.write_all(&mut lines, &mut starts, &mut results);
        results
    }

    /// Writes lines together or, where that is refused, as many of them as there is room for. Empties them.
    fn write_all(
        &self,
        lines: &mut Vec<u8>,
        starts: &mut Vec<usize>,
        results: &mut Vec<Result<Position, Refused>>,
    ) {
        if starts.is_empty() {
            return;
        }
        match self.write(lines) {
            Ok(at) => results.extend(starts.iter().map(|start| {
                Ok(Position {
                    offset: at.offset + *start as u64,
                    ..at
                })
            })),
            Err(why) if starts.len() == 1 => results.push(Err(why)),
            Err(_) => results.extend(
                lines
                    .split_inclusive(|b| *b == b'\n')
                    .map(|line| self.write(line)),
            ),
        }
        lines.clear();
        starts.clear();
    }

    /// Writes whole lines at the end, all or nothing; where they begin.
    fn write(&self, lines: &[u8]) -> Result<Position, Refused> {
        let length = (self.header.len() + lines.len()) as u64;
        let mut state = self.lock();
        if state.segments.total() + length > self.limits.size {
            drop(state);
            state = self.remove_released().map_err(Refused::Io)?;
            if state.segments.total() + length > self.limits.size {
                return Err(Refused::Full);
            }
        }
        state.mend(&self.dir).map_err(Refused::Io)?;
        if state.end.offset >= self.limits.segment || state.is_outdated {
            state.begin_segment(&self.dir).map_err(Refused::Io)?;
        }
        if state.end.offset == 0 && !self.header.is_empty() {
            state.write(&self.header, &self.dir).map_err(Refused::Io)?;
        }
        let start = state.end;
        state.write(lines, &self.dir).map_err(Refused::Io)?;
        if state.readers_wait > 0 {
            self.appended.notify_all();
        }
        Ok(start)
    }

    /// Makes sure that the disk has all that was appended before. False when it had already.
    ///
    /// # Errors
    /// As of fdatasync(2): what was appended may be lost by a crash of the machine. The next call tries again.
    pub fn sync(&self) -> io::Result<bool> {
        let files = std::mem::take(&mut self.lock().unsynced);
        let had_work = !files.is_empty();
        let mut failed = None;
        let mut left = Vec::new();
        for one in files {
            if let Err(error) = self.sync_one(&one) {
                failed.get_or_insert(error);
                left.push(Unsynced {
                    has_failed: true,
                    ..one
                });
            }
        }
        match failed {
            None => Ok(had_work),
            Some(error) => {
                // They come again, each with what was written to it since.
                let mut state = self.lock();
                left.append(&mut state.unsynced);
                state.unsynced = left;
                Err(error)
            }
        }
    }

    /// What was appended before need not outlive a crash of the machine: the files that are complete are closed.
    pub fn skip_sync(&self) {
        self.lock().unsynced.clear();
    }

    /// The kernel tells of a failure once, and takes what it could not write for written from then on (fsync(2)): so it
    /// gets all of it again.
    fn sync_one(&self, one: &Unsynced) -> io::Result<()> {
        if let (true, Some(number)) = (one.has_failed, one.segment) {
            let length = self.lock().segments.length(number);
            segments::write_again(&self.dir, number, length)?;
        }
        one.file.sync_data()
    }

    /// Behind the last record.
    pub fn end(&self) -> Position {
        self.lock().end
    }

    /// Before the first record that is there.
    pub fn start(&self) -> Position {
        let state = self.lock();
        Position {
            segment: state.segments.first().unwrap_or(state.end.segment),
            offset: 0,
        }
    }

    /// Bytes of all segments.
    pub fn size(&self) -> u64 {
        self.lock().segments.total()
    }

    /// Bytes that all segments may have.
    pub fn limit(&self) -> u64 {
        self.limits.size
    }

    /// Bytes between a position and the end.
    pub fn distance(&self, from: Position) -> u64 {
        self.lock().segments.bytes_from(from)
    }

    /// Whether a longest record would be taken.
    pub fn has_room(&self) -> bool {
        self.size() + (MAX_RECORD as u64) < self.limits.size
    }

    /// More than three quarters of its limit.
    pub fn is_nearly_full(&self) -> bool {
        self.size() > self.limits.size / 4 * 3
    }

    /// Waits until there is a record behind this position, `is_over` holds (see [`Journal::wake`]) or `limit` has
    /// passed. True when there is one.
    pub fn wait_past(
        &self,
        position: Position,
        limit: Duration,
        is_over: impl Fn() -> bool,
    ) -> bool {
        let mut state = self.lock();
        state.readers_wait += 1;
        let is_waiting = |state: &mut State| state.end <= position && !is_over();
        let waited = self.appended.wait_timeout_while(state, limit, is_waiting);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.readers_wait -= 1;
        state.end > position
    }

    /// Has all who wait in [`Journal::wait_past`] look again.
    pub fn wake(&self) {
        // Under the lock, so that nobody misses it between a look and the wait.
        let state = self.lock();
        self.appended.notify_all();
        drop(state);
    }

    /// One record, by where it begins; none where it is damaged or gone.
    pub fn read_at(&self, position: Position) -> Option<Vec<u8>> {
        let mut reader = Reader::new(self, position);
        if reader.position() != position {
            return None;
        }
        match reader.next_record().ok()?? {
            // In another segment where this one has gone just now.
            Scanned::Record(end, text) => (end.segment == position.segment).then_some(text),
            Scanned::Damaged(..) => None,
        }
    }

    /// Nobody needs what is before this position. Removes segments beyond the history that is kept.
    ///
    /// # Errors
    /// When a segment cannot be removed; it is tried again with the next call.
    pub fn release(&self, until: Position) -> io::Result<()> {
        let mut state = self.lock();
        state.released = state.released.max(until);
        drop(state);
        self.remove_released().map(drop)
    }

    /// A record of this segment is damaged: a copy is kept when the segment goes.
    pub fn keep_damaged(&self, segment: u64) {
        segments::keep_damaged(&self.dir, segment);
    }

    /// Removes what may go, and takes the lock.
    fn remove_released(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        while let Some(number) = state.removable(&self.limits) {
            // Whoever appends does not wait until the file system has given back a whole segment.
            drop(state);
            segments::remove(&self.dir, number)?;
            state = self.lock();
            state.segments.forget(number);
        }
        Ok(state)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Writes lines, all or nothing.
    fn write(&mut self, lines: &[u8], dir: &Path) -> io::Result<()> {
        let mut file = &*self.file;
        if let Err(error) = file.write_all(lines) {
            self.is_torn = true;
            // Where it cannot be mended now, it is before the next line.
            let _ = self.mend(dir);
            return Err(error);
        }
        self.end.offset += lines.len() as u64;
        self.segments.set_length(self.end.segment, self.end.offset);
        self.note_unsynced();
        Ok(())
    }

    /// What comes later must not stand behind a part of a line.
    fn mend(&mut self, dir: &Path) -> io::Result<()> {
        if self.is_torn && self.file.set_len(self.end.offset).is_err() {
            self.begin_segment(dir)?;
        }
        self.is_torn = false;
        Ok(())
    }

    fn begin_segment(&mut self, dir: &Path) -> io::Result<()> {
        let number = self.end.segment + 1;
        let (file, directory) = segments::create(dir, number)?;
        self.note_unsynced();
        // Not here: who appends does not wait for the disk.
        self.unsynced.push(Unsynced {
            file: Arc::new(directory),
            segment: None,
            has_failed: false,
        });
        self.file = Arc::new(file);
        self.segments.add(number);
        self.is_outdated = false;
        self.end = Position {
            segment: number,
            offset: 0,
        };
        Ok(())
    }

    fn note_unsynced(&mut self) {
        let is_same = |one: &Unsynced| Arc::ptr_eq(&one.file, &self.file);
        if !self.unsynced.iter().any(is_same) {
            self.unsynced.push(Unsynced {
                file: Arc::clone(&self.file),
                segment: Some(self.end.segment),
                has_failed: false,
            });
        }
    }

    /// The oldest segment, where nobody needs it and the younger ones that nobody needs are history enough, or where
    /// the journal is near its limit.
    fn removable(&self, limits: &Limits) -> Option<u64> {
        let first = self.segments.first()?;
        if first >= self.released.segment || first >= self.end.segment {
            return None;
        }
        let history = self.segments.bytes_before(self.released.segment);
        let without = history.saturating_sub(self.segments.length(first));
        let is_tight = self.segments.total() + limits.history > limits.size;
        (without >= limits.history || is_tight).then_some(first)
    }
}
