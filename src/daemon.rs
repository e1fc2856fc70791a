//! What both daemons are as processes: the configuration, the start in the wanted mode, signals,
//! the end. What they do in between is `relay`'s and `dispatcher`'s.

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use log::{LevelFilter, info, warn};

use crate::cli::{Options, Program};
use crate::config::{ConfigError, Loaded};
use crate::logging;
use crate::sys::process::{self, Process};
use crate::sys::signals::{Signal, SignalWaiter};

/// How often the end looks for a second signal.
const ENDING: Duration = Duration::from_millis(10);

/// A daemon at work.
pub trait Daemon: Send + 'static {
    /// Acts on signals until it is to end.
    fn serve(&self, process: &Process, signals: &SignalWaiter);

    /// Ends in good order.
    fn stop(self);
}

/// Runs a daemon to its end: `load` reads its configuration, `level` is the log level in it, `start` begins its
/// work or says why it cannot. Returns what `main` returns: 0 after a clean end, 1 when it could not start; why is
/// said by then.
pub fn run<C, D: Daemon>(
    program: &Program,
    options: &Options,
    load: impl FnOnce(&std::path::Path) -> Result<Loaded<C>, ConfigError>,
    level: impl FnOnce(&C) -> LevelFilter,
    start: impl FnOnce(&Options, &C) -> Result<D, String>,
) -> ExitCode {
    let loaded = match load(&options.config_dir) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    if options.check_config {
        loaded.warnings.iter().for_each(|text| eprintln!("{text}"));
        println!("{}: can be used", loaded.path.display());
        return ExitCode::SUCCESS;
    }
    let level = match options.debug {
        true => LevelFilter::Debug,
        false => level(&loaded.config),
    };
    live(program.name, options, &loaded, level, start)
}

fn live<C, D: Daemon>(
    name: &'static str,
    options: &Options,
    loaded: &Loaded<C>,
    level: LevelFilter,
    start: impl FnOnce(&Options, &C) -> Result<D, String>,
) -> ExitCode {
    let (mut process, signals) = match process::start(options.mode, &options.runtime_dir, name) {
        Ok(started) => started,
        Err(error) => {
            eprintln!("{name}: {error}");
            return ExitCode::FAILURE;
        }
    };
    logging::start(options.mode, name, level);
    let (version, path) = (env!("CARGO_PKG_VERSION"), loaded.path.display());
    info!("{name} {version} with {path}");
    loaded.warnings.iter().for_each(|text| warn!("{text}"));
    let daemon = match start(options, &loaded.config) {
        Ok(daemon) => daemon,
        Err(reason) => return process.failed(&reason),
    };
    if let Err(error) = process.ready() {
        daemon.stop();
        return process.failed(&format!("cannot say that it is ready: {error}"));
    }
    daemon.serve(&process, &signals);
    process.stopping();
    stop(&signals, daemon);
    info!("{name} has ended");
    ExitCode::SUCCESS
}

/// A second signal ends at once.
fn stop(signals: &SignalWaiter, daemon: impl Daemon) {
    let stopping = thread::spawn(move || daemon.stop());
    while !stopping.is_finished() {
        let again = signals.wait_for(ENDING);
        if matches!(again, Some(Signal::Interrupt | Signal::Terminate)) {
            warn!("a second signal: ended at once");
            return;
        }
    }
}

/// What USR1 does in both.
pub fn toggle_debug() {
    let on = logging::toggle_debug();
    info!("debug lines are {}", if on { "on" } else { "off" });
}
