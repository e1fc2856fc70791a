//! The dispatcher: takes the SIP proxy's requests, spreads calls over relays, keeps track of both.
//!
//! ```text
//!  SIP proxy --UNIX--> control   one thread per connection: parse, wait for the turn, ask, wait, answer
//!                        |  service, turns, waiting
//!                        v
//!                      Link      queue and open requests of one relay; bounded, never blocks
//!                      |    ^
//!                writer|    |reader: makes and ends sessions, wakes who waits      relays, conversation
//!                      v    |
//!                      relay (TLS)
//!
//!  Mutex<Registry>   calls, relays, links; pure; never held across a socket call   registry
//!  management        one thread per client                                         management
//!  ports             who does not get in: doors, failures
//!  dialog            one thread per kind of proxy: asks it to end dead calls
//!  upkeep            one thread: time-outs, clean-up, certificates                 upkeep
//!  drained           one thread: which relays are drained, on disk                 drained
//! ```
//!
//! Lock order: an update under way, then the registry, then a link's queue.

mod control;
mod conversation;
pub mod daemon;
mod dialog;
mod drained;
mod failures;
pub mod finished;
mod gate;
mod ledger;
mod limits;
mod link;
mod listing;
mod management;
mod metrics;
mod outcasts;
pub mod past;
mod ports;
mod recorder;
pub mod registry;
#[doc(hidden)]
pub mod rehearsal;
mod relays;
mod room;
mod service;
mod settings;
pub mod statistics;
mod turns;
mod unix;
mod upkeep;
mod waiting;
mod wire;

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use crate::daemon::Pulse;
use crate::logging::sparse::Sparse;
use crate::sys::clock;
use crate::sys::thread::run_tenaciously;
use crate::tls::Store;
use crate::words::counted;
pub use dialog::Enders;
use drained::Drained;
use failures::Failures;
use finished::{Finished, Finisher};
use gate::Gate;
use ledger::Earlier;
use link::Link;
use metrics::Counts;
use outcasts::Outcasts;
use past::Past;
pub use recorder::Recorder;
pub use registry::Limits;
use registry::{Patience, Registry};
pub use settings::{Group, Settings};
use turns::Turns;
use waiting::lock;

/// Threads need little: a parsed request, a line of JSON.
const STACK: usize = 256 * 1024;

/// At the end, for proxies to answer that they have ended dialogs.
const LAST_DIALOGS: Duration = Duration::from_secs(2);

/// Ended sessions that are recorded together at most.
const TOGETHER: usize = 256;

/// Clients that may list sessions at once: each listing is megabytes for a moment.
const LISTINGS: usize = 4;

/// What all its threads share.
pub struct Dispatcher {
    settings: Settings,
    store: Arc<Store>,
    registry: Mutex<Registry<Arc<Link>>>,
    turns: Turns,
    finisher: Arc<dyn Finisher>,
    counts: Counts,
    drained: Drained,
    /// Calls that are over, for who asks why.
    past: Mutex<Past>,
    /// Relays that were cut off.
    outcasts: Mutex<Outcasts>,
    /// Lines about links that are refused: their relays try again and again.
    refusals: Mutex<Sparse>,
    /// Lines about lists that are refused: a client may ask again at once.
    unlisted: Mutex<Sparse>,
    /// Connections to the ports that came to nothing: the relays' and the management port.
    failures: [Failures; ports::PORTS.len()],
    /// Lines about callers with too many unanswered calls.
    limited: Mutex<Sparse>,
    /// Answers to `sessions` that are being read by a client.
    listings: Arc<Gate>,
    /// Where the administrator has dialogs ended.
    enders: OnceLock<Arc<Enders>>,
    random: (RandomState, AtomicU64),
    stopping: AtomicBool,
    /// Beats with each round of the upkeep thread.
    upkeep: Pulse,
}

/// A dispatcher at work. Dropping it does not stop it; [`Running::stop`] does.
pub struct Running {
    dispatcher: Arc<Dispatcher>,
    /// Where relays connect.
    pub relay_address: SocketAddr,
    /// Where management clients connect.
    pub management_address: SocketAddr,
}

