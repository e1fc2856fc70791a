//! Whether flows may be handed over: the kernel's forwarding as a whole, and that between two hosts, can be trusted or is
//! being tried. Pure.

use super::flow::Ends;
use super::health::{Health, Outlook};
use super::paths::Paths;
use crate::moment::Moment;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Trust {
    pub health: Health,
    pub paths: Paths,
}

impl Trust {
    /// Returns true if a flow may be handed over now. Where flows wait, one that has much to send may try; `look` tells
    /// whether that is worth it.
    pub(super) fn admits(
        &mut self,
        ends: &Ends,
        now: Moment,
        has_much: bool,
        look: impl FnOnce() -> Outlook,
    ) -> bool {
        self.paths.admit(ends, now, has_much) && self.health.admits(now, has_much, look)
    }
}
