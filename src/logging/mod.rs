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
const LAST_WORDS_LIMIT: Duration = Duration::from_millis(200);

/// Lines that [`log_all`] writes between two looks whether there is room for more: each has 8 KB at most.
const LINES_PER_FLUSH: usize = 64;

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
    flush(LAST_WORDS_LIMIT);
}

/// Logs lines that nothing else has, as the records of calls that no disk takes: waits for a log that is slower than
/// they come, though not for one that stalls. Not to be called by a thread that serves calls, nor with a lock held.
pub fn log_all(level: Level, lines: impl IntoIterator<Item = String>) {
    for (number, line) in lines.into_iter().enumerate() {
        if number % LINES_PER_FLUSH == LINES_PER_FLUSH - 1 {
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
            let room = if is_record || level >= Level::Info {
                line::MAX_WHOLE_SIZE
            } else {
                line::MAX_SIZE
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
            if is_free {
                self.queue.push(level, text)
            } else {
                self.queue.push_limited(site, level, text)
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
                at: clock::now().unix,
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
mod tests;
