//! What all workers together have, for the summary of a relay: each adds its share, the last one sends the sum.

use std::collections::BTreeMap;
use std::mem;
use std::sync::{Mutex, PoisonError};

use crate::session::{Dropped, ReplyTo};

/// The answer to `summary`.
#[derive(Debug)]
pub(super) struct Summing {
    pub reply_to: ReplyTo,
    state: Mutex<(usize, Share)>,
}

/// What one worker, or all together, have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    pub sessions: usize,
    pub streams: BTreeMap<String, usize>,
    /// Packets that could not be sent, since the start.
    pub unsent: u64,
    /// Packets that were not passed on, since the start.
    pub dropped: Dropped,
}

impl Summing {
    /// A summary that this many workers contribute to.
    pub(super) fn new(reply_to: ReplyTo, workers: usize) -> Summing {
        let state = Mutex::new((workers, Share::default()));
        Summing { reply_to, state }
    }

    /// Adds a worker's share; the last one gets the sum.
    pub(super) fn add(&self, share: Share) -> Option<Share> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::link::Sequence;

    const TO: ReplyTo = ReplyTo {
        link: 1,
        sequence: Sequence(1),
    };

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
