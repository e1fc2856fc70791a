//! Lines for the local syslog daemon: RFC 3164 without a host name, as syslog(3) sends them, facility daemon.
//!
//! Datagrams that never wait. A daemon that was restarted has a new socket: the next line connects again.

use std::fmt;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use log::Level;

use super::Sink;
use super::queue::Entry;
use crate::sys::local_time::{LocalTime, local_time};

/// RFC 3164 section 4.1.1.
const FACILITY_DAEMON: u8 = 3;

/// The numbers of RFC 3164 section 4.1.1.
pub fn severity(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// A connection to the socket of the syslog daemon.
pub struct Syslog {
    path: PathBuf,
    program: &'static str,
    pid: u32,
    /// None where the daemon was not there.
    socket: Option<UnixDatagram>,
}

impl Syslog {
    /// Connects with the first line, and again whenever it must.
    pub fn new(path: &Path, program: &'static str) -> Syslog {
        Syslog {
            path: path.to_owned(),
            program,
            pid: std::process::id(),
            socket: None,
        }
    }

    fn connect(&self) -> io::Result<UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(&self.path)?;
        Ok(socket)
    }
}

impl Sink for Syslog {
    fn send(&mut self, entry: &Entry) -> io::Result<()> {
        let line = SyslogLine {
            time: local_time(entry.at),
            level: entry.level,
            program: self.program,
            pid: self.pid,
            text: &entry.text,
        };
        let line = line.to_string();
        if let Some(socket) = &self.socket {
            match socket.send(line.as_bytes()) {
                Ok(_) => return Ok(()),
                // It is there and behind: a new connection would not help.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                Err(_) => self.socket = None,
            }
        }
        let socket = self.connect()?;
        socket.send(line.as_bytes())?;
        self.socket = Some(socket);
        Ok(())
    }
}

struct SyslogLine<'a> {
    time: LocalTime,
    level: Level,
    program: &'a str,
    pid: u32,
    text: &'a str,
}

impl fmt::Display for SyslogLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MONTHS: [&str; 12] = [
            "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
        ];
        let t = &self.time;
        let month = MONTHS
            .iter()
            .zip(1..)
            .find(|(_, number)| *number == t.month);
        let month = month.map_or("Jan", |(name, _)| name);
        write!(
            f,
            "<{}>{month} {:2} {:02}:{:02}:{:02} {}[{}]: {}{}",
            FACILITY_DAEMON << 3 | severity(self.level),
            t.day,
            t.hour,
            t.minute,
            t.second,
            self.program,
            self.pid,
            prefix(self.level),
            self.text
        )
    }
}

/// Syslog's files do not show the severity.
fn prefix(level: Level) -> &'static str {
    match level {
        Level::Error => "error: ",
        Level::Warn => "warning: ",
        Level::Info => "",
        Level::Debug | Level::Trace => "debug: ",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::Output;
    use super::*;
    use crate::sys::clock;
    use crate::sys::datagram::undisturbed;
    use crate::sys::scratch::Scratch;

    fn write(output: &mut Output, level: Level, text: &str) {
        let text = text.to_owned();
        let at = clock::now().unix.elapsed();
        output.write(&Entry { level, at, text });
    }

    fn next(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 9000];
        let length = undisturbed(|| socket.recv(&mut buffer)).unwrap();
        let line = String::from_utf8(buffer[..length].to_vec()).unwrap();
        let (_, text) = line.split_once("]: ").unwrap();
        text.to_owned()
    }

    #[test]
    fn the_form_of_a_line() {
        let line = SyslogLine {
            time: LocalTime {
                year: 2024,
                month: 12,
                day: 9,
                hour: 7,
                minute: 5,
                second: 3,
                millisecond: 42,
            },
            level: Level::Warn,
            program: "media-relay",
            pid: 77,
            text: "text",
        };
        assert_eq!(
            line.to_string(),
            "<28>Dec  9 07:05:03 media-relay[77]: warning: text"
        );
    }

    #[test]
    fn after_a_restart_of_the_log_daemon() {
        let dir = Scratch::new("syslog");
        let path = dir.path().join("log");
        let mut output = Output::new(Box::new(Syslog::new(&path, "media-test")));
        write(&mut output, Level::Info, "before there is one");

        let first = UnixDatagram::bind(&path).unwrap();
        write(&mut output, Level::Info, "one");
        assert_eq!(
            next(&first),
            "warning: 1 log lines were lost: the log did not take them in time"
        );
        assert_eq!(next(&first), "one");

        drop(first);
        fs::remove_file(&path).unwrap();
        write(&mut output, Level::Info, "nobody listens");
        write(&mut output, Level::Info, "still nobody");
        let second = UnixDatagram::bind(&path).unwrap();
        write(&mut output, Level::Error, "two");
        assert_eq!(
            next(&second),
            "warning: 2 log lines were lost: the log did not take them in time"
        );
        assert_eq!(next(&second), "error: two");

        drop(second);
        fs::remove_file(&path).unwrap();
        let third = UnixDatagram::bind(&path).unwrap();
        write(&mut output, Level::Info, "three");
        assert_eq!(next(&third), "three");
    }

    #[test]
    fn a_log_daemon_that_does_not_read_holds_nobody() {
        let dir = Scratch::new("syslog");
        let path = dir.path().join("log");
        let daemon = UnixDatagram::bind(&path).unwrap();
        let mut output = Output::new(Box::new(Syslog::new(&path, "media-test")));
        while output.lost < 3 {
            write(&mut output, Level::Info, "flood");
        }
        assert_eq!(next(&daemon), "flood");
        daemon.set_nonblocking(true).unwrap();
        let mut buffer = [0; 9000];
        while undisturbed(|| daemon.recv(&mut buffer)).is_ok() {}
        write(&mut output, Level::Info, "end");
        assert_eq!(
            next(&daemon),
            "warning: 3 log lines were lost: the log did not take them in time"
        );
        assert_eq!(next(&daemon), "end");
    }
}
