//! Lines for the local syslog daemon: RFC 3164 without a host name, as syslog(3) sends them, facility daemon.
//!
//! The crate `syslog` has the numbers and the logger, which writes a format to a transport; both are ours. Its own
//! formats have the time of UTC, and that of the writing instead of the line's (ARCHITECTURE.md, "Syslog").

use std::fmt;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use log::Level;
use syslog::{Error, Facility, LogFormat, Logger, Severity};

use super::Sink;
use super::queue::Entry;
use crate::sys::local_time::{LocalTime, local_time};

/// The syslog daemon of this host.
pub(super) struct Syslog(Logger<Datagrams, LocalFormat>);

impl Syslog {
    /// Connects with the first line, and again whenever it must.
    pub(super) fn new(path: &Path, program: &'static str) -> Syslog {
        let datagrams = Datagrams {
            path: path.to_owned(),
            socket: None,
        };
        let pid = std::process::id();
        Syslog(Logger::new(datagrams, LocalFormat { program, pid }))
    }
}

impl Sink for Syslog {
    fn send(&mut self, entry: &Entry) -> io::Result<()> {
        let line = Line {
            time: local_time(entry.at),
            level: entry.level,
            text: &entry.text,
        };
        let written = match entry.level {
            Level::Error => self.0.err(line),
            Level::Warn => self.0.warning(line),
            Level::Info => self.0.info(line),
            Level::Debug | Level::Trace => self.0.debug(line),
        };
        written.map_err(|error| match error {
            Error::Write(error) | Error::Io(error) => error,
            Error::Initialization(error) => io::Error::other(error.to_string()),
        })
    }
}

/// What is said of an entry.
struct Line<'a> {
    time: LocalTime,
    level: Level,
    text: &'a str,
}

/// RFC 3164 in local time: that of the moment at which the line was logged.
struct LocalFormat {
    program: &'static str,
    pid: u32,
}

impl LogFormat<Line<'_>> for LocalFormat {
    fn format<W: Write>(&self, w: &mut W, severity: Severity, line: Line) -> syslog::Result<()> {
        const MONTHS: [&str; 12] = [
            "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
        ];
        let t = &line.time;
        let month = MONTHS
            .iter()
            .zip(1..)
            .find(|(_, number)| *number == t.month);
        let month = month.map_or("Jan", |(name, _)| name);
        write!(
            w,
            "<{}>{month} {:2} {:02}:{:02}:{:02} {}[{}]: {}{}",
            Facility::LOG_DAEMON as u8 | severity as u8,
            t.day,
            t.hour,
            t.minute,
            t.second,
            self.program,
            self.pid,
            prefix(line.level),
            line.text
        )
        .map_err(Error::Write)
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

/// Datagrams that never wait. A daemon that was restarted has a new socket: the next line connects again.
struct Datagrams {
    path: PathBuf,
    /// None where the daemon was not there.
    socket: Option<UnixDatagram>,
}

impl Datagrams {
    fn connect(&self) -> io::Result<UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(&self.path)?;
        Ok(socket)
    }
}

impl Write for Datagrams {
    /// Sends a line whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(socket) = &self.socket {
            match socket.send(line) {
                // It is there and behind: a new connection would not help.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                Err(_) => self.socket = None,
                sent => return sent,
            }
        }
        let socket = self.connect()?;
        let sent = socket.send(line)?;
        self.socket = Some(socket);
        Ok(sent)
    }

    /// Of all pieces of a line one datagram.
    fn write_fmt(&mut self, line: fmt::Arguments) -> io::Result<()> {
        self.write(fmt::format(line).as_bytes()).map(drop)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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
        let at = clock::now().unix;
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
        let time = LocalTime {
            year: 2024,
            month: 12,
            day: 9,
            hour: 7,
            minute: 5,
            second: 3,
            millisecond: 42,
        };
        let line = Line {
            time,
            level: Level::Warn,
            text: "text",
        };
        let format = LocalFormat {
            program: "media-relay",
            pid: 77,
        };
        let mut shown = Vec::new();
        Logger::new(&mut shown, format).warning(line).unwrap();
        assert_eq!(
            String::from_utf8(shown).unwrap(),
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
