//! What a relay and a link of its are called.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// One connection of a relay; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// What tells relays apart: the address that the link comes from, and the name in `hello` where there is one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RelayKey {
    pub address: IpAddr,
    pub name: Option<Arc<str>>,
}

impl fmt::Display for RelayKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{} ({})", self.address, name.escape_debug()),
            None => self.address.fmt(f),
        }
    }
}
