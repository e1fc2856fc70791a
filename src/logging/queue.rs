//! Finished lines on their way to the sink: whoever logs appends here and goes on, one thread of its own writes.
//!
//! A log that nobody reads (a pipe whose reader stalls, a full disk, a terminal that is stopped) blocks that thread
//! alone. Lines for which there is no room meanwhile are counted, and the number is the next line.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use log::Level;

use super::Output;
use super::limit::{LOOK_INTERVAL, Limit, Site};
use crate::moment::UnixTime;
use crate::sys::clock;

/// Bytes of lines that wait: ten seconds of 1,000 lines a second. As much may be on its way to the sink.
const MAX_QUEUE_SIZE: usize = 1 << 20;
/// What a line costs besides its text, bytes: about the size of an entry and its allocation.
const LINE_OVERHEAD: usize = 64;

/// One line, and when it was logged.
pub(super) struct Entry {
    pub level: Level,
    pub at: UnixTime,
    /// One line, without its end.
    pub text: String,
}

#[derive(Default)]
struct QueueState {
    lines: VecDeque<Entry>,
    bytes: usize,
    /// Lines for which there was no room, since the last that waits.
    lost: u64,
    /// The writer waits for lines.
    is_idle: bool,
    limit: Limit,
}

impl QueueState {
    fn append(&mut self, level: Level, text: String) {
        let at = clock::now().unix;
        let size = text.len() + LINE_OVERHEAD;
        // Once a line is lost the next ones are, too, so that the number stands where they were.
        if self.lost > 0 || self.bytes + size > MAX_QUEUE_SIZE {
            self.lost += 1;
        } else {
            self.bytes += size;
            self.lines.push_back(Entry { level, at, text });
        }
    }

    /// Appends what is to be told of lines that were left out.
    fn tell_left_out(&mut self, is_end: bool) {
        for (level, text) in self.limit.due(clock::moment(), is_end) {
            self.append(level, text);
        }
    }
}

/// Lines that wait for the writer.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<QueueState>,
    /// Lines have come.
    filled: Condvar,
    /// The writer has written all there was.
    emptied: Condvar,
}

impl Queue {
    /// Appends a line. Never waits for the sink; a system call only where the writer sleeps.
    pub(super) fn push(&self, level: Level, text: String) {
        let mut state = self.lock();
        state.append(level, text);
        self.wake(state);
    }

    /// The same for a line of a place that may write only so many.
    pub(super) fn push_limited(&self, site: Site, level: Level, text: String) {
        let mut state = self.lock();
        let was_waiting = state.limit.is_waiting();
        if state.limit.admits(site, level, &text, clock::moment()) {
            state.append(level, text);
        } else if was_waiting {
            // The writer knows already that it has to look again.
            return;
        }
        self.wake(state);
    }

    /// Tells of all lines that were left out: this is the end.
    pub(super) fn tell_left_out(&self) {
        let mut state = self.lock();
        state.tell_left_out(true);
        self.wake(state);
    }

    fn wake(&self, mut state: MutexGuard<'_, QueueState>) {
        if std::mem::take(&mut state.is_idle) {
            drop(state);
            self.filled.notify_one();
        }
    }

    /// Writes what comes, for ever.
    pub(super) fn write_to(self: &Arc<Self>, output: &mut Output) {
        loop {
            let (lines, lost) = self.take();
            for entry in &lines {
                output.write(entry);
            }
            output.lose(lost);
        }
    }

    fn take(&self) -> (VecDeque<Entry>, u64) {
        let mut state = self.lock();
        loop {
            state.tell_left_out(false);
            if !state.lines.is_empty() || state.lost > 0 {
                break;
            }
            state.is_idle = true;
            self.emptied.notify_all();
            state = if state.limit.is_waiting() {
                let waited = self.filled.wait_timeout(state, LOOK_INTERVAL);
                waited.unwrap_or_else(PoisonError::into_inner).0
            } else {
                let waited = self.filled.wait(state);
                waited.unwrap_or_else(PoisonError::into_inner)
            };
        }
        state.is_idle = false;
        state.bytes = 0;
        (
            std::mem::take(&mut state.lines),
            std::mem::take(&mut state.lost),
        )
    }

    /// Waits until all lines are with the sink, or this time is up: then the sink blocks.
    pub(super) fn flush(&self, limit: Duration) {
        let end = clock::moment() + limit;
        let mut state = self.lock();
        while !(state.is_idle && state.lines.is_empty()) {
            let left = end.since(clock::moment());
            if left.is_zero() {
                return;
            }
            let waited = self.emptied.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
    use std::thread;

    use super::super::Sink;
    use super::*;

    /// A sink whose reader has stopped: a line blocks until the test receives it.
    struct Stalled(SyncSender<String>);

    impl Sink for Stalled {
        fn send(&mut self, entry: &Entry) -> io::Result<()> {
            self.0
                .send(entry.text.clone())
                .map_err(|_| io::ErrorKind::BrokenPipe.into())
        }
    }

    fn stalled() -> (Arc<Queue>, Receiver<String>) {
        let (sender, lines) = sync_channel(0);
        let queue = Arc::new(Queue::default());
        let writer = Arc::clone(&queue);
        thread::spawn(move || writer.write_to(&mut Output::new(Box::new(Stalled(sender)))));
        (queue, lines)
    }

    #[test]
    fn a_log_that_nobody_reads_holds_nobody_and_takes_no_memory() {
        let (queue, lines) = stalled();
        queue.push(Level::Info, "first".to_owned());
        // On its way to the sink, which does not return.
        while !queue.lock().lines.is_empty() {
            thread::yield_now();
        }
        let long = "x".repeat(1000);
        for _ in 0..5000 {
            queue.push(Level::Info, long.clone());
        }
        let (kept, lost) = {
            let state = queue.lock();
            assert!(state.bytes <= MAX_QUEUE_SIZE);
            (state.lines.len(), state.lost)
        };
        assert!((900..1100).contains(&kept), "{kept}");
        assert_eq!(kept as u64 + lost, 5000);
        assert_eq!(lines.recv().unwrap(), "first");
        for _ in 0..kept {
            assert_eq!(lines.recv().unwrap(), long);
        }
        let told = format!("{lost} log lines were lost: the log did not take them in time");
        assert_eq!(lines.recv().unwrap(), told);
        queue.push(Level::Info, "after".to_owned());
        assert_eq!(lines.recv().unwrap(), "after");
    }

    /// What `log_all` does with more than the queue holds: a log that reads gets all of it.
    #[test]
    fn lines_that_come_faster_than_they_are_written_are_all_kept_by_flushes_between() {
        let (queue, lines) = stalled();
        let reader = thread::spawn(move || {
            let long = lines.iter().take(400).filter(|line| line.len() == 8000);
            long.count()
        });
        for number in 0..400 {
            if number % 64 == 63 {
                queue.flush(Duration::from_secs(60));
            }
            queue.push(Level::Error, "x".repeat(8000));
        }
        assert_eq!(
            reader.join().unwrap(),
            400,
            "over 3 MB, three times the room"
        );
    }

    #[test]
    fn a_flush_waits_for_the_last_line_but_not_for_ever() {
        let (queue, lines) = stalled();
        queue.flush(Duration::from_secs(60));
        queue.push(Level::Info, "last".to_owned());
        queue.flush(Duration::from_millis(1));
        let reader = thread::spawn(move || lines.recv().unwrap());
        queue.flush(Duration::from_secs(60));
        assert!(queue.lock().lines.is_empty());
        assert_eq!(reader.join().unwrap(), "last");
    }
}
