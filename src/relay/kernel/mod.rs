//! Forwarding in the kernel: one thread owns all that the relay has to do with netfilter. Workers give it orders and
//! never wait for it; what it finds out goes to them as news.
//!
//! ```text
//!  worker --orders--> thread --> forwarder     what is to be done, in which order, and what if it fails
//!         <---news---            book          the flows that the kernel has
//!                                health        whether the kernel's forwarding can be trusted at the moment
//!                                netfilter     the requests themselves; a test has another one
//!                                events        what others do to conntrack, nftables and addresses
//! ```
//!
//! A flow is one component of a stream, forwarded both ways by one conntrack entry. Packets find the entry only while
//! their four-tuple is in the set `forwarded`; all others are not tracked and come to user space. So the order is:
//! entry, then set, to hand over; set, then entry, to take back; and at no moment is a packet lost.

mod book;
mod forwarder;
mod health;
mod requests;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
// mod thread;

use std::net::Ipv4Addr;
use std::time::Duration;

use crossbeam_channel::Sender;


pub struct Gate; pub fn open(_: &Settings, _: crate::config::Forwarding) -> Result<Option<Gate>, String> { Ok(None) }
pub fn start(_: Gate, _: Vec<crate::sys::mailbox::Postbox<super::worker::Message>>) -> std::io::Result<crate::sys::mailbox::Postbox<Order>> { Err(std::io::ErrorKind::Other.into()) }
use crate::session::{Counters, FlowEnd, FlowId, Installed, Loss, Withdrawal};

/// Names a flow among those of all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub worker: usize,
    pub flow: FlowId,
}

/// What the kernel thread is told.
pub enum Order {
    /// Forward between the caller's and the callee's end. Answered by [`News::Installed`].
    Install(Key, [FlowEnd; 2]),
    /// Answered by [`News::Withdrawn`], whatever became of the flow meanwhile.
    Withdraw(Key, Withdrawal),
    /// Tell all counters as they are now, then do this.
    Read(Box<dyn FnOnce() + Send>),
    /// Take everything back and leave nothing behind; answered when that is done.
    Quit(Sender<()>),
}

/// What a worker is told of its flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    Installed(FlowId, Installed),
    /// Relayed since the last news of this flow, by party.
    Traffic(FlowId, [Counters; 2]),
    Lost(FlowId, Loss, [Counters; 2]),
    Withdrawn(FlowId, [Counters; 2]),
    /// All that was relayed until this time has been told.
    Heard(Duration),
}

/// What the kernel's part has to know of the relay.
#[derive(Clone, Debug)]
pub struct Settings {
    /// First port and the end, which is not included.
    pub range: (u16, u32),
    /// None: all addresses of this host.
    pub relay_ip: Option<Ipv4Addr>,
    pub mark: u32,
    pub mark_mask: u32,
    /// The shortest time after which silence ends a stream: counters are read more often than that.
    pub shortest_silence: Duration,
}
