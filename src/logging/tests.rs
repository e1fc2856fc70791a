//! Tests of logging.

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
