//! Which sessions are in the journal: a relay that did not hear so sends them again.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use serde::Deserialize;

use crate::proto::SessionId;

/// Session ids of the records in the journal, with the segment that each is in.
#[derive(Debug, Default)]
pub struct Taken {
    segments: HashMap<Key, u64>,
    oldest: u64,
    other: [RandomState; 2],
}

/// See [`Taken::key_of`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(u128);

#[derive(Deserialize)]
struct Seen<'a> {
    #[serde(borrow)]
    session_id: std::borrow::Cow<'a, str>,
}

impl Taken {
    /// What tells the session of this record from others. What has no session id cannot come a second time.
    pub fn key_of(&self, info: &[u8]) -> Option<Key> {
        let seen: Seen = serde_json::from_slice(info).ok()?;
        Some(self.key(&seen.session_id))
    }

    /// Notes the session of a record in this segment.
    pub fn add(&mut self, key: Key, segment: u64) {
        self.segments.insert(key, segment);
    }

    /// The same by the record.
    pub fn add_record(&mut self, info: &[u8], segment: u64) {
        if let Some(key) = self.key_of(info) {
            self.add(key, segment);
        }
    }

    /// Whether this session has been noted.
    pub fn has(&self, key: Key) -> bool {
        self.segments.contains_key(&key)
    }

    /// Whether the session with this id has been noted.
    pub fn has_id(&self, session_id: &str) -> bool {
        self.has(self.key(session_id))
    }

    /// Forgets what was in segments before this one.
    pub fn forget_before(&mut self, segment: u64) {
        if segment > self.oldest {
            self.oldest = segment;
            self.segments.retain(|_, at| *at >= segment);
        }
    }

    /// A UUID is its own key; anything else has a hash for one.
    fn key(&self, session_id: &str) -> Key {
        let uuid: Result<SessionId, ()> = session_id.parse();
        let bits = uuid.map(SessionId::bits).unwrap_or_else(|()| {
            let [high, low] = &self.other;
            u128::from(high.hash_one(session_id)) << 64 | u128::from(low.hash_one(session_id))
        });
        Key(bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_known_until_their_segment_is_gone() {
        let mut taken = Taken::default();
        let record = |id: &str| format!(r#"{{"call_id":"a","session_id":"{id}"}}"#);
        let uuid = "0f8fad5b-d9cb-469f-a165-70867728950e";
        taken.add_record(record(uuid).as_bytes(), 1);
        taken.add_record(record("odd \\u00e9").as_bytes(), 2);
        taken.add_record(b"{}", 2);
        assert!(taken.has_id(uuid) && taken.has_id("odd \u{e9}"));
        assert!(taken.has_id(&uuid.to_uppercase()), "the same UUID");
        assert!(!taken.has_id("0f8fad5b-d9cb-469f-a165-70867728950f"));
        assert_eq!(taken.key_of(b"{}"), None);
        taken.forget_before(2);
        let key = taken.key_of(record("odd \\u00e9").as_bytes());
        assert!(!taken.has_id(uuid) && taken.has(key.unwrap()));
    }
}
