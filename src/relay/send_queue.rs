//! What is to be sent to one dispatcher: filled by the workers, emptied by the link's writing thread.
//!
//! Lives as long as the dispatcher is known, over any number of connections. Answers go to the connection
//! that asked, or nowhere. Notices of ended sessions wait for the dispatcher in the order in which they
//! came, go back to the front when they could not be written, and leave before anything that was asked
//! later. Lists of sessions, which may be megabytes each, leave one at a time when nothing else waits, so that the
//! answer to a call's request waits for one of them at most. All of it is bounded; nobody but the writing thread ever waits.

mod state;

use std::collections::VecDeque;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub(super) use self::state::Piece;
use self::state::{Connection, State, is_notice};
use crate::moment::Moment;
use crate::proto::link::OLD_DISPATCHER_LINE;
use crate::session::{Owner, ReplyTo};
use crate::sys::clock;
use crate::tls::{Closer, PeerCertificates};

/// Bytes of answers that a dispatcher may leave unread before it asks more, and as many of lists; one answer beyond that still
/// fits.
const MOST_UNREAD: usize = 8 << 20;

/// Answers are put together up to this size, bytes.
const TEXT_SIZE: usize = 16 * 1024;

/// Bytes in one write.
const WRITE_SIZE: usize = 64 * 1024;

/// Lists of sessions that one connection may have in the making.
const MOST_LISTINGS: u32 = 4;

/// What the writing thread is to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Task {
    Write,
    /// All is written: say goodbye.
    Finish,
    /// The connection is over.
    Stop,
}

/// See the module.
#[derive(Debug)]
pub(super) struct SendQueue {
    owner: Owner,
    state: Mutex<State>,
    /// Something to write, or the end.
    work: Condvar,
    /// Something was written, or the connection ended.
    progress: Condvar,
}

/// The dispatcher that asked.
pub(super) fn owner_of(reply_to: ReplyTo) -> Owner {
    Owner((reply_to.link >> 32) as u32)
}

impl SendQueue {
    pub(super) fn new(owner: Owner) -> SendQueue {
        SendQueue {
            owner,
            state: Mutex::default(),
            work: Condvar::new(),
            progress: Condvar::new(),
        }
    }

    /// Of a dispatcher that there is no link to; see [`SendQueue::revive`].
    pub(super) fn unlinked(owner: Owner, confirms: bool) -> SendQueue {
        let state = State {
            confirms,
            finishing: true,
            ended: true,
            ..State::default()
        };
        SendQueue {
            state: Mutex::new(state),
            ..SendQueue::new(owner)
        }
    }

    /// A connection is there; the notices that were kept leave first. Returns its number, which no other connection
    /// has.
    pub(super) fn open(
        &self,
        closer: Option<Closer>,
        certificates: Option<PeerCertificates>,
        first_ping: Moment,
    ) -> u64 {
        let mut state = self.lock();
        state.serial = state.serial.wrapping_add(1);
        let number = u64::from(self.owner.0) << 32 | u64::from(state.serial);
        state.reason = None;
        state.connection = Some(Connection {
            number,
            closer,
            certificates,
            is_ours: false,
            longest: OLD_DISPATCHER_LINE,
            next_ping: first_ping,
            unanswered: 0,
            listings: 0,
            writer_waits: false,
        });
        number
    }

    /// The connection is over: what only it could use is dropped, notices stay. Returns why it was closed from
    /// this side, if it was.
    pub(super) fn lost(&self) -> Option<String> {
        let mut state = self.lock();
        state.connection = None;
        state.queue.retain(is_notice);
        state.lists.clear();
        state.listed = 0;
        state.list_in_hand = 0;
        state.queued = state.notices;
        state.in_hand = 0;
        state.notices_in_hand = 0;
        self.work.notify_all();
        self.tell_progress(&state);
        state.reason.take()
    }

    /// The dispatcher has said hello; whether it confirms what it has recorded, and how long a line it reads.
    pub(super) fn set_ours(&self, confirms: bool, longest: usize) {
        let mut state = self.lock();
        if let Some(connection) = &mut state.connection {
            connection.is_ours = true;
            connection.longest = longest;
            state.confirms = confirms;
        }
    }

    /// The dispatcher asks something of a call. One of ours has said hello by then, so one that has not is an older
    /// one now and confirms nothing. That a connection ends before either tells nothing of the dispatcher.
    pub(super) fn note_call(&self) {
        let mut state = self.lock();
        let is_ours = |connection: &Connection| connection.is_ours;
        state.confirms &= state.connection.as_ref().is_none_or(is_ours);
    }

    /// Whether the dispatcher confirms what it has recorded; as it was last seen while it is away.
    pub(super) fn confirms(&self) -> bool {
        self.lock().confirms
    }

    /// Says a whole line on the connection that there is; where there is none it is not said.
    pub(super) fn say(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.connection.is_some() {
            state.push_text(line);
            self.wake(&mut state);
        }
    }

