//! What all threads of a relay share, and what they have each other do by it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::Duration;

use crossbeam_channel::Sender;
use log::{error, warn};

use super::explain::Question;
use super::gather::{Share, Summary};
use super::kernel::Order;
use super::link::{self, Link};
use super::machine::SharedPorts;
use super::meter::{Meter, Requests};
use super::outbox::owner_of;
use super::rounds::Rounds;
use super::settings::Settings;
use super::spool::{Dispatchers, How, Spool};
use super::worker::Message;
use super::{checks, name, start_thread};
use crate::daemon::Pulse;
use crate::metrics::Gauge;
use crate::proto::link::Hello;
use crate::session::{Ended, Owner, ReplyTo};
use crate::sys::clock;
use crate::sys::mailbox::Postbox;
use crate::sys::range_lock::RangeLock;
use crate::tls::Store;

/// Links that there can ever be; each name server's answer can bring new ones.
pub const LINKS: usize = 256;

/// What all threads share.
pub struct Shared {
    pub settings: Settings,
    pub store: Arc<Store>,
    pub relay_ip: Ipv4Addr,
    /// What opens each connection.
    pub hello: Hello,
    /// Nobody else's.
    pub instance: u128,
    pub ports: Arc<SharedPorts>,
    pub workers: Vec<Postbox<Message>>,
    /// None where the state directory cannot be written.
    pub spool: Option<Spool>,
    /// None where media is relayed in user space only.
    pub kernel: Option<Postbox<Order>>,
    /// Why it is user space only.
    pub in_kernel: Result<(), Arc<str>>,
    /// The lock of the port range, until the relay has ended.
    pub lock: Mutex<Option<RangeLock>>,
    pub kernel_pulse: Arc<Pulse>,
    /// Flows that the kernel has.
    pub kernel_flows: Arc<Gauge>,
    /// For [`super::explain::run`].
    pub questions: Sender<Option<Question>>,
    pub requests: Requests,
    pub meters: Vec<Arc<Meter>>,
    /// By owner.
    pub links: RwLock<Vec<Arc<Link>>>,
    pub started: Duration,
    pub bps: AtomicU64,
    pub draining: AtomicBool,
    /// It was said that parties cannot reach the relay.
    pub has_warned: AtomicBool,
    /// Each of the configuration's names for dispatchers has been found once, or was looked for long enough.
    pub all_found: AtomicBool,
    /// Which calls send packets round, as far as the log has told.
    pub rounds: Mutex<Rounds>,
    /// Discovery and upkeep are to end.
    pub stopping: (Mutex<bool>, Condvar),
}

impl Dispatchers for Arc<Shared> {
    /// Those that there are links to, or should be. None as long as a name has not been found that stands for some.
    fn known(&self) -> Option<Vec<SocketAddr>> {
        let links = self.all_links();
        let wanted = links.iter().filter(|link| !link.outbox.is_finishing());
        let wanted = wanted.map(|link| link.address).collect();
        self.all_found.load(Ordering::Relaxed).then_some(wanted)
    }

    fn confirming(&self) -> Vec<SocketAddr> {
        let links = self.all_links();
        let confirming = links
            .iter()
            .filter(|link| link.outbox.confirms() && link.outbox.is_connected());
        confirming.map(|link| link.address).collect()
    }

    fn say(&self, dispatcher: SocketAddr, line: &[u8]) {
        let links = self.all_links();
        if let Some(link) = links.iter().find(|link| link.address == dispatcher) {
            link.outbox.say(line);
        }
    }
}

impl Shared {
    pub fn all_links(&self) -> Vec<Arc<Link>> {
        let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
        links.clone()
    }

    /// Tells the kernel thread something; without one nothing of the kind is ever said.
    pub fn order(&self, order: Order) {
        if let Some(kernel) = &self.kernel {
            // It ends after the workers' last session.
            let _ = kernel.send(order);
        }
    }

    pub fn with_link(&self, owner: Owner, act: impl FnOnce(&Link)) {
        let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = links.get(owner.0 as usize) {
            act(link);
        }
    }

    /// Sees to it that there is a link to a dispatcher.
    ///
    /// # Errors
    /// Why there can be none.
    pub fn ensure_link(self: &Arc<Self>, address: SocketAddr, name: &str) -> Result<(), String> {
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        let known = links.iter().find(|link| link.address == address);
        let link = match known {
            Some(link) if link.outbox.revive() => Arc::clone(link),
            Some(_) => return Ok(()),
            None if links.len() == LINKS => {
                return Err(format!(
                    "there were {LINKS} dispatchers already; restart the relay"
                ));
            }
            None => {
                let owner = Owner(u32::try_from(links.len()).unwrap_or(u32::MAX));
                let link = Arc::new(Link::new(owner, address, name));
                links.push(Arc::clone(&link));
                self.warn_of_reach(address);
                link
            }
        };
        let shared = Arc::clone(self);
        start_thread("link", move || link::run(&shared, &link))
    }

