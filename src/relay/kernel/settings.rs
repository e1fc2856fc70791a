//! What forwarding in the kernel has to know of the relay.

use std::time::Duration;

use crate::diagnosis::requirements::Wanted;

/// See the module.
#[derive(Clone, Debug)]
pub struct Settings {
    pub wanted: Wanted,
    /// Keep others from the table, as far as the kernel can; tests do as on one that cannot.
    pub protect: bool,
    /// The shortest time after which silence ends a stream: counters are read more often than that.
    pub shortest_silence: Duration,
}
