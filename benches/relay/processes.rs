//! What processes have used: CPU time, peak memory, system calls.

use std::fs;
use std::process::Command;
use std::time::Duration;

/// CPU time of all threads, past ones included, from /proc/PID/stat (proc(5)), where a tick is 10 ms.
pub fn cpu_time(pids: &[u32]) -> Result<Duration, String> {
    let mut ticks = 0;
    for pid in pids {
        let path = format!("/proc/{pid}/stat");
        let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        // The name in parentheses may hold blanks; utime and stime are the 14th and 15th field.
        let fields = text.rsplit(')').next().unwrap_or_default();
        let times = fields.split_ascii_whitespace().skip(11).take(2);
        let times: Vec<u64> = times.flat_map(str::parse).collect();
        let [user, system] = times[..] else {
            return Err(format!("{path}: no times in \"{text}\""));
        };
        ticks += user + system;
    }
    Ok(Duration::from_millis(10 * ticks))
}

/// Largest resident size so far, bytes.
pub fn peak_memory(pid: u32) -> Result<u64, String> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let kilobytes = kilobytes.ok_or_else(|| format!("{path}: no VmHWM"))?;
    Ok(kilobytes * 1024)
}

/// System calls of a process while it is watched; none where perf cannot count them (it needs root).
pub fn system_calls(pid: u32, length: Duration) -> Option<u64> {
    let seconds = length.as_secs_f32().to_string();
    let output = Command::new("perf")
        .args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p"])
        .args([&pid.to_string(), "--", "sleep", &seconds])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = text.lines().find(|line| line.contains("raw_syscalls"))?;
    line.split(',').next()?.parse().ok()
}
