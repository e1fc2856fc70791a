//! Accounting to a file: one JSON object a line.
//!
//! The file may be rotated away at any time. What stands in it when it is opened is mended first: a crash or a full
//! disk may have left half a line. A record is reported as delivered when it is on the disk. What a process that was
//! killed has written without knowing so is found at the file's end, or of the one that it was rotated to.

use std::collections::HashSet;
use std::fs::{self, File as Handle, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::mem;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use log::warn;

use super::{Backend, DeliveryResult, Record, Unavailable};
use crate::config::FileSection;
use crate::proto::record::session_id;
use crate::sys::files::{check_target, open_given};

/// So much of an old file is read, in bytes: more than what can have been delivered without being known to be.
const TAIL_SIZE: u64 = 4 << 20;

/// See the module.
pub struct File {
    path: PathBuf,
    open: Option<Open>,
    was_open: bool,
}

struct Open {
    handle: Handle,
    /// Device and inode, to know the file again.
    identity: (u64, u64),
    /// Sessions at its end when it was opened. A crash of the machine may have left them here and taken them from the
    /// journal: their relays tell of them again, in between others.
    recent: HashSet<String>,
}

impl File {
    /// Nothing is opened yet.
    pub fn new(section: &FileSection) -> File {
        File {
            path: section.path.clone(),
            open: None,
            was_open: false,
        }
    }

    fn told(&self, error: &io::Error) -> Unavailable {
        Unavailable(format!("{}: {error}", self.path.display()))
    }

    /// The file that has the name now.
    fn opened(&mut self) -> io::Result<Open> {
        if let Some(open) = self.open.take() {
            let now = fs::metadata(&self.path).map(|found| (found.dev(), found.ino()));
            if now.is_ok_and(|now| now == open.identity) {
                return Ok(open);
            }
        }
        let mut open = Open::new(&self.path)?;
        if !mem::replace(&mut self.was_open, true) {
            open.look_into_rotated(&self.path);
        }
        Ok(open)
    }
}

impl Backend for File {
    fn name(&self) -> &str {
        "file"
    }

    fn prepare(&mut self) -> Result<(), Unavailable> {
        match self.opened() {
            Ok(open) => self.open = Some(open),
            Err(error) => return Err(self.told(&error)),
        }
        Ok(())
    }

    fn deliver(
        &mut self,
        records: &[Record],
        verdicts: &mut Vec<DeliveryResult>,
    ) -> Result<(), Unavailable> {
        let delivered = self.opened().and_then(|mut open| {
            let settled = open.write(records)?;
            Ok((open, settled))
        });
        match delivered {
            Ok((open, settled)) => {
                verdicts.extend(settled);
                self.open = Some(open);
                Ok(())
            }
            // What was written of it is taken back; where that failed too, the next opening does it.
            Err(error) => Err(self.told(&error)),
        }
    }
}

impl Open {
    fn new(path: &Path) -> io::Result<Open> {
        let parent = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent)?;
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o640);
        check_target(path)?;
        // A pipe that nobody reads would hold us up.
        let handle = options.custom_flags(libc::O_NONBLOCK).open(path)?;
        let found = handle.metadata()?;
        if found.len() == 0 {
            // The name itself shall be there after a crash of the host.
            Handle::open(parent)?.sync_all()?;
        }
        let mut open = Open {
            handle,
            identity: (found.dev(), found.ino()),
            recent: HashSet::new(),
        };
        if let Some(end) = open.read_tail(found.len())? {
            warn!(
                "accounting: {}: the last record was not written whole; taken out, it comes again",
                path.display()
            );
            open.handle.set_len(end)?;
        }
        Ok(open)
    }

    /// Reads the end of the file, and ends its last line where it is whole. Returns where it must be cut: where
    /// half a record is, or what a crashed file system made of one. Nothing after it was ever reported as delivered.
    fn read_tail(&mut self, length: u64) -> io::Result<Option<u64>> {
        let mut at = length.saturating_sub(TAIL_SIZE);
        self.handle.seek(SeekFrom::Start(at))?;
        let mut reader = BufReader::new(&self.handle);
        let mut line = Vec::new();
        let mut ended = true;
        while reader.read_until(b'\n', &mut line)? > 0 {
            ended = line.last() == Some(&b'\n');
            match session_id(&line) {
                Some(session_id) => drop(self.recent.insert(session_id.into_owned())),
                None if line.contains(&0) => return Ok(Some(at)),
                // A line that is not ours is left alone.
                None if !ended && line.first() == Some(&b'{') => return Ok(Some(at)),
                None => (),
            }
            at += line.len() as u64;
            line.clear();
        }
        if !ended {
            (&self.handle).write_all(b"\n")?;
        }
        Ok(None)
    }

    /// Adds the sessions at the end of the file that this one has taken the place of. Where it cannot be read, a batch may
    /// come twice: that is no reason to deliver nothing.
    fn look_into_rotated(&mut self, path: &Path) {
        let rotated = newest_rotated(path).and_then(|path| open_given(&path).ok());
        let Some(mut rotated) = rotated else {
            return;
        };
        let length = rotated.metadata().map_or(0, |found| found.len());
        let start = SeekFrom::Start(length.saturating_sub(TAIL_SIZE));
        if rotated.seek(start).is_err() {
            return;
        }
        let lines = BufReader::new(rotated).split(b'\n').map_while(Result::ok);
        let written = lines.filter_map(|line| Some(session_id(&line)?.into_owned()));
        self.recent.extend(written);
    }

    /// All of them in one write, or nothing.
    fn write(&mut self, records: &[Record]) -> io::Result<Vec<DeliveryResult>> {
        let mut verdicts = Vec::with_capacity(records.len());
        let mut lines = String::new();
        let mut new = HashSet::new();
        for record in records {
            let is_known = self.recent.contains(&record.session_id);
            if is_known || !new.insert(&record.session_id) {
                verdicts.push(DeliveryResult::Known);
                continue;
            }
            // Between the values of JSON, a line may end anywhere.
            lines.extend(record.info.chars().map(|c| if c == '\n' { ' ' } else { c }));
            lines.push('\n');
            verdicts.push(DeliveryResult::Delivered);
        }
        if lines.is_empty() {
            return Ok(verdicts);
        }
        let before = self.handle.metadata()?.len();
        let written = self.handle.write_all(lines.as_bytes());
        if let Err(error) = written.and_then(|()| self.handle.sync_data()) {
            self.handle.set_len(before)?;
            return Err(error);
        }
        Ok(verdicts)
    }
}

