//! The TCP ports that strangers reach: a door for each, and what is said of those that do not come in.

use std::fmt::Display;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use super::failed_connections::{Cause, FailedConnections, Port};
use super::shared::Dispatcher;
use crate::door::admission::Limits;
use crate::door::origin::Origin;
use crate::door::{Arrival, Door, Visit};
use crate::moment::Moment;
use crate::sys::clock;
use crate::sys::sync::lock;

impl Port {
    /// Who connects there, for the log.
    fn peer(self) -> &'static str {
        match self {
            Port::Relays => "relay",
            Port::Management => "management client",
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Port::Relays => "the relays' port",
            Port::Management => "the management port",
        }
    }
}

impl Dispatcher {
    /// The door of a port.
    pub fn door(self: &Arc<Dispatcher>, port: Port, limits: Limits) -> Arc<Door> {
        let shared = Arc::clone(self);
        Door::new(limits, move |why, name| {
            shared.failed(port, why.into(), name, &why);
        })
    }

    /// A connection came to nothing.
    pub fn failed(&self, port: Port, cause: Cause, name: &str, why: &dyn Display) {
        let line = || format!("{name}: no connection: {why}");
        if let Some(line) = lock(self.failures(port)).note(cause, clock::moment(), line) {
            say(cause, &line);
        }
    }

    pub fn failures(&self, port: Port) -> &Mutex<FailedConnections> {
        let [relays, management] = &self.failures;
        match port {
            Port::Relays => relays,
            Port::Management => management,
        }
    }

    /// Says what is to be said once a minute.
    pub fn tell_failures(&self, now: Moment) {
        for failures in &self.failures {
            for (cause, line) in lock(failures).due(now) {
                say(cause, &line);
            }
        }
    }
}

fn say(cause: Cause, line: &str) {
    let level = if cause.is_harmless() {
        log::Level::Debug
    } else {
        log::Level::Warn
    };
    log::log!(level, "{line}");
}

/// Lets in who says something, for ever. The listener does not block.
pub(super) fn tend(
    port: Port,
    door: &Arc<Door>,
    listener: &TcpListener,
    serve: &dyn Fn(TcpStream, String, Visit),
) {
    let what = port.as_str();
    let accept = || {
        let (socket, address) = listener.accept()?;
        Ok(Arrival {
            socket: socket.into(),
            origin: Origin::of(address.ip()),
            name: format!("{} {address}", port.peer()),
        })
    };
    door.tend(what, listener.as_fd(), &accept, &|arrival, visit| {
        serve(TcpStream::from(arrival.socket), arrival.name, visit);
    });
}
