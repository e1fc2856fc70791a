//! How many sessions there are of each dialog: a dialog that another session has is not ended on a relay's word.

use std::collections::HashMap;

use crate::proto::DialogId;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct DialogCounts(HashMap<DialogId, u32>);

impl DialogCounts {
    pub(super) fn has(&self, dialog_id: &DialogId) -> bool {
        self.0.contains_key(dialog_id)
    }

    pub(super) fn add(&mut self, dialog_id: Option<&DialogId>) {
        if let Some(dialog_id) = dialog_id {
            *self.0.entry(dialog_id.clone()).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, dialog_id: Option<&DialogId>) {
        let count = dialog_id.and_then(|id| self.0.get_mut(id));
        let is_last = count.is_some_and(|count| {
            *count -= 1;
            *count == 0
        });
        if let Some(dialog_id) = dialog_id.filter(|_| is_last) {
            self.0.remove(dialog_id);
        }
    }
}
