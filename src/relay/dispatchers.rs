//! The dispatchers that this relay has, or has had, and the answers that go to one of them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::dispatcher::Dispatcher;
use super::send_queue::owner_of;
use crate::session::{Owner, ReplyTo};

/// Dispatchers that there can ever be; each name server's answer can bring new ones.
pub(super) const MOST_DISPATCHERS: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Dispatchers {
    /// By owner.
    all: RwLock<Vec<Arc<Dispatcher>>>,
    /// Each of the configuration's names has been found once, or was looked for long enough.
    are_found: AtomicBool,
}

/// A dispatcher that needs a thread for its link.
#[derive(Debug)]
pub(super) struct Added {
    pub dispatcher: Arc<Dispatcher>,
    /// It was not known before.
    pub is_new: bool,
}

impl Dispatchers {
    pub(super) fn all(&self) -> Vec<Arc<Dispatcher>> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.clone()
    }

    /// Addresses of those that there are links to, or should be. None as long as a name has not been found that stands for
    /// some.
    pub(super) fn wanted(&self) -> Option<Vec<SocketAddr>> {
        let all = self.all();
        let wanted = all
            .iter()
            .filter(|dispatcher| !dispatcher.queue.is_finishing());
        let wanted = wanted.map(|dispatcher| dispatcher.address).collect();
        self.are_found.load(Ordering::Relaxed).then_some(wanted)
    }

    /// Each of the configuration's names has been found, or will not be waited for.
    pub(super) fn set_found(&self) {
        self.are_found.store(true, Ordering::Relaxed);
    }

    /// Sees to it that a dispatcher is known; none where its link is at work already.
    ///
    /// # Errors
    /// Why it cannot be.
    pub(super) fn add(&self, address: SocketAddr, name: &str) -> Result<Option<Added>, String> {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        let known = all.iter().find(|known| known.address == address);
        if let Some(known) = known {
            return Ok(known.queue.revive().then(|| Added {
                is_new: known.set_name(name),
                dispatcher: Arc::clone(known),
            }));
        }
        let owner = next_owner(&all)?;
        let dispatcher = Arc::new(Dispatcher::new(owner, address, name));
        all.push(Arc::clone(&dispatcher));
        Ok(Some(Added {
            dispatcher,
            is_new: true,
        }))
    }

    /// The dispatcher of a call that an earlier process had; one that is not known gets no link by that. `confirms`: as of
    /// [`super::send_queue::SendQueue::confirms`].
    ///
    /// # Errors
    /// Why it cannot be known.
    pub(super) fn of_adopted(&self, address: SocketAddr, confirms: bool) -> Result<Owner, String> {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.iter().find(|known| known.address == address) {
            return Ok(known.owner);
        }
        let owner = next_owner(&all)?;
        let dispatcher = Dispatcher::unlinked(owner, address, confirms);
        all.push(Arc::new(dispatcher));
        Ok(owner)
    }

    pub(super) fn with(&self, owner: Owner, act: impl FnOnce(&Dispatcher)) {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(dispatcher) = all.get(owner.0 as usize) {
            act(dispatcher);
        }
    }

    pub(super) fn reply(&self, to: ReplyTo, result: &[u8]) {
        self.with(owner_of(to), |asker| asker.queue.reply(to, result));
    }

    /// Answers `error`; a dispatcher of ours hears why.
    pub(super) fn refuse(&self, to: ReplyTo, why: &str) {
        self.with(owner_of(to), |asker| asker.queue.refuse(to, why));
    }

    pub(super) fn reply_in_pieces(&self, to: ReplyTo, pieces: Vec<Vec<u8>>) {
        self.with(owner_of(to), |asker| {
            asker.queue.reply_in_pieces(to, pieces)
        });
    }
}

/// Who is added to these next.
fn next_owner(all: &[Arc<Dispatcher>]) -> Result<Owner, String> {
    if all.len() >= MOST_DISPATCHERS {
        return Err(format!(
            "there were {MOST_DISPATCHERS} dispatchers already; restart the relay"
        ));
    }
    Ok(Owner(u32::try_from(all.len()).unwrap_or(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dispatcher_of_an_adopted_call_gets_its_link_when_it_is_named() {
        let dispatchers = Dispatchers::default();
        let address: SocketAddr = "192.0.2.1:25060".parse().unwrap();
        let owner = dispatchers.of_adopted(address, true).unwrap();
        assert_eq!(dispatchers.of_adopted(address, false), Ok(owner));
        dispatchers.set_found();
        assert_eq!(dispatchers.wanted(), Some(Vec::new()), "there is no link");
        dispatchers.with(owner, |known| {
            assert!(known.queue.confirms());
            assert_eq!(known.to_string(), "dispatcher 192.0.2.1:25060");
        });

        let added = dispatchers
            .add(address, "sip.example.com")
            .unwrap()
            .unwrap();
        assert!(added.is_new);
        assert_eq!(added.dispatcher.owner, owner);
        let name = added.dispatcher.to_string();
        assert_eq!(name, "dispatcher sip.example.com (192.0.2.1:25060)");
        assert_eq!(dispatchers.wanted(), Some(vec![address]));
        assert!(dispatchers.add(address, "other").unwrap().is_none());
        assert_eq!(dispatchers.of_adopted(address, false), Ok(owner));
    }
}
