//! The program itself: its start, its end, its signals, and what it says when it cannot start.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::Duration;

use crate::support::bed::{FakeRelay, LONG, Proxy, fresh_directory, offer};
use crate::support::certs::Certs;
use crate::support::ports::free_tcp_port;

/// Where one daemon lives.
struct Home {
    certs: Certs,
    config: PathBuf,
    runtime: PathBuf,
    port: u16,
}

/// A daemon in the foreground; killed if the test fails.
struct Daemon {
    child: Child,
}

impl Home {
    fn new(name: &str) -> Home {
        let certs = Certs::usual();
        let directory = fresh_directory(name);
        let (config, runtime) = (directory.join("etc"), directory.join("run"));
        fs::create_dir_all(&config).unwrap();
        let (port, management) = (free_tcp_port().unwrap(), free_tcp_port().unwrap());
        let home = Home {
            certs,
            config,
            runtime,
            port,
        };
        home.configure(&format!(
            "[Dispatcher]\nlisten = 127.0.0.1:{port}\nlisten_management = 127.0.0.1:{management}\n\
             [TLS]\ncerts_path = {}\n",
            home.certs.path().display()
        ));
        home
    }

    fn configure(&self, text: &str) {
        fs::write(self.config.join("config.ini"), text).unwrap();
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_media-dispatcher"));
        command.arg("--config-dir").arg(&self.config);
        command.arg("--runtime-dir").arg(&self.runtime);
        command.args(more).stdin(Stdio::null());
        command
    }

    /// Runs to the end.
    fn output(&self, more: &[&str]) -> Output {
        self.command(more).output().unwrap()
    }

    /// Starts in the foreground and waits until the proxy's socket answers.
    fn start(&self) -> Daemon {
        let mut command = self.command(&["--no-fork"]);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut daemon = Daemon {
            child: command.spawn().unwrap(),
        };
        wait_for("the proxy's socket", || {
            assert!(daemon.child.try_wait().unwrap().is_none(), "it ended");
            UnixStream::connect(self.socket()).is_ok()
        });
        daemon
    }

    fn socket(&self) -> PathBuf {
        self.runtime.join("dispatcher.sock")
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(directory) = self.config.parent() {
            let _ = fs::remove_dir_all(directory);
        }
    }
}

/// By the shell: a small system has no program of that name.
fn signal(name: &str, pid: &str) {
    let mut kill = Command::new("sh");
    kill.args(["-c", "kill -s \"$0\" \"$1\"", name, pid]);
    assert!(kill.status().unwrap().success());
}

