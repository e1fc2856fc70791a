//! What both daemons are as processes: the configuration, the start in the wanted mode, signals,
//! the end. What they do in between is `relay`'s and `dispatcher`'s.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use log::{LevelFilter, error, info, warn};

use crate::cli::{Options, Program};
use crate::config::{ConfigError, Loaded};
use crate::logging;
use crate::moment::Moment;
use crate::sys::clock;
use crate::sys::memory;
use crate::sys::process::{self, Process};
use crate::sys::signals::{Signal, SignalWaiter};

/// How often the end looks for a second signal.
const ENDING: Duration = Duration::from_millis(10);

/// How long the last lines may take to reach the log.
const LOGGED: Duration = Duration::from_secs(1);

/// Exit status where configuration or certificates have to be mended first: EX_CONFIG of sysexits(3). A service
/// manager has no use for another attempt.
const UNUSABLE: u8 = 78;

/// Exit status where another attempt may do: an address or port that is not to be had at the moment.
const FAILED: u8 = 1;

/// Systemd hears of a daemon so often in each watchdog interval.
const HEARD: u32 = 4;

/// A daemon at work.
pub trait Daemon: Send + 'static {
    /// Acts on signals until it is to end.
    fn serve(&self, process: &Process, signals: &SignalWaiter);

    /// Ends in good order.
    fn stop(self);
}

/// Why a daemon cannot start.
#[derive(Debug)]
pub struct StartError {
    pub reason: String,
    status: u8,
}

impl StartError {
    /// Something that an administrator has to mend.
    pub fn unusable(reason: impl ToString) -> StartError {
        let reason = reason.to_string();
        let status = UNUSABLE;
        StartError { reason, status }
    }
}

/// Something that may pass.
impl From<String> for StartError {
    fn from(reason: String) -> StartError {
        let status = FAILED;
        StartError { reason, status }
    }
}

/// Runs a daemon to its end: `load` reads its configuration, `examine` the files that are named in it, for a check;
/// `level` is the log level in it, `start` begins its work or says why it cannot. Returns what `main` returns: 0 after a
/// clean end, 1 when it could not start, 78 when it cannot before configuration, files that it names or certificates are
/// mended; why is said by then. A check ends with 0 or 1.
pub fn run<C, D: Daemon>(
    program: &Program,
    options: &Options,
    load: impl FnOnce(&std::path::Path) -> Result<Loaded<C>, ConfigError>,
    examine: impl FnOnce(&C) -> Result<(), String>,
    level: impl FnOnce(&C) -> LevelFilter,
    start: impl FnOnce(&Options, &C) -> Result<D, StartError>,
) -> ExitCode {
    let loaded = match load(&options.config_dir) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("{error}");
            let status = if options.check_config {
                FAILED
            } else {
                UNUSABLE
            };
            return ExitCode::from(status);
        }
    };
    if options.check_config {
        loaded.warnings.iter().for_each(|text| eprintln!("{text}"));
        if let Err(reason) = examine(&loaded.config) {
            eprintln!("{reason}");
            return ExitCode::from(FAILED);
        }
        println!("{}: can be used", loaded.path.display());
        return ExitCode::SUCCESS;
    }
    let level = if options.debug {
        LevelFilter::Debug
    } else {
        level(&loaded.config)
    };
    live(program.name, options, &loaded, level, start)
}

fn live<C, D: Daemon>(
    name: &'static str,
    options: &Options,
    loaded: &Loaded<C>,
    level: LevelFilter,
    start: impl FnOnce(&Options, &C) -> Result<D, StartError>,
) -> ExitCode {
    memory::return_large_buffers();
    let (process, signals) = match process::start(options.mode, &options.runtime_dir, name) {
        Ok(started) => started,
        Err(error) => {
            eprintln!("{name}: {error}");
            return ExitCode::from(if error.is_taken { UNUSABLE } else { FAILED });
        }
    };
    if let Err(error) = logging::start(options.mode, name, level) {
        return process.failed(&format!("the thread that logs: {error}"), FAILED);
    }
    let status = work(name, options, loaded, process, &signals, start);
    logging::flush(LOGGED);
    status
}