impl Dispatcher {
    /// Listens everywhere, then starts the threads. `finisher` gets every session that ends.
    ///
    /// # Errors
    /// A sentence that names what cannot be listened on and why.
    pub fn start(
        settings: Settings,
        store: Arc<Store>,
        finisher: Arc<dyn Finisher>,
    ) -> Result<Running, String> {
        let listeners = Listeners::open(&settings)?;
        let address = |l: &TcpListener| l.local_addr().map_err(|e| e.to_string());
        let relay_address = address(&listeners.relays)?;
        let management_address = address(&listeners.management)?;
        let earlier = finisher.earlier();
        let dispatcher = Arc::new(Dispatcher::new(settings, store, finisher, &earlier));
        let Listeners {
            relays,
            management,
            local,
            proxies,
        } = listeners;
        begin(&dispatcher, "upkeep", upkeep::run)?;
        begin(&dispatcher, "drained relays", drained::tend)?;
        begin(&dispatcher, "relays", move |d| relays::accept(d, &relays))?;
        begin(&dispatcher, "management", move |d| {
            management::entrance::accept_tcp(d, &management);
        })?;
        begin(&dispatcher, "local clients", move |d| {
            management::entrance::accept_unix(d, &local);
        })?;
        begin(&dispatcher, "proxies", move |d| {
            control::accept(d, &proxies);
        })?;
        dispatcher.finisher.end_earlier(earlier.dialogs);
        Ok(Running {
            dispatcher,
            relay_address,
            management_address,
        })
    }

    /// A dispatcher that does nothing yet. It goes on with the calls that one before it has noted.
    fn new(
        settings: Settings,
        store: Arc<Store>,
        finisher: Arc<dyn Finisher>,
        earlier: &Earlier,
    ) -> Dispatcher {
        let patience = Patience {
            relay_recover_interval: settings.relay_recover_interval,
            cleanup_dead_relays_after: settings.cleanup_dead_relays_after,
            cleanup_expired_sessions_after: settings.cleanup_expired_sessions_after,
        };
        let drained = Drained::open(&settings.state_dir);
        let mut registry = registry(patience, finisher.records(), &drained, earlier);
        registry.limit_ringing(settings.limits);
        Dispatcher {
            settings,
            store,
            registry: Mutex::new(registry),
            drained,
            past: Mutex::default(),
            outcasts: Mutex::default(),
            refusals: Mutex::new(Sparse::every(Duration::from_secs(60))),
            unlisted: Mutex::default(),
            limited: Mutex::default(),
            turns: Turns::default(),
            finisher,
            counts: Counts::default(),
            failures: Default::default(),
            listings: Gate::new(LISTINGS, LISTINGS),
            enders: OnceLock::new(),
            random: (RandomState::new(), AtomicU64::new(0)),
            stopping: AtomicBool::new(false),
            upkeep: Pulse::default(),
        }
    }

    /// Hands over ended sessions. No lock is held here.
    fn finish(&self, ended: impl IntoIterator<Item = Finished>) {
        let mut ended = ended.into_iter().peekable();
        while ended.peek().is_some() {
            // Nobody else has them: what cannot be recorded now is held there and tried again.
            self.hand_over(ended.by_ref().take(TOGETHER).collect());
        }
    }

    /// Marks a relay that owes an answer for longer than `relay_timeout`. Looks and marks under the registry's
    /// lock: a ping that comes meanwhile counts as later, and clears the mark.
    fn look_for_silence(&self, link: &Link, now: Duration) {
        let timeout = self.settings.relay_timeout;
        let Some(limit) = now.checked_sub(timeout) else {
            return;
        };
        let mut registry = lock(&self.registry);
        let is_news = link.is_overdue(limit) && registry.timed_out(link.id, now);
        drop(registry);
        if is_news {
            log::warn!(
                "relay {link} has not answered for {} s: no new calls until its next ping",
                timeout.as_secs_f32()
            );
        }
    }

    /// Unpredictable enough to spread calls.
    fn random(&self) -> u64 {
        let (state, count) = &self.random;
        state.hash_one(count.fetch_add(1, Ordering::Relaxed))
    }
}

impl Running {
    /// Looks for changed certificates at once; what is connected stays connected as long as they allow it.
    pub fn reload(&self) {
        if self.dispatcher.store.reload_if_changed() == crate::tls::Reload::Unchanged {
            log::info!("certificates have not changed");
        }
    }

    /// Has dialogs ended that the administrator wants to end. Once is enough.
    pub fn set_enders(&self, enders: Arc<Enders>) {
        let _ = self.dispatcher.enders.set(enders);
    }

    /// One line on how it goes.
    pub fn status(&self) -> String {
        let (relays, sessions) = lock(&self.dispatcher.registry).counts();
        format!(
            "{} connected, {}",
            counted(relays, "relay"),
            counted(sessions, "session")
        )
    }

    /// Whether the dispatcher does what it is for: the proxy's socket takes and serves a connection, and the upkeep
    /// thread, which needs the locks of registry and links, has gone round since this was last asked.
    ///
    /// # Errors
    /// What does not.
    pub fn examine(&self) -> Result<(), String> {
        let socket = &self.dispatcher.settings.socket_path;
        control::probe(socket)
            .map_err(|error| format!("{}: not served: {error}", socket.display()))?;
        match self.dispatcher.upkeep.feel(|| {}) {
            true => Ok(()),
            false => Err("no answer from the upkeep thread".to_owned()),
        }
    }

