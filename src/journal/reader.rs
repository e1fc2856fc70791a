//! Reads a journal from a position on, while others append to it.

use std::fs::File;
use std::io;

use super::segments;
use super::{Journal, LONGEST, Position, line, read_at};
use crate::sys::files::open_own;

/// Bytes read at once.
const CHUNK: usize = 64 * 1024;

/// What stands at a position.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// The position behind it, and its text.
    Record(Position, Vec<u8>),
    /// The position behind it, and the bytes of its line.
    Damaged(Position, Vec<u8>),
}

/// Goes through a journal record by record. Lives as long as there is somebody who reads.
#[derive(Debug)]
pub struct Reader<'a> {
    journal: &'a Journal,
    /// The segment that is being read.
    file: Option<File>,
    lines: Lines,
}

impl<'a> Reader<'a> {
    /// A position before the first segment stands for the first record, one behind the end for the end.
    pub fn new(journal: &'a Journal, from: Position) -> Reader<'a> {
        let from = from.clamp(journal.start(), journal.end());
        Reader {
            journal,
            file: None,
            lines: Lines::new(from),
        }
    }

    /// Where the next record begins.
    pub fn position(&self) -> Position {
        self.lines.position()
    }

    /// The next record; none at the end.
    ///
    /// # Errors
    /// When a segment cannot be opened or read; the position stays.
    pub fn next_record(&mut self) -> io::Result<Option<Found>> {
        loop {
            let at = self.position();
            let (end, length, next) = {
                let state = self.journal.lock();
                let next = state.segments.after(at.segment);
                (state.end, state.segments.length(at.segment), next)
            };
            let limit = if at.segment == end.segment {
                end.offset
            } else {
                length
            };
            if at.offset < limit {
                let file = match self.file.take() {
                    Some(file) => file,
                    None => open_own(
                        File::options().read(true),
                        &segments::path(&self.journal.dir, at.segment),
                    )?,
                };
                let found = self.lines.next(&file, limit)?;
                self.file = Some(file);
                if found.is_some() {
                    return Ok(found);
                }
            }
            let Some(next) = next else {
                return Ok(None);
            };
            self.file = None;
            self.lines = Lines::new(Position {
                segment: next,
                offset: 0,
            });
        }
    }
}

/// The lines of one segment.
#[derive(Debug)]
pub struct Lines {
    position: Position,
    buffer: Vec<u8>,
    /// How much of the buffer has been handed out.
    taken: usize,
}

impl Lines {
    pub fn new(position: Position) -> Lines {
        Lines {
            position,
            buffer: Vec::new(),
            taken: 0,
        }
    }

    /// Behind the last line that was handed out.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The next line that ends before `limit`, bytes from the file's beginning. What is longer than any record is
    /// handed out as damaged, in pieces.
    pub fn next(&mut self, file: &File, limit: u64) -> io::Result<Option<Found>> {
        let mut searched = 0;
        loop {
            let pending = self.buffer.get(self.taken..).unwrap_or_default();
            let new = pending.get(searched..).unwrap_or_default();
            if let Some(length) = new.iter().position(|b| *b == b'\n') {
                return Ok(Some(self.take(searched + length, 1)));
            }
            searched = pending.len();
            if searched > LONGEST + CHUNK {
                return Ok(Some(self.take(searched, 0)));
            }
            if !self.fill(file, limit)? {
                return Ok(None);
            }
        }
    }

    /// Hands out so many bytes, and leaves out the line feed behind them.
    fn take(&mut self, length: usize, line_feed: usize) -> Found {
        let end = self.taken + length;
        let bytes = self.buffer.get(self.taken..end).unwrap_or_default();
        self.position.offset += (length + line_feed) as u64;
        self.taken = end + line_feed;
        match line::text(bytes) {
            Some(text) if line_feed == 1 => Found::Record(self.position, text.to_vec()),
            _ => Found::Damaged(self.position, bytes.to_vec()),
        }
    }

    /// Reads on; false at the limit.
    fn fill(&mut self, file: &File, limit: u64) -> io::Result<bool> {
        self.buffer.drain(..self.taken.min(self.buffer.len()));
        self.taken = 0;
        let length = self.buffer.len();
        let offset = self.position.offset + length as u64;
        let room = usize::try_from(limit.saturating_sub(offset)).unwrap_or(CHUNK);
        self.buffer.resize(length + room.min(CHUNK), 0);
        let part = self.buffer.get_mut(length..).unwrap_or_default();
        let read = read_at(file, part, offset);
        self.buffer.truncate(length + *read.as_ref().unwrap_or(&0));
        read.map(|read| read > 0)
    }
}
