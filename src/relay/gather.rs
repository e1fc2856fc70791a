//! Answers that every worker contributes to: the list of sessions and the summary. The last one sends.

use std::collections::BTreeMap;
use std::mem;
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::session::{Dropped, ReplyTo};

/// The answer to `sessions`: a JSON array, made in pieces between other work.
#[derive(Debug)]
pub struct Listing {
    pub reply_to: ReplyTo,
    /// Longest answer of use, bytes; nothing is kept beyond it.
    limit: usize,
    state: Mutex<Pieces>,
}

#[derive(Debug)]
struct Pieces {
    /// Each with a comma after every session.
    list: Vec<Vec<u8>>,
    size: usize,
    workers: usize,
}

impl Listing {
    /// A list that this many workers contribute to.
    pub fn new(reply_to: ReplyTo, workers: usize, limit: usize) -> Listing {
        let pieces = Pieces {
            list: vec![b"[".to_vec()],
            size: 0,
            workers,
        };
        Listing {
            reply_to,
            limit,
            state: Mutex::new(pieces),
        }
    }

    /// Adds sessions, each with a comma after it. False where the list has become too long for anybody.
    pub fn add(&self, piece: Vec<u8>) -> bool {
        let mut state = lock(&self.state);
        state.size += piece.len();
        if state.size > self.limit {
            state.list.clear();
            return false;
        }
        if !piece.is_empty() {
            state.list.push(piece);
        }
        true
    }

    /// One worker has added all that it has. The last one gets the whole array, or no piece of it where it is too
    /// long for anybody.
    pub fn finish_one(&self) -> Option<Vec<Vec<u8>>> {
        let mut state = lock(&self.state);
        state.workers = state.workers.saturating_sub(1);
        if state.workers > 0 {
            return None;
        }
        let mut list = mem::take(&mut state.list);
        if state.size > self.limit {
            return Some(Vec::new());
        }
        if list.len() > 1 {
            if let Some(last) = list.last_mut() {
                last.pop();
            }
        }
        list.push(b"]".to_vec());
        Some(list)
    }
}

/// The answer to `summary`.
#[derive(Debug)]
pub struct Summing {
    pub reply_to: ReplyTo,
    state: Mutex<(usize, Share)>,
}

/// What one worker, or all together, have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Share {
    pub sessions: usize,
    pub streams: BTreeMap<String, usize>,
    /// Packets that could not be sent, since the start.
    pub unsent: u64,
    /// Packets that were not passed on, since the start.
    pub dropped: Dropped,
}

impl Summing {
    /// A summary that this many workers contribute to.
    pub fn new(reply_to: ReplyTo, workers: usize) -> Summing {
        let state = Mutex::new((workers, Share::default()));
        Summing { reply_to, state }
    }

    /// Adds a worker's share; the last one gets the sum.
    pub fn add(&self, share: Share) -> Option<Share> {
        let mut state = lock(&self.state);
        let (left, sum) = &mut *state;
        sum.sessions += share.sessions;
        sum.unsent += share.unsent;
        sum.dropped += share.dropped;
        for (media_type, count) in share.streams {
            *sum.streams.entry(media_type).or_insert(0) += count;
        }
        *left = left.saturating_sub(1);
        (*left == 0).then(|| mem::take(sum))
    }
}

/// The summary object (docs/protocol.md section 5).
#[derive(Debug, Serialize)]
pub struct Summary {
    pub ip: Ipv4Addr,
    /// Ours: as in `hello`.
    pub name: String,
    pub version: &'static str,
    pub status: &'static str,
    /// Seconds.
    pub uptime: u64,
    pub session_count: usize,
    pub stream_count: BTreeMap<String, usize>,
    /// Ours, the three: see [`super::machine::Room`].
    pub streams_left: usize,
    pub streams_fit: usize,
    pub refused_for_ports: u64,
    /// Bits a second over the last sampling period.
    pub bps_relayed: u64,
    /// Ours, both: see [`Share`].
    pub unsent_packets: u64,
    pub dropped_packets: Dropped,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::link::Sequence;

    const TO: ReplyTo = ReplyTo {
        link: 1,
        sequence: Sequence(1),
    };

    fn array(listing: &Listing) -> Option<String> {
        let pieces = listing.finish_one()?;
        Some(String::from_utf8(pieces.concat()).unwrap())
    }

    #[test]
    fn pieces_become_one_array() {
        let listing = Listing::new(TO, 2, 100);
        assert!(listing.add(b"{},{},".to_vec()));
        assert_eq!(array(&listing), None);
        assert!(listing.add(b"{\"a\":1},".to_vec()));
        assert!(listing.add(Vec::new()));
        assert_eq!(array(&listing).unwrap(), "[{},{},{\"a\":1}]");
    }

    #[test]
    fn nothing_is_an_empty_array() {
        let listing = Listing::new(TO, 1, 100);
        assert_eq!(array(&listing).unwrap(), "[]");
    }

    #[test]
    fn what_is_too_long_is_not_kept() {
        let listing = Listing::new(TO, 1, 10);
        assert!(listing.add(vec![b'x'; 10]));
        assert!(!listing.add(vec![b'x'; 1]));
        assert!(!listing.add(vec![b'x'; 1]));
        assert_eq!(listing.finish_one(), Some(Vec::new()));
    }

    #[test]
    fn shares_add_up() {
        let share = |sessions, streams: &[(&str, usize)]| Share {
            sessions,
            streams: streams.iter().map(|(t, n)| ((*t).to_owned(), *n)).collect(),
            unsent: 1,
            ..Share::default()
        };
        let summing = Summing::new(TO, 2);
        assert_eq!(summing.add(share(2, &[("audio", 2), ("video", 1)])), None);
        let sum = summing.add(share(1, &[("audio", 1)])).unwrap();
        let mut expected = share(3, &[("audio", 3), ("video", 1)]);
        expected.unsent = 2;
        assert_eq!(sum, expected);
    }
}
