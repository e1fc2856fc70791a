//! The relay as a process: how it starts, its signals, its end.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use log::info;

use super::{Running, Settings, checks, start};
use crate::cli::{self, Program};
use crate::config::{self, RelayConfig};
use crate::daemon::{self, Daemon};
use crate::sys::process::Process;
use crate::sys::signals::{Signal, SignalWaiter};
use crate::tls::Store;

/// How often systemd is told how many calls there are.
const STATUS: Duration = Duration::from_secs(10);

/// How often a draining relay looks whether its last call is over.
const DRAINING: Duration = Duration::from_millis(100);

/// All of `main`.
pub fn main(program: &Program) -> ExitCode {
    let options = match cli::options(program) {
        Ok(options) => options,
        Err(status) => return status,
    };
    if options.check {
        return checks::main(&options);
    }
    let level = |config: &RelayConfig| config.log_level.filter();
    let begin = |_: &_, config: &_| begin(config);
    daemon::run(program, &options, config::load_relay, level, begin)
}

fn begin(config: &RelayConfig) -> Result<Running, String> {
    let store = Store::open(&config.tls.certs_path, "relay").map_err(|error| error.to_string())?;
    start(Settings::from(config), Arc::new(store))
}

impl Daemon for Running {
    /// Until a signal says to end, or a draining relay has nothing left to do.
    fn serve(&self, process: &Process, signals: &SignalWaiter) {
        let mut is_draining = false;
        let mut shown = None;
        loop {
            if is_draining && self.is_drained() {
                info!("drained: the last call is over");
                return;
            }
            let status = status(self.sessions(), is_draining);
            if shown.as_ref() != Some(&status) {
                process.status(&status);
                shown = Some(status);
            }
            let signal = signals.wait_for(if is_draining { DRAINING } else { STATUS });
            match signal {
                None => {}
                Some(Signal::Hangup) => {
                    self.drain();
                    is_draining = true;
                    let count = self.sessions();
                    info!("HUP: no new calls from now on; ends when the last of {count} is over");
                }
                Some(Signal::User1) => {
                    daemon::toggle_debug();
                }
                Some(Signal::Interrupt | Signal::Terminate) => {
                    let count = self.sessions();
                    info!("ending with {count} calls");
                    return;
                }
            }
        }
    }

    fn stop(self) {
        Running::stop(&self);
    }
}

fn status(sessions: usize, is_draining: bool) -> String {
    if is_draining {
        format!("draining, {sessions} calls left")
    } else {
        format!("{sessions} calls")
    }
}
