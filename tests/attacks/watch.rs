//! What is seen of a daemon from outside: its log, memory and descriptors.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Call-ids of normal calls begin so; a log line without it is about somebody else.
pub const NORMAL: &str = "load-";

/// What the honest do that a test has beside those calls.
const HONEST: [&str; 4] = ["(honest)", "127.0.0.77", "127.0.0.78", "[session probed]"];

/// Lines that are kept to tell why something went wrong.
const KEPT: usize = 20_000;
/// Kinds of lines that are told apart.
const KINDS: usize = 500;

/// A daemon's standard error, read line by line as long as nobody stalls it.
#[derive(Default)]
pub struct Log {
    stalled: AtomicBool,
    book: Mutex<Book>,
}

/// What was read.
#[derive(Clone, Debug, Default)]
pub struct Book {
    pub lines: u64,
    pub bytes: u64,
    /// Lines that name no normal call and nobody honest.
    pub strange: u64,
    pub longest: usize,
    /// The strange ones by their words, numbers left out.
    kinds: BTreeMap<String, u64>,
    last: VecDeque<String>,
}

impl Log {
    /// Reads what the daemon writes, to its end.
    pub fn of(stderr: impl Read + Send + 'static) -> Arc<Log> {
        let log = Arc::new(Log::default());
        let reader = log.clone();
        thread::spawn(move || {
            let mut stderr = BufReader::new(stderr);
            let mut line = Vec::new();
            while matches!(stderr.read_until(b'\n', &mut line), Ok(1..)) {
                while reader.stalled.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(20));
                }
                reader.lock().note(&line);
                line.clear();
            }
        });
        log
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is read any more, or all again.
    pub fn stall(&self, is_stalled: bool) {
        self.stalled.store(is_stalled, Ordering::Relaxed);
    }

    pub fn book(&self) -> Book {
        self.lock().clone()
    }

    /// The last lines that have this.
    pub fn about(&self, part: &str) -> Vec<String> {
        let book = self.lock();
        let lines = book.last.iter().filter(|line| line.contains(part));
        let lines: Vec<String> = lines.cloned().collect();
        lines[lines.len().saturating_sub(4)..].to_vec()
    }

    /// All lines that are kept.
    pub fn kept(&self) -> String {
        let book = self.lock();
        let lines: Vec<&str> = book.last.iter().map(String::as_str).collect();
        lines.join("\n") + "\n"
    }

    /// The end of it.
    pub fn end(&self) -> String {
        let book = self.lock();
        let from = book.last.len().saturating_sub(15);
        let lines: Vec<&str> = book.last.iter().skip(from).map(String::as_str).collect();
        lines.join("\n  ")
    }
}

impl Book {
    fn note(&mut self, line: &[u8]) {
        let text = String::from_utf8_lossy(line).trim_end().to_owned();
        self.lines += 1;
        self.bytes += line.len() as u64;
        if !text.contains(NORMAL) && !HONEST.iter().any(|part| text.contains(part)) {
            self.strange += 1;
            self.longest = self.longest.max(line.len());
            let kind: String = text
                .chars()
                .filter(|c| !c.is_ascii_digit())
                .take(150)
                .collect();
            if self.kinds.len() < KINDS || self.kinds.contains_key(&kind) {
                *self.kinds.entry(kind).or_default() += 1;
            }
        }
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(text.chars().take(400).collect());
    }

    /// What there is more than in an earlier one of the same log.
    pub fn since(&self, earlier: &Book) -> Book {
        let mut since = self.clone();
        since.lines -= earlier.lines;
        since.bytes -= earlier.bytes;
        since.strange -= earlier.strange;
        for (kind, count) in &mut since.kinds {
            *count -= earlier.kinds.get(kind).copied().unwrap_or_default();
        }
        since
    }

    /// The strange lines that came most often.
    pub fn most(&self) -> Vec<String> {
        let mut kinds: Vec<_> = self.kinds.iter().filter(|(_, count)| **count > 0).collect();
        kinds.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let told = kinds
            .iter()
            .take(6)
            .map(|(kind, count)| format!("{count} x {kind}"));
        told.collect()
    }
}

/// What a process takes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken {
    /// Resident, in KiB.
    pub memory: u64,
    pub descriptors: u64,
    pub threads: u64,
    /// Time of processors since the start, in hundredths of a second.
    pub processor: u64,
}

impl Taken {
    pub fn by(pid: u32) -> Taken {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let word = line.and_then(|line| line.split_ascii_whitespace().next());
            word.and_then(|word| word.parse().ok()).unwrap_or_default()
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Behind the name, which may hold anything: in user space and in the kernel.
        let times = stat.rsplit(") ").next().unwrap_or_default();
        let times = times.split_ascii_whitespace().skip(11).take(2);
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"));
        Taken {
            memory: field("VmRSS:"),
            descriptors: descriptors.map_or(0, |found| found.count() as u64),
            threads: field("Threads:"),
            processor: times.filter_map(|time| time.parse::<u64>().ok()).sum(),
        }
    }

    /// The most of both.
    pub fn max(self, other: Taken) -> Taken {
        Taken {
            memory: self.memory.max(other.memory),
            descriptors: self.descriptors.max(other.descriptors),
            threads: self.threads.max(other.threads),
            processor: self.processor.max(other.processor),
        }
    }
}

/// How long this thread has waited for a processor so far.
pub fn waited() -> Duration {
    let told = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = told.split_ascii_whitespace().nth(1);
    Duration::from_nanos(nanoseconds.and_then(|n| n.parse().ok()).unwrap_or_default())
}
