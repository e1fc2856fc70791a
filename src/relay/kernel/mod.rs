//! Forwarding in the kernel: one thread owns all that the relay has to do with netfilter. Workers give it orders and
//! never wait for it; what it finds out goes to them as news.
//!
//! ```text
//!  worker --orders--> thread --> forwarder     what is to be done, in which order, and what if it fails
//!         <---news---            book          the flows that the kernel has
//!                                health        whether the kernel's forwarding can be trusted at the moment
//!                                paths         the same for one pair of hosts, while others' media leaves
//!                                requests      what the forwarder asks; host asks the real kernel
//!                     events                   what others do to conntrack, nftables and addresses
//! ```
//!
//! A flow is one component of a stream, forwarded both ways by one conntrack entry. Packets find the entry only while
//! their four-tuple is in the set `forwarded`; all others are not tracked and come to user space. So the order is:
//! entry, then set, to hand over; set, then entry, to take back; and at no moment is a packet lost.

mod book;
#[cfg(test)]
mod bypass_tests;
mod events;
#[cfg(test)]
mod fake;
mod forwarder;
mod health;
mod host;
#[cfg(test)]
mod host_tests;
#[cfg(test)]
mod lab;
mod paths;
mod reading;
mod requests;
#[cfg(test)]
mod tests;
mod thread;

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;
use log::{info, warn};

use self::events::Events;
use self::forwarder::Forwarder;
use self::host::Host;
use super::worker::Message;
use crate::config::Forwarding;
use crate::daemon::Pulse;
use crate::diagnosis::relay_host;
use crate::diagnosis::requirements::Wanted;
use crate::metrics::Gauge;
use crate::netlink::socket::{Netfilter, Protection};
use crate::session::{Counters, FlowEnd, FlowId, Installed, Loss, Withdrawal};
use crate::sys::mailbox::{Postbox, unbounded_mailbox};
use crate::sys::route;

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
    /// Nothing but a round of the loop, for the watchdog.
    Nudge,
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
    /// The kernel forwards again what it could not: flows that wait may be offered.
    Mended,
}

/// What the kernel's part has to know of the relay.
#[derive(Clone, Debug)]
pub struct Settings {
    pub wanted: Wanted,
    /// Keep others from the table, as far as the kernel can; tests do as on one that cannot.
    pub protect: bool,
    /// The shortest time after which silence ends a stream: counters are read more often than that.
    pub shortest_silence: Duration,
}

/// A kernel that is ready to forward.
pub struct Gate {
    host: Host,
    events: Events,
    locals: Vec<Ipv4Addr>,
    shortest_silence: Duration,
}

/// Who is to forward media.
pub enum Opened {
    Kernel(Box<Gate>),
    /// The relay alone, and why.
    UserSpace(Arc<str>),
}

/// Prepares the kernel, as far as the setting wants it. Nobody else may have the port range.
///
/// # Errors
/// Where the kernel is demanded and cannot be had: why, and what to do.
pub fn open(settings: &Settings, forwarding: Forwarding) -> Result<Opened, String> {
    if forwarding == Forwarding::Userspace {
        info!("media is relayed in user space (forwarding = userspace)");
        return Ok(Opened::UserSpace("forwarding = userspace".into()));
    }
    let why = match prepare(settings) {
        Ok((host, events, locals)) => {
            return Ok(Opened::Kernel(Box::new(Gate {
                host,
                events,
                locals,
                shortest_silence: settings.shortest_silence,
            })));
        }
        Err(why) => why,
    };
    if forwarding == Forwarding::Kernel {
        return Err(format!("forwarding = kernel: {why}"));
    }
    warn!("media is relayed in user space: {why}");
    let why = format!("{why} (as it was when this relay started)");
    Ok(Opened::UserSpace(why.into()))
}

fn prepare(settings: &Settings) -> Result<(Host, Events, Vec<Ipv4Addr>), String> {
    let wanted = &settings.wanted;
    let findings = relay_host::prepare(wanted);
    if let Some(why) = relay_host::problems_for_kernel(&findings) {
        return Err(why);
    }
    for finding in relay_host::warnings(&findings) {
        warn!("{}", finding.text);
    }
    let told = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let netfilter = Netfilter::open().map_err(told("netlink"))?;
    let events = Events::open(&netfilter, settings).map_err(told("netlink events"))?;
    let locals = route::addresses().map_err(told("addresses of this host"))?;
    let mut host = Host::new(netfilter, settings.clone(), locals.clone());
    host.make_table().map_err(told("nftables table"))?;
    let swept = host.sweep().map_err(told("conntrack"))?;
    if swept > 0 {
        info!("removed {swept} conntrack entries that an earlier relay left");
    }
    say_protection(&host);
    Ok((host, events, locals))
}

fn say_protection(host: &Host) {
    let table = host.table();
    match host.protection() {
        Protection::None => info!(
            "the kernel forwards (nftables table ip {table}); it cannot protect the table: after a flush of the \
             ruleset it is made again"
        ),
        Protection::Owned | Protection::Persistent => {
            info!("the kernel forwards (nftables table ip {table}, protected from others)");
        }
    }
}

/// Starts the kernel thread; what it has to tell goes to the workers, how many flows the kernel has to `flows`, and the
/// pulse beats with each of its rounds.
///
/// # Errors
/// When there is no descriptor or no thread to be had.
pub fn start(
    gate: Gate,
    workers: Vec<Postbox<Message>>,
    pulse: Arc<Pulse>,
    flows: Arc<Gauge>,
) -> io::Result<Postbox<Order>> {
    let (postbox, mailbox) = unbounded_mailbox()?;
    let Gate {
        host,
        events,
        locals,
        shortest_silence,
    } = gate;
    let forwarder = Forwarder::new(host, workers.len(), locals);
    super::spawn("kernel", move || {
        let known = thread::Surroundings {
            workers,
            shortest_silence,
            pulse,
            flows,
        };
        thread::run(forwarder, events, mailbox, known);
    })?;
    Ok(postbox)
}
