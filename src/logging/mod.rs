//! Where log lines go: the terminal, systemd's journal, or syslog. A backend for the `log` crate.
//!
//! ```text
//!  log::info! ──> Logger ──> Line: one line, nothing forged     line
//!                   └──────> Sink: terminal, journal            stderr
//!                                  syslog                       syslog
//! ```
//!
//! A line about a session begins with `[session CALL-ID]`; who logs writes that. No thread waits for a log
//! daemon: lines that it does not take are counted, and the number is logged as soon as it takes lines again.

mod line;
pub mod sparse;
mod stderr;
mod syslog;

use std::io;
use std::panic::PanicHookInfo;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};

use self::line::Line;
use self::stderr::{Journal, Terminal};
use self::syslog::Syslog;
use crate::sys::process::Mode;

/// Where syslogd listens.
const SYSLOG_SOCKET: &str = "/dev/log";

/// Takes finished lines, one at a time.
trait Sink: Send {
    /// `text` is one line, without its end.
    fn send(&mut self, level: Level, text: &str) -> io::Result<()>;
}

/// Starts logging for the daemon `program`: to syslog in the background, for the journal under systemd, else to
/// the terminal. Panics are logged too. To be called once, after [`crate::sys::process::start`]: the process's
/// number is part of a line.
pub fn start(mode: Mode, program: &'static str, level: LevelFilter) {
    let sink: Box<dyn Sink> = match mode {
        Mode::Background => Box::new(Syslog::new(Path::new(SYSLOG_SOCKET), program)),
        Mode::Systemd => Box::new(Journal),
        Mode::Foreground => Box::new(Terminal::new()),
    };
    let logger = Logger {
        output: Mutex::new(Output::new(sink)),
    };
    if log::set_boxed_logger(Box::new(logger)).is_ok() {
        set_level(level);
        std::panic::set_hook(Box::new(log_panic));
    }
}

/// A daemon's standard error may lead nowhere; the log must have it.
fn log_panic(panic: &PanicHookInfo) {
    let payload = panic.payload();
    let message = match (
        payload.downcast_ref::<&str>(),
        payload.downcast_ref::<String>(),
    ) {
        (Some(text), _) => text,
        (None, Some(text)) => text.as_str(),
        (None, None) => "no message",
    };
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("unnamed");
    match panic.location() {
        Some(place) => log::error!("thread {name} panicked at {place}: {message}"),
        None => log::error!("thread {name} panicked: {message}"),
    }
}

/// The least severe level that is logged, until it is toggled.
static CONFIGURED: AtomicUsize = AtomicUsize::new(LevelFilter::Info as usize);

fn set_level(level: LevelFilter) {
    CONFIGURED.store(level as usize, Ordering::Relaxed);
    log::set_max_level(level);
}

/// Switches debug lines on, or back to the configured level; to Info where that is Debug itself. Returns whether
/// they are on now.
pub fn toggle_debug() -> bool {
    let configured = CONFIGURED.load(Ordering::Relaxed);
    let next = after_toggle(log::max_level(), configured);
    log::set_max_level(next);
    next >= LevelFilter::Debug
}

fn after_toggle(now: LevelFilter, configured: usize) -> LevelFilter {
    if now < LevelFilter::Debug {
        return LevelFilter::Debug;
    }
    LevelFilter::iter()
        .find(|level| *level as usize == configured && *level < LevelFilter::Debug)
        .unwrap_or(LevelFilter::Info)
}

/// Lines that were logged since the start, errors and warnings; others are not counted.
static ERRORS: AtomicU64 = AtomicU64::new(0);
static WARNINGS: AtomicU64 = AtomicU64::new(0);

