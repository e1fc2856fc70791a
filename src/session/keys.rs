//! What sessions and their ports are called between an engine and those around it.

use crate::proto::{Component, Party};

/// Names a session in its engine; never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey {
    /// The place in the engine's table, and how often that was given away before.
    pub(super) slot: u32,
    pub(super) generation: u32,
}

impl SessionKey {
    /// No session's.
    pub(super) fn none() -> SessionKey {
        SessionKey {
            slot: u32::MAX,
            generation: u32::MAX,
        }
    }
}

#[cfg(test)]
impl SessionKey {
    /// A key that no engine made.
    pub(crate) fn for_tests(slot: u32) -> SessionKey {
        SessionKey {
            slot,
            generation: 0,
        }
    }
}

/// Names a bound port by what it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortKey {
    pub session: SessionKey,
    /// Among the session's streams.
    pub stream: u16,
    /// Who sends to it.
    pub party: Party,
    pub component: Component,
}
