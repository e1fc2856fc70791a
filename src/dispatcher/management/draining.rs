//! Tells when a drained relay has no calls left: that is what its administrator waits for.
//!
//! This dispatcher knows its own calls there; whether there are others' the relay itself is asked, now and then.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use crate::dispatcher::Dispatcher;
use crate::dispatcher::link::{Ask, Shown};
use crate::dispatcher::registry::{LinkId, RelayKey};
use crate::dispatcher::waiting::{Slot, lock};
use crate::dispatcher::wire::write_plain;
use crate::objects::objects_only;

/// How often a relay without a call of ours is asked.
const INTERVAL: Duration = Duration::from_secs(2);

#[derive(Deserialize)]
#[serde(remote = "Self")]
struct Seen {
    session_count: u64,
}
objects_only!(Seen);

/// What relays were asked, and when.
#[derive(Default)]
pub struct Watch {
    asked: HashMap<LinkId, (Arc<Shown>, Duration)>,
}

impl Watch {
    /// Looks after all drained relays; to be called every now and then. Never waits.
    pub fn look(&mut self, dispatcher: &Dispatcher, now: Duration) {
        let empty = lock(&dispatcher.registry).drained_empty();
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
                if now < *since + INTERVAL {
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
    let answer = slot.take_until(Duration::ZERO).flatten();
    let seen = answer.and_then(|answer| serde_json::from_slice::<Seen>(&answer).ok());
    seen.is_some_and(|seen| seen.session_count == 0)
}

fn say(dispatcher: &Dispatcher, relay: &RelayKey) {
    if lock(&dispatcher.registry).note_drained_empty(relay) {
        log::warn!("relay {relay}: drained, it has no calls left");
    }
}
