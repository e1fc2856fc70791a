//! Where log lines go: the terminal, systemd's journal, or syslog. A backend for the `log` crate.
//!
//! ```text
//!  log::info! ──> Logger ──> Line: one line, nothing forged     line
//!                   └──────> Queue, and the thread that writes   queue
//!                              ├──  Limit: lines of one place    limit
//!                              └──> Sink: terminal, journal      stderr
//!                                         syslog                 syslog
//! ```
//!
//! A line about a session begins with `[session CALL-ID]`; who logs writes that. No thread waits for a log, whatever
//! it is: lines that it does not take are counted, and the number is logged as soon as it takes lines again.
//!
//! Nobody fills a disk by it: each place in the program writes so many lines a second, and those left out are counted.
//! That holds for errors and warnings, and for news that is no session's; what a session does (info, `[session ...]`) is
//! written each time, as an operator looks for that call. Lines that hold what nothing else has go by [`RECORDS`].

mod limit;
mod line;
mod queue;
pub mod sparse;
mod stderr;
mod syslog;

use std::io;
use std::panic::PanicHookInfo;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use log::{Level, LevelFilter, Log, Metadata, Record};

use self::line::Line;
use self::queue::{Entry, Queue};
use self::stderr::{Journal, Terminal};
use self::syslog::Syslog;
use crate::sys::clock;
use crate::sys::process::Mode;
use crate::sys::thread::run_tenaciously;

/// Target of lines that hold what nothing else has, such as the record of a call: whole, and however many come.
pub const RECORDS: &str = "mediaproxy::records";

/// How a line about a session begins.
const SESSION: &str = "[session ";

/// Where syslogd listens.
const SYSLOG_SOCKET: &str = "/dev/log";

/// How long the last words of a process that aborts may take to reach the log.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Lines that [`log_all`] writes between two looks whether there is room for more: each has 8 KB at most.
const AT_ONCE: usize = 64;

/// How long it waits for room before it goes on, and lines may be lost.
const ROOM_LIMIT: Duration = Duration::from_secs(1);

/// The lines of this process; empty before [`start`].
static LINES: OnceLock<Arc<Queue>> = OnceLock::new();

/// Takes finished lines, one at a time. It may block: only the writing thread calls it.
trait Sink: Send {
    fn send(&mut self, entry: &Entry) -> io::Result<()>;
}

/// Starts logging for the daemon `program`: to syslog in the background, for the journal under systemd, else to
/// the terminal. Panics are logged too. To be called once, after [`crate::sys::process::start`]: the process's
/// number is part of a line, and the thread that writes would not outlive a fork.
///
/// # Errors
/// The thread cannot be made.
pub fn start(mode: Mode, program: &'static str, level: LevelFilter) -> io::Result<()> {
    let sink: Box<dyn Sink> = match mode {
        Mode::Background => Box::new(Syslog::new(Path::new(SYSLOG_SOCKET), program)),
        Mode::Systemd => Box::new(Journal),
        Mode::Foreground => Box::new(Terminal::new()),
    };
    let queue = Arc::clone(LINES.get_or_init(Arc::default));
    let lines = Arc::clone(&queue);
    let mut output = Output::new(sink);
    thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || run_tenaciously("log", || lines.write_to(&mut output)))?;
    if log::set_boxed_logger(Box::new(Logger { queue })).is_ok() {
        set_level(level);
        std::panic::set_hook(Box::new(log_panic));
    }
    Ok(())
}

/// Waits until the log has all lines, for this long at most: to be called before the process ends.
pub fn flush(limit: Duration) {
    if let Some(queue) = LINES.get() {
        queue.tell_left_out();
        queue.flush(limit);
    }
}

/// Waits for room.
fn make_room() {
    if let Some(queue) = LINES.get() {
        queue.flush(ROOM_LIMIT);
    }
}

/// To be called before the process aborts: what has been logged reaches the log first, unless that stalls.
pub fn last_words() {
    flush(LAST_WORDS);
}

