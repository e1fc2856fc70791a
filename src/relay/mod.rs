//! The relay: takes dispatchers' commands over TLS and relays the media of their calls.
//!
//! ```text
//!  dispatcher --TLS--> link         --message--> worker   an engine, its sockets (media_sockets) and timers
//!             <--TLS-- link_writer  <--queue-----/        answers, notices, pings (dispatcher, send_queue)
//!                                       listing, summing  lists and summaries of all workers
//!  discovery   one thread: names to addresses, links come and go
//!  upkeep      one thread: traffic samples, certificates again
//!  kernel      one thread: has the kernel forward what both parties were learned of
//!  explain     one thread: all that is known of a call
//!  socket_store one thread: media sockets that outlive the process (systemd keeps them)
//!  spool       one thread: ended calls that no dispatcher has confirmed (ended_calls)
//!  state       one thread: the state of all calls, for the process after this one (state_log, tallies)
//!  daemon      all of it as a process: signals, status, the end
//! ```
//!
//! `shared` is what all of them have: data, each part with a type of its own that does what belongs to it.
//!
//! A worker never waits for anybody; a link's reader waits only for a worker. A thread that panics ends the
//! process, so that the service manager starts it whole again: no half of a relay can lose calls silently.

mod backoff;
mod coalescing;
pub mod daemon;
mod discovery;
mod dispatcher;
mod dispatchers;
mod ended_calls;
mod ending;
mod explain;
mod hand_over;
mod hops;
mod identity;
mod kernel;
mod link;
mod link_writer;
mod listing;
mod loops;
mod media_sockets;
mod message;
mod metrics;
mod question;
pub mod rehearsal;
mod request_counts;
mod send_queue;
mod settings;
mod shared;
mod shared_ports;
mod socket_store;
mod spool;
mod state_log;
mod summary;
mod summing;
mod take_over;
mod taken_over;
mod tallies;
mod threads;
mod upkeep;
mod worker;
mod worker_counts;
mod workers;

use std::io;
use std::mem;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use log::{info, warn};

use self::dispatchers::Dispatchers;
use self::ended_calls::EndedCalls;
use self::ending::Ending;
use self::identity::Identity;
use self::kernel::handle::KernelHandle;
use self::kernel::news::Deliver;
use self::media_sockets::Addresses;
use self::message::Message;
use self::question::Question;
use self::request_counts::RequestCounts;
pub use self::settings::Settings;
use self::shared::Shared;
use self::shared_ports::SharedPorts;
use self::socket_store::SocketStore;
use self::worker::Worker;
use self::workers::Workers;
use crate::daemon::StartError;
use crate::diagnosis::requirements::{FILES_PER_PAIR, OTHER_FILES, relay_address};
use crate::moment::Moment;
use crate::resolver::{Directory, SystemResolver};
use crate::sys::mailbox::{Mailbox, Postbox, mailbox};
use crate::sys::range_lock::{self, Held, RangeLock, Refused};
use crate::sys::{clock, limits, random};
use crate::tls::Store;

/// Messages that may wait for one worker before those who send more wait themselves.
const MAILBOX_SIZE: usize = 1024;

/// How long ended sessions may take to be reported at the end.
const REPORTING_LIMIT: Duration = Duration::from_secs(5);

/// How long a dispatcher may take to read the last of it: closing earlier could lose that.
const CLOSING_LIMIT: Duration = Duration::from_secs(1);

/// How long the kernel thread may take to remove what the relay has in the kernel.
const KERNEL_LIMIT: Duration = Duration::from_secs(3);

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
    let began = clock::moment();
    let relay_ip = relay_address(settings.relay_ip, settings.auto_detect_interfaces)?;
    let mut state = open_state(&settings);
    let has_calls = |state: &state_log::Opened| !state.legacy.sessions.is_empty();
    let is_kept = state.as_ref().is_some_and(has_calls);
    let opened = kernel::open(&settings.kernel(relay_ip), settings.forwarding, is_kept)?;
    let legacy = state.as_mut().map(|state| mem::take(&mut state.legacy));
    let kept = Kept {
        sockets: SocketStore::from_environment(),
        state,
    };
    let (shared, parts) = assemble(settings, store, relay_ip.into(), opened, kept, Some(lock))?;
    shared.sockets.start()?;
    if let Some(spool) = parts.spool {
        spool.start(&shared.dispatchers)?;
    }
    let mut workers = workers(&shared, parts.mailboxes)?;
    take_over::take_over(&shared, &mut workers, legacy.unwrap_or_default(), began);
    shared.sockets.close_untaken();
    for worker in workers {
        threads::start("worker", move || worker.run())?;
    }
    if let Some(state) = parts.state {
        state.start()?;
    }
    start_helpers(&shared)?;
    let (answering, asked) = (Arc::clone(&shared), parts.asked);
    threads::start("explain", move || explain::run(&answering, &asked))?;
    let (start, end) = shared.settings.port_range;
    let fit = shared.identity.capacity().unwrap_or_default();
    info!(
        "relaying on {relay_ip}, ports {start} to {}, {} workers: room for {fit} streams, which are {fit} calls with \
         sound alone or {} with video",
        end - 1,
        shared.workers.count(),
        fit / 2
    );
    Ok(Running { shared })
}

