//! The dispatcher as a process: from a configuration to a running daemon, its signals, its end.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::dialog::{self, Enders};
use super::finished::Finished;
use super::settings::{Group, Settings};
use super::{Dispatcher, Running};
use crate::cli::Options;
use crate::config::{DispatcherConfig, Loaded, SocketGroup};
use crate::logging;
use crate::sys::process::{self, Process};
use crate::sys::signals::{Signal, SignalWaiter};
use crate::sys::{limits, users};
use crate::tls::Store;

/// Connections of proxies, relays and clients, and some to spare.
const OPEN_FILES: u64 = 4096;

/// How often systemd is told how many calls there are.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// Runs the daemon `name` to its end. Returns what `main` returns: 0 after a clean end, 1 when it could not
/// start; why is said by then.
pub fn run(name: &'static str, options: &Options, loaded: Loaded<DispatcherConfig>) -> ExitCode {
    let (mut process, signals) = match process::start(options.mode, &options.runtime_dir, name) {
        Ok(started) => started,
        Err(error) => {
            eprintln!("{name}: {error}");
            return ExitCode::FAILURE;
        }
    };
    let level = match options.debug {
        true => log::LevelFilter::Debug,
        false => loaded.config.log_level.filter(),
    };
    logging::start(options.mode, name, level);
    log::info!(
        "{name} {} with {}",
        env!("CARGO_PKG_VERSION"),
        loaded.path.display()
    );
    loaded.warnings.iter().for_each(|text| log::warn!("{text}"));
    let running = match start(options, &loaded.config) {
        Ok(running) => running,
        Err(reason) => return process.failed(&reason),
    };
    if let Err(error) = process.ready() {
        running.stop();
        return process.failed(&format!("cannot say that it is ready: {error}"));
    }
    serve(&process, &signals, &running);
    process.stopping();
    stop(&signals, running);
    dialog::remove_sockets(&options.runtime_dir);
    log::info!("{name} has ended");
    ExitCode::SUCCESS
}

fn start(options: &Options, config: &DispatcherConfig) -> Result<Running, String> {
    match limits::raise_open_files(OPEN_FILES) {
        Ok(limit) if limit < OPEN_FILES => {
            log::warn!("no more than {limit} open files are allowed, {OPEN_FILES} would be wanted");
        }
        Ok(_) => {}
        Err(error) => log::warn!("the limit of open files cannot be read: {error}"),
    }
    let store = Store::open(&config.tls.certs_path, "dispatcher").map_err(|e| e.to_string())?;
    let group = socket_group(&config.socket_group)?;
    let settings = Settings::new(config, &options.runtime_dir, group);
    let socket = settings.socket_path.display().to_string();
    let kamailio = config.kamailio.socket_path.as_deref();
    let enders = Enders::start(&config.opensips.socket_path, kamailio, &options.runtime_dir)?;
    let finished = Arc::new(move |finished: Finished| {
        log::info!("{finished}");
        if let Some(dialog_id) = finished.dialog_id.as_ref().filter(|_| finished.end_dialog) {
            enders.end(&finished.call_id, dialog_id);
        }
    });
    let running = Dispatcher::start(settings, Arc::new(store), finished)?;
    log::info!(
        "ready: SIP proxy at {socket}, relays at {}, management at {}",
        running.relay_address,
        running.management_address
    );
    Ok(running)
}

/// The group that the SIP proxy runs in.
fn socket_group(wanted: &SocketGroup) -> Result<Option<Group>, String> {
    let find = |name: &str| {
        users::group_by_name(name).map_err(|e| format!("socket_group: group {name}: {e}"))
    };
    if let SocketGroup::Named(name) = wanted {
        let id = find(name)?;
        let id = id.ok_or_else(|| format!("socket_group: there is no group \"{name}\""))?;
        return Ok(Some(Group {
            id,
            is_required: true,
        }));
    }
    for name in SocketGroup::USUAL {
        if let Some(id) = find(name)? {
            log::info!("socket_group = auto: {name}");
            return Ok(Some(Group {
                id,
                is_required: false,
            }));
        }
    }
    log::info!(
        "socket_group = auto: the daemon's own, there is none of {}",
        SocketGroup::USUAL.join(", ")
    );
    Ok(None)
}

/// Acts on signals until one says to end.
fn serve(process: &Process, signals: &SignalWaiter, running: &Running) {
    let mut shown = None;
    loop {
        let status = running.status();
        if shown.as_ref() != Some(&status) {
            process.status(&status);
            shown = Some(status);
        }
        match signals.wait_for(STATUS_INTERVAL) {
            None => {}
            Some(Signal::Hangup) => running.reload(),
            Some(Signal::User1) => {
                let on = logging::toggle_debug();
                log::info!("debug lines are {}", if on { "on" } else { "off" });
            }
            Some(signal @ (Signal::Interrupt | Signal::Terminate)) => {
                log::info!("{signal:?}: ending");
                return;
            }
        }
    }
}

/// Ends in good order; a second signal ends at once.
fn stop(signals: &SignalWaiter, running: Running) {
    let (done, is_done) = mpsc::channel::<()>();
    let stopping = thread::spawn(move || {
        running.stop();
        drop(done);
    });
    while is_done.try_recv() != Err(mpsc::TryRecvError::Disconnected) {
        let again = signals.wait_for(Duration::from_millis(10));
        if matches!(again, Some(Signal::Interrupt | Signal::Terminate)) {
            log::warn!("a second signal: ended at once");
            return;
        }
    }
    if stopping.join().is_err() {
        log::error!("internal error while ending");
    }
}
