//! Log lines that a peer can cause at will: one each ten seconds, with the number of those left out.

use std::fmt;
use std::time::Duration;

use crate::sys::clock;

const INTERVAL: Duration = Duration::from_secs(10);

/// Whether it is time for the next line of a kind.
#[derive(Debug, Default)]
pub struct Sparse {
    last: Option<Duration>,
    left_out: u64,
}

/// How many lines were left out before this one; nothing where none was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftOut(u64);

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            count => write!(
                f,
                " (and {count} more of the kind since the last such line)"
            ),
        }
    }
}

impl Sparse {
    /// What to add to the line; none where it is to be left out.
    pub fn due(&mut self) -> Option<LeftOut> {
        self.due_at(clock::mono())
    }

    fn due_at(&mut self, now: Duration) -> Option<LeftOut> {
        if self.last.is_some_and(|last| now < last + INTERVAL) {
            self.left_out += 1;
            return None;
        }
        self.last = Some(now);
        Some(LeftOut(std::mem::take(&mut self.left_out)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_each_interval() {
        let mut sparse = Sparse::default();
        let at = Duration::from_secs;
        assert_eq!(sparse.due_at(at(5)).unwrap().to_string(), "");
        assert_eq!(sparse.due_at(at(6)), None);
        assert_eq!(sparse.due_at(at(14)), None);
        let line = sparse.due_at(at(15)).unwrap().to_string();
        assert!(line.contains("2 more"), "{line}");
    }
}
