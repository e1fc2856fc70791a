//! Threads that a daemon cannot do without.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

/// Before a thread that has panicked goes on.
const REST: Duration = Duration::from_secs(1);

/// Runs this, and should it panic, says so and runs it again a second later. What it works on must be fit for that:
/// locks are taken whatever happened to their last holder.
pub fn run_tenaciously(name: &str, mut run: impl FnMut()) {
    while catch_unwind(AssertUnwindSafe(&mut run)).is_err() {
        log::error!("internal error: the {name} thread panicked, it is started again");
        thread::sleep(REST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_not_the_end() {
        let mut runs = 0;
        run_tenaciously("test", || {
            runs += 1;
            assert!(runs > 1, "told to");
        });
        assert_eq!(runs, 2);
    }
}
