//! The relay: takes dispatchers' commands over TLS and relays the media of their calls.
//!
//! ```text
//!  dispatcher --TLS--> link reader --mailbox--> worker   an engine, its sockets and timers    worker, machine, pace
//!             <--TLS-- link writer <--outbox----/        answers, notices, pings              link, greeting, outbox
//!                                     gather             lists and summaries of all workers
//!  discovery   one thread: names to addresses, links come and go
//!  upkeep      one thread: traffic samples, certificates again
//!  kernel      one thread: has the kernel forward what both parties were learned of
//!  checks      what the host must have, before the start; diagnosis: why the kernel drops media, while it runs
//!  explain     one thread: all that is known of a call; surroundings: what of the host stands in its way
//!  daemon      all of it as a process: signals, status, the end
//! ```
//!
//! A worker never waits for anybody; a link's reader waits only for a worker. A thread that panics ends the
//! process, so that the service manager starts it whole again: no half of a relay can lose calls silently.

mod backoff;
pub mod checks;
pub mod daemon;
pub mod diagnosis;
pub mod discovery;
mod explain;
mod gather;
mod greeting;
mod hops;
mod kernel;
mod link;
mod machine;
mod meter;
mod metrics;
mod outbox;
mod pace;
pub mod rehearsal;
mod rounds;
mod settings;
mod shared;
mod spool;
mod surroundings;
mod upkeep;
mod worker;

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use crossbeam_channel::Receiver;
use log::{error, info, warn};

use self::discovery::Directory;
use self::kernel::Order;
use self::machine::{Addresses, FILES_PER_PAIR, SharedPorts};
use self::meter::Requests;
pub use self::settings::Settings;
use self::shared::Shared;
use self::worker::{Message, Worker};
use crate::daemon::{Pulse, StartError};
use crate::metrics::Gauge;
use crate::proto::link::{EXPLAIN, Hello};
use crate::session;
use crate::sys::mailbox::{Mailbox, mailbox};
use crate::sys::range_lock::{self, Held, RangeLock, Refused};
use crate::sys::udp::MediaSocket;
use crate::sys::{clock, limits, random, route};
use crate::tls::Store;

/// Messages that may wait for one worker before those who send more wait themselves.
const MAILBOX: usize = 1024;

/// Open files beside media sockets.
const OTHER_FILES: u64 = 128;

/// How long ended sessions may take to be reported at the end.
const GOODBYE: Duration = Duration::from_secs(5);

/// How long a dispatcher may take to read the last of it: closing earlier could lose that.
const LINGER: Duration = Duration::from_secs(1);

/// How long the kernel thread may take to remove what the relay has in the kernel.
const KERNEL: Duration = Duration::from_secs(3);

/// A relay at work. Dropping it does not stop it; [`Running::stop`] does.
pub struct Running {
    shared: Arc<Shared>,
}

/// Has the port range for this relay alone. A second relay would end the first one's calls: to the dispatcher it is the
/// same one that has come back without them.
///
/// # Errors
/// A sentence that names the setting, and who has the ports.
pub fn lock(settings: &Settings) -> Result<RangeLock, StartError> {
    let (start, end) = settings.port_range;
    range_lock::lock((start, end)).map_err(|refused| match refused {
        Refused::Taken(held) => StartError::unusable(taken((start, end), &held)),
        Refused::Failed(error) => {
            format!("port_range = {start}:{end}: its lock cannot be had: {error}").into()
        }
    })
}

fn taken((start, end): (u16, u32), held: &Held) -> String {
    let stop = match held.pid() {
        Some(pid) => format!("kill -HUP {pid} ends it after its last call, kill {pid} at once"),
        None => "ss -lxp | grep mediaproxy-relay, as root, tells its pid".to_owned(),
    };
    format!(
        "port_range = {start}:{end}: another media-relay runs on this host, with ports {held}; not started. Stop that one \
         first ({stop}), or give this one another port_range"
    )
}

/// Starts all threads of a relay that has its port range.
///
/// # Errors
/// A sentence that names the setting and what is wrong.
pub fn start(
    settings: Settings,
    store: Arc<Store>,
    lock: RangeLock,
) -> Result<Running, StartError> {
    let relay_ip = relay_ip(&settings)?;
    let opened = kernel::open(&settings.kernel(relay_ip), settings.forwarding)?;
    let (shared, parts) = assemble(settings, store, relay_ip, opened, Some(lock))?;
    if let Some(spool) = parts.spool {
        spool.start(Arc::clone(&shared))?;
    }
    for worker in workers(&shared, parts.mailboxes)? {
        start_thread("worker", move || worker.run())?;
    }
    start_helpers(&shared)?;
    let (answering, asked) = (Arc::clone(&shared), parts.asked);
    start_thread("explain", move || explain::run(&answering, &asked))?;
    let (start, end) = shared.settings.port_range;
    let fit = shared.hello.capacity.unwrap_or_default();
    info!(
        "relaying on {relay_ip}, ports {start} to {}, {} workers: room for {fit} streams, which are {fit} calls with \
         sound alone or {} with video",
        end - 1,
        shared.workers.len(),
        fit / 2
    );
    Ok(Running { shared })
}

