//! Records by key, on disk: of each key the last record counts, until the key is removed. For what changes while a daemon
//! runs and has to outlive it: ended calls that nobody has confirmed, answered calls that are not over.
//!
//! ```text
//!  format NAME VERSION   the first record of each segment; one that begins with another record is of version 1
//!  ...                   the record of a key, as its owner writes and reads it
//!  WORD KEY              the key is removed
//! ```
//!
//! What is put or removed is in the kernel's hands when that returns. What the disk refuses waits in memory, and is read
//! from there. [`KeyedLog::tend`], to be called every now and then, tries it again and gives back the space of what was
//! superseded or removed: it writes what still counts of the oldest segment once more, at the end. No lock is held while
//! many records are written, so that nobody waits for long who has one.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;
use std::io;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use log::error;

use super::segments;
use super::{Backlog, Journal, Limits, Position, Refused, Unfit};
use crate::logging::sparse::{Skipped, Sparse};

/// So many records that the disk has refused are tried again while the lock is held.
const RETRY_BATCH: usize = 100;

/// Bytes that a removal takes while it waits in memory.
const REMOVAL_SIZE: usize = 64;

/// A log that is larger than so many times what counts of it, and than so many segments, is made smaller.
const SPRAWL_FACTOR: u64 = 4;

/// What a log holds: how it is written, and what is said when something is wrong with it.
pub trait Kind {
    type Key: Copy + Eq + Hash + fmt::Display;
    /// What its owner knows of a key besides the record, in memory.
    type Value;
    /// What the first record of a segment calls it.
    const NAME: &'static str;
    /// Of the records. Segments of a later version are set aside.
    const VERSION: u32 = 1;
    /// The word of the line that removes a key.
    const REMOVED: &'static str;

    /// Says it in the log.
    fn tell(news: News<'_, Self::Key>);
}

/// What an administrator has to know.
pub enum News<'a, K> {
    /// The disk does not take it. It is kept in memory.
    Refused(String, Skipped),
    /// Nor is there room in memory: this record is given up. The lines left out, where it is time for one.
    GivenUp(&'a [u8], Option<Skipped>),
    /// No disk would.
    Unfit(Unfit, &'a [u8]),
    /// All that was refused is on disk.
    TakenAgain,
    /// What was written may be lost if the machine crashes.
    Unsynced(io::Error, Skipped),
    /// The record of this key cannot be read any more.
    Damaged(K),
    /// A segment that nobody needs stays.
    NotRemoved(io::Error),
}

/// What a record says.
pub enum Line<K: Kind> {
    Put(K::Key, K::Value),
    Remove(K::Key),
    /// Nothing of any key.
    Other,
}

/// What is to become of a key.
pub enum Change<K: Kind> {
    /// It has this record from now on.
    Put(K::Key, K::Value, Vec<u8>),
    Remove(K::Key),
}

/// How much a log may take.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes of all segments.
    pub size: u64,
    /// Bytes of one.
    pub segment: u64,
    /// Bytes of records in memory while the disk refuses them.
    pub memory: usize,
    /// So many records that still count of the oldest segment are written once more whatever is behind it.
    pub moved: usize,
}

/// See the module.
pub struct KeyedLog<K: Kind> {
    journal: Journal,
    options: Options,
    state: Mutex<State<K>>,
}

struct State<K: Kind> {
    entries: HashMap<K::Key, Entry<K::Value>>,
    /// Those on disk.
    by_position: BTreeMap<Position, K::Key>,
    /// Bytes of their records.
    counting: u64,
    /// What the disk has refused: records, and removals.
    backlog: Backlog<(K::Key, Option<Text>)>,
    is_refusing: bool,
    complaints: Sparse,
}

type Text = Arc<[u8]>;

/// Bytes of a record and its line's end: no record is so long that this is not enough, and where there is none costs no
/// memory besides.
#[derive(Clone, Copy)]
struct Length(NonZeroU32);

impl Length {
    fn of(record: usize) -> Length {
        let length = u32::try_from(record).unwrap_or(u32::MAX);
        Length(NonZeroU32::MIN.saturating_add(length))
    }

