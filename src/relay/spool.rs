//! Finished sessions that no dispatcher has confirmed yet (`stored`, docs/protocol.md section 9), on disk: they
//! outlive lost links, the dispatcher's end and the relay's own.
//!
//! One thread owns all of it: workers and links hand it messages and wait for no disk. In its journal stand
//! `keep DISPATCHER expired|removed STATISTICS` and `stored ID`; what was kept and not stored is open. What a full disk
//! refuses is open in memory and tried again.

mod book;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use log::{error, info, warn};

pub use self::book::Place;
use self::book::{Book, is_for, split};
use super::dispatchers::Dispatchers;
use super::threads;
use crate::journal::{self, Journal, Limits, Position, Refused};
use crate::logging::{self, sparse::Sparse};
use crate::proto::SessionId;
use crate::sys::clock;
use crate::sys::dir_lock::{self, DirLock};
use crate::words::counted;

/// One segment of the journal, bytes.
const SEGMENT: u64 = 4 << 20;

/// How long what was written may wait for the disk.
const SYNC: Duration = Duration::from_millis(250);

/// Messages that are taken together at most.
const TOGETHER: usize = 10_000;

/// A record that was sent and not confirmed is sent again after this time.
const AGAIN: Duration = Duration::from_secs(60);

/// How often that is looked after.
const TIDY: Duration = Duration::from_secs(15);

/// Bytes of records on their way to the thread; beyond that the disk is too slow to keep them.
const IN_FLIGHT: usize = 32 << 20;

/// Bytes of records that a full disk refused.
const IN_MEMORY: usize = 32 << 20;

/// Bytes that are sent again at once to one dispatcher.
const AT_ONCE: usize = 256 * 1024;

/// So many open records of an old segment are written again at the end, so that the segment can go: a tenth of it or so, lest
/// what one dispatcher leaves unconfirmed while it is away fill the disk with what another one has confirmed.
const MOVED: usize = 300;

/// How a session ended; the word of its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Expired,
    Removed,
}

impl How {
    fn word(self) -> &'static str {
        match self {
            How::Expired => "expired",
            How::Removed => "removed",
        }
    }
}

enum Message {
    Keep {
        dispatcher: SocketAddr,
        id: SessionId,
        line: Vec<u8>,
    },
    /// By whom.
    Stored(SocketAddr, SessionId),
    /// Tell what is open for a dispatcher.
    Open(SocketAddr, Sender<Vec<(SessionId, Place)>>),
    Quit(Sender<()>),
}

/// The other threads' end of it.
#[derive(Clone, Debug)]
pub struct Spool {
    messages: Sender<Message>,
    in_flight: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    journal: Arc<Journal>,
}

/// Not started yet.
pub struct Opened {
    spool: Spool,
    messages: Receiver<Message>,
    book: Book,
    lock: DirLock,
}

/// Opens what this relay, or one before it, has kept. `first_port` tells relays on one host apart.
///
/// # Errors
/// A sentence with the path.
pub fn open(state_dir: &Path, first_port: u16, limit: u64) -> Result<Opened, String> {
    let dir = state_dir.join(format!("relay-{first_port}"));
    let told = |error: io::Error| format!("{}: {error}", dir.display());
    journal::make_directory(&dir).map_err(told)?;
    let lock = dir_lock::lock(&dir).map_err(told)?;
    let limits = Limits {
        size: limit,
        segment: SEGMENT.min(limit / 8),
        history: 0,
    };
    let mut book = Book::default();
    let journal = Journal::open(&dir, limits, |at, text| book.note(at, text))?;
    let count = book.records.len();
    if count > 0 {
        info!(
            "{} of an earlier run not confirmed yet by a dispatcher: reported again when it connects",
            counted(count, "ended call")
        );
    }
    let (sender, messages) = unbounded();
    Ok(Opened {
        spool: Spool {
            messages: sender,
            in_flight: Arc::default(),
            open: Arc::new(AtomicUsize::new(count)),
            journal: Arc::new(journal),
        },
        messages,
        book,
        lock,
    })
}

