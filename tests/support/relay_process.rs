//! `media-relay` as a process, with a configuration and a dispatcher that a test speaks for.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use mediaproxy::sys::clock;

use super::certs::Certs;
use super::relay_bed::*;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_media-relay");
/// A directory with a configuration and certificates, and a dispatcher that listens.
pub struct Site {
    pub certs: Certs,
    pub dispatcher: FakeDispatcher,
}

impl Site {
    /// With more lines in `[Relay]`.
    pub fn new(more: &str) -> Site {
        let certs = Certs::usual();
        let dispatcher = FakeDispatcher::new(certs.path());
        let (start, end) = range(20);
        let text = format!(
            "[Relay]\ndispatchers = {}\nrelay_ip = {}\nport_range = {start}:{end}\nforwarding = userspace\n\
             reconnect_delay = 1\nroutable_private_ranges = 127.0.0.0/8\n{more}\n[TLS]\ncerts_path = {}\n",
            dispatcher.address,
            relay_ip(),
            certs.path().display()
        );
        certs.write("config.ini", text.as_bytes());
        Site { certs, dispatcher }
    }

    /// With this and no other setting of who forwards.
    pub fn forwarding(value: &str) -> Site {
        let site = Site::new("");
        let text = String::from_utf8(site.certs.read("config.ini")).unwrap();
        let others = text.lines().filter(|line| !line.starts_with("forwarding"));
        let text: Vec<&str> = others.collect();
        let set = format!("[Relay]\nforwarding = {value}");
        let text = text.join("\n").replace("[Relay]", &set);
        site.certs.write("config.ini", text.as_bytes());
        site
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("--config-dir").arg(self.certs.path());
        command.arg("--runtime-dir").arg(self.runtime_dir());
        command.args(arguments).stdin(Stdio::null());
        command
    }

    pub fn configuration(&self) -> String {
        String::from_utf8(self.certs.read("config.ini")).unwrap()
    }

    /// The first port of its range, and the end.
    pub fn ports(&self) -> (u16, u32) {
        let text = self.configuration();
        let (_, rest) = text.split_once("port_range = ").unwrap();
        let (start, end) = rest.lines().next().unwrap().split_once(':').unwrap();
        (start.parse().unwrap(), end.parse().unwrap())
    }

    pub fn runtime_dir(&self) -> PathBuf {
        self.certs.file("run")
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub fn start(&self) -> Daemon {
        let mut command = self.command(&["--no-fork"]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            // Until it ends, or its test does.
            for line in log.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Daemon {
            child,
            lines,
            read: Vec::new(),
        }
    }
}

/// A relay in the foreground and its log. Ended when dropped.
pub struct Daemon {
    pub child: Child,
    /// Its log as it comes.
    pub lines: Receiver<String>,
    /// What of it was read.
    pub read: Vec<String>,
}

impl Daemon {
    pub fn signal(&self, name: &str) {
        signal(name, self.child.id());
    }

    /// Reads the log until a line has this text.
    #[track_caller]
    pub fn says(&mut self, text: &str) -> String {
        let end = clock::moment() + LONG;
        loop {
            match self.lines.recv_timeout(end.since(clock::moment())) {
                Ok(line) => self.read.push(line),
                Err(why) => panic!(
                    "its log has no \"{text}\" ({why}):\n{}",
                    self.read.join("\n")
                ),
            }
            if let Some(line) = self.read.last().filter(|line| line.contains(text)) {
                return line.clone();
            }
        }
    }

    /// Its exit status.
    pub fn ends(&mut self) -> Option<i32> {
        let mut status = None;
        wait_until("the relay ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process that a test has started.
pub fn signal(name: &str, pid: u32) {
    let pid = pid.to_string();
    // The shell's own: a small system has no program of that name.
    let mut kill = Command::new("sh");
    kill.args(["-c", "kill \"$0\" \"$1\"", name, &pid]);
    let status = kill.status().unwrap();
    assert!(status.success());
}