    fn bytes(self) -> u64 {
        self.0.get().into()
    }
}

/// There is one for each key, so each word of it counts: see the test of its size.
struct Entry<V> {
    value: V,
    /// Where its record is, and its length. While another one waits, the one before it.
    disk: Option<(Position, Length)>,
    /// The record, until the disk has it.
    memory: Option<Text>,
}

impl<K: Kind> KeyedLog<K> {
    /// Opens the log in this directory; `read` gets every record that is there.
    ///
    /// # Errors
    /// A sentence with the path.
    pub fn open(
        dir: &Path,
        options: Options,
        mut read: impl FnMut(&[u8]) -> Line<K>,
    ) -> Result<KeyedLog<K>, String> {
        segments::make_directory(dir)
            .and_then(|()| segments::set_aside(dir, is_foreign::<K>))
            .map(|moved| {
                for path in moved {
                    error!(
                        "{}: of a later version than this one, or of something else; it is not read",
                        path.display()
                    );
                }
            })
            .map_err(|error| format!("{}: {error}", dir.display()))?;
        let header = format!("{FORMAT}{} {}", K::NAME, K::VERSION);
        let mut state: State<K> = State::default();
        let limits = Limits {
            size: options.size,
            segment: options.segment,
            history: 0,
        };
        let journal = Journal::open(dir, limits, |at, text| {
            if at.offset == 0 && text == header.as_bytes() {
                return;
            }
            match read(text) {
                Line::Put(key, value) => {
                    state.hold(key, value, None);
                    state.move_to(key, at, text.len());
                }
                Line::Remove(key) => drop(state.forget(key)),
                Line::Other => {}
            }
        })?;
        let journal = journal.with_header(header.as_bytes());
        Ok(KeyedLog {
            journal: journal.map_err(|why| format!("{}: {why}", dir.display()))?,
            options,
            state: Mutex::new(state),
        })
    }

    /// Makes these changes, in their order. What the disk takes of them is written together.
    pub fn apply(&self, changes: impl IntoIterator<Item = Change<K>>) {
        let mut state = self.lock();
        let mut lines = Vec::new();
        for change in changes {
            match change {
                Change::Put(key, value, text) => {
                    let text: Text = text.into();
                    state.hold(key, value, Some(Arc::clone(&text)));
                    lines.push((key, Some(text)));
                }
                Change::Remove(key) => {
                    if state.forget(key) {
                        lines.push((key, None));
                    }
                }
            }
        }
        let texts: Vec<Cow<'_, [u8]>> = lines.iter().map(text::<K>).collect();
        let texts: Vec<&[u8]> = texts.iter().map(AsRef::as_ref).collect();
        // What waits goes first.
        let written = if state.backlog.is_empty() {
            self.journal.append_all(&texts)
        } else {
            Vec::new()
        };
        let mut written = written.into_iter();
        for line in lines {
            match written.next() {
                Some(Ok(at)) => state.written(&line, at),
                Some(Err(Refused::Unfit(why))) => state.give_up_unfit(&line, why),
                Some(Err(why)) => {
                    if state.backlog.is_empty() {
                        state.complain(&why);
                    }
                    state.wait(line, self.options.memory);
                }
                None => state.wait(line, self.options.memory),
            }
        }
    }

    /// The key has this record from now on.
    pub fn put(&self, key: K::Key, value: K::Value, text: Vec<u8>) {
        self.apply([Change::Put(key, value, text)]);
    }

    pub fn remove(&self, key: K::Key) {
        self.apply([Change::Remove(key)]);
    }

    /// Writes a record of no key. It may be lost.
    pub fn remark(&self, text: &[u8]) {
        // There will be another one.
        let _ = self.journal.append(text);
    }

    /// The record of a key; none where there is none, or where it is damaged.
    pub fn text(&self, key: K::Key) -> Option<Vec<u8>> {
        let mut tried = None;
        loop {
            let at = {
                let state = self.lock();
                let entry = state.entries.get(&key)?;
                if let Some(text) = &entry.memory {
                    return Some(text.to_vec());
                }
                entry.disk?.0
            };
            if tried == Some(at) {
                return None;
            }
            // It may be written once more, elsewhere, just now.
            if let Some(text) = self.journal.read_at(at) {
                return Some(text);
            }
            tried = Some(at);
        }
    }

    /// What its owner knows of a key.
    pub fn with<T>(&self, key: K::Key, act: impl FnOnce(&mut K::Value) -> T) -> Option<T> {
        self.lock().entries.get_mut(&key).map(|e| act(&mut e.value))
    }

    /// The same of all keys: those on disk in the order of their records, then those in memory.
    pub fn each(&self, mut act: impl FnMut(K::Key, &mut K::Value)) {
        let state = &mut *self.lock();
        let State {
            entries,
            by_position,
            backlog,
            ..
        } = state;
        for key in by_position.values() {
            if let Some(entry) = entries.get_mut(key) {
                act(*key, &mut entry.value);
            }
        }
        for (key, text) in backlog.iter() {
            let entry = entries.get_mut(key).filter(|entry| entry.disk.is_none());
            if let Some(entry) = entry.filter(|entry| entry.waits(text.as_ref())) {
                act(*key, &mut entry.value);
            }
        }
    }

