//! The dispatcher at work: what it listens on, its threads, its end.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::dialog::Enders;
use super::finisher::Finisher;
use super::settings::Settings;
use super::shared::Dispatcher;
use super::threads::spawn;
use super::{control, drained_upkeep, management, relays, socket_file, upkeep};
use crate::metrics::Listener;
use crate::sys::clock;
use crate::sys::sync::lock;
use crate::sys::thread::run_tenaciously;
use crate::tls::Store;
use crate::words::counted;

/// At the end, for proxies to answer that they have ended dialogs.
const LAST_DIALOGS: Duration = Duration::from_secs(2);

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
        begin(&dispatcher, "drained relays", drained_upkeep::tend)?;
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

    /// Answers scrapes on a port from now on.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub fn serve_metrics(&self, listener: Listener) -> Result<(), String> {
        let dispatcher = Arc::clone(&self.dispatcher);
        listener.serve(move || dispatcher.metrics())
    }

    /// One line on how it goes.
    pub fn status(&self) -> String {
        let (relays, sessions) = lock(&self.dispatcher.registry).relays.counts();
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
        if self.dispatcher.upkeep.feel(|| {}) {
            Ok(())
        } else {
            Err("no answer from the upkeep thread".to_owned())
        }
    }

    /// Requests that wait for an earlier one of their call.
    pub fn queued(&self) -> usize {
        self.dispatcher.call_queues.queued()
    }

    /// Requests that wait for a relay that is away.
    pub fn waiting(&self) -> usize {
        self.dispatcher.relay_news.waiting()
    }

    /// Ends cleanly: no new connections, links are closed once what is queued has left (1 s at most), socket
    /// files are removed. Calls stay on their relays.
    pub fn stop(&self) {
        self.dispatcher.stopping.store(true, Ordering::Relaxed);
        remove_file(&self.dispatcher.settings.socket_path);
        remove_file(&self.dispatcher.settings.management_path);
        self.dispatcher.finisher.sync();
        let on_disk = self.dispatcher.finisher.on_disk();
        let links = lock(&self.dispatcher.registry).relays.links();
        for link in &links {
            link.flush(on_disk);
            link.finish("this daemon ends");
        }
        let deadline = clock::moment() + Duration::from_secs(1);
        for link in links {
            link.wait_written(deadline);
        }
        if let Some(enders) = self.dispatcher.enders.get() {
            enders.stop(LAST_DIALOGS);
        }
    }
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
        let local = socket_file::listen(&settings.management_path, 0o660, group)?;
        let told = |error| format!("socket {}: {error}", settings.management_path.display());
        local.set_nonblocking(true).map_err(told)?;
        let proxies = socket_file::listen(&settings.socket_path, settings.socket_mode, group);
        let proxies = proxies.inspect_err(|_| remove_file(&settings.management_path))?;
        Ok(Listeners {
            relays,
            management,
            local,
            proxies,
        })
    }
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
