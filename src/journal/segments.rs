//! The files of a journal: their names, lengths, making, repair and removal.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use log::{error, warn};

use super::position::Position;
use super::scan::{Lines, Scanned, read_at};
use crate::sys::files::open_own;

const SUFFIX: &str = ".journal";

/// Bytes in which a first record that tells the format is found.
const FIRST_RECORD_SIZE: u64 = 4096;

/// Segments by number.
#[derive(Debug, Default)]
pub(super) struct Segments {
    lengths: BTreeMap<u64, u64>,
    total: u64,
}

impl Segments {
    /// Those in a directory, of unknown length. Other files are not looked at.
    pub(super) fn list(dir: &Path) -> io::Result<Segments> {
        let mut segments = Segments::default();
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
            if let Some(number) = number.and_then(|digits| digits.parse().ok()) {
                segments.add(number);
            }
        }
        Ok(segments)
    }

    pub(super) fn add(&mut self, number: u64) {
        self.lengths.insert(number, 0);
    }

    pub(super) fn numbers(&self) -> Vec<u64> {
        self.lengths.keys().copied().collect()
    }

    pub(super) fn first(&self) -> Option<u64> {
        self.lengths.keys().next().copied()
    }

    /// The next one that there is.
    pub(super) fn after(&self, number: u64) -> Option<u64> {
        let mut behind = self.lengths.range(number.saturating_add(1)..);
        behind.next().map(|(number, _)| *number)
    }

    pub(super) fn length(&self, number: u64) -> u64 {
        self.lengths.get(&number).copied().unwrap_or(0)
    }

    pub(super) fn set_length(&mut self, number: u64, length: u64) {
        let before = self.lengths.insert(number, length).unwrap_or(0);
        self.total = self.total.saturating_sub(before) + length;
    }

    pub(super) fn forget(&mut self, number: u64) {
        let length = self.lengths.remove(&number).unwrap_or(0);
        self.total = self.total.saturating_sub(length);
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Bytes in the segments before this one.
    pub(super) fn bytes_before(&self, number: u64) -> u64 {
        self.lengths.range(..number).map(|(_, length)| length).sum()
    }

    /// Bytes from a position to the end.
    pub(super) fn bytes_from(&self, from: Position) -> u64 {
        let all: u64 = self
            .lengths
            .range(from.segment..)
            .map(|(_, length)| length)
            .sum();
        if self.lengths.contains_key(&from.segment) {
            all.saturating_sub(from.offset)
        } else {
            all
        }
    }
}

/// Copies a segment with a damaged record, for whoever wants to see what can be saved of it.
pub(super) fn keep_damaged(dir: &Path, number: u64) {
    let kept = dir.join(format!("{number:010}.damaged"));
    if kept.exists() {
        return;
    }
    match fs::copy(path(dir, number), &kept) {
        Ok(_) => error!("{}: kept for the damaged record in it", kept.display()),
        Err(error) => error!("{}: cannot be made: {error}", kept.display()),
    }
}

/// The file of a segment.
pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:010}{SUFFIX}"))
}

/// Makes the directory, for this daemon alone: records tell who called whom.
pub fn make_directory(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o750).create(dir)
}

/// A new segment, and the directory: its name is on disk when that has been synced. An empty one of that number may be
/// left of an attempt that failed.
pub(super) fn create(dir: &Path, number: u64) -> io::Result<(File, File)> {
    let directory = File::open(dir)?;
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o640);
    let file = open_own(&mut options, &path(dir, number))?;
    if file.metadata()?.len() > 0 {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    Ok((file, directory))
}

/// The last segment, to be appended to.
pub(super) fn reopen(dir: &Path, end: Position) -> io::Result<File> {
    open_own(OpenOptions::new().append(true), &path(dir, end.segment))
}

/// Writes the first `length` bytes of a segment over themselves, so that the kernel has to bring them to disk again.
pub(super) fn write_again(dir: &Path, number: u64, length: u64) -> io::Result<()> {
    let opened = open_own(
        OpenOptions::new().read(true).write(true),
        &path(dir, number),
    );
    let file = match opened {
        // Nobody has needed it any more.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    let mut buffer = vec![0; 64 * 1024];
    let mut at = 0;
    while at < length {
        buffer.truncate(usize::try_from(length - at).unwrap_or(usize::MAX));
        let count = read_at(&file, &mut buffer, at)?;
        if count == 0 {
            break;
        }
        file.write_all_at(buffer.get(..count).unwrap_or_default(), at)?;
        at += count as u64;
    }
    Ok(())
}

/// Removes a segment.
pub(super) fn remove(dir: &Path, number: u64) -> io::Result<()> {
    match fs::remove_file(path(dir, number)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Moves the segments whose first record `is_foreign` out of the journal's way, to names of their own. Returns their paths.
pub(super) fn set_aside(
    dir: &Path,
    is_foreign: impl Fn(&[u8]) -> bool,
) -> io::Result<Vec<PathBuf>> {
    let mut moved = Vec::new();
    for number in Segments::list(dir)?.numbers() {
        let path = path(dir, number);
        let file = open_own(OpenOptions::new().read(true), &path)?;
        let length = file.metadata()?.len().min(FIRST_RECORD_SIZE);
        let first = Lines::new(Position::default()).next(&file, length)?;
        if matches!(first, Some(Scanned::Record(_, text)) if is_foreign(&text)) {
            let aside = (0..)
                .map(|n| dir.join(format!("{number:010}.foreign{n}")))
                .find(|aside| !aside.exists());
            let aside = aside.unwrap_or_default();
            fs::rename(path, &aside)?;
            moved.push(aside);
        }
    }
    Ok(moved)
}

/// Hands all records of a segment to `each`, cuts off a torn end, and returns the length.
pub(super) fn repair(
    dir: &Path,
    number: u64,
    each: &mut impl FnMut(Position, &[u8]),
) -> io::Result<u64> {
    let path = path(dir, number);
    let file = open_own(OpenOptions::new().read(true).write(true), &path)?;
    let length = file.metadata()?.len();
    let start = Position {
        segment: number,
        offset: 0,
    };
    let mut lines = Lines::new(start);
    loop {
        let at = lines.position();
        match lines.next(&file, length)? {
            Some(Scanned::Record(_, text)) => each(at, &text),
            Some(Scanned::Damaged(..)) => {
                error!(
                    "{}: the record at byte {} is damaged",
                    path.display(),
                    at.offset
                );
            }
            None => break,
        }
    }
    let good = lines.position().offset;
    if good < length {
        warn!(
            "{}: cut off {} bytes at its end, a record that was being written when the machine stopped",
            path.display(),
            length - good
        );
        file.set_len(good)?;
        file.sync_all()?;
    }
    Ok(good)
}
