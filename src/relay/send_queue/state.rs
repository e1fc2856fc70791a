//! What waits for one dispatcher, and the connection to it that there is.

use std::collections::VecDeque;
use std::time::Duration;

use super::TEXT_SIZE;
use crate::moment::Moment;
use crate::proto::link::OLD_DISPATCHER_LINE;
use crate::tls::{Closer, PeerCertificates};

/// Bytes of notices that are kept for a dispatcher; the oldest go first.
const MOST_NOTICES: usize = 32 << 20;

/// Pings that may go unanswered in a row (docs/protocol.md section 2).
const UNANSWERED: u32 = 3;

/// Something to be written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// For the connection that asked.
    Text(Vec<u8>),
    /// An `expired` line: for the dispatcher, whatever its connection.
    Notice(Vec<u8>),
}

impl Piece {
    /// The line, where it is a notice.
    pub(crate) fn notice(self) -> Option<Vec<u8>> {
        match self {
            Piece::Notice(line) => Some(line),
            Piece::Text(_) => None,
        }
    }
}

/// What the lock of a send queue protects.
#[derive(Debug, Default)]
pub(super) struct State {
    pub connection: Option<Connection>,
    /// Connections so far.
    pub serial: u32,
    /// Why the last connection was closed from this side.
    pub reason: Option<String>,
    /// The dispatcher says `stored`.
    pub confirms: bool,
    pub queue: VecDeque<Piece>,
    /// Bytes in the queue and in the writing thread's hands; the latter alone.
    pub queued: usize,
    pub in_hand: usize,
    /// Answers that are lists, each a line in pieces; they leave when the queue is empty.
    pub lists: VecDeque<Vec<Vec<u8>>>,
    /// Bytes of lists, the one in the writing thread's hands included; that one alone.
    pub listed: usize,
    pub list_in_hand: usize,
    /// Bytes of notices in the queue; in the writing thread's hands.
    pub notices: usize,
    pub notices_in_hand: usize,
    /// Threads that wait for some of it to be written.
    pub progress_waits: usize,
    pub finishing: bool,
    pub ended: bool,
}

/// The connection that there is.
#[derive(Debug)]
pub(super) struct Connection {
    pub number: u64,
    pub closer: Option<Closer>,
    pub certificates: Option<PeerCertificates>,
    pub is_ours: bool,
    /// The longest line that one of ours reads of this relay.
    pub longest: usize,
    pub next_ping: Moment,
    pub unanswered: u32,
    pub listings: u32,
    pub writer_waits: bool,
}

impl State {
    pub(super) fn is_at(&self, number: u64) -> bool {
        let connection = self.connection.as_ref();
        connection.is_some_and(|connection| connection.number == number)
    }

    /// Bytes that were asked for and are not written yet. Notices do not count: what was kept for a dispatcher while
    /// it was away says nothing of how it reads. Lists do not: they are refused where they are too many, and end no link.
    pub(super) fn unread(&self) -> usize {
        self.queued
            .saturating_sub(self.notices + self.notices_in_hand)
    }

    /// What the writing thread had in its hands is written.
    pub(super) fn written(&mut self) {
        self.queued = self.queued.saturating_sub(self.in_hand);
        self.listed = self.listed.saturating_sub(self.list_in_hand);
        self.in_hand = 0;
        self.notices_in_hand = 0;
        self.list_in_hand = 0;
    }

    pub(super) fn push_list(&mut self, line: Vec<Vec<u8>>) {
        self.listed += size(&line);
        self.lists.push_back(line);
    }

    /// Hands the oldest list to the writing thread. False where there is none.
    pub(super) fn take_list(&mut self, batch: &mut VecDeque<Piece>) -> bool {
        let Some(line) = self.lists.pop_front() else {
            return false;
        };
        self.list_in_hand = size(&line);
        batch.extend(line.into_iter().map(Piece::Text));
        true
    }

    pub(super) fn line_limit(&self) -> usize {
        match &self.connection {
            Some(connection) if connection.is_ours => connection.longest,
            _ => OLD_DISPATCHER_LINE,
        }
    }

    /// Says a ping when it is time; how long until the next one, or none where too many went unanswered.
    pub(super) fn keep_alive(&mut self, interval: Duration, now: Moment) -> Option<Duration> {
        let connection = self.connection.as_mut()?;
        if now < connection.next_ping || self.finishing {
            return Some(connection.next_ping.since(now));
        }
        if connection.unanswered >= UNANSWERED {
            return None;
        }
        connection.unanswered += 1;
        connection.next_ping = now + interval;
        self.push_text(b"ping\r\n");
        Some(interval)
    }

    pub(super) fn push_text(&mut self, text: &[u8]) {
        self.queued += text.len();
        match self.queue.back_mut() {
            Some(Piece::Text(last)) if last.len() + text.len() <= TEXT_SIZE => {
                last.extend_from_slice(text);
            }
            _ => self.queue.push_back(Piece::Text(text.to_vec())),
        }
    }

    /// Gives up the oldest notices until `more` bytes of them fit; returns how many.
    pub(super) fn make_room(&mut self, more: usize) -> u64 {
        let mut dropped = 0;
        while self.notices + more > MOST_NOTICES {
            let oldest = self.queue.iter().position(is_notice);
            let Some(Piece::Notice(line)) = oldest.and_then(|index| self.queue.remove(index))
            else {
                break;
            };
            self.queued = self.queued.saturating_sub(line.len());
            self.notices = self.notices.saturating_sub(line.len());
            dropped += 1;
        }
        dropped
    }
}

fn size(line: &[Vec<u8>]) -> usize {
    line.iter().map(Vec::len).sum()
}

pub(super) fn is_notice(piece: &Piece) -> bool {
    matches!(piece, Piece::Notice(_))
}