/// How many errors and how many warnings were logged since the start, whether the log daemon took them or not.
pub fn counts() -> [(&'static str, u64); 2] {
    [("error", &ERRORS), ("warning", &WARNINGS)]
        .map(|(level, count)| (level, count.load(Ordering::Relaxed)))
}

fn count(level: Level) {
    match level {
        Level::Error => ERRORS.fetch_add(1, Ordering::Relaxed),
        Level::Warn => WARNINGS.fetch_add(1, Ordering::Relaxed),
        _ => return,
    };
}

struct Logger {
    output: Mutex<Output>,
}

impl Log for Logger {
    /// Of other crates only what is wrong: their debug lines are about bytes.
    fn enabled(&self, metadata: &Metadata) -> bool {
        let ours = ["mediaproxy", "media_"];
        metadata.level() <= Level::Warn
            || ours.iter().any(|name| metadata.target().starts_with(name))
    }

    fn log(&self, record: &Record) {
        if self.enabled(record.metadata()) {
            count(record.level());
            let line = Line::new(*record.args());
            let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
            output.write(record.level(), line.as_str());
        }
    }

    fn flush(&self) {}
}

/// A sink, and how many lines it did not take.
struct Output {
    sink: Box<dyn Sink>,
    lost: u64,
}

impl Output {
    fn new(sink: Box<dyn Sink>) -> Output {
        Output { sink, lost: 0 }
    }

    fn write(&mut self, level: Level, line: &str) {
        if self.lost > 0 {
            let text = format!(
                "{} log lines were lost: the log daemon did not take them",
                self.lost
            );
            if self.sink.send(Level::Warn, &text).is_err() {
                self.lost += 1;
                return;
            }
            self.lost = 0;
        }
        if self.sink.send(level, line).is_err() {
            self.lost += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::{self, Receiver, SyncSender};

    use super::*;

    /// Takes as many lines as its channel holds.
    struct Full(SyncSender<String>);

    impl Sink for Full {
        fn send(&mut self, level: Level, text: &str) -> io::Result<()> {
            self.0
                .try_send(format!("{level} {text}"))
                .map_err(|_| io::ErrorKind::WouldBlock.into())
        }
    }

    fn logger(room: usize) -> (Arc<Logger>, Receiver<String>) {
        let (sender, lines) = mpsc::sync_channel(room);
        let output = Mutex::new(Output::new(Box::new(Full(sender))));
        (Arc::new(Logger { output }), lines)
    }

    fn log(logger: &Logger, target: &str, level: Level, text: &str) {
        logger.log(
            &Record::builder()
                .target(target)
                .level(level)
                .args(format_args!("{text}"))
                .build(),
        );
    }

    #[test]
    fn lost_lines_are_told() {
        let (logger, lines) = logger(2);
        for number in 1..=5 {
            log(&logger, "mediaproxy", Level::Info, &number.to_string());
        }
        assert_eq!(lines.try_iter().collect::<Vec<_>>(), ["INFO 1", "INFO 2"]);
        log(&logger, "mediaproxy", Level::Info, "6");
        assert_eq!(
            lines.try_iter().collect::<Vec<_>>(),
            [
                "WARN 3 log lines were lost: the log daemon did not take them",
                "INFO 6"
            ]
        );
    }

    #[test]
    fn one_line_whatever_a_peer_sends() {
        let (logger, lines) = logger(2);
        log(&logger, "mediaproxy::x", Level::Warn, "a\nERROR b");
        assert_eq!(lines.recv().unwrap(), "WARN a\\x0aERROR b");
    }

    #[test]
    fn others_only_when_something_is_wrong() {
        let (logger, lines) = logger(4);
        log(&logger, "rustls::client", Level::Debug, "bytes");
        log(&logger, "rustls::client", Level::Warn, "bad");
        log(&logger, "media_relay", Level::Debug, "ours");
        assert_eq!(
            lines.try_iter().collect::<Vec<_>>(),
            ["WARN bad", "DEBUG ours"]
        );
    }

    #[test]
    fn a_panic_while_logging_does_not_end_logging() {
        let (logger, lines) = logger(1);
        let poisoner = Arc::clone(&logger);
        let thread = std::thread::spawn(move || {
            let _held = poisoner.output.lock().unwrap();
            panic!("on purpose");
        });
        assert!(thread.join().is_err());
        log(&logger, "mediaproxy", Level::Info, "still here");
        assert_eq!(lines.recv().unwrap(), "INFO still here");
    }

    #[test]
    fn errors_and_warnings_are_counted() {
        let (logger, _lines) = logger(10);
        let before = counts();
        log(&logger, "mediaproxy", Level::Error, "one");
        log(&logger, "mediaproxy", Level::Warn, "two");
        log(&logger, "mediaproxy", Level::Warn, "three");
        // Other tests may log at the same time.
        for ((level, now), ((_, then), more)) in counts().iter().zip(before.iter().zip([1, 2])) {
            assert!(*now >= then + more, "{level}: {now}");
        }
    }

    #[test]
    fn debug_on_and_off() {
        let toggle = |now, configured: LevelFilter| after_toggle(now, configured as usize);
        assert_eq!(
            toggle(LevelFilter::Error, LevelFilter::Error),
            LevelFilter::Debug
        );
        assert_eq!(
            toggle(LevelFilter::Debug, LevelFilter::Error),
            LevelFilter::Error
        );
        assert_eq!(
            toggle(LevelFilter::Debug, LevelFilter::Debug),
            LevelFilter::Info
        );
        assert_eq!(
            toggle(LevelFilter::Info, LevelFilter::Debug),
            LevelFilter::Debug
        );
    }
}
