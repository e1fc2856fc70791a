//! Which sessions are in the journal: a relay that did not hear so sends them again.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use crate::proto::SessionId;
use crate::proto::record::session_id;

/// What tells a session from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct SessionKey(u128);

/// Makes keys.
#[derive(Debug, Default)]
pub(super) struct SessionKeys {
    hashes: [RandomState; 2],
}

impl SessionKeys {
    /// The key of the session that a record is of. What has no session id cannot come a second time.
    pub(super) fn of_record(&self, info: &[u8]) -> Option<SessionKey> {
        Some(self.of(&session_id(info)?))
    }

    /// The key of the session with this id. A UUID is its own; anything else has a hash for one.
    pub(super) fn of(&self, session_id: &str) -> SessionKey {
        let uuid: Result<SessionId, ()> = session_id.parse();
        let bits = uuid.map(SessionId::bits).unwrap_or_else(|()| {
            let [high, low] = &self.hashes;
            u128::from(high.hash_one(session_id)) << 64 | u128::from(low.hash_one(session_id))
        });
        SessionKey(bits)
    }
}

/// The sessions of the records in the journal, by the segment that each is in: all of a segment are forgotten at once,
/// however many there are.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    /// Oldest first.
    segments: Vec<(u64, HashSet<SessionKey>)>,
}

impl Recorded {
    /// Notes a session whose record is in this segment.
    pub(super) fn add(&mut self, key: SessionKey, segment: u64) {
        let last = self.segments.last().map(|(number, _)| *number);
        if last != Some(segment) {
            self.segments.push((segment, HashSet::new()));
        }
        if let Some((_, keys)) = self.segments.last_mut() {
            keys.insert(key);
        }
    }

    /// Whether this session has been noted.
    pub(super) fn has(&self, key: SessionKey) -> bool {
        self.segments.iter().any(|(_, keys)| keys.contains(&key))
    }

    /// Forgets what was in segments before this one; what it takes to hold it, to be dropped where nobody waits.
    #[must_use]
    pub(super) fn forget_before(&mut self, segment: u64) -> Vec<(u64, HashSet<SessionKey>)> {
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
        let (keys, mut recorded) = (SessionKeys::default(), Recorded::default());
        let record = |id: &str| format!(r#"{{"call_id":"a","session_id":"{id}"}}"#);
        let uuid = "0f8fad5b-d9cb-469f-a165-70867728950e";
        let of_record = |id: &str| keys.of_record(record(id).as_bytes()).unwrap();
        recorded.add(of_record(uuid), 1);
        recorded.add(of_record("odd \\u00e9"), 2);
        assert!(recorded.has(keys.of(uuid)) && recorded.has(keys.of("odd \u{e9}")));
        assert!(recorded.has(keys.of(&uuid.to_uppercase())), "the same UUID");
        assert!(!recorded.has(keys.of("0f8fad5b-d9cb-469f-a165-70867728950f")));
        assert_eq!(keys.of_record(b"{}"), None);
        drop(recorded.forget_before(2));
        assert!(!recorded.has(keys.of(uuid)) && recorded.has(of_record("odd \\u00e9")));
    }
}
