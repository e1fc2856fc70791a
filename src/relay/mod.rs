//! The relay: takes dispatchers' commands over TLS and relays the media of their calls.
//!
//! ```text
//!  dispatcher --TLS--> link reader --mailbox--> worker   an engine, its sockets and timers    worker, machine, pace
//!             <--TLS-- link writer <--outbox----/        answers, notices, pings              link, outbox
//!                                     gather             lists and summaries of all workers
//!  discovery   one thread: names to addresses, links come and go
//!  upkeep      one thread: traffic samples, certificates again
//!  kernel      one thread: has the kernel forward what both parties were learned of
//!  checks      what the host must have, before the start; diagnosis: why the kernel drops media, while it runs
//!  daemon      all of it as a process: signals, status, the end
//! ```
//!
//! A worker never waits for anybody; a link's reader waits only for a worker. A thread that panics ends the
//! process, so that the service manager starts it whole again: no half of a relay can lose calls silently.

pub mod checks;
pub mod daemon;
pub mod diagnosis;
pub mod discovery;
mod explain;
mod gather;
mod kernel;
mod link;
mod machine;
mod meter;
mod metrics;
mod outbox;
mod pace;
mod spool;
mod upkeep;
mod worker;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use log::{error, info, warn};

use self::discovery::Directory;
use self::gather::{Share, Summary};
use self::kernel::Order;
use self::link::Link;
use self::machine::{Addresses, FILES_PER_PAIR, SharedPorts};
use self::meter::{Meter, Requests};
use self::outbox::owner_of;
use self::spool::{How, Spool};
use self::worker::{Message, Worker};
use crate::config::{DispatcherEntry, Forwarding, RelayConfig};
use crate::daemon::Pulse;
use crate::metrics::Gauge;
use crate::proto::link::{EXPLAIN, Hello};
use crate::session::{self, Ended, Owner, ReplyTo};
use crate::sys::mailbox::{Mailbox, Postbox, mailbox};
use crate::sys::udp::MediaSocket;
use crate::sys::{clock, limits, route};
use crate::tls::{Passport, Store};

/// Messages that may wait for one worker before those who send more wait themselves.
const MAILBOX: usize = 1024;

/// Links that there can ever be; each name server's answer can bring new ones.
const LINKS: usize = 256;

/// Open files beside media sockets.
const OTHER_FILES: u64 = 128;

/// How long ended sessions may take to be reported at the end.
const GOODBYE: Duration = Duration::from_secs(5);

/// How long a dispatcher may take to read the last of it: closing earlier could lose that.
const LINGER: Duration = Duration::from_secs(1);

/// How long the kernel thread may take to remove what the relay has in the kernel.
const KERNEL: Duration = Duration::from_secs(3);

/// What the relay has to know; the configuration keys have the same names.
#[derive(Clone, Debug)]
pub struct Settings {
    pub dispatchers: Vec<DispatcherEntry>,
    pub passport: Option<Passport>,
    /// None is the address of the interface with the default route.
    pub relay_ip: Option<Ipv4Addr>,
    pub auto_detect_interfaces: bool,
    /// First port and the end, which is not included; both even.
    pub port_range: (u16, u32),
    pub dns_check_interval: Duration,
    pub keepalive_interval: Duration,
    pub reconnect_delay: Duration,
    /// Zero switches sampling off.
    pub traffic_sampling_period: Duration,
    pub verify_interval: Duration,
    pub forwarding: Forwarding,
    /// The conntrack mark of what the kernel forwards, and its mask.
    pub mark: (u32, u32),
    /// Time limits and addresses of calls; whether the kernel forwards is decided at start.
    pub session: session::Settings,
    /// Where ended calls are kept until they are confirmed; none keeps them in memory.
    pub state_dir: Option<PathBuf>,
    /// Bytes that they may have there.
    pub journal_limit: u64,
    /// Threads that relay; none is one for two processors, four at most.
    pub workers: Option<usize>,
}

