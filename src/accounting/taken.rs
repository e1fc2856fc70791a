//! Which sessions are in the journal: a relay that did not hear so sends them again.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use serde::Deserialize;

use crate::proto::SessionId;

/// Session ids of the records in the journal, with the segment that each is in.
#[derive(Debug, Default)]
pub struct Taken {
    segments: HashMap<u128, u64>,
    oldest: u64,
    other: [RandomState; 2],
}

#[derive(Deserialize)]
struct Seen<'a> {
    #[serde(borrow)]
    session_id: std::borrow::Cow<'a, str>,
}

impl Taken {
    /// Notes the session of a record in this segment. What has no session id cannot come a second time.
    pub fn add_record(&mut self, info: &[u8], segment: u64) {
        if let Ok(seen) = serde_json::from_slice::<Seen>(info) {
            self.segments.insert(self.key(&seen.session_id), segment);
        }
    }

    /// Whether the session of this record has been noted.
    pub fn has_record(&self, info: &str) -> bool {
        serde_json::from_str::<Seen>(info).is_ok_and(|seen| self.has(&seen.session_id))
    }

    /// Whether the session with this id has been noted.
    pub fn has(&self, session_id: &str) -> bool {
        self.segments.contains_key(&self.key(session_id))
    }

    /// Forgets what was in segments before this one.
    pub fn forget_before(&mut self, segment: u64) {
        if segment > self.oldest {
            self.oldest = segment;
            self.segments.retain(|_, at| *at >= segment);
        }
    }

    /// A UUID is its own key; anything else has a hash for one.
    fn key(&self, session_id: &str) -> u128 {
        let uuid: Result<SessionId, ()> = session_id.parse();
        uuid.map(SessionId::bits).unwrap_or_else(|()| {
            let [high, low] = &self.other;
            u128::from(high.hash_one(session_id)) << 64 | u128::from(low.hash_one(session_id))
        })
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
        assert!(taken.has(uuid) && taken.has("odd \u{e9}"));
        assert!(taken.has(&uuid.to_uppercase()), "the same UUID");
        assert!(!taken.has("0f8fad5b-d9cb-469f-a165-70867728950f"));
        assert!(!taken.has_record("{}"));
        taken.forget_before(2);
        assert!(!taken.has(uuid) && taken.has_record(&record("odd \\u00e9")));
    }
}
