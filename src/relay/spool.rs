//! Finished sessions that no dispatcher has confirmed yet (`stored`, docs/protocol.md section 9), on disk: they
//! outlive lost links, the dispatcher's end and the relay's own.
//!
//! One thread writes all of it: workers and links hand it messages and wait for no disk. In its log (see
//! [`KeyedLog`]) stand `keep DISPATCHER expired|removed STATISTICS` and `stored ID`; what was kept and not stored is open.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use log::{error, info, warn};

use super::dispatchers::Dispatchers;
use super::threads;
use crate::journal::{self, Change, KeyedLog, Kind, Line, News, Options};
use crate::logging;
use crate::moment::Moment;
use crate::proto::record::session_id;
use crate::proto::{SessionId, Visible};
use crate::sys::clock;
use crate::sys::dir_lock::{self, DirLock};
use crate::words::counted;

/// How much the log may take on disk comes from the configuration.
const OPTIONS: Options = Options {
    size: 0,
    segment: 4 << 20,
    memory: 32 << 20,
    // A tenth of a segment or so, lest what one dispatcher leaves unconfirmed while it is away fill the disk with what
    // another one has confirmed.
    moved: 300,
};

/// How long what was written may wait for the disk.
const SYNC_INTERVAL: Duration = Duration::from_millis(250);

/// Messages that are taken together at most.
const MESSAGES_AT_ONCE: usize = 10_000;

/// A record that was sent and not confirmed is sent again after this time.
const RESEND_AFTER: Duration = Duration::from_secs(60);

/// How often that is looked after.
const TEND_INTERVAL: Duration = Duration::from_secs(15);

/// Bytes of records on their way to the thread; beyond that the disk is too slow to keep them.
const MAX_IN_FLIGHT: usize = 32 << 20;

/// Bytes that are sent again at once to one dispatcher.
const RESENT_AT_ONCE: usize = 256 * 1024;

/// How a session ended; the word of its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
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

/// What the log holds.
struct EndedCalls;

/// What is known of a record besides its line.
struct Kept {
    dispatcher: SocketAddr,
    /// When it was last sent.
    sent: Moment,
}

impl Kept {
    /// Returns true if a dispatcher is to be told: of its own records, and of those of one that there is no link to any
    /// more, for which anyone that records calls will do. As long as not all are known, nobody is told of another one's.
    fn is_for(&self, dispatcher: SocketAddr, known: Option<&[SocketAddr]>) -> bool {
        let of = self.dispatcher;
        of == dispatcher || known.is_some_and(|known| !known.contains(&of))
    }
}

impl Kind for EndedCalls {
    type Key = SessionId;
    type Value = Kept;
    const NAME: &'static str = "ended calls";
    const REMOVED: &'static str = "stored";

    fn tell(news: News<'_, SessionId>) {
        match news {
            News::Refused(why, left_out) => error!(
                "ended calls cannot be kept on disk: {why}; they are kept in memory{left_out}"
            ),
            News::GivenUp(line, _) => error!(
                target: logging::RECORDS,
                "an ended call cannot be kept, too many are in memory: {}", Visible(line)
            ),
            News::Unfit(why, line) => error!(
                target: logging::RECORDS,
                "an ended call cannot be kept, {why}: {}", Visible(line)
            ),
            News::TakenAgain => info!("ended calls are kept on disk again"),
            News::Unsynced(error, left_out) => {
                error!("records of ended calls cannot be brought to disk: {error}{left_out}");
            }
            News::Damaged(id) => {
                error!("the record of session {id} is damaged on disk and given up");
            }
            News::NotRemoved(error) => {
                warn!("a segment of confirmed calls cannot be removed: {error}");
            }
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
    Open(SocketAddr, Sender<Vec<SessionId>>),
    Quit(Sender<()>),
}

/// The other threads' end of it.
#[derive(Clone)]
pub(super) struct Spool {
    messages: Sender<Message>,
    in_flight: Arc<AtomicUsize>,
    log: Arc<KeyedLog<EndedCalls>>,
}

/// Not started yet.
pub(super) struct Opened {
    spool: Spool,
    messages: Receiver<Message>,
    lock: DirLock,
}

/// Opens what this relay, or one before it, has kept. `first_port` tells relays on one host apart.
///
/// # Errors
/// A sentence with the path.
pub(super) fn open(state_dir: &Path, first_port: u16, limit: u64) -> Result<Opened, String> {
    let dir = state_dir.join(format!("relay-{first_port}"));
    let told = |error: io::Error| format!("{}: {error}", dir.display());
    journal::make_directory(&dir).map_err(told)?;
    let lock = dir_lock::lock(&dir).map_err(told)?;
    let options = Options {
        size: limit,
        segment: OPTIONS.segment.min(limit / 8),
        ..OPTIONS
    };
    let log = KeyedLog::open(&dir, options, read)?;
    let count = log.count();
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
            log: Arc::new(log),
        },
        messages,
        lock,
    })
}

