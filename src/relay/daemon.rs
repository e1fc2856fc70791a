//! The relay as a process: from a configuration to a running daemon, its signals, its end.

use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use log::{LevelFilter, info, warn};

use super::{Running, Settings, start};
use crate::cli::Options;
use crate::config::{Loaded, RelayConfig};
use crate::logging;
use crate::sys::process::{self, Process};
use crate::sys::signals::{Signal, SignalWaiter};
use crate::tls::Store;

/// How often systemd is told how many calls there are.
const STATUS: Duration = Duration::from_secs(10);

/// How often a draining relay looks whether its last call is over.
const DRAINING: Duration = Duration::from_millis(100);

/// How often the end looks for a second signal.
const ENDING: Duration = Duration::from_millis(10);

/// Runs the daemon `name` to its end. Returns what `main` returns: 0 after a clean end, 1 when it could not
/// start; why is said by then.
pub fn run(name: &'static str, options: &Options, loaded: Loaded<RelayConfig>) -> ExitCode {
    let (mut process, signals) = match process::start(options.mode, &options.runtime_dir, name) {
        Ok(started) => started,
        Err(error) => {
            eprintln!("{name}: {error}");
            return ExitCode::FAILURE;
        }
    };
    let level = if options.debug {
        LevelFilter::Debug
    } else {
        loaded.config.log_level.filter()
    };
    logging::start(options.mode, name, level);
    let (version, path) = (env!("CARGO_PKG_VERSION"), loaded.path.display());
    info!("{name} {version} with {path}");
    loaded.warnings.iter().for_each(|text| warn!("{text}"));
    let running = match begin(&loaded.config) {
        Ok(running) => running,
        Err(reason) => return process.failed(&reason),
    };
    if let Err(error) = process.ready() {
        running.stop();
        return process.failed(&format!("cannot say that it is ready: {error}"));
    }
    serve(&process, &signals, &running);
    process.stopping();
    end(&signals, running);
    info!("{name} has ended");
    ExitCode::SUCCESS
}

fn begin(config: &RelayConfig) -> Result<Running, String> {
    let store = Store::open(&config.tls.certs_path, "relay").map_err(|error| error.to_string())?;
    start(Settings::from(config), Arc::new(store))
}

/// Acts on signals until one says to end, or a draining relay has nothing left to do.
fn serve(process: &Process, signals: &SignalWaiter, running: &Running) {
    let mut is_draining = false;
    let mut shown = None;
    loop {
        if is_draining && running.is_drained() {
            info!("drained: the last call is over");
            return;
        }
        let status = status(running.sessions(), is_draining);
        if shown.as_ref() != Some(&status) {
            process.status(&status);
            shown = Some(status);
        }
        let signal = signals.wait_for(if is_draining { DRAINING } else { STATUS });
        match signal {
            None => {}
            Some(Signal::Hangup) => {
                running.drain();
                is_draining = true;
                let count = running.sessions();
                info!("HUP: no new calls from now on; ends when the last of {count} is over");
            }
            Some(Signal::User1) => {
                let on = logging::toggle_debug();
                info!("debug lines are {}", if on { "on" } else { "off" });
            }
            Some(Signal::Interrupt | Signal::Terminate) => {
                let count = running.sessions();
                info!("ending with {count} calls");
                return;
            }
        }
    }
}

fn status(sessions: usize, is_draining: bool) -> String {
    if is_draining {
        format!("draining, {sessions} calls left")
    } else {
        format!("{sessions} calls")
    }
}

/// Ends in good order; a second signal ends at once.
fn end(signals: &SignalWaiter, running: Running) {
    let stopping = thread::spawn(move || running.stop());
    while !stopping.is_finished() {
        let again = signals.wait_for(ENDING);
        if matches!(again, Some(Signal::Interrupt | Signal::Terminate)) {
            warn!("a second signal: ended at once");
            return;
        }
    }
}
