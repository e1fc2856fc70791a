//! How many may be inside at once, in all and from one address: bounds what strangers can take up.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use crate::sys::sync::lock;

/// A limit that is shared by those who pass it.
#[derive(Debug)]
pub(super) struct ConcurrencyLimit {
    total: usize,
    each: usize,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    total: usize,
    by_address: HashMap<Option<IpAddr>, usize>,
}

/// The right to be inside, until it is dropped.
#[derive(Debug)]
pub(super) struct Pass {
    gate: Arc<ConcurrencyLimit>,
    address: Option<IpAddr>,
}

impl ConcurrencyLimit {
    /// Lets in `total`, and `each` from one address (or from where there are no addresses).
    pub(super) fn new(total: usize, each: usize) -> Arc<ConcurrencyLimit> {
        let inside = Mutex::default();
        Arc::new(ConcurrencyLimit {
            total,
            each,
            inside,
        })
    }

    /// A pass, or none when there is no room.
    pub(super) fn enter(self: &Arc<ConcurrencyLimit>, address: Option<IpAddr>) -> Option<Pass> {
        let mut inside = lock(&self.inside);
        let from_there = inside.by_address.get(&address).copied().unwrap_or(0);
        if inside.total >= self.total || from_there >= self.each {
            return None;
        }
        inside.total += 1;
        inside.by_address.insert(address, from_there + 1);
        Some(Pass {
            gate: Arc::clone(self),
            address,
        })
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut inside = lock(&self.gate.inside);
        inside.total = inside.total.saturating_sub(1);
        let left = inside.by_address.get(&self.address).copied().unwrap_or(0);
        if left > 1 {
            inside.by_address.insert(self.address, left - 1);
        } else {
            inside.by_address.remove(&self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_given_back() {
        let gate = ConcurrencyLimit::new(3, 2);
        let from = |last: u8| Some(IpAddr::from([192, 0, 2, last]));
        let first = gate.enter(from(1)).unwrap();
        let _second = gate.enter(from(1)).unwrap();
        assert!(gate.enter(from(1)).is_none(), "two from one address");
        let third = gate.enter(from(2)).unwrap();
        assert!(gate.enter(from(3)).is_none(), "three in all");
        drop(first);
        assert!(gate.enter(from(1)).is_some());
        drop(third);
        assert_eq!(lock(&gate.inside).by_address.len(), 1);
    }
}
