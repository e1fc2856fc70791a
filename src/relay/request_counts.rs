//! Requests of dispatchers and their answers, counted.

use crate::metrics::{Counter, Histogram};
use crate::proto::link::UpdateReply;

/// What dispatchers ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Update,
    Remove,
    Sessions,
    Summary,
    Explain,
    /// Something that cannot be read.
    Invalid,
}

/// How it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    Ok,
    Error,
    Halting,
}

impl Asked {
    pub(super) const ALL: [(Asked, &'static str); 6] = [
        (Asked::Update, "update"),
        (Asked::Remove, "remove"),
        (Asked::Sessions, "sessions"),
        (Asked::Summary, "summary"),
        (Asked::Explain, "explain"),
        (Asked::Invalid, "invalid"),
    ];
}

impl Answered {
    pub(super) const ALL: [(Answered, &'static str); 3] = [
        (Answered::Ok, "ok"),
        (Answered::Error, "error"),
        (Answered::Halting, "halting"),
    ];
}

impl From<&UpdateReply> for Answered {
    fn from(reply: &UpdateReply) -> Answered {
        match reply {
            UpdateReply::Ports(..) => Answered::Ok,
            UpdateReply::Error(_) => Answered::Error,
            UpdateReply::Halting => Answered::Halting,
        }
    }
}

/// RequestCounts of all dispatchers since the start.
#[derive(Debug, Default)]
pub(super) struct RequestCounts {
    counts: [[Counter; Answered::ALL.len()]; Asked::ALL.len()],
    /// How long updates took, from their reading to the answer's place in the outbox.
    pub updates: Histogram,
}

impl RequestCounts {
    pub(super) fn count(&self, asked: Asked, answered: Answered) {
        if let Some(counter) = self.counter(asked, answered) {
            counter.add(1);
        }
    }

    pub(super) fn get(&self, asked: Asked, answered: Answered) -> u64 {
        self.counter(asked, answered).map_or(0, Counter::get)
    }

    fn counter(&self, asked: Asked, answered: Answered) -> Option<&Counter> {
        self.counts.get(asked as usize)?.get(answered as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_at_their_numbers() {
        for (at, (asked, _)) in Asked::ALL.iter().enumerate() {
            assert_eq!(*asked as usize, at);
        }
        for (at, (answered, _)) in Answered::ALL.iter().enumerate() {
            assert_eq!(*answered as usize, at);
        }
    }

    #[test]
    fn each_request_has_its_own_count() {
        let requests = RequestCounts::default();
        requests.count(Asked::Update, Answered::Halting);
        requests.count(Asked::Invalid, Answered::Error);
        requests.count(Asked::Invalid, Answered::Error);
        let mut sum = 0;
        for (asked, _) in Asked::ALL {
            sum += Answered::ALL
                .map(|(answered, _)| requests.get(asked, answered))
                .iter()
                .sum::<u64>();
        }
        assert_eq!(sum, 3);
        assert_eq!(requests.get(Asked::Update, Answered::Halting), 1);
        assert_eq!(requests.get(Asked::Invalid, Answered::Error), 2);
    }
}