/// The latest of the files beside this one whose names begin with its name, as logrotate gives them: `NAME.1`,
/// `NAME-20300102`.
fn newest_rotated(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.as_encoded_bytes();
    let is_rotated = |entry: &fs::DirEntry| {
        let other = entry.file_name();
        let rest = other.as_encoded_bytes().strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(b".") || rest.starts_with(b"-"))
    };
    let entries = fs::read_dir(path.parent()?).ok()?.filter_map(Result::ok);
    let modified = |entry: &fs::DirEntry| {
        let found = entry.metadata().ok()?;
        found.is_file().then(|| found.modified().ok()).flatten()
    };
    let rotated = entries.filter(is_rotated);
    let dated = rotated.filter_map(|entry| Some((modified(&entry)?, entry.path())));
    dated.max().map(|(_, path)| path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::sys::scratch::Scratch;

    fn record(number: u32) -> Record {
        let info = format!(
            r#"{{"call_id":"c{number}","from_tag":"f","to_tag":"t","session_id":"s{number}"}}"#
        );
        Record::parse(&info).unwrap()
    }

    fn records(numbers: std::ops::Range<u32>) -> Vec<Record> {
        numbers.map(record).collect()
    }

    fn deliver(file: &mut File, numbers: std::ops::Range<u32>) -> Vec<DeliveryResult> {
        let mut verdicts = Vec::new();
        file.deliver(&records(numbers), &mut verdicts).unwrap();
        verdicts
    }

    fn at(path: &Path) -> File {
        File::new(&FileSection { path: path.into() })
    }

    fn expected(numbers: std::ops::Range<u32>) -> String {
        let lines = numbers.map(|number| format!("{}\n", record(number).info));
        lines.collect()
    }

    #[test]
    fn lines_in_a_new_directory_for_the_group_only() {
        let scratch = Scratch::new("file");
        let path = scratch.path().join("new/dir/sessions.jsonl");
        let mut file = at(&path);
        file.prepare().unwrap();
        assert_eq!(deliver(&mut file, 0..3), vec![DeliveryResult::Delivered; 3]);
        assert_eq!(fs::read_to_string(&path).unwrap(), expected(0..3));
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        let broken = Record {
            info: "{\"session_id\":\n\"n\"}".into(),
            session_id: "n".into(),
            ..record(9)
        };
        file.deliver(&[broken], &mut Vec::new()).unwrap();
        assert!(
            fs::read_to_string(&path)
                .unwrap()
                .ends_with("}\n{\"session_id\": \"n\"}\n")
        );
    }

    #[test]
    fn rotated_away_or_removed_it_is_made_anew() {
        let scratch = Scratch::new("file");
        let path = scratch.path().join("log");
        let old = scratch.path().join("log.1");
        let mut file = at(&path);
        deliver(&mut file, 0..1);
        fs::rename(&path, &old).unwrap();
        deliver(&mut file, 1..2);
        assert_eq!(fs::read_to_string(&old).unwrap(), expected(0..1));
        assert_eq!(fs::read_to_string(&path).unwrap(), expected(1..2));
        fs::rename(&old, &path).unwrap();
        deliver(&mut file, 2..3);
        assert!(
            fs::read_to_string(&path)
                .unwrap()
                .ends_with(&expected(2..3))
        );
        // As logrotate's copytruncate does it.
        Handle::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(0)
            .unwrap();
        deliver(&mut file, 3..4);
        fs::remove_file(&path).unwrap();
        deliver(&mut file, 4..5);
        assert_eq!(fs::read_to_string(&path).unwrap(), expected(4..5));
    }

    /// Killed before it could note how far it had come; the file is rotated before the next start.
    #[test]
    fn what_was_rotated_away_is_not_written_again() {
        let scratch = Scratch::new("file");
        let path = scratch.path().join("log");
        for name in ["log.1", "log-20300102"] {
            let old = scratch.path().join(name);
            fs::write(&old, expected(0..2) + "half a l").unwrap();
            fs::write(scratch.path().join("logs"), expected(2..3)).unwrap();
            let verdicts = deliver(&mut at(&path), 0..3);
            use DeliveryResult::{Delivered, Known};
            assert_eq!(verdicts, [Known, Known, Delivered]);
            assert_eq!(fs::read_to_string(&path).unwrap(), expected(2..3));
            fs::remove_file(&old).unwrap();
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_last_record_cut_at_every_byte_is_there_once() {
        let scratch = Scratch::new("file");
        let path = scratch.path().join("log");
        let whole = expected(0..3);
        let first = expected(0..2).len();
        for end in first..=whole.len() {
            fs::write(&path, &whole[..end]).unwrap();
            // Delivered again from the second record on: how far it had come was not known.
            let verdicts = deliver(&mut at(&path), 1..4);
            assert_eq!(
                fs::read_to_string(&path).unwrap(),
                expected(0..4),
                "cut at {end}"
            );
            assert_eq!(verdicts[0], DeliveryResult::Known);
            let known = end + 1 >= whole.len();
            assert_eq!(verdicts[1] == DeliveryResult::Known, known, "cut at {end}");
        }
    }

    #[test]
    fn what_a_lost_write_left_is_taken_out() {
        let scratch = Scratch::new("file");
        let path = scratch.path().join("log");
        let zeros = "\0".repeat(20);
        fs::write(
            &path,
            format!("{}{{\"a\":{zeros}\n{}", expected(0..1), expected(2..3)),
        )
        .unwrap();
        deliver(&mut at(&path), 1..3);
        assert_eq!(fs::read_to_string(&path).unwrap(), expected(0..3));
    }

    #[test]
    fn foreign_lines_stay() {
        let scratch = Scratch::new("file");
        let path = scratch.path().join("log");
        fs::write(&path, "written by hand").unwrap();
        deliver(&mut at(&path), 0..1);
        let expected = format!("written by hand\n{}", expected(0..1));
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
    }

    #[test]
    fn only_the_end_of_a_large_file_is_read() {
        let scratch = Scratch::new("file");
        let path = scratch.path().join("log");
        let filler = "x".repeat(1 << 20) + "\n";
        fs::write(&path, expected(0..1) + &filler.repeat(5) + &expected(1..2)).unwrap();
        let verdicts = deliver(&mut at(&path), 0..2);
        assert_eq!(verdicts, [DeliveryResult::Delivered, DeliveryResult::Known]);
    }

    #[test]
    fn what_is_no_file_is_unavailable() {
        let scratch = Scratch::new("file");
        let error = at(scratch.path()).prepare().unwrap_err();
        assert!(error.0.contains("directory"), "{error}");
        let error = at(Path::new("/dev/full")).prepare().unwrap_err();
        assert!(error.0.starts_with("/dev/full: it is no file"), "{error}");
        let fifo = scratch.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status();
        assert!(made.unwrap().success());
        let error = at(&fifo).prepare().unwrap_err();
        assert!(error.0.contains("a FIFO"), "{error}");
        let mut verdicts = Vec::new();
        let file = scratch.path().join("file");
        fs::write(&file, "").unwrap();
        let refused = at(&file.join("log")).deliver(&records(0..1), &mut verdicts);
        assert!(refused.unwrap_err().0.contains("file/log: "));
        assert_eq!(verdicts, []);
    }
}
