//! One relay's connection as the other threads see it: what is to be sent, and who waits for what.
//!
//! Requests are put together in one buffer that the link's writing thread takes whole, so that what is queued
//! together leaves in one TLS write. The buffer and the number of open requests are bounded: a relay that
//! does not read makes [`Link::send`] fail and blocks nobody.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};

use super::pending_update::PendingUpdate;
use super::registry::Doubts;
use super::relay_commands::write_plain;
use super::relay_id::LinkId;
use crate::moment::Moment;
use crate::proto::control::Remove;
use crate::proto::link::{Compatibility, EXPLAIN, Sequence, write_remove};
use crate::proto::name::{Fit, Mention, Name};
use crate::proto::{CallId, SessionId};
use crate::sys::clock;
use crate::sys::sync::{Slot, lock};
use crate::tls::PeerCertificates;

/// Bytes that may wait to be sent to one relay.
const MAX_QUEUED: usize = 1 << 20;

/// Requests that one relay may owe an answer to.
const MAX_OPEN: usize = 10_000;

/// Capacity that a buffer keeps once a rush is over, bytes.
const KEPT_CAPACITY: usize = 64 * 1024;

/// What became of a removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// The relay has told its statistics.
    Removed,
    /// The relay has refused, and no such session is known to be there (any more).
    NotThere,
    Error,
    LinkLost,
}

/// A result for the management port, as it came; none when the link was lost.
pub(super) type Shown = Slot<Option<Vec<u8>>>;

/// What a relay has been asked, with whom to tell.
#[derive(Debug)]
pub enum Ask {
    Update(Arc<PendingUpdate>),
    /// The removal of a session; some do not wait for it.
    Remove(Remove, Option<Arc<Slot<Removal>>>),
    /// The removal of a session that is not in the registry.
    TakeBack(CallId),
    /// All sessions of a relay that has just connected.
    Purge,
    /// Whether it has these calls.
    Check(Doubts),
    /// `sessions` or `summary` for the management port.
    Show(Arc<Shown>),
    /// The summary of a relay that has refused a call: are there no ports left?
    PortShortage,
}

/// What kind of answer a request gets: that tells how long it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerKind {
    /// Ports, or why not.
    Ports,
    /// One session's.
    Statistics,
    Summary,
    /// All sessions, or those of a call, read one after the other.
    List,
    /// The same for somebody who wants it as it is.
    WholeList,
}

impl AnswerKind {
    /// By the request's text.
    fn of(ask: &Ask, text: &[u8]) -> AnswerKind {
        match ask {
            Ask::Update(_) => AnswerKind::Ports,
            Ask::Purge | Ask::Check(_) => AnswerKind::List,
            Ask::Show(_) if !text.starts_with(b"summary") => AnswerKind::WholeList,
            Ask::Show(_) | Ask::PortShortage => AnswerKind::Summary,
            Ask::Remove(..) | Ask::TakeBack(_) => AnswerKind::Statistics,
        }
    }
}

/// Why a link does not take a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Closed,
    Full,
    /// The relay could not read it.
    Unwritable,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refused::Closed => "its link is closed",
            Refused::Full => "its queue is full",
            Refused::Unwritable => "a header is longer than the relay can read",
        })
    }
}

/// One relay's connection.
pub struct Link {
    pub id: LinkId,
    pub peer: SocketAddr,
    /// What the relay showed, to be judged again.
    pub certificates: Option<PeerCertificates>,
    /// Address and name for the log, once known.
    label: OnceLock<String>,
    /// It has said that it can be asked to explain calls.
    explains: AtomicBool,
    /// How often something was read from it.
    heard: AtomicU64,
    state: Mutex<State>,
    work: Condvar,
    written: Slot<()>,
    shutdown: Box<dyn Fn() + Send + Sync>,
}

struct State {
    open: bool,
    /// Why it was closed from this side.
    reason: Option<String>,
    compatibility: Compatibility,
    queue: Vec<u8>,
    /// Recorded sessions that the relay has yet to be told of, each with its mark.
    recorded: VecDeque<(u64, SessionId)>,
    writer_waits: bool,
    asked: HashMap<u64, Asked>,
    next: u64,
    /// Requests were found overdue, and the relay has answered none in time since.
    is_silent: bool,
}

struct Asked {
    since: Moment,
    ask: Ask,
    wanted: AnswerKind,
    /// It has been found overdue before.
    is_late: bool,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({}, {self})", self.id.0)
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.label.get() {
            Some(label) => f.write_str(label),
            None => self.peer.ip().fmt(f),
        }
    }
}

