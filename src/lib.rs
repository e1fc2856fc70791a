//! A media relay for SIP proxies: `media-dispatcher` beside the proxy, `media-relay` in front of the
//! phones. ARCHITECTURE.md holds the thread drawing and the reasons; this is the map.
//!
//! Imports point down only; `make lint` checks it:
//!
//! ```text
//!  bin/*                      arguments, run, exit code
//!  admin                      the administrator's tool; nothing imports it
//!  relay      dispatcher      threads, sockets, timers; neither imports the other
//!  diagnosis                  what a host must have, why it drops media; below relay and admin
//!  accounting                 where finished sessions are recorded; below dispatcher
//!  daemon                     what both are as processes
//!  resolver                   which addresses the dispatchers of a configuration have
//!  config  logging  tls  cli  what both daemons need around them
//!  metrics                    what is counted, and how Prometheus reads it
//!  door                       who may come in at a port that strangers reach
//!  journal                    records on disk that survive a crash
//!  netlink                    messages to netfilter: the ground for forwarding in the kernel
//!  sys                        the only unsafe code: descriptors, datagrams, signals, clocks
//!  session                    the core: calls, streams, learned addresses; no clock, no sockets
//!  proto                      text protocols: bytes in, types out; no clock, no sockets
//!  moment  counters           a time; packets and bytes
//!  words  objects             numbers of things in sentences; JSON objects
//!  text_layout                text that is fit for a terminal
//! ```

#![deny(unsafe_code)]
#![warn(unreachable_pub)]

pub mod accounting;
pub mod admin;
pub mod cli;
pub mod config;
pub mod counters;
pub mod daemon;
pub mod diagnosis;
pub mod dispatcher;
pub mod door;
pub mod journal;
pub mod logging;
pub mod metrics;
pub mod moment;
pub mod netlink;
pub mod objects;
pub mod proto;
pub mod relay;
pub mod resolver;
pub mod session;
#[expect(unsafe_code, reason = "the one place for it")]
pub mod sys;
pub mod text_layout;
pub mod tls;
pub mod words;

/// What the unit tests share with those in tests/. There it is no package: one that both could depend on would have to
/// depend on this one.
#[cfg(test)]
#[path = "../tests/support"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "the tests in tests/ use the rest"
)]
mod support {
    pub(crate) mod certs;
    pub(crate) mod forge;
    pub(crate) mod opensips;
    pub(crate) mod shape;
    pub(crate) mod skip;
}
