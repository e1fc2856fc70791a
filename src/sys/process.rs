//! A daemon's life as a process: into the background, ready, stopping, gone.
//!
//! ```text
//!  start ──> ready ──> status* ──> stopping ──> drop
//!    └─────> failed
//! ```
//!
//! In the background, the command that started the daemon ends with status 0 when it is ready, and with 1 and
//! the reason when it is not: the reason travels over a socket between the two.

use std::fmt;
use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::fork::{self, Child, Forked};
use super::notify::{self, Notifier};
use super::pid_file::PidFile;
use super::signals::SignalWaiter;

/// First byte of what the daemon tells the command that started it.
const READY: u8 = b'R';
const FAILED: u8 = b'F';
/// A longer reason is cut.
const LONGEST_REASON: u64 = 64 * 1024;

/// How the daemon runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A process of its own, with a pid file.
    Background,
    /// In the terminal.
    Foreground,
    /// In the foreground, for systemd to watch.
    Systemd,
}

/// Why the process cannot run that way.
#[derive(Debug)]
pub struct StartError {
    text: String,
    /// Another instance runs: nobody is helped by another attempt.
    pub is_taken: bool,
}

impl From<String> for StartError {
    fn from(text: String) -> StartError {
        let is_taken = false;
        StartError { text, is_taken }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for StartError {}

fn failure<'a>(what: impl fmt::Display + 'a) -> impl FnOnce(io::Error) -> StartError + 'a {
    move |error| format!("{what}: {error}").into()
}

/// The running daemon. Dropping it removes the pid file.
pub struct Process {
    name: &'static str,
    supervisor: Supervisor,
    pid_file: Option<PidFile>,
}

/// Who wants to know how it goes.
enum Supervisor {
    /// The command that started us, until it was told.
    Command(Option<UnixStream>),
    Terminal,
    Systemd(Option<Notifier>),
}

/// Makes this process the daemon `name`: the runtime directory exists, signals are held for the waiter, and in
/// the background this is a child without a terminal, and the parent never returns. To be called while there
/// is one thread and before logging starts.
///
/// # Errors
/// In words for the administrator. One is another instance with the same runtime directory in the background.
pub fn start(
    mode: Mode,
    runtime_dir: &Path,
    name: &'static str,
) -> Result<(Process, SignalWaiter), StartError> {
    create_runtime_dir(runtime_dir)?;
    let (supervisor, pid_file) = match mode {
        Mode::Background => {
            let path = runtime_dir.join(format!("{name}.pid"));
            let pid_file = PidFile::lock(&path).map_err(|error| match error.kind() {
                io::ErrorKind::AddrInUse => StartError {
                    text: error.to_string(),
                    is_taken: true,
                },
                _ => failure(path.display())(error),
            })?;
            let (parent, pid_file) =
                into_background(pid_file, name).map_err(failure("cannot run in the background"))?;
            (Supervisor::Command(Some(parent)), Some(pid_file))
        }
        Mode::Foreground => (Supervisor::Terminal, None),
        Mode::Systemd => {
            let notifier = Notifier::from_environment().map_err(failure("systemd"))?;
            (Supervisor::Systemd(notifier), None)
        }
    };
    let process = Process {
        name,
        supervisor,
        pid_file,
    };
    Ok((process, SignalWaiter::block()))
}

impl Process {
    /// All is set up: the command that started the daemon may end, systemd may start what comes after it.
    ///
    /// # Errors
    /// The command was ended before that, so that nobody would know of a daemon; the pid file cannot be
    /// written.
    pub fn ready(&mut self) -> io::Result<()> {
        match &mut self.supervisor {
            Supervisor::Command(parent) => {
                if let Some(mut parent) = parent.take() {
                    parent.write_all(&[READY])?;
                    fork::close_stderr()?;
                }
                Ok(())
            }
            Supervisor::Terminal | Supervisor::Systemd(None) => Ok(()),
            Supervisor::Systemd(Some(notifier)) => notifier.ready(),
        }
    }

    /// The daemon cannot start, or cannot go on. The reason, of one or more lines, is logged where logging has
    /// started, else written to the terminal; a command that waits for the daemon shows it. Returns what `main`
    /// returns, which is this exit status for both.
    pub fn failed(mut self, reason: &str, status: u8) -> ExitCode {
        if log::max_level() > log::LevelFilter::Off {
            for line in reason.lines() {
                log::error!("{line}");
            }
        } else if !matches!(self.supervisor, Supervisor::Command(_)) {
            eprintln!("{}: {reason}", self.name);
        }
        if let Supervisor::Command(Some(parent)) = &mut self.supervisor {
            // Where nobody waits any more, the log has it.
            let _ = parent.write_all(&[&[FAILED, status], reason.as_bytes()].concat());
        }
        ExitCode::from(status)
    }

