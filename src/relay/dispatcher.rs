//! A dispatcher and how it is reached. Lives as long as the process, over any number of connections: its number stands for
//! it in sessions.

use std::fmt;
use std::net::SocketAddr;
use std::sync::OnceLock;

use super::send_queue::SendQueue;
use crate::metrics::Counter;
use crate::session::Owner;

/// See the module.
#[derive(Debug)]
pub(super) struct Dispatcher {
    pub owner: Owner,
    pub address: SocketAddr,
    /// As the configuration names it; nothing while calls of an earlier process are all that is known of it.
    name: OnceLock<String>,
    pub queue: SendQueue,
    /// Connections that were lost, and attempts that failed.
    pub losses: Counter,
    pub failures: Counter,
}

impl fmt::Display for Dispatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address;
        match self.name.get() {
            Some(name) if *name != address.to_string() && *name != address.ip().to_string() => {
                write!(f, "dispatcher {name} ({address})")
            }
            _ => write!(f, "dispatcher {address}"),
        }
    }
}

impl Dispatcher {
    pub(super) fn new(owner: Owner, address: SocketAddr, name: &str) -> Dispatcher {
        let queue = SendQueue::new(owner);
        let dispatcher = Dispatcher::with(owner, address, queue);
        dispatcher.set_name(name);
        dispatcher
    }

    /// One that has no link, and is known by the calls that a process before this one had for it. `confirms`: as of
    /// [`SendQueue::confirms`].
    pub(super) fn unlinked(owner: Owner, address: SocketAddr, confirms: bool) -> Dispatcher {
        Dispatcher::with(owner, address, SendQueue::unlinked(owner, confirms))
    }

    fn with(owner: Owner, address: SocketAddr, queue: SendQueue) -> Dispatcher {
        Dispatcher {
            owner,
            address,
            name: OnceLock::new(),
            queue,
            losses: Counter::default(),
            failures: Counter::default(),
        }
    }

    /// The configuration names it so. Returns true if it had no name yet.
    pub(super) fn set_name(&self, name: &str) -> bool {
        self.name.set(name.to_owned()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dispatchers_are_named_as_configured() {
        let address: SocketAddr = "192.0.2.1:25060".parse().unwrap();
        let shown = |name: &str| Dispatcher::new(Owner(0), address, name).to_string();
        assert_eq!(shown("192.0.2.1"), "dispatcher 192.0.2.1:25060");
        assert_eq!(
            shown("sip.example.com"),
            "dispatcher sip.example.com (192.0.2.1:25060)"
        );
    }
}
