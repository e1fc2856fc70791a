//! Where the shell reads the clocks; the core is given what this returns.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use crate::moment::Now;

/// Time since the process first asked, on the monotonic clock.
#[expect(
    clippy::disallowed_methods,
    reason = "the shell's one place to read it"
)]
pub fn mono() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = *START.get_or_init(Instant::now);
    Instant::now().saturating_duration_since(start)
}

/// Both clocks.
#[expect(
    clippy::disallowed_methods,
    reason = "the shell's one place to read it"
)]
pub fn now() -> Now {
    let unix = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Now { mono: mono(), unix }
}