impl Link {
    /// An open link to a peer that is taken for an older relay until it says more. `shutdown` ends both
    /// directions of its connection and may be called more than once.
    pub fn new(
        id: LinkId,
        peer: SocketAddr,
        certificates: Option<PeerCertificates>,
        shutdown: Box<dyn Fn() + Send + Sync>,
    ) -> Self {
        let state = State {
            is_silent: false,
            open: true,
            reason: None,
            compatibility: Compatibility::Older,
            queue: Vec::new(),
            recorded: VecDeque::new(),
            writer_waits: false,
            asked: HashMap::new(),
            next: 1,
        };
        Link {
            id,
            peer,
            certificates,
            label: OnceLock::new(),
            explains: AtomicBool::new(false),
            heard: AtomicU64::new(0),
            state: Mutex::new(state),
            work: Condvar::new(),
            written: Slot::new(),
            shutdown,
        }
    }

    /// What the log calls it from now on.
    pub fn set_label(&self, label: String) {
        // Who a link is never changes.
        let _ = self.label.set(label);
    }

    /// The relay is one of ours.
    pub fn set_ours(&self) {
        lock(&self.state).compatibility = Compatibility::Ours;
    }

    /// What the relay has said that it understands.
    pub fn set_commands(&self, commands: &[String]) {
        let explains = commands.iter().any(|command| command == EXPLAIN);
        self.explains.store(explains, Ordering::Relaxed);
    }

    /// Whether it can be asked to explain a call.
    pub fn explains(&self) -> bool {
        self.explains.load(Ordering::Relaxed)
    }

    /// Returns true if anything has been read from it.
    pub fn has_spoken(&self) -> bool {
        self.heard.load(Ordering::Relaxed) > 0
    }

    /// Something was read from it.
    pub fn note_heard(&self) {
        self.heard.fetch_add(1, Ordering::Relaxed);
    }

    /// Asks the relay for something that each can answer, and waits. False when nothing at all is heard of it by the
    /// deadline, or its link ends meanwhile.
    pub fn is_well(&self, deadline: Moment) -> bool {
        let (heard, answer) = (self.heard.load(Ordering::Relaxed), Arc::new(Shown::new()));
        let ask = Ask::Show(Arc::clone(&answer));
        let asked = self.send(clock::moment(), ask, |out, sequence, _| {
            write_plain(out, "summary", sequence)
        });
        if asked == Err(Refused::Closed) {
            return false;
        }
        match answer.take_until(deadline) {
            Some(answer) => answer.is_some(),
            None => self.heard.load(Ordering::Relaxed) != heard,
        }
    }

    /// Queues a request that was begun at `since`; `write` puts it at the buffer's end, or returns false.
    pub fn send(
        &self,
        since: Moment,
        ask: Ask,
        write: impl FnOnce(&mut Vec<u8>, Sequence, Compatibility) -> bool,
    ) -> Result<(), Refused> {
        let mut state = lock(&self.state);
        if !state.open {
            return Err(Refused::Closed);
        }
        if state.queue.len() > MAX_QUEUED || state.asked.len() >= MAX_OPEN {
            return Err(Refused::Full);
        }
        let (sequence, compatibility) = (state.next, state.compatibility);
        let begin = state.queue.len();
        if !write(&mut state.queue, Sequence(sequence), compatibility) {
            return Err(Refused::Unwritable);
        }
        state.next += 1;
        let text = state.queue.get(begin..).unwrap_or_default();
        let asked = Asked {
            since,
            wanted: AnswerKind::of(&ask, text),
            ask,
            is_late: false,
        };
        state.asked.insert(sequence, asked);
        self.wake_writer(state);
        Ok(())
    }

    /// Queues a line that nobody answers. A full queue drops it.
    pub fn say(&self, line: &str) {
        let mut state = lock(&self.state);
        if state.open && state.queue.len() <= MAX_QUEUED {
            state.queue.extend_from_slice(line.as_bytes());
            state.queue.extend_from_slice(b"\r\n");
            self.wake_writer(state);
        }
    }

    /// Tells a relay of ours that a session is recorded, as soon as the disk has it: see [`Finisher::mark`]. What is too
    /// much is left out: the relay asks again.
    ///
    /// [`Finisher::mark`]: super::finished::Finisher::mark
    pub fn confirm(&self, id: SessionId, mark: u64) {
        let mut state = lock(&self.state);
        let is_ours = state.compatibility == Compatibility::Ours;
        if is_ours && state.open && state.recorded.len() < MAX_OPEN {
            state.recorded.push_back((mark, id));
        }
    }

    /// Confirms what the disk has, which is all up to this mark; called a few times a second.
    pub fn flush(&self, on_disk: u64) {
        let mut state = lock(&self.state);
        let is_due = |(mark, _): &(u64, SessionId)| *mark <= on_disk;
        let before = state.queue.len();
        while state.queue.len() <= MAX_QUEUED && state.recorded.front().is_some_and(is_due) {
            if let Some((_, id)) = state.recorded.pop_front() {
                state
                    .queue
                    .extend_from_slice(format!("stored {id}\r\n").as_bytes());
            }
        }
        if state.queue.len() > before {
            self.wake_writer(state);
        }
    }