/// Logs lines that nothing else has, as the records of calls that no disk takes: waits for a log that is slower than
/// they come, though not for one that stalls. Not to be called by a thread that serves calls, nor with a lock held.
pub fn log_all(level: Level, lines: impl IntoIterator<Item = String>) {
    for (number, line) in lines.into_iter().enumerate() {
        if number % AT_ONCE == AT_ONCE - 1 {
            make_room();
        }
        log::log!(target: RECORDS, level, "{line}");
    }
    make_room();
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
    last_words();
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
    queue: Arc<Queue>,
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
            let level = record.level();
            count(level);
            let is_record = record.target() == RECORDS;
            let room = match is_record || level >= Level::Info {
                true => line::WHOLE,
                false => line::USUAL,
            };
            let text = Line::new(*record.args(), room).into_text();
            let is_free = match level {
                Level::Error | Level::Warn => is_record,
                Level::Info => is_record || text.starts_with(SESSION),
                Level::Debug | Level::Trace => true,
            };
            let site = (
                record.file_static().unwrap_or_default(),
                record.line().unwrap_or_default(),
            );
            match is_free {
                true => self.queue.push(level, text),
                false => self.queue.push_limited(site, level, text),
            }
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

    fn write(&mut self, entry: &Entry) {
        if !self.say_lost() || self.sink.send(entry).is_err() {
            self.lost += 1;
        }
    }

    /// So many lines were lost on the way here.
    fn lose(&mut self, count: u64) {
        self.lost += count;
        self.say_lost();
    }

    /// Says how many lines were lost. Returns false where the sink does not take that either.
    fn say_lost(&mut self) -> bool {
        if self.lost > 0 {
            let entry = Entry {
                level: Level::Warn,
                at: clock::now().unix.elapsed(),
                text: format!(
                    "{} log lines were lost: the log did not take them in time",
                    self.lost
                ),
            };
            if self.sink.send(&entry).is_err() {
                return false;
            }
            self.lost = 0;
        }
        true
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
        fn send(&mut self, entry: &Entry) -> io::Result<()> {
            self.0
                .try_send(format!("{} {}", entry.level, entry.text))
                .map_err(|_| io::ErrorKind::WouldBlock.into())
        }
    }

    fn logger(room: usize) -> (Logger, Receiver<String>) {
        let (sender, lines) = mpsc::sync_channel(room);
        let queue = Arc::new(Queue::default());
        let writer = Arc::clone(&queue);
        thread::spawn(move || writer.write_to(&mut Output::new(Box::new(Full(sender)))));
        (Logger { queue }, lines)
    }

    fn log(logger: &Logger, target: &str, level: Level, text: &str) {
        logger.log(
            &Record::builder()
                .target(target)
                .level(level)
                .args(format_args!("{text}"))
                .build(),
        );
        logger.queue.flush(Duration::from_secs(60));
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
                "WARN 3 log lines were lost: the log did not take them in time",
                "INFO 6"
            ]
        );
    }

    /// A flood by one place is bounded and its number told, what sessions do and what only the log has is not.
    #[test]
    fn a_flood_is_cut_and_told_and_what_sessions_do_is_not() {
        let (logger, lines) = logger(10_000);
        let flood = |target: &str, level, text: &str, line| {
            for number in 0..1000 {
                logger.log(
                    &Record::builder()
                        .target(target)
                        .level(level)
                        .file_static(Some("here.rs"))
                        .line(Some(line))
                        .args(format_args!("{text} {number}"))
                        .build(),
                );
            }
        };
        flood("mediaproxy::x", Level::Info, "[session a] ends", 1);
        flood(RECORDS, Level::Error, "a record", 2);
        flood("mediaproxy::x", Level::Warn, "[session a] bad", 3);
        flood("mediaproxy::x", Level::Info, "a client", 4);
        logger.queue.tell_left_out();
        logger.queue.flush(Duration::from_secs(60));
        let lines: Vec<String> = lines.try_iter().collect();
        let count = |text: &str| lines.iter().filter(|line| line.starts_with(text)).count();
        assert_eq!(count("INFO [session a] ends"), 1000);
        assert_eq!(count("ERROR a record"), 1000);
        for text in ["WARN [session a] bad", "INFO a client"] {
            let written = count(text);
            // It takes no second.
            assert!((100..120).contains(&written), "{text}: {written}");
            let (level, message) = text.split_once(' ').unwrap();
            let told = format!(
                "{level} {} more lines like the next one were left out in 1 s: {message} {written}",
                1000 - written
            );
            // One may have been let in while the flood went on.
            assert!(lines.contains(&told) || written > 100, "{told}: {lines:?}");
        }
    }

    /// What has been left out is told without another line coming.
    #[test]
    fn the_number_of_lines_left_out_comes_by_itself() {
        let (logger, lines) = logger(1000);
        for _ in 0..500 {
            logger
                .queue
                .push_limited(("here.rs", 1), Level::Warn, "noise".to_owned());
        }
        let told = lines.iter().find(|line| line.contains("more lines like"));
        let told = told.unwrap();
        assert!(
            told.starts_with("WARN ") && told.ends_with(": noise"),
            "{told}"
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
