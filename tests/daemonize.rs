//! Into the background and out again, with real processes: this program starts itself as the daemon.
//!
//! No harness: a fork needs a process with one thread. The daemon tells what it sees over a UNIX socket, whose end
//! is the daemon's end.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::Duration;

use log::LevelFilter;
use mediaproxy::logging;
use mediaproxy::sys::datagram::undisturbed;
use mediaproxy::sys::process::{self, Mode, Process};
use mediaproxy::sys::signals::{Signal, SignalWaiter};

const NAME: &str = "test-daemon";
const LIMIT: Duration = Duration::from_secs(20);

type Test = (&'static str, fn(&Bed));

const TESTS: &[Test] = &[
    ("ready", ready),
    ("second_instance", second_instance),
    ("stale_pid_file", stale_pid_file),
    ("failed", failed),
    ("dies_silently", dies_silently),
    ("dies_by_a_signal", dies_by_a_signal),
    ("panics", panics),
    ("has_threads", has_threads),
    ("command_is_ended", command_is_ended),
    ("no_runtime_directory", no_runtime_directory),
    ("systemd", systemd),
    ("foreground", foreground),
    ("journal", journal),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, role, dir] = arguments.as_slice() {
        if word == "daemon" {
            return daemon(role, Path::new(dir));
        }
    }
    let filters: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in TESTS {
        let wanted = filters.is_empty() || filters.iter().any(|filter| name.contains(*filter));
        if !wanted {
            continue;
        }
        let bed = Bed::new(name);
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&bed))) {
            Ok(()) => passed += 1,
            Err(_) => {
                println!("daemonize: {name} failed");
                failed += 1;
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    ExitCode::from(u8::from(failed > 0))
}

/// The daemon of a test, in the role that it names.
fn daemon(role: &str, dir: &Path) -> ExitCode {
    let mode = match role {
        "systemd" | "journal" => Mode::Systemd,
        "foreground" | "foreground_fails" => Mode::Foreground,
        _ => Mode::Background,
    };
    if role == "has_threads" {
        std::thread::spawn(std::thread::park);
    }
    let (process, signals) = match process::start(mode, &dir.join("run"), NAME) {
        Ok(started) => started,
        Err(error) => {
            eprintln!("{NAME}: {error}");
            return ExitCode::FAILURE;
        }
    };
    match role {
        "failed" | "foreground_fails" => process.failed("no certificates\nno sockets", 1),
        "dies_silently" => std::process::exit(7),
        "dies_by_a_signal" => {
            // SIGKILL leaves no core file.
            shell_kill("KILL", std::process::id());
            ExitCode::SUCCESS
        }
        "panics" => panic!("on purpose"),
        "journal" => log_much(&dir.join("news")),
        _ => serve(process, &signals, &dir.join("news")),
    }
}

fn serve(mut process: Process, signals: &SignalWaiter, news: &Path) -> ExitCode {
    let mut news = UnixStream::connect(news).unwrap();
    let link = |number: &str| fs::read_link(Path::new("/proc/self/fd").join(number)).unwrap();
    writeln!(news, "pid {}", std::process::id()).unwrap();
    writeln!(news, "cwd {}", std::env::current_dir().unwrap().display()).unwrap();
    writeln!(
        news,
        "in {} out {}",
        link("0").display(),
        link("1").display()
    )
    .unwrap();
    let mut go = String::new();
    BufReader::new(news.try_clone().unwrap())
        .read_line(&mut go)
        .unwrap();
    if let Err(error) = process.ready() {
        writeln!(news, "not ready: {}", error.kind()).unwrap();
        return process.failed("nobody waits", 1);
    }
    process.status("works");
    writeln!(news, "ready, err {}", link("2").display()).unwrap();
    loop {
        let signal = signals.wait();
        writeln!(news, "{signal:?}").unwrap();
        if signal == Signal::Terminate {
            process.stopping();
            // Before the socket closes, which the test takes for the end.
            drop(process);
            return ExitCode::SUCCESS;
        }
    }
}

/// More than a journal that does not read takes; more again when it has read.
fn log_much(news: &Path) -> ExitCode {
    logging::start(Mode::Systemd, NAME, LevelFilter::Info).unwrap();
    let mut news = UnixStream::connect(news).unwrap();
    log::warn!("one\ntwo");
    for number in 0..4000 {
        // One place may log as many records as it wants.
        log::warn!(target: logging::RECORDS, "{number} {}", "x".repeat(500));
    }
    writeln!(news, "behind").unwrap();
    BufReader::new(news).read_line(&mut String::new()).unwrap();
    let worker = std::thread::Builder::new().name("worker".into());
    let panics = worker.spawn(|| panic!("on purpose")).unwrap();
    assert!(panics.join().is_err());
    log::debug!("not at this level");
    assert!(logging::toggle_debug());
    assert!(!logging::toggle_debug());
    ExitCode::SUCCESS
}

fn shell_kill(signal: &str, pid: u32) {
    let command = format!("kill -{signal} {pid}");
    let status = Command::new("sh").args(["-c", &command]).status().unwrap();
    assert!(status.success(), "{command}");
}

/// A directory, and in it the socket that the daemon connects to.
struct Bed {
    dir: PathBuf,
    listener: UnixListener,
}

impl Bed {
    fn new(test: &str) -> Bed {
        let name = format!("mediaproxy-daemonize-{}-{test}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir(&dir).unwrap();
        let listener = UnixListener::bind(dir.join("news")).unwrap();
        Bed { dir, listener }
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.join("run").join(format!("{NAME}.pid"))
    }

    /// The command as an administrator gives it, under a umask that would lock everybody out.
    fn command(&self, role: &str) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", "umask 077; exec \"$0\" daemon \"$1\" \"$2\""])
            .arg(std::env::current_exe().unwrap())
            .arg(role)
            .arg(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, role: &str) -> Output {
        self.command(role).output().unwrap()
    }

    /// Starts it and lets it say what it sees before it is ready.
    fn start(&self, role: &str) -> (std::process::Child, Daemon) {
        let command = self.command(role).spawn().unwrap();
        let (news, _) = self.listener.accept().unwrap();
        news.set_read_timeout(Some(LIMIT)).unwrap();
        let mut daemon = Daemon {
            pid: 0,
            news: BufReader::new(news),
        };
        let pid = daemon.line();
        daemon.pid = pid.strip_prefix("pid ").unwrap().parse().unwrap();
        (command, daemon)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The running daemon, as the test sees it.
struct Daemon {
    pid: u32,
    news: BufReader<UnixStream>,
}

impl Daemon {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.news.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn go(&mut self) {
        self.news.get_mut().write_all(b"go\n").unwrap();
    }

    fn ends_by(&mut self, signal: &str) {
        shell_kill(signal, self.pid);
        assert_eq!(self.line(), "Terminate");
        self.is_gone();
    }

    /// The socket closes when all is cleared away.
    fn is_gone(&mut self) {
        let mut rest = String::new();
        self.news.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
    }
}

/// A failed start as the administrator sees it.
fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn ready(bed: &Bed) {
    let (mut command, mut daemon) = bed.start("ready");
    assert_eq!(daemon.line(), "cwd /");
    assert_eq!(daemon.line(), "in /dev/null out /dev/null");
    assert!(
        command.try_wait().unwrap().is_none(),
        "ended before the daemon was ready"
    );
    daemon.go();
    let output = command.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!((output.stdout, output.stderr), (vec![], vec![]));
    assert_eq!(daemon.line(), "ready, err /dev/null");

    let written = fs::read_to_string(bed.pid_file()).unwrap();
    assert_eq!(written, format!("{}\n", daemon.pid));
    let run = fs::metadata(bed.dir.join("run")).unwrap();
    assert_eq!(run.permissions().mode() & 0o777, 0o755);
    let status = fs::read_to_string(format!("/proc/{}/stat", daemon.pid)).unwrap();
    let (_, fields) = status.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = fields.split(' ').collect();
    assert_eq!(fields[3], daemon.pid.to_string(), "a session of its own");
    assert_eq!(fields[4], "0", "no terminal");

    for (signal, seen) in [
        ("HUP", "Hangup"),
        ("USR1", "User1"),
        ("USR2", "User2"),
        ("INT", "Interrupt"),
    ] {
        shell_kill(signal, daemon.pid);
        assert_eq!(daemon.line(), seen);
    }
    daemon.ends_by("TERM");
    assert!(!bed.pid_file().exists());
}

fn second_instance(bed: &Bed) {
    let (mut command, mut daemon) = bed.start("ready");
    daemon.go();
    assert!(command.wait().unwrap().success());
    let message = refused(&bed.run("ready"));
    let expected = format!(
        "{NAME}: already running with pid {} ({}): stop that one first, or give this one a --runtime-dir and ports of \
         its own\n",
        daemon.pid,
        bed.pid_file().display()
    );
    assert_eq!(message, expected);
    daemon.line();
    daemon.line();
    daemon.line();
    daemon.ends_by("TERM");
    assert!(!bed.pid_file().exists());
}

fn stale_pid_file(bed: &Bed) {
    fs::create_dir(bed.dir.join("run")).unwrap();
    fs::write(bed.pid_file(), "1\n").unwrap();
    let (mut command, mut daemon) = bed.start("ready");
    daemon.go();
    assert!(command.wait().unwrap().success());
    let written = fs::read_to_string(bed.pid_file()).unwrap();
    assert_eq!(written, format!("{}\n", daemon.pid));
    for _ in 0..3 {
        daemon.line();
    }
    shell_kill("KILL", daemon.pid);
    daemon.is_gone();
    assert!(bed.pid_file().exists());
}

fn failed(bed: &Bed) {
    let message = refused(&bed.run("failed"));
    assert_eq!(message, format!("{NAME}: no certificates\nno sockets\n"));
    assert!(!bed.pid_file().exists());
}

fn dies_silently(bed: &Bed) {
    let message = refused(&bed.run("dies_silently"));
    assert_eq!(
        message,
        format!("{NAME}: ended before it was ready (exit status: 7)\n")
    );
}

fn dies_by_a_signal(bed: &Bed) {
    let message = refused(&bed.run("dies_by_a_signal"));
    assert_eq!(
        message,
        format!("{NAME}: ended before it was ready (signal: 9 (SIGKILL))\n")
    );
}

fn panics(bed: &Bed) {
    let message = refused(&bed.run("panics"));
    assert!(message.contains("on purpose"), "{message}");
    assert!(
        message.ends_with("ended before it was ready (exit status: 101)\n"),
        "{message}"
    );
    assert!(!bed.pid_file().exists());
}

fn has_threads(bed: &Bed) {
    let message = refused(&bed.run("has_threads"));
    let expected = "cannot run in the background: threads are running already";
    assert_eq!(message, format!("{NAME}: {expected}\n"));
}

fn command_is_ended(bed: &Bed) {
    let (mut command, mut daemon) = bed.start("ready");
    daemon.line();
    daemon.line();
    command.kill().unwrap();
    command.wait().unwrap();
    daemon.go();
    assert_eq!(daemon.line(), "not ready: broken pipe");
    daemon.is_gone();
    assert!(!bed.pid_file().exists());
}

fn no_runtime_directory(bed: &Bed) {
    fs::write(bed.dir.join("run"), "").unwrap();
    let message = refused(&bed.run("ready"));
    let path = bed.dir.join("run");
    let expected = format!(
        "{NAME}: runtime directory {}: is not a directory\n",
        path.display()
    );
    assert_eq!(message, expected);
}

fn systemd(bed: &Bed) {
    let address = bed.dir.join("notify");
    let manager = UnixDatagram::bind(&address).unwrap();
    manager.set_read_timeout(Some(LIMIT)).unwrap();
    let mut child = bed
        .command("systemd")
        .env("NOTIFY_SOCKET", &address)
        .spawn()
        .unwrap();
    let (news, _) = bed.listener.accept().unwrap();
    let mut daemon = Daemon {
        pid: child.id(),
        news: BufReader::new(news),
    };
    assert_eq!(daemon.line(), format!("pid {}", child.id()), "no fork");
    daemon.line();
    daemon.line();
    daemon.go();
    assert!(daemon.line().starts_with("ready, err pipe:"));
    let said = || {
        let mut buffer = [0; 64];
        let length = undisturbed(|| manager.recv(&mut buffer)).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    assert_eq!(said(), "READY=1");
    assert_eq!(said(), "STATUS=works");
    daemon.ends_by("TERM");
    assert_eq!(said(), "STOPPING=1");
    assert!(child.wait().unwrap().success());
    assert!(!bed.pid_file().exists());
}

fn foreground(bed: &Bed) {
    let message = refused(&bed.run("foreground_fails"));
    assert_eq!(message, format!("{NAME}: no certificates\nno sockets\n"));
    let (mut child, mut daemon) = bed.start("foreground");
    assert_eq!(daemon.pid, child.id());
    daemon.line();
    daemon.line();
    daemon.go();
    daemon.line();
    daemon.ends_by("TERM");
    assert!(child.wait().unwrap().success());
}

fn journal(bed: &Bed) {
    let (mut reader, stderr) = UnixStream::pair().unwrap();
    let mut command = bed.command("journal");
    command
        .env_remove("NOTIFY_SOCKET")
        .stderr(OwnedFd::from(stderr));
    let mut child = command.spawn().unwrap();
    // The command keeps a copy of the other end.
    drop(command);
    let (mut news, _) = bed.listener.accept().unwrap();
    news.set_read_timeout(Some(LIMIT)).unwrap();
    let mut line = String::new();
    BufReader::new(news.try_clone().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "behind\n");

    reader.set_nonblocking(true).unwrap();
    let mut text = Vec::new();
    assert!(
        reader.read_to_end(&mut text).is_err(),
        "the daemon is still there"
    );
    news.write_all(b"go\n").unwrap();
    reader.set_nonblocking(false).unwrap();
    reader.read_to_end(&mut text).unwrap();
    assert!(child.wait().unwrap().success());

    let text = String::from_utf8(text).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "<4>one\\x0atwo");
    let whole = format!(" {}", "x".repeat(500));
    let numbered = lines.iter().filter(|line| line.ends_with(&whole)).count();
    // The log may take a few lines more in between, and say what was lost until then.
    let words = " log lines were lost: the log did not take them in time";
    let told = |line: &&str| {
        line.strip_prefix("<4>")?
            .strip_suffix(words)?
            .parse::<usize>()
            .ok()
    };
    let lost: usize = lines.iter().filter_map(told).sum::<usize>();
    assert!(lost > 0);
    assert_eq!(numbered + lost, 4000);
    let last = lines[lines.len() - 1];
    assert!(
        last.starts_with("<3>thread worker panicked at tests/daemonize.rs:"),
        "{last}"
    );
    assert!(last.ends_with(": on purpose"), "{last}");
}