    /// The line that opens each connection of a link. By its instance a dispatcher knows that no other process, and no
    /// other link of this one, has said it.
    pub fn hello_line(&self, owner: Owner) -> Vec<u8> {
        let hello = Hello {
            instance: Some(format!("{:032x}-{}", self.instance, owner.0)),
            ..self.hello.clone()
        };
        // It holds nothing that JSON cannot say.
        let json = serde_json::to_string(&hello).unwrap_or_else(|_| "{}".to_owned());
        format!("hello {json}\r\n").into_bytes()
    }

    /// Says once that parties cannot reach the relay, where it looks like that from the way to a dispatcher.
    fn warn_of_reach(&self, dispatcher: SocketAddr) {
        let settings = &self.settings;
        let told = checks::told(
            self.relay_ip,
            settings.session.advertised_ip,
            settings.auto_detect_interfaces,
            dispatcher.ip(),
        );
        let text = told.and_then(|told| checks::out_of_reach(told, dispatcher.ip()));
        if let Some(text) = text.filter(|_| !self.has_warned.swap(true, Ordering::Relaxed)) {
            warn!("relay_ip: {text}");
        }
    }

    pub fn reply(&self, to: ReplyTo, result: &[u8]) {
        self.with_link(owner_of(to), |link| link.outbox.reply(to, result));
    }

    /// Answers `error`; a dispatcher of ours hears why.
    pub fn refuse(&self, to: ReplyTo, why: &str) {
        self.with_link(owner_of(to), |link| link.outbox.refuse(to, why));
    }

    pub fn reply_in_pieces(&self, to: ReplyTo, pieces: Vec<Vec<u8>>) {
        self.with_link(owner_of(to), |link| link.outbox.reply_in_pieces(to, pieces));
    }

    /// Answers a removal.
    pub fn removed(&self, to: ReplyTo, ended: &Ended) {
        self.with_link(owner_of(to), |link| {
            self.keep(link, How::Removed, ended);
            link.outbox.reply(to, &ended.statistics);
        });
    }

    /// Has a session kept until its dispatcher has recorded it. False where that is not to be, or cannot.
    pub fn keep(&self, link: &Link, how: How, ended: &Ended) -> bool {
        let Some(spool) = &self.spool else {
            return false;
        };
        // A call that was never answered is not accounted.
        let is_wanted = ended.is_answered && link.outbox.confirms();
        is_wanted && spool.keep(link.address, how, ended.session_id, &ended.statistics)
    }

    /// Tells a dispatcher that a session of its has ended.
    pub fn expired(&self, owner: Owner, ended: &Ended) {
        self.with_link(owner, |link| {
            if self.keep(link, How::Expired, ended) {
                let line = [b"expired ", ended.statistics.as_slice(), b"\r\n"].concat();
                return link.outbox.say(&line);
            }
            let dropped = link.outbox.notify(&ended.statistics);
            if dropped > 0 {
                let call_id = &ended.call_id;
                error!(
                    "[session {call_id}] {link}: no room for more ended calls, {dropped} given up"
                );
            }
        });
    }

    pub fn summary(&self, share: Share) -> Vec<u8> {
        let is_draining = self.draining.load(Ordering::Relaxed);
        let room = self.ports.room(clock::mono());
        let summary = Summary {
            ip: self.relay_ip,
            name: name(self.relay_ip, &self.settings),
            version: env!("CARGO_PKG_VERSION"),
            status: if is_draining { "halting" } else { "active" },
            uptime: clock::mono().saturating_sub(self.started).as_secs(),
            session_count: share.sessions,
            stream_count: share.streams,
            streams_left: room.left,
            streams_fit: room.all,
            refused_for_ports: room.refused,
            bps_relayed: self.bps.load(Ordering::Relaxed),
            unsent_packets: share.unsent,
            dropped_packets: share.dropped,
        };
        // It holds nothing that JSON cannot say.
        serde_json::to_vec(&summary).unwrap_or_else(|_| b"error".to_vec())
    }

    /// Bytes relayed since the start.
    pub fn bytes(&self) -> u64 {
        let meters = self.meters.iter();
        meters.map(|m| m.bytes()).sum()
    }

    /// Waits this long; true when the relay ends.
    pub fn pause(&self, limit: Duration) -> bool {
        let (stopping, wake) = &self.stopping;
        let guard = stopping.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = wake.wait_timeout_while(guard, limit, |stopping| !*stopping);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}
