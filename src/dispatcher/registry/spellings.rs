//! What relays may call those Call-IDs that are not UTF-8.

use std::collections::HashMap;

use crate::proto::CallId;
use crate::proto::name::spelled;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Spellings(HashMap<String, CallId>);

impl Spellings {
    pub(super) fn add(&mut self, call_id: &CallId) {
        if !call_id.0.is_utf8() {
            for spelling in spelled(&call_id.0) {
                self.0.insert(spelling, call_id.clone());
            }
        }
    }

    pub(super) fn remove(&mut self, call_id: &CallId) {
        if !call_id.0.is_utf8() {
            for spelling in spelled(&call_id.0) {
                self.0.remove(&spelling);
            }
        }
    }

    /// The Call-ID that is not UTF-8 and has this spelling.
    pub(super) fn odd(&self, text: &str) -> Option<&CallId> {
        self.0.get(text)
    }

    /// The call that a relay means.
    pub(super) fn call_id(&self, text: &str) -> CallId {
        let known = self.odd(text).cloned();
        known.unwrap_or_else(|| CallId(text.into()))
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