/// What one thread each will have.
struct Parts {
    mailboxes: Vec<Mailbox<Message>>,
    spool: Option<spool::Opened>,
    asked: Receiver<Option<explain::Question>>,
}

/// A relay without its threads, but for the kernel's.
fn assemble(
    settings: Settings,
    store: Arc<Store>,
    relay_ip: Ipv4Addr,
    opened: kernel::Opened,
    lock: Option<RangeLock>,
) -> Result<(Arc<Shared>, Parts), StartError> {
    let (gate, in_kernel) = match opened {
        kernel::Opened::Kernel(gate) => (Some(*gate), Ok(())),
        kernel::Opened::UserSpace(why) => (None, Err(why)),
    };
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
    let ports = SharedPorts::new(settings.port_range, most_pairs);
    let fit = ports.room(clock::mono()).all;
    let (questions, asked) = explain::channel();
    let shared = Arc::new(Shared {
        hello: hello(relay_ip, &settings, spool.is_some(), fit),
        instance: random::bits(),
        spool: spool.as_ref().map(spool::Opened::spool),
        ports: Arc::new(ports),
        meters: (0..count).map(|_| Arc::default()).collect(),
        kernel_flows,
        questions,
        requests: Requests::default(),
        settings,
        store,
        relay_ip,
        workers,
        kernel,
        in_kernel,
        lock: Mutex::new(lock),
        kernel_pulse,
        links: RwLock::default(),
        started: clock::mono(),
        bps: AtomicU64::new(0),
        draining: AtomicBool::new(false),
        has_warned: AtomicBool::new(false),
        all_found: AtomicBool::new(false),
        rounds: Mutex::default(),
        stopping: (Mutex::new(false), Condvar::new()),
    });
    let parts = Parts {
        mailboxes,
        spool,
        asked,
    };
    Ok((shared, parts))
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

/// The workers, not running yet.
fn workers(shared: &Arc<Shared>, mailboxes: Vec<Mailbox<Message>>) -> Result<Vec<Worker>, String> {
    let addresses = Addresses {
        relay_ip: shared.relay_ip,
        auto_detect: shared.settings.auto_detect_interfaces,
    };
    let worker = |(index, mailbox)| {
        let session = session::Settings {
            kernel: shared.in_kernel.clone(),
            ..shared.settings.session.clone()
        };
        Worker::new(index, Arc::clone(shared), mailbox, session, addresses)
            .map_err(|error| format!("cannot set up a worker: {error}"))
    };
    mailboxes.into_iter().enumerate().map(worker).collect()
}

fn start_helpers(shared: &Arc<Shared>) -> Result<(), String> {
    let upkeep = Arc::clone(shared);
    start_thread("upkeep", move || upkeep::run(&upkeep))?;
    let directory = Directory::new(&shared.settings.dispatchers);
    for (address, name) in directory.dispatchers() {
        shared.ensure_link(address, &name)?;
    }
    shared
        .all_found
        .store(directory.is_fixed(), Ordering::Relaxed);
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
        let mut lock = self.shared.lock.lock();
        drop(lock.as_deref_mut().map(Option::take));
        // Who asks now is not answered.
        let _ = self.shared.questions.try_send(None);
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

fn relay_ip(settings: &Settings) -> Result<Ipv4Addr, String> {
    let Some(address) = settings.relay_ip else {
        return default_ip(settings.auto_detect_interfaces);
    };
    MediaSocket::bind(SocketAddrV4::new(address, 0))
        .map_err(|error| format!("relay_ip = {address}: media cannot be bound there: {error}; ip -4 address shows this host's"))?;
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

fn hello(relay_ip: Ipv4Addr, settings: &Settings, keeps: bool, fit: usize) -> Hello {
    Hello {
        name: Some(name(relay_ip, settings)),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        stored: keeps,
        commands: vec![EXPLAIN.to_owned()],
        capacity: Some(fit),
        ..Hello::default()
    }
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
            crate::logging::last_words();
            std::process::abort();
        }
    })
}

#[cfg(test)]
mod tests;
