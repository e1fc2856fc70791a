//! Takes the records of one segment out of its file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::position::Position;
use super::record::{self, MAX_RECORD};

/// Bytes read at once.
const READ_SIZE: usize = 64 * 1024;

/// What stands at a position.
#[derive(Debug, PartialEq, Eq)]
pub enum Scanned {
    /// The position behind it, and its text.
    Record(Position, Vec<u8>),
    /// The position behind it, and the bytes of its line.
    Damaged(Position, Vec<u8>),
}

/// The lines of one segment.
#[derive(Debug)]
pub(super) struct Lines {
    position: Position,
    buffer: Vec<u8>,
    /// How much of the buffer has been handed out.
    taken: usize,
}

impl Lines {
    pub(super) fn new(position: Position) -> Lines {
        Lines {
            position,
            buffer: Vec::new(),
            taken: 0,
        }
    }

    /// Behind the last line that was handed out.
    pub(super) fn position(&self) -> Position {
        self.position
    }

    /// The next line that ends before `limit`, bytes from the file's beginning. What is longer than any record is
    /// handed out as damaged, in pieces.
    pub(super) fn next(&mut self, file: &File, limit: u64) -> io::Result<Option<Scanned>> {
        let mut searched = 0;
        loop {
            let pending = self.buffer.get(self.taken..).unwrap_or_default();
            let new = pending.get(searched..).unwrap_or_default();
            if let Some(length) = new.iter().position(|b| *b == b'\n') {
                return Ok(Some(self.take(searched + length, 1)));
            }
            searched = pending.len();
            if searched > MAX_RECORD + READ_SIZE {
                return Ok(Some(self.take(searched, 0)));
            }
            if !self.fill(file, limit)? {
                return Ok(None);
            }
        }
    }

    /// Hands out so many bytes, and leaves out the line feed behind them.
    fn take(&mut self, length: usize, line_feed: usize) -> Scanned {
        let end = self.taken + length;
        let bytes = self.buffer.get(self.taken..end).unwrap_or_default();
        self.position.offset += (length + line_feed) as u64;
        self.taken = end + line_feed;
        match record::text(bytes) {
            Some(text) if line_feed == 1 => Scanned::Record(self.position, text.to_vec()),
            _ => Scanned::Damaged(self.position, bytes.to_vec()),
        }
    }

    /// Reads on; false at the limit.
    fn fill(&mut self, file: &File, limit: u64) -> io::Result<bool> {
        self.buffer.drain(..self.taken.min(self.buffer.len()));
        self.taken = 0;
        let length = self.buffer.len();
        let offset = self.position.offset + length as u64;
        let room = usize::try_from(limit.saturating_sub(offset)).unwrap_or(READ_SIZE);
        self.buffer.resize(length + room.min(READ_SIZE), 0);
        let part = self.buffer.get_mut(length..).unwrap_or_default();
        let read = read_at(file, part, offset);
        self.buffer.truncate(length + *read.as_ref().unwrap_or(&0));
        read.map(|read| read > 0)
    }
}

/// Reads a segment's file at an offset, as much as there is up to the buffer's end.
pub(super) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