impl Daemon {
    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        signal(name, &pid);
    }

    fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        wait_for("the end", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    fn log(&mut self) -> String {
        let mut text = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_for(what: &str, mut is_there: impl FnMut() -> bool) {
    let pause = Duration::from_millis(5);
    let mut waited = Duration::ZERO;
    while !is_there() {
        assert!(waited < LONG, "waited for {what}");
        thread::sleep(pause);
        waited += pause;
    }
}

#[test]
fn it_serves_until_it_is_told_to_end() {
    for signal in ["TERM", "INT"] {
        let home = Home::new(&format!("serves-{signal}"));
        let mut daemon = home.start();
        let mut relay =
            FakeRelay::connect(home.certs.path(), (Ipv4Addr::LOCALHOST, home.port).into());
        relay.list("[]");
        let mut proxy = Proxy::connect(&home.socket());
        proxy.send(offer("one").as_bytes());
        relay.serve("update", "192.0.2.1 40000");
        assert_eq!(proxy.answer(), "192.0.2.1 40000");
        daemon.signal(signal);
        assert_eq!(daemon.wait().code(), Some(0));
        relay.ends();
        let left: Vec<_> = fs::read_dir(&home.runtime)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert!(left.is_empty(), "{left:?}");
        let log = daemon.log();
        assert!(log.contains("[session one]"), "{log}");
    }
}

#[test]
fn hup_and_usr1_cut_nothing() {
    let home = Home::new("hup");
    let mut daemon = home.start();
    let mut relay = FakeRelay::connect(home.certs.path(), (Ipv4Addr::LOCALHOST, home.port).into());
    relay.list("[]");
    let mut proxy = Proxy::connect(&home.socket());
    for signal in ["HUP", "USR1"] {
        daemon.signal(signal);
    }
    relay.settle();
    assert_eq!(proxy.ask("nonsense\r\n\r\n"), "error");
    daemon.signal("TERM");
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn a_second_one_is_refused_and_a_crashed_one_replaced() {
    let home = Home::new("second");
    let mut first = home.start();
    let second = home.output(&["--no-fork"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(!second.stderr.is_empty());
    let mut proxy = Proxy::connect(&home.socket());
    assert_eq!(proxy.ask("nonsense\r\n\r\n"), "error", "the first goes on");
    first.signal("KILL");
    first.wait();
    assert!(home.socket().exists(), "left behind");
    let mut third = home.start();
    third.signal("TERM");
    assert_eq!(third.wait().code(), Some(0));
}

#[test]
fn it_forks_and_says_when_it_cannot_start() {
    let home = Home::new("forks");
    let started = home.output(&[]);
    let said = String::from_utf8_lossy(&started.stderr).into_owned();
    assert_eq!(started.status.code(), Some(0), "{said}");
    let mut proxy = Proxy::connect(&home.socket());
    assert_eq!(proxy.ask("nonsense\r\n\r\n"), "error");
    let again = home.output(&[]);
    assert_eq!(again.status.code(), Some(78));
    assert!(!again.stderr.is_empty());
    let pid = fs::read_dir(&home.runtime)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|e| e == "pid"))
        .expect("a pid file");
    let number = fs::read_to_string(&pid).unwrap();
    signal("TERM", number.trim());
    wait_for("its end", || !pid.exists() && !home.socket().exists());
}

#[test]
fn the_configuration_is_checked_without_a_start() {
    let home = Home::new("check");
    assert_eq!(home.output(&["--check-config"]).status.code(), Some(0));
    assert!(!home.socket().exists());
    home.configure("[Dispatcher]\nlisten = nowhere at all\n");
    for (arguments, status) in [
        (&["--check-config"][..], 1),
        (&["--no-fork"], 78),
        (&[], 78),
    ] {
        let checked = home.output(arguments);
        assert_eq!(checked.status.code(), Some(status));
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(said.contains("config.ini:2"), "{said}");
    }
    home.configure("[Dispatcher]\npassport = nonsense\n");
    let checked = home.output(&["--check-config"]);
    assert_eq!(checked.status.code(), Some(1));
    assert_eq!(home.output(&["--no-such-option"]).status.code(), Some(2));
}

/// Another attempt is of no use, so systemd makes none.
#[test]
#[cfg(all(feature = "radius", feature = "postgres"))]
fn files_that_accounting_needs_are_part_of_the_configuration() {
    let home = Home::new("named-files");
    for (accounting, section, named) in [
        (
            "radius",
            "[Radius]\nconfig_file = /nonexistent/client.conf\n",
            "/nonexistent/client.conf",
        ),
        (
            "database",
            "[Database]\ndburi = postgres://u@h/d?sslmode=verify-full&sslrootcert=/nonexistent.pem\n",
            "/nonexistent.pem",
        ),
        (
            "database",
            "[Database]\ndburi = sqlite:///a sqlite:///a\n",
            "twice",
        ),
    ] {
        home.configure(&format!(
            "[Dispatcher]\nlisten = 127.0.0.1:{}\naccounting = {accounting}\n{section}[TLS]\ncerts_path = {}\n",
            home.port,
            home.certs.path().display()
        ));
        for (arguments, status) in [(&["--check-config"][..], 1), (&["--no-fork"], 78)] {
            let checked = home.output(arguments);
            let said = String::from_utf8_lossy(&checked.stderr).into_owned();
            assert_eq!(checked.status.code(), Some(status), "{said}");
            assert!(said.contains(named), "{said}");
        }
        assert!(!home.socket().exists());
    }
}

#[test]
fn missing_certificates_are_named() {
    let home = Home::new("certificates");
    fs::remove_file(home.certs.file("dispatcher.key")).unwrap();
    for arguments in [&["--no-fork"][..], &[]] {
        let started = home.output(arguments);
        assert_eq!(started.status.code(), Some(78), "no use to try again");
        let said = String::from_utf8_lossy(&started.stderr).into_owned();
        let how = format!(
            "dispatcher.key: no such file; mediaproxy-make-certs {} dispatcher makes it",
            home.certs.path().display()
        );
        assert!(said.contains(&how), "{said}");
    }
}

#[test]
fn the_watchdog_hears_of_a_dispatcher_only_while_the_proxy_can_be_served() {
    let home = Home::new("watchdog");
    let path = home.config.join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    let mut command = home.command(&["--systemd"]);
    // Asked every second, which upkeep's rounds fit into.
    command.env("NOTIFY_SOCKET", &path);
    command.env("WATCHDOG_USEC", "4000000");
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut daemon = Daemon {
        child: command.spawn().unwrap(),
    };
    let mut log = BufReader::new(daemon.child.stderr.take().unwrap());
    let mut says = |text: &str| {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "no line: {text}");
        }
    };
    let hears_well = || {
        let mut buffer = [0; 1000];
        let count = mediaproxy::sys::datagram::undisturbed(|| socket.recv(&mut buffer)).unwrap();
        &buffer[..count] == b"WATCHDOG=1"
    };
    let mut heard = 0;
    while heard < 2 {
        heard += usize::from(hears_well());
    }
    let elsewhere = home.runtime.join("elsewhere");
    fs::rename(home.socket(), &elsewhere).unwrap();
    says("dispatcher.sock: not served");
    socket.set_nonblocking(true).unwrap();
    while socket.recv(&mut [0; 1000]).is_ok() {}
    says("dispatcher.sock: not served");
    let left = socket.recv(&mut [0; 1000]);
    assert!(left.is_err(), "said to be well all the same");
    fs::rename(&elsewhere, home.socket()).unwrap();
    says("answer again");
    daemon.signal("TERM");
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn systemd_is_told_when_it_is_ready_and_when_it_ends() {
    let home = Home::new("systemd");
    let path = home.config.join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    let mut command = home.command(&["--systemd"]);
    command.env("NOTIFY_SOCKET", &path);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut daemon = Daemon {
        child: command.spawn().unwrap(),
    };
    let heard = |what: &str| {
        let mut buffer = [0; 1000];
        loop {
            let count =
                mediaproxy::sys::datagram::undisturbed(|| socket.recv(&mut buffer)).unwrap();
            let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
            if text.lines().any(|line| line == what) {
                return;
            }
        }
    };
    heard("READY=1");
    assert!(UnixStream::connect(home.socket()).is_ok());
    daemon.signal("TERM");
    heard("STOPPING=1");
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn a_client_in_mid_request_does_not_hold_up_the_end() {
    let home = Home::new("busy");
    let mut daemon = home.start();
    let mut relay = FakeRelay::connect(home.certs.path(), (Ipv4Addr::LOCALHOST, home.port).into());
    relay.list("[]");
    let mut proxy = Proxy::connect(&home.socket());
    proxy.send(offer("one").as_bytes());
    relay.asked();
    let mut half = UnixStream::connect(home.socket()).unwrap();
    half.write_all(b"update\r\ntype: ").unwrap();
    daemon.signal("TERM");
    assert_eq!(daemon.wait().code(), Some(0));
}