    /// One line for `systemctl status`; elsewhere nothing.
    pub fn status(&self, text: &str) {
        if let Supervisor::Systemd(Some(notifier)) = &self.supervisor {
            tell(notifier.status(text));
        }
    }

    /// How long systemd waits to hear of [`Process::well`]; none where nobody waits.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        match &self.supervisor {
            Supervisor::Systemd(Some(_)) => notify::watchdog_interval(),
            _ => None,
        }
    }

    /// The daemon does what it is for.
    pub fn well(&self) {
        if let Supervisor::Systemd(Some(notifier)) = &self.supervisor {
            tell(notifier.well());
        }
    }

    /// The daemon ends in good order.
    pub fn stopping(&self) {
        if let Supervisor::Systemd(Some(notifier)) = &self.supervisor {
            tell(notifier.stopping());
        }
    }

    /// Whether there is a pid file; it is removed at the end.
    pub fn has_pid_file(&self) -> bool {
        self.pid_file.is_some()
    }
}

/// A service manager that cannot be told is no reason to stop relaying.
fn tell(result: io::Result<()>) {
    if let Err(error) = result {
        log::debug!("systemd cannot be told: {error}");
    }
}

/// Goes on as the child; the parent waits for news and ends here.
fn into_background(mut pid_file: PidFile, name: &'static str) -> io::Result<(UnixStream, PidFile)> {
    let (ours, parents) = UnixStream::pair()?;
    match fork::fork()? {
        Forked::Parent(child) => {
            drop(ours);
            std::process::exit(wait_for_news(parents, child, name));
        }
        Forked::Child => {
            drop(parents);
            let mut to_parent = &ours;
            if let Err(error) = fork::detach().and_then(|()| pid_file.write()) {
                let reason = format!("cannot run in the background: {error}");
                let _ = to_parent.write_all(&[&[FAILED, 1], reason.as_bytes()].concat());
                drop(pid_file);
                std::process::exit(1);
            }
            Ok((ours, pid_file))
        }
    }
}

/// What the waiting command ends with.
fn wait_for_news(news: UnixStream, child: Child, name: &str) -> i32 {
    let mut message = Vec::new();
    // A connection that breaks tells as much as one that ends.
    let _ = news.take(LONGEST_REASON).read_to_end(&mut message);
    let mut status = 1;
    let reason = match message.as_slice() {
        [READY, ..] => return 0,
        [_, told, reason @ ..] => {
            // After this, the next attempt finds nothing of this one.
            let _ = child.wait();
            status = i32::from(*told);
            String::from_utf8_lossy(reason).into_owned()
        }
        _ => match child.wait() {
            Ok(status) => format!("ended before it was ready ({status})"),
            Err(error) => format!("ended before it was ready ({error})"),
        },
    };
    eprintln!("{name}: {reason}");
    status
}

fn create_runtime_dir(path: &Path) -> Result<(), StartError> {
    let what = format!("runtime directory {}", path.display());
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => return Err(format!("{what}: is not a directory").into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failure(what)(error)),
    }
    // The SIP proxy must get at its socket in there, whatever the umask is.
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o755)))
        .map_err(failure(format!("{what}: cannot be created")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::scratch::Scratch;

    #[test]
    fn runtime_directory() {
        let dir = Scratch::new("process");
        let deep = dir.path().join("a/b");
        create_runtime_dir(&deep).unwrap();
        assert_eq!(
            fs::metadata(&deep).unwrap().permissions().mode() & 0o777,
            0o755
        );
        fs::set_permissions(&deep, Permissions::from_mode(0o700)).unwrap();
        create_runtime_dir(&deep).unwrap();
        assert_eq!(
            fs::metadata(&deep).unwrap().permissions().mode() & 0o777,
            0o700
        );

        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let message = |path: &Path| create_runtime_dir(path).unwrap_err().to_string();
        assert_eq!(
            message(&file),
            format!("runtime directory {}: is not a directory", file.display())
        );
        assert!(message(&file.join("x")).contains("Not a directory"));
    }

    #[test]
    fn the_foreground_has_no_pid_file() {
        let dir = Scratch::new("process");
        let (mut process, _) = start(Mode::Foreground, dir.path(), "test-daemon").unwrap();
        process.ready().unwrap();
        process.status("fine");
        process.stopping();
        assert!(!process.has_pid_file());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