    /// Queues a removal that nobody waits for; `take_back` is for a session that is not in the registry.
    pub fn remove(&self, remove: Remove, take_back: bool) {
        let ask = if take_back {
            Ask::TakeBack(remove.call_id.clone())
        } else {
            Ask::Remove(remove.clone(), None)
        };
        let sent = self.send(clock::moment(), ask, |out, sequence, compatibility| {
            write_remove(out, &remove, sequence, compatibility)
        });
        if let Err(refused) = sent {
            let call_id = &remove.call_id;
            log::warn!("[session {call_id}] cannot be removed from relay {self}: {refused}");
        }
    }

    fn wake_writer(&self, mut state: std::sync::MutexGuard<'_, State>) {
        let waits = std::mem::take(&mut state.writer_waits);
        drop(state);
        if waits {
            self.work.notify_one();
        }
    }

    /// What the reply to a request is to be; none where there is no such request.
    pub fn wants(&self, sequence: Sequence) -> Option<AnswerKind> {
        let state = lock(&self.state);
        state.asked.get(&sequence.0).map(|asked| asked.wanted)
    }

    /// The request that a reply belongs to; each is given out once. With it true, once, if the relay was silent and this
    /// is its first answer in time.
    pub fn answered(&self, sequence: Sequence) -> Option<(Ask, bool)> {
        let mut state = lock(&self.state);
        let asked = state.asked.remove(&sequence.0)?;
        let is_back = state.is_silent && !asked.is_late;
        state.is_silent &= !is_back;
        Some((asked.ask, is_back))
    }

    /// Whether an update for this session is under way here.
    pub fn is_updating(&self, mention: Mention<'_>) -> bool {
        let name = Name::opened_by(mention);
        let state = lock(&self.state);
        state.asked.values().any(|asked| match &asked.ask {
            Ask::Update(updating) => name.fit(updating.update.mention()) != Fit::Not,
            _ => false,
        })
    }

    /// Whether there are requests from before `limit` that were not found by this before.
    pub fn is_overdue(&self, limit: Moment) -> bool {
        let mut state = lock(&self.state);
        let mut found = false;
        for asked in state.asked.values_mut() {
            if asked.since <= limit && !asked.is_late {
                asked.is_late = true;
                found = true;
            }
        }
        state.is_silent |= found;
        found
    }

    /// Gives back the requests from before `limit`: their answers are not waited for any more.
    pub fn forget(&self, limit: Moment) -> Vec<Ask> {
        let mut state = lock(&self.state);
        let old = |(sequence, asked): (&u64, &Asked)| (asked.since <= limit).then_some(*sequence);
        let old: Vec<u64> = state.asked.iter().filter_map(old).collect();
        old.iter()
            .filter_map(|sequence| state.asked.remove(sequence))
            .map(|asked| asked.ask)
            .collect()
    }

    /// Closes the connection from this side; its reading thread does the rest.
    pub fn close(&self, reason: &str) {
        let mut state = lock(&self.state);
        state.reason.get_or_insert_with(|| reason.to_owned());
        state.open = false;
        self.wake_writer(state);
        (self.shutdown)();
    }

    /// Takes nothing more; what is queued is still written.
    pub fn finish(&self, reason: &str) {
        let mut state = lock(&self.state);
        state.reason.get_or_insert_with(|| reason.to_owned());
        state.open = false;
        self.wake_writer(state);
    }

    /// The writing thread has ended.
    pub fn note_written(&self) {
        self.written.put(());
    }

    /// Waits for the writing thread's end.
    pub fn wait_written(&self, deadline: Moment) {
        self.written.take_until(deadline);
    }

    /// Ends the link and returns the requests that will never be answered, and why this side closed it.
    pub fn end(&self) -> (Vec<Ask>, Option<String>) {
        let mut state = lock(&self.state);
        state.open = false;
        let asked = std::mem::take(&mut state.asked);
        let reason = state.reason.clone();
        self.wake_writer(state);
        (self.shutdown)();
        (asked.into_values().map(|a| a.ask).collect(), reason)
    }

    /// The writing thread: everything that is queued, in order, until the link ends.
    pub fn write_to(&self, mut write: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut batch = Vec::new();
        while self.take_queue(&mut batch) {
            write(&batch)?;
            batch.clear();
            batch.shrink_to(KEPT_CAPACITY);
        }
        Ok(())
    }

