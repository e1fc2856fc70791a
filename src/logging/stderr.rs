//! Lines on standard error: for people at a terminal, or with priorities for systemd's journal (sd-daemon(3)).

use std::fmt;
use std::io;

use log::Level;

use super::Sink;
use super::queue::Entry;
use crate::sys::local_time::{LocalTime, local_time};
use crate::sys::{stderr, terminal};

/// Time, level, text; in colour where a person looks at it.
pub(super) struct Terminal {
    colour: bool,
}

impl Terminal {
    pub(super) fn new() -> Terminal {
        Terminal {
            colour: terminal::wants_colour(&io::stderr()),
        }
    }
}

impl Sink for Terminal {
    fn send(&mut self, entry: &Entry) -> io::Result<()> {
        let line = TerminalLine {
            time: local_time(entry.at),
            level: entry.level,
            text: &entry.text,
            colour: self.colour,
        };
        stderr::write(line.to_string().as_bytes())
    }
}

struct TerminalLine<'a> {
    time: LocalTime,
    level: Level,
    text: &'a str,
    colour: bool,
}

impl fmt::Display for TerminalLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = &self.time;
        let (before, after) = match (self.colour, self.level) {
            (true, Level::Error) => ("\x1b[31m", "\x1b[0m"),
            (true, Level::Warn) => ("\x1b[33m", "\x1b[0m"),
            (true, Level::Debug | Level::Trace) => ("\x1b[2m", "\x1b[0m"),
            _ => ("", ""),
        };
        writeln!(
            f,
            "{}-{:02}-{:02} {:02}:{:02}:{:02}.{:03} {before}{:7} {}{after}",
            t.year,
            t.month,
            t.day,
            t.hour,
            t.minute,
            t.second,
            t.millisecond,
            name(self.level),
            self.text
        )
    }
}

/// As in the configuration's `log_level`.
fn name(level: Level) -> &'static str {
    match level {
        Level::Error => "ERROR",
        Level::Warn => "WARNING",
        Level::Info => "INFO",
        Level::Debug => "DEBUG",
        Level::Trace => "TRACE",
    }
}

/// A priority and the text: the journal knows the time.
pub(super) struct Journal;

impl Sink for Journal {
    fn send(&mut self, entry: &Entry) -> io::Result<()> {
        let severity = severity(entry.level);
        stderr::write(format!("<{severity}>{}\n", entry.text).as_bytes())
    }
}

/// The numbers of RFC 3164 section 4.1.1, as sd-daemon(3) has them.
fn severity(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_for_people() {
        let line = |level, colour| {
            TerminalLine {
                time: LocalTime {
                    year: 2024,
                    month: 2,
                    day: 9,
                    hour: 7,
                    minute: 5,
                    second: 3,
                    millisecond: 42,
                },
                level,
                text: "[session abc] ends",
                colour,
            }
            .to_string()
        };
        assert_eq!(
            line(Level::Info, true),
            "2024-02-09 07:05:03.042 INFO    [session abc] ends\n"
        );
        assert_eq!(
            line(Level::Warn, false),
            "2024-02-09 07:05:03.042 WARNING [session abc] ends\n"
        );
        assert_eq!(
            line(Level::Error, true),
            "2024-02-09 07:05:03.042 \x1b[31mERROR   [session abc] ends\x1b[0m\n"
        );
    }
}