    /// Keys that have a record.
    pub fn count(&self) -> usize {
        self.lock().entries.len()
    }

    /// Bytes on disk.
    pub fn size(&self) -> u64 {
        self.journal.size()
    }

    /// As if the disk had this much room for it.
    #[cfg(test)]
    pub fn set_size(&mut self, size: u64) {
        self.journal.limits.size = size;
    }

    /// The records that no disk has.
    pub fn in_memory(&self) -> Vec<Text> {
        let state = self.lock();
        let waiting = state.backlog.iter().filter_map(|(key, text)| {
            let entry = state.entries.get(key)?;
            text.clone().filter(|text| entry.waits(Some(text)))
        });
        waiting.collect()
    }

    /// Makes sure that the disk has what was written.
    pub fn sync(&self) {
        if let Err(error) = self.journal.sync() {
            let left_out = self.lock().complaints.due();
            if let Some(left_out) = left_out {
                K::tell(News::Unsynced(error, left_out));
            }
        }
    }

    /// As of [`Journal::skip_sync`]: instead of [`KeyedLog::sync`], where the log does not outlive the machine.
    pub fn skip_sync(&self) {
        self.journal.skip_sync();
    }

    /// Writes what the disk has refused, and gives back what nobody needs.
    pub fn tend(&self) {
        self.retry();
        self.compact();
        let state = self.lock();
        let oldest = state.by_position.keys().next().copied();
        let oldest = oldest.unwrap_or_else(|| self.journal.end());
        drop(state);
        if let Err(error) = self.journal.release(oldest) {
            K::tell(News::NotRemoved(error));
        }
    }

    /// Writes what the disk has refused, oldest first, until it refuses again.
    pub fn retry(&self) {
        while self.retry_some() {
            thread::yield_now();
        }
    }

    /// A few of them. Returns true if there are more.
    fn retry_some(&self) -> bool {
        let mut state = self.lock();
        let mut backlog = std::mem::take(&mut state.backlog);
        let tried = backlog.retry(RETRY_BATCH, |line| {
            if line.1.is_some() && !state.waits(line) {
                return Ok(()); // There is news of it.
            }
            match self.journal.append(&text::<K>(line)) {
                Ok(at) => state.written(line, at),
                Err(Refused::Unfit(why)) => state.give_up_unfit(line, why),
                Err(why) => return Err(why),
            }
            Ok(())
        });
        state.backlog = backlog;
        match tried {
            Err(why) => {
                state.complain(&why);
                false
            }
            Ok(()) => {
                let has_more = !state.backlog.is_empty();
                if !has_more && std::mem::take(&mut state.is_refusing) {
                    K::tell(News::TakenAgain);
                }
                has_more
            }
        }
    }

