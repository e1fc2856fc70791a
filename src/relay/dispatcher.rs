//! A dispatcher and how it is reached. Lives as long as the process, over any number of connections: its number stands for
//! it in sessions.

use std::fmt;
use std::net::SocketAddr;

use super::send_queue::SendQueue;
use crate::metrics::Counter;
use crate::session::Owner;

/// See the module.
#[derive(Debug)]
pub(super) struct Dispatcher {
    pub owner: Owner,
    pub address: SocketAddr,
    /// As the configuration names it.
    name: String,
    pub queue: SendQueue,
    /// Connections that were lost, and attempts that failed.
    pub losses: Counter,
    pub failures: Counter,
}

impl fmt::Display for Dispatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address;
        if self.name == address.to_string() || self.name == address.ip().to_string() {
            return write!(f, "dispatcher {address}");
        }
        write!(f, "dispatcher {} ({address})", self.name)
    }
}

impl Dispatcher {
    pub(super) fn new(owner: Owner, address: SocketAddr, name: &str) -> Dispatcher {
        Dispatcher {
            owner,
            address,
            name: name.to_owned(),
            queue: SendQueue::new(owner),
            losses: Counter::default(),
            failures: Counter::default(),
        }
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
