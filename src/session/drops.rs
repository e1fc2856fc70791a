//! Why packets were not passed on, and how many for each reason.

use std::collections::HashMap;

use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a packet was not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// Not from where the party is known to be, and nothing speaks for it (M2).
    WrongSource,
    /// The same before the party is known: nothing speaks for this source (E3).
    Unproven,
    /// From the party's address, and not from the port where it is known to be (M2).
    OtherPort,
    /// From where SDP or ICE say that the party is, while it is heard elsewhere (E4).
    Waiting,
    /// From where the party was before it moved (M5).
    Straggler,
    /// The other party has not shown where it is, and its SDP gives no address.
    NotLearned,
    /// The same, and its SDP gives an address that cannot be reached from here (M1).
    NotRoutable,
    /// The other party's SDP gives one of this session's own ports.
    OwnPort,
    /// It has come round so often that it goes no further (M11).
    WentRound,
    /// The stream is no more.
    Closed,
}

impl DropReason {
    /// All there are, by their numbers.
    pub const ALL: [DropReason; 10] = [
        DropReason::WrongSource,
        DropReason::Unproven,
        DropReason::OtherPort,
        DropReason::Waiting,
        DropReason::Straggler,
        DropReason::NotLearned,
        DropReason::NotRoutable,
        DropReason::OwnPort,
        DropReason::WentRound,
        DropReason::Closed,
    ];

    /// A word or two for people.
    pub fn as_str(self) -> &'static str {
        match self {
            DropReason::WrongSource => "wrong source",
            DropReason::Unproven => "unproven source",
            DropReason::OtherPort => "other port",
            DropReason::Waiting => "named source not in use",
            DropReason::Straggler => "old source",
            DropReason::NotLearned => "receiver not known yet",
            DropReason::NotRoutable => "receiver not routable",
            DropReason::OwnPort => "receiver is this relay",
            DropReason::WentRound => "goes round",
            DropReason::Closed => "stream closed",
        }
    }
}

/// Packets that were not passed on, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped([u64; DropReason::ALL.len()]);

impl Dropped {
    pub fn add(&mut self, why: DropReason) {
        self.0[why as usize] += 1;
    }

    /// Every reason with its count.
    pub fn counts(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.into_iter().zip(self.0)
    }
}

impl std::ops::AddAssign for Dropped {
    fn add_assign(&mut self, more: Dropped) {
        for (count, more) in self.0.iter_mut().zip(more.0) {
            *count += more;
        }
    }
}

impl Serialize for Dropped {
    /// An object of the reasons that there were.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (why, count) in self.counts().filter(|(_, count)| *count > 0) {
            map.serialize_entry(why.as_str(), &count)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Dropped {
    /// The same; reasons of another version are left out.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Dropped, D::Error> {
        let counts = HashMap::<String, u64>::deserialize(deserializer)?;
        let count = |why: DropReason| counts.get(why.as_str()).copied().unwrap_or_default();
        Ok(Dropped(DropReason::ALL.map(count)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_count() {
        let mut dropped = Dropped::default();
        for (times, why) in DropReason::ALL.into_iter().enumerate() {
            (0..times).for_each(|_| dropped.add(why));
        }
        let counts: Vec<u64> = dropped.counts().map(|(_, count)| count).collect();
        assert_eq!(counts, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let json = serde_json::to_string(&dropped).unwrap();
        assert!(
            json.starts_with(r#"{"unproven source":1,"other port":2,"#),
            "{json}"
        );
        assert_eq!(serde_json::from_str::<Dropped>(&json).unwrap(), dropped);
        assert_eq!(serde_json::to_string(&Dropped::default()).unwrap(), "{}");
        let other: Dropped = serde_json::from_str(r#"{"other port":2,"no reason":1}"#).unwrap();
        assert_eq!(other.counts().map(|(_, count)| count).sum::<u64>(), 2);
    }
}