impl From<&RelayConfig> for Settings {
    fn from(config: &RelayConfig) -> Settings {
        Settings {
            dispatchers: config.dispatchers.clone(),
            passport: config.passport.clone(),
            relay_ip: config.relay_ip,
            auto_detect_interfaces: config.auto_detect_interfaces,
            port_range: (config.port_range.start, config.port_range.end),
            dns_check_interval: config.dns_check_interval,
            keepalive_interval: config.keepalive_interval,
            reconnect_delay: config.reconnect_delay,
            traffic_sampling_period: config.traffic_sampling_period.unwrap_or_default(),
            verify_interval: config.tls.verify_interval,
            forwarding: config.forwarding,
            mark: (config.mark, config.mark_mask),
            session: session::Settings {
                stream_timeout: config.stream_timeout,
                on_hold_timeout: config.on_hold_timeout,
                setup_timeout: config.setup_timeout,
                advertised_ip: config.advertised_ip,
                routable_private_ranges: config.routable_private_ranges.clone(),
                kernel: false,
            },
            state_dir: Some(config.state_dir.clone()),
            journal_limit: config.journal_limit,
            workers: None,
        }
    }
}

impl Settings {
    fn kernel(&self, relay_ip: Ipv4Addr) -> kernel::Settings {
        kernel::Settings {
            wanted: checks::Wanted {
                relay_ip,
                auto_detect: self.auto_detect_interfaces,
                port_range: self.port_range,
                mark: self.mark.0,
                mark_mask: self.mark.1,
            },
            protect: true,
            shortest_silence: self
                .session
                .stream_timeout
                .min(self.session.on_hold_timeout),
        }
    }
}

/// What all threads share.
struct Shared {
    settings: Settings,
    store: Arc<Store>,
    relay_ip: Ipv4Addr,
    /// The line that opens each connection.
    hello: Vec<u8>,
    ports: Arc<SharedPorts>,
    workers: Vec<Postbox<Message>>,
    /// None where the state directory cannot be written.
    spool: Option<Spool>,
    /// None where media is relayed in user space only.
    kernel: Option<Postbox<Order>>,
    kernel_pulse: Arc<Pulse>,
    /// Flows that the kernel has.
    kernel_flows: Arc<Gauge>,
    requests: Requests,
    meters: Vec<Arc<Meter>>,
    /// By owner.
    links: RwLock<Vec<Arc<Link>>>,
    started: Duration,
    bps: AtomicU64,
    draining: AtomicBool,
    /// Discovery and upkeep are to end.
    stopping: (Mutex<bool>, Condvar),
}

/// A relay at work. Dropping it does not stop it; [`Running::stop`] does.
pub struct Running {
    shared: Arc<Shared>,
}

/// Starts all threads of a relay.
///
/// # Errors
/// A sentence that names the setting and what is wrong.
pub fn start(settings: Settings, store: Arc<Store>) -> Result<Running, String> {
    let relay_ip = relay_ip(&settings)?;
    let gate = kernel::open(&settings.kernel(relay_ip), settings.forwarding)?;
    let most_pairs = allow_files(&settings);
    let count = settings.workers.unwrap_or_else(default_workers).max(1);
    let no_mailbox = |error: io::Error| format!("cannot make a mailbox: {error}");
    let mut workers = Vec::new();
    let mut mailboxes = Vec::new();
    for _ in 0..count {
        let (postbox, mailbox) = mailbox(MAILBOX).map_err(no_mailbox)?;
        workers.push(postbox);
        mailboxes.push(mailbox);
    }
    let kernel_pulse = Arc::new(Pulse::default());
    let kernel_flows = Arc::new(Gauge::default());
    let start_kernel = |gate| {
        let (pulse, flows) = (Arc::clone(&kernel_pulse), Arc::clone(&kernel_flows));
        kernel::start(gate, workers.clone(), pulse, flows)
    };
    let kernel = gate.map(start_kernel).transpose().map_err(no_mailbox)?;
    let spool = open_spool(&settings);
    let shared = Arc::new(Shared {
        hello: hello(relay_ip, &settings, spool.is_some()),
        spool: spool.as_ref().map(spool::Opened::spool),
        ports: Arc::new(SharedPorts::new(settings.port_range, most_pairs)),
        meters: (0..count).map(|_| Arc::default()).collect(),
        kernel_flows,
        requests: Requests::default(),
        settings,
        store,
        relay_ip,
        workers,
        kernel,
        kernel_pulse,
        links: RwLock::default(),
        started: clock::mono(),
        bps: AtomicU64::new(0),
        draining: AtomicBool::new(false),
        stopping: (Mutex::new(false), Condvar::new()),
    });
    if let Some(spool) = spool {
        spool.start(&shared)?;
    }
    start_workers(&shared, mailboxes)?;
    start_helpers(&shared)?;
    let (start, end) = shared.settings.port_range;
    info!(
        "relaying on {relay_ip}, ports {start} to {}, {count} workers",
        end - 1
    );
    Ok(Running { shared })
}