impl Opened {
    pub fn spool(&self) -> Spool {
        self.spool.clone()
    }

    /// The lines of all that is open.
    pub fn lines(&mut self) -> Vec<Vec<u8>> {
        let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
        let open = self.book.open_for(nobody, Some(&[]), Duration::ZERO);
        let lines = open.iter().filter_map(|(_, at)| self.spool.line(at));
        lines.collect()
    }

    /// Starts the thread.
    pub fn start(self, dispatchers: &Arc<Dispatchers>) -> Result<(), String> {
        let Opened {
            spool,
            messages,
            book,
            lock,
        } = self;
        let mut keeper = Keeper {
            dispatchers: Arc::clone(dispatchers),
            messages,
            records: Records::new(spool, book),
            lock: Some(lock),
        };
        threads::start("spool", move || keeper.run())
    }
}

impl Spool {
    /// Keeps a session's statistics until its dispatcher has stored them. False when there is no room.
    pub fn keep(&self, dispatcher: SocketAddr, how: How, id: SessionId, statistics: &[u8]) -> bool {
        let mut line = format!("keep {dispatcher} {} ", how.word()).into_bytes();
        line.extend_from_slice(statistics);
        let length = line.len();
        if self.in_flight.fetch_add(length, Ordering::Relaxed) > IN_FLIGHT {
            self.in_flight.fetch_sub(length, Ordering::Relaxed);
            return false;
        }
        let message = Message::Keep {
            dispatcher,
            id,
            line,
        };
        self.messages.send(message).is_ok()
    }

    /// A dispatcher has confirmed a session. One that was not told of it cannot.
    pub fn stored(&self, dispatcher: SocketAddr, id: SessionId) {
        // The thread ends after the links.
        let _ = self.messages.send(Message::Stored(dispatcher, id));
    }

    /// What a dispatcher is to be told again, oldest first.
    ///
    /// # Errors
    /// It is not known within the limit, as when the disk hangs: that is not to be taken for nothing.
    pub fn unconfirmed(
        &self,
        dispatcher: SocketAddr,
        limit: Duration,
    ) -> Result<Vec<(SessionId, Place)>, String> {
        let (answer, answered) = bounded(1);
        let asked = self.messages.send(Message::Open(dispatcher, answer));
        let told = asked.ok().and_then(|()| answered.recv_timeout(limit).ok());
        told.ok_or_else(|| {
            "the disk does not tell in time which ended calls it is to hear of".into()
        })
    }

    /// The line for a dispatcher; none where it cannot be read.
    pub fn line(&self, at: &Place) -> Option<Vec<u8>> {
        let text = match at {
            Place::Disk(position) => self.journal.read_at(*position)?,
            Place::Memory(text) => text.to_vec(),
        };
        let (_, rest) = split(text.strip_prefix(b"keep ")?)?;
        let mut line = rest.to_vec();
        line.extend_from_slice(b"\r\n");
        Some(line)
    }

    /// Records that are not confirmed.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Bytes on disk.
    pub fn size(&self) -> u64 {
        self.journal.size()
    }

    /// Writes what is on its way and ends the thread.
    pub fn quit(&self, limit: Duration) {
        let (done, is_done) = bounded(1);
        let asked = self.messages.send(Message::Quit(done));
        if asked.is_err() || is_done.recv_timeout(limit).is_err() {
            warn!("the records of ended calls could not be brought to disk in time");
        }
    }
}

/// The thread.
struct Keeper {
    dispatchers: Arc<Dispatchers>,
    messages: Receiver<Message>,
    records: Records,
    lock: Option<DirLock>,
}