/// What a process before this one has left, open.
struct Kept {
    sockets: SocketStore,
    state: Option<state_log::Opened>,
}

/// What one thread each will have.
struct Parts {
    mailboxes: Vec<Mailbox<Message>>,
    spool: Option<spool::Opened>,
    state: Option<state_log::Opened>,
    asked: Receiver<Option<Question>>,
}

/// A relay without its threads, but for the kernel's.
fn assemble(
    mut settings: Settings,
    store: Arc<Store>,
    relay_ip: IpAddr,
    opened: kernel::Opened,
    kept: Kept,
    lock: Option<RangeLock>,
) -> Result<(Arc<Shared>, Parts), StartError> {
    let most_pairs = allow_files(&settings);
    let count = settings.workers.unwrap_or_else(default_workers).max(1);
    let no_mailbox = |error: io::Error| format!("cannot make a mailbox: {error}");
    let mut postboxes = Vec::new();
    let mut mailboxes = Vec::new();
    for _ in 0..count {
        let (postbox, mailbox) = mailbox(MAILBOX_SIZE).map_err(no_mailbox)?;
        postboxes.push(postbox);
        mailboxes.push(mailbox);
    }
    let mut kernel = KernelHandle::default();
    let in_kernel = match opened {
        kernel::Opened::Kernel(ready) => {
            let deliver = deliver_to(postboxes.clone());
            let (pulse, flows) = (Arc::clone(&kernel.pulse), Arc::clone(&kernel.flows));
            let takeover = Arc::clone(&kernel.takeover);
            let orders = kernel::start(*ready, count, deliver, pulse, flows, takeover);
            kernel.orders = Some(orders.map_err(no_mailbox)?);
            Ok(())
        }
        kernel::Opened::UserSpace(why) => Err(why),
    };
    settings.session.kernel = in_kernel;
    let spool = open_spool(&settings);
    let ports = SharedPorts::new(settings.port_range, most_pairs);
    let started = clock::moment();
    let fit = ports.room(started).all;
    let (questions, asked) = question::channel();
    let first_port = settings.port_range.0;
    let dispatchers = Arc::new(Dispatchers::default());
    let spooled = spool.as_ref().map(spool::Opened::spool);
    let shared = Arc::new(Shared {
        identity: Identity::new(relay_ip, first_port, spooled.is_some(), fit, random::bits()),
        settings,
        store,
        ports: Arc::new(ports),
        sockets: Arc::new(kept.sockets),
        workers: Workers::new(postboxes),
        kernel,
        ended: EndedCalls::new(Arc::clone(&dispatchers), spooled),
        dispatchers,
        tallies: kept.state.as_ref().and_then(|state| state.tallies.clone()),
        state: kept.state.as_ref().map(|state| state.handle.clone()),
        taken_over: OnceLock::new(),
        is_handing_over: AtomicBool::new(false),
        requests: RequestCounts::default(),
        questions,
        loops: Mutex::default(),
        lock: Mutex::new(lock),
        started,
        bps: AtomicU64::new(0),
        draining: AtomicBool::new(false),
        has_warned: AtomicBool::new(false),
        ending: Ending::default(),
    });
    let parts = Parts {
        mailboxes,
        spool,
        state: kept.state,
        asked,
    };
    Ok((shared, parts))
}

