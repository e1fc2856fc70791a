//! The list of sessions, which every worker contributes to; the last one sends it.

use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::session::ReplyTo;

/// Whose sessions are listed. A dispatcher needs its own; of another one's it wants to know where to ask, and what that one
/// has put into them must not keep it from its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    Own,
    Others,
}

/// The answer to `sessions`: a JSON array, made in pieces between other work. It has all sessions of the dispatcher that asked,
/// and those of others as far as there is room.
#[derive(Debug)]
pub(super) struct Listing {
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
    /// Likewise.
    others: Vec<Vec<u8>>,
    others_size: usize,
    workers: usize,
}

impl Listing {
    /// A list that this many workers contribute to.
    pub(super) fn new(reply_to: ReplyTo, workers: usize, limit: usize) -> Listing {
        let pieces = Pieces {
            list: vec![b"[".to_vec()],
            size: 0,
            others: Vec::new(),
            others_size: 0,
            workers,
        };
        Listing {
            reply_to,
            limit,
            state: Mutex::new(pieces),
        }
    }

    /// Adds sessions, each with a comma after it. False where there is no room for more of these.
    pub(super) fn add(&self, whose: Whose, piece: Vec<u8>) -> bool {
        let mut state = lock(&self.state);
        if whose == Whose::Others {
            let has_room = state.size + state.others_size + piece.len() <= self.limit;
            if has_room && !piece.is_empty() {
                state.others_size += piece.len();
                state.others.push(piece);
            }
            return has_room;
        }
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
    pub(super) fn finish_one(&self) -> Option<Vec<Vec<u8>>> {
        let mut state = lock(&self.state);
        state.workers = state.workers.saturating_sub(1);
        if state.workers > 0 {
            return None;
        }
        let mut list = mem::take(&mut state.list);
        if state.size > self.limit {
            return Some(Vec::new());
        }
        // What another worker has added since may have taken their room.
        let mut left = self.limit - state.size;
        for piece in mem::take(&mut state.others) {
            if piece.len() <= left {
                left -= piece.len();
                list.push(piece);
            }
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
        assert!(listing.add(Whose::Own, b"{},{},".to_vec()));
        assert_eq!(array(&listing), None);
        assert!(listing.add(Whose::Own, b"{\"a\":1},".to_vec()));
        assert!(listing.add(Whose::Own, Vec::new()));
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
        assert!(listing.add(Whose::Own, vec![b'x'; 10]));
        assert!(!listing.add(Whose::Own, vec![b'x'; 1]));
        assert!(!listing.add(Whose::Own, vec![b'x'; 1]));
        assert_eq!(listing.finish_one(), Some(Vec::new()));
    }

    #[test]
    fn sessions_of_other_dispatchers_take_no_room_from_ones_own() {
        let listing = Listing::new(TO, 2, 10);
        assert!(listing.add(Whose::Others, b"{\"x\":1},".to_vec()));
        assert!(!listing.add(Whose::Others, b"{},".to_vec()), "full");
        assert_eq!(array(&listing), None);
        assert!(listing.add(Whose::Own, b"{},".to_vec()), "always");
        assert_eq!(array(&listing).unwrap(), "[{}]");
        let listing = Listing::new(TO, 1, 10);
        assert!(listing.add(Whose::Own, b"{},".to_vec()));
        assert!(listing.add(Whose::Others, b"{\"a\"},".to_vec()));
        assert_eq!(array(&listing).unwrap(), "[{},{\"a\"}]");
    }
}