/// Ended calls are kept in `state_dir` until they are confirmed; a relay that cannot write there relays all the same.
fn open_spool(settings: &Settings) -> Option<spool::Opened> {
    let dir = settings.state_dir.as_deref()?;
    match spool::open(dir, settings.port_range.0, settings.journal_limit) {
        Ok(spool) => Some(spool),
        Err(why) => {
            warn!(
                "state_dir: {why}; calls that end while a dispatcher is away are kept in memory only, and are lost \
                 when this relay ends"
            );
            None
        }
    }
}

fn start_workers(shared: &Arc<Shared>, mailboxes: Vec<Mailbox<Message>>) -> Result<(), String> {
    let addresses = Addresses {
        relay_ip: shared.relay_ip,
        auto_detect: shared.settings.auto_detect_interfaces,
    };
    for (index, mailbox) in mailboxes.into_iter().enumerate() {
        let session = session::Settings {
            kernel: shared.kernel.is_some(),
            ..shared.settings.session.clone()
        };
        let worker = Worker::new(index, Arc::clone(shared), mailbox, session, addresses);
        let worker = worker.map_err(|error| format!("cannot set up a worker: {error}"))?;
        start_thread("worker", move || worker.run())?;
    }
    Ok(())
}

fn start_helpers(shared: &Arc<Shared>) -> Result<(), String> {
    let upkeep = Arc::clone(shared);
    start_thread("upkeep", move || upkeep::run(&upkeep))?;
    let directory = Directory::new(&shared.settings.dispatchers);
    for (address, name) in directory.dispatchers() {
        shared.ensure_link(address, &name)?;
    }
    if !directory.is_fixed() {
        let shared = Arc::clone(shared);
        start_thread("discovery", move || {
            discovery::run(&shared, directory, discovery::System);
        })?;
    }
    Ok(())
}

impl Running {
    /// Takes no new calls from now on; see [`Running::is_drained`].
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
        for worker in &self.shared.workers {
            // One that does not read its mailbox any more takes no calls either.
            let _ = worker.send(Message::Drain);
        }
    }

    /// Whether no new call can come any more and the last one is over.
    pub fn is_drained(&self) -> bool {
        let mut meters = self.shared.meters.iter();
        meters.all(|meter| {
            meter.drained.load(Ordering::Acquire) && meter.sessions.load(Ordering::Relaxed) == 0
        })
    }

    /// Sessions that are not over and reported.
    pub fn sessions(&self) -> usize {
        let meters = self.shared.meters.iter();
        meters.map(|m| m.sessions.load(Ordering::Relaxed)).sum()
    }

    /// Ends all sessions, waits until each is reported to its dispatcher, 5 s at most, then closes the links and
    /// ends the threads. Once is enough.
    pub fn stop(&self) {
        if self.shared.pause(Duration::ZERO) {
            return;
        }
        let deadline = clock::mono() + GOODBYE;
        self.shared.draining.store(true, Ordering::Relaxed);
        self.end_sessions(deadline);
        let links = self.shared.all_links();
        for link in &links {
            match link.outbox.wait_written(deadline) {
                0 => {}
                left => warn!("{link}: {left} ended calls could not be reported to it"),
            }
            link.outbox.finish();
        }
        // A dispatcher that has read everything closes its end, too.
        let deadline = deadline.min(clock::mono() + LINGER);
        for link in &links {
            link.outbox.wait_closed(deadline);
        }
        self.leave_kernel();
        if let Some(spool) = &self.shared.spool {
            spool.quit(LINGER);
        }
        for worker in &self.shared.workers {
            let _ = worker.send(Message::Quit);
        }
        let (stopping, wake) = &self.shared.stopping;
        *stopping.lock().unwrap_or_else(PoisonError::into_inner) = true;
        wake.notify_all();
    }

    /// The kernel's part of the relay goes when the last session has gone.
    fn leave_kernel(&self) {
        let Some(kernel) = &self.shared.kernel else {
            return;
        };
        let (done, is_done) = crossbeam_channel::bounded(1);
        let asked = kernel.send(Order::Quit(done));
        if asked.is_err() || is_done.recv_timeout(KERNEL).is_err() {
            warn!("the kernel thread did not end in time: its nftables table may stay behind");
        }
    }

    fn end_sessions(&self, deadline: Duration) {
        let (done, all_done) = crossbeam_channel::unbounded();
        for worker in &self.shared.workers {
            let _ = worker.send(Message::EndAll(done.clone()));
        }
        drop(done);
        for _ in &self.shared.workers {
            let left = deadline.saturating_sub(clock::mono());
            if all_done.recv_timeout(left).is_err() {
                warn!("a worker did not end its sessions in time");
                return;
            }
        }
    }
}

