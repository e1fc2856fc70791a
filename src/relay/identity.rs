//! What a relay says of itself to dispatchers.

use std::net::IpAddr;

use crate::proto::link::{EXPLAIN, Hello};
use crate::session::Owner;

/// See the module.
pub(super) struct Identity {
    pub relay_ip: IpAddr,
    /// What opens each connection.
    hello: Hello,
    /// Nobody else's.
    instance: u128,
}

impl Identity {
    /// A relay whose ports begin with this one, that keeps ended calls or does not, and that so many streams fit on.
    /// `instance` is no other process's.
    pub(super) fn new(
        relay_ip: IpAddr,
        first_port: u16,
        keeps: bool,
        fit: usize,
        instance: u128,
    ) -> Identity {
        Identity {
            relay_ip,
            hello: Hello {
                name: Some(format!("{relay_ip}:{first_port}")),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                stored: keeps,
                commands: vec![EXPLAIN.to_owned()],
                capacity: Some(fit),
                ..Hello::default()
            },
            instance,
        }
    }

    /// Tells relays behind one address apart, and stays the same over restarts.
    pub(super) fn name(&self) -> &str {
        self.hello.name.as_deref().unwrap_or_default()
    }

    /// Streams that fit on this relay.
    pub(super) fn capacity(&self) -> Option<usize> {
        self.hello.capacity
    }

    /// The line that opens each connection to a dispatcher. By its instance a dispatcher knows that no other process, and
    /// no other link of this one, has said it.
    pub(super) fn hello_line(&self, owner: Owner) -> Vec<u8> {
        let hello = Hello {
            instance: Some(format!("{:032x}-{}", self.instance, owner.0)),
            ..self.hello.clone()
        };
        // It holds nothing that JSON cannot say.
        let json = serde_json::to_string(&hello).unwrap_or_else(|_| "{}".to_owned());
        format!("hello {json}\r\n").into_bytes()
    }
}
