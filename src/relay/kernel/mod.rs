//! Forwarding in the kernel: one thread owns all that the relay has to do with it. Workers give it orders and never wait
//! for it; what it finds out goes to them as news.
//!
//! ```text
//!  worker --order--> thread --> forwarder      what becomes of orders, and what if something fails
//!         <--news---            flows          the flows that the kernel has, and what was read of each
//!                               removals       those that are going, and who is told when
//!                               reading        what a reading means
//!                               trust          who may be handed over: health of the host, paths between two hosts
//!                     - - - - - mechanism - - - - - - - - - - - - - the seam: what all of this needs, in terms of flows
//!                               conntrack/     forwards by conntrack entries and an nftables table
//! ```

mod conntrack;
pub(super) mod flow;
mod flows;
mod forwarder;
pub(super) mod handle;
mod health;
mod mechanism;
pub(super) mod news;
pub(super) mod order;
mod paths;
mod reading;
mod removals;
mod settings;
pub(super) mod takeover;
#[cfg(test)]
mod tests;
mod thread;
mod trust;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use log::{debug, info, warn};

use self::forwarder::Forwarder;
use self::mechanism::Mechanism;
use self::news::Deliver;
use self::order::Order;
pub(super) use self::settings::Settings;
use self::takeover::TakeOverCounts;
use crate::config::Forwarding;
use crate::daemon::Pulse;
use crate::metrics::Gauge;
use crate::relay::threads;
use crate::sys::mailbox::{Postbox, unbounded_mailbox};
use crate::sys::netlink::AddressChanges;
use crate::sys::route;

/// A kernel that is ready to forward.
pub(super) struct Ready {
    mechanism: Box<dyn Mechanism>,
    /// Tells of changes of this host's addresses.
    changes: AddressChanges,
    locals: Vec<IpAddr>,
    shortest_silence: Duration,
    /// An earlier relay's flows are to be claimed.
    keep: bool,
}

/// Who is to forward media.
pub(super) enum Opened {
    Kernel(Box<Ready>),
    /// The relay alone, and why.
    UserSpace(Arc<str>),
}

/// Prepares the kernel, as far as the setting wants it. Nobody else may have the port range. Where an earlier relay's flows
/// are kept, they go on being forwarded until [`handle::KernelHandle::adopt`] says which of them are calls'; else they are
/// removed.
///
/// # Errors
/// Where the kernel is demanded and cannot be had: why, and what to do.
pub(super) fn open(
    settings: &Settings,
    forwarding: Forwarding,
    keep: bool,
) -> Result<Opened, String> {
    if forwarding == Forwarding::Userspace {
        clear(settings, keep);
        info!("media is relayed in user space (forwarding = userspace)");
        return Ok(Opened::UserSpace("forwarding = userspace".into()));
    }
    let why = match prepare(settings, keep) {
        Ok(ready) => return Ok(Opened::Kernel(Box::new(ready))),
        Err(why) => why,
    };
    if forwarding == Forwarding::Kernel {
        return Err(format!("forwarding = kernel: {why}"));
    }
    clear(settings, keep);
    warn!("media is relayed in user space: {why}");
    let why = format!("{why} (as it was when this relay started)");
    Ok(Opened::UserSpace(why.into()))
}

/// What an earlier relay left would be forwarded past one that does not forward by the kernel.
fn clear(settings: &Settings, has_calls: bool) {
    if !has_calls {
        // Nothing is asked of a kernel that has perhaps no netfilter.
        return;
    }
    match conntrack::clear(settings) {
        Ok(0) => {}
        Ok(count) => info!("removed {count} flows that an earlier relay left in the kernel"),
        Err(error) => {
            warn!("what an earlier relay may have left in the kernel cannot be removed: {error}")
        }
    }
}

fn prepare(settings: &Settings, keep: bool) -> Result<Ready, String> {
    let told = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let mut mechanism = conntrack::open(settings)?;
    for flow in mechanism.start(keep)? {
        debug!("an earlier relay has left a flow in the kernel: {flow}");
    }
    // Those of the start are asked for again: none may change between two looks.
    let changes = AddressChanges::open().map_err(told("netlink events"))?;
    let locals = route::addresses().map_err(told("addresses of this host"))?;
    mechanism.set_addresses(&locals);
    Ok(Ready {
        mechanism: Box::new(mechanism),
        changes,
        locals,
        shortest_silence: settings.shortest_silence,
        keep,
    })
}

/// Starts the kernel thread; what it has to tell so many workers is delivered by `deliver`, how many flows the kernel has
/// goes to `flows`, how many of an earlier relay's it took over to `takeover`, and the pulse beats with each of its rounds.
///
/// # Errors
/// When there is no descriptor or no thread to be had.
pub(super) fn start(
    ready: Ready,
    workers: usize,
    deliver: Deliver,
    pulse: Arc<Pulse>,
    flows: Arc<Gauge>,
    takeover: Arc<TakeOverCounts>,
) -> io::Result<Postbox<Order>> {
    let (postbox, mailbox) = unbounded_mailbox()?;
    let Ready {
        mechanism,
        changes,
        locals,
        shortest_silence,
        keep,
    } = ready;
    let mut forwarder = Forwarder::new(mechanism, workers, locals);
    if keep {
        forwarder.expect_claims();
    }
    let surroundings = thread::Surroundings {
        mailbox,
        addresses: changes,
        deliver,
        shortest_silence,
        pulse,
        flows,
        takeover,
    };
    threads::spawn("kernel", move || thread::run(forwarder, surroundings))?;
    Ok(postbox)
}