impl Shared {
    /// Those that there are links to, or should be.
    fn dispatchers(&self) -> Vec<SocketAddr> {
        let links = self.all_links();
        let wanted = links.iter().filter(|link| !link.outbox.is_finishing());
        wanted.map(|link| link.address).collect()
    }

    fn all_links(&self) -> Vec<Arc<Link>> {
        let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
        links.clone()
    }

    /// Tells the kernel thread something; without one nothing of the kind is ever said.
    fn order(&self, order: Order) {
        if let Some(kernel) = &self.kernel {
            // It ends after the workers' last session.
            let _ = kernel.send(order);
        }
    }

    fn with_link(&self, owner: Owner, act: impl FnOnce(&Link)) {
        let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = links.get(owner.0 as usize) {
            act(link);
        }
    }

    /// Sees to it that there is a link to a dispatcher.
    ///
    /// # Errors
    /// Why there can be none.
    fn ensure_link(self: &Arc<Self>, address: SocketAddr, name: &str) -> Result<(), String> {
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
                link
            }
        };
        let shared = Arc::clone(self);
        start_thread("link", move || link::run(&shared, &link))
    }

    fn reply(&self, to: ReplyTo, result: &[u8]) {
        self.with_link(owner_of(to), |link| link.outbox.reply(to, result));
    }

    fn reply_in_pieces(&self, to: ReplyTo, pieces: Vec<Vec<u8>>) {
        self.with_link(owner_of(to), |link| link.outbox.reply_in_pieces(to, pieces));
    }

    /// Answers a removal.
    fn removed(&self, to: ReplyTo, ended: &Ended) {
        self.with_link(owner_of(to), |link| {
            self.keep(link, How::Removed, ended);
            link.outbox.reply(to, &ended.statistics);
        });
    }

    /// Has a session kept until its dispatcher has recorded it. False where that is not to be, or cannot.
    fn keep(&self, link: &Link, how: How, ended: &Ended) -> bool {
        let Some(spool) = &self.spool else {
            return false;
        };
        // A call that was never answered is not accounted.
        let is_wanted = ended.is_answered && link.outbox.confirms();
        is_wanted && spool.keep(link.address, how, ended.session_id, &ended.statistics)
    }

    /// Tells a dispatcher that a session of its has ended.
    fn expired(&self, owner: Owner, ended: &Ended) {
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

    fn summary(&self, share: Share) -> Vec<u8> {
        let is_draining = self.draining.load(Ordering::Relaxed);
        let summary = Summary {
            ip: self.relay_ip,
            name: name(self.relay_ip, &self.settings),
            version: env!("CARGO_PKG_VERSION"),
            status: if is_draining { "halting" } else { "active" },
            uptime: clock::mono().saturating_sub(self.started).as_secs(),
            session_count: share.sessions,
            stream_count: share.streams,
            bps_relayed: self.bps.load(Ordering::Relaxed),
            unsent_packets: share.unsent,
            dropped_packets: share.dropped,
        };
        // It holds nothing that JSON cannot say.
        serde_json::to_vec(&summary).unwrap_or_else(|_| b"error".to_vec())
    }

    /// Bytes relayed since the start.
    fn bytes(&self) -> u64 {
        let meters = self.meters.iter();
        meters.map(|m| m.bytes()).sum()
    }

    /// Waits this long; true when the relay ends.
    fn pause(&self, limit: Duration) -> bool {
        let (stopping, wake) = &self.stopping;
        let guard = stopping.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = wake.wait_timeout_while(guard, limit, |stopping| !*stopping);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

fn relay_ip(settings: &Settings) -> Result<Ipv4Addr, String> {
    let Some(address) = settings.relay_ip else {
        return default_ip(settings.auto_detect_interfaces);
    };
    MediaSocket::bind(SocketAddrV4::new(address, 0))
        .map_err(|error| format!("relay_ip = {address}: media cannot be bound there: {error}"))?;
    Ok(address)
}

/// The address of the interface with the default route. A relay that takes each party's own can do without that
/// route: any address will do where nothing is known of a party.
fn default_ip(auto_detect: bool) -> Result<Ipv4Addr, String> {
    let error = match route::default_address() {
        Ok(address) => return Ok(address),
        Err(error) => error,
    };
    if auto_detect {
        if let Ok(Some(address)) = route::first_address() {
            warn!(
                "there is no default route: {address} is used where no route to a party is known"
            );
            return Ok(address);
        }
    }
    Err(format!(
        "there is no default route to take the relay's address from ({error}): set relay_ip"
    ))
}

/// Raises the limit on open files to fit the port range, and says what fits where it may not. Returns how many pairs
/// may be bound: media never takes the files that a lost link needs to come back.
fn allow_files(settings: &Settings) -> usize {
    let (start, end) = settings.port_range;
    let ports = u64::from(end.saturating_sub(u32::from(start)));
    match limits::raise_open_files(ports + OTHER_FILES) {
        Ok(limit) if limit < ports + OTHER_FILES => {
            let pairs = limit.saturating_sub(OTHER_FILES) / FILES_PER_PAIR;
            let (fit, all) = (pairs / 2, ports / FILES_PER_PAIR / 2);
            warn!(
                "{limit} files may be open: {fit} streams fit, port_range has room for {all}; \
                 calls beyond that are refused (raise LimitNOFILE)"
            );
            return usize::try_from(pairs).unwrap_or(usize::MAX);
        }
        Ok(_) => {}
        Err(error) => warn!("the limit on open files cannot be read: {error}"),
    }
    usize::MAX
}

/// Tells relays behind one address apart, and stays the same over restarts.
fn name(relay_ip: Ipv4Addr, settings: &Settings) -> String {
    format!("{relay_ip}:{}", settings.port_range.0)
}

fn hello(relay_ip: Ipv4Addr, settings: &Settings, keeps: bool) -> Vec<u8> {
    let hello = Hello {
        name: Some(name(relay_ip, settings)),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        stored: keeps,
        commands: vec![EXPLAIN.to_owned()],
    };
    let json = serde_json::to_string(&hello).unwrap_or_else(|_| "{}".to_owned());
    format!("hello {json}\r\n").into_bytes()
}

/// A worker that has many calls to itself is woken once for several packets; the kernel needs the other processors to
/// receive them.
fn default_workers() -> usize {
    thread::available_parallelism().map_or(1, |count| (count.get() / 2).clamp(1, 4))
}

fn start_thread(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let started = spawn(name, run);
    started
        .map(drop)
        .map_err(|error| format!("cannot start the {name} thread: {error}"))
}

/// Starts a thread whose panic ends the process: see the module.
fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<thread::JoinHandle<()>> {
    let builder = thread::Builder::new().name(name.to_owned());
    let name = name.to_owned();
    builder.spawn(move || {
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            error!("the {name} thread has failed: the process ends, to be started again");
            std::process::abort();
        }
    })
}

#[cfg(test)]
mod tests;
