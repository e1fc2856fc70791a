//! Calls that the administrator is just ending.

use crate::dispatcher::ended_call::Reason;
use crate::proto::name::Name;

/// How the administrator has a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    /// The proxy ends its dialog and removes it.
    Proxy,
    /// Its relay is asked; the proxy has yet to remove it.
    Relay,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct EndedByAdmin(Vec<(Name, Through)>);

impl EndedByAdmin {
    /// From now on a removal of this session is the administrator's doing.
    pub(super) fn add(&mut self, name: &Name, through: Through) {
        self.remove(name);
        self.0.push((name.clone(), through));
    }

    pub(super) fn remove(&mut self, name: &Name) {
        self.0.retain(|(one, _)| !one.is_of(name));
    }

    /// How the administrator has had a session ended that is over now.
    pub(super) fn take(&mut self, name: &Name) -> Option<Through> {
        let at = self.0.iter().position(|(one, _)| one.is_of(name))?;
        Some(self.0.swap_remove(at).1)
    }

    /// Who has ended a call that was removed.
    pub(super) fn blame(&self, name: &Name, reason: Reason) -> Reason {
        let mut ended = self.0.iter();
        match reason {
            Reason::Removed if ended.any(|(one, _)| one.is_of(name)) => Reason::Ended,
            other => other,
        }
    }
}