/// Gets news of the kernel thread to the workers.
fn deliver_to(workers: Vec<Postbox<Message>>) -> Deliver {
    Box::new(move |worker, news| {
        if let Some(worker) = workers.get(worker) {
            // One that is gone has nothing to be told.
            let _ = worker.send(Message::Kernel(news));
        }
    })
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

/// The state of calls is kept for the next process; a relay that cannot do that relays all the same.
fn open_state(settings: &Settings) -> Option<state_log::Opened> {
    let dir = settings.runtime_dir.as_deref()?;
    match state_log::open(dir, settings.port_range) {
        Ok(state) => Some(state),
        Err(why) => {
            warn!("runtime directory: {why}; calls end with this relay, whatever ends it");
            None
        }
    }
}

/// The workers, not running yet.
fn workers(shared: &Arc<Shared>, mailboxes: Vec<Mailbox<Message>>) -> Result<Vec<Worker>, String> {
    let addresses = Addresses {
        relay_ip: shared.identity.relay_ip,
        auto_detect: shared.settings.auto_detect_interfaces,
    };
    let worker = |(index, mailbox)| {
        Worker::new(index, Arc::clone(shared), mailbox, addresses)
            .map_err(|error| format!("cannot set up a worker: {error}"))
    };
    mailboxes.into_iter().enumerate().map(worker).collect()
}

fn start_helpers(shared: &Arc<Shared>) -> Result<(), String> {
    let upkeep = Arc::clone(shared);
    threads::start("upkeep", move || upkeep::run(&upkeep))?;
    let directory = Directory::new(&shared.settings.dispatchers);
    for (address, name) in directory.dispatchers() {
        link::ensure(shared, address, &name)?;
    }
    if directory.is_fixed() {
        shared.dispatchers.set_found();
    } else {
        let shared = Arc::clone(shared);
        threads::start("discovery", move || {
            discovery::run(&shared, directory, SystemResolver);
        })?;
    }
    Ok(())
}

impl Running {
    /// Takes no new calls from now on; see [`Running::is_drained`].
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
        // One that does not read its mailbox any more takes no calls either.
        self.tell_workers(|| Message::Drain);
    }

    /// Each that there still is.
    fn tell_workers(&self, message: impl Fn() -> Message) {
        for worker in 0..self.shared.workers.count() {
            self.shared.workers.send(worker, message());
        }
    }

    /// Whether no new call can come any more and the last one is over.
    pub fn is_drained(&self) -> bool {
        self.shared.workers.are_drained()
    }

    /// Sessions that are not over and reported.
    pub fn sessions(&self) -> usize {
        self.shared.workers.sessions()
    }

    /// Ends all sessions, waits until each is reported to its dispatcher, 5 s at most, then closes the links and
    /// ends the threads. Once is enough.
    pub fn stop(&self) {
        if self.shared.ending.has_begun() {
            return;
        }
        let deadline = clock::moment() + REPORTING_LIMIT;
        self.shared.draining.store(true, Ordering::Relaxed);
        self.end_sessions(deadline);
        self.close_links(deadline);
        // The kernel's part of the relay goes when the last session has gone.
        if !self.shared.kernel.quit(KERNEL_LIMIT) {
            warn!("the kernel thread did not end in time: its nftables table may stay behind");
        }
        if let Some(spool) = &self.shared.ended.spool {
            spool.quit(CLOSING_LIMIT);
        }
        self.tell_workers(|| Message::Quit);
        if let Some(state) = &self.shared.state {
            state.remove(CLOSING_LIMIT);
        }
        self.end_threads();
    }

    /// Waits until dispatchers have what is for them, and ends their links.
    fn close_links(&self, deadline: Moment) {
        let dispatchers = self.shared.dispatchers.all();
        for dispatcher in &dispatchers {
            match dispatcher.queue.wait_written(deadline) {
                0 => {}
                left => warn!("{dispatcher}: {left} ended calls could not be reported to it"),
            }
            dispatcher.queue.finish();
        }
        // A dispatcher that has read everything closes its end, too.
        let deadline = deadline.min(clock::moment() + CLOSING_LIMIT);
        for dispatcher in &dispatchers {
            dispatcher.queue.wait_closed(deadline);
        }
    }

    /// Ends the threads that wait for something else, and lets the next process have the port range.
    fn end_threads(&self) {
        self.shared.ending.begin();
        let mut lock = self.shared.lock.lock();
        drop(lock.as_deref_mut().map(Option::take));
        // Who asks now is not answered.
        let _ = self.shared.questions.try_send(None);
    }

    fn end_sessions(&self, deadline: Moment) {
        self.await_workers(Message::EndAll, deadline, "end its sessions");
    }

    /// Tells each worker something, and waits until all have said that it is done.
    fn await_workers(&self, message: impl Fn(Sender<()>) -> Message, deadline: Moment, what: &str) {
        let (done, all_done) = crossbeam_channel::unbounded();
        self.tell_workers(|| message(done.clone()));
        drop(done);
        for _ in 0..self.shared.workers.count() {
            let left = deadline.since(clock::moment());
            if all_done.recv_timeout(left).is_err() {
                warn!("a worker did not {what} in time");
                return;
            }
        }
    }
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

/// A worker that has many calls to itself is woken once for several packets; the kernel needs the other processors to
/// receive them.
fn default_workers() -> usize {
    thread::available_parallelism().map_or(1, |count| (count.get() / 2).clamp(1, 4))
}

#[cfg(test)]
mod tests;
