//! Servers that accounting needs, for tests: Debian's own programs on ports and in directories of the test's own, gone with it.
//!
//! ```text
//!  let Some(mut server) = MariaDb::start() else { return };      prints why it is skipped
//!  server.uri()                     for [Database] dburi: an empty database of the user `media`
//!  server.sql("SELECT ...")         as the administrator; rows as lines, columns parted by tabs
//!  let lock = server.hold("LOCK ...");   another client, which stays until `lock` is dropped
//!  server.stop() kill() freeze() thaw() restart()
//! ```

mod certificates;
mod freeradius;
mod mariadb;
mod postgres;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use super::skip::skip;

pub use certificates::Certificates;
pub use freeradius::{Detail, FreeRadius, RADIUS_SECRET};
pub use mariadb::MariaDb;
pub use postgres::Postgres;

/// Of the user `media`, in its database. As it stands in a URI: [`URI_PASSWORD`].
pub const PASSWORD: &str = "s@cret pw";
pub const URI_PASSWORD: &str = "s%40cret%20pw";

/// Longest wait for a server to start or to end, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(30);

/// The first of these programs that is there; the reason to skip where none is.
fn find(names: &[&str]) -> Option<PathBuf> {
    let directories = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"];
    let mut paths = names
        .iter()
        .flat_map(|name| directories.map(|directory| Path::new(directory).join(name)));
    let found = paths.find(|path| path.exists());
    if found.is_none() {
        skip(&format!("{}: not installed", names[0]));
    }
    found
}

/// Waits until it is so.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let mut waited = Duration::ZERO;
    while !is_so() {
        assert!(waited < PATIENCE, "waited in vain for {what}");
        thread::sleep(STEP);
        waited += STEP;
    }
}

/// A client that has done its statements and stays, with what it has locked, until this is dropped.
pub struct Held(Child);

impl Held {
    fn new(mut client: Command, statements: &str) -> Held {
        client.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = client.spawn().unwrap();
        let input = child.stdin.as_mut().unwrap();
        writeln!(input, "{statements}").unwrap();
        Held(child)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // It ends at the end of its input.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// What all of them can be made to suffer.
pub trait Server {
    fn process(&self) -> &Process;

    fn process_mut(&mut self) -> &mut Process;

    /// An orderly end, as an administrator brings it about.
    fn stop(&mut self) {
        self.process_mut().end();
    }

    fn kill(&mut self) {
        self.process_mut().kill();
    }

    /// It answers nothing more; the kernel still takes connections and requests for it.
    fn freeze(&self) {
        self.process().signal_all("STOP");
    }

    fn thaw(&self) {
        self.process().signal_all("CONT");
    }
}

/// A server's process, restarted with the same command.
pub struct Process {
    command: Command,
    child: Option<Child>,
    log: PathBuf,
    /// The signal that asks it to end.
    orderly: &'static str,
}

impl Process {
    fn new(mut command: Command, log: PathBuf) -> Process {
        command.stdin(Stdio::null());
        Process {
            command,
            child: None,
            log,
            orderly: "TERM",
        }
    }

    /// Starts it and waits until `is_ready`.
    fn start(&mut self, is_ready: impl Fn() -> bool) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .unwrap();
        self.command.stdout(log.try_clone().unwrap()).stderr(log);
        let mut child = self.command.spawn().unwrap();
        let mut waited = Duration::ZERO;
        while !is_ready() {
            let ended = child.try_wait().unwrap();
            if ended.is_some() || waited > PATIENCE {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                let _ = child.kill();
                panic!("{:?} does not start ({ended:?}):\n{log}", self.command);
            }
            thread::sleep(STEP);
            waited += STEP;
        }
        self.child = Some(child);
    }

    /// It, and what it has forked.
    fn family(&self) -> Vec<u32> {
        let Some(child) = &self.child else {
            return Vec::new();
        };
        let pid = child.id();
        let path = format!("/proc/{pid}/task/{pid}/children");
        let children = fs::read_to_string(path).unwrap_or_default();
        let children = children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok());
        [pid].into_iter().chain(children).collect()
    }

    fn signal_all(&self, name: &str) {
        for pid in self.family() {
            signal(pid, name);
        }
    }

    /// Waits until it has ended.
    fn end(&mut self) {
        if let Some(child) = &mut self.child {
            signal(child.id(), self.orderly);
            let mut waited = Duration::ZERO;
            while child.try_wait().unwrap().is_none() {
                assert!(waited < PATIENCE, "{:?} does not end", self.command);
                thread::sleep(STEP);
                waited += STEP;
            }
        }
        self.child = None;
    }

    fn kill(&mut self) {
        let family = self.family();
        for &pid in &family {
            signal(pid, "KILL");
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
        // The others are not ours to wait for.
        let mut waited = Duration::ZERO;
        while family
            .iter()
            .any(|pid| Path::new(&format!("/proc/{pid}/stat")).exists())
        {
            if waited > PATIENCE {
                return;
            }
            thread::sleep(STEP);
            waited += STEP;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// By the shell's own `kill`; the process may be gone.
fn signal(pid: u32, name: &str) {
    let command = format!("kill -{name} {pid}");
    let _ = Command::new("/bin/sh")
        .args(["-c", &command])
        .stderr(Stdio::null())
        .status();
}
