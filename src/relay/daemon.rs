//! The relay as a process: how it starts, its signals, its end.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use log::info;

use super::message::Message;
use super::{Running, Settings, start};
use crate::cli::{self, Options, Program};
use crate::config::{self, RelayConfig};
use crate::daemon::{self, Daemon, StartError, Watchdog};
use crate::diagnosis::check;
use crate::metrics::{self, process};
use crate::sys::process::Process;
use crate::sys::signals::{Signal, SignalWaiter};
use crate::tls::Store;
use crate::words::counted;

/// How often systemd is told how many calls there are.
const STATUS: Duration = Duration::from_secs(10);

/// How often a relay that is to end looks whether its last call is over.
const DRAINING: Duration = Duration::from_millis(100);

/// All of `main`.
pub fn main(program: &Program) -> ExitCode {
    let options = match cli::options(program) {
        Ok(options) => options,
        Err(status) => return status,
    };
    if options.check {
        return check::main(&options);
    }
    let examine = |_: &RelayConfig| Ok(());
    let level = |config: &RelayConfig| config.log_level.filter();
    daemon::run(program, &options, config::load_relay, examine, level, begin)
}

fn begin(options: &Options, config: &RelayConfig) -> Result<Running, StartError> {
    let settings = Settings::new(config, &options.runtime_dir);
    let lock = super::lock(&settings)?;
    let certs = &config.tls.certs_path;
    let store = Store::open(certs, "relay")
        .map_err(|error| StartError::unusable(error.explain(certs, "relay")))?;
    process::note_start();
    let listener = config.listen_metrics.map(metrics::listen).transpose()?;
    let running = start(settings, Arc::new(store), lock)?;
    if let Some(listener) = listener {
        running
            .serve_metrics(listener)
            .inspect_err(|_| Running::stop(&running))?;
    }
    Ok(running)
}

/// How long the relay is to go on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Course {
    /// Until it is told otherwise.
    On,
    /// Until there is no call; new ones are taken until then.
    UntilIdle,
    /// Until the last call is over; new ones are refused.
    Draining,
}

impl Course {
    /// How long a signal may be waited for.
    fn patience(self) -> Duration {
        match self {
            Course::On => STATUS,
            Course::UntilIdle | Course::Draining => DRAINING,
        }
    }

    /// One line for the administrator.
    fn status(self, sessions: usize) -> String {
        match self {
            Course::On => format!("{sessions} calls"),
            Course::UntilIdle => format!("{sessions} calls, ends when there are none"),
            Course::Draining => format!("draining, {sessions} calls left"),
        }
    }
}

impl Running {
    /// Whether every thread that calls depend on has gone round its loop since this was last asked: the workers and
    /// the kernel thread. Threads that wait for peers are watched by the peers.
    ///
    /// # Errors
    /// Which one has not.
    pub(super) fn examine(&self) -> Result<(), String> {
        let shared = &self.shared;
        let mut still = Vec::new();
        for (index, counts) in shared.workers.all_counts().enumerate() {
            let nudge = || shared.workers.nudge(index, Message::Nudge);
            if !counts.pulse.feel(nudge) {
                still.push(format!("worker {index}"));
            }
        }
        if !shared.kernel.is_well() {
            still.push("the kernel thread".to_owned());
        }
        if still.is_empty() {
            Ok(())
        } else {
            Err(format!("no answer from {}", still.join(", ")))
        }
    }
}

impl Daemon for Running {
    /// Until a signal says to end, or a draining relay has nothing left to do.
    fn serve(&self, process: &Process, signals: &SignalWaiter) {
        let mut course = Course::On;
        let mut shown = None;
        let mut watchdog = Watchdog::new(process);
        loop {
            if course == Course::UntilIdle && self.sessions() == 0 {
                info!("no call at the moment: ends");
                self.drain();
                course = Course::Draining;
            }
            if course == Course::Draining && self.is_drained() {
                info!("drained: the last call is over");
                return;
            }
            watchdog.look(|| self.examine());
            let status = course.status(self.sessions());
            if shown.as_ref() != Some(&status) {
                process.status(&status);
                shown = Some(status);
            }
            let signal = signals.wait_for(watchdog.limit(course.patience()));
            match signal {
                None => {}
                Some(Signal::Hangup) => {
                    self.drain();
                    course = Course::Draining;
                    let count = self.sessions();
                    info!("HUP: no new calls from now on; ends when the last of {count} is over");
                }
                Some(Signal::User2) if course == Course::Draining => {}
                Some(Signal::User2) => {
                    course = Course::UntilIdle;
                    let count = self.sessions();
                    info!(
                        "USR2: ends as soon as there is no call; at the moment there are {count}"
                    );
                }
                Some(Signal::User1) => {
                    daemon::toggle_debug();
                }
                Some(Signal::Quit) if self.can_hand_over() => {
                    let (count, within) = (self.sessions(), self.shared.settings.adopt_within);
                    info!(
                        "QUIT: hands over {}: a relay that starts within {} s takes them over",
                        counted(count, "call"),
                        within.as_secs()
                    );
                    self.shared.is_handing_over.store(true, Ordering::Relaxed);
                    return;
                }
                Some(Signal::Interrupt | Signal::Terminate | Signal::Quit) => {
                    let count = self.sessions();
                    info!("ending with {count} calls");
                    return;
                }
            }
        }
    }

    fn stop(self) {
        if self.shared.is_handing_over.load(Ordering::Relaxed) {
            self.hand_over();
        } else {
            Running::stop(&self);
        }
    }
}
