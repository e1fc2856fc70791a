//! What the operating system knows of this process, under the names that all exporters use. From /proc; what cannot
//! be read there is left out.

use std::fs;
use std::sync::OnceLock;
use std::time::Duration;

use super::text::Exposition;
use crate::sys::{clock, limits, usage};

/// When this process began, as far as it knows: since 1970.
fn started() -> Duration {
    static STARTED: OnceLock<Duration> = OnceLock::new();
    *STARTED.get_or_init(|| clock::now().unix.elapsed())
}

/// To be called at the start: it is the start.
pub fn note_start() {
    started();
}

/// Writes the families of the process.
pub fn write(text: &mut Exposition) {
    let help = "User and system CPU time of the process.";
    let mut family = text.counter("process_cpu_seconds_total", help);
    if let Ok(spent) = usage::process_cpu() {
        family.is(spent);
    }
    let mut family = text.gauge("process_open_fds", "Open file descriptors.");
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // One of them reads this.
        family.is(open.count().saturating_sub(1));
    }
    let mut family = text.gauge("process_max_fds", "File descriptors that may be open.");
    if let Ok(limit) = limits::most_open_files() {
        family.is(limit);
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    for (name, key, help) in [
        (
            "process_resident_memory_bytes",
            "VmRSS",
            "Memory that is resident.",
        ),
        (
            "process_virtual_memory_bytes",
            "VmSize",
            "Memory that is mapped.",
        ),
    ] {
        let mut family = text.gauge(name, help);
        if let Some(kibibytes) = field(&status, key) {
            family.is(kibibytes * 1024);
        }
    }
    let mut family = text.gauge("process_threads", "Threads of the process.");
    if let Some(threads) = field(&status, "Threads") {
        family.is(threads);
    }
    let help = "Start of the process, seconds since 1970.";
    text.gauge("process_start_time_seconds", help).is(started());
}

/// The number behind a name in /proc/self/status.
fn field(status: &str, name: &str) -> Option<u64> {
    let mut lines = status.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse().ok()
}

/// CPU time of this process's threads of a name, in the order of their start.
pub fn thread_cpu(name: &str) -> Vec<Duration> {
    let mut found: Vec<(u32, Duration)> = Vec::new();
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten();
    for thread in threads.flatten() {
        let read = |file: &str| fs::read_to_string(thread.path().join(file)).unwrap_or_default();
        if read("comm").trim_end() != name {
            continue;
        }
        let number = thread.file_name().to_str().and_then(|id| id.parse().ok());
        // Nanoseconds on a processor come first (the kernel's Documentation/scheduler/sched-stats).
        let spent = read("schedstat");
        let spent = spent.split(' ').next().and_then(|first| first.parse().ok());
        if let (Some(number), Some(spent)) = (number, spent) {
            found.push((number, Duration::from_nanos(spent)));
        }
    }
    found.sort_unstable();
    found.into_iter().map(|(_, spent)| spent).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_has_everything() {
        let mut text = Exposition::default();
        write(&mut text);
        let text = text.finish();
        let value = |name: &str| -> f64 {
            let line = text
                .lines()
                .find(|line| line.starts_with(&format!("{name} ")));
            let line = line.unwrap_or_else(|| panic!("no {name}: {text}"));
            line.split_once(' ').unwrap().1.parse().unwrap()
        };
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_max_fds") >= value("process_open_fds"));
        let resident = value("process_resident_memory_bytes");
        assert!(resident > 1e5 && resident <= value("process_virtual_memory_bytes"));
        assert!(value("process_threads") >= 1.0);
        assert!(value("process_cpu_seconds_total") > 0.0);
        assert!(value("process_start_time_seconds") > 1.7e9);
    }

    #[test]
    fn fields_of_status() {
        let status = "Name:\tVmRSS\nVmRSSx:\t1 kB\nVmRSS:\t   2048 kB\nThreads:\t7\n";
        assert_eq!(field(status, "VmRSS"), Some(2048));
        assert_eq!(field(status, "Threads"), Some(7));
        assert_eq!(field(status, "VmSize"), None);
    }

    #[test]
    fn threads_by_name() {
        let (wait, waiting) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("spinner".to_owned());
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = thread.spawn(move || {
            let sum: u64 = (0..3_000_000_u64).map(std::hint::black_box).sum();
            ready.send(sum).unwrap();
            let _ = waiting.recv();
        });
        is_ready.recv().unwrap();
        let spent = thread_cpu("spinner");
        assert!(spent.len() == 1 && !spent[0].is_zero(), "{spent:?}");
        assert!(thread_cpu("no such thread").is_empty());
        drop(wait);
        thread.unwrap().join().unwrap();
    }
}
