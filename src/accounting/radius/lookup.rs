//! Addresses of a server that is given by its name. The C library's resolver may block for much longer than a
//! delivery may take, so a thread asks it; an answer that comes too late serves the next delivery.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// Longest wait for name servers within one delivery.
const LOOKUP_LIMIT: Duration = Duration::from_secs(5);

type Found = std::io::Result<Vec<SocketAddr>>;

/// At most one question at a time.
#[derive(Debug, Default)]
pub(super) struct Lookup {
    pending: Option<Receiver<Found>>,
}

impl Lookup {
    /// Asks, or goes on waiting for what was asked before. The IPv4 addresses come first: RADIUS clients of old know
    /// nothing else, nor do many servers.
    ///
    /// # Errors
    /// Why there is no address.
    pub(super) fn addresses(&mut self, name: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
        let receiver = match self.pending.take() {
            Some(pending) => pending,
            None => ask(name.to_owned(), port)?,
        };
        match receiver.recv_timeout(LOOKUP_LIMIT) {
            Ok(Ok(mut found)) => {
                found.sort_by_key(SocketAddr::is_ipv6);
                found.dedup();
                Ok(found)
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(RecvTimeoutError::Timeout) => {
                self.pending = Some(receiver);
                Err("the name servers do not answer".into())
            }
            Err(RecvTimeoutError::Disconnected) => Err("the name could not be looked up".into()),
        }
    }
}

fn ask(name: String, port: u16) -> Result<Receiver<Found>, String> {
    let (sender, receiver) = channel();
    let question = move || {
        let found = (name.as_str(), port)
            .to_socket_addrs()
            .map(Iterator::collect);
        // Nobody waits any more where the backend is gone.
        let _ = sender.send(found);
    };
    let started = thread::Builder::new()
        .name("radius-lookup".into())
        .spawn(question);
    started
        .map(|_| receiver)
        .map_err(|error| format!("no thread for name look-ups: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_this_host_and_one_that_cannot_be() {
        let mut lookup = Lookup::default();
        let found = lookup.addresses("localhost", 1813).unwrap();
        assert!(
            found
                .iter()
                .all(|address| address.ip().is_loopback() && address.port() == 1813)
        );
        assert!(found.is_sorted_by_key(SocketAddr::is_ipv6) && !found.is_empty());
        // No name may hold this byte, so that no server is asked.
        assert!(lookup.addresses("no\0name", 1813).is_err());
    }

    #[test]
    fn what_is_slow_is_waited_for_the_next_time() {
        let (sender, receiver) = channel();
        let mut lookup = Lookup {
            pending: Some(receiver),
        };
        let address = SocketAddr::from(([192, 0, 2, 1], 9));
        sender.send(Ok(vec![address])).unwrap();
        // The name itself is not asked for: it would not be found.
        assert_eq!(lookup.addresses("no\0name", 9), Ok(vec![address]));
    }
}
