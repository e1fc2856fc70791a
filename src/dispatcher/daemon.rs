//! The dispatcher as a process: how it starts, its signals, its end.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::dialog::{self, Enders};
use super::recorder::Recorder;
use super::settings::{Group, Settings};
use super::{Dispatcher, Running};
use crate::accounting::{self, Accounting};
use crate::cli::{self, Options, Program};
use crate::config::{self, DispatcherConfig, SocketGroup};
use crate::daemon::{self, Daemon, StartError, Watchdog};
use crate::metrics::{self, process};
use crate::sys::process::Process;
use crate::sys::signals::{Signal, SignalWaiter};
use crate::sys::{clock, limits, users};
use crate::tls::Store;
use crate::words::counted;

/// Connections of proxies, relays and clients, and some to spare.
const OPEN_FILES: u64 = 4096;

/// How long backends may take for the last records at the end; what is left is delivered after the next start.
const LAST_RECORDS: Duration = Duration::from_secs(3);

/// How often systemd is told how many calls there are.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// A dispatcher with its sockets in the runtime directory.
struct Local {
    running: Running,
    accounting: Option<Arc<Accounting>>,
    runtime_dir: PathBuf,
}

/// All of `main`.
pub fn main(program: &Program) -> ExitCode {
    let options = match cli::options(program) {
        Ok(options) => options,
        Err(status) => return status,
    };
    let examine = |config: &DispatcherConfig| accounting::backends(config).map(drop);
    let level = |config: &DispatcherConfig| config.log_level.filter();
    let begin = |options: &Options, config: &_| {
        let (running, accounting) = start(options, config)?;
        Ok(Local {
            running,
            accounting,
            runtime_dir: options.runtime_dir.clone(),
        })
    };
    daemon::run(
        program,
        &options,
        config::load_dispatcher,
        examine,
        level,
        begin,
    )
}

type Started = (Running, Option<Arc<Accounting>>);

fn start(options: &Options, config: &DispatcherConfig) -> Result<Started, StartError> {
    match limits::raise_open_files(OPEN_FILES) {
        Ok(limit) if limit < OPEN_FILES => {
            log::warn!("no more than {limit} open files are allowed, {OPEN_FILES} would be wanted");
        }
        Ok(_) => {}
        Err(error) => log::warn!("the limit of open files cannot be read: {error}"),
    }
    let certs = &config.tls.certs_path;
    let store = Store::open(certs, "dispatcher")
        .map_err(|error| StartError::unusable(error.explain(certs, "dispatcher")))?;
    let group = socket_group(&config.socket_group)?;
    let settings = Settings::new(config, &options.runtime_dir, group);
    let socket = settings.socket_path.display().to_string();
    process::note_start();
    let listener = config.listen_metrics.map(metrics::listen).transpose()?;
    let (opensips, kamailio) = (&config.opensips.socket, &config.kamailio.socket);
    let access = (config.socket_mode, group);
    let enders = Enders::start(opensips, kamailio, &options.runtime_dir, access)?;
    let enders = Arc::new(enders);
    let accounting =
        start_accounting(config).inspect_err(|_| dialog::remove_sockets(&options.runtime_dir))?;
    let recorder = Recorder::open(accounting.clone(), Arc::clone(&enders), &config.state_dir)
        .inspect_err(|_| dialog::remove_sockets(&options.runtime_dir))?;
    let running = Dispatcher::start(settings, Arc::new(store), Arc::new(recorder))
        .inspect_err(|_| dialog::remove_sockets(&options.runtime_dir))?;
    enders.tell();
    running.set_enders(enders);
    if let Some(listener) = listener {
        running.serve_metrics(listener).inspect_err(|_| {
            running.stop();
            dialog::remove_sockets(&options.runtime_dir);
        })?;
    }
    log::info!(
        "ready: SIP proxy at {socket}, relays at {}, management at {}",
        running.relay_address,
        running.management_address
    );
    Ok((running, accounting))
}

/// Accounting, where any is wanted.
fn start_accounting(config: &DispatcherConfig) -> Result<Option<Arc<Accounting>>, StartError> {
    if config.accounting.is_empty() {
        return Ok(None);
    }
    let backends = accounting::backends(config).map_err(StartError::unusable)?;
    let settings = accounting::Settings {
        state_dir: config.state_dir.clone(),
        journal_limit: config.journal_limit,
    };
    Ok(Some(Accounting::start(&settings, backends)?))
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

impl Local {
    /// One line on how it goes; a backend that is down belongs to it.
    fn status(&self) -> String {
        let mut status = self.running.status();
        let accounting = self.accounting.iter();
        let progress = accounting.flat_map(|accounting| accounting.progress());
        for backend in progress.filter(|backend| backend.is_down()) {
            let (waiting, name) = (backend.waiting(), backend.name());
            status.push_str(&format!(
                ", {} queued for {name}",
                counted(waiting, "record")
            ));
        }
        status
    }
}

impl Daemon for Local {
    fn serve(&self, process: &Process, signals: &SignalWaiter) {
        let mut shown = None;
        let mut watchdog = Watchdog::new(process);
        loop {
            watchdog.look(|| self.running.examine());
            let status = self.status();
            if shown.as_ref() != Some(&status) {
                process.status(&status);
                shown = Some(status);
            }
            match signals.wait_for(watchdog.limit(STATUS_INTERVAL)) {
                None => {}
                Some(Signal::Hangup) => self.running.reload(),
                Some(Signal::User1) => {
                    daemon::toggle_debug();
                }
                Some(Signal::User2) => log::info!("USR2: nothing to do in a dispatcher"),
                Some(signal @ (Signal::Interrupt | Signal::Terminate | Signal::Quit)) => {
                    log::info!("{signal:?}: ending");
                    return;
                }
            }
        }
    }

    fn stop(self) {
        self.running.stop();
        if let Some(accounting) = &self.accounting {
            accounting.stop(clock::moment() + LAST_RECORDS);
        }
        dialog::remove_sockets(&self.runtime_dir);
    }
}
