//! Reads a journal from a position on, while others append to it.

use std::fs::File;
use std::io;

use super::scan::{Lines, Scanned};
use super::segments;
use super::{Journal, Position};
use crate::sys::files::open_own;

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
    pub fn next_record(&mut self) -> io::Result<Option<Scanned>> {
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