fn work<C, D: Daemon>(
    name: &'static str,
    options: &Options,
    loaded: &Loaded<C>,
    mut process: Process,
    signals: &SignalWaiter,
    start: impl FnOnce(&Options, &C) -> Result<D, StartError>,
) -> ExitCode {
    let (version, path) = (env!("CARGO_PKG_VERSION"), loaded.path.display());
    info!("{name} {version} with {path}");
    loaded.warnings.iter().for_each(|text| warn!("{text}"));
    let daemon = match start(options, &loaded.config) {
        Ok(daemon) => daemon,
        Err(StartError { reason, status }) => return process.failed(&reason, status),
    };
    if let Err(error) = process.ready() {
        daemon.stop();
        return process.failed(&format!("cannot say that it is ready: {error}"), FAILED);
    }
    daemon.serve(&process, signals);
    process.stopping();
    stop(signals, daemon);
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

/// Tells systemd that the daemon is well, for as long as it is: one that is not is ended and started again.
pub struct Watchdog<'a> {
    process: &'a Process,
    /// None where systemd does not watch.
    period: Option<Duration>,
    due: Moment,
    is_ill: bool,
}

impl Watchdog<'_> {
    pub fn new(process: &Process) -> Watchdog<'_> {
        Watchdog {
            process,
            period: process.watchdog_interval().map(|all| all / HEARD),
            due: clock::moment(),
            is_ill: false,
        }
    }

    /// How long the daemon may wait for something else, this time at most.
    pub fn limit(&self, longest: Duration) -> Duration {
        match self.period {
            Some(_) => longest.min(self.due.since(clock::moment())),
            None => longest,
        }
    }

    /// When it is time to, has the daemon looked at, and says that it is well, or logs why it is not.
    pub fn look(&mut self, examine: impl FnOnce() -> Result<(), String>) {
        let Some(period) = self.period.filter(|_| clock::moment() >= self.due) else {
            return;
        };
        match examine() {
            Ok(()) => {
                self.process.well();
                if std::mem::take(&mut self.is_ill) {
                    info!("watchdog: all threads answer again");
                }
            }
            Err(why) => {
                self.is_ill = true;
                error!("watchdog: {why}; systemd will start the daemon again if this goes on");
            }
        }
        self.due = clock::moment() + period;
    }
}

/// Shows that a thread goes round its loop.
#[derive(Debug)]
pub struct Pulse {
    rounds: AtomicU64,
    /// The rounds when it was last felt; no number of rounds before that.
    felt: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Pulse {
        let (rounds, felt) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
        Pulse { rounds, felt }
    }
}

impl Pulse {
    /// The thread has gone round once more.
    pub fn beat(&self) {
        self.rounds.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the thread has gone round since it was last asked; if so it is asked again by `wake`, which makes one
    /// go round that has nothing to do. For one caller.
    pub fn feel(&self, wake: impl FnOnce()) -> bool {
        let rounds = self.rounds.load(Ordering::Relaxed);
        if self.felt.swap(rounds, Ordering::Relaxed) == rounds {
            return false;
        }
        wake();
        true
    }
}

/// What USR1 does in both.
pub fn toggle_debug() {
    let on = logging::toggle_debug();
    info!("debug lines are {}", if on { "on" } else { "off" });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_stands_still_has_no_pulse() {
        let pulse = Pulse::default();
        let mut woken = 0;
        let mut feel = || pulse.feel(|| woken += 1);
        assert!(feel(), "nobody has asked yet");
        assert!(!feel() && !feel());
        pulse.beat();
        assert!(feel());
        assert!(!feel());
        assert_eq!(
            woken, 2,
            "a thread that does not answer gets no more questions"
        );
    }
}