    /// Swaps the queue for an empty one, waiting until it has something; false at the link's end.
    fn take_queue(&self, batch: &mut Vec<u8>) -> bool {
        let mut state = lock(&self.state);
        while state.open && state.queue.is_empty() {
            state.writer_waits = true;
            state = self
                .work
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.writer_waits = false;
        std::mem::swap(&mut state.queue, batch);
        !batch.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> Link {
        let peer = "192.0.2.1:5000".parse().unwrap();
        Link::new(LinkId(1), peer, None, Box::new(|| ()))
    }

    fn ask(link: &Link, text: &str) -> Result<(), Refused> {
        link.send(Moment::START, Ask::Purge, |out, sequence, _| {
            out.extend_from_slice(format!("{text} {sequence}\r\n").as_bytes());
            true
        })
    }

    #[test]
    fn what_is_queued_together_leaves_together() {
        let link = link();
        ask(&link, "one").unwrap();
        ask(&link, "two").unwrap();
        link.say("pong");
        let mut written = Vec::new();
        let result = link.write_to(|bytes| {
            written.push(String::from_utf8(bytes.to_vec()).unwrap());
            Err(io::ErrorKind::BrokenPipe.into())
        });
        assert!(result.is_err());
        assert_eq!(written, ["one 1\r\ntwo 2\r\npong\r\n"]);
        assert!(link.answered(Sequence(2)).is_some());
        assert!(link.answered(Sequence(2)).is_none(), "given out once");
    }

    #[test]
    fn what_is_recorded_is_confirmed_when_the_disk_has_it() {
        let link = link();
        let id = SessionId::from_random;
        link.confirm(id(0), 1);
        link.set_ours();
        link.confirm(id(1), 1);
        link.confirm(id(2), 2);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut batch = Vec::new();
                link.take_queue(&mut batch);
                batch
            });
            while !lock(&link.state).writer_waits {
                std::thread::yield_now();
            }
            link.flush(0);
            assert!(lock(&link.state).writer_waits, "it sleeps on");
            link.flush(1);
            let expected = format!("stored {}\r\n", id(1));
            assert_eq!(writer.join().unwrap(), expected.as_bytes());
        });
        link.flush(2);
        let mut batch = Vec::new();
        assert!(link.take_queue(&mut batch));
        assert_eq!(batch, format!("stored {}\r\n", id(2)).as_bytes());
    }

    #[test]
    fn a_relay_that_does_not_read_fills_its_own_queue_only() {
        let link = link();
        let long = "x".repeat(1000);
        let sent = (0..).take_while(|_| ask(&link, &long).is_ok()).count();
        assert!((1000..1100).contains(&sent), "{sent}");
        assert_eq!(ask(&link, "more"), Err(Refused::Full));
    }

    #[test]
    fn open_requests_are_bounded() {
        let link = link();
        let sent = (0..).take_while(|_| ask(&link, "x").is_ok()).count();
        assert_eq!(sent, MAX_OPEN);
        assert!(link.is_overdue(Moment::START));
        assert!(!link.is_overdue(Moment::START), "no news");
        assert!(!is_back(&link, 1), "it answers, but late");
        assert_eq!(ask(&link, "x"), Ok(()));
        assert_eq!(link.forget(Moment::START).len(), MAX_OPEN);
        assert_eq!(ask(&link, "x"), Ok(()));
    }

    /// Answers a request.
    fn is_back(link: &Link, sequence: u64) -> bool {
        let answered = link.answered(Sequence(sequence));
        answered.is_some_and(|(_, is_back)| is_back)
    }

    #[test]
    fn an_answer_in_time_shows_once_that_a_silent_relay_is_back() {
        let link = link();
        ask(&link, "a").unwrap();
        assert!(!is_back(&link, 1), "it was not away");
        ask(&link, "b").unwrap();
        assert!(link.is_overdue(Moment::START));
        (0..2).for_each(|_| ask(&link, "c").unwrap());
        assert!(!is_back(&link, 2), "late");
        assert!(!is_back(&link, 9), "nobody asked");
        assert!(is_back(&link, 3));
        assert!(!is_back(&link, 4), "told once");
    }

    #[test]
    fn what_a_relay_cannot_read_is_not_asked() {
        let link = link();
        let refused = link.send(Moment::START, Ask::Purge, |_, _, _| false);
        assert_eq!(refused, Err(Refused::Unwritable));
        assert!(link.answered(Sequence(1)).is_none());
    }

    #[test]
    fn a_closed_link_takes_nothing_and_frees_who_waits() {
        let link = link();
        ask(&link, "one").unwrap();
        link.close("told to");
        assert_eq!(ask(&link, "two"), Err(Refused::Closed));
        let (asked, reason) = link.end();
        assert_eq!(asked.len(), 1);
        assert_eq!(reason.as_deref(), Some("told to"));
        assert!(link.write_to(|_| Ok(())).is_ok(), "the writer ends");
    }
}
