//! Looks after drained relays: that the disk has which ones they are, and that the log tells when one has no calls left,
//! which its administrator waits for.
//!
//! This dispatcher knows its own calls there; whether there are others' the relay itself is asked, now and then.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde::Deserialize;

use crate::dispatcher::link::{Ask, Shown};
use crate::dispatcher::relay_commands::write_plain;
use crate::dispatcher::relay_id::{LinkId, RelayKey};
use crate::dispatcher::shared::Dispatcher;
use crate::logging::sparse::Sparse;
use crate::moment::Moment;
use crate::objects::objects_only;
use crate::sys::sync::{Slot, lock};

/// How often a relay without a call of ours is asked.
const ASK_INTERVAL: Duration = Duration::from_secs(2);

/// How often it is looked whether the file has all.
const FILE_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
#[serde(remote = "Self")]
struct SessionCount {
    session_count: u64,
}
objects_only!(SessionCount);

/// What relays were asked, and when.
#[derive(Default)]
pub(super) struct Watch {
    asked: HashMap<LinkId, (Arc<Shown>, Moment)>,
}

impl Watch {
    /// Looks after all drained relays; to be called every now and then. Never waits.
    pub(super) fn look(&mut self, dispatcher: &Dispatcher, now: Moment) {
        let empty = lock(&dispatcher.registry).relays.drained_empty();
        self.asked
            .retain(|id, _| empty.iter().any(|one| one.handle.id == *id));
        for one in empty {
            let link = &one.handle;
            if let Some((slot, since)) = self.asked.get(&link.id) {
                if is_empty(slot) {
                    self.asked.remove(&link.id);
                    say(dispatcher, &one.relay);
                    continue;
                }
                if now < *since + ASK_INTERVAL {
                    continue;
                }
            }
            let slot = Arc::new(Slot::new());
            let ask = Ask::Show(Arc::clone(&slot));
            // What it cannot be asked now, it is later.
            let _ = link.send(now, ask, |out, sequence, _| {
                write_plain(out, "summary", sequence)
            });
            self.asked.insert(link.id, (slot, now));
        }
    }
}

/// Whether a relay has said that it has no session.
fn is_empty(slot: &Shown) -> bool {
    let answer = slot.take_until(Moment::START).flatten();
    let seen = answer.and_then(|answer| serde_json::from_slice::<SessionCount>(&answer).ok());
    seen.is_some_and(|seen| seen.session_count == 0)
}

fn say(dispatcher: &Dispatcher, relay: &RelayKey) {
    if lock(&dispatcher.registry).relays.note_drained_empty(relay) {
        log::warn!("relay {relay}: drained, it has no calls left");
    }
}

/// The thread that writes what has not been written: the disk was full, or a relay is known by another name now.
pub(super) fn tend(dispatcher: &Arc<Dispatcher>) {
    let mut complaints = Sparse::default();
    loop {
        thread::sleep(FILE_INTERVAL);
        let kept = dispatcher.keep_drained();
        if let Some((why, left_out)) = kept.err().zip(complaints.due()) {
            log::error!(
                "after a restart other relays would be drained than are now: {why}{left_out}"
            );
        }
    }
}
