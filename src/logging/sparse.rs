//! Log lines that a peer can cause at will: one each ten seconds or each minute, with the number of those left out.

use std::fmt;
use std::time::Duration;

use crate::moment::Moment;
use crate::sys::clock;

const USUAL_INTERVAL: Duration = Duration::from_secs(10);

/// Says when it is time for the next line.
#[derive(Debug)]
pub struct Sparse {
    interval: Duration,
    last: Option<Moment>,
    skipped: u64,
}

impl Default for Sparse {
    /// One line each ten seconds.
    fn default() -> Sparse {
        Sparse::every(USUAL_INTERVAL)
    }
}

/// How many lines were left out; nothing when none was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skipped(u64);

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            count => write!(f, " (and {count} more like it before)"),
        }
    }
}

impl Sparse {
    /// One line in each such interval.
    pub fn every(interval: Duration) -> Sparse {
        Sparse {
            interval,
            last: None,
            skipped: 0,
        }
    }

    /// What to append to the line, or none when it is to be left out.
    pub fn due(&mut self) -> Option<Skipped> {
        self.due_at(clock::moment())
    }

    fn due_at(&mut self, now: Moment) -> Option<Skipped> {
        if self.last.is_some_and(|last| now < last + self.interval) {
            self.skipped += 1;
            return None;
        }
        self.last = Some(now);
        Some(Skipped(std::mem::take(&mut self.skipped)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_line_each_interval() {
        let mut sparse = Sparse::default();
        let at = |seconds| Moment::after_start(Duration::from_secs(seconds));
        assert_eq!(sparse.due_at(at(0)), Some(Skipped(0)));
        assert_eq!(sparse.due_at(at(1)), None);
        assert_eq!(sparse.due_at(at(9)), None);
        let next = sparse.due_at(at(10)).unwrap();
        assert_eq!(next.to_string(), " (and 2 more like it before)");
        assert_eq!(Skipped(0).to_string(), "");
    }
}
