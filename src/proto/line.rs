//! Bytes to bounded lines: what every text protocol here reads from.
//!
//! A line ends in LF, with or without a CR before it. The buffer never holds more than one read beyond the
//! longest line allowed, whatever the peer sends.

use std::ops::Range;

/// A peer sent a line longer than it may; nothing after it can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong {
    /// The limit, bytes.
    pub limit: usize,
}

impl std::fmt::Display for TooLong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line over {} bytes", self.limit)
    }
}

/// Memory kept for the next line once the buffer has run empty, bytes.
const KEPT_CAPACITY: usize = 64 * 1024;

/// Collects bytes as they arrive and gives out whole lines.
#[derive(Debug)]
pub struct Lines {
    buffer: Vec<u8>,
    /// Where the next line begins.
    start: usize,
    /// Up to here no LF was found.
    scanned: usize,
    /// Where the line that was given out last stands, its end not counted.
    given: Range<usize>,
    limit: usize,
}

impl Lines {
    /// Reads lines of up to `limit` bytes, the line end not counted.
    pub fn new(limit: usize) -> Self {
        Lines {
            buffer: Vec::new(),
            start: 0,
            scanned: 0,
            given: 0..0,
            limit,
        }
    }

    /// Adds what was read. Take all lines with [`Lines::next_line`] before adding more.
    pub fn extend(&mut self, bytes: &[u8]) {
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.buffer.shrink_to(KEPT_CAPACITY);
        } else {
            self.buffer.drain(..self.start);
        }
        self.scanned -= self.start;
        self.start = 0;
        self.given = 0..0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The line that was given out last, from `skip` on, to keep. Where it is long and nothing follows it, that
    /// is the buffer itself: a line of megabytes is not there twice.
    pub fn take_given(&mut self, skip: usize) -> Vec<u8> {
        let given = (self.given.start + skip).min(self.given.end)..self.given.end;
        if given.len() <= KEPT_CAPACITY || self.start < self.buffer.len() {
            return self.buffer.get(given).unwrap_or_default().to_vec();
        }
        let mut line = std::mem::take(&mut self.buffer);
        self.start = 0;
        self.scanned = 0;
        self.given = 0..0;
        line.truncate(given.end);
        line.drain(..given.start);
        line
    }

    /// What has come of the next line, none of whose end has come.
    pub fn begun(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    /// Takes that out: the rest of the line is read by somebody else.
    pub fn take_begun(&mut self) -> Vec<u8> {
        let begun = self.buffer.split_off(self.start);
        self.buffer = Vec::new();
        self.start = 0;
        self.scanned = 0;
        self.given = 0..0;
        begun
    }

    /// The next whole line without its end, or none until more is read.
    pub fn next_line(&mut self) -> Result<Option<&[u8]>, TooLong> {
        let too_long = TooLong { limit: self.limit };
        let found = self.buffer[self.scanned..].iter().position(|&b| b == b'\n');
        let Some(offset) = found else {
            self.scanned = self.buffer.len();
            // One byte more than the limit may be a CR whose LF is still to come.
            if self.buffer.len() - self.start > self.limit + 1 {
                return Err(too_long);
            }
            return Ok(None);
        };
        let end = self.scanned + offset;
        let line = &self.buffer[self.start..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.given = self.start..self.start + line.len();
        self.start = end + 1;
        self.scanned = self.start;
        if line.len() > self.limit {
            return Err(too_long);
        }
        Ok(Some(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(lines: &mut Lines) -> Vec<String> {
        let mut found = Vec::new();
        while let Some(line) = lines.next_line().unwrap() {
            found.push(String::from_utf8(line.to_vec()).unwrap());
        }
        found
    }

    #[test]
    fn both_line_ends_in_any_pieces() {
        let input = b"one\r\ntwo\n\r\nlast\r\n";
        for size in 1..=input.len() {
            let mut lines = Lines::new(10);
            let mut found = Vec::new();
            for piece in input.chunks(size) {
                lines.extend(piece);
                found.extend(all(&mut lines));
            }
            assert_eq!(found, ["one", "two", "", "last"], "pieces of {size}");
        }
    }

    #[test]
    fn the_limit_is_exact() {
        let mut lines = Lines::new(4);
        lines.extend(b"1234\r\n");
        assert_eq!(all(&mut lines), ["1234"]);
        lines.extend(b"12345\n");
        assert_eq!(lines.next_line(), Err(TooLong { limit: 4 }));
        let mut lines = Lines::new(4);
        lines.extend(b"1234\r");
        assert_eq!(lines.next_line(), Ok(None));
        lines.extend(b"5");
        assert_eq!(lines.next_line(), Err(TooLong { limit: 4 }));
    }

    #[test]
    fn a_line_can_be_kept() {
        let long = "x".repeat(KEPT_CAPACITY + 1);
        for (input, first) in [("7 one\r\ntwo\n", "one"), (&format!("7 {long}\r\n"), &long)] {
            let mut lines = Lines::new(1 << 20);
            lines.extend(b"before\n");
            assert_eq!(lines.next_line().unwrap(), Some(b"before".as_slice()));
            lines.extend(input.as_bytes());
            lines.next_line().unwrap().unwrap();
            assert_eq!(lines.take_given(2), first.as_bytes());
            assert!(lines.take_given(1 << 30).is_empty());
            lines.extend(b"last\n");
            assert_eq!(all(&mut lines).last().unwrap(), "last");
        }
    }

    #[test]
    fn memory_of_a_long_line_is_given_back() {
        let mut lines = Lines::new(1 << 20);
        let mut long = vec![b'x'; 1 << 20];
        long.push(b'\n');
        lines.extend(&long);
        assert_eq!(lines.next_line().unwrap().unwrap().len(), 1 << 20);
        lines.extend(b"short\n");
        assert!(lines.buffer.capacity() <= KEPT_CAPACITY);
        assert_eq!(all(&mut lines), ["short"]);
    }
}