    /// Requests that wait for an earlier one of their call.
    pub fn queued(&self) -> usize {
        self.dispatcher.turns.queued()
    }

    /// Ends cleanly: no new connections, links are closed once what is queued has left (1 s at most), socket
    /// files are removed. Calls stay on their relays.
    pub fn stop(&self) {
        self.dispatcher.stopping.store(true, Ordering::Relaxed);
        remove_file(&self.dispatcher.settings.socket_path);
        remove_file(&self.dispatcher.settings.management_path);
        self.dispatcher.finisher.sync();
        let on_disk = self.dispatcher.finisher.on_disk();
        let links = lock(&self.dispatcher.registry).links();
        for link in &links {
            link.flush(on_disk);
            link.finish("this daemon ends");
        }
        let deadline = clock::mono() + Duration::from_secs(1);
        for link in links {
            link.wait_written(deadline);
        }
        if let Some(enders) = self.dispatcher.enders.get() {
            enders.stop(LAST_DIALOGS);
        }
    }
}

/// It knows the calls that a dispatcher before this one has left, and which relays were drained.
fn registry(
    patience: Patience,
    is_noting: bool,
    drained: &Drained,
    earlier: &Earlier,
) -> Registry<Arc<Link>> {
    let mut registry = Registry::new(patience);
    for relay in drained.relays() {
        registry.drain(&relay);
    }
    let now = clock::now();
    registry.set_wall(now);
    if !earlier.is_known {
        registry.set_blind_before(now.unix.elapsed());
    }
    if is_noting {
        registry.note_calls();
    }
    registry.restore(earlier.calls.iter().cloned(), now.mono.since_start());
    let dialogs = earlier.dialogs.iter();
    registry.restore_ended(dialogs.map(|due| due.name.clone()), now.mono.since_start());
    registry
}

/// Everything that is listened on.
struct Listeners {
    relays: TcpListener,
    management: TcpListener,
    local: UnixListener,
    proxies: UnixListener,
}

impl Listeners {
    fn open(settings: &Settings) -> Result<Listeners, String> {
        let relays = tcp(settings.listen, "listen")?;
        let management = tcp(settings.listen_management, "listen_management")?;
        let group = settings.socket_group;
        let local = unix::listen(&settings.management_path, 0o660, group)?;
        let told = |error| format!("socket {}: {error}", settings.management_path.display());
        local.set_nonblocking(true).map_err(told)?;
        let proxies = unix::listen(&settings.socket_path, settings.socket_mode, group);
        let proxies = proxies.inspect_err(|_| remove_file(&settings.management_path))?;
        Ok(Listeners {
            relays,
            management,
            local,
            proxies,
        })
    }
}

/// For the log: connections end because this daemon does.
fn is_stopping(dispatcher: &Dispatcher) -> bool {
    dispatcher.stopping.load(Ordering::Relaxed)
}

fn tcp(address: SocketAddr, key: &str) -> Result<TcpListener, String> {
    let listener = TcpListener::bind(address).and_then(|listener| {
        // A door watches it.
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listener.map_err(|error| format!("{key} = {address}: cannot listen: {error}"))
}

fn remove_file(path: &std::path::Path) {
    if let Err(error) = fs::remove_file(path) {
        log::warn!("{}: cannot be removed: {error}", path.display());
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let builder = thread::Builder::new().name(name.to_owned());
    builder.stack_size(STACK).spawn(run).map(drop)
}

/// Starts a thread that the daemon cannot do without: should it panic, it is run again.
fn begin(
    dispatcher: &Arc<Dispatcher>,
    name: &'static str,
    run: impl Fn(&Arc<Dispatcher>) + Send + 'static,
) -> Result<(), String> {
    let shared = Arc::clone(dispatcher);
    let run = move || run_tenaciously(name, || run(&shared));
    spawn(name, run).map_err(|e| format!("cannot start the {name} thread: {e}"))
}

/// Accepts for ever. A failure is logged and tried again a little later: it passes (a full table of open
/// files) or comes with one connection only.
fn accept_all<C>(what: &str, accept: impl Fn() -> io::Result<C>, mut admit: impl FnMut(C)) {
    let mut failures = Sparse::default();
    loop {
        match accept() {
            Ok(connection) => admit(connection),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if let Some(skipped) = failures.due() {
                    log::error!("{what}: cannot accept a connection: {error}{skipped}");
                }
                thread::sleep(Duration::from_millis(200));
            }
        }
    }
}