    /// Writes what counts of the oldest segment once more, at the end, so that it can go: where that is little, or where
    /// the log is far larger than all that counts.
    fn compact(&self) {
        let (start, end) = (self.journal.start(), self.journal.end());
        // The last one would come to where it was.
        if end.segment < start.segment + 2 {
            return;
        }
        let state = self.lock();
        let of_oldest = state.by_position.range(
            ..=Position {
                offset: u64::MAX,
                ..start
            },
        );
        let sprawl = SPRAWL_FACTOR * state.counting.max(self.options.segment);
        let most = if self.journal.size() < sprawl {
            self.options.moved
        } else {
            usize::MAX
        };
        let old: Vec<(Position, K::Key)> = of_oldest.map(|(at, key)| (*at, *key)).collect();
        drop(state);
        if old.len() > most {
            return;
        }
        for (at, key) in old {
            let text = self.journal.read_at(at);
            let mut state = self.lock();
            let entry = state.entries.get(&key);
            let Some(entry) = entry.filter(|entry| entry.disk.is_some_and(|(disk, _)| disk == at))
            else {
                continue; // There is news of it.
            };
            match text {
                Some(text) => match self.journal.append(&text) {
                    Ok(to) => state.move_to(key, to, text.len()),
                    Err(_) => return,
                },
                None => {
                    if entry.memory.is_none() {
                        K::tell(News::Damaged(key));
                    }
                    state.lose(key);
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the first record of a segment begins with.
const FORMAT: &str = "format ";

/// Returns true if a segment's first record tells that others are in it than this version knows.
fn is_foreign<K: Kind>(text: &[u8]) -> bool {
    let text = std::str::from_utf8(text).ok();
    let Some((name, version)) = text
        .and_then(|text| text.strip_prefix(FORMAT))
        .and_then(|format| format.rsplit_once(' '))
    else {
        return false;
    };
    version
        .parse()
        .is_ok_and(|version: u32| name != K::NAME || version > K::VERSION)
}

fn text<K: Kind>((key, text): &(K::Key, Option<Text>)) -> Cow<'_, [u8]> {
    match text {
        Some(text) => Cow::Borrowed(text),
        None => Cow::Owned(format!("{} {key}", K::REMOVED).into_bytes()),
    }
}

impl<V> Entry<V> {
    /// Returns true if this is the record that the disk does not have.
    fn waits(&self, text: Option<&Text>) -> bool {
        match (&self.memory, text) {
            (Some(memory), Some(text)) => Arc::ptr_eq(memory, text),
            _ => false,
        }
    }
}

impl<K: Kind> Default for State<K> {
    fn default() -> State<K> {
        State {
            entries: HashMap::new(),
            by_position: BTreeMap::new(),
            counting: 0,
            backlog: Backlog::default(),
            is_refusing: false,
            complaints: Sparse::default(),
        }
    }
}

impl<K: Kind> State<K> {
    /// There is news of a key. What the disk has of it is needed until it has the news.
    fn hold(&mut self, key: K::Key, value: K::Value, memory: Option<Text>) {
        let before = self.entries.remove(&key);
        let entry = Entry {
            value,
            disk: before.and_then(|before| before.disk),
            memory,
        };
        self.entries.insert(key, entry);
    }

    fn waits(&self, (key, text): &(K::Key, Option<Text>)) -> bool {
        let entry = self.entries.get(key);
        entry.is_some_and(|entry| entry.waits(text.as_ref()))
    }

    /// The disk has taken a line.
    fn written(&mut self, line: &(K::Key, Option<Text>), at: Position) {
        if let (true, (key, Some(text))) = (self.waits(line), line) {
            self.move_to(*key, at, text.len());
            if let Some(entry) = self.entries.get_mut(key) {
                entry.memory = None;
            }
        }
    }

    /// The record of a key is here now.
    fn move_to(&mut self, key: K::Key, at: Position, length: usize) {
        self.leave_disk(key);
        if let Some(entry) = self.entries.get_mut(&key) {
            let length = Length::of(length);
            entry.disk = Some((at, length));
            self.counting += length.bytes();
            self.by_position.insert(at, key);
        }
    }

    fn leave_disk(&mut self, key: K::Key) {
        let entry = self.entries.get_mut(&key);
        if let Some((at, length)) = entry.and_then(|entry| entry.disk.take()) {
            self.counting = self.counting.saturating_sub(length.bytes());
            self.by_position.remove(&at);
        }
    }

    fn forget(&mut self, key: K::Key) -> bool {
        self.leave_disk(key);
        self.entries.remove(&key).is_some()
    }

    /// What the disk has of a key is of no use.
    fn lose(&mut self, key: K::Key) {
        self.leave_disk(key);
        if self.entries.get(&key).is_some_and(|e| e.memory.is_none()) {
            self.entries.remove(&key);
        }
    }

    /// The disk has refused a line: it waits until there is none before it and the disk takes it.
    fn wait(&mut self, line: (K::Key, Option<Text>), limit: usize) {
        self.is_refusing = true;
        let (key, text) = line.clone();
        let bytes = match &text {
            Some(text) if self.waits(&line) => text.len(),
            Some(_) => return, // There is news of it.
            None => REMOVAL_SIZE,
        };
        if self.backlog.push(line.clone(), bytes, limit) {
            return;
        }
        let mut backlog = std::mem::take(&mut self.backlog);
        backlog.retain(|one| one.1.is_none() || self.waits(one));
        let has_room = backlog.push(line, bytes, limit);
        self.backlog = backlog;
        // A removal that is lost: the record comes back after a restart.
        if let (false, Some(text)) = (has_room, text) {
            let left_out = self.complaints.due();
            K::tell(News::GivenUp(&text, left_out));
            self.give_up(key);
        }
    }

    fn give_up_unfit(&mut self, line: &(K::Key, Option<Text>), why: Unfit) {
        if let (key, Some(text)) = line {
            K::tell(News::Unfit(why, text));
            if self.waits(line) {
                self.give_up(*key);
            }
        }
    }

    /// The record in memory is given up. What the disk has of the key still counts.
    fn give_up(&mut self, key: K::Key) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.memory = None;
            if entry.disk.is_none() {
                self.entries.remove(&key);
            }
        }
    }

    fn complain(&mut self, why: &Refused) {
        self.is_refusing = true;
        if let Some(left_out) = self.complaints.due() {
            K::tell(News::Refused(why.to_string(), left_out));
        }
    }
}

#[cfg(test)]
mod tests;
