//! Sessions that a relay listed and that are not known otherwise: from before this dispatcher's start, or another
//! dispatcher's. They tell where to ask, and nothing is accounted for want of them.

use std::collections::HashMap;

use super::dialog_counts::DialogCounts;
use crate::dispatcher::relay_id::LinkId;
use crate::dispatcher::statistics::ListedCall;
use crate::moment::UnixTime;
use crate::proto::name::{Fit, Mention, Name};
use crate::proto::{CallId, DialogId, SessionId};

/// One of them.
#[derive(Debug)]
pub(super) struct ForeignCall {
    pub link: LinkId,
    pub name: Name,
    pub session_id: Option<SessionId>,
    /// The first answer, by the relay's calendar.
    pub started: Option<UnixTime>,
    dialog_id: Option<DialogId>,
}

/// So many of one Call-ID are kept for one relay.
const MAX_PER_CALL_ID: usize = 32;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ForeignCalls {
    calls: HashMap<CallId, Vec<ForeignCall>>,
    dialogs: DialogCounts,
}

impl ForeignCalls {
    /// Those of a Call-ID.
    pub(super) fn of(&self, call_id: &CallId) -> impl Iterator<Item = &ForeignCall> {
        self.calls.get(call_id).into_iter().flatten()
    }

    /// The one that a message fits best, of one link where that is told.
    pub(super) fn best(&self, mention: Mention<'_>, link: Option<LinkId>) -> Option<&ForeignCall> {
        let found = self.of(mention.call_id);
        let found = found.filter(|found| link.is_none_or(|link| found.link == link));
        let found = found.map(|found| (found.name.fit(mention), found));
        let found = found.filter(|(fit, _)| *fit != Fit::Not);
        let found = found.max_by_key(|(fit, found)| (*fit, found.link));
        found.map(|(_, found)| found)
    }

    pub(super) fn call_ids(&self) -> impl Iterator<Item = &CallId> {
        self.calls.keys()
    }

    pub(super) fn has(&self, call_id: &CallId) -> bool {
        self.calls.contains_key(call_id)
    }

    /// Returns true if one of them has this dialog.
    pub(super) fn has_dialog(&self, dialog_id: &DialogId) -> bool {
        self.dialogs.has(dialog_id)
    }

    /// A relay has told of one. What it told of it before does not count any more.
    pub(super) fn add(&mut self, link: LinkId, name: Name, call: ListedCall) {
        self.take(&name.call_id, |one| {
            one.link == link && one.name.is_of(&name)
        });
        let found = self.calls.entry(name.call_id.clone()).or_default();
        if found.iter().filter(|one| one.link == link).count() >= MAX_PER_CALL_ID {
            return;
        }
        self.dialogs.add(call.dialog_id.as_ref());
        found.push(ForeignCall {
            link,
            name,
            session_id: call.session_id,
            started: call.started,
            dialog_id: call.dialog_id,
        });
    }

    /// Forgets some of a Call-ID.
    pub(super) fn take(&mut self, call_id: &CallId, is_it: impl Fn(&ForeignCall) -> bool) {
        let Some(found) = self.calls.get_mut(call_id) else {
            return;
        };
        forget(found, &mut self.dialogs, is_it);
        if found.is_empty() {
            self.calls.remove(call_id);
        }
    }

    /// A session that this link's relay listed is over there; what another relay says of one of that name does not
    /// count.
    pub(super) fn ended(&mut self, link: LinkId, call_id: &CallId, from_tag: Option<&str>) {
        self.take(call_id, |one| {
            one.link == link && one.name.fit_told(from_tag) != Fit::Not
        });
    }

    /// A link is gone, with all that was found by it.
    pub(super) fn lose(&mut self, link: LinkId) {
        let dialogs = &mut self.dialogs;
        self.calls.retain(|_, found| {
            forget(found, dialogs, |one| one.link == link);
            !found.is_empty()
        });
        self.calls.shrink_to_fit();
    }
}

fn forget(
    found: &mut Vec<ForeignCall>,
    dialogs: &mut DialogCounts,
    is_it: impl Fn(&ForeignCall) -> bool,
) {
    found.retain(|one| {
        let is_it = is_it(one);
        if is_it {
            dialogs.remove(one.dialog_id.as_ref());
        }
        !is_it
    });
}
