//! Which sessions are in the journal: a relay that did not hear so sends them again.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use serde::Deserialize;

use crate::objects::objects_only;
use crate::proto::SessionId;

/// What tells a session from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(u128);

/// Makes keys.
#[derive(Debug, Default)]
pub struct Keys {
    hashes: [RandomState; 2],
}

#[derive(Deserialize)]
#[serde(remote = "Self")]
struct Seen<'a> {
    #[serde(borrow)]
    session_id: std::borrow::Cow<'a, str>,
}
objects_only!(Seen<'a>);

impl Keys {
    /// The key of the session that a record is of. What has no session id cannot come a second time.
    pub fn of_record(&self, info: &[u8]) -> Option<Key> {
        let seen: Seen = serde_json::from_slice(info).ok()?;
        Some(self.of(&seen.session_id))
    }

    /// The key of the session with this id. A UUID is its own; anything else has a hash for one.
    pub fn of(&self, session_id: &str) -> Key {
        let uuid: Result<SessionId, ()> = session_id.parse();
        let bits = uuid.map(SessionId::bits).unwrap_or_else(|()| {
            let [high, low] = &self.hashes;
            u128::from(high.hash_one(session_id)) << 64 | u128::from(low.hash_one(session_id))
        });
        Key(bits)
    }
}

/// The sessions of the records in the journal, by the segment that each is in: all of a segment are forgotten at once,
/// however many there are.
#[derive(Debug, Default)]
pub struct Taken {
    /// Oldest first.
    segments: Vec<(u64, HashSet<Key>)>,
}

impl Taken {
    /// Notes a session whose record is in this segment.
    pub fn add(&mut self, key: Key, segment: u64) {
        let last = self.segments.last().map(|(number, _)| *number);
        if last != Some(segment) {
            self.segments.push((segment, HashSet::new()));
        }
        if let Some((_, keys)) = self.segments.last_mut() {
            keys.insert(key);
        }
    }

    /// Whether this session has been noted.
    pub fn has(&self, key: Key) -> bool {
        self.segments.iter().any(|(_, keys)| keys.contains(&key))
    }

    /// Forgets what was in segments before this one; what it takes to hold it, to be dropped where nobody waits.
    #[must_use]
    pub fn forget_before(&mut self, segment: u64) -> Vec<(u64, HashSet<Key>)> {
        let kept = self
            .segments
            .partition_point(|(number, _)| *number < segment);
        self.segments.drain(..kept).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_known_until_their_segment_is_gone() {
        let (keys, mut taken) = (Keys::default(), Taken::default());
        let record = |id: &str| format!(r#"{{"call_id":"a","session_id":"{id}"}}"#);
        let uuid = "0f8fad5b-d9cb-469f-a165-70867728950e";
        let of_record = |id: &str| keys.of_record(record(id).as_bytes()).unwrap();
        taken.add(of_record(uuid), 1);
        taken.add(of_record("odd \\u00e9"), 2);
        assert!(taken.has(keys.of(uuid)) && taken.has(keys.of("odd \u{e9}")));
        assert!(taken.has(keys.of(&uuid.to_uppercase())), "the same UUID");
        assert!(!taken.has(keys.of("0f8fad5b-d9cb-469f-a165-70867728950f")));
        assert_eq!(keys.of_record(b"{}"), None);
        drop(taken.forget_before(2));
        assert!(!taken.has(keys.of(uuid)) && taken.has(of_record("odd \\u00e9")));
    }
}