    /// Says to a dispatcher of ours that this process ends, and how long its calls go on without one.
    pub(super) fn say_leaving(&self, within: Duration) {
        let is_ours = |state: &State| state.connection.as_ref().is_some_and(|one| one.is_ours);
        if is_ours(&self.lock()) {
            self.say(format!("leaving {}\r\n", within.as_secs()).as_bytes());
        }
    }

    /// The dispatcher has answered a ping.
    pub(super) fn pong(&self) {
        if let Some(connection) = &mut self.lock().connection {
            connection.unanswered = 0;
        }
    }

    /// Answers a command, if the connection that asked still stands.
    pub(super) fn reply(&self, to: ReplyTo, result: &[u8]) {
        let mut state = self.lock();
        if !state.is_at(to.link) {
            return;
        }
        let sequence = format!("{} ", to.sequence);
        if state.unread() > MOST_UNREAD {
            self.close_locked(&mut state, "it does not read its answers");
        } else if sequence.len() + result.len() > state.line_limit() {
            state.push_text(sequence.as_bytes());
            state.push_text(b"error\r\n");
        } else {
            state.push_text(sequence.as_bytes());
            state.push_text(result);
            state.push_text(b"\r\n");
        }
        self.wake(&mut state);
    }

    /// Answers `error`, and a dispatcher of ours why.
    pub(super) fn refuse(&self, to: ReplyTo, why: &str) {
        let is_ours = |connection: &Connection| connection.is_ours && connection.number == to.link;
        let tells = self.lock().connection.as_ref().is_some_and(is_ours);
        if tells && !why.is_empty() {
            self.reply(to, format!("error: {why}").as_bytes());
        } else {
            self.reply(to, b"error");
        }
    }

    /// Answers a command by a list in many pieces, or by `error` where there are none, where they are more than the
    /// dispatcher can read, or where the lists before it are not read.
    pub(super) fn reply_in_pieces(&self, to: ReplyTo, pieces: Vec<Vec<u8>>) {
        let mut state = self.lock();
        if !state.is_at(to.link) {
            return;
        }
        if let Some(connection) = &mut state.connection {
            connection.listings = connection.listings.saturating_sub(1);
        }
        let sequence = format!("{} ", to.sequence);
        let length = pieces.iter().map(Vec::len).sum::<usize>();
        let fits = sequence.len() + length <= state.line_limit() && state.listed <= MOST_UNREAD;
        if fits && length > 0 {
            let mut line = vec![sequence.into_bytes()];
            line.extend(pieces);
            line.push(b"\r\n".to_vec());
            state.push_list(line);
        } else {
            state.push_text(format!("{sequence}error\r\n").as_bytes());
        }
        self.wake(&mut state);
    }

    /// Whether the connection may have one more list of sessions made; [`SendQueue::reply_in_pieces`] ends it.
    pub(super) fn begin_listing(&self) -> bool {
        match &mut self.lock().connection {
            Some(connection) if connection.listings < MOST_LISTINGS => {
                connection.listings += 1;
                true
            }
            _ => false,
        }
    }

    /// The longest answer that the dispatcher can read, bytes; 0 when the connection is gone.
    pub(super) fn line_limit(&self, to: ReplyTo) -> usize {
        let state = self.lock();
        if state.is_at(to.link) {
            state.line_limit()
        } else {
            0
        }
    }

    /// A session ended by itself. Returns how many notices were given up: older ones to make room, or this one
    /// because no dispatcher could read it.
    pub(super) fn notify(&self, statistics: &[u8]) -> u64 {
        let mut line = Vec::with_capacity(statistics.len() + 10);
        line.extend_from_slice(b"expired ");
        line.extend_from_slice(statistics);
        line.extend_from_slice(b"\r\n");
        if line.len() > OLD_DISPATCHER_LINE {
            return 1;
        }
        let mut state = self.lock();
        let dropped = state.make_room(line.len());
        state.queued += line.len();
        state.notices += line.len();
        state.queue.push_back(Piece::Notice(line));
        self.wake(&mut state);
        dropped
    }

