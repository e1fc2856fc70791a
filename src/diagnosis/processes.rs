//! Processes of this host as they show themselves (proc_pid_stat(5), proc_pid_limits(5)).

use std::fs;

/// All processes of a program, by the first 15 bytes of its name; those in containers are no part of this host.
pub fn named(program: &str) -> Vec<i32> {
    let short = program.get(..15).unwrap_or(program);
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| name(*pid).as_deref() == Some(short) && is_of_host(*pid))
        .collect()
}

/// Returns true if it has our process ids; one whose cannot be seen is taken for one that has.
fn is_of_host(pid: i32) -> bool {
    let own = fs::read_link("/proc/self/ns/pid").ok();
    let theirs = fs::read_link(format!("/proc/{pid}/ns/pid"));
    theirs.is_err() || theirs.ok() == own
}

/// A process's name: the first 15 bytes of its program's.
pub fn name(pid: i32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

/// Returns true if a process is stopped, by a signal or a debugger: it is there and does nothing.
pub fn is_stopped(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    matches!(state(&stat), Some('T' | 't'))
}

/// Behind the name, which may hold anything.
fn state(stat: &str) -> Option<char> {
    stat.rsplit_once(") ")?.1.chars().next()
}

/// How many files a process may have open; none where this user cannot see it.
pub fn open_files(pid: i32) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let mut lines = limits.lines();
    let line = lines.find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_stopped_process_is_told_from_one_that_sleeps() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let send = |signal: &str| {
            let kill = format!("kill -{signal} {pid}");
            assert!(
                Command::new("sh")
                    .args(["-c", &kill])
                    .status()
                    .unwrap()
                    .success()
            );
        };
        // From its fork to its exec it has our name.
        while !named("sleep").contains(&pid) {
            std::thread::yield_now();
        }
        assert!(!is_stopped(pid));
        send("STOP");
        while !is_stopped(pid) {
            std::thread::yield_now();
        }
        send("CONT");
        while is_stopped(pid) {
            std::thread::yield_now();
        }
        assert!(open_files(pid).is_some());
        child.kill().and_then(|()| child.wait()).unwrap();
        assert_eq!(state("7 (a) T) S 1"), Some('S'));
        assert_eq!(state(""), None);
        assert!(!is_stopped(i32::MAX) && open_files(i32::MAX).is_none());
    }
}