impl Opened {
    pub(super) fn spool(&self) -> Spool {
        self.spool.clone()
    }

    /// The lines of all that is open.
    pub(super) fn lines(&self) -> Vec<Vec<u8>> {
        let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
        let open = self.spool.open_for(nobody, Some(&[]), Moment::START);
        open.iter().filter_map(|id| self.spool.line(*id)).collect()
    }

    /// Starts the thread.
    pub(super) fn start(self, dispatchers: &Arc<Dispatchers>) -> Result<(), String> {
        let mut keeper = Keeper {
            dispatchers: Arc::clone(dispatchers),
            messages: self.messages,
            spool: self.spool,
            lock: Some(self.lock),
        };
        threads::start("spool", move || keeper.run())
    }
}

impl Spool {
    /// Keeps a session's statistics until its dispatcher has stored them. False when there is no room.
    pub(super) fn keep(
        &self,
        dispatcher: SocketAddr,
        how: How,
        id: SessionId,
        statistics: &[u8],
    ) -> bool {
        let mut line = format!("keep {dispatcher} {} ", how.word()).into_bytes();
        line.extend_from_slice(statistics);
        let length = line.len();
        if self.in_flight.fetch_add(length, Ordering::Relaxed) > MAX_IN_FLIGHT {
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
    pub(super) fn stored(&self, dispatcher: SocketAddr, id: SessionId) {
        // The thread ends after the links.
        let _ = self.messages.send(Message::Stored(dispatcher, id));
    }

    /// What a dispatcher is to be told again, oldest first.
    ///
    /// # Errors
    /// It is not known within the limit, as when the disk hangs: that is not to be taken for nothing.
    pub(super) fn unconfirmed(
        &self,
        dispatcher: SocketAddr,
        limit: Duration,
    ) -> Result<Vec<SessionId>, String> {
        let (answer, answered) = bounded(1);
        let asked = self.messages.send(Message::Open(dispatcher, answer));
        let told = asked.ok().and_then(|()| answered.recv_timeout(limit).ok());
        told.ok_or_else(|| {
            "the disk does not tell in time which ended calls it is to hear of".into()
        })
    }

    /// The line for a dispatcher; none where it is confirmed or cannot be read.
    pub(super) fn line(&self, id: SessionId) -> Option<Vec<u8>> {
        let text = self.log.text(id)?;
        let (_, rest) = split(text.strip_prefix(b"keep ")?)?;
        Some([rest, b"\r\n"].concat())
    }

    /// Records that are not confirmed.
    pub(super) fn open(&self) -> usize {
        self.log.count()
    }

    /// Bytes on disk.
    pub(super) fn size(&self) -> u64 {
        self.log.size()
    }

    /// Writes what is on its way and ends the thread.
    pub(super) fn quit(&self, limit: Duration) {
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
    spool: Spool,
    lock: Option<DirLock>,
}

impl Keeper {
    fn run(&mut self) {
        let mut sync_at = None;
        let mut tend_at = clock::moment() + TEND_INTERVAL;
        loop {
            let next = sync_at.unwrap_or(tend_at).min(tend_at);
            let wait = next.since(clock::moment());
            match self.messages.recv_timeout(wait) {
                Ok(first) => {
                    if self.take_all(first) {
                        return;
                    }
                    sync_at.get_or_insert_with(|| clock::moment() + SYNC_INTERVAL);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let now = clock::moment();
            if sync_at.is_some_and(|at| now >= at) {
                self.spool.log.sync();
                sync_at = None;
            }
            if now >= tend_at {
                self.resend(now);
                self.spool.log.tend();
                tend_at = now + TEND_INTERVAL;
            }
        }
    }

    /// Takes a message and those that are there with it. True when the last one was to quit.
    fn take_all(&mut self, first: Message) -> bool {
        let mut messages = vec![first];
        messages.extend(self.messages.try_iter().take(MESSAGES_AT_ONCE));
        let mut is_over = false;
        let known = self.dispatchers.wanted();
        for question in self.spool.take(messages, known.as_deref(), clock::moment()) {
            match question {
                Message::Open(dispatcher, answer) => {
                    let now = clock::moment();
                    let open = self.spool.open_for(dispatcher, known.as_deref(), now);
                    let _ = answer.send(open);
                }
                Message::Quit(done) => {
                    self.spool.end();
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

    /// Sends again what was not confirmed in time.
    fn resend(&self, now: Moment) {
        let known = self.dispatchers.wanted();
        for dispatcher in self.dispatchers.all() {
            let queue = &dispatcher.queue;
            // One that is away would take the others' records and say them to nobody.
            if queue.confirms() && queue.is_connected() {
                let say = |line: &[u8]| queue.say(line);
                self.spool
                    .say_overdue(dispatcher.address, known.as_deref(), now, say);
            }
        }
    }
}

/// What the thread does.
impl Spool {
    /// Keeps and forgets what these messages say; the others of them, to be answered.
    fn take(
        &self,
        messages: Vec<Message>,
        known: Option<&[SocketAddr]>,
        now: Moment,
    ) -> Vec<Message> {
        let (mut questions, mut changes) = (Vec::new(), Vec::new());
        let mut new = HashMap::new();
        for message in messages {
            match message {
                Message::Keep {
                    dispatcher,
                    id,
                    line,
                } => {
                    self.in_flight.fetch_sub(line.len(), Ordering::Relaxed);
                    new.insert(id, dispatcher);
                    let kept = Kept {
                        dispatcher,
                        sent: now,
                    };
                    changes.push(Change::Put(id, kept, line));
                }
                Message::Stored(by, id) => {
                    let kept = new.get(&id).map(|dispatcher| Kept {
                        dispatcher: *dispatcher,
                        sent: now,
                    });
                    let is_told = match kept {
                        Some(kept) => kept.is_for(by, known),
                        None => self.log.with(id, |kept| kept.is_for(by, known)) == Some(true),
                    };
                    if is_told {
                        changes.push(Change::Remove(id));
                    }
                }
                question => questions.push(question),
            }
        }
        // The disk may take records again.
        self.log.retry();
        self.log.apply(changes);
        questions
    }

    /// What is open for a dispatcher, of whatever age, which it is told now.
    fn open_for(
        &self,
        dispatcher: SocketAddr,
        known: Option<&[SocketAddr]>,
        now: Moment,
    ) -> Vec<SessionId> {
        let mut open = Vec::new();
        self.log.each(|id, kept| {
            if kept.is_for(dispatcher, known) {
                kept.sent = now;
                open.push(id);
            }
        });
        open
    }

    /// Of that, what was not sent for a while, to whomever.
    fn overdue(
        &self,
        dispatcher: SocketAddr,
        known: Option<&[SocketAddr]>,
        now: Moment,
    ) -> Vec<SessionId> {
        let mut overdue = Vec::new();
        self.log.each(|id, kept| {
            if now >= kept.sent + RESEND_AFTER && kept.is_for(dispatcher, known) {
                overdue.push(id);
            }
        });
        overdue
    }

    /// Says again what a dispatcher can confirm and nobody has in time, a part of it where it is much. What is said
    /// is not overdue any more, so that no other dispatcher hears it in the same round.
    fn say_overdue(
        &self,
        dispatcher: SocketAddr,
        known: Option<&[SocketAddr]>,
        now: Moment,
        mut say: impl FnMut(&[u8]),
    ) {
        let overdue = self.overdue(dispatcher, known, now);
        for (id, line) in at_once(overdue, |id| self.line(id)) {
            say(&line);
            self.log.with(id, |kept| kept.sent = now);
        }
    }

    /// Nothing comes any more.
    fn end(&self) {
        self.log.retry();
        self.log.sync();
        let lines = self.log.in_memory().into_iter().map(|text| {
            let line = Visible(&text);
            format!("an ended call cannot be kept, the disk does not take it: {line}")
        });
        logging::log_all(log::Level::Error, lines);
    }
}

/// What a line of the log says.
fn read(text: &[u8]) -> Line<EndedCalls> {
    let stored = |text: &[u8]| {
        let id = std::str::from_utf8(text.strip_prefix(b"stored ")?).ok()?;
        Some(Line::Remove(id.parse().ok()?))
    };
    let keep = || {
        let (dispatcher, id) = kept(text.strip_prefix(b"keep ")?)?;
        let sent = Moment::START;
        Some(Line::Put(id, Kept { dispatcher, sent }))
    };
    stored(text).or_else(keep).unwrap_or(Line::Other)
}

/// Whose record this is, and which session's.
fn kept(text: &[u8]) -> Option<(SocketAddr, SessionId)> {
    let (dispatcher, rest) = split(text)?;
    let (word, statistics) = split(rest)?;
    let is_one = |how: How| how.word().as_bytes() == word;
    if ![How::Expired, How::Removed].into_iter().any(is_one) {
        return None;
    }
    let dispatcher = std::str::from_utf8(dispatcher).ok()?.parse().ok()?;
    Some((dispatcher, session_id(statistics)?.parse().ok()?))
}

/// At the first blank.
fn split(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let blank = text.iter().position(|b| *b == b' ')?;
    Some((text.get(..blank)?, text.get(blank + 1..)?))
}

/// The lines of so many records as may leave at once; the others are not read.
fn at_once(
    records: Vec<SessionId>,
    mut read: impl FnMut(SessionId) -> Option<Vec<u8>>,
) -> Vec<(SessionId, Vec<u8>)> {
    let (mut lines, mut bytes) = (Vec::new(), 0);
    for id in records {
        if bytes >= RESENT_AT_ONCE {
            break;
        }
        if let Some(line) = read(id) {
            bytes += line.len();
            lines.push((id, line));
        }
    }
    lines
}

#[cfg(test)]
mod tests;