    /// Waits for something to write, and moves it to `batch`; says a ping when it is time.
    pub(super) fn next_task(
        &self,
        number: u64,
        keepalive: Duration,
        batch: &mut VecDeque<Piece>,
    ) -> Task {
        let mut state = self.lock();
        state.written();
        self.tell_progress(&state);
        while state.is_at(number) {
            let now = clock::moment();
            let Some(wait) = state.keep_alive(keepalive, now) else {
                self.close_locked(&mut state, "three pings in a row went unanswered");
                return Task::Stop;
            };
            if !state.queue.is_empty() {
                std::mem::swap(&mut state.queue, batch);
                state.in_hand = state.queued;
                state.notices_in_hand = std::mem::take(&mut state.notices);
                return Task::Write;
            }
            if state.take_list(batch) {
                return Task::Write;
            }
            if state.finishing {
                return Task::Finish;
            }
            if let Some(connection) = &mut state.connection {
                connection.writer_waits = true;
            }
            let waited = self.work.wait_timeout(state, wait);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Task::Stop
    }

    /// Notices that could not be written, in order: they leave first on the next connection.
    pub(super) fn put_back(&self, unsent: impl DoubleEndedIterator<Item = Vec<u8>>) {
        let mut state = self.lock();
        for line in unsent.rev() {
            state.queued += line.len();
            state.notices += line.len();
            state.queue.push_front(Piece::Notice(line));
        }
        state.make_room(0);
    }

    /// Ends the connection; the link makes a new one.
    pub(super) fn close(&self, reason: &str) {
        self.close_locked(&mut self.lock(), reason);
    }

    /// The connection that there is, unless it is to end.
    pub(super) fn standing(&self) -> Option<u64> {
        let state = self.lock();
        let stands = state.reason.is_none() && !state.finishing;
        let number = state
            .connection
            .as_ref()
            .map(|connection| connection.number);
        number.filter(|_| stands)
    }

    /// Ends the link: the connection when all is written, the thread at once when there is none.
    pub(super) fn finish(&self) {
        self.lock().finishing = true;
        self.work.notify_all();
    }

    /// The link's thread is over.
    pub(super) fn set_ended(&self) {
        self.lock().ended = true;
    }

    /// The link is wanted again. False while its thread is not over.
    pub(super) fn revive(&self) -> bool {
        let mut state = self.lock();
        if state.ended {
            state.ended = false;
            state.finishing = false;
            return true;
        }
        false
    }

    /// Whether there is a connection.
    pub(super) fn is_connected(&self) -> bool {
        self.lock().connection.is_some()
    }

    /// Whether the link is to end.
    pub(super) fn is_finishing(&self) -> bool {
        self.lock().finishing
    }

    /// Waits this long, or until the link is to end.
    pub(super) fn pause(&self, limit: Duration) {
        let state = self.lock();
        let waited = self
            .work
            .wait_timeout_while(state, limit, |state| !state.finishing);
        drop(waited);
    }

    /// Notices that wait for a connection.
    pub(super) fn kept(&self) -> usize {
        let state = self.lock();
        match state.connection {
            Some(_) => 0,
            None => state.queue.len(),
        }
    }

    /// Waits until everything is written, or until `deadline`. Returns the notices that are left.
    pub(super) fn wait_written(&self, deadline: Moment) -> usize {
        let state = self.wait_until(deadline, |state| state.queued + state.listed > 0);
        state.queue.iter().filter(|piece| is_notice(piece)).count()
    }

    /// Waits until there is no connection, or until `deadline`.
    pub(super) fn wait_closed(&self, deadline: Moment) {
        drop(self.wait_until(deadline, |state| state.connection.is_some()));
    }

    /// What the connected dispatcher showed.
    pub(super) fn certificates(&self) -> Option<PeerCertificates> {
        self.lock().connection.as_ref()?.certificates.clone()
    }

    fn wait_until(
        &self,
        deadline: Moment,
        waiting: impl FnMut(&mut State) -> bool,
    ) -> MutexGuard<'_, State> {
        let limit = deadline.since(clock::moment());
        let mut state = self.lock();
        state.progress_waits += 1;
        let waited = self.progress.wait_timeout_while(state, limit, waiting);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.progress_waits -= 1;
        state
    }

    /// A system call, so only where somebody waits.
    fn tell_progress(&self, state: &State) {
        if state.progress_waits > 0 {
            self.progress.notify_all();
        }
    }

    fn close_locked(&self, state: &mut State, reason: &str) {
        let Some(connection) = &state.connection else {
            return;
        };
        if let Some(closer) = &connection.closer {
            closer.close();
        }
        state.reason.get_or_insert_with(|| reason.to_owned());
    }

    fn wake(&self, state: &mut State) {
        if let Some(connection) = &mut state.connection {
            if std::mem::take(&mut connection.writer_waits) {
                self.work.notify_all();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a batch, what is small put together, and empties it. Notices that were not certainly written
/// stay in `unsent`.
///
/// # Errors
/// As of `write`.
pub(super) fn write_batch(
    batch: &mut VecDeque<Piece>,
    unsent: &mut Vec<Vec<u8>>,
    buffer: &mut Vec<u8>,
    mut write: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    while let Some(piece) = batch.pop_front() {
        let (bytes, is_notice) = match piece {
            Piece::Text(bytes) => (bytes, false),
            Piece::Notice(bytes) => (bytes, true),
        };
        buffer.extend_from_slice(&bytes);
        unsent.extend(is_notice.then_some(bytes));
        let next = batch.front().map_or(0, |piece| match piece {
            Piece::Text(bytes) | Piece::Notice(bytes) => bytes.len(),
        });
        if batch.is_empty() || buffer.len() + next > WRITE_SIZE {
            write(buffer)?;
            buffer.clear();
            buffer.shrink_to(TEXT_SIZE);
            unsent.clear();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
