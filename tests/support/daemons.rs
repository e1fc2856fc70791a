//! Both daemons as an administrator starts them: certificates, config.ini, own directories and free ports in a
//! scratch directory, everything on loopback and without root. Shared by the demo, its test and the bench.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use super::management;
use super::ports::{PortRange, free_tcp_port};

/// Longest wait for a daemon to start or to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often that is looked at.
const STEP: Duration = Duration::from_millis(20);

/// Makes a CA, a revocation list and both certificates in `DIRECTORY/tls`.
pub fn make_certificates(directory: &Path) -> Result<(), String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tls/make-certs.sh");
    let made = Command::new(&script)
        .args(["--key", "ec", "--org", "MediaProxy demo", "--days", "1"])
        .arg(directory.join("tls"))
        .arg("all")
        .output()
        .map_err(|error| format!("{}: {error}", script.display()))?;
    if !made.status.success() {
        let why = String::from_utf8_lossy(&made.stderr).into_owned();
        return Err(format!("{} failed: {why}", script.display()));
    }
    Ok(())
}

/// The configuration of both daemons for calls on this host.
pub fn write_config(directory: &Path, ports: PortRange) -> Result<(), String> {
    let (link, management) = (free_tcp_port()?, free_tcp_port()?);
    let PortRange { start, end } = ports;
    let state = directory.join("state");
    let state = state.display();
    let text = format!(
        "; Written for one run. conf/config.ini explains every key.\n\
         [TLS]\n\
         certs_path = tls\n\
         \n\
         [Relay]\n\
         dispatchers = 127.0.0.1:{link}\n\
         reconnect_delay = 1\n\
         relay_ip = 127.0.0.1\n\
         port_range = {start}:{end}\n\
         state_dir = {state}\n\
         ; A relay does not send to private addresses only because an SDP names them: it waits until the\n\
         ; party has sent and so shown where it is. Here everybody is on loopback and can be reached at once,\n\
         ; so that the very first packet of each party already has somewhere to go.\n\
         routable_private_ranges = 127.0.0.0/8\n\
         forwarding = userspace\n\
         traffic_sampling_period = 2\n\
         log_level = INFO\n\
         \n\
         [Dispatcher]\n\
         socket_path = dispatcher.sock\n\
         listen = 127.0.0.1:{link}\n\
         listen_management = 127.0.0.1:{management}\n\
         management_use_tls = no\n\
         state_dir = {state}\n\
         log_level = INFO\n"
    );
    let path = directory.join("config.ini");
    let told = |error: io::Error| format!("{}: {error}", path.display());
    fs::create_dir_all(directory.join("state")).map_err(told)?;
    fs::create_dir_all(directory.join("run")).map_err(told)?;
    fs::write(&path, text).map_err(told)
}

/// Adds lines to the configuration; a section that is there already goes on.
pub fn extend_config(directory: &Path, lines: &str) -> Result<(), String> {
    let path = directory.join("config.ini");
    let file = OpenOptions::new().append(true).open(&path);
    file.and_then(|mut file| writeln!(file, "{lines}"))
        .map_err(|error| format!("{}: {error}", path.display()))
}

/// One daemon that was started here. Killed when dropped without [`Daemon::stop`].
pub struct Daemon {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `BINARIES/NAME --no-fork` with the configuration in `directory`; it logs to `DIRECTORY/NAME.log`.
    pub fn start(binaries: &Path, name: &'static str, directory: &Path) -> Result<Daemon, String> {
        let program = binaries.join(name);
        let log = directory.join(format!("{name}.log"));
        let output = File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
        let copy = output
            .try_clone()
            .map_err(|error| format!("{}: {error}", log.display()))?;
        let child = Command::new(&program)
            .arg("--no-fork")
            .arg("--config-dir")
            .arg(directory)
            .arg("--runtime-dir")
            .arg(directory.join("run"))
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(copy)
            // Ctrl-C is for us; we end the daemons ourselves.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        Ok(Daemon { name, child, log })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error with the end of its log where it has ended by itself.
    pub fn check(&mut self) -> Result<(), String> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.ended(status)),
            Err(error) => Err(format!("{}: {error}", self.name)),
        }
    }

    /// Asks it to end (TERM) and waits. An error where it does not, or not with exit status 0.
    pub fn stop(mut self) -> Result<(), String> {
        signal(self.child.id(), "TERM")?;
        let mut waited = Duration::ZERO;
        while waited < PATIENCE {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(self.ended(status)),
                Ok(None) => thread::sleep(STEP),
                Err(error) => return Err(format!("{}: {error}", self.name)),
            }
            waited += STEP;
        }
        let seconds = PATIENCE.as_secs();
        Err(format!(
            "{} did not end within {seconds} s of TERM",
            self.name
        ))
    }

    fn ended(&self, status: ExitStatus) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let end = &lines[lines.len().saturating_sub(15)..];
        format!("{} ended ({status}):\n  {}", self.name, end.join("\n  "))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Sends a signal to a process that we started, by the shell's own `kill`.
pub fn signal(pid: u32, name: &str) -> Result<(), String> {
    let command = format!("kill -{name} {pid}");
    match Command::new("/bin/sh").args(["-c", &command]).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{command}: {status}")),
        Err(error) => Err(format!("{command}: {error}")),
    }
}

/// Waits for a condition; `otherwise` is what holds where it is never met.
fn until(otherwise: &str, mut is_met: impl FnMut() -> Result<bool, String>) -> Result<(), String> {
    let mut waited = Duration::ZERO;
    while !is_met()? {
        if waited >= PATIENCE {
            return Err(format!("{otherwise} after {} s", PATIENCE.as_secs()));
        }
        thread::sleep(STEP);
        waited += STEP;
    }
    Ok(())
}

/// A dispatcher and a relay that has found it.
pub struct Daemons {
    pub dispatcher: Daemon,
    pub relay: Daemon,
    runtime: PathBuf,
}

impl Daemons {
    /// Starts both with the configuration in `directory` and waits until the relay is listed.
    pub fn start(binaries: &Path, directory: &Path) -> Result<Daemons, String> {
        let runtime = directory.join("run");
        let mut dispatcher = Daemon::start(binaries, "media-dispatcher", directory)?;
        // The last that it listens on: a relay that came earlier would wait and try again.
        let socket = runtime.join("dispatcher.sock");
        until("the dispatcher does not listen", || {
            dispatcher.check().map(|()| socket.exists())
        })?;
        let relay = Daemon::start(binaries, "media-relay", directory)?;
        let mut daemons = Daemons {
            dispatcher,
            relay,
            runtime,
        };
        until("the relay has not found the dispatcher", || {
            daemons.check().map(|()| daemons.is_ready())
        })?;
        Ok(daemons)
    }

    /// An error with the end of its log where one of them has ended by itself.
    pub fn check(&mut self) -> Result<(), String> {
        self.dispatcher.check()?;
        self.relay.check()
    }

    fn is_ready(&self) -> bool {
        let summary = management::ask(&self.management_socket(), "summary");
        summary.is_ok_and(|lines| lines.iter().any(|line| line.contains("\"active\"")))
    }

    /// Where the SIP proxy connects.
    pub fn control_socket(&self) -> PathBuf {
        self.runtime.join("dispatcher.sock")
    }

    pub fn management_socket(&self) -> PathBuf {
        self.runtime.join("management.sock")
    }

    /// Ends both, the relay first, so that it can still report.
    pub fn stop(self) -> Result<(), String> {
        let relay = self.relay.stop();
        let dispatcher = self.dispatcher.stop();
        relay.and(dispatcher)
    }
}