impl Keeper {
    fn run(&mut self) {
        let mut sync_at = None;
        let mut tidy_at = clock::mono() + TIDY;
        loop {
            let next = sync_at.unwrap_or(tidy_at).min(tidy_at);
            let wait = next.saturating_sub(clock::mono());
            match self.messages.recv_timeout(wait) {
                Ok(first) => {
                    if self.take_all(first) {
                        return;
                    }
                    sync_at.get_or_insert_with(|| clock::mono() + SYNC);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let now = clock::mono();
            if sync_at.is_some_and(|at| now >= at) {
                self.records.sync();
                sync_at = None;
            }
            if now >= tidy_at {
                self.tidy(now);
                tidy_at = now + TIDY;
            }
        }
    }

    /// Takes a message and those that are there with it. True when the last one was to quit.
    fn take_all(&mut self, first: Message) -> bool {
        let mut messages = vec![first];
        messages.extend(self.messages.try_iter().take(TOGETHER));
        let mut is_over = false;
        let known = self.dispatchers.wanted();
        for question in self.records.take(messages, known.as_deref()) {
            match question {
                Message::Open(dispatcher, answer) => {
                    let book = &mut self.records.book;
                    let _ = answer.send(book.open_for(dispatcher, known.as_deref(), clock::mono()));
                }
                Message::Quit(done) => {
                    self.records.quit();
                    // Who hears of it may start the next one at once.
                    self.lock = None;
                    let _ = done.send(());
                    is_over = true;
                }
                Message::Keep { .. } | Message::Stored(..) => {}
            }
        }
        is_over
    }

    /// Sends again what was not confirmed in time, and gives back disk space.
    fn tidy(&mut self, now: Duration) {
        let known = self.dispatchers.wanted();
        for dispatcher in self.dispatchers.all() {
            let queue = &dispatcher.queue;
            // One that is away would take the others' records and say them to nobody.
            if queue.confirms() && queue.is_connected() {
                self.records
                    .say_overdue(dispatcher.address, known.as_deref(), now, |line| {
                        queue.say(line)
                    });
            }
        }
        self.records.tidy();
    }
}

/// What is open, and the journal that it stands in.
struct Records {
    spool: Spool,
    book: Book,
    refusals: Sparse,
}

impl Records {
    fn new(spool: Spool, book: Book) -> Records {
        Records {
            spool,
            book,
            refusals: Sparse::default(),
        }
    }

    /// Keeps and forgets what these messages say; the others of them, to be answered.
    fn take(&mut self, messages: Vec<Message>, known: Option<&[SocketAddr]>) -> Vec<Message> {
        let (mut questions, mut changes, mut lines) = (Vec::new(), Vec::new(), Vec::new());
        let mut kept = HashMap::new();
        for message in messages {
            match message {
                Message::Keep {
                    dispatcher,
                    id,
                    line,
                } => {
                    let in_flight = &self.spool.in_flight;
                    in_flight.fetch_sub(line.len(), Ordering::Relaxed);
                    kept.insert(id, dispatcher);
                    changes.push((id, Some(dispatcher)));
                    lines.push(line);
                }
                Message::Stored(by, id) => {
                    let is_told = match kept.get(&id) {
                        Some(dispatcher) => is_for(*dispatcher, by, known),
                        None => self.book.is_for(id, by, known),
                    };
                    if is_told {
                        changes.push((id, None));
                        lines.push(format!("stored {id}").into_bytes());
                    }
                }
                question => questions.push(question),
            }
        }
        let texts: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
        let written = self.spool.journal.append_all(&texts);
        for (((id, keep), line), written) in changes.into_iter().zip(lines).zip(written) {
            match keep {
                Some(dispatcher) => self.kept(dispatcher, id, line, written),
                // Should its line be lost, the record is sent once more, and recognised.
                None => drop(self.book.forget(id)),
            }
        }
        let open = self.book.records.len();
        self.spool.open.store(open, Ordering::Relaxed);
        questions
    }

    /// Says again what a dispatcher can confirm and nobody has in time, a part of it where it is much. What is said
    /// is not overdue any more, so that no other dispatcher hears it in the same round.
    fn say_overdue(
        &mut self,
        dispatcher: SocketAddr,
        known: Option<&[SocketAddr]>,
        now: Duration,
        mut say: impl FnMut(&[u8]),
    ) {
        let overdue = self.book.overdue(dispatcher, known, now);
        for (id, line) in at_once(overdue, |at| self.spool.line(at)) {
            say(&line);
            self.book.note_sent(id, now);
        }
    }

    fn quit(&mut self) {
        self.write_again();
        self.sync();
        let lines = self.book.in_memory().into_iter().map(|(_, text)| {
            let line = crate::proto::Visible(&text);
            format!("an ended call cannot be kept, the disk does not take it: {line}")
        });
        logging::log_all(log::Level::Error, lines);
    }

    /// What became of the line of a record: where it is refused, it stays in memory.
    fn kept(
        &mut self,
        dispatcher: SocketAddr,
        id: SessionId,
        line: Vec<u8>,
        written: Result<Position, Refused>,
    ) {
        let place = match written {
            Ok(position) => Place::Disk(position),
            Err(why) => {
                if let Some(left_out) = self.refusals.due() {
                    error!(
                        "ended calls cannot be kept on disk: {why}; they are kept in memory{left_out}"
                    );
                }
                if self.book.in_memory + line.len() > IN_MEMORY {
                    let line = crate::proto::Visible(&line);
                    return error!(target: logging::RECORDS, "an ended call cannot be kept, too many are in memory: {line}");
                }
                Place::Memory(line.into())
            }
        };
        self.book.add(id, place, dispatcher, clock::mono());
    }

    /// Writes what the disk refused before, oldest first, until it refuses again.
    fn write_again(&mut self) {
        if self.book.in_memory == 0 {
            return;
        }
        for (id, text) in self.book.in_memory() {
            match self.spool.journal.append(&text) {
                Ok(position) => self.book.move_to(id, position),
                Err(_) => return,
            }
        }
        info!("ended calls are kept on disk again");
    }

    fn sync(&mut self) {
        if let Err(error) = self.spool.journal.sync() {
            if let Some(left_out) = self.refusals.due() {
                error!("records of ended calls cannot be brought to disk: {error}{left_out}");
            }
        }
    }

    /// Writes again what could not be written, and gives back disk space.
    fn tidy(&mut self) {
        self.write_again();
        self.move_stragglers();
        let end = self.spool.journal.end();
        let oldest = self.book.on_disk().next().map(|(at, _)| at);
        if let Err(error) = self.spool.journal.release(oldest.unwrap_or(end)) {
            warn!("a segment of confirmed calls cannot be removed: {error}");
        }
    }

    /// Writes the last few open records of the oldest segment again, at the end.
    fn move_stragglers(&mut self) {
        let old = self.spool.journal.stragglers(self.book.on_disk(), MOVED);
        for (at, id) in old {
            let Some(text) = self.spool.journal.read_at(at) else {
                error!("the record of session {id} is damaged on disk and given up");
                self.book.forget(id);
                continue;
            };
            if let Ok(position) = self.spool.journal.append(&text) {
                self.book.move_to(id, position);
            }
        }
    }
}

/// The lines of so many records as may leave at once; the others are not read.
fn at_once(
    records: Vec<(SessionId, Place)>,
    mut read: impl FnMut(&Place) -> Option<Vec<u8>>,
) -> Vec<(SessionId, Vec<u8>)> {
    let (mut lines, mut bytes) = (Vec::new(), 0);
    for (id, at) in records {
        if bytes >= AT_ONCE {
            break;
        }
        if let Some(line) = read(&at) {
            bytes += line.len();
            lines.push((id, line));
        }
    }
    lines
}

#[cfg(test)]
#[path = "spool_tests.rs"]
mod tests;
