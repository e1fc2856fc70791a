//! A moment on both clocks: the type that the shell reads and the core is given.

use std::time::Duration;

/// A moment on both clocks, read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Time since the process started; never steps. All deadlines are on this clock.
    pub mono: Duration,
    /// Time since 1970-01-01 UTC; for what people and databases read.
    pub unix: Duration,
}
