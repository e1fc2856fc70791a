//! What became of the calls of the process before this one: for the log, the metrics and the summary.

use std::fmt;
use std::time::Duration;

use crate::words::counted;

/// What became of the calls of the process before this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TakenOver {
    pub adopted: usize,
    /// Ended, and told as expired; or not to be read.
    pub lost: usize,
    pub took: Duration,
}

impl fmt::Display for TakenOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TakenOver {
            adopted,
            lost,
            took,
        } = self;
        write!(f, "took over {}", counted(*adopted, "call"))?;
        if *lost > 0 {
            write!(f, " ({lost} could not be)")?;
        }
        write!(f, " in {:.2} s", took.as_secs_f32())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_over_is_one_line() {
        let mut taken_over = TakenOver {
            adopted: 350,
            lost: 0,
            took: Duration::from_millis(184),
        };
        assert_eq!(taken_over.to_string(), "took over 350 calls in 0.18 s");
        taken_over.lost = 2;
        assert_eq!(
            taken_over.to_string(),
            "took over 350 calls (2 could not be) in 0.18 s"
        );
    }
}
