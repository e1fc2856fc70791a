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
                dispatcher: Arc::clone(known),
                is_new: false,
            }));
        }
        if all.len() == MOST_DISPATCHERS {
            return Err(format!(
                "there were {MOST_DISPATCHERS} dispatchers already; restart the relay"
            ));
        }
        let owner = Owner(u32::try_from(all.len()).unwrap_or(u32::MAX));
        let dispatcher = Arc::new(Dispatcher::new(owner, address, name));
        all.push(Arc::clone(&dispatcher));
        Ok(Some(Added {
            dispatcher,
            is_new: true,
        }))
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
