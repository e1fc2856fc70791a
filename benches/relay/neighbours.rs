//! When the hypervisor gave this machine's processors to others: what was under way then says nothing of us.

use std::thread;
use std::time::Duration;

use mediaproxy::moment::Moment;
use mediaproxy::sys::clock;

use crate::aside::Aside;

/// How often that is looked at. The kernel counts in hundredths of a second (proc(5), /proc/stat, "steal").
const LOOKS: Duration = Duration::from_millis(20);

/// A time in which it happened.
#[derive(Clone, Copy)]
pub struct Window {
    begin: Moment,
    end: Moment,
}

impl Window {
    /// Whether what began and took so long was under way.
    pub fn meets(&self, began: Moment, took: Duration) -> bool {
        self.begin < began + took && began < self.end
    }
}

/// Watches until it is asked for the windows, oldest first.
pub fn watch() -> Aside<Vec<Window>> {
    Aside::start(|is_over| {
        let mut windows: Vec<Window> = Vec::new();
        let mut last = (clock::moment(), stolen());
        while !is_over() {
            thread::sleep(LOOKS);
            let now = (clock::moment(), stolen());
            if now.1 > last.1 {
                windows.push(Window {
                    // It may have been counted late.
                    begin: last.0.saturating_sub(LOOKS),
                    end: now.0,
                });
            }
            last = now;
        }
        windows
    })
}

/// Time that all processors lost, in the kernel's units; 0 where it is not told.
fn stolen() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let of_all = text.lines().next().unwrap_or_default();
    let steal = of_all.split_whitespace().nth(8);
    steal.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}
